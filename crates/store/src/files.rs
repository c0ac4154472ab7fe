//! Group files: one entry a line, read once from start to end, and never kept in memory.

use std::collections::BTreeMap;
use std::io::{self, BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use exeat_policy::{Entry, ListBuilder};

use crate::entry;
use crate::problem::{Code, Finding, Problem, Severity, shown};
use crate::regular::open_regular;
use crate::source::Source;
use crate::written::{Digest, Digesting, NamedFile};

/// Largest group file, in bytes: ten million names, beyond any published blocklist.
pub const GROUP_FILE_BYTES_MAX: u64 = 256 * 1024 * 1024;

/// Longest line, in bytes: four times the longest name with ports and a comment.
pub const GROUP_LINE_BYTES_MAX: usize = 1024;

/// Problems reported of one group file: a file in another format has one on every line.
pub const GROUP_FILE_PROBLEMS_MAX: usize = 20;

/// Read buffer, in bytes.
const BUFFER_BYTES: usize = 64 * 1024;

/// What has been found in group files.
#[derive(Debug, Default)]
pub(crate) struct Files {
    by_name: BTreeMap<Arc<str>, Found>,
    /// What was read to its end.
    read: Vec<NamedFile>,
}

#[derive(Debug, Default)]
struct Found {
    path: PathBuf,
    /// The first problems by line, errors and warnings apart.
    errors: Kept,
    warnings: Kept,
}

#[derive(Debug, Default)]
struct Kept {
    list: Vec<(u32, Finding)>,
    dropped: usize,
}

impl Files {
    /// Adds every entry of a file to `list`. `name` is the file's name in places and reports.
    ///
    /// # Errors
    /// What to say at the place that names the file, if it cannot be read to its end.
    pub(crate) fn read(
        &mut self,
        name: &Arc<str>,
        path: &Path,
        list: &mut ListBuilder,
    ) -> Result<(), Finding> {
        let found = self.by_name.entry(Arc::clone(name)).or_default();
        path.clone_into(&mut found.path);
        let result = open_regular(path).map_err(ReadError::Io).and_then(|file| {
            let mut file = Digesting::new(file);
            each_line(&mut file, |line, text| {
                match parse_line(text) {
                    Ok(None) => {}
                    Ok(Some(entry)) => list.push(entry, line, 0),
                    Err(finding) => found.push(line, finding),
                }
                true
            })?;
            Ok(file.finish())
        });
        let digest = result.map_err(|error| error.finding(name))?;
        self.read.push(NamedFile { name: Arc::clone(name), digest, is_secret: false });
        Ok(())
    }

    /// Notes a file that is no list of entries, and what was in it.
    pub(crate) fn note(&mut self, name: &str, content: &[u8]) {
        self.read.push(NamedFile { name: name.into(), digest: Digest::of(content), is_secret: false });
    }

    /// Notes a file that holds a password, and what was in it.
    pub(crate) fn note_secret(&mut self, name: &str, content: &[u8]) {
        self.read.push(NamedFile { name: name.into(), digest: Digest::of(content), is_secret: true });
    }

    /// Hands over what was read.
    pub(crate) fn take_read(&mut self) -> Vec<NamedFile> {
        std::mem::take(&mut self.read)
    }

    /// Records a problem of one line of a file that has been read.
    pub(crate) fn push(&mut self, name: &Arc<str>, line: u32, finding: Finding) {
        self.by_name.entry(Arc::clone(name)).or_default().push(line, finding);
    }

    /// Returns whether further errors of a file will only be counted.
    pub(crate) fn is_full(&self, name: &str) -> bool {
        self.by_name.get(name).is_some_and(|found| found.errors.list.len() >= GROUP_FILE_PROBLEMS_MAX)
    }

    /// Returns whether an error has been recorded.
    pub(crate) fn has_errors(&self) -> bool {
        self.by_name.values().any(|found| !found.errors.list.is_empty())
    }

    /// Returns the problems of every file, at most [`GROUP_FILE_PROBLEMS_MAX`] of each, with their lines.
    pub(crate) fn finish(self) -> Vec<Problem> {
        self.by_name.into_iter().flat_map(|(name, found)| found.finish(&name)).collect()
    }
}

impl Found {
    fn push(&mut self, line: u32, finding: Finding) {
        let kept = match finding.severity {
            Severity::Error => &mut self.errors,
            Severity::Warning => &mut self.warnings,
        };
        if kept.list.contains(&(line, finding.clone())) {
            return;
        }
        if kept.list.len() < GROUP_FILE_PROBLEMS_MAX {
            kept.list.push((line, finding));
        } else {
            kept.dropped += 1;
        }
    }

    fn finish(self, name: &Arc<str>) -> Vec<Problem> {
        let severity = if self.errors.list.is_empty() { Severity::Warning } else { Severity::Error };
        let mut left_out = self.errors.dropped + self.warnings.dropped;
        let (mut kept, mut warnings) = (self.errors.list, self.warnings.list);
        let room = GROUP_FILE_PROBLEMS_MAX.saturating_sub(kept.len());
        left_out += warnings.len().saturating_sub(room);
        warnings.truncate(room);
        kept.append(&mut warnings);
        kept.sort_by_key(|(line, _)| *line);
        let mut problems = with_lines(name, &self.path, kept);
        if left_out > 0 {
            let finding = Finding::error(Code::More, format!("and {left_out} more"));
            problems.push(Problem::of_file(name, Finding { severity, ..finding }));
        }
        problems
    }
}

/// Reads the file once more, for the text of the lines that have problems.
fn with_lines(name: &Arc<str>, path: &Path, findings: Vec<(u32, Finding)>) -> Vec<Problem> {
    let mut problems = Vec::with_capacity(findings.len());
    let mut waiting = findings.into_iter().peekable();
    if waiting.peek().is_none() {
        return problems;
    }
    if let Ok(file) = open_regular(path) {
        let _best_effort = each_line(file, |line, text| {
            let text = String::from_utf8_lossy(text.bytes());
            while let Some((_, finding)) = waiting.next_if(|(wanted, _)| *wanted == line) {
                let source = Source::of_line(Arc::clone(name), &text, line);
                let entry = entry_of(&text);
                let start = text.find(entry).unwrap_or(0);
                problems.push(source.problem(&(start..start + entry.len()), finding));
            }
            waiting.peek().is_some()
        });
    }
    problems.extend(waiting.map(|(_, finding)| Problem::of_file(name, finding)));
    problems
}

/// What stands first in a file that a configuration names, for somebody to look at.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Beginning {
    /// Of the whole file.
    pub digest: Digest,
    /// Its first lines, without comments and those that have nothing else.
    pub lines: Vec<String>,
    /// How many more there are.
    pub more: u64,
}

/// Reads a file that a configuration names, of which `lines_max` lines are kept.
///
/// # Errors
/// If it cannot be read, or is larger than [`GROUP_FILE_BYTES_MAX`].
pub fn beginning_of_file(path: &Path, lines_max: usize) -> io::Result<Beginning> {
    let mut file = Digesting::new(open_regular(path)?);
    let (mut lines, mut more) = (Vec::new(), 0);
    each_line(&mut file, |_, line| {
        let text = String::from_utf8_lossy(line.bytes());
        match entry_of(&text) {
            "" => {}
            text if lines.len() < lines_max => lines.push(text.to_owned()),
            _ => more += 1,
        }
        true
    })
    .map_err(|error| match error {
        ReadError::Io(error) => error,
        ReadError::TooLarge => io::Error::from(io::ErrorKind::FileTooLarge),
    })?;
    Ok(Beginning { digest: file.finish(), lines, more })
}

/// A line without its end; of one that is too long, the beginning.
#[derive(Clone, Copy)]
enum Line<'l> {
    Whole(&'l [u8]),
    TooLong(&'l [u8]),
}

impl<'l> Line<'l> {
    fn bytes(self) -> &'l [u8] {
        match self {
            Self::Whole(bytes) | Self::TooLong(bytes) => bytes,
        }
    }
}

/// Why a file was not read to its end.
enum ReadError {
    Io(io::Error),
    TooLarge,
}

impl ReadError {
    fn finding(&self, name: &str) -> Finding {
        match self {
            Self::Io(error) => {
                let finding = Finding::error(
                    Code::Unreadable,
                    format!("cannot read `{}`: {}", shown(name), reason(error)),
                );
                finding.help("a relative path starts from the folder of the configuration file")
            }
            Self::TooLarge => {
                let mib = GROUP_FILE_BYTES_MAX / (1024 * 1024);
                let finding =
                    Finding::error(Code::TooLarge, format!("`{}` is larger than {mib} MiB", shown(name)));
                finding.help("split it into several groups")
            }
        }
    }
}

/// The operating system's words, lower-case and without the error number.
pub(crate) fn reason(error: &io::Error) -> String {
    let text = error.to_string();
    let text = text.split(" (os error").next().unwrap_or(&text);
    text.to_lowercase()
}

/// Calls `each` with the number (from 1) and text of each line, until it returns `false`. Tolerates a byte order
/// mark and CRLF.
fn each_line(file: impl io::Read, mut each: impl FnMut(u32, Line<'_>) -> bool) -> Result<(), ReadError> {
    let mut reader = BufReader::with_capacity(BUFFER_BYTES, file);
    let mut line = Vec::with_capacity(GROUP_LINE_BYTES_MAX);
    let (mut number, mut total) = (0_u32, 0_u64);
    loop {
        line.clear();
        let read = read_line(&mut reader, &mut line).map_err(ReadError::Io)?;
        if read == 0 {
            return Ok(());
        }
        total += read;
        if total > GROUP_FILE_BYTES_MAX {
            return Err(ReadError::TooLarge);
        }
        number = number.saturating_add(1);
        let too_long = line.len() > GROUP_LINE_BYTES_MAX;
        line.truncate(GROUP_LINE_BYTES_MAX);
        let text = line.strip_suffix(b"\r").unwrap_or(&line);
        let text = if number == 1 { text.strip_prefix(b"\xef\xbb\xbf").unwrap_or(text) } else { text };
        let line = if too_long { Line::TooLong(text) } else { Line::Whole(text) };
        if !each(number, line) {
            return Ok(());
        }
    }
}

/// Reads to the next line feed, keeps little more than a line may have, and returns the bytes passed over.
fn read_line(reader: &mut impl BufRead, line: &mut Vec<u8>) -> io::Result<u64> {
    let mut passed = 0;
    loop {
        let buffer = match reader.fill_buf() {
            Ok(buffer) => buffer,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(error),
        };
        let end = buffer.iter().position(|&byte| byte == b'\n');
        let used = end.map_or(buffer.len(), |end| end + 1);
        let text = buffer.get(..end.unwrap_or(buffer.len())).unwrap_or_default();
        let room = (GROUP_LINE_BYTES_MAX + 2).saturating_sub(line.len());
        line.extend_from_slice(text.get(..room).unwrap_or(text));
        let ended = end.is_some() || buffer.is_empty();
        reader.consume(used);
        passed += used as u64;
        if ended || passed > GROUP_FILE_BYTES_MAX {
            return Ok(passed);
        }
    }
}

/// The entry of a line: without the comment, and the spaces around it.
fn entry_of(text: &str) -> &str {
    let is_comment = |at: &usize| {
        text.get(..*at).is_some_and(|before| before.is_empty() || before.ends_with(char::is_whitespace))
    };
    let comment = text.match_indices('#').map(|(at, _)| at).find(is_comment);
    text.get(..comment.unwrap_or(text.len())).unwrap_or(text).trim()
}

/// Reads one line; `None` if it has no entry.
fn parse_line(line: Line<'_>) -> Result<Option<Entry>, Finding> {
    let text = match line {
        Line::Whole(bytes) => std::str::from_utf8(bytes),
        Line::TooLong(_) => {
            let finding = Finding::error(
                Code::TooLarge,
                format!("the line is longer than {GROUP_LINE_BYTES_MAX} bytes"),
            );
            return Err(finding.help("write one entry a line"));
        }
    };
    let Ok(text) = text else {
        let finding = Finding::error(Code::Syntax, "the line is not UTF-8 text");
        return Err(finding.help("save the file as UTF-8; names outside ASCII are written as \"xn--…\""));
    };
    match entry_of(text) {
        "" => Ok(None),
        text => Entry::parse(text).map(Some).map_err(|error| entry::finding(text, &error)),
    }
}
