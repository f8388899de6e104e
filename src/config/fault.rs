//! One fault of a configuration file, in the form that every faulty file of a user is reported in.

use std::fmt;
use std::ops::Range;
use std::path::{Path, PathBuf};

/// `FILE:LINE:COL: what is wrong; what would be right`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    pub file: PathBuf,
    /// 1-based.
    pub line: usize,
    /// 1-based, counted in characters.
    pub column: usize,
    pub what: String,
    /// What would be right.
    pub hint: String,
}

impl Fault {
    pub(super) fn at(file: &Path, text: &str, span: Range<usize>, what: String, hint: String) -> Self {
        let before = text.get(..span.start).unwrap_or(text);
        let line_start = before.rfind('\n').map_or(0, |newline| newline + 1);
        Self {
            file: file.to_path_buf(),
            line: before.matches('\n').count() + 1,
            column: before.get(line_start..).unwrap_or_default().chars().count() + 1,
            what,
            hint,
        }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}:{}: {}; {}", self.file.display(), self.line, self.column, self.what, self.hint)
    }
}

/// The key that was probably meant, as a hint; else the keys there are.
pub(super) fn nearest(typed: &str, known: &[&str]) -> String {
    let near = known.iter().map(|key| (strsim::damerau_levenshtein(typed, key), key)).min();
    match near {
        // Two slips of the finger in a word of at least four letters is still the same word.
        Some((distance, key)) if distance <= 2 && distance < key.len().div_ceil(2) => format!("did you mean `{key}`?"),
        _ => format!("the keys here are {}", known.join(", ")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_counted_in_lines_and_characters() {
        let text = "a = 1\nö = [x]\n";
        for (start, line, column) in [(0, 1, 1), (4, 1, 5), (6, 2, 1), (8, 2, 2), (14, 2, 8), (999, 3, 1)] {
            let fault = Fault::at(Path::new("f"), text, start..start, String::new(), String::new());
            assert_eq!((fault.line, fault.column), (line, column), "byte {start}");
        }
    }

    #[test]
    fn a_slip_names_the_key_and_nonsense_names_all() {
        assert_eq!(nearest("upstraem", &["upstream"]), "did you mean `upstream`?");
        assert_eq!(nearest("zzz", &["level", "dns"]), "the keys here are level, dns");
        assert_eq!(nearest("xyz", &["dns"]), "the keys here are dns");
    }
}
