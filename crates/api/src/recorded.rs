//! Audit records of what is done over the admin API besides changes of the policy, of which the one who carries them out
//! makes records.

use std::time::SystemTime;

use exeat_audit::{Action, By, ControlRecord, Effect, Record};
use exeat_proxy::StateError;

use crate::{admin::Admin, server::Caller};

/// What came of it, besides whether it was done.
#[derive(Debug, Default)]
pub(crate) struct Told {
    flows: Option<usize>,
    error: Option<String>,
}

impl Told {
    /// So many flows were told to end.
    pub(crate) fn ended(flows: usize) -> Self {
        Self { flows: Some(flows), error: None }
    }

    /// It was not done.
    pub(crate) fn failed(error: &dyn std::error::Error) -> Self {
        Self { flows: None, error: Some(chain(error)) }
    }
}

/// An error with what it comes from.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(error.source(), |cause| cause.source());
    causes.fold(error.to_string(), |told, cause| format!("{told}: {cause}"))
}

impl From<&StateError> for Told {
    fn from(error: &StateError) -> Self {
        let cause = std::error::Error::source(error).map(|cause| format!(": {cause}")).unwrap_or_default();
        Self { flows: None, error: Some(format!("{error}{cause}")) }
    }
}

/// Hands the record over. It waits in the queue while the sink fails: what stops something must not wait for a disk.
pub(crate) fn note(
    admin: &Admin,
    caller: Caller,
    action: Action,
    effect: Effect,
    target: &str,
    Told { flows, error }: Told,
) {
    let control = ControlRecord {
        target: Some(target.into()),
        error: error.map(|error| error.as_str().into()),
        flows: flows.and_then(|flows| u64::try_from(flows).ok()),
        ..ControlRecord::new(action, By::Api, caller.uid, effect)
    };
    let revision = admin.proxy.snapshot().policy.revision();
    admin.proxy.audit().note(&Record::control(control, revision, SystemTime::now()));
}
