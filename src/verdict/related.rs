//! Whether a domain is related to a program.
//!
//! Keeps one rule: compares without allocating, since it runs on the accept path. Not a protection: names can be chosen to resemble.

use crate::names::Name;

/// A label has at most 63 bytes (RFC 1035 §2.3.4).
const MAX_LABEL: usize = 63;

/// Whether the label left of the public suffix of `name` resembles one of `words` (lower case): 1 − Levenshtein distance ÷ the
/// longer length is above one half.
#[must_use]
pub fn is_related(name: &Name, words: &[Box<str>]) -> bool {
    let Some(label) = main_label(name.as_str()) else { return false };
    words.iter().any(|word| {
        let longer = label.len().max(word.chars().count());
        // 1 − d ÷ l > ½, in whole numbers.
        distance(label.as_bytes(), word).is_some_and(|distance| distance * 2 < longer)
    })
}

/// The label left of the public suffix.
fn main_label(name: &str) -> Option<&str> {
    psl::domain_str(name)?.split('.').next()
}

/// Levenshtein distance between an ASCII label and a word; None when the label is longer than labels are.
fn distance(label: &[u8], word: &str) -> Option<usize> {
    let mut row = [0_usize; MAX_LABEL + 1];
    let row = row.get_mut(..=label.len())?;
    for (index, cell) in row.iter_mut().enumerate() {
        *cell = index;
    }
    for (above, letter) in word.chars().enumerate() {
        let mut diagonal = above;
        let mut left = above + 1;
        let mut cells = row.iter_mut();
        if let Some(first) = cells.next() {
            *first = left;
        }
        for (cell, own) in cells.zip(label) {
            let change = diagonal + usize::from(char::from(*own) != letter);
            diagonal = *cell;
            left = change.min(diagonal + 1).min(left + 1);
            *cell = left;
        }
    }
    row.last().copied()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn only_the_label_left_of_the_public_suffix_counts() {
        let words = ["firefox".into(), "mozilla".into()];
        for (name, related) in [
            ("firefox.com", true),
            ("www.mozilla.org", true),
            ("mozila.co.uk", true),
            ("firefox.example.com", false),
            ("com", false),
            ("moz.org", false),
            ("fire.net", true),
            ("fir.net", false),
            ("firefox", false),
        ] {
            assert_eq!(is_related(&name.parse().expect(name), &words), related, "{name}");
        }
    }

    proptest! {
        #[test]
        fn the_distance_is_levenshteins(label in "[a-z0-9-]{0,63}", word in "\\PC{0,40}") {
            prop_assert_eq!(distance(label.as_bytes(), &word), Some(strsim::levenshtein(&label, &word)));
        }
    }
}
