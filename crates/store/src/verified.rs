//! `verify = true` beside `[firewall]`: such connections go through the proxy, which somebody has to lead them to.

use std::ops::Range;

use toml::de::{DeTable, DeValue};

use crate::document::Document;
use crate::keys;
use crate::notes::Notes;
use crate::problem::{Code, Finding};

/// The key, in an entry or as a default of a list of them.
const KEY: &str = "verify";

/// Warns of each `verify = true` that opens nothing for clients behind the devices of `[firewall]`, since there is no listener
/// that the kernel could redirect their connections to. Those of a proxy's own clients it does not matter to, and control
/// groups are never redirected.
pub(crate) fn check(root: &DeTable<'_>, document: &Document, notes: &mut Notes) {
    let has_devices = document.firewall.as_ref().is_some_and(|firewall| !firewall.devices.is_empty());
    let is_taken = document.proxy.listen.iter().any(|listener| listener.is_redirected);
    if !has_devices || is_taken {
        return;
    }
    let mut spans = Vec::new();
    for section in [&keys::GROUPS, &keys::POLICY, &keys::CEILING] {
        root.get(section.name).into_iter().for_each(|value| find(value.get_ref(), &mut spans));
    }
    for span in spans {
        let message =
            "the firewall opens nothing by this rule, since no listener takes redirected connections";
        let help = "add { address = \"0.0.0.0:3130\", redirected = true } to `listen` of [proxy]";
        notes.push(span, Finding::warning(Code::Suspicious, message).help(help));
    }
}

/// Finds the key wherever it may stand: in a table of defaults, and in the entries of its lists.
fn find(value: &DeValue<'_>, spans: &mut Vec<Range<usize>>) {
    match value {
        DeValue::Table(table) => {
            for (key, value) in table {
                if key.get_ref() == KEY && matches!(value.get_ref(), DeValue::Boolean(true)) {
                    spans.push(key.span().start..value.span().end);
                } else {
                    find(value.get_ref(), spans);
                }
            }
        }
        DeValue::Array(array) => array.iter().for_each(|value| find(value.get_ref(), spans)),
        DeValue::String(_)
        | DeValue::Integer(_)
        | DeValue::Float(_)
        | DeValue::Boolean(_)
        | DeValue::Datetime(_) => {}
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use exeat_policy::Revision;

    use crate::{Options, load_text};

    /// The lines and columns of all that is warned of.
    fn warned(text: &str) -> Vec<(u32, u32)> {
        let loaded = load_text("t.toml", text, Path::new(""), &Options::new(Revision(1))).unwrap();
        let problems = loaded.warnings.problems().iter();
        let of_listeners = problems.filter(|problem| problem.message().contains("redirected connections"));
        of_listeners.map(|problem| problem.location().map(|at| (at.line, at.column)).unwrap()).collect()
    }

    #[test]
    fn a_rule_that_nothing_is_led_to_the_proxy_for_is_told() {
        let bridge = "[dns]\nlisten = [\"10.0.0.1\"]\n[firewall]\nbridges = [\"br0\"]\n";
        let group = "[firewall]\ncgroups = [\"/ci.slice\"]\n";
        let plain = "[proxy]\nlisten = [\"127.0.0.1:3128\"]\n";
        let redirected = "[proxy]\nlisten = [{ address = \"0.0.0.0:3130\", redirected = true }]\n";
        let entry = "[policy.p]\nallow = [\"a.example\", { host = \"b.example\", verify = true }]\n";
        let default = "[policy.p]\nverify = true\nallow = [\"a.example\"]\n";
        let shared = "[groups.g]\nentries = [{ host = \"b.example\", verify = true }]\n\
                      [policy.p]\nallow = [\"@g\", { host = \"c.example\", verify = true }]\n";
        let none = "[policy.p]\nallow = [\"a.example\", { host = \"b.example\", verify = false }]\n";
        let after = |lines: &[&str], column: u32| -> Vec<(u32, u32)> {
            let count = lines.iter().map(|text| text.lines().count()).sum::<usize>();
            vec![(u32::try_from(count).unwrap() + 2, column)]
        };
        for (case, parts, want) in [
            ("an entry", [plain, bridge, entry], after(&[plain, bridge], 45)),
            ("a default", [plain, bridge, default], after(&[plain, bridge], 1)),
            ("with a listener", [redirected, bridge, entry], vec![]),
            ("without a firewall", [plain, "", entry], vec![]),
            ("processes of this host alone", [plain, group, entry], vec![]),
            ("turned off", [plain, bridge, none], vec![]),
            ("each of them", [plain, bridge, shared], vec![(8, 34), (10, 38)]),
        ] {
            assert_eq!(warned(&parts.concat()), want, "{case}");
        }
    }
}
