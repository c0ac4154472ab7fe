use proptest::prelude::*;

use super::*;

fn name(text: &str) -> DnsName {
    DnsName::parse(text).unwrap()
}

#[test]
fn accepted_patterns_print_in_one_form() {
    let rows = [
        ("example.com", NamePattern::Exact(name("example.com")), "example.com"),
        ("Example.COM.", NamePattern::Exact(name("example.com")), "example.com"),
        ("*.Example.com", NamePattern::Subdomains(name("example.com")), "*.example.com"),
        ("*.com", NamePattern::Subdomains(name("com")), "*.com"),
        ("*", NamePattern::Any, "*"),
    ];
    for (input, want, printed) in rows {
        let pattern = NamePattern::parse(input).unwrap();
        assert_eq!(pattern, want, "{input}");
        assert_eq!(pattern.to_string(), printed, "{input}");
    }
}

#[test]
fn refused_patterns_say_what_they_look_like() {
    let url = |host: &str| PatternError::LooksLikeUrl { host: host.to_owned() };
    let rows = [
        ("", PatternError::Name(NameError::Empty)),
        ("*.", PatternError::Name(NameError::Empty)),
        ("example.*", PatternError::Wildcard),
        ("ex*ample.com", PatternError::Wildcard),
        ("*example.com", PatternError::Wildcard),
        ("foo*.com", PatternError::Wildcard),
        ("*.*.example.com", PatternError::Wildcard),
        ("**.example.com", PatternError::Wildcard),
        ("éxample.com", PatternError::Name(NameError::NotAscii)),
        (".example.com", PatternError::Name(NameError::EmptyLabel)),
        ("example.com:443", PatternError::Name(NameError::Character { character: ':' })),
        ("10.0.0.1", PatternError::LooksLikeAddress),
        ("10.0.0.0/8", PatternError::LooksLikeAddress),
        ("10.1", PatternError::LooksLikeAddress),
        ("*.10.1", PatternError::LooksLikeAddress),
        ("0x7f.0x1", PatternError::LooksLikeAddress),
        ("::1", PatternError::LooksLikeAddress),
        ("[2001:db8::1]", PatternError::LooksLikeAddress),
        ("[2001:db8::/32]", PatternError::LooksLikeAddress),
        ("2001:db8::/32", PatternError::LooksLikeAddress),
        ("http://example.com/", url("example.com")),
        ("https://user:secret@example.com:8443/a?b#c", url("example.com")),
        ("https://*.example.com", url("*.example.com")),
        ("https://[2001:db8::1]:443/", url("[2001:db8::1]")),
        ("//example.com", url("example.com")),
        ("example.com/path", url("example.com")),
    ];
    for (input, want) in rows {
        assert_eq!(NamePattern::parse(input), Err(want), "{input}");
    }
}

#[test]
fn each_match_has_its_nearest_miss() {
    let rows = [
        ("example.com", "example.com", true),
        ("example.com", "a.example.com", false),
        ("example.com", "evilexample.com", false),
        ("*.example.com", "a.example.com", true),
        ("*.example.com", "a.b.example.com", true),
        ("*.example.com", "example.com", false),
        ("*.example.com", "evilexample.com", false),
        ("*.example.com", "a.evilexample.com", false),
        ("*.example.com", "example.com.evil.test", false),
        ("*.example.com", "a.example.org", false),
        ("*", "anything.test", true),
        ("*", "com", true),
    ];
    for (pattern, asked, want) in rows {
        let got = NamePattern::parse(pattern).unwrap().matches(&name(asked));
        assert_eq!(got, want, "{pattern} against {asked}");
    }
}

proptest! {
    #[test]
    fn printing_and_parsing_is_the_identity(text in "(\\*\\.)?([a-zA-Z0-9_-]{1,5}\\.){0,3}[a-zA-Z*]{1,5}\\.?") {
        if let Ok(pattern) = NamePattern::parse(&text) {
            prop_assert_eq!(NamePattern::parse(&pattern.to_string()), Ok(pattern));
        }
    }

    #[test]
    fn no_text_makes_the_parser_panic(text in any::<String>()) {
        let _result = NamePattern::parse(&text);
    }

    #[test]
    fn a_wildcard_matches_by_labels(below in "[a-z]{1,5}(\\.[a-z]{1,5}){0,3}", apex in "[a-z]{1,5}\\.[a-z]{1,5}") {
        let wildcard = NamePattern::parse(&format!("*.{apex}")).unwrap();
        let inside = name(&format!("{below}.{apex}"));
        prop_assert!(wildcard.matches(&inside));
        prop_assert!(!wildcard.matches(&name(&apex)));
        // Without the dot between them, the apex is a part of a longer label.
        let joined = name(&format!("{below}{apex}"));
        prop_assert!(!wildcard.matches(&joined));
    }
}
