//! "did you mean": the known word closest to one that is not known.

/// Longest word compared, in bytes: the comparison costs the product of two lengths.
const WORD_BYTES_MAX: usize = 64;

/// Words compared at most: beyond, a suggestion is not worth the time.
const CANDIDATES_MAX: usize = 1000;

/// Returns the known word that `word` most likely means, or `None` if none is close.
#[must_use]
pub fn closest<'k>(word: &str, known: impl IntoIterator<Item = &'k str>) -> Option<&'k str> {
    if word.len() > WORD_BYTES_MAX {
        return None;
    }
    let lower = word.to_lowercase();
    let allowed = (word.chars().count() / 3).clamp(1, 4);
    known
        .into_iter()
        .take(CANDIDATES_MAX)
        .filter(|candidate| candidate.len() <= WORD_BYTES_MAX)
        .map(|candidate| (distance(&lower, candidate), candidate))
        .filter(|&(distance, _)| distance <= allowed)
        .min_by_key(|&(distance, _)| distance)
        .map(|(_, candidate)| candidate)
}

/// Edits between two words; a word and its plural or its dashed form are one edit apart.
fn distance(word: &str, candidate: &str) -> usize {
    let candidate = candidate.to_lowercase();
    strsim::osa_distance(&word.replace('-', "_"), &candidate.replace('-', "_"))
}

/// Returns "`a`, `b` and `c`".
pub(crate) fn listed<'w>(words: impl IntoIterator<Item = &'w str>) -> String {
    let quoted: Vec<String> = words.into_iter().map(|word| format!("`{word}`")).collect();
    match quoted.split_last() {
        None => String::new(),
        Some((last, [])) => last.clone(),
        Some((last, first)) => format!("{} and {last}", first.join(", ")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_closest_word_is_found_and_a_far_one_is_not_proposed() {
        const KNOWN: [&str; 5] = ["listen", "anonymous", "disclose", "head_timeout", "policies"];
        let long = "l".repeat(100);
        let cases = [
            ("transposed", "lsiten", Some("listen")),
            ("missing letter", "anonymos", Some("anonymous")),
            ("case", "Listen", Some("listen")),
            ("dash", "head-timeout", Some("head_timeout")),
            ("singular", "policie", Some("policies")),
            ("far", "colour", None),
            ("empty", "", None),
            ("long", long.as_str(), None),
        ];
        for (name, word, want) in cases {
            assert_eq!(closest(word, KNOWN), want, "{name}");
        }
    }

    #[test]
    fn words_are_listed_with_commas_and_an_and() {
        assert_eq!(listed([]), "");
        assert_eq!(listed(["a"]), "`a`");
        assert_eq!(listed(["a", "b", "c"]), "`a`, `b` and `c`");
    }
}
