//! Durations as people write them: a whole number and a unit.

use std::time::Duration;

/// Units, longest first, with their length in milliseconds.
const UNITS: [(&str, u64); 5] = [("d", 86_400_000), ("h", 3_600_000), ("m", 60_000), ("s", 1000), ("ms", 1)];

/// Returns the duration that `text` writes (`500ms`, `10s`, `5m`, `1h`, `2d`), or `None`.
#[must_use]
pub fn parse_duration(text: &str) -> Option<Duration> {
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = text.split_at_checked(digits)?;
    let (_, milliseconds) = UNITS.into_iter().find(|&(name, _)| name == unit)?;
    number.parse::<u64>().ok()?.checked_mul(milliseconds).map(Duration::from_millis)
}

/// Returns the shortest text that [`parse_duration`] reads back as `duration`, to the millisecond.
#[must_use]
pub fn duration_text(duration: Duration) -> String {
    let milliseconds = u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
    let (unit, length) =
        UNITS.into_iter().find(|&(_, length)| milliseconds % length == 0).unwrap_or(("ms", 1));
    format!("{}{unit}", milliseconds / length)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_a_whole_number_and_a_unit() {
        let cases = [
            ("500ms", Some(500)),
            ("10s", Some(10_000)),
            ("5m", Some(300_000)),
            ("1h", Some(3_600_000)),
            ("2d", Some(172_800_000)),
            ("", None),
            ("10", None),
            ("s", None),
            ("-1s", None),
            ("+1s", None),
            ("1.5s", None),
            ("10 s", None),
            ("10S", None),
            ("99999999999999999999s", None),
            ("18446744073709551615d", None),
        ];
        for (input, want) in cases {
            assert_eq!(parse_duration(input), want.map(Duration::from_millis), "{input}");
        }
        for shown in ["1ms", "1500ms", "10s", "90s", "5m", "1h", "7d"] {
            assert_eq!(parse_duration(shown).map(duration_text).as_deref(), Some(shown));
        }
    }
}
