use base64::{Engine, engine::general_purpose::STANDARD, engine::general_purpose::URL_SAFE_NO_PAD};
use exeat_model::{Authority, Transport};
use exeat_policy::{
    Builder, Defaults, EgressRequest, List, ListBuilder, Mode, Place, PolicySpec, Reason, Revision, Verdict,
    decide,
};
use serde_json::{Value, json};

use super::*;
use crate::authenticator::Authenticator;
use crate::claimed::Claimed;
use crate::clients::Clients;
use crate::peer::Demand;
use crate::principal::Accepted;
use crate::token::{Flags, IssueError, Issued, Order, SignatureAlgorithm, SigningKey};
use crate::workloads::Workload;

mod carried;
mod hostile;
mod issued;
mod keys;
mod remembered;
mod verified;

const NOW: u64 = 1_900_000_000;

fn at(seconds: u64) -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(seconds)
}

fn policy() -> PolicySet {
    let list = |entries: &[&str]| -> List {
        let mut list = ListBuilder::new("test.toml", Defaults::default());
        entries.iter().for_each(|entry| list.push_text(entry, 1, 1).unwrap());
        list.finish()
    };
    let mut builder = Builder::new();
    for (name, allow) in [("ceiling", &["*.example.com", "example.com"][..]), ("team", &["a.example.com"])] {
        builder.policy(PolicySpec {
            name: name.to_owned(),
            place: Place { file: "test.toml".into(), line: 1, column: 1 },
            allow: list(allow),
            deny: list(&[]),
            defaults: Defaults::default(),
            mode: Mode::Enforce,
            bind: None,
            metadata: Vec::new(),
            next_hop: None,
        });
    }
    builder.finish(Revision(1)).unwrap()
}

fn spec(keys: &[&SigningKey]) -> IssuerSpec {
    let set = json!({ "keys": keys.iter().map(|key| key.to_jwk()).collect::<Vec<_>>() });
    let keys =
        if keys.is_empty() { Ok(KeySet::default()) } else { KeySet::parse(set.to_string().as_bytes()) };
    IssuerSpec {
        name: "sandboxes".into(),
        issuer: "secure-egress-control".into(),
        audience: "egress-proxy".into(),
        keys: Arc::new(keys.unwrap().into()),
        ceiling: "ceiling".to_owned(),
        policies: Vec::new(),
        lifetime: Lifetime { leeway: Duration::from_secs(10), longest: Duration::from_secs(24 * 3600) },
        user_prefix: "container_".into(),
        password_prefix: "jwt_".into(),
        enforce_container_binding: false,
        signing: None,
    }
}

fn key(algorithm: SignatureAlgorithm, kid: &str) -> SigningKey {
    SigningKey::generate(algorithm, Some(kid)).unwrap()
}

fn claims() -> Value {
    json!({
        "iss": "secure-egress-control",
        "aud": "egress-proxy",
        "iat": NOW,
        "exp": NOW + 4 * 3600,
        "jti": "j1",
        "container_id": "sbx-1",
        "organization_uuid": "org-1",
        "sub": "user-1",
        "allowed_hosts": "example.com,a.example.com",
    })
}

fn with(name: &str, value: Value) -> Value {
    let mut claims = claims();
    claims[name] = value;
    claims
}

/// A token whose header says what it likes, signed with the key all the same.
fn with_header(key: &SigningKey, header: &Value) -> String {
    let usual = key.sign(&claims()).unwrap();
    let (_, rest) = usual.split_once('.').unwrap();
    format!("{}.{rest}", URL_SAFE_NO_PAD.encode(header.to_string()))
}

fn reason(result: Result<Arc<Principal>, TokenError>) -> Result<String, String> {
    result.map(|principal| principal.name.to_string()).map_err(|error| error.to_string())
}

/// Who comes from the place of this container.
fn workload(container: &str) -> Workload {
    let principal = Principal {
        name: "w".into(),
        proof: Proof::Origin,
        labels: Labels::default(),
        bound: exeat_policy::Bound::default(),
        token: None,
    };
    Workload::new(Arc::new(principal), container, true)
}
