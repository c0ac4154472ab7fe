//! System calls that no library of ours wraps, made to see whether they are refused.

#![expect(unsafe_code, reason = "no library wraps these calls, and whether they are refused is the question")]

use std::io;

use libc::c_long;

/// A call with the two arguments that it begins with. All others are 0.
#[derive(Clone, Copy, Debug)]
pub(super) enum Call {
    /// This process's own number: allowed to everybody.
    OwnProcess,
    /// The same by the numbers of the x32 interface.
    #[cfg(target_arch = "x86_64")]
    OwnProcessX32,
    IoUring,
    Bpf,
    AddKey,
    RequestKey,
    SessionKeyring,
    OpenByHandle,
    WordsIntoTerminal,
    WordsIntoConsole,
}

impl Call {
    /// The number of the call, and its first two arguments.
    const fn numbers(self) -> (c_long, c_long, c_long) {
        match self {
            Self::OwnProcess => (libc::SYS_getpid, 0, 0),
            #[cfg(target_arch = "x86_64")]
            Self::OwnProcessX32 => (0x4000_0000 | libc::SYS_getpid, 0, 0),
            Self::IoUring => (libc::SYS_io_uring_setup, 8, 0),
            Self::Bpf => (libc::SYS_bpf, 0, 0),
            Self::AddKey => (libc::SYS_add_key, 0, 0),
            Self::RequestKey => (libc::SYS_request_key, 0, 0),
            // KEYCTL_GET_KEYRING_ID of KEY_SPEC_SESSION_KEYRING.
            Self::SessionKeyring => (libc::SYS_keyctl, 0, -3),
            Self::OpenByHandle => (libc::SYS_open_by_handle_at, 0, 0),
            Self::WordsIntoTerminal => (libc::SYS_ioctl, 0, 0x5412),
            Self::WordsIntoConsole => (libc::SYS_ioctl, 0, 0x541c),
        }
    }

    /// Makes it, and returns what the kernel does.
    ///
    /// # Errors
    /// The kernel's. One that is about the arguments means that the call itself was not refused.
    pub(super) fn make(self) -> io::Result<c_long> {
        let (number, first, second) = self.numbers();
        let zero: c_long = 0;
        // SAFETY: where one of these calls takes an address, it is given 0, which the kernel answers with an error; the other
        // arguments are numbers. So it neither reads nor writes memory of this process.
        let result = unsafe { libc::syscall(number, first, second, zero, zero, zero, zero) };
        if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
    }
}
