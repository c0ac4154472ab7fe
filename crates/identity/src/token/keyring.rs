//! The keys of an issuer at present: those of the configuration, or those that were fetched last.

use std::sync::Arc;

use arc_swap::{ArcSwap, Guard};
use tokio::sync::Notify;

use super::keys::KeySet;

/// The largest text of a set of keys, in bytes: sixteen RSA keys of 8192 bits with their certificates take a tenth of it.
pub const KEY_SET_BYTES_MAX: usize = 256 * 1024;

/// An issuer's keys. They may be replaced while tokens are held against them.
#[derive(Debug, Default)]
pub struct Keyring {
    /// Empty as long as none are known.
    keys: ArcSwap<KeySet>,
    /// Somebody came with a token of a key that is not among them.
    missed: Notify,
}

impl Keyring {
    /// Lets `keys` count from now on, and no others. Who holds flows of tokens decides on them again.
    pub fn replace(&self, keys: KeySet) {
        self.keys.store(Arc::new(keys));
    }

    /// Lets those count that another one has now.
    pub fn adopt(&self, other: &Self) {
        self.keys.store(other.keys.load_full());
    }

    /// Waits until a token names a key that is not known. One that came before counts, too.
    pub async fn missed(&self) {
        self.missed.notified().await;
    }

    /// The keys that count now.
    pub(crate) fn load(&self) -> Guard<Arc<KeySet>> {
        self.keys.load()
    }

    pub(crate) fn note_missed(&self) {
        self.missed.notify_one();
    }
}

impl From<KeySet> for Keyring {
    fn from(keys: KeySet) -> Self {
        Self { keys: ArcSwap::from_pointee(keys), missed: Notify::default() }
    }
}
