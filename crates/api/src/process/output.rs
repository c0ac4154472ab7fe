//! What a command has written to one of its streams, up to a bound.

use base64::{Engine as _, engine::general_purpose::STANDARD};
use schemars::JsonSchema;
use serde::Serialize;

/// Bytes of each stream that are kept; the rest is counted.
pub(crate) const OUTPUT_BYTES_MAX: usize = 1024 * 1024;

/// What there is of a stream.
#[derive(Debug, Default)]
pub(crate) struct Output {
    bytes: Vec<u8>,
    dropped: u64,
}

impl Output {
    /// Adds what there is room for.
    pub(crate) fn add(&mut self, bytes: &[u8]) {
        let room = OUTPUT_BYTES_MAX.saturating_sub(self.bytes.len());
        let (kept, dropped) = bytes.split_at(room.min(bytes.len()));
        self.bytes.extend_from_slice(kept);
        self.dropped = self.dropped.saturating_add(dropped.len() as u64);
    }

    /// Bytes that are kept.
    pub(crate) fn len(&self) -> usize {
        self.bytes.len()
    }

    pub(crate) fn view(&self) -> OutputView {
        let (text, base64) = match std::str::from_utf8(&self.bytes) {
            Ok(text) => (Some(text.to_owned()), None),
            // Cut off within a character.
            Err(error) if self.dropped > 0 && error.error_len().is_none() => (
                Some(
                    String::from_utf8_lossy(self.bytes.get(..error.valid_up_to()).unwrap_or_default())
                        .into_owned(),
                ),
                None,
            ),
            Err(_) => (None, Some(STANDARD.encode(&self.bytes))),
        };
        OutputView { text, base64, dropped_bytes: self.dropped }
    }
}

/// What a command has written to a stream.
#[derive(Debug, Serialize, JsonSchema)]
#[schemars(rename = "Output")]
pub(crate) struct OutputView {
    /// It, if it is UTF-8.
    #[serde(skip_serializing_if = "Option::is_none")]
    text: Option<String>,
    /// Else it in base64.
    #[serde(skip_serializing_if = "Option::is_none")]
    base64: Option<String>,
    /// Bytes after the first 1 MiB, which are not kept. If it is not 0, the output is cut off.
    dropped_bytes: u64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_beginning_is_kept_and_the_rest_counted() {
        for (name, parts, text, base64, dropped) in [
            ("nothing", vec![], Some(String::new()), None, 0),
            ("text", vec!["gr\u{fc}n".as_bytes().to_vec()], Some("gr\u{fc}n".to_owned()), None, 0),
            ("no text", vec![vec![0xff, 0]], None, Some("/wA=".to_owned()), 0),
            ("half a character", vec![vec![0xc3]], None, Some("ww==".to_owned()), 0),
            (
                "all that is kept and more",
                vec![vec![b'x'; OUTPUT_BYTES_MAX - 1], b"yz".to_vec(), b"z".to_vec()],
                Some("x".repeat(OUTPUT_BYTES_MAX - 1) + "y"),
                None,
                2,
            ),
            (
                "cut off within a character",
                vec![vec![b'x'; OUTPUT_BYTES_MAX - 1], "\u{fc}".as_bytes().to_vec()],
                Some("x".repeat(OUTPUT_BYTES_MAX - 1)),
                None,
                1,
            ),
        ] {
            let mut output = Output::default();
            parts.iter().for_each(|part| output.add(part));
            let view = output.view();
            assert!(view.text == text && view.base64 == base64, "{name}");
            assert_eq!(view.dropped_bytes, dropped, "{name}");
        }
    }
}
