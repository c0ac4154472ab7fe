//! Text for a terminal: safe, short, and as wide as it is said to be.

use unicode_width::{UnicodeWidthChar, UnicodeWidthStr};

use super::rates::Rate;

/// Returns a text of others as it may be shown: what steers a terminal, changes the direction of writing or takes no
/// room is written out.
pub(super) fn safe(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c.width() {
            Some(1..) if !c.is_control() => out.push(c),
            Some(_) | None => out.extend(c.escape_unicode()),
        }
    }
    out
}

/// Which end of a text is left out when it is too long.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Keep {
    /// The beginning stays.
    Start,
    /// The end stays: what a name is worth is at its end.
    End,
}

/// Returns the text in exactly `width` columns, filled with spaces or cut with an ellipsis.
pub(super) fn fit(text: &str, width: usize, keep: Keep) -> String {
    let has = text.width();
    if has <= width {
        return format!("{text}{}", " ".repeat(width - has));
    }
    let Some(room) = width.checked_sub(1) else { return String::new() };
    let kept = match keep {
        Keep::Start => take(text.chars(), room),
        Keep::End => take(text.chars().rev(), room).into_iter().rev().collect(),
    };
    let kept: String = kept.into_iter().collect();
    // A wide character may not have fitted into the last column.
    let gap = " ".repeat(room - kept.width());
    match keep {
        Keep::Start => format!("{kept}…{gap}"),
        Keep::End => format!("{gap}…{kept}"),
    }
}

fn take(chars: impl Iterator<Item = char>, room: usize) -> Vec<char> {
    let mut used = 0;
    chars
        .take_while(|c| {
            used += c.width().unwrap_or(0);
            used <= room
        })
        .collect()
}

/// Returns a number in at most four characters: `0`, `9.5`, `950`, `9.5k`, `95M`. Powers of 1000.
pub(super) fn short(number: f64) -> String {
    let mut number = number;
    for unit in ["", "k", "M", "G", "T"] {
        if number == 0.0 {
            return "0".to_owned();
        } else if number < 9.95 {
            return format!("{number:.1}{unit}");
        } else if number < 999.5 {
            return format!("{number:.0}{unit}");
        }
        number /= 1000.0;
    }
    format!("{number:.0}P")
}

/// A rate, or a dash while there is none.
pub(super) fn rate(rate: Rate) -> String {
    rate.map_or_else(|| "-".to_owned(), short)
}

/// A count of things, exact as long as it is short.
pub(super) fn count(count: u64) -> String {
    if count < 100_000 {
        return count.to_string();
    }
    #[expect(clippy::cast_precision_loss, reason = "shown with two digits")]
    let about = count as f64;
    short(about)
}

/// A time in its largest unit, so that two digits are left.
pub(super) fn age(seconds: f64) -> String {
    for (unit, length, until) in [("s", 1.0, 100.0), ("m", 60.0, 100.0), ("h", 3600.0, 72.0)] {
        if seconds / length < until {
            return format!("{:.0}{unit}", (seconds / length).floor());
        }
    }
    format!("{:.0}d", (seconds / 86_400.0).floor())
}

/// The time of day of an RFC 3339 time.
pub(super) fn time_of_day(time: &str) -> String {
    safe(time.get(11..19).unwrap_or(time))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_that_steers_a_terminal_is_left() {
        for (text, want) in [
            ("api.example.com:443", "api.example.com:443"),
            ("Zahlungen für alle", "Zahlungen für alle"),
            ("a\u{1b}[2Jb", "a\\u{1b}[2Jb"),
            ("a\r\nb\t\0", "a\\u{d}\\u{a}b\\u{9}\\u{0}"),
            ("\u{9b}31m", "\\u{9b}31m"),
            ("right\u{202e}left", "right\\u{202e}left"),
            ("zero\u{200b}width", "zero\\u{200b}width"),
            ("e\u{301}", "e\\u{301}"),
        ] {
            assert_eq!(safe(text), want);
        }
    }

    #[test]
    fn text_takes_exactly_its_room() {
        for (text, width, keep, want) in [
            ("abc", 5, Keep::Start, "abc  "),
            ("abcdef", 4, Keep::Start, "abc…"),
            ("abcdef", 4, Keep::End, "…def"),
            ("abcdef", 1, Keep::End, "…"),
            ("abcdef", 0, Keep::Start, ""),
            ("支払い系統", 6, Keep::Start, "支払… "),
            ("支払い系統", 6, Keep::End, " …系統"),
        ] {
            let got = fit(text, width, keep);
            assert_eq!((got.as_str(), got.width()), (want, width), "{text} {width}");
        }
    }

    #[test]
    fn numbers_are_short() {
        for (number, want) in [
            (0.0, "0"),
            (0.04, "0.0"),
            (9.94, "9.9"),
            (9.96, "10"),
            (999.4, "999"),
            (999.6, "1.0k"),
            (34_500.0, "34k"),
            (1.25e6, "1.2M"),
            (2e9, "2.0G"),
            (7e15, "7P"),
        ] {
            assert_eq!(short(number), want, "{number}");
        }
        assert_eq!((rate(None), rate(Some(2.0))), ("-".to_owned(), "2.0".to_owned()));
        assert_eq!((count(99_999), count(100_000)), ("99999".to_owned(), "100k".to_owned()));
        for (seconds, want) in [(0.2, "0s"), (99.9, "99s"), (100.0, "1m"), (6_000.0, "1h"), (300_000.0, "3d")]
        {
            assert_eq!(age(seconds), want, "{seconds}");
        }
        assert_eq!(time_of_day("2026-01-02T03:04:05.678Z"), "03:04:05");
        assert_eq!(time_of_day("odd\u{1b}"), "odd\\u{1b}");
    }
}
