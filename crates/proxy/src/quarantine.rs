//! Principals that may reach nothing for now, whatever their policies say, kept over a restart.

use std::{io, path::PathBuf};

/// Why the state of the quarantine could not be read or kept.
#[derive(Debug, thiserror::Error)]
pub enum StateError {
    /// The file could not be read.
    #[error("cannot read {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// The file could not be written.
    #[error("cannot write {}", path.display())]
    Write {
        /// The file.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// The file is not one that this program wrote.
    #[error("{}:{line}: not a quarantined principal", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// The line, counted from 1.
        line: usize,
    },
    /// More is quarantined already than can be.
    #[error("more than {max} selectors")]
    TooMany {
        /// How many can be.
        max: usize,
    },
}
