use super::*;

const HOLD: Duration = Duration::from_secs(1800);
const TTL: Duration = Duration::from_secs(600);

fn answers() -> Answers {
    Answers::new(HOLD)
}

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn name(text: &str) -> DnsName {
    DnsName::parse(text).unwrap()
}

/// Texts of the names, the last first.
fn names(answers: &Answers, client: &str, principal: &str, address: &str, now: Instant) -> Vec<String> {
    let asker = Asker { address: ip(client), principal: &principal.into() };
    answers.names(asker, ip(address), now).iter().map(ToString::to_string).collect()
}

fn tell(answers: &Answers, client: &str, principal: &str, host: &str, to: &[&str], now: Instant) -> bool {
    let asker = Asker { address: ip(client), principal: &principal.into() };
    let addresses: Vec<IpAddr> = to.iter().map(|text| ip(text)).collect();
    answers.note(asker, &name(host), &addresses, TTL, now).is_ok()
}

#[test]
fn an_address_means_what_its_client_was_told() {
    let (answers, now) = (answers(), Instant::now());
    let both = ["93.184.216.34", "2606:2800:220::1"];
    assert!(tell(&answers, "10.0.0.2", "shop", "a.example.com", &both, now));
    assert!(tell(&answers, "10.0.0.2", "shop", "b.example.com", &both[..1], now));
    for (case, client, principal, address, want) in [
        ("the last first", "10.0.0.2", "shop", "93.184.216.34", &["b.example.com", "a.example.com"][..]),
        ("another client of the principal", "10.0.0.3", "shop", "93.184.216.34", &[]),
        ("an address that it was not told", "10.0.0.2", "shop", "93.184.216.35", &[]),
        ("by the other family", "fd00::2", "shop", "2606:2800:220::1", &["a.example.com"]),
        ("somebody else by the other family", "fd00::2", "else", "2606:2800:220::1", &[]),
    ] {
        assert_eq!(names(&answers, client, principal, address, now), want, "{case}");
    }
    // It asks again: that is the last name from now on.
    assert!(tell(&answers, "10.0.0.2", "shop", "a.example.com", &both[..1], now));
    let again = names(&answers, "10.0.0.2", "shop", "93.184.216.34", now);
    assert_eq!(again, ["a.example.com", "b.example.com"]);
    assert_eq!(answers.len(), 3);
}

#[test]
fn what_is_used_is_remembered_and_the_rest_ends() {
    let (answers, start) = (answers(), Instant::now());
    let told = ["93.184.216.34"];
    assert!(tell(&answers, "10.0.0.2", "shop", "a.example.com", &told, start));
    let just = HOLD - Duration::from_secs(1);
    let known = |after: Duration| names(&answers, "10.0.0.2", "shop", told[0], start + after).len();
    assert_eq!((known(just), known(2 * just), known(3 * just)), (1, 1, 1), "each use holds it");
    assert_eq!(known(3 * just + HOLD), 0);
    assert_eq!(known(3 * just + HOLD), 0, "and it is not held by asking");
}

#[test]
fn everything_that_grows_has_a_bound() {
    let (answers, start) = (answers(), Instant::now());
    for number in 0..NAMES_PER_ADDRESS + 3 {
        assert!(tell(
            &answers,
            "10.0.0.2",
            "shop",
            &format!("n{number}.example.com"),
            &["93.184.216.34"],
            start
        ));
    }
    let known = names(&answers, "10.0.0.2", "shop", "93.184.216.34", start);
    assert_eq!((known.len(), answers.len()), (NAMES_PER_ADDRESS, NAMES_PER_ADDRESS));
    assert_eq!(
        (known.first().unwrap().as_str(), known.last().unwrap().as_str()),
        ("n66.example.com", "n3.example.com")
    );

    let address =
        |number: usize| IpAddr::from([93, 184, number.to_be_bytes()[6], number.to_be_bytes()[7]]).to_string();
    let mut told = 0;
    while tell(&answers, "10.0.0.2", "shop", "a.example.org", &[&address(told)], start) {
        told += 1;
    }
    assert_eq!(told + NAMES_PER_ADDRESS, PAIRS_PER_CLIENT);
    assert!(
        tell(&answers, "10.0.0.3", "shop", "a.example.org", &["93.184.216.34"], start),
        "others have room"
    );
    let late = start + HOLD;
    assert!(
        tell(&answers, "10.0.0.2", "shop", "a.example.org", &["93.184.216.34"], late),
        "those have ended"
    );
    assert_eq!(answers.len(), 1);
}
