//! Two calls of the system that no safe function makes: a process that goes on from here beside this one, and program text that
//! is given back.
#![expect(unsafe_code, reason = "each block says why it is sound")]

use std::ffi::{c_long, c_void};
use std::fs;
use std::io;
use std::ptr::NonNull;

use nix::sys::mman::{MmapAdvise, madvise};

/// Who goes on after [`split`].
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Side {
    /// The process that was there.
    Old,
    /// The one that has come of it.
    New,
}

/// Goes on in two processes, of which the new one is a child of this one's parent: that one waits for it, and this one may end. A
/// program that is started anew would cost some milliseconds and megabytes more.
///
/// # Errors
/// If there is more than one thread, or no more processes may be.
pub(crate) fn split() -> io::Result<Side> {
    let threads = fs::read_dir("/proc/self/task")?.count();
    if threads != 1 {
        return Err(io::Error::other("there are other threads"));
    }
    let flags = c_long::from(libc::CLONE_PARENT | libc::SIGCHLD);
    let none: c_long = 0;
    // SAFETY: without `CLONE_VM` and with no stack given, the new process goes on with a copy of everything, as after `fork`, and no
    // pointer is given. What the C library's own `fork` does beside that is for other threads, whose locks it lets go: this is the
    // only one, and only it could start another. What it remembers as the number of this thread is that of the old process, which
    // is as good for whose a lock is.
    match unsafe { libc::syscall(libc::SYS_clone, flags, none, none, none, none) } {
        -1 => Err(io::Error::last_os_error()),
        0 => Ok(Side::New),
        _ => Ok(Side::Old),
    }
}

/// Takes the program's own text and constants out of this process's memory. What is needed of them again comes back from the
/// file by itself, and most of what it takes to begin is not.
pub fn give_back_text() {
    let maps = fs::read_to_string("/proc/self/maps").unwrap_or_default();
    for (start, length) in maps.lines().filter_map(unwritable_file) {
        let Some(start) = NonNull::new(std::ptr::without_provenance_mut::<c_void>(start)) else { continue };
        // SAFETY: the kernel has just listed these pages as mapped from a file and not writable, and nothing of this program
        // unmaps or changes such pages, so they come back as they are now. A file that has been replaced meanwhile is still
        // there under this mapping. Whatever the call cannot do is left as it is.
        let _ = unsafe { madvise(start, length, MmapAdvise::MADV_DONTNEED) };
    }
}

/// Reads a line of `maps`: `start-end flags offset device inode path`. Returns where the mapping begins and its length if it is
/// of a file and private, and its pages can never have been written. What the loader has written to once is read-only too by
/// now, but has no copy in the file: it lies behind the text, and constants at the file's beginning.
fn unwritable_file(line: &str) -> Option<(usize, usize)> {
    let mut fields = line.split_ascii_whitespace();
    let (start, end) = fields.next()?.split_once('-')?;
    let is_text = match (fields.next()?, fields.next()?) {
        ("r-xp", _) => true,
        ("r--p", offset) => offset.chars().all(|digit| digit == '0'),
        _ => false,
    };
    let path = fields.nth(2)?;
    let address = |text| usize::from_str_radix(text, 16).ok();
    let (start, end) = (address(start)?, address(end)?);
    (is_text && path.starts_with('/')).then_some((start, end.checked_sub(start)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_of_files_is_given_back_and_nothing_that_was_written() {
        for (line, want) in [
            ("1000-3000 r-xp 00545000 fe:00 17 /usr/bin/exeat", Some((0x1000, 0x2000))),
            ("1000-3000 r--p 00000000 fe:00 17 /usr/bin/exeat", Some((0x1000, 0x2000))),
            ("1000-3000 r--p 017b9000 fe:00 17 /usr/bin/exeat", None),
            ("1000-3000 rw-p 00000000 fe:00 17 /usr/bin/exeat", None),
            ("1000-3000 r-xp 00000000 00:00 0 [vdso]", None),
            ("1000-3000 r-xp 00000000 00:00 0 ", None),
            ("3000-1000 r-xp 00000000 fe:00 17 /usr/bin/exeat", None),
        ] {
            assert_eq!(unwritable_file(line), want, "{line}");
        }
        give_back_text();
        // It is all there again.
        assert_eq!(format!("{:?}", "1\n2".lines().rev().collect::<Vec<_>>()), r#"["2", "1"]"#);
    }
}
