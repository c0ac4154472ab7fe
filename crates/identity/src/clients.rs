//! The password clients of one configuration.

use std::{collections::HashMap, sync::Arc};

use sha2::{Digest, Sha256};

use crate::{
    password::PasswordHash,
    peer::Peer,
    principal::{AuthnError, Principal, Proof},
};

/// The clients that may present a password, by name. Part of a configuration snapshot: never changed
/// once requests can see it.
#[derive(Debug, Default)]
pub struct Clients {
    by_name: HashMap<Box<str>, Arc<Client>>,
    /// The same clients in the order of insertion, for [`Clients::stand_in`].
    all: Vec<Arc<Client>>,
    /// The workloads that a client has to come from, of those that have to.
    origins: HashMap<Box<str>, Vec<Box<str>>>,
}

/// One client and its live passwords.
#[derive(Debug)]
pub(crate) struct Client {
    pub(crate) principal: Arc<Principal>,
    pub(crate) passwords: Vec<Password>,
    /// Changes when any of the hashes does, so that nothing cached outlives a changed configuration.
    pub(crate) revision: [u8; 32],
}

/// One live password of a client.
#[derive(Debug)]
pub(crate) struct Password {
    pub(crate) hash: PasswordHash,
    /// Tells this hash from every other one.
    digest: [u8; 32],
    /// The client's principal, an allocation for each password: by its address, [`Clients::again`] tells which
    /// password proved it.
    pub(crate) principal: Arc<Principal>,
}

impl Password {
    pub(crate) fn is_slow(&self) -> bool {
        self.hash.is_slow()
    }
}

impl Clients {
    /// Returns a set without clients: every password is wrong.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a client whose password may match any of `hashes`: two are live during a rotation.
    ///
    /// A client without hashes can never be authenticated. Returns `false`, and changes nothing, if the name
    /// is taken.
    pub fn insert(&mut self, name: &str, principal: Arc<Principal>, hashes: Vec<PasswordHash>) -> bool {
        if self.by_name.contains_key(name) {
            return false;
        }
        let revision = digest(&hashes);
        let password = |hash: PasswordHash| Password {
            digest: digest([&hash]),
            principal: Arc::new(Principal::clone(&principal)),
            hash,
        };
        let passwords = hashes.into_iter().map(password).collect();
        let client = Arc::new(Client { principal, passwords, revision });
        self.by_name.insert(name.into(), Arc::clone(&client));
        self.all.push(client);
        true
    }

    /// Lets the passwords of a client count from these workloads only; from no workload at all if there are none.
    pub fn tie(&mut self, name: &str, origins: Vec<Box<str>>) {
        self.origins.insert(name.into(), origins);
    }

    /// Returns the workloads that the passwords of a client count from; `None` is everywhere.
    #[must_use]
    pub fn origins(&self, name: &str) -> Option<&[Box<str>]> {
        self.origins.get(name).map(Vec::as_slice)
    }

    /// Checks that the right password of `principal` counts at `peer`.
    ///
    /// # Errors
    /// If it does not, or is not all that is demanded there.
    pub(crate) fn agree(&self, principal: &Principal, peer: &Peer<'_>) -> Result<(), AuthnError> {
        peer.agree(Proof::Password, self.origins(&principal.name))
    }

    /// Returns the principal of the client with this name.
    pub fn principal(&self, name: &str) -> Option<Arc<Principal>> {
        self.get(name).map(|client| Arc::clone(&client.principal))
    }

    /// Returns the principal whom a client of `before` is here: of the same name, if the password that proved
    /// `principal` there is live here too. `None` if the client is gone or the password is, and for a principal that
    /// no password proved. A password is the same if its hash is: hashed anew, it is another one. `None`, too, if it
    /// does not count at `peer` here.
    pub fn again(
        &self,
        principal: &Arc<Principal>,
        before: &Self,
        peer: &Peer<'_>,
    ) -> Option<Arc<Principal>> {
        self.agree(principal, peer).ok()?;
        let is_it = |password: &&Password| Arc::ptr_eq(&password.principal, principal);
        let old = before.get(&principal.name)?.passwords.iter().find(is_it)?;
        let mut passwords = self.get(&principal.name)?.passwords.iter();
        passwords.find(|new| new.digest == old.digest).map(|new| Arc::clone(&new.principal))
    }

    /// Returns one principal of each client, in the order of insertion.
    pub fn principals(&self) -> impl Iterator<Item = &Arc<Principal>> {
        self.all.iter().map(|client| &client.principal)
    }

    /// Returns the number of clients.
    pub fn len(&self) -> usize {
        self.all.len()
    }

    /// Returns whether there are no clients.
    pub fn is_empty(&self) -> bool {
        self.all.is_empty()
    }

    pub(crate) fn get(&self, name: &str) -> Option<&Arc<Client>> {
        self.by_name.get(name)
    }

    /// Returns the client whose hashes an unknown user's password is checked against, in vain, so that
    /// the time it takes does not tell which names exist. `draw` must be the same for the same name.
    pub(crate) fn stand_in(&self, draw: u64) -> Option<&Arc<Client>> {
        let count = u64::try_from(self.all.len()).ok()?;
        let index = draw.checked_rem(count)?;
        self.all.get(usize::try_from(index).ok()?)
    }
}

fn digest<'a>(hashes: impl IntoIterator<Item = &'a PasswordHash>) -> [u8; 32] {
    let mut digest = Sha256::new();
    for hash in hashes {
        hash.digest_into(&mut digest);
    }
    digest.finalize().into()
}
