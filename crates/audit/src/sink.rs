//! Where records go, and the bytes on their way there.

use std::{
    fs::{File, OpenOptions},
    io::{self, ErrorKind, Write},
    os::{
        fd::AsFd,
        unix::fs::{FileExt, OpenOptionsExt},
    },
    path::{Path, PathBuf},
};

use rustix::fs::{CWD, Mode, OFlags, ResolveFlags, openat2};
use rustix::io::Errno;

/// Where records are written.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Sink {
    /// Standard output.
    Stdout,
    /// A file, appended to; created readable and writable by its owner only.
    File(PathBuf),
    /// The same, unless a symbolic link is part of its path: then it cannot be opened.
    Plain(PathBuf),
}

/// The open sink, and lines that are not written yet or only in part.
#[derive(Debug)]
pub(crate) struct Output {
    sink: Sink,
    file: File,
    /// Whole lines.
    lines: Vec<u8>,
    /// How many bytes of `lines` are written.
    written: usize,
}

impl Output {
    /// Opens the sink. A line that a crash left unfinished at the end of a file is closed before the next one.
    pub(crate) fn open(sink: Sink) -> io::Result<Self> {
        let mut output = Self { file: open(&sink)?, sink, lines: Vec::new(), written: 0 };
        output.close_torn_line();
        Ok(output)
    }

    /// Returns whether everything is written.
    pub(crate) fn is_clear(&self) -> bool {
        self.written == self.lines.len()
    }

    /// Returns where to append whole lines.
    pub(crate) fn lines(&mut self) -> &mut Vec<u8> {
        &mut self.lines
    }

    /// Takes `lines`, all of them whole, to be written. Returns its empty buffer; everything before must be written.
    pub(crate) fn replace_lines(&mut self, lines: Vec<u8>) -> Vec<u8> {
        std::mem::replace(&mut self.lines, lines)
    }

    /// Writes everything, in one call unless the sink takes only a part. After an error, the next call goes
    /// on where this one stopped.
    pub(crate) fn write(&mut self) -> io::Result<()> {
        while let Some(rest) = self.lines.get(self.written..).filter(|rest| !rest.is_empty()) {
            match self.file.write(rest) {
                Ok(0) => return Err(ErrorKind::WriteZero.into()),
                Ok(count) => self.written += count,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        self.lines.clear();
        self.written = 0;
        Ok(())
    }

    /// Opens the sink again; a line that was written in part is written again as a whole. On an error, the old file
    /// stays in use.
    pub(crate) fn reopen(&mut self) -> io::Result<()> {
        self.file = open(&self.sink)?;
        self.back_to_line_start();
        self.close_torn_line();
        Ok(())
    }

    fn back_to_line_start(&mut self) {
        let done = self.lines.get(..self.written).unwrap_or_default();
        self.written = done.iter().rposition(|&byte| byte == b'\n').map_or(0, |end| end + 1);
    }

    fn close_torn_line(&mut self) {
        if ends_in_mid_line(&self.file) {
            self.lines.insert(self.written, b'\n');
        }
    }
}

fn open(sink: &Sink) -> io::Result<File> {
    match sink {
        // A descriptor of its own, because the standard handle buffers, and keeps what it could not write.
        Sink::Stdout => Ok(File::from(io::stdout().as_fd().try_clone_to_owned()?)),
        Sink::File(path) => open_file(path),
        Sink::Plain(path) => open_plain(path),
    }
}

/// Readable too: to see how the file ends, and because a FIFO that nobody reads would block until someone does.
fn open_file(path: &Path) -> io::Result<File> {
    OpenOptions::new().read(true).append(true).create(true).mode(0o600).open(path)
}

/// Opens a file as [`Sink::Plain`] has it.
///
/// # Errors
/// If it cannot be opened, or is or goes through a symbolic link.
pub fn open_plain(path: &Path) -> io::Result<File> {
    let flags = OFlags::RDWR | OFlags::APPEND | OFlags::CREATE | OFlags::CLOEXEC;
    let mode = Mode::RUSR | Mode::WUSR;
    match openat2(CWD, path, flags, mode, ResolveFlags::NO_SYMLINKS) {
        // Linux before 5.6, and filters of system calls that are older.
        Err(Errno::NOSYS | Errno::PERM) => Ok(rustix::fs::open(path, flags | OFlags::NOFOLLOW, mode)?.into()),
        opened => Ok(opened?.into()),
    }
}

/// Returns whether `file` is a regular file whose last byte is not a line end. What cannot be read is taken to be whole.
fn ends_in_mid_line(file: &File) -> bool {
    let length =
        file.metadata().ok().filter(|metadata| metadata.is_file()).map_or(0, |metadata| metadata.len());
    let mut last = [b'\n'];
    length > 0 && file.read_at(&mut last, length - 1).is_ok() && last != *b"\n"
}

#[cfg(test)]
mod tests {
    use std::{fs, os::unix::fs::PermissionsExt};

    use super::*;

    #[test]
    fn a_torn_line_is_closed() {
        let folder = tempfile::tempdir().unwrap();
        for (name, before, want) in [
            ("new", None, "{}\n"),
            ("empty", Some(""), "{}\n"),
            ("whole", Some("{\"a\":1}\n"), "{\"a\":1}\n{}\n"),
            ("torn", Some("{\"a\":1}\n{\"b\""), "{\"a\":1}\n{\"b\"\n{}\n"),
        ] {
            let path = folder.path().join(name);
            if let Some(before) = before {
                fs::write(&path, before).unwrap();
            }
            let mut output = Output::open(Sink::File(path.clone())).unwrap();
            output.lines().extend(b"{}\n");
            output.write().unwrap();
            assert!(output.is_clear());
            assert_eq!(fs::read_to_string(&path).unwrap(), want, "{name}");
        }
    }

    #[test]
    fn a_line_written_in_part_is_written_again_as_a_whole() {
        let folder = tempfile::tempdir().unwrap();
        for (name, before, written, want) in [
            ("nothing written", "", 0, "first\nsecond\n"),
            ("part of the first", "", 3, "first\nsecond\n"),
            ("the first", "", 6, "second\n"),
            ("part of the second", "", 8, "second\n"),
            ("to the same file", "first\nse", 8, "first\nse\nsecond\n"),
        ] {
            let path = folder.path().join(name);
            fs::write(&path, before).unwrap();
            let file = open_file(&path).unwrap();
            let lines = b"first\nsecond\n".to_vec();
            let mut output = Output { sink: Sink::File(path.clone()), file, lines, written };
            output.reopen().unwrap();
            output.write().unwrap();
            assert_eq!(fs::read_to_string(&path).unwrap(), want, "{name}");
        }
    }

    #[test]
    fn a_new_file_is_its_owners_alone() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("audit.jsonl");
        drop(Output::open(Sink::File(path.clone())).unwrap());
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    }

    #[test]
    fn a_plain_one_is_not_opened_through_a_link() {
        let folder = tempfile::tempdir().unwrap();
        let folder = folder.path().canonicalize().unwrap();
        fs::create_dir(folder.join("logs")).unwrap();
        std::os::unix::fs::symlink("elsewhere", folder.join("link")).unwrap();
        std::os::unix::fs::symlink("logs", folder.join("linked")).unwrap();
        for (name, is_opened) in [("logs/log", true), ("new", true), ("link", false), ("linked/log", false)] {
            let path = folder.join(name);
            assert_eq!(Output::open(Sink::Plain(path.clone())).is_ok(), is_opened, "{name}");
            let linked = Output::open(Sink::File(path));
            assert!(linked.is_ok(), "{name}: {linked:?}");
        }
    }

    #[test]
    fn an_error_leaves_the_lines_for_the_next_call() {
        let mut output = Output::open(Sink::File("/dev/full".into())).unwrap();
        output.lines().extend(b"{}\n");
        for _ in 0..2 {
            assert_eq!(output.write().unwrap_err().kind(), ErrorKind::StorageFull);
            assert!(!output.is_clear());
        }
        let folder = tempfile::tempdir().unwrap();
        output.sink = Sink::File(folder.path().join("missing/audit.jsonl"));
        assert_eq!(output.reopen().unwrap_err().kind(), ErrorKind::NotFound);
        output.sink = Sink::File(folder.path().join("audit.jsonl"));
        output.reopen().unwrap();
        output.write().unwrap();
        assert_eq!(fs::read_to_string(folder.path().join("audit.jsonl")).unwrap(), "{}\n");
    }
}
