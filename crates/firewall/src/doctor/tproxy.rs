//! Rules of somebody with `tproxy` for what comes by a bridge. While the kernel hands the packets of bridges to the rules of
//! IP by itself (`net.bridge.bridge-nf-call-iptables`), such a rule takes none of them: connections pass it by.

use std::{collections::BTreeSet, io, process::Stdio};

use serde_json::Value;

use super::{Finding, bad, is_on};
use crate::namespace::ip_json;

/// For which families packets of bridges meet the rules of IP twice.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
struct Called {
    v4: bool,
    v6: bool,
}

/// Looks for such rules in this network namespace. If that cannot be found out, nothing is told: most hosts have none.
pub(super) fn look() -> Vec<Finding> {
    let called = Called {
        v4: is_on("/proc/sys/net/bridge/bridge-nf-call-iptables"),
        v6: is_on("/proc/sys/net/bridge/bridge-nf-call-ip6tables"),
    };
    if !called.v4 && !called.v6 {
        return Vec::new();
    }
    let looked = rules().and_then(|rules| Ok((rules, ip_json(&["-details", "link", "show"])?)));
    let (rules, links) = match looked {
        Ok(looked) => looked,
        Err(error) => {
            tracing::debug!(%error, "the rules of others cannot be looked at");
            return Vec::new();
        }
    };
    let chains = blind(&rules, &devices(&links), called);
    chains.into_iter().map(|chain| bad(text(&chain))).collect()
}

fn text(chain: &str) -> String {
    format!(
        "{chain} has a rule with `tproxy` for clients of a bridge, and takes none of their connections while \
         net.bridge.bridge-nf-call-iptables or -ip6tables is 1: write `redirect` there (type nat, prerouting)"
    )
}

/// The rules of all tables, without the elements of sets.
fn rules() -> io::Result<Value> {
    let mut nft = crate::nft::command().map_err(io::Error::other)?;
    nft.args(["--terse", "--json", "list", "ruleset"]).stdin(Stdio::null()).stderr(Stdio::null());
    serde_json::from_slice(&nft.output()?.stdout).map_err(io::Error::other)
}

/// The bridges, and their ports.
fn devices(links: &Value) -> BTreeSet<String> {
    let links = || links.as_array().into_iter().flatten();
    let name = |link: &Value| link.get("ifname").and_then(Value::as_str).map(str::to_owned);
    let is_bridge =
        |link: &&Value| link.pointer("/linkinfo/info_kind").and_then(Value::as_str) == Some("bridge");
    let bridges: BTreeSet<String> = links().filter(is_bridge).filter_map(name).collect();
    let is_port = |link: &&Value| {
        link.get("master").and_then(Value::as_str).is_some_and(|master| bridges.contains(master))
    };
    let ports: Vec<String> = links().filter(is_port).filter_map(name).collect();
    bridges.into_iter().chain(ports).collect()
}

/// The chains that have such a rule, each once.
fn blind(rules: &Value, devices: &BTreeSet<String>, called: Called) -> BTreeSet<String> {
    let objects = rules.get("nftables").and_then(Value::as_array).into_iter().flatten();
    let rules = objects.filter_map(|object| object.get("rule"));
    let chain = |rule: &Value| -> Option<String> {
        let text = |key| rule.get(key).and_then(Value::as_str);
        Some(format!("`{} {} {}`", text("family")?, text("table")?, text("chain")?))
    };
    rules.filter(|rule| is_blind(rule, devices, called)).filter_map(chain).collect()
}

fn is_blind(rule: &Value, devices: &BTreeSet<String>, called: Called) -> bool {
    let statements = || rule.get("expr").and_then(Value::as_array).into_iter().flatten();
    let Some(tproxy) = statements().find_map(|statement| statement.get("tproxy")) else { return false };
    let family = tproxy.get("family").or_else(|| rule.get("family")).and_then(Value::as_str);
    let is_called = match family {
        Some("ip") => called.v4,
        Some("ip6") => called.v6,
        Some(_) | None => true,
    };
    let matches = || statements().filter_map(|statement| statement.get("match"));
    is_called && devices.iter().any(|device| matches().all(|one| may_match(one, device)))
}

/// Whether what comes by this device can pass a comparison; one that looks at something else, or that is not understood here,
/// it can.
fn may_match(comparison: &Value, device: &str) -> bool {
    let key = comparison.pointer("/left/meta/key").and_then(Value::as_str);
    if !matches!(key, Some("iif" | "iifname")) {
        return true;
    }
    let is_it = |value: &Value| value.as_str().map(|name| is_named(name, device));
    let right = comparison.get("right");
    let listed = right.and_then(|right| right.get("set")).and_then(Value::as_array);
    let is_in = match (right, listed) {
        (_, Some(names)) => {
            names.iter().map(is_it).collect::<Option<Vec<bool>>>().map(|is| is.contains(&true))
        }
        (Some(right), None) => is_it(right),
        (None, None) => None,
    };
    match (comparison.get("op").and_then(Value::as_str), is_in) {
        (Some("==" | "in"), Some(is_in)) => is_in,
        (Some("!="), Some(is_in)) => !is_in,
        (_, _) => true,
    }
}

/// Whether a device has this name, or one that begins so if it ends in a star. A name that stands for a set (`@lan`) may be any.
fn is_named(name: &str, device: &str) -> bool {
    match name.strip_suffix('*') {
        Some(begin) => device.starts_with(begin),
        None => name == device || name.starts_with('@'),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    /// A rule as `nft` shows it, with these comparisons before its `tproxy`.
    fn rule(family: &str, tproxy: &Value, comparisons: &[Value]) -> Value {
        let matches = comparisons.iter().map(|comparison| json!({ "match": comparison }));
        let rest = [json!({ "tproxy": tproxy }), json!({ "accept": null })];
        let expr: Vec<Value> = matches.chain(rest).collect();
        json!({ "nftables": [
            { "metainfo": { "json_schema_version": 1 } },
            { "rule": { "family": family, "table": "jobs", "chain": "taken", "handle": 2, "expr": expr } },
        ] })
    }

    fn came_by(op: &str, right: &Value) -> Value {
        json!({ "op": op, "left": { "meta": { "key": "iifname" } }, "right": right })
    }

    #[test]
    fn a_rule_that_takes_nothing_of_a_bridge_is_found() {
        let links = json!([
            { "ifname": "lo" },
            { "ifname": "br0", "linkinfo": { "info_kind": "bridge" } },
            { "ifname": "veth1", "master": "br0", "linkinfo": { "info_kind": "veth" } },
            { "ifname": "slave1", "master": "bond0" },
            { "ifname": "eth1" },
        ]);
        let devices = devices(&links);
        assert_eq!(devices.iter().map(String::as_str).collect::<Vec<_>>(), ["br0", "veth1"]);
        let both = Called { v4: true, v6: true };
        let (v4, v6) = (Called { v4: true, v6: false }, Called { v4: false, v6: true });
        let tcp = json!({ "op": "==", "left": { "meta": { "key": "l4proto" } }, "right": "tcp" });
        let any = json!({ "port": 3130 });
        let ip = json!({ "family": "ip", "port": 3130 });
        for (case, rule, called, want) in [
            ("the bridge", rule("inet", &any, &[came_by("==", &json!("br0")), tcp.clone()]), both, true),
            ("a port of it", rule("inet", &any, &[came_by("==", &json!("veth1"))]), both, true),
            ("another device", rule("inet", &any, &[came_by("==", &json!("eth1"))]), both, false),
            ("a port of a bond", rule("inet", &any, &[came_by("==", &json!("slave1"))]), both, false),
            ("every device", rule("inet", &any, &[tcp]), both, true),
            (
                "one of several",
                rule("inet", &any, &[came_by("==", &json!({ "set": ["eth1", "br0"] }))]),
                both,
                true,
            ),
            (
                "none of several",
                rule("inet", &any, &[came_by("==", &json!({ "set": ["eth1", "eth2"] }))]),
                both,
                false,
            ),
            (
                "all but it",
                rule("inet", &any, &[came_by("!=", &json!({ "set": ["br0", "veth1"] }))]),
                both,
                false,
            ),
            ("all but another", rule("inet", &any, &[came_by("!=", &json!("eth1"))]), both, true),
            ("by its beginning", rule("inet", &any, &[came_by("==", &json!("br*"))]), both, true),
            ("by another's", rule("inet", &any, &[came_by("==", &json!("eth*"))]), both, false),
            ("a set with a name", rule("inet", &any, &[came_by("==", &json!("@lan"))]), both, true),
            ("IPv4", rule("inet", &ip, &[]), v4, true),
            ("IPv4, off", rule("inet", &ip, &[]), v6, false),
            ("a table of IPv6", rule("ip6", &any, &[]), v6, true),
            ("a table of IPv6, off", rule("ip6", &any, &[]), v4, false),
            ("either", rule("inet", &any, &[]), v6, true),
        ] {
            let found = blind(&rule, &devices, called);
            assert_eq!(
                found.contains("`inet jobs taken`") || found.contains("`ip6 jobs taken`"),
                want,
                "{case}"
            );
        }
        let redirect = json!({ "nftables": [{ "rule": {
            "family": "inet", "table": "jobs", "chain": "taken", "expr": [{ "redirect": { "port": 3130 } }],
        } }] });
        assert!(blind(&redirect, &devices, both).is_empty());
        assert!(blind(&rule("inet", &any, &[]), &BTreeSet::new(), both).is_empty(), "no bridge");
    }
}
