//! The devices that a firewall is for, as somebody names them.

use std::fmt::Write as _;
use std::io;
use std::net::IpAddr;

use nix::ifaddrs::getifaddrs;
use nix::sys::socket::SockaddrStorage;
use serde_json::Value;

use crate::namespace::ip_json;

/// Devices that are named to who has named another one: more fill a screen.
const TOLD_MAX: usize = 20;
/// What the name of a bridge of Docker begins with, if nobody has given it one, and how many digits of the network's ID follow.
const DOCKER: (&str, usize) = ("br-", 12);

/// Returns the addresses of devices that clients can send to, with their devices: none that holds for one link alone.
///
/// # Errors
/// If there is no such device: then it says which there are, with their addresses.
pub fn addresses(bridges: &[String], interfaces: &[String]) -> io::Result<Vec<(IpAddr, String)>> {
    let found = all_addresses()?;
    let is_missing = |device: &&String| nix::net::if_::if_nametoindex(device.as_str()).is_err();
    if let Some(bridge) = bridges.iter().find(is_missing) {
        let here = self::bridges().ok().map(|here| told("bridge", &here, &found));
        return Err(missing(bridge, here.as_deref()));
    }
    if let Some(interface) = interfaces.iter().find(is_missing) {
        let mut here: Vec<String> = nix::net::if_::if_nameindex()?
            .iter()
            .map(|interface| interface.name().to_string_lossy().into_owned())
            .collect();
        here.retain(|name| name != "lo");
        return Err(missing(interface, Some(&told("device", &here, &found))));
    }
    let is_named = |name: &String| bridges.contains(name) || interfaces.contains(name);
    Ok(found.into_iter().filter(|(_, device)| is_named(device)).collect())
}

fn all_addresses() -> io::Result<Vec<(IpAddr, String)>> {
    let found = getifaddrs()?.filter_map(|found| Some((ip(found.address?)?, found.interface_name)));
    let is_of_link = |address: &IpAddr| match address {
        IpAddr::V4(address) => address.is_link_local(),
        IpAddr::V6(address) => address.is_unicast_link_local(),
    };
    Ok(found.filter(|(address, _)| !is_of_link(address)).collect())
}

pub(crate) fn ip(address: SockaddrStorage) -> Option<IpAddr> {
    let v4 = address.as_sockaddr_in().map(|address| IpAddr::V4(address.ip()));
    v4.or_else(|| address.as_sockaddr_in6().map(|address| IpAddr::V6(address.ip())))
}

fn bridges() -> io::Result<Vec<String>> {
    let links = ip_json(&["link", "show", "type", "bridge"])?;
    let name = |link: &Value| link.get("ifname").and_then(Value::as_str).map(str::to_owned);
    Ok(links.as_array().into_iter().flatten().filter_map(name).collect())
}

fn missing(device: &str, here: Option<&str>) -> io::Error {
    let here = here.map(|here| format!(": {here}")).unwrap_or_default();
    io::Error::new(io::ErrorKind::NotFound, format!("there is no network device `{device}`{here}"))
}

/// What there is in its place, each with its addresses.
fn told(what: &str, names: &[String], addresses: &[(IpAddr, String)]) -> String {
    if names.is_empty() {
        return format!("there is no {what} here");
    }
    let each = names.iter().take(TOLD_MAX).map(|name| {
        let own = addresses.iter().filter(|(_, device)| device == name);
        match own.map(|(address, _)| address.to_string()).collect::<Vec<_>>().join(", ").as_str() {
            "" => name.clone(),
            own => format!("{name} ({own})"),
        }
    });
    let mut text = format!("the {what}s here are {}", each.collect::<Vec<_>>().join(", "));
    if names.len() > TOLD_MAX {
        // Writing to a string does not fail.
        let _ok = write!(text, " and {} more", names.len() - TOLD_MAX);
    }
    if names.iter().any(|name| is_of_docker(name)) {
        text.push_str("; `docker network ls` shows which network has the ID that follows br-");
    }
    text
}

fn is_of_docker(name: &str) -> bool {
    let (prefix, digits) = DOCKER;
    let id = name.strip_prefix(prefix);
    id.is_some_and(|id| id.len() == digits && id.bytes().all(|byte| byte.is_ascii_hexdigit()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_there_is_is_told_with_its_addresses() {
        let own = |device: &str, address: &str| (address.parse().unwrap(), device.to_owned());
        let addresses =
            [own("br-1c9e0c8ba3f2", "10.77.0.1"), own("br-1c9e0c8ba3f2", "fd77::1"), own("br0", "10.0.0.1")];
        let many: Vec<String> = (0..TOLD_MAX + 2).map(|number| format!("br{number}x")).collect();
        let docker = "; `docker network ls` shows which network has the ID that follows br-";
        for (case, names, want) in [
            ("none", vec![], "there is no bridge here".to_owned()),
            ("one", vec!["br0"], "the bridges here are br0 (10.0.0.1)".to_owned()),
            ("without an address", vec!["br0", "br1"], "the bridges here are br0 (10.0.0.1), br1".to_owned()),
            (
                "of Docker",
                vec!["docker0", "br-1c9e0c8ba3f2"],
                format!("the bridges here are docker0, br-1c9e0c8ba3f2 (10.77.0.1, fd77::1){docker}"),
            ),
            ("named by somebody", vec!["br-shop"], "the bridges here are br-shop".to_owned()),
            (
                "many",
                many.iter().map(String::as_str).collect(),
                format!("the bridges here are {} and 2 more", many[..TOLD_MAX].join(", ")),
            ),
        ] {
            let names: Vec<String> = names.into_iter().map(str::to_owned).collect();
            assert_eq!(told("bridge", &names, &addresses), want, "{case}");
        }
    }

    #[test]
    fn a_device_that_is_not_there_is_an_error_and_loopback_is_there() {
        let none: [String; 0] = [];
        let error = addresses(&none, &["exeat-nosuch".to_owned()]).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::NotFound);
        assert!(error.to_string().starts_with("there is no network device `exeat-nosuch`: "), "{error}");
        let found = addresses(&none, &["lo".to_owned()]).unwrap();
        assert!(found.iter().all(|(address, device)| address.is_loopback() && device == "lo"), "{found:?}");
    }
}
