//! The keys that a configuration may have: the readers and the published schema both follow this table.

use crate::limits::LIMITS;

/// A kind of table in the file.
pub(crate) struct Section {
    /// Its key at the top of the file.
    pub(crate) name: &'static str,
    /// Whether the key holds named tables (`[policy.NAME]`) instead of being one itself.
    pub(crate) named: bool,
    /// The keys of one table.
    pub(crate) keys: &'static [&'static str],
}

impl Section {
    /// Returns how its header is written: `[proxy]`, or `[policy.NAME]`.
    pub(crate) fn title(&self) -> String {
        if self.named { format!("[{}.NAME]", self.name) } else { format!("[{}]", self.name) }
    }
}

/// `[proxy]`.
pub(crate) const PROXY: Section = Section {
    name: "proxy",
    named: false,
    keys: &["listen", "http2", "anonymous", "disclose", "pac", "proxy_protocol_from", "central"],
};

/// `[resolver]`.
pub(crate) const RESOLVER: Section = Section {
    name: "resolver",
    named: false,
    keys: &["servers", "timeout", "attempts", "hosts_file", "cache_entries"],
};

/// `[dns]`.
pub(crate) const DNS: Section = Section {
    name: "dns",
    named: false,
    keys: &[
        "listen",
        "mode",
        "virtual",
        "denied",
        "types",
        "queries_per_second",
        "names_per_minute",
        "connections",
        "tap",
        "tap_out",
    ],
};

/// Keys of a listener of `[dns]` written as a table.
pub(crate) const DNS_LISTENER: &[&str] = &["address", "interface"];

/// `[dns.tap]`.
pub(crate) const DNS_TAP: &[&str] = &["socket", "uid", "servers"];

/// `[dns.tap_out]`.
pub(crate) const DNS_TAP_OUT: &[&str] = &["socket", "uid", "identity"];

/// `[firewall]`.
pub(crate) const FIREWALL: Section = Section {
    name: "firewall",
    named: false,
    keys: &["bridges", "interfaces", "cgroups", "lifetime", "elements", "counters"],
};

/// `[limits]`.
pub(crate) const LIMITS_SECTION: Section = Section { name: "limits", named: false, keys: &limit_names() };

/// `[audit]`.
pub(crate) const AUDIT: Section =
    Section { name: "audit", named: false, keys: &["file", "stdout", "required"] };

/// `[state]`.
pub(crate) const STATE: Section = Section { name: "state", named: false, keys: &["directory"] };

/// `[api]`.
pub(crate) const API: Section = Section { name: "api", named: false, keys: &["listen", "socket"] };

/// `[groups.NAME]`.
pub(crate) const GROUPS: Section = Section {
    name: "groups",
    named: true,
    keys: &[
        "entries",
        "file",
        "ports",
        "transport",
        "addresses",
        "expect",
        "answers",
        "proxy_protocol",
        "verify",
        "class",
        "idle_timeout",
        "max_age",
        "max_bytes_up",
        "max_bytes_down",
    ],
};

/// `[policy.NAME]`.
pub(crate) const POLICY: Section = Section {
    name: "policy",
    named: true,
    keys: &[
        "allow",
        "deny",
        "mode",
        "bind",
        "ports",
        "transport",
        "addresses",
        "expect",
        "answers",
        "proxy_protocol",
        "verify",
        "class",
        "idle_timeout",
        "max_age",
        "max_bytes_up",
        "max_bytes_down",
        "metadata",
        "next_hop",
        "resolve",
    ],
};

/// `[ceiling.NAME]`.
pub(crate) const CEILING: Section = Section {
    name: "ceiling",
    named: true,
    keys: &[
        "bind",
        "allow",
        "deny",
        "ports",
        "transport",
        "addresses",
        "expect",
        "answers",
        "verify",
        "idle_timeout",
        "max_age",
        "max_bytes_up",
        "max_bytes_down",
        "metadata",
    ],
};

/// `[next_hop.NAME]`.
pub(crate) const NEXT_HOP: Section = Section {
    name: "next_hop",
    named: true,
    keys: &["url", "username", "password_file", "ca", "server_name", "cert", "key", "proxy_protocol"],
};

/// `[client.NAME]`.
pub(crate) const CLIENT: Section = Section {
    name: "client",
    named: true,
    keys: &[
        "passwords",
        "origin",
        "policies",
        "labels",
        "idle_timeout",
        "max_age",
        "max_bytes_up",
        "max_bytes_down",
    ],
};

/// `[workload.NAME]`.
pub(crate) const WORKLOAD: Section = Section {
    name: "workload",
    named: true,
    keys: &[
        "addresses",
        "interface",
        "uid",
        "socket",
        "cgroup",
        "container",
        "alone",
        "policies",
        "labels",
        "idle_timeout",
        "max_age",
        "max_bytes_up",
        "max_bytes_down",
    ],
};

/// `[certificate.NAME]`.
pub(crate) const CERTIFICATE: Section = Section {
    name: "certificate",
    named: true,
    keys: &[
        "spiffe",
        "dns",
        "cn",
        "cloud_foundry",
        "same_address",
        "policies",
        "labels",
        "idle_timeout",
        "max_age",
        "max_bytes_up",
        "max_bytes_down",
    ],
};

/// `[issuer.NAME]`.
pub(crate) const ISSUER: Section = Section {
    name: "issuer",
    named: true,
    keys: &[
        "issuer",
        "audience",
        "jwks",
        "signing_key",
        "ceiling",
        "policies",
        "max_lifetime",
        "leeway",
        "user_prefix",
        "password_prefix",
        "enforce_container_binding",
    ],
};

/// Keys of an issuer's `jwks`.
pub(crate) const ISSUER_JWKS: &[&str] = &["file", "keys", "url", "ca", "refresh"];

/// Every section, in the order of the documentation.
pub(crate) const SECTIONS: [&Section; 16] = [
    &PROXY,
    &RESOLVER,
    &DNS,
    &FIREWALL,
    &LIMITS_SECTION,
    &AUDIT,
    &STATE,
    &API,
    &GROUPS,
    &POLICY,
    &CEILING,
    &NEXT_HOP,
    &CLIENT,
    &WORKLOAD,
    &CERTIFICATE,
    &ISSUER,
];

/// Those by which a proxy is reached, and those of who may use it. `exeat run` heeds none of them but `anonymous` in the first.
pub(crate) const OF_PROXIES: [&Section; 7] =
    [&PROXY, &DNS, &FIREWALL, &API, &CLIENT, &WORKLOAD, &CERTIFICATE];

/// Keys of an entry written as a table.
pub(crate) const ENTRY: &[&str] = &[
    "host",
    "suffix",
    "network",
    "ports",
    "transport",
    "addresses",
    "expect",
    "sni",
    "answers",
    "proxy_protocol",
    "verify",
    "class",
    "idle_timeout",
    "max_age",
    "max_bytes_up",
    "max_bytes_down",
];

/// Keys of a listener written as a table.
pub(crate) const LISTENER: &[&str] =
    &["address", "tls", "interface", "demand", "redirected", "mode", "owner", "group"];

/// Keys of a listener's `tls`.
pub(crate) const LISTENER_TLS: &[&str] = &["cert", "key", "client_ca", "crl", "client"];

/// Returns the titles of the sections that have this key: `[proxy]`, or `[policy.NAME] or [ceiling.NAME]`.
pub(crate) fn sections_of(key: &str) -> Option<String> {
    let having = SECTIONS.iter().filter(|section| section.keys.contains(&key));
    let titles: Vec<String> = having.map(|section| section.title()).collect();
    (!titles.is_empty()).then(|| titles.join(" or "))
}

const fn limit_names() -> [&'static str; LIMITS.len()] {
    let mut names = [""; LIMITS.len()];
    let mut index = 0;
    while index < LIMITS.len() {
        #[expect(clippy::indexing_slicing, reason = "evaluated when compiled, within the bounds of the loop")]
        {
            names[index] = LIMITS[index].name;
        }
        index += 1;
    }
    names
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use exeat_policy::Label;
    use serde_json::Value;

    use super::*;
    use crate::limits::LimitKind;

    fn schema() -> Value {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/exeat.schema.json");
        serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap()
    }

    /// The keys of an object of the schema, which must be closed.
    fn keys(object: &Value) -> Vec<&str> {
        assert_eq!(object["additionalProperties"], false, "{object}");
        sorted(object["properties"].as_object().unwrap().keys().map(String::as_str))
    }

    fn sorted<'k>(keys: impl IntoIterator<Item = &'k str>) -> Vec<&'k str> {
        let mut keys: Vec<&str> = keys.into_iter().collect();
        keys.sort_unstable();
        keys
    }

    /// The object that a reference leads to.
    fn resolve<'s>(schema: &'s Value, object: &'s Value) -> &'s Value {
        match object["$ref"].as_str() {
            Some(reference) => schema.pointer(reference.trim_start_matches('#')).unwrap(),
            None => object,
        }
    }

    #[test]
    fn the_published_schema_has_the_keys_that_are_read() {
        let schema = schema();
        assert_eq!(keys(&schema), sorted(SECTIONS.iter().map(|section| section.name)));
        for section in SECTIONS {
            let object = &schema["properties"][section.name];
            let object =
                if section.named { resolve(&schema, &object["additionalProperties"]) } else { object };
            assert_eq!(keys(object), sorted(section.keys.iter().copied()), "{}", section.name);
        }
        assert_eq!(keys(&schema["definitions"]["entry"]), sorted(ENTRY.iter().copied()));
        let listener = &schema["definitions"]["listener"];
        assert_eq!(keys(listener), sorted(LISTENER.iter().copied()));
        assert_eq!(keys(&listener["properties"]["tls"]), sorted(LISTENER_TLS.iter().copied()));
        let dns = &schema["properties"]["dns"]["properties"]["listen"]["items"]["anyOf"][1];
        assert_eq!(keys(dns), sorted(DNS_LISTENER.iter().copied()));
        let tap = &schema["properties"]["dns"]["properties"]["tap"];
        assert_eq!(keys(tap), sorted(DNS_TAP.iter().copied()));
        let tap_out = &schema["properties"]["dns"]["properties"]["tap_out"];
        assert_eq!(keys(tap_out), sorted(DNS_TAP_OUT.iter().copied()));
        let issuer = &schema["definitions"]["issuer"];
        assert_eq!(keys(&issuer["properties"]["jwks"]), sorted(ISSUER_JWKS.iter().copied()));
        assert_eq!(keys(&schema["definitions"]["labels"]), sorted(Label::ALL.map(Label::key)));
    }

    #[test]
    fn the_published_schema_has_the_bounds_of_the_limits() {
        let schema = schema();
        for limit in &LIMITS {
            let object = &schema["properties"]["limits"]["properties"][limit.name];
            match &limit.kind {
                LimitKind::Count(range, _) | LimitKind::OptionalCount(range, _) => {
                    let bounds = (object["minimum"].as_u64(), object["maximum"].as_u64());
                    assert_eq!(bounds, (Some(*range.start()), Some(*range.end())), "{}", limit.name);
                }
                LimitKind::Time(..) => assert_eq!(object["$ref"], "#/definitions/duration", "{}", limit.name),
            }
        }
    }
}
