//! What is wrong with a file, where, and what would be right.

use std::fmt;
use std::ops::Range;
use std::path::{Path, PathBuf};

/// One fault of one file, printed as `FILE:LINE:COL: what is wrong; what would be right`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, thiserror::Error)]
pub struct Fault {
    pub file: PathBuf,
    /// 1-based.
    pub line: u32,
    /// 1-based, in characters.
    pub column: u32,
    pub what: String,
    /// What would be right; may be empty.
    pub hint: String,
}

impl Fault {
    /// A fault of a file as a whole.
    #[must_use]
    pub fn of_file(file: &Path, what: impl Into<String>, hint: impl Into<String>) -> Self {
        Self { file: file.to_owned(), line: 1, column: 1, what: what.into(), hint: hint.into() }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}:{}: {}", self.file.display(), self.line, self.column, self.what)?;
        if self.hint.is_empty() { Ok(()) } else { write!(f, "; {}", self.hint) }
    }
}

/// Turns byte offsets of one text into faults with line and column.
#[derive(Debug)]
pub struct Faults<'a> {
    file: &'a Path,
    text: &'a str,
    /// Where each line begins.
    lines: Vec<usize>,
    list: Vec<Fault>,
}

/// A broken file may have as many faults as bytes; nobody reads more than these.
const MAX_FAULTS: usize = 100;

impl<'a> Faults<'a> {
    #[must_use]
    pub fn new(file: &'a Path, text: &'a str) -> Self {
        let lines = std::iter::once(0).chain(text.match_indices('\n').map(|(end, _)| end + 1)).collect();
        Self { file, text, lines, list: Vec::new() }
    }

    pub fn add(&mut self, span: &Range<usize>, what: impl Into<String>, hint: impl Into<String>) {
        if self.list.len() >= MAX_FAULTS {
            return;
        }
        let (line, column) = self.place(span.start);
        self.list.push(Fault { file: self.file.to_owned(), line, column, what: what.into(), hint: hint.into() });
    }

    /// Line and column of a byte offset, both 1-based.
    #[must_use]
    pub fn place(&self, offset: usize) -> (u32, u32) {
        let offset = offset.min(self.text.len());
        let line = self.lines.partition_point(|&start| start <= offset);
        let start = line.checked_sub(1).and_then(|above| self.lines.get(above)).copied().unwrap_or(0);
        let column = self.text.get(start..offset).unwrap_or("").chars().count() + 1;
        (u32::try_from(line).unwrap_or(u32::MAX), u32::try_from(column).unwrap_or(u32::MAX))
    }

    #[must_use]
    pub fn line(&self, offset: usize) -> u32 {
        self.place(offset).0
    }

    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.list.is_empty()
    }

    /// All faults in the order of the text.
    #[must_use]
    pub fn into_list(mut self) -> Vec<Fault> {
        self.list.sort();
        self.list
    }
}

/// The candidate that is nearest to what was typed, if any is near.
#[must_use]
pub fn nearest<'a>(typed: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    candidates
        .into_iter()
        .map(|candidate| (strsim::normalized_damerau_levenshtein(typed, candidate), candidate))
        .filter(|(similarity, _)| *similarity >= 0.5)
        .max_by(|a, b| a.0.total_cmp(&b.0))
        .map(|(_, candidate)| candidate)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_count_characters_not_bytes() {
        let faults = Faults::new(Path::new("x"), "a\nüb = 1\n");
        assert_eq!(faults.place(0), (1, 1));
        assert_eq!(faults.place(4), (2, 2));
        assert_eq!(faults.place(999), (3, 1));
    }

    #[test]
    fn the_nearest_key_is_found_and_far_ones_are_not() {
        assert_eq!(nearest("endpoint", ["mode", "endpoints"]), Some("endpoints"));
        assert_eq!(nearest("zzz", ["mode", "endpoints"]), None);
    }
}
