//! Arguments of `suggest`.

use std::path::PathBuf;

use clap::Args;

/// Arguments of `suggest`.
#[derive(Args, Debug)]
#[command(
    after_help = "Prints a configuration with a policy `suggested` that allows what the files tell was reached. A wildcard is \
                        suggested only for three names and more below a domain that one holder has registered. Read it before \
                        you use it: in report mode, a program could have reached anything.\n\n\
                        Examples:\n  \
                        exeat run --report --audit audit.jsonl -- ./build.sh\n  \
                        exeat suggest audit.jsonl > exeat.toml\n  \
                        exeat run --config exeat.toml -- ./build.sh"
)]
pub struct SuggestArgs {
    /// Audit logs, and what `run --json` printed; one file for each run
    #[arg(value_name = "FILE", required = true)]
    pub files: Vec<PathBuf>,
}
