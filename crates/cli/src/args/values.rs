//! Values of flags that are read as the file's are, with the same corrections.

use std::net::{IpAddr, SocketAddr};

/// Reads an address and a port.
pub(crate) fn parse_address_and_port(text: &str) -> Result<SocketAddr, String> {
    text.parse().map_err(|_| exeat_store::address_help(text))
}

/// Reads an address.
pub(crate) fn parse_address(text: &str) -> Result<IpAddr, String> {
    text.parse().map_err(|_| {
        let bare = text.trim_start_matches('[').trim_end_matches(']');
        let only_address = text.parse::<SocketAddr>().map(|address| address.ip()).or_else(|_| bare.parse());
        match only_address {
            Ok(address) => format!("an address alone: write {address}"),
            Err(_) if text.contains('/') => "one address, and not a network: write 10.20.1.7".to_owned(),
            Err(_) => "write an address, such as 10.20.1.7 or 2001:db8::7, and not a name".to_owned(),
        }
    })
}

/// Reads the number of a revision.
pub(crate) fn parse_revision(text: &str) -> Result<u64, String> {
    text.parse().map_err(|_| "write the number of a revision: `exeat policy revisions` lists them".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_a_value_is_corrected() {
        for (text, want) in [
            ("127.0.0.1:3128", None),
            ("[::1]:3128", None),
            ("3128", Some("add an address: \"127.0.0.1:3128\"")),
            (":3128", Some("write \"0.0.0.0:3128\" or \"[::]:3128\" to listen on every address")),
            ("localhost:3128", Some("write \"127.0.0.1:3128\" or \"[::1]:3128\"")),
            ("127.0.0.1", Some("add the port: \"127.0.0.1:3128\"")),
            ("proxy.example.com:3128", Some("write \"127.0.0.1:3128\", or \"[::1]:3128\" for IPv6")),
        ] {
            assert_eq!(parse_address_and_port(text).err().as_deref(), want, "{text}");
        }
        for (text, want) in [
            ("10.20.1.7", None),
            ("2001:db8::7", None),
            ("10.20.1.7:443", Some("an address alone: write 10.20.1.7")),
            ("[2001:db8::7]", Some("an address alone: write 2001:db8::7")),
            ("10.20.0.0/16", Some("one address, and not a network: write 10.20.1.7")),
            ("db.example.com", Some("write an address, such as 10.20.1.7 or 2001:db8::7, and not a name")),
        ] {
            assert_eq!(parse_address(text).err().as_deref(), want, "{text}");
        }
        let help = "write the number of a revision: `exeat policy revisions` lists them";
        for (text, want) in [("12", None), ("abc", Some(help)), ("-1", Some(help))] {
            assert_eq!(parse_revision(text).err().as_deref(), want, "{text}");
        }
    }
}
