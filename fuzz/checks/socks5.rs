//! What holds for the reader of SOCKS5 messages, whatever the bytes are.

use std::fmt::Debug;

use exeat_model::{Authority, Host};
use exeat_proxy::socks5_wire::{Address, MESSAGE_BYTES_MAX, Read, Request, greeting, login, request};

/// Reads `bytes` as a client's whole side of the negotiation, and at each step as any of the messages.
pub(crate) fn check(bytes: &[u8]) {
    check_each(bytes);
    let Some(after_greeting) = rest(bytes, &greeting(bytes)) else { return };
    check_each(after_greeting);
    if let Some(after_login) = rest(after_greeting, &login(after_greeting)) {
        check_each(after_login);
    }
}

fn check_each(bytes: &[u8]) {
    check_message(bytes, greeting);
    check_message(bytes, login);
    check_message(bytes, request);
    if let Ok(Some((message, _))) = request(bytes) {
        check_target(&message);
    }
}

fn rest<'a, T>(bytes: &'a [u8], read: &Read<T>) -> Option<&'a [u8]> {
    let (_, length) = read.as_ref().ok()?.as_ref()?;
    bytes.get(*length..)
}

/// No other number of bytes says anything else, and not many bytes say nothing.
fn check_message<T: Debug + PartialEq>(bytes: &[u8], reader: fn(&[u8]) -> Read<T>) {
    let whole = reader(bytes);
    match &whole {
        Ok(None) => assert!(bytes.len() < MESSAGE_BYTES_MAX, "{} bytes and no end", bytes.len()),
        Ok(Some((message, length))) => {
            assert!((1..=MESSAGE_BYTES_MAX.min(bytes.len())).contains(length), "{length}");
            assert_eq!(reader(&bytes[..length - 1]), Ok(None), "{message:?} a byte too early");
            assert_eq!(reader(&bytes[..*length]), whole, "changed by what follows");
        }
        Err(_) => {}
    }
    for end in 0..bytes.len().min(MESSAGE_BYTES_MAX) {
        let early = reader(&bytes[..end]);
        assert!(early == Ok(None) || early == whole, "{early:?} after {end} bytes, then {whole:?}");
    }
}

/// A target is canonical, and is what the model's own parser makes of the same text.
fn check_target(message: &Request) {
    let Some(authority) = message.authority() else { return };
    assert_eq!(Authority::parse(&authority.to_string(), None).as_ref(), Ok(&authority));
    assert_eq!(authority.port.get(), message.port);
    match (&message.address, &authority.host) {
        (Address::Ip(ip), Host::Address(host)) => assert_eq!(host.get(), ip.to_canonical()),
        (Address::Ip(ip), Host::Name(name)) => panic!("{ip} became {name}"),
        (Address::Domain(bytes), host) => {
            let text = std::str::from_utf8(bytes).expect("a host is text");
            assert!(text.bytes().all(|byte| byte.is_ascii_graphic()), "{text:?}");
            let bracketed = format!("[{text}]");
            let spelled = Host::parse(text).or_else(|_| Host::parse(&bracketed));
            assert_eq!(spelled.as_ref(), Ok(host), "{text:?}");
        }
    }
}
