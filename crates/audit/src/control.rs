//! What the record of a change says: what somebody asked for who steers the proxy, and what came of it.

use exeat_policy::Revision;
use serde::Serialize;

use crate::text::Text;

/// A change of what decides or of what is open, done or refused.
#[derive(Clone, Debug, Serialize)]
pub struct ControlRecord {
    /// What was asked for.
    pub action: Action,
    /// How it was asked.
    pub by: By,
    /// The user on the other side of the admin API's socket, where the system tells.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub uid: Option<u32>,
    /// What came of it.
    pub result: Effect,
    /// Why not, or what about it failed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<Text>,
    /// Who or what is meant: `client app`, `label space=blue`, `flow 17`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub target: Option<Text>,
    /// The number of what decided before.
    #[serde(skip_serializing_if = "Option::is_none", serialize_with = "number")]
    pub old_revision: Option<Revision>,
    /// Of a rollback: the revision whose document it is.
    #[serde(skip_serializing_if = "Option::is_none", serialize_with = "number")]
    pub restored: Option<Revision>,
    /// The SHA-256 of the document, as `sha256sum` prints it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub digest: Option<String>,
    /// What is allowed from now on and was not before, counted as `exeat diff` tells it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub gained: Option<u64>,
    /// What was allowed before and is not any more, likewise.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub lost: Option<u64>,
    /// How many flows were told to end.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub flows: Option<u64>,
}

/// What was asked for.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Action {
    /// To read the configuration again.
    Reload,
    /// To let another document decide.
    Put,
    /// To let an older document decide again.
    Rollback,
    /// To refuse everything to somebody.
    Quarantine,
    /// To end a quarantine.
    Release,
    /// To let tokens count no longer.
    Revoke,
    /// To let them count again.
    Lift,
    /// To issue a token.
    Issue,
    /// To end flows.
    Cut,
}

/// How it was asked.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum By {
    /// SIGHUP.
    Signal,
    /// The admin API.
    Api,
}

/// What came of it.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Effect {
    /// It was done.
    Done,
    /// There was nothing to do.
    Unchanged,
    /// It was not done.
    Refused,
}

impl ControlRecord {
    /// Returns what is known before anything else; the other fields are public.
    #[must_use]
    pub const fn new(action: Action, by: By, uid: Option<u32>, result: Effect) -> Self {
        Self {
            action,
            by,
            uid,
            result,
            error: None,
            target: None,
            old_revision: None,
            restored: None,
            digest: None,
            gained: None,
            lost: None,
            flows: None,
        }
    }
}

fn number<S: serde::Serializer>(revision: &Option<Revision>, serializer: S) -> Result<S::Ok, S::Error> {
    revision.map(|revision| revision.0).serialize(serializer)
}

#[cfg(test)]
mod tests {
    use serde_json::{json, to_value};

    use super::*;

    #[test]
    fn every_word_is_stable() {
        for (action, want) in [
            (Action::Reload, "reload"),
            (Action::Put, "put"),
            (Action::Rollback, "rollback"),
            (Action::Quarantine, "quarantine"),
            (Action::Release, "release"),
            (Action::Revoke, "revoke"),
            (Action::Lift, "lift"),
            (Action::Issue, "issue"),
            (Action::Cut, "cut"),
        ] {
            assert_eq!(to_value(action).unwrap(), want);
        }
        assert_eq!(to_value([By::Signal, By::Api]).unwrap(), json!(["signal", "api"]));
        let effects = [Effect::Done, Effect::Unchanged, Effect::Refused];
        assert_eq!(to_value(effects).unwrap(), json!(["done", "unchanged", "refused"]));
    }

    #[test]
    fn what_does_not_apply_is_left_out() {
        let least = ControlRecord::new(Action::Reload, By::Signal, None, Effect::Unchanged);
        assert_eq!(
            to_value(least).unwrap(),
            json!({ "action": "reload", "by": "signal", "result": "unchanged" })
        );
        let most = ControlRecord {
            error: Some("no\nroom".into()),
            target: Some("client app".into()),
            old_revision: Some(Revision(7)),
            restored: Some(Revision(3)),
            digest: Some("0a".to_owned()),
            gained: Some(1),
            lost: Some(0),
            flows: Some(2),
            ..ControlRecord::new(Action::Rollback, By::Api, Some(1000), Effect::Done)
        };
        let want = json!({
            "action": "rollback", "by": "api", "uid": 1000, "result": "done", "error": "no\\x0aroom",
            "target": "client app", "old_revision": 7, "restored": 3, "digest": "0a", "gained": 1, "lost": 0, "flows": 2,
        });
        assert_eq!(to_value(most).unwrap(), want);
    }
}
