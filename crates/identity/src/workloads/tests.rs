use exeat_policy::{Bound, Labels};

use super::*;
use crate::{
    peer::Demand,
    principal::{AuthnError, Proof},
};

fn principal(name: &str, proof: Proof) -> Arc<Principal> {
    Arc::new(Principal {
        name: name.into(),
        proof,
        labels: Labels::default(),
        bound: Bound::default(),
        token: None,
    })
}

fn workload(name: &str, is_proof: bool) -> Workload {
    Workload::new(principal(name, Proof::Origin), &format!("c-{name}"), is_proof)
}

fn network(text: &str) -> Origin {
    Origin { network: Some(text.parse().unwrap()), ..Origin::default() }
}

fn at(address: &str) -> Place {
    Place { address: Some(address.parse().unwrap()), ..Place::default() }
}

fn known() -> Workloads {
    let mut known = Workloads::new();
    let group = |group: &str| Origin { cgroup: Some(group.into()), ..Origin::default() };
    known.insert(workload("wide", true), [network("10.0.0.0/8"), network("2001:db8::/32")]);
    known.insert(workload("host", true), [network("10.99.0.7/32"), network("2001:db8::7/128")]);
    known.insert(workload("narrow", true), [network("10.99.0.0/16")]);
    known.insert(workload("user", true), [Origin { user: Some(1000), ..Origin::default() }]);
    known.insert(workload("slice", true), [group("/system.slice")]);
    known.insert(workload("job", true), [group("/system.slice/job.service")]);
    let socket = Origin { socket: Some(Path::new("/run/box.sock").into()), ..Origin::default() };
    known.insert(workload("root-in-box", true), [Origin { user: Some(0), ..socket.clone() }]);
    known.insert(workload("box", true), [socket]);
    let device = Origin { interface: Some("veth1".into()), ..Origin::default() };
    known.insert(workload("device", true), [device]);
    let both = Origin { interface: Some("veth1".into()), ..network("192.0.2.0/24") };
    known.insert(workload("device-and-network", true), [both]);
    known
}

#[test]
fn the_closest_description_that_holds_in_every_part_counts() {
    let unix = |path: &str, user| Place {
        socket: Some(Path::new(path).into()),
        user: Part::Known(user),
        ..Place::default()
    };
    let group = |group: &str| Place { cgroup: Part::Known(group.into()), ..unix("/run/s", 1) };
    let device = |name: &str, address: &str| Place { interface: Part::Known(name.into()), ..at(address) };
    let known = known();
    for (case, place, want) in [
        ("nowhere", Place::default(), None),
        ("in the network", at("10.1.2.3"), Some("wide")),
        ("beside it", at("11.1.2.3"), None),
        ("in a longer one", at("10.99.1.2"), Some("narrow")),
        ("the host", at("10.99.0.7"), Some("host")),
        ("the host, mapped", at("::ffff:10.99.0.7"), Some("host")),
        ("beside the host", at("10.99.0.8"), Some("narrow")),
        ("of the other family", at("2001:db8::7"), Some("host")),
        ("beside that one", at("2001:db8::8"), Some("wide")),
        ("outside of both", at("2001:db9::7"), None),
        ("a user", Place { user: Part::Known(1000), ..at("127.0.0.1") }, Some("user")),
        ("another user", Place { user: Part::Known(1001), ..at("127.0.0.1") }, None),
        ("a user before its network", Place { user: Part::Known(1000), ..at("10.1.2.3") }, Some("user")),
        ("a control group", group("/system.slice"), Some("slice")),
        ("below it", group("/system.slice/other.service"), Some("slice")),
        ("a closer one", group("/system.slice/job.service"), Some("job")),
        ("below the closer one", group("/system.slice/job.service/x"), Some("job")),
        ("one that begins alike", group("/system.slice/job.service2"), Some("slice")),
        ("one that begins alike at the top", group("/system.slice2"), None),
        ("one whose name ends alike", group("/x/system.slice"), None),
        ("a socket", unix("/run/box.sock", 5), Some("box")),
        ("a socket and a user", unix("/run/box.sock", 0), Some("root-in-box")),
        ("another socket", unix("/run/other.sock", 0), None),
        ("a device", device("veth1", "198.51.100.1"), Some("device")),
        ("another device", device("veth2", "198.51.100.1"), None),
        ("a device and a network", device("veth1", "192.0.2.9"), Some("device-and-network")),
        ("the network by another device", device("veth2", "192.0.2.9"), None),
        ("the network by no known device", at("192.0.2.9"), None),
    ] {
        assert_eq!(found(&known, &place), want, "{case}");
    }
}

/// The name of the workload at `place`, which is certain to be there or nowhere.
fn found<'a>(known: &'a Workloads, place: &Place) -> Option<&'a str> {
    match known.find(place) {
        Found::Workload(workload) => Some(&workload.principal().name),
        Found::Nowhere => None,
        Found::Uncertain => Some("?"),
    }
}

#[test]
fn what_is_not_known_never_makes_a_broader_description_count() {
    let unix = |path: &str| Place { socket: Some(Path::new(path).into()), ..Place::default() };
    let user = |user, place| Place { user, ..place };
    let group = |group, place| Place { cgroup: group, ..place };
    let device = |interface, place| Place { interface, ..place };
    let (unknown, slice) = (Part::Unknown, Part::Known(Arc::from("/system.slice")));
    let known = known();
    let mut of_users = Workloads::new();
    let in_net = Origin { user: Some(7), ..network("127.0.0.0/16") };
    of_users.insert(workload("net-user", true), [in_net]);
    of_users.insert(workload("net", true), [network("127.0.0.0/8")]);
    for (case, workloads, place, want) in [
        ("any user, from loopback", &known, user(unknown, at("127.0.0.1")), Some("?")),
        ("any user, from a known network", &known, user(unknown, at("10.1.2.3")), Some("?")),
        ("certainly no user", &known, user(Part::Nothing, at("10.1.2.3")), Some("wide")),
        ("any user, on a known socket", &known, user(unknown, unix("/run/box.sock")), Some("?")),
        (
            "any group, of a user",
            &known,
            group(Part::Unknown, user(Part::Known(1000), unix("/x"))),
            Some("?"),
        ),
        ("any group, of nobody", &known, group(Part::Unknown, user(Part::Nothing, unix("/x"))), Some("?")),
        (
            "certainly in no group",
            &known,
            group(Part::Nothing, user(Part::Known(1000), unix("/x"))),
            Some("user"),
        ),
        (
            "any user, of a group, which is closer",
            &known,
            group(slice, user(unknown, unix("/x"))),
            Some("slice"),
        ),
        ("any device", &known, device(Part::Unknown, at("192.0.2.9")), Some("?")),
        ("any device, from elsewhere", &known, device(Part::Unknown, at("10.1.2.3")), Some("?")),
        ("any user, in the network", &of_users, user(unknown, at("127.0.0.1")), Some("?")),
        ("any user, beside the network", &of_users, user(unknown, at("127.1.0.1")), Some("net")),
        ("any user, nowhere near", &of_users, user(unknown, at("10.0.0.1")), None),
    ] {
        assert_eq!(found(workloads, &place), want, "{case}");
    }
}

#[test]
fn nothing_is_served_that_comes_from_nobody_knows_where() {
    let mut known = Workloads::new();
    known.insert(workload("batch", true), [Origin { user: Some(7), ..Origin::default() }]);
    known.insert(workload("wide", true), [network("127.0.0.0/8")]);
    let anonymous = principal("anonymous", Proof::Anonymous);
    for (case, user, want) in [
        ("known", Part::Known(7), Ok("batch")),
        ("another", Part::Known(8), Ok("wide")),
        ("unknown", Part::Unknown, Err(AuthnError::ContainerMismatch)),
    ] {
        let shown = Shown { place: Place { user, ..at("127.0.0.1") }, ..Shown::default() };
        let peer = known.peer(&shown);
        let alone = peer.check_shown().and_then(|()| peer.alone(Some(&anonymous)));
        assert_eq!(alone.as_ref().map(|p| &*p.name).map_err(|error| *error), want, "{case}");
        assert_eq!(peer.may_be_silent(true), want.is_ok(), "{case}");
        assert_eq!(peer.agree(Proof::Password, None).is_ok(), want.is_ok(), "{case}: with a password");
        let before = principal("wide", Proof::Origin);
        assert_eq!(peer.again(&before, Some(&anonymous)).is_some(), want == Ok("wide"), "{case}: again");
    }
}

#[test]
fn the_order_of_insertion_means_nothing() {
    let mut backwards = Workloads::new();
    backwards.insert(workload("narrow", true), [network("10.99.0.0/16")]);
    backwards.insert(workload("wide", true), [network("10.0.0.0/8")]);
    for (address, want) in [("10.1.2.3", Some("wide")), ("10.99.0.7", Some("narrow")), ("11.0.0.1", None)] {
        assert_eq!(found(&backwards, &at(address)), want, "{address}");
    }
}

#[test]
fn who_says_nothing_is_known_by_the_place_or_is_anonymous() {
    let mut known = Workloads::new();
    known.insert(workload("batch", true), [network("10.0.0.0/8")]);
    known.insert(workload("factor", false), [network("192.0.2.0/24")]);
    let anonymous = principal("anonymous", Proof::Anonymous);
    let none = Demand::default();
    let (password, origin) = (none.and(Proof::Password), none.and(Proof::Origin));
    let (guest, required) = (Some(&anonymous), Err(AuthnError::Required));
    let elsewhere = Err(AuthnError::ContainerMismatch);
    for (case, address, demand, anonymous, want) in [
        ("a workload", "10.0.0.1", none, None, Ok("batch")),
        ("a workload where others are let in", "10.0.0.1", none, guest, Ok("batch")),
        ("a workload that is no proof", "192.0.2.1", none, None, required),
        ("the same where others are let in", "192.0.2.1", none, guest, required),
        ("nobody", "11.0.0.1", none, None, required),
        ("nobody where they are let in", "11.0.0.1", none, guest, Ok("anonymous")),
        ("an origin is demanded", "10.0.0.1", origin, None, Ok("batch")),
        ("an origin is demanded of nobody", "11.0.0.1", origin, guest, elsewhere),
        ("a password is demanded", "10.0.0.1", password, None, required),
        ("a password is demanded of nobody", "11.0.0.1", password, guest, required),
        ("both are", "10.0.0.1", password.and(Proof::Origin), guest, required),
    ] {
        let peer = known.peer(&Shown { place: at(address), demand, certificate: None });
        let got = peer.check_shown().and_then(|()| peer.alone(anonymous));
        assert_eq!(got.as_ref().map(|p| &*p.name).map_err(|error| *error), want, "{case}");
        assert_eq!(peer.may_be_silent(anonymous.is_some()), want.is_ok(), "{case}");
    }
}

#[test]
fn right_credentials_count_where_they_are_tied_to_and_where_they_are_demanded() {
    let mut known = Workloads::new();
    known.insert(workload("batch", true), [network("10.0.0.0/8")]);
    known.insert(workload("factor", false), [network("192.0.2.0/24")]);
    let none = Demand::default();
    let (password, origin) = (none.and(Proof::Password), none.and(Proof::Origin));
    let (factor, nowhere): (&[Box<str>], &[Box<str>]) = (&["factor".into()], &[]);
    let elsewhere = Err(AuthnError::ContainerMismatch);
    for (case, address, demand, origins, want) in [
        ("anywhere", "11.0.0.1", none, None, Ok(())),
        ("anywhere, from a workload", "10.0.0.1", none, None, Ok(())),
        ("from where it is tied to", "192.0.2.1", none, Some(factor), Ok(())),
        ("from another workload", "10.0.0.1", none, Some(factor), elsewhere),
        ("from nowhere", "11.0.0.1", none, Some(factor), elsewhere),
        ("tied to nothing", "192.0.2.1", none, Some(nowhere), elsewhere),
        ("where it is demanded", "11.0.0.1", password, None, Ok(())),
        ("where an origin is, too", "10.0.0.1", password.and(Proof::Origin), None, Ok(())),
        ("where an origin is, from nowhere", "11.0.0.1", origin, None, elsewhere),
    ] {
        let peer = known.peer(&Shown { place: at(address), demand, certificate: None });
        assert_eq!(peer.agree(Proof::Password, origins), want, "{case}");
    }
}

#[test]
fn the_container_of_a_workload_is_what_tokens_are_held_against() {
    let known = known();
    let container = |address| known.peer(&Shown { place: at(address), ..Shown::default() }).container();
    assert_eq!(container("10.99.0.7"), Some("c-host"));
    assert_eq!(container("11.0.0.1"), None);
}
