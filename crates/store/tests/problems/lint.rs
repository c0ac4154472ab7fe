//! Entries of which only all rules together show that they are not what was meant.

use super::check;

#[test]
fn entries_that_open_nothing_or_too_much() {
    check(&[
        (
            "denied, for all its ports",
            "[policy.p]\nallow = [\"a.example.com\", \"b.example.com\"]\ndeny = [\"c.example.com\", \"b.example.com:80,443\"]",
            &[
                "w 2:27 `b.example.com` opens nothing: `b.example.com:80,443` at t.toml:3:26 denies it | remove one of the two",
            ],
        ),
        (
            "denied, for one of them",
            "[policy.p]\nallow = [\"a.example.com\", \"b.example.com\"]\ndeny = [\"b.example.com:80\"]",
            &[],
        ),
        (
            "metadata",
            "[policy.p]\nallow = [\"a.example.com\", \"169.254.169.254\"]",
            &[
                "w 2:27 `169.254.169.254` opens nothing: a cloud's metadata is not opened by an entry | write metadata = [\"169.254.169.254\"] in the policy if it is meant, or remove the entry",
            ],
        ),
        (
            "our own listener",
            "[proxy]\nlisten = [\"127.0.0.1:3128\"]\n[policy.p]\nallow = [\"127.0.0.1:3128\", \"127.0.0.1:3129\"]",
            &["w 4:10 `127.0.0.1:3128` opens nothing: it is a listener of this proxy | remove the entry"],
        ),
        (
            "everything",
            "[policy.p]\nallow = [\"a.example.com\", \"0.0.0.0/0\"]",
            &[
                "w 2:27 `0.0.0.0/0` opens loopback, private and link-local addresses besides the public ones | write \"@any-public\" for all that is globally reachable, by name or address, or the networks that are meant",
            ],
        ),
        ("a site", "[policy.p]\nallow = [\"127.0.0.0/8\", \"10.0.0.0/8\", \"fd00::/8\"]", &[]),
    ]);
}
