//! The six ways in which a rule can name domains.
//!
//! Keeps one rule: text that could be meant as an address is never taken for a name. Does not know verdicts.

use std::fmt;
use std::str::FromStr;

use super::{Name, NameError};

/// A set of domain names. Texts are in canonical form: lower case, A-labels, no last dot.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Pattern {
    /// `example.com`: itself alone.
    Exact(Name),
    /// `.example.com`: itself and everything below.
    Zone(Name),
    /// `*.example.com`: everything below.
    Below(Name),
    /// `*example.com`: every name that ends so.
    Suffix(Box<str>),
    /// `example.*`: every name that starts so.
    Prefix(Box<str>),
    /// `*text*`: every name that contains it.
    Contains(Box<str>),
}

/// Why a text is no domain pattern.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PatternError {
    #[error("an address cannot hold a wildcard; write a network in CIDR form, such as 192.0.2.0/24")]
    AddressWildcard,
    #[error(
        "this is neither an address nor a domain; an address has four numbers up to 255 or is IPv6, a network is 192.0.2.0/24"
    )]
    NumericName,
    #[error("a port or path stands behind the name; write the name alone and the port behind the protocol, such as TCP/443")]
    PortOrPath,
    #[error("a label is empty; write example.com, .example.com, *.example.com, *example.com, example.* or *text*")]
    EmptyLabel,
    #[error("a wildcard stands in the middle; write .example.com, *.example.com, *example.com, example.* or *text*")]
    InnerWildcard,
    #[error("a leading dot and a final wildcard exclude each other; write *text*")]
    ZoneAndPrefix,
    #[error("a part of a label is compared in its ASCII form; write the xn-- form or a whole domain")]
    PartialUnicode,
    #[error("{0}; write example.com, .example.com, *.example.com, *example.com, example.* or *text*")]
    Name(NameError),
}

impl Pattern {
    /// Whether `name` is in the set.
    #[must_use]
    pub fn matches(&self, name: &Name) -> bool {
        let text = name.as_str();
        match self {
            Self::Exact(own) => own == name,
            Self::Zone(own) => own == name || is_below(text, own.as_str()),
            Self::Below(own) => is_below(text, own.as_str()),
            Self::Suffix(end) => text.ends_with(&**end),
            Self::Prefix(start) => text.starts_with(&**start),
            Self::Contains(part) => text.contains(&**part),
        }
    }
}

fn is_below(text: &str, zone: &str) -> bool {
    text.strip_suffix(zone).is_some_and(|rest| rest.len() > 1 && rest.ends_with('.'))
}

impl FromStr for Pattern {
    type Err = PatternError;

    fn from_str(text: &str) -> Result<Self, PatternError> {
        if text.contains('*') && looks_like_address(text) {
            return Err(PatternError::AddressWildcard);
        }
        if text.contains([':', '/']) {
            return Err(PatternError::PortOrPath);
        }
        match (text.strip_prefix('*'), text.strip_suffix('*')) {
            (Some(_), Some(_)) => Ok(Self::Contains(partial(text.get(1..text.len() - 1).unwrap_or(""))?)),
            (Some(rest), None) => match rest.strip_prefix('.') {
                Some(below) => Ok(Self::Below(whole(below)?)),
                // One dot at the end is the root's.
                None if rest.ends_with("..") => Err(PatternError::EmptyLabel),
                None => Ok(Self::Suffix(partial(rest.strip_suffix('.').unwrap_or(rest))?)),
            },
            (None, Some(start)) if start.starts_with('.') => Err(PatternError::ZoneAndPrefix),
            (None, Some(start)) => Ok(Self::Prefix(partial(start)?)),
            (None, None) => match text.strip_prefix('.') {
                Some(zone) => Ok(Self::Zone(whole(zone)?)),
                None => Ok(Self::Exact(whole(text)?)),
            },
        }
    }
}

/// Digits, dots and wildcards with at least one dot, or anything with a colon.
fn looks_like_address(text: &str) -> bool {
    let numeric = text.bytes().all(|b| b.is_ascii_digit() || matches!(b, b'.' | b'*' | b'/'));
    text.contains(':') || (numeric && text.contains('.') && text.bytes().any(|b| b.is_ascii_digit()))
}

fn whole(text: &str) -> Result<Name, PatternError> {
    if text.contains('*') {
        return Err(PatternError::InnerWildcard);
    }
    let name = Name::from_str(text).map_err(|error| match error {
        NameError::Empty | NameError::EmptyLabel => PatternError::EmptyLabel,
        error @ (NameError::LongLabel | NameError::TooLong | NameError::Character) => PatternError::Name(error),
    })?;
    // No top-level domain is all digits (RFC 3696 §2), so this is a mistyped address.
    match name.as_str().rsplit('.').next() {
        Some(last) if last.bytes().all(|b| b.is_ascii_digit()) => Err(PatternError::NumericName),
        Some(_) | None => Ok(name),
    }
}

/// The fixed part of a pattern with a wildcard that may cut a label.
fn partial(text: &str) -> Result<Box<str>, PatternError> {
    if text.contains('*') {
        return Err(PatternError::InnerWildcard);
    }
    if text.trim_matches('.').is_empty() || text.contains("..") {
        return Err(PatternError::EmptyLabel);
    }
    if !text.is_ascii() {
        return Err(PatternError::PartialUnicode);
    }
    let text = text.to_ascii_lowercase();
    if text.len() > 253 {
        return Err(PatternError::Name(NameError::TooLong));
    }
    if !text.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.')) {
        return Err(PatternError::Name(NameError::Character));
    }
    Ok(text.into())
}

impl fmt::Display for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exact(name) => write!(f, "{name}"),
            Self::Zone(name) => write!(f, ".{name}"),
            Self::Below(name) => write!(f, "*.{name}"),
            Self::Suffix(text) => write!(f, "*{text}"),
            Self::Prefix(text) => write!(f, "{text}*"),
            Self::Contains(text) => write!(f, "*{text}*"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(text: &str) -> Name {
        text.parse().expect("a valid name in a test")
    }

    #[test]
    fn each_form_matches_what_its_table_says() {
        let table: [(&str, &[&str], &[&str]); 6] = [
            ("example.com", &["example.com", "EXAMPLE.com."], &["www.example.com", "xexample.com", "example.com.org"]),
            (".example.com", &["example.com", "a.b.example.com"], &["xexample.com", "example.org"]),
            ("*.example.com", &["www.example.com"], &["example.com", "xexample.com"]),
            ("*example.com", &["example.com", "xexample.com", "a.example.com"], &["example.com.org"]),
            ("example.*", &["example.com", "example.co.uk"], &["www.example.com", "examples.com"]),
            ("*ampl*", &["example.com"], &["exam.com"]),
        ];
        for (pattern, hits, misses) in table {
            let pattern: Pattern = pattern.parse().expect(pattern);
            for hit in hits {
                assert!(pattern.matches(&name(hit)), "{pattern} should match {hit}");
            }
            for miss in misses {
                assert!(!pattern.matches(&name(miss)), "{pattern} should not match {miss}");
            }
        }
    }

    #[test]
    fn an_address_with_a_wildcard_is_refused_with_a_hint_at_cidr() {
        for text in ["1.2.3.*", "*.1.2.3", "10.*", "2001:db8::*", "*.168.1.*"] {
            assert_eq!(text.parse::<Pattern>(), Err(PatternError::AddressWildcard), "{text}");
        }
    }

    #[test]
    fn empty_labels_are_refused_in_every_form() {
        for text in
            ["", ".", "..", "*.", "*..", "a..b", ".a..b", "*.a..b", "*a..b", "a..*", "*a..b*", "**", "*.*", "..a", "a..", "*a.."]
        {
            assert!(text.parse::<Pattern>().is_err(), "{text} should be refused");
        }
    }

    #[test]
    fn wildcards_inside_and_other_texts_are_refused() {
        for text in ["a.*.com", "www*.example.com", ".x.*", "a b", "exa/mple", "1.2.3.400", "1.2.3", "*bü*", "a,b", "@x", "L:x"]
        {
            assert!(text.parse::<Pattern>().is_err(), "{text} should be refused");
        }
    }

    #[test]
    fn dot_of_the_root_is_left_out_and_what_is_printed_is_read_as_the_same_pattern() {
        for (text, printed) in
            [("*a.", "*a"), ("a.b.", "a.b"), (".a.", ".a"), ("*.a.", "*.a"), ("a.*", "a.*"), ("*.a.*", "*.a.*")]
        {
            let pattern: Pattern = text.parse().expect(text);
            assert_eq!(pattern.to_string(), printed);
            assert_eq!(printed.parse(), Ok(pattern));
        }
    }

    #[test]
    fn names_are_compared_in_their_ascii_form() {
        let pattern: Pattern = ".BÜCHER.example.".parse().expect("a valid pattern");
        assert_eq!(pattern.to_string(), ".xn--bcher-kva.example");
        assert!(pattern.matches(&name("www.bücher.example")));
    }
}
