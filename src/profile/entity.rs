//! What an endpoint rule speaks of: one entity or a set of them.
//!
//! Keeps one rule: the forms are tried in the order of the variants, and the first that recognises the text wins.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use ipnet::IpNet;

use super::scope::{Scope, embedded};
use crate::names::{Pattern, PatternError};

/// A country by its two capitals (ISO 3166-1 alpha-2).
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Country([u8; 2]);

/// A continent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Continent {
    Africa,
    Antarctica,
    Asia,
    Europe,
    NorthAmerica,
    Oceania,
    SouthAmerica,
}

/// The entities of a rule.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Entity {
    Any,
    Ip(IpAddr),
    Net(IpNet),
    Country(Country),
    Continent(Continent),
    As(u32),
    /// Sorted, without repetition.
    Scopes(Vec<Scope>),
    /// Labels or lists by name.
    Labels(Vec<Box<str>>),
    /// A named group of the configuration.
    Group(Box<str>),
    Domain(Pattern),
}

/// Why a text names no entity.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EntityError {
    #[error("`{0}` is no network; write an address and a prefix length, such as 192.0.2.0/24 or 2001:db8::/32")]
    Network(String),
    #[error("`{0}` has bits set beyond its prefix length; write {1}, or the address alone")]
    HostBits(String, IpNet),
    #[error("`{0}` is no continent; continents are AF, AN, AS, EU, NA, OC and SA")]
    Continent(String),
    #[error("`{0}` is no AS number; write AS and a number up to 4294967295, such as AS15169")]
    As(String),
    #[error("`{0}` names no label; write L: and names joined by commas, such as L:tracker,malware")]
    Labels(String),
    #[error("`{0}` names no group; write @ and the name of a group of the configuration")]
    Group(String),
    #[error("`{0}` is no list of scopes; scopes are Localhost, LAN and Internet, joined by commas without spaces")]
    Scopes(String),
    #[error("`{text}` is no entity: {error}")]
    Domain { text: String, error: PatternError },
}

impl Country {
    /// Reads two capitals.
    #[must_use]
    pub fn new(text: &str) -> Option<Self> {
        match text.as_bytes() {
            [a, b] if a.is_ascii_uppercase() && b.is_ascii_uppercase() => Some(Self([*a, *b])),
            [..] => None,
        }
    }
}

impl fmt::Display for Country {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b] = self.0;
        write!(f, "{}{}", char::from(a), char::from(b))
    }
}

impl fmt::Debug for Country {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl Continent {
    pub const ALL: [Self; 7] =
        [Self::Africa, Self::Antarctica, Self::Asia, Self::Europe, Self::NorthAmerica, Self::Oceania, Self::SouthAmerica];

    /// The two capitals used in rules.
    #[must_use]
    pub fn code(self) -> &'static str {
        match self {
            Self::Africa => "AF",
            Self::Antarctica => "AN",
            Self::Asia => "AS",
            Self::Europe => "EU",
            Self::NorthAmerica => "NA",
            Self::Oceania => "OC",
            Self::SouthAmerica => "SA",
        }
    }
}

impl FromStr for Entity {
    type Err = EntityError;

    fn from_str(text: &str) -> Result<Self, EntityError> {
        if text == "*" {
            return Ok(Self::Any);
        }
        if let Ok(address) = text.parse::<IpAddr>() {
            return Ok(Self::Ip(embedded(address)));
        }
        if text.contains('/') && !text.contains("://") {
            return network(text).map(Self::Net);
        }
        if let Some(country) = Country::new(text) {
            return Ok(Self::Country(country));
        }
        if let Some(code) = text.strip_prefix("C:") {
            let found = Continent::ALL.into_iter().find(|continent| continent.code() == code);
            return found.map(Self::Continent).ok_or_else(|| EntityError::Continent(text.to_owned()));
        }
        if let Some(number) = text.strip_prefix("AS").filter(|rest| rest.bytes().all(|b| b.is_ascii_digit())) {
            return number.parse().map(Self::As).map_err(|_| EntityError::As(text.to_owned()));
        }
        if let Some(labels) = text.strip_prefix("L:") {
            return label_names(labels).map(Self::Labels).ok_or_else(|| EntityError::Labels(text.to_owned()));
        }
        if let Some(group) = text.strip_prefix('@') {
            return if is_word(group) { Ok(Self::Group(group.into())) } else { Err(EntityError::Group(text.to_owned())) };
        }
        if let Some(scopes) = scopes(text) {
            return Ok(Self::Scopes(scopes));
        }
        if text.contains(',') {
            return Err(EntityError::Scopes(text.to_owned()));
        }
        text.parse().map(Self::Domain).map_err(|error| EntityError::Domain { text: text.to_owned(), error })
    }
}

/// Reads a network; a v4-mapped one becomes the IPv4 one. Bits beyond the prefix length are refused, not cleared: of a digit lost
/// or mistyped there, as in 192.0.2.0/2 for /24, nothing else would tell.
fn network(text: &str) -> Result<IpNet, EntityError> {
    let net: IpNet = text.parse().map_err(|_| EntityError::Network(text.to_owned()))?;
    let net = match (net.prefix_len().checked_sub(96), embedded(net.addr())) {
        (Some(length), IpAddr::V4(v4)) if net.addr().is_ipv6() => IpNet::new(v4.into(), length).unwrap_or(net),
        (Some(_) | None, _) => net,
    };
    if net == net.trunc() { Ok(net) } else { Err(EntityError::HostBits(text.to_owned(), net.trunc())) }
}

fn scopes(text: &str) -> Option<Vec<Scope>> {
    let one = |word: &str| Scope::ALL.into_iter().find(|scope| scope.to_string().eq_ignore_ascii_case(word));
    let mut scopes: Vec<Scope> = text.split(',').map(one).collect::<Option<_>>()?;
    scopes.sort_unstable();
    scopes.dedup();
    Some(scopes)
}

fn label_names(text: &str) -> Option<Vec<Box<str>>> {
    text.split(',').map(|name| is_word(name).then(|| Box::from(name))).collect()
}

/// The form of labels' and groups' names.
#[must_use]
pub(super) fn is_word(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.'))
}

impl fmt::Display for Entity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Any => f.write_str("*"),
            Self::Ip(address) => write!(f, "{address}"),
            Self::Net(net) => write!(f, "{net}"),
            Self::Country(country) => write!(f, "{country}"),
            Self::Continent(continent) => write!(f, "C:{}", continent.code()),
            Self::As(number) => write!(f, "AS{number}"),
            Self::Scopes(scopes) => f.write_str(&scopes.iter().map(Scope::to_string).collect::<Vec<_>>().join(",")),
            Self::Labels(labels) => write!(f, "L:{}", labels.join(",")),
            Self::Group(group) => write!(f, "@{group}"),
            Self::Domain(pattern) => write!(f, "{pattern}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_form_that_recognises_the_text_wins() {
        for (text, printed) in [
            ("*", "*"),
            ("192.0.2.7", "192.0.2.7"),
            ("2001:DB8::1", "2001:db8::1"),
            ("::ffff:192.0.2.7", "192.0.2.7"),
            ("192.0.2.0/24", "192.0.2.0/24"),
            ("2001:db8::/32", "2001:db8::/32"),
            ("::ffff:192.0.2.0/120", "192.0.2.0/24"),
            ("AT", "AT"),
            ("AS", "AS"),
            ("AS15169", "AS15169"),
            ("C:EU", "C:EU"),
            ("lan", "LAN"),
            ("internet,LOCALHOST", "Localhost,Internet"),
            ("L:tracker,malware", "L:tracker,malware"),
            ("@office", "@office"),
            ("de", "de"),
            ("At", "at"),
            ("as15169", "as15169"),
            ("EXAMPLE.com.", "example.com"),
            (".example.com", ".example.com"),
            ("example.*", "example.*"),
        ] {
            let entity: Entity = text.parse().expect(text);
            assert_eq!(entity.to_string(), printed);
            assert_eq!(printed.parse::<Entity>().as_ref(), Ok(&entity));
        }
        assert!(matches!("de".parse(), Ok(Entity::Domain(_))));
        assert!(matches!("AS".parse(), Ok(Entity::Country(_))));
    }

    #[test]
    fn texts_that_name_nothing_are_refused() {
        for text in [
            "",
            "C:",
            "C:XX",
            "C:eu",
            "AS4294967296",
            "L:",
            "L:a,,b",
            "@",
            "@a b",
            "LAN,foo",
            "1.2.3.4/33",
            "192.0.2.9/24",
            "192.0.2.0/2",
            "2001:db8::1/32",
            "2001:db8::/129",
            "1.2.3.*",
            "1.2.3.4.5",
            "http://x",
            "a..b",
            "[::1]",
        ] {
            assert!(text.parse::<Entity>().is_err(), "{text} should be refused");
        }
    }
}
