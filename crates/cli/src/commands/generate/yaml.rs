//! Writes YAML that readers of version 1.1 and of version 1.2 take for the same: what could be a number, a truth value
//! or a time is quoted.

use serde_json::Value;

/// Longer strings are folded; above what any value here comes to, so that each stays on its lines.
const LINE_CHARS_MAX: usize = 1024 * 1024;

/// Returns a document, with a line end.
pub(super) fn document(value: &Value) -> anyhow::Result<String> {
    let options = serde_saphyr::ser_options! { folded_wrap_chars: LINE_CHARS_MAX };
    Ok(serde_saphyr::to_string_with_options(value, options)?)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn strings_stay_strings_for_every_reader() {
        let got = document(&json!({
            "truth": "on", "number": "0o17", "time": "31:28", "null": "~", "comment": "a #b", "text": "a: b\nc",
            "empty": {}, "list": ["-", 3128],
        }));
        let want = "comment: \"a #b\"\nempty: {}\nlist:\n- '-'\n- 3128\n\"null\": \"~\"\nnumber: \"0o17\"\ntext: |-\n  a: b\n  c\ntime: \"31:28\"\ntruth: \"on\"\n";
        assert_eq!(got.unwrap(), want);
    }
}
