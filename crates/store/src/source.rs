//! The text of a file: from byte offsets to lines and columns, and to excerpts that are safe to print.

use std::ops::Range;
use std::sync::Arc;

use crate::problem::{Excerpt, Finding, Location, Problem, is_unprintable};

/// Distance in bytes between the character counts kept by [`Source`]: bounds the work of one lookup even when
/// the whole file is one line.
const STRIDE_BYTES: usize = 512;

/// Longest piece of a source line that a report prints, in characters; the rest is cut on both sides.
const EXCERPT_CHARS_MAX: usize = 160;

/// Characters kept before the underline when a long line is cut.
const EXCERPT_LEAD_CHARS: usize = 40;

/// A file's name and text, indexed by line.
pub(crate) struct Source<'t> {
    name: Arc<str>,
    text: &'t str,
    /// Byte offset at which each line starts; never empty.
    lines: Vec<usize>,
    /// Characters before each multiple of [`STRIDE_BYTES`].
    strides: Vec<usize>,
    /// What must not be printed, in order and disjoint.
    secrets: Vec<Range<usize>>,
    /// Number of the text's first line: 1, unless the text is a line cut from a file.
    first_line: u32,
}

impl<'t> Source<'t> {
    /// Indexes a text. Offsets beyond its end are clamped by every method.
    pub(crate) fn new(name: Arc<str>, text: &'t str) -> Self {
        let newlines = text.bytes().enumerate().filter(|&(_, byte)| byte == b'\n');
        let lines = std::iter::once(0).chain(newlines.map(|(at, _)| at + 1)).collect();
        let mut characters = 0;
        let strides = text
            .as_bytes()
            .chunks(STRIDE_BYTES)
            .map(|chunk| {
                let before = characters;
                characters += count_characters(chunk);
                before
            })
            .collect();
        Self { name, text, lines, strides, secrets: Vec::new(), first_line: 1 }
    }

    /// Takes one line of a file, without its end, that is not in memory as a whole.
    pub(crate) fn of_line(name: Arc<str>, text: &'t str, line: u32) -> Self {
        Self { first_line: line, ..Self::new(name, text) }
    }

    /// Returns the file's name.
    pub(crate) fn name(&self) -> &Arc<str> {
        &self.name
    }

    /// Returns the text.
    pub(crate) fn text(&self) -> &'t str {
        self.text
    }

    /// Sets the parts of the text that no excerpt may show.
    pub(crate) fn hide(&mut self, mut secrets: Vec<Range<usize>>) {
        secrets.retain(|range| !range.is_empty());
        secrets.sort_by_key(|range| range.start);
        self.secrets.clear();
        for range in secrets {
            match self.secrets.last_mut() {
                Some(last) if range.start <= last.end => last.end = last.end.max(range.end),
                Some(_) | None => self.secrets.push(range),
            }
        }
    }

    /// Index, from 1, of the line that holds this offset.
    fn line(&self, offset: usize) -> u32 {
        to_u32(self.lines.partition_point(|&start| start <= offset.min(self.text.len())))
    }

    /// Returns the line and column, both from 1, of this offset.
    pub(crate) fn position(&self, offset: usize) -> (u32, u32) {
        let line = self.line(offset);
        let column = self.characters(offset) - self.characters(self.line_span(line).start);
        (line.saturating_add(self.first_line - 1), to_u32(column + 1))
    }

    /// Returns the span of the value (a quoted string, an inline table or a bare word) that starts at a line and
    /// column as [`Source::position`] gives them.
    pub(crate) fn value_at(&self, line: u32, column: u32) -> Range<usize> {
        let line = self.line_span(line.saturating_sub(self.first_line - 1));
        let text = self.text.get(line.clone()).unwrap_or_default();
        let skip = usize::try_from(column.saturating_sub(1)).unwrap_or(usize::MAX);
        let start = text.char_indices().nth(skip).map_or(text.len(), |(index, _)| index);
        let rest = text.get(start..).unwrap_or_default();
        let end = match rest.chars().next() {
            Some(quote @ ('"' | '\'')) => rest.get(1..).and_then(|rest| rest.find(quote)).map(|at| at + 2),
            Some('{') => rest.rfind('}').map(|at| at + 1),
            Some(_) | None => None,
        };
        let len = end.unwrap_or_else(|| rest.trim_end().len());
        line.start + start..line.start + start + len
    }

    /// Returns where a span lies: its first line only, and of a secret only its beginning.
    pub(crate) fn locate(&self, span: &Range<usize>) -> Location {
        let (line, column) = self.position(span.start);
        let end = span.end.min(self.line_span(line).end);
        let length = if self.touches_secret(span) {
            1
        } else {
            self.characters(end) - self.characters(span.start.min(end))
        };
        Location { line, column, end_column: column.saturating_add(to_u32(length.max(1))) }
    }

    /// Places a finding at a span of this text.
    pub(crate) fn problem(&self, span: &Range<usize>, finding: Finding) -> Problem {
        let location = self.locate(span);
        let excerpt = self.excerpt(span);
        Problem { file: Arc::clone(&self.name), location: Some(location), excerpt: Some(excerpt), finding }
    }

    /// Byte range of a line (from 1), without its line end.
    fn line_span(&self, line: u32) -> Range<usize> {
        let index = usize::try_from(line).unwrap_or(usize::MAX);
        let start = self.lines.get(index.saturating_sub(1)).copied().unwrap_or(self.text.len());
        let next = self.lines.get(index).map_or(self.text.len(), |next| next - 1);
        let text = self.text.get(start..next).unwrap_or_default();
        start..start + text.strip_suffix('\r').unwrap_or(text).len()
    }

    /// Characters before an offset.
    fn characters(&self, offset: usize) -> usize {
        let offset = offset.min(self.text.len());
        let stride = offset / STRIDE_BYTES;
        let before = self.strides.get(stride).copied();
        let counted_to = if before.is_some() { stride * STRIDE_BYTES } else { 0 };
        let rest = self.text.as_bytes().get(counted_to..offset).unwrap_or_default();
        before.unwrap_or(0) + count_characters(rest)
    }

    fn touches_secret(&self, span: &Range<usize>) -> bool {
        let next = self.secrets.partition_point(|secret| secret.end <= span.start);
        self.secrets.get(next).is_some_and(|secret| secret.start < span.end)
    }

    /// Copies the first line of a span, with what must not be printed replaced by `…`.
    fn excerpt(&self, span: &Range<usize>) -> Excerpt {
        let line = self.line_span(self.line(span.start));
        let from = self.back(line.start, span.start, EXCERPT_LEAD_CHARS);
        let mut out = Excerpt { text: String::new(), start: 0, len: 0 };
        if from > line.start {
            out.text.push('…');
        }
        let (mut start, mut end, mut hidden_to, mut shown) = (None, None, 0, 0_usize);
        let rest = self.text.get(from..line.end).unwrap_or_default();
        for (index, character) in rest.char_indices() {
            let at = from + index;
            if at >= span.start {
                start.get_or_insert(out.text.len());
            }
            if at >= span.end {
                end.get_or_insert(out.text.len());
            }
            if at < hidden_to {
                continue;
            }
            shown += 1;
            if shown > EXCERPT_CHARS_MAX {
                out.text.push('…');
                break;
            }
            match self.secret_at(at) {
                Some(secret) => {
                    hidden_to = secret.end;
                    out.text.push('…');
                }
                None if character == '\t' => out.text.push(' '),
                None if is_unprintable(character) => out.text.push('\u{fffd}'),
                None => out.text.push(character),
            }
        }
        let (end_of_text, is_empty) = (out.text.len(), out.text.is_empty());
        // A span at the very end of the file or of an empty line still needs a column to point at.
        if start.is_none() || is_empty {
            out.text.push(' ');
        }
        out.start = start.unwrap_or(end_of_text);
        let end = end.unwrap_or(end_of_text).max(out.start);
        out.len = end - out.start;
        out
    }

    /// Returns the whole text as excerpts would show it.
    #[cfg(test)]
    pub(crate) fn printable(&self) -> String {
        let lines = self.lines.iter().map(|&start| self.excerpt(&(start..start)).text);
        lines.map(|line| line.trim_end().to_owned()).collect::<Vec<_>>().join("\n")
    }

    /// Returns the offset `characters` before `offset`, but not before `floor`.
    fn back(&self, floor: usize, offset: usize, characters: usize) -> usize {
        let head = self.text.get(floor..offset.min(self.text.len())).unwrap_or_default();
        match head.char_indices().rev().nth(characters.saturating_sub(1)) {
            // Cut only lines that need it: what lies before would have fitted.
            Some((index, _)) if head.len() > EXCERPT_CHARS_MAX / 2 => floor + index,
            Some(_) | None => floor,
        }
    }

    fn secret_at(&self, offset: usize) -> Option<&Range<usize>> {
        let next = self.secrets.partition_point(|secret| secret.end <= offset);
        self.secrets.get(next).filter(|secret| secret.start <= offset)
    }
}

/// Characters that begin in `bytes`, a piece of UTF-8 text: every byte but continuation bytes.
fn count_characters(bytes: &[u8]) -> usize {
    bytes.iter().filter(|&&byte| byte & 0xc0 != 0x80).count()
}

/// Lines and columns fit 32 bits because files are limited to 256 MiB.
fn to_u32(count: usize) -> u32 {
    u32::try_from(count).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::problem::Code;

    fn source(text: &str) -> Source<'_> {
        Source::new("t.toml".into(), text)
    }

    #[test]
    fn positions_count_lines_and_characters_from_one() {
        let text = "ab\r\ncé x\n\nlast";
        let cases = [
            ("start", 0, (1, 1)),
            ("second", 1, (1, 2)),
            ("next line", 4, (2, 1)),
            ("after a two-byte character", 7, (2, 3)),
            ("empty line", 10, (3, 1)),
            ("last line", 11, (4, 1)),
            ("end", 15, (4, 5)),
            ("beyond the end", 99, (4, 5)),
        ];
        for (name, offset, want) in cases {
            assert_eq!(source(text).position(offset), want, "{name}");
        }
    }

    #[test]
    fn positions_agree_with_counting_on_a_long_line() {
        let text = "é".repeat(2000);
        let source = source(&text);
        for offset in (0..4000).step_by(2) {
            assert_eq!(source.position(offset), (1, u32::try_from(offset / 2 + 1).unwrap_or(0)));
        }
    }

    #[test]
    fn excerpts_underline_the_span_and_hide_secrets() {
        let cases = [
            ("plain", "a = 1\nb = 2", 10..11, 0..0, "b = 2", "2"),
            ("control characters", "a\u{1b}[1m\tb", 6..7, 0..0, "a\u{fffd}[1m b", "b"),
            ("carriage return", "a = x\r\n", 4..5, 0..0, "a = x", "x"),
            ("secret beside", "p = \"abc\" # x", 10..13, 5..8, "p = \"…\" # x", "# x"),
            ("secret inside", "p = \"abc\"", 4..9, 5..8, "p = \"…\"", "\"…\""),
            ("end of file", "a =", 3..3, 0..0, "a = ", ""),
            ("empty", "", 0..0, 0..0, " ", ""),
            ("two lines", "a = [\n1]", 4..8, 0..0, "a = [", "["),
        ];
        for (name, text, span, secret, want, underlined) in cases {
            let mut source = source(text);
            source.hide(std::iter::once(secret).collect());
            let got = source.excerpt(&span);
            assert_eq!(got.text, want, "{name}");
            assert_eq!(got.text.get(got.start..got.start + got.len), Some(underlined), "{name}");
        }
    }

    #[test]
    fn a_long_line_is_cut_on_both_sides() {
        let text = format!("{}X{}", "é".repeat(5000), "b".repeat(5000));
        let got = source(&text).excerpt(&(10_000..10_001));
        assert_eq!(got.text.chars().count(), EXCERPT_CHARS_MAX + 2);
        assert_eq!(got.text.get(got.start..got.start + got.len), Some("X"));
    }

    #[test]
    fn the_end_column_of_a_secret_does_not_tell_its_length() {
        let mut source = source("passwords = [\"hunter2\"]");
        source.hide(std::iter::once(14..21).collect());
        let problem = source.problem(&(13..22), Finding::error(Code::PlainPassword, "x"));
        assert_eq!(problem.location(), Some(Location { line: 1, column: 14, end_column: 15 }));
    }
}
