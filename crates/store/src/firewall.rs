//! `[firewall]`: what clients of network devices may reach, held to the policy by the kernel.

use std::ops::RangeInclusive;
use std::time::Duration;

use exeat_firewall::{Device, GROUPS_MAX, Group, LIFETIME_MIN};

use crate::notes::Notes;
use crate::problem::{Code, Finding, shown};
use crate::reader::{self, Fields, What};
use crate::settings::{DnsSettings, FirewallSettings};

/// How long a name stays open after its last use: clients keep addresses for minutes, and what nobody has used for a week
/// belongs to somebody else by then.
const LIFETIME: RangeInclusive<Duration> = LIFETIME_MIN..=Duration::from_secs(7 * 24 * 3600);

/// The default: three times the least, so that hourly pauses of a busy client matter little and addresses do not pile up.
pub(crate) const LIFETIME_DEFAULT: Duration = Duration::from_secs(30 * 60);

/// Elements of one set of the kernel. A few would be full at once; a million takes the kernel 300 MB.
const ELEMENTS: RangeInclusive<u64> = 1024..=1_048_576;

/// The default: 65,536 addresses and ports, some 20 MB if all are used.
const ELEMENTS_DEFAULT: u32 = 65_536;

/// Devices: more than a host has networks.
const DEVICES_MAX: usize = 256;

const DEVICES_HELP: &str = "write bridges = [\"br0\"], interfaces = [\"eth1\"] or cgroups = [\"/ci.slice\"]";

/// Why `lo` is no device of clients, and what is meant instead.
pub(crate) const LOOPBACK: &str = "`lo` is the loopback device, by which no clients come";
pub(crate) const LOOPBACK_HELP: &str = "processes of this host are held by their control group";

impl FirewallSettings {
    /// The defaults, for these devices and groups.
    pub(crate) fn of(devices: Vec<Device>, groups: Vec<Group>) -> Self {
        Self { devices, groups, lifetime: LIFETIME_DEFAULT, elements: ELEMENTS_DEFAULT, is_counted: true }
    }
}

/// Reads `[firewall]`. `dns` is what `[dns]` says: without a name server nobody could ask for a name.
pub(crate) fn read(
    fields: &Fields<'_, '_>,
    dns: &DnsSettings,
    notes: &mut Notes,
) -> Option<FirewallSettings> {
    let mut devices = Vec::new();
    for (key, is_bridge) in [("bridges", true), ("interfaces", false)] {
        read_devices(fields, key, is_bridge, &mut devices, notes);
    }
    let groups = read_groups(fields, notes);
    let lifetime = fields.duration("lifetime", &LIFETIME, notes).unwrap_or(LIFETIME_DEFAULT);
    let elements = fields.integer("elements", &ELEMENTS, notes).and_then(|number| u32::try_from(number).ok());
    if devices.is_empty() && groups.is_empty() {
        let finding = Finding::error(Code::InvalidValue, "`[firewall]` names no device and no control group");
        notes.push(fields.span(), finding.help(DEVICES_HELP));
        return None;
    }
    let is_told = dns.tap.as_ref().is_some_and(|tap| !tap.servers.is_empty());
    if dns.listen.is_empty() && !is_told && !devices.is_empty() {
        let message = "`[firewall]` needs a name server of ours, since it opens what clients ask that for";
        let help = "write [dns] with listen = [\"10.0.0.1\"], the address of the device; or where another one that \
                    `tap` hears of is asked, with `servers`";
        notes.push(fields.span(), Finding::error(Code::MissingKey, message).help(help));
    }
    let is_counted = fields.boolean("counters", notes).unwrap_or(true);
    let default = FirewallSettings::of(devices, groups);
    Some(FirewallSettings { lifetime, elements: elements.unwrap_or(default.elements), is_counted, ..default })
}

fn read_devices(
    fields: &Fields<'_, '_>,
    key: &'static str,
    is_bridge: bool,
    devices: &mut Vec<Device>,
    notes: &mut Notes,
) {
    for value in fields.list(key, "network devices", notes).unwrap_or_default().iter().take(DEVICES_MAX) {
        let Some(name) = reader::string(value, What::Element("a network device"), notes) else { continue };
        match Device::new(name, is_bridge) {
            Some(device) if devices.iter().any(|other| other.name() == device.name()) => {
                let message = format!("`{name}` is listed twice");
                notes.push(value.span(), Finding::error(Code::Duplicate, message).help("remove one"));
            }
            Some(device) if device.is_loopback() => {
                let finding = Finding::error(Code::InvalidValue, LOOPBACK).help(LOOPBACK_HELP);
                notes.push(value.span(), finding);
            }
            Some(device) => devices.push(device),
            None => {
                let message = format!("`{}` is not the name of a network device", shown(name));
                let help = "a name has up to 15 letters, digits, `-`, `_`, `.` or `@`: \"br-lan\"";
                notes.push(value.span(), Finding::error(Code::InvalidValue, message).help(help));
            }
        }
    }
}

fn read_groups(fields: &Fields<'_, '_>, notes: &mut Notes) -> Vec<Group> {
    let mut groups: Vec<Group> = Vec::new();
    let listed = fields.list("cgroups", "control groups", notes).unwrap_or_default();
    for value in listed {
        let Some(path) = reader::string(value, What::Element("a control group"), notes) else { continue };
        let finding = match Group::new(path) {
            Some(group) if groups.contains(&group) => {
                Finding::error(Code::Duplicate, format!("`{}` is listed twice", shown(path)))
                    .help("remove one")
            }
            Some(_) if groups.len() == GROUPS_MAX => {
                let message = format!("`cgroups` has more than {GROUPS_MAX} groups");
                Finding::error(Code::InvalidValue, message).help("name a group that is above several of them")
            }
            Some(group) => {
                groups.push(group);
                continue;
            }
            None => {
                let message = format!("`{}` is not a control group", shown(path));
                let help = "write its path below /sys/fs/cgroup, such as \"/system.slice/ci.service\", or \"/\" for all";
                Finding::error(Code::InvalidValue, message).help(help)
            }
        };
        notes.push(value.span(), finding);
    }
    groups
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use exeat_policy::Revision;

    use super::*;
    use crate::{Options, load_text};

    fn load(text: &str) -> Result<Option<FirewallSettings>, String> {
        let loaded = load_text("t.toml", text, Path::new(""), &Options::new(Revision(1)));
        loaded.map(|loaded| loaded.settings.firewall).map_err(|report| {
            let texts = report
                .problems()
                .iter()
                .map(|problem| format!("{} | {}", problem.message(), problem.help().unwrap_or_default()));
            texts.collect::<Vec<_>>().join("; ")
        })
    }

    #[test]
    fn it_is_off_unless_told_and_has_defaults() {
        assert_eq!(load(""), Ok(None));
        let device = |name, is_bridge| Device::new(name, is_bridge).unwrap();
        let text =
            "[dns]\nlisten = [\"10.0.0.1\"]\n[firewall]\nbridges = [\"br0\"]\ninterfaces = [\"eth1.5\"]\n";
        let want = FirewallSettings {
            devices: vec![device("br0", true), device("eth1.5", false)],
            groups: Vec::new(),
            lifetime: Duration::from_secs(1800),
            elements: 65_536,
            is_counted: true,
        };
        assert_eq!(load(text), Ok(Some(want.clone())));
        let text = format!("{text}lifetime = \"1h\"\nelements = 2048\ncounters = false\n");
        let want = FirewallSettings {
            lifetime: Duration::from_secs(3600),
            elements: 2048,
            is_counted: false,
            ..want
        };
        assert_eq!(load(&text), Ok(Some(want)));
        let group = |path| Group::new(path).unwrap();
        let groups = load("[firewall]\ncgroups = [\"/ci.slice\", \"/\"]\n").unwrap().unwrap();
        assert_eq!(groups.groups, [group("/ci.slice"), group("/")], "they need no name server of their own");
    }

    #[test]
    fn what_is_wrong_is_told_with_its_correction() {
        for (text, want) in [
            ("", "`[firewall]` names no device and no control group | write bridges"),
            ("cgroups = [\"ci.slice\"]", "`ci.slice` is not a control group | write its path"),
            ("cgroups = [\"/ci.slice\", \"/ci.slice/\"]", "`/ci.slice/` is listed twice | remove one"),
            ("bridges = [\"br0\", \"br0\"]", "`br0` is listed twice | remove one"),
            ("bridges = [\"br0\"]\ninterfaces = [\"br0\"]", "`br0` is listed twice"),
            ("interfaces = [\"lo\"]", "`lo` is the loopback device, by which no clients come | processes"),
            ("interfaces = [\"a\\\"; drop\"]", "is not the name of a network device"),
            ("interfaces = [\"veth*\"]", "is not the name of a network device"),
            ("interfaces = [\"sixteen-letters-\"]", "is not the name of a network device"),
            ("bridges = [\"br0\"]\nlifetime = \"5m\"", "`lifetime`"),
            ("bridges = [\"br0\"]\nelements = 12", "`elements`"),
        ] {
            let error = load(&format!("[dns]\nlisten = [\"10.0.0.1\"]\n[firewall]\n{text}\n")).unwrap_err();
            assert!(error.contains(want), "{text}: {error}");
        }
        let error = load("[firewall]\nbridges = [\"br0\"]\n").unwrap_err();
        assert!(error.contains("needs a name server of ours"), "{error}");
    }
}
