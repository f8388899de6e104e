//! The last eight bytes of a name as one number, by which most rules that speak of other names are passed over at once.
//!
//! Keeps one rule: only what cannot match is passed over.

use super::entity::Entity;
use crate::names::{Name, Pattern};

/// What the last bytes of a name must be for a rule to match; nothing is asked where `mask` is 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Tail {
    mask: u64,
    value: u64,
    /// The rule speaks of names alone, so that without one it cannot match.
    needs_name: bool,
}

impl Tail {
    /// What `entity` asks of the end of a name.
    pub(super) fn of(entity: &Entity) -> Self {
        let Entity::Domain(pattern) = entity else { return Self { mask: 0, value: 0, needs_name: false } };
        let end = match pattern {
            Pattern::Exact(name) | Pattern::Zone(name) | Pattern::Below(name) => name.as_str(),
            Pattern::Suffix(end) => end,
            Pattern::Prefix(_) | Pattern::Contains(_) => "",
        };
        let bits = u32::try_from(end.len().min(8)).unwrap_or(8) * 8;
        let mask = u64::MAX.checked_shr(64 - bits).unwrap_or(0);
        Self { mask, value: last_bytes(end) & mask, needs_name: true }
    }

    /// Whether a rule may match a peer whose name ends so; None for a peer without a name.
    pub(super) fn may_match(self, end: Option<u64>) -> bool {
        match end {
            Some(end) => end & self.mask == self.value,
            None => !self.needs_name,
        }
    }
}

/// The end of a name, for [`Tail::may_match`].
pub(super) fn end_of(name: &Name) -> u64 {
    last_bytes(name.as_str())
}

/// The last byte is the lowest.
fn last_bytes(text: &str) -> u64 {
    match text.as_bytes().last_chunk::<8>() {
        Some(bytes) => u64::from_be_bytes(*bytes),
        None => text.bytes().fold(0, |value, byte| value << 8 | u64::from(byte)),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn what_matches_is_never_passed_over(text in "(\\.|\\*\\.|\\*|)[ab]{1,3}(\\.[ab]{1,6}){0,2}", name in "[ab]{1,3}(\\.[ab]{1,6}){0,3}") {
            let pattern: Pattern = text.parse().expect("a pattern");
            let name: Name = name.parse().expect("a name");
            if pattern.matches(&name) {
                prop_assert!(Tail::of(&Entity::Domain(pattern)).may_match(Some(end_of(&name))));
            }
        }
    }

    #[test]
    fn other_names_are_passed_over_and_other_entities_are_not() {
        let tail = |text: &str| Tail::of(&text.parse().expect("an entity"));
        let end = |text: &str| Some(end_of(&text.parse().expect("a name")));
        assert!(!tail(".example.com").may_match(end("www.example.org")));
        assert!(!tail(".example.com").may_match(None));
        assert!(!tail("b.c").may_match(end("c")));
        for text in ["*", "LAN", "10.0.0.0/8", "AT"] {
            assert!(tail(text).may_match(end("www.example.org")) && tail(text).may_match(None), "{text}");
        }
        assert!(tail("www.*").may_match(end("www.example.org")));
    }
}
