//! `POST /v1/tokens`: a token of an issuer whose private key is here.

use std::time::{Duration, SystemTime};

use axum::{Extension, Json, extract::State};
use exeat_audit::{Action, Effect};
use exeat_identity::{Flags, IssueError, Issued, Order};
use http::StatusCode;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{
    admin::Admin,
    error::{Failure, Sent},
    recorded::{self, Told},
    server::Caller,
};

/// How long a token counts unless told otherwise, in seconds: four hours.
const LIFE: u64 = 4 * 60 * 60;

/// What a token is to say.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Wanted {
    /// The name of the `[issuer]` section; not needed if one alone has a signing key.
    issuer: Option<String>,
    /// `container_id`: whom it is for.
    #[schemars(example = &"sbx-1")]
    container: Option<String>,
    /// `organization_uuid`.
    organization: Option<String>,
    /// `sub`.
    subject: Option<String>,
    /// What it may reach: names, `*.NAME`, and either with `:PORT`. This or `policy`.
    #[schemars(example = ["api.example.com"])]
    hosts: Option<Vec<String>>,
    /// The name of a policy that says what it may reach.
    policy: Option<String>,
    /// For how many seconds it counts: 14400 unless written.
    #[schemars(range(min = 1))]
    ttl: Option<u64>,
    /// It counts from its container alone.
    #[serde(default)]
    enforce_container_binding: bool,
    /// Only through a next hop.
    #[serde(default)]
    use_egress_gateway: bool,
    /// On central nodes alone.
    #[serde(default)]
    enforce_centralized_egress: bool,
    /// By rules for health data alone.
    #[serde(default)]
    is_hipaa_regulated: bool,
}

/// A token that was issued. Whoever has it is who it is for.
#[derive(Serialize, JsonSchema)]
pub(crate) struct Made {
    /// The token.
    token: String,
    /// Its number, by which it can be revoked.
    jti: String,
    /// The name of the key that signed it.
    kid: Option<String>,
    /// Whom it is for, as records say it.
    name: String,
    /// When it ends, in seconds since 1970.
    expires: u64,
}

impl Wanted {
    /// What is recorded of it, whether it was issued or not.
    fn shown(&self) -> String {
        let whom =
            [("container", &self.container), ("organization", &self.organization), ("sub", &self.subject)];
        let whom = whom.into_iter().filter_map(|(kind, value)| Some(format!("{kind} {}", value.as_deref()?)));
        let whom: Vec<String> = whom.collect();
        if whom.is_empty() { "nobody".to_owned() } else { whom.join(", ") }
    }

    fn order(self) -> Result<(Option<String>, Order), Failure> {
        if self.hosts.is_some() == self.policy.is_some() {
            return Err(Failure::request("either `hosts` or `policy` says what it may reach"));
        }
        let life = self.ttl.unwrap_or(LIFE);
        if life == 0 {
            return Err(Failure::request("`ttl` is a number of seconds, at least 1"));
        }
        if self.enforce_container_binding && self.container.is_none() {
            return Err(Failure::request("`enforce_container_binding` needs a `container`"));
        }
        let order = Order {
            // Those of the issuer.
            issuer: String::new(),
            audience: String::new(),
            container: self.container,
            organization: self.organization,
            subject: self.subject,
            hosts: self.hosts,
            policy: self.policy,
            flags: Flags {
                enforce_container_binding: self.enforce_container_binding,
                use_egress_gateway: self.use_egress_gateway,
                enforce_centralized_egress: self.enforce_centralized_egress,
                is_hipaa_regulated: self.is_hipaa_regulated,
            },
            life: Duration::from_secs(life),
        };
        Ok((self.issuer, order))
    }
}

pub(crate) async fn issue(
    State(admin): State<Admin>,
    Extension(caller): Extension<Caller>,
    Sent(wanted): Sent<Wanted>,
) -> Result<Json<Made>, Failure> {
    let shown = wanted.shown();
    let (issuer, order) = wanted.order()?;
    let snapshot = admin.proxy.snapshot();
    if snapshot.issuers.is_empty() {
        let help = "add an [issuer.NAME] with signing_key = \"issuer.pem\" to the configuration";
        return Err(Failure::new(StatusCode::CONFLICT, "the configuration has no issuer").help(help));
    }
    let issued = snapshot.issuers.issue(&snapshot.policy, issuer.as_deref(), order, SystemTime::now());
    let Issued { token, principal, expires } = issued.map_err(|error| {
        let failure = failure(&error, issuer.as_deref());
        recorded::note(&admin, caller, Action::Issue, Effect::Refused, &shown, Told::failed(&error));
        failure
    })?;
    let facts = principal.token.as_ref();
    let id = facts.and_then(|facts| facts.id.as_deref()).unwrap_or_default();
    let target = format!("{}, jti {id}", principal.name);
    recorded::note(&admin, caller, Action::Issue, Effect::Done, &target, Told::default());
    Ok(Json(Made {
        jti: id.to_owned(),
        kid: facts.and_then(|facts| facts.key.as_deref()).map(str::to_owned),
        name: principal.name.to_string(),
        token,
        expires,
    }))
}

fn failure(error: &IssueError, issuer: Option<&str>) -> Failure {
    let help = match error {
        IssueError::Issuer => "use the name of an [issuer.NAME]".to_owned(),
        IssueError::Unnamed => "name one with `issuer`: several have a signing key".to_owned(),
        IssueError::NoKey => {
            format!("write signing_key = \"issuer.pem\" in [issuer.{}]", issuer.unwrap_or("NAME"))
        }
        IssueError::Unpublished => "add it to the issuer's `jwks`".to_owned(),
        IssueError::Sign(_) | IssueError::Refused(_) => {
            "see `[issuer.NAME]` in the documentation of the configuration".to_owned()
        }
    };
    let told = recorded::chain(error);
    let failure = match error {
        IssueError::Issuer => Failure::new(StatusCode::NOT_FOUND, told),
        IssueError::Unnamed | IssueError::Refused(_) => Failure::request(told),
        IssueError::NoKey | IssueError::Unpublished => Failure::new(StatusCode::CONFLICT, told),
        IssueError::Sign(_) => Failure::new(StatusCode::INTERNAL_SERVER_ERROR, told),
    };
    failure.help(help)
}
