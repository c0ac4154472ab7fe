//! Shells that complete the command line with the scripts that `exeat completions` prints.

use std::fs;

use anyhow::{Result, ensure};
use exeat_tests::client::{Client, Outcome};
use exeat_tests::exeat::binary;
use exeat_tests::world::World;

/// What is asked of bash: words of a command line, of which the last is completed.
const BASH: &str = r#"
source ./exeat.bash
complete -p exeat
ask() {
    COMP_WORDS=("$@") COMP_CWORD=$(($# - 1)) COMPREPLY=()
    _exeat exeat "${COMP_WORDS[COMP_CWORD]}" "${COMP_WORDS[COMP_CWORD - 1]}"
    echo "${COMPREPLY[@]}"
}
ask exeat pol
ask exeat policy r
ask exeat flows --cl
"#;

const FISH: &str = "
source ./exeat.fish
complete -C 'exeat pol'
complete -C 'exeat policy r'
complete -C 'exeat flows --cl'
";

/// Types a line and a tab into interactive shells on terminals, and waits for the rest of the word.
const ZSH: &str = r#"
zmodload zsh/zpty
ask() {
    zpty shell zsh -f -i
    zpty -w shell "fpath=($PWD \$fpath); autoload -Uz compinit; compinit -u -D; echo is''ready"
    zpty -r shell seen '*isready*'
    zpty -w -n shell "$1"$'\t'
    zpty -r shell seen "*$2*"
    echo "$2"
    zpty -d shell
}
ask 'exeat pol' 'icy'
ask 'exeat policy rev' 'isions'
ask 'exeat flows --cl' 'ient'
"#;

fn complete(shell: &str, name: &str, args: &[&str]) -> Result<Outcome> {
    let world = World::new()?;
    let script = Client::new(binary()?, world.directory()).args(["completions", shell]).run()?;
    ensure!(script.code == 0, "{script:?}");
    fs::write(world.directory().join(name), script.out)?;
    Client::new(shell, world.directory()).args(args).run()
}

pub(crate) fn bash_completes() -> Result<()> {
    let done = complete("bash", "exeat.bash", &["--norc", "-c", BASH])?;
    let lines: Vec<&str> = done.out.lines().skip(1).collect();
    ensure!(done.code == 0 && lines == ["policy", "revisions rollback", "--client"], "{done:?}");
    Ok(())
}

pub(crate) fn fish_completes() -> Result<()> {
    let done = complete("fish", "exeat.fish", &["--no-config", "-c", FISH])?;
    let words: Vec<&str> = done.out.lines().filter_map(|line| line.split('\t').next()).collect();
    ensure!(done.code == 0 && words == ["policy", "revisions", "rollback", "--client"], "{done:?}");
    Ok(())
}

pub(crate) fn zsh_completes() -> Result<()> {
    let done = complete("zsh", "_exeat", &["-f", "-c", ZSH])?;
    ensure!(done.code == 0 && done.out == "icy\nisions\nient\n", "{done:?}");
    Ok(())
}
