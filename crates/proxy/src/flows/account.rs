//! Who is counted as one: where connections come from, and whom requests and tunnels are for.

use std::sync::Arc;

use exeat_identity::{Principal, Proof, Source};

/// Whom requests and tunnels are for: a client; or, of those that send no credentials and are all one principal, those
/// of one source, so that one of them does not take what is for all.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
pub(crate) enum Account {
    Client(Arc<str>),
    Anonymous(Source),
}

impl Account {
    pub(crate) fn of(principal: &Principal, source: Source) -> Self {
        match principal.proof {
            Proof::Password | Proof::Token | Proof::Origin | Proof::Certificate => {
                Self::Client(Arc::clone(&principal.name))
            }
            Proof::Anonymous => Self::Anonymous(source),
        }
    }
}
