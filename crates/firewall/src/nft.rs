//! The program `nft`, which reads a whole set of rules from text. It runs at the start, for a new policy, after somebody
//! has flushed our rules, and at the end: never for a lookup.

use std::{
    io::{self, Write},
    process::{Command, Stdio},
};

use crate::program::program;

/// The first version that knows all that we write, and that is found in distributions still in use.
pub const NFT_VERSION_MIN: (u32, u32, u32) = (1, 0, 2);
/// Bytes of what `nft` complains of that are kept: its first lines say what is wrong.
const COMPLAINT_BYTES: usize = 1000;

/// Why rules could not be set.
#[derive(Debug, thiserror::Error)]
pub enum NftError {
    /// There is no such program.
    #[error("there is no program `nft`: install the package nftables, version {}.{}.{} or later", NFT_VERSION_MIN.0, NFT_VERSION_MIN.1, NFT_VERSION_MIN.2)]
    Missing,
    /// It is too old.
    #[error("`nft` has version {found}, and {}.{}.{} is the first that will do", NFT_VERSION_MIN.0, NFT_VERSION_MIN.1, NFT_VERSION_MIN.2)]
    TooOld {
        /// What it says of itself.
        found: String,
    },
    /// It could not be run.
    #[error("`nft` could not be run")]
    Run(#[source] io::Error),
    /// Whoever runs it may not change the network.
    #[error(
        "changing the kernel's rules is not permitted: run this as root, with CAP_NET_ADMIN, or in a network of your own, such as `unshare -Urn` makes"
    )]
    NotPermitted,
    /// It, or the kernel, refused the rules. None of them is in force.
    #[error("the rules were refused: {complaint}")]
    Refused {
        /// What it says is wrong.
        complaint: String,
    },
}

/// The bit of `CAP_NET_ADMIN` in a set of capabilities (capabilities(7)).
const NET_ADMIN: u32 = 12;

/// Checks that this process may change the network that it is in, as far as its capabilities tell: the network may still be
/// that of somebody else, which the kernel says when it is asked.
///
/// # Errors
/// [`NftError::NotPermitted`] if it certainly may not.
pub fn check_permitted() -> Result<(), NftError> {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let held = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
    match held.and_then(|held| u64::from_str_radix(held.trim(), 16).ok()) {
        Some(held) if held & (1 << NET_ADMIN) == 0 => Err(NftError::NotPermitted),
        // Where it cannot be told, the kernel has its say later.
        Some(_) | None => Ok(()),
    }
}

/// Looks for `nft` and checks its version, which it returns.
///
/// # Errors
/// If it is missing, too old, or cannot be run.
pub fn version() -> Result<String, NftError> {
    let output = command()?.arg("--version").stdin(Stdio::null()).output().map_err(run_error)?;
    let text = String::from_utf8_lossy(&output.stdout);
    let found = text.split_whitespace().find_map(|word| word.strip_prefix('v')).unwrap_or_default();
    let mut numbers = found.split('.').map(|number| number.parse().unwrap_or(0));
    let mut next = || numbers.next().unwrap_or(0);
    if (next(), next(), next()) < NFT_VERSION_MIN {
        return Err(NftError::TooOld { found: found.to_owned() });
    }
    Ok(found.to_owned())
}

/// Carries out `script` as one transaction.
///
/// # Errors
/// If `nft` cannot be run or refuses it: then nothing of it is in force.
pub(crate) fn run(script: &str) -> Result<(), NftError> {
    let mut child = command()?
        .args(["-f", "-"])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(run_error)?;
    if let Some(mut stdin) = child.stdin.take() {
        // If it ends without reading all of it, it says why.
        let _ = stdin.write_all(script.as_bytes());
    }
    let output = child.wait_with_output().map_err(NftError::Run)?;
    if output.status.success() {
        return Ok(());
    }
    let kept = output.stderr.get(..COMPLAINT_BYTES).unwrap_or(&output.stderr);
    let complaint = String::from_utf8_lossy(kept).trim().replace('\n', " ");
    // `nft` has one exit status for everything.
    Err(if complaint.contains("Operation not permitted") {
        NftError::NotPermitted
    } else {
        NftError::Refused { complaint }
    })
}

/// The program, with nothing of what this process was told besides.
pub(crate) fn command() -> Result<Command, NftError> {
    let mut command = Command::new(program("nft").ok_or(NftError::Missing)?);
    command.env_clear();
    Ok(command)
}

fn run_error(error: io::Error) -> NftError {
    if error.kind() == io::ErrorKind::NotFound { NftError::Missing } else { NftError::Run(error) }
}
