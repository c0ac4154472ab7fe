use proptest::prelude::*;

use super::*;

fn text_of(len: usize) -> String {
    // Labels of 49 octets and their dots: 50, 100, 150, 200, then what is left.
    let mut text = String::new();
    while len - text.len() > 50 {
        text.push_str(&"a".repeat(49));
        text.push('.');
    }
    text.push_str(&"b".repeat(len - text.len()));
    text
}

#[test]
fn accepted_names_have_one_form() {
    let label_63 = "a".repeat(63);
    let name_253 = text_of(253);
    let dotted_253 = format!("{name_253}.");
    let rows: &[(&str, &str, &str)] = &[
        ("plain", "example.com", "example.com"),
        ("upper case", "EXAMPLE.Com", "example.com"),
        ("trailing dot", "example.com.", "example.com"),
        ("single label", "localhost", "localhost"),
        ("underscore", "_dmarc.a_b.example.org", "_dmarc.a_b.example.org"),
        ("hyphen inside", "a-b--c.example", "a-b--c.example"),
        ("a-label", "XN--Bcher-kva.example", "xn--bcher-kva.example"),
        ("digits before the last label", "127.0.0.1.example", "127.0.0.1.example"),
        ("digits and a letter last", "example.1a", "example.1a"),
        ("0x with a letter that is not hexadecimal", "example.0xg", "example.0xg"),
        ("label of 63", &label_63, &label_63),
        ("name of 253", &name_253, &name_253),
        ("name of 253 and the dot", &dotted_253, &name_253),
    ];
    for &(name, input, want) in rows {
        assert_eq!(DnsName::parse(input).as_ref().map(DnsName::as_str), Ok(want), "{name}");
    }
}

#[test]
fn refused_names_say_why() {
    let label_64 = format!("{}.example", "a".repeat(64));
    let name_254 = text_of(254);
    let rows: &[(&str, &str, NameError)] = &[
        ("empty", "", NameError::Empty),
        ("the root", ".", NameError::Empty),
        ("two trailing dots", "example.com..", NameError::EmptyLabel),
        ("leading dot", ".example.com", NameError::EmptyLabel),
        ("two dots", "example..com", NameError::EmptyLabel),
        ("label of 64", &label_64, NameError::LabelTooLong { len: 64 }),
        ("name of 254", &name_254, NameError::TooLong { len: 254 }),
        ("full-width letter", "ｅxample.com", NameError::NotAscii),
        ("ideographic full stop", "example。com", NameError::NotAscii),
        ("soft hyphen", "exam\u{ad}ple.com", NameError::NotAscii),
        ("space", "exa mple.com", NameError::Character { character: ' ' }),
        ("NUL", "evil.test\0.example.org", NameError::Character { character: '\0' }),
        ("line end", "example.com\r\nx", NameError::Character { character: '\r' }),
        ("percent", "evil.test%00.example.org", NameError::Character { character: '%' }),
        ("wildcard", "*.example.com", NameError::Character { character: '*' }),
        ("backslash", "evil.test\\.example.org", NameError::Character { character: '\\' }),
        ("leading hyphen", "-a.example.org", NameError::Hyphen),
        ("trailing hyphen", "a-.example.org", NameError::Hyphen),
        ("hyphen alone", "example.-", NameError::Hyphen),
        ("decimal", "2130706433", NameError::NumericLastLabel),
        ("short IPv4", "127.1", NameError::NumericLastLabel),
        ("IPv4", "127.0.0.1", NameError::NumericLastLabel),
        ("IPv4 with the root's dot", "127.0.0.1.", NameError::NumericLastLabel),
        ("hexadecimal", "0x7f000001", NameError::NumericLastLabel),
        ("upper-case hexadecimal", "0X7F.1", NameError::NumericLastLabel),
        ("hexadecimal last label", "example.0xff", NameError::NumericLastLabel),
        ("0x without digits", "example.0x", NameError::NumericLastLabel),
        ("more digits than any integer", "1.99999999999999999999999999", NameError::NumericLastLabel),
    ];
    for (name, input, want) in rows {
        assert_eq!(DnsName::parse(input).as_ref(), Err(want), "{name}");
    }
}

#[test]
fn parents_come_nearest_first() {
    let rows: &[(&str, &[&str], &[&str])] =
        &[("a.b.c", &["a", "b", "c"], &["b.c", "c"]), ("b.c", &["b", "c"], &["c"]), ("c", &["c"], &[])];
    for &(input, labels, parents) in rows {
        let name = DnsName::parse(input).unwrap();
        assert_eq!(name.labels().collect::<Vec<_>>(), labels, "{input}");
        assert_eq!(name.parents().collect::<Vec<_>>(), parents, "{input}");
        assert_eq!(name.is_single_label(), parents.is_empty(), "{input}");
    }
}

#[test]
fn below_means_at_a_label_boundary() {
    let parent = DnsName::parse("example.com").unwrap();
    let rows = [
        ("a.example.com", true),
        ("a.b.example.com", true),
        ("example.com", false),
        ("evilexample.com", false),
        ("example.com.evil.test", false),
        ("com", false),
    ];
    for (input, want) in rows {
        assert_eq!(DnsName::parse(input).unwrap().is_below(&parent), want, "{input}");
    }
}

/// Text in which most draws are near a name: mixed case, digits, dots, and now and then anything.
fn near_names() -> impl Strategy<Value = String> {
    prop_oneof!["[a-cA-C0-2x_.-]{0,24}", "([a-z0-9-]{1,5}\\.){0,4}[a-z0-9]{1,5}\\.?", any::<String>()]
}

proptest! {
    #[test]
    fn printing_and_parsing_is_the_identity(text in near_names()) {
        if let Ok(name) = DnsName::parse(&text) {
            prop_assert_eq!(name.to_string().parse(), Ok(name.clone()));
            let folded = text.to_ascii_lowercase();
            prop_assert_eq!(name.as_str(), folded.strip_suffix('.').unwrap_or(&folded));
        }
    }

    #[test]
    fn case_and_the_final_dot_change_nothing(text in near_names()) {
        prop_assume!(!text.ends_with('.'));
        let parsed = DnsName::parse(&text);
        prop_assert_eq!(DnsName::parse(&text.to_ascii_uppercase()).ok(), parsed.clone().ok());
        prop_assert_eq!(DnsName::parse(&format!("{text}.")).ok(), parsed.ok());
    }

    #[test]
    fn a_name_lies_below_each_of_its_parents(text in near_names()) {
        if let Ok(name) = DnsName::parse(&text) {
            prop_assert_eq!(name.labels().count(), name.parents().count() + 1);
            for parent in name.parents() {
                prop_assert!(name.is_below(&DnsName::parse(parent).unwrap()));
            }
        }
    }
}
