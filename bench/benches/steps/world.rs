//! A loaded configuration, and requests to it.

use std::fs;
use std::sync::Arc;

use exeat_identity::{Principal, hash_password};
use exeat_model::{Authority, Port};
use exeat_policy::Revision;
use exeat_store::{Loaded, Options, load_text};

/// The one client.
pub(crate) const USER: &str = "bench";
/// Its password.
pub(crate) const PASSWORD: &str = "bench-password";

/// The name that rule number `rule` allows.
pub(crate) fn listed(rule: u64) -> String {
    format!("api-{:06x}.site{rule}.test", rule.wrapping_mul(0x9e37_79b9) & 0xff_ffff)
}

/// A name like the others that no rule allows.
pub(crate) fn unlisted(number: u64) -> String {
    format!("api-{:06x}.other{number}.test", number.wrapping_mul(0x9e37_79b9) & 0xff_ffff)
}

/// A configuration with one client and a list of `rules` names.
pub(crate) struct World {
    pub(crate) loaded: Loaded,
    pub(crate) principal: Arc<Principal>,
}

impl World {
    pub(crate) fn of(rules: u64) -> Self {
        let folder = tempfile::tempdir().expect("a folder for the list");
        let list: Vec<String> = (0..rules).map(listed).collect();
        fs::write(folder.path().join("rules.txt"), list.join("\n")).expect("the list");
        let hash = hash_password(PASSWORD.as_bytes()).expect("a hash");
        let text = format!(
            "[groups.bench]\nfile = \"rules.txt\"\nports = [9080]\naddresses = [\"127.0.0.0/8\"]\nexpect = \"any\"\n\
             [policy.bench]\nallow = [\"@bench\"]\n[client.{USER}]\npasswords = [\"{hash}\"]\npolicies = [\"bench\"]\n"
        );
        let loaded = load_text("bench.toml", &text, folder.path(), &Options::new(Revision(1)));
        let loaded = loaded.unwrap_or_else(|report| panic!("{report}"));
        let principal = loaded.clients.principal(USER).expect("the client");
        Self { loaded, principal }
    }
}

/// The target of a request for a name.
pub(crate) fn target(name: &str) -> Authority {
    let port = Port::new(9080).expect("a port");
    Authority::parse(name, Some(port)).expect("a name")
}

/// The names that allowed requests ask for in turn: more than a processor keeps close.
pub(crate) fn allowed_targets(rules: u64) -> Vec<Authority> {
    let count = rules.min(4096);
    (0..count).map(|number| target(&listed(number * (rules / count)))).collect()
}
