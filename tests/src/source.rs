//! The product's source text, without tests and comments, for rules about what may stand where.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

/// The root of the workspace.
///
/// # Errors
/// When this crate does not lie in one.
pub fn root() -> Result<PathBuf> {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    Ok(here.parent().context("the workspace")?.to_owned())
}

/// One source file of the product.
#[derive(Debug)]
pub struct Source {
    /// Below `crates/`, such as `proxy/src/dial.rs`.
    pub path: String,
    /// Its lines, with their numbers, that are neither comments nor tests.
    pub lines: Vec<(usize, String)>,
}

impl Source {
    /// The places where `pattern` stands and is not part of a longer word, as `path:line: text`.
    #[must_use]
    pub fn places(&self, pattern: &str) -> Vec<String> {
        let found = self.lines.iter().filter(|(_, line)| has_word(line, pattern));
        found.map(|(number, line)| format!("crates/{}:{number}: {}", self.path, line.trim())).collect()
    }
}

/// Whether `pattern` stands in `line` without a letter, digit or underscore directly before it.
fn has_word(line: &str, pattern: &str) -> bool {
    line.match_indices(pattern).any(|(at, _)| {
        let before = line.get(..at).and_then(|b| b.chars().next_back());
        before.is_none_or(|c| !c.is_alphanumeric() && c != '_')
    })
}

/// Every source file of every crate of the product.
///
/// # Errors
/// When a file cannot be read.
pub fn product() -> Result<Vec<Source>> {
    let crates = root()?.join("crates");
    let mut files = Vec::new();
    for entry in fs::read_dir(&crates)? {
        collect(&entry?.path().join("src"), &mut files)?;
    }
    files.sort();
    let mut test_modules = BTreeSet::new();
    let mut sources = Vec::new();
    for file in &files {
        let text = fs::read_to_string(file)?;
        let path = file.strip_prefix(&crates)?.to_string_lossy().into_owned();
        for name in test_module_files(&text) {
            test_modules.insert(file.with_file_name(&name));
            test_modules.insert(file.with_extension("").join(&name));
        }
        sources.push((file, Source { path, lines: product_lines(&text) }));
    }
    let is_test = |file: &Path| {
        file.ancestors().any(|f| test_modules.contains(f) || test_modules.contains(&f.with_extension("rs")))
    };
    Ok(sources.into_iter().filter(|(file, _)| !is_test(file)).map(|(_, source)| source).collect())
}

fn collect(directory: &Path, files: &mut Vec<PathBuf>) -> Result<()> {
    for entry in fs::read_dir(directory).with_context(|| format!("read {}", directory.display()))? {
        let path = entry?.path();
        if path.is_dir() {
            collect(&path, files)?;
        } else if path.extension().is_some_and(|e| e == "rs") {
            files.push(path);
        }
    }
    Ok(())
}

/// The file names of modules that exist in test builds alone: `mod x;` after `#[cfg(test)]`.
fn test_module_files(text: &str) -> Vec<String> {
    let lines: Vec<&str> = text.lines().map(str::trim).collect();
    let pairs = lines.windows(2).filter(|pair| pair.first() == Some(&"#[cfg(test)]"));
    let declared = pairs.filter_map(|pair| pair.get(1)?.strip_suffix(';')?.rsplit_once("mod "));
    declared.map(|(_, name)| format!("{name}.rs")).collect()
}

/// Lines that are not comments, up to the test module, which stands at the end of a file.
fn product_lines(text: &str) -> Vec<(usize, String)> {
    let lines: Vec<&str> = text.lines().collect();
    let inline_tests = lines.windows(2).position(|pair| {
        pair.first() == Some(&"#[cfg(test)]")
            && pair.get(1).is_some_and(|l| l.contains("mod ") && l.ends_with('{'))
    });
    let product = lines.into_iter().enumerate().take(inline_tests.unwrap_or(usize::MAX));
    let code = product.filter(|(_, line)| !line.trim_start().starts_with("//"));
    code.map(|(index, line)| (index + 1, line.to_owned())).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_comments_and_tests_are_told_apart() {
        let text = "// decide(x)\nfn a() { decide(x) }\nfn b() { undecide(x) }\n#[cfg(test)]\nmod tests {\n decide(x)\n}\n";
        let source = Source { path: "p/src/a.rs".to_owned(), lines: product_lines(text) };
        assert_eq!(source.places("decide("), ["crates/p/src/a.rs:2: fn a() { decide(x) }"]);
        assert_eq!(
            test_module_files("#[cfg(test)]\nmod tests;\n#[cfg(test)]\npub(crate) mod helper;\nmod a;"),
            ["tests.rs", "helper.rs"]
        );
    }
}
