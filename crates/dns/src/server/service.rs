//! Records that tell how to connect (HTTPS, SVCB; RFC 9460), without what the policy could not hold clients to. Pure.

use hickory_proto::rr::{
    Name, RData,
    rdata::{
        HTTPS, SVCB,
        svcb::{Alpn, SvcParamKey, SvcParamValue},
    },
};

/// Returns what may be told of a record that `owner` has; `None` if that is nothing. What is not about one of these types
/// stays as it is.
///
/// - An alias (priority 0), another target and another port would lead clients to what was not asked for.
/// - Addresses (`ipv4hint`, `ipv6hint`) would be used without having been checked or opened.
/// - `ech` would hide the name that a tunnel is opened for.
/// - HTTP/3 in `alpn` would be tried by UDP first; what may be reached that way can still be told by the origin.
/// - What is not known here is left out. Where a client must understand something of all that, the record goes with it.
pub(crate) fn filtered(data: &RData, owner: &Name) -> Option<RData> {
    if let RData::HTTPS(HTTPS(record)) = data {
        filter(record, owner).map(|record| RData::HTTPS(HTTPS(record)))
    } else if let RData::SVCB(record) = data {
        filter(record, owner).map(RData::SVCB)
    } else {
        Some(data.clone())
    }
}

fn filter(record: &SVCB, owner: &Name) -> Option<SVCB> {
    let is_elsewhere = !record.target_name.is_root() && record.target_name != *owner;
    let has = |wanted| record.svc_params.iter().any(|(key, _)| *key == wanted);
    if record.svc_priority == 0 || is_elsewhere || has(SvcParamKey::Port) {
        return None;
    }
    let mut kept = Vec::new();
    for (key, value) in &record.svc_params {
        match value {
            SvcParamValue::Alpn(Alpn(protocols)) => {
                let by_tcp = protocols.iter().filter(|protocol| !is_by_udp(protocol)).cloned();
                let by_tcp = by_tcp.collect::<Vec<_>>();
                if !by_tcp.is_empty() {
                    kept.push((*key, SvcParamValue::Alpn(Alpn(by_tcp))));
                }
            }
            SvcParamValue::NoDefaultAlpn => kept.push((*key, value.clone())),
            SvcParamValue::Mandatory(mandatory) => {
                let is_kept =
                    |key: &SvcParamKey| matches!(key, SvcParamKey::Alpn | SvcParamKey::NoDefaultAlpn);
                if !mandatory.0.iter().all(is_kept) {
                    return None;
                }
                kept.push((*key, value.clone()));
            }
            SvcParamValue::Port(_)
            | SvcParamValue::Ipv4Hint(_)
            | SvcParamValue::Ipv6Hint(_)
            | SvcParamValue::EchConfigList(_)
            | SvcParamValue::Unknown(_) => {}
        }
    }
    let keeps = |wanted| kept.iter().any(|(key, _)| *key == wanted);
    // Nothing is left that the client could speak; or what it must understand is not there (RFC 9460 §8).
    let is_empty = has(SvcParamKey::Alpn) && !keeps(SvcParamKey::Alpn);
    if is_empty && (has(SvcParamKey::NoDefaultAlpn) || has(SvcParamKey::Mandatory)) {
        return None;
    }
    Some(SVCB::new(record.svc_priority, Name::root(), kept))
}

/// Whether a protocol of `alpn` runs over QUIC: `h3`, and `h3-29` and the like.
fn is_by_udp(protocol: &str) -> bool {
    protocol == "h3" || protocol.starts_with("h3-") || protocol == "doq"
}

#[cfg(test)]
mod tests {
    use hickory_proto::rr::rdata::{
        A, AAAA,
        svcb::{EchConfigList, IpHint, Mandatory, Unknown},
    };

    use super::*;

    fn name(text: &str) -> Name {
        Name::from_ascii(text).unwrap()
    }

    fn alpn(protocols: &[&str]) -> (SvcParamKey, SvcParamValue) {
        let protocols = protocols.iter().map(|&protocol| protocol.to_owned()).collect();
        (SvcParamKey::Alpn, SvcParamValue::Alpn(Alpn(protocols)))
    }

    fn mandatory(keys: &[SvcParamKey]) -> (SvcParamKey, SvcParamValue) {
        (SvcParamKey::Mandatory, SvcParamValue::Mandatory(Mandatory(keys.to_vec())))
    }

    fn filter_all(
        priority: u16,
        target: &str,
        params: Vec<(SvcParamKey, SvcParamValue)>,
    ) -> Option<Vec<(SvcParamKey, SvcParamValue)>> {
        let record = RData::HTTPS(HTTPS(SVCB::new(priority, name(target), params)));
        let RData::HTTPS(HTTPS(kept)) = filtered(&record, &name("www.example.com."))? else { panic!() };
        assert!(kept.target_name.is_root() && kept.svc_priority == priority);
        Some(kept.svc_params)
    }

    #[test]
    fn nothing_is_told_that_leads_past_the_policy() {
        use SvcParamKey::{EchConfigList as Ech, Ipv4Hint, Ipv6Hint, NoDefaultAlpn, Port};
        let ech = (Ech, SvcParamValue::EchConfigList(EchConfigList(vec![0, 1])));
        let v4 = (Ipv4Hint, SvcParamValue::Ipv4Hint(IpHint(vec![A::new(10, 0, 0, 5)])));
        let v6 = (Ipv6Hint, SvcParamValue::Ipv6Hint(IpHint(vec![AAAA::new(0, 0, 0, 0, 0, 0, 0, 1)])));
        let unknown = (SvcParamKey::Unknown(9), SvcParamValue::Unknown(Unknown(vec![1])));
        let port = |number| (Port, SvcParamValue::Port(number));
        let no_default = (NoDefaultAlpn, SvcParamValue::NoDefaultAlpn);
        for (case, priority, target, params, want) in [
            ("plain", 1, ".", vec![alpn(&["h2"])], Some(vec![alpn(&["h2"])])),
            ("its own name", 1, "WWW.example.com.", vec![], Some(vec![])),
            ("another target", 1, "cdn.example.net.", vec![alpn(&["h2"])], None),
            ("an alias", 0, "cdn.example.net.", vec![], None),
            ("an alias of itself", 0, ".", vec![], None),
            ("ech", 1, ".", vec![alpn(&["h2"]), ech.clone()], Some(vec![alpn(&["h2"])])),
            ("hints", 1, ".", vec![alpn(&["h2"]), v4.clone(), v6], Some(vec![alpn(&["h2"])])),
            ("unknown", 1, ".", vec![unknown], Some(vec![])),
            ("another port", 1, ".", vec![port(8443)], None),
            ("HTTP/3 too", 1, ".", vec![alpn(&["h3", "h2", "h3-29"])], Some(vec![alpn(&["h2"])])),
            ("HTTP/3 or HTTP/1", 1, ".", vec![alpn(&["h3"])], Some(vec![])),
            ("HTTP/3 only", 1, ".", vec![alpn(&["h3"]), no_default.clone()], None),
            (
                "must be understood and stays",
                1,
                ".",
                vec![mandatory(&[SvcParamKey::Alpn]), alpn(&["h2"])],
                Some(vec![mandatory(&[SvcParamKey::Alpn]), alpn(&["h2"])]),
            ),
            ("must be understood and goes", 1, ".", vec![mandatory(&[Ech]), ech], None),
            ("hints that must be understood", 1, ".", vec![mandatory(&[Ipv4Hint]), v4], None),
            (
                "must be understood and is empty",
                1,
                ".",
                vec![mandatory(&[SvcParamKey::Alpn]), alpn(&["h3"])],
                None,
            ),
        ] {
            assert_eq!(filter_all(priority, target, params), want, "{case}");
        }
    }

    #[test]
    fn other_records_stay_as_they_are() {
        let address = RData::A(A::new(192, 0, 2, 1));
        assert_eq!(filtered(&address, &name("example.com.")), Some(address));
    }
}
