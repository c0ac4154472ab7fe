//! The time of a record.

use std::{
    cell::RefCell,
    fmt::Write,
    time::{SystemTime, UNIX_EPOCH},
};

/// What is shown of a clock that is beyond the calendar: one that is not set.
const UNSET: &str = "1970-01-01T00:00:00.000Z";
/// Bytes up to the milliseconds: `2023-11-14T22:13:20.`.
const SECOND_BYTES: usize = "1970-01-01T00:00:00.".len();

thread_local! {
    /// The last time that this thread wrote, and its second: thousands of records share one, and a calendar takes longer
    /// than the rest of a line.
    static LAST: RefCell<(u64, String)> = const { RefCell::new((0, String::new())) };
}

/// Gives `write` the time as RFC 3339, in UTC, with milliseconds.
pub(crate) fn with_rfc3339<T>(time: SystemTime, write: impl FnOnce(&str) -> T) -> T {
    LAST.with_borrow_mut(|(second, text)| {
        match time.duration_since(UNIX_EPOCH) {
            Ok(since) if since.as_secs() == *second && !text.is_empty() => {
                text.truncate(SECOND_BYTES);
                let millis = since.subsec_millis();
                text.extend([100, 10, 1].iter().filter_map(|unit| char::from_digit(millis / unit % 10, 10)));
                text.push('Z');
            }
            since => {
                text.clear();
                let Ok(time) = jiff::Timestamp::try_from(time) else {
                    return write(UNSET);
                };
                // Writing to a string does not fail.
                let _ok = write!(text, "{time:.3}");
                match since {
                    Ok(since) => *second = since.as_secs(),
                    // Before 1970 the parts of a second count backwards: not kept.
                    Err(_) => return write(&std::mem::take(text)),
                }
            }
        }
        write(text)
    })
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn times_are_those_of_the_calendar_in_any_order() {
        let cases = [
            (0, "1970-01-01T00:00:00.000Z"),
            (1_700_000_000_007, "2023-11-14T22:13:20.007Z"),
            (1_700_000_000_120, "2023-11-14T22:13:20.120Z"),
            (1_700_000_000_999, "2023-11-14T22:13:20.999Z"),
            (1_700_000_001_000, "2023-11-14T22:13:21.000Z"),
            (1_709_251_199_999, "2024-02-29T23:59:59.999Z"),
            (-1, "1969-12-31T23:59:59.999Z"),
            (5, "1970-01-01T00:00:00.005Z"),
            (-999, "1969-12-31T23:59:59.001Z"),
            (253_402_207_200_000, "9999-12-30T22:00:00.000Z"),
            (253_402_300_800_001, UNSET),
            (253_402_300_800_002, UNSET),
            (1_700_000_000_007, "2023-11-14T22:13:20.007Z"),
        ];
        for (millis, want) in cases {
            let part = Duration::from_millis(i64::unsigned_abs(millis));
            let time = if millis < 0 { UNIX_EPOCH - part } else { UNIX_EPOCH + part };
            assert_eq!(with_rfc3339(time, str::to_owned), want, "{millis}");
        }
    }
}
