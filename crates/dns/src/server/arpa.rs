//! Names of addresses (`in-addr.arpa`, `ip6.arpa`). Pure.

use std::net::IpAddr;

use hickory_proto::rr::Name;

/// Returns the address that `name` is the name of, in whole; never an IPv4-mapped one.
pub(crate) fn address(name: &Name) -> Option<IpAddr> {
    // No number is written so (RFC 1035 §3.5).
    if name.iter().any(|label| label.len() > 1 && label.starts_with(b"0")) {
        return None;
    }
    let network = name.parse_arpa_name().ok()?;
    let is_whole = network.prefix_len() == network.max_prefix_len();
    is_whole.then(|| network.addr().to_canonical())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_whole_addresses_have_names() {
        let v6 = "1.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.8.b.d.0.1.0.0.2.ip6.arpa.";
        let v6_padded = "01.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.8.b.d.0.1.0.0.2.ip6.arpa.";
        for (name, want) in [
            ("34.216.184.93.in-addr.arpa.", Some("93.184.216.34")),
            ("34.216.184.93.IN-ADDR.Arpa.", Some("93.184.216.34")),
            (v6, Some("2001:db8::1")),
            ("216.184.93.in-addr.arpa.", None),
            ("in-addr.arpa.", None),
            ("x.34.216.184.93.in-addr.arpa.", None),
            ("34.216.184.999.in-addr.arpa.", None),
            ("34.216.184.93.in-addr.arpa.example.com.", None),
            ("8.b.d.0.1.0.0.2.ip6.arpa.", None),
            ("034.216.184.93.in-addr.arpa.", None),
            ("34.216.184.0093.in-addr.arpa.", None),
            ("0.0.184.93.in-addr.arpa.", Some("93.184.0.0")),
            (v6_padded, None),
            (".", None),
        ] {
            let want = want.map(|text| text.parse().unwrap());
            assert_eq!(address(&Name::from_ascii(name).unwrap()), want, "{name}");
        }
    }
}
