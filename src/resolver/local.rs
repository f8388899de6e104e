//! Names that are answered here and never asked upstream.
//!
//! Keeps one rule: a name of this table stays inside the machine, whatever its type.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::names::Name;

/// The names of our own, such as the one of the host's loopback.
pub(super) type Fixed = BTreeMap<Name, Vec<IpAddr>>;

/// The zone of our own names (ICANN keeps `internal` for private use). What is not in our table does not exist.
const OUR_ZONE: &str = "portreeve.internal";

/// What a name means here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Local {
    Addresses(Vec<IpAddr>),
    NoSuchName,
}

/// The meaning of `name`, None when only upstreams know.
pub(super) fn meaning(fixed: &Fixed, name: &Name) -> Option<Local> {
    if let Some(addresses) = fixed.get(name) {
        return Some(Local::Addresses(addresses.clone()));
    }
    let text = name.as_str();
    if text.strip_suffix(OUR_ZONE).is_some_and(|rest| rest.is_empty() || rest.ends_with('.')) {
        return Some(Local::NoSuchName);
    }
    match text.rsplit('.').next() {
        // RFC 6761 §6.3: localhost and all below it are loopback, and no cache asks for them.
        Some("localhost") => Some(Local::Addresses(vec![Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into()])),
        // RFC 6761 §6.4 and RFC 7686 §2: known not to exist in the DNS.
        Some("invalid" | "onion") => Some(Local::NoSuchName),
        Some(_) | None => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(text: &str) -> Name {
        text.parse().expect("the test writes a name")
    }

    #[test]
    fn special_names_are_known_by_their_last_label_alone() {
        let fixed = Fixed::from([(name("host.portreeve.internal"), vec![IpAddr::from([169, 254, 17, 1])])]);
        let loopback = Some(Local::Addresses(vec![Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into()]));
        for (text, wanted) in [
            ("localhost", loopback.clone()),
            ("app.LocalHost.", loopback),
            ("invalid", Some(Local::NoSuchName)),
            ("a.invalid", Some(Local::NoSuchName)),
            ("x.onion", Some(Local::NoSuchName)),
            ("host.portreeve.internal", Some(Local::Addresses(vec![IpAddr::from([169, 254, 17, 1])]))),
            ("below.host.portreeve.internal", Some(Local::NoSuchName)),
            ("portreeve.internal", Some(Local::NoSuchName)),
            ("notportreeve.internal", None),
            ("notlocalhost", None),
            ("localhost.example.com", None),
            ("printer.local", None),
        ] {
            assert_eq!(meaning(&fixed, &name(text)), wanted, "{text}");
        }
    }
}
