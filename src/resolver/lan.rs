//! Names that only the local network's resolver knows.
//!
//! Keeps one rule: a search domain comes from the network, so it is believed only below a registered domain or where no
//! registry is known; a network that announces `com` gets nothing.

use crate::names::Name;

/// Zones without a public delegation: RFC 6762 appendix G, RFC 8375, and `local` as offices use it over unicast.
const ZONES: [&str; 8] = ["local", "lan", "home", "internal", "intranet", "corp", "private", "home.arpa"];
/// Reverse zones of private addresses (RFC 6303 §4.1–4.5, RFC 6890).
const REVERSE: [&str; 8] = [
    "10.in-addr.arpa",
    "168.192.in-addr.arpa",
    "254.169.in-addr.arpa",
    "d.f.ip6.arpa",
    "8.e.f.ip6.arpa",
    "9.e.f.ip6.arpa",
    "a.e.f.ip6.arpa",
    "b.e.f.ip6.arpa",
];

/// Whether the network's resolver is the one to ask.
pub(super) fn is_of_the_network(name: &Name, search: &[Name]) -> bool {
    let text = name.as_str();
    !text.contains('.')
        || ZONES.iter().chain(&REVERSE).any(|zone| is_below(text, zone))
        || is_reverse_of_172(text)
        || search.iter().any(|domain| is_believable(domain) && is_below(text, domain.as_str()))
}

fn is_below(name: &str, zone: &str) -> bool {
    name.strip_suffix(zone).is_some_and(|rest| rest.is_empty() || rest.ends_with('.'))
}

/// 172.16.0.0/12 has sixteen zones.
fn is_reverse_of_172(name: &str) -> bool {
    let Some(rest) = name.strip_suffix(".172.in-addr.arpa") else { return false };
    let second = rest.rsplit('.').next().and_then(|label| label.parse::<u8>().ok());
    second.is_some_and(|second| (16..32).contains(&second))
}

fn is_believable(domain: &Name) -> bool {
    let text = domain.as_str();
    let suffix = psl::suffix(text.as_bytes());
    !suffix.is_some_and(|suffix| suffix.is_known() && suffix.as_bytes() == text.as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(text: &str) -> Name {
        text.parse().expect("the test writes a name")
    }

    #[test]
    fn local_zones_single_labels_private_reverse_zones_and_search_domains_are_the_networks() {
        let search = [name("corp.example.com"), name("fritz.box"), name("site")];
        for text in [
            "printer",
            "nas.local",
            "router.home.arpa",
            "1.0.0.10.in-addr.arpa",
            "1.0.31.172.in-addr.arpa",
            "16.172.in-addr.arpa",
            "1.0.168.192.in-addr.arpa",
            "0.0.d.f.ip6.arpa",
            "corp.example.com",
            "wiki.corp.example.com",
            "fritz.box",
            "nas.fritz.box",
        ] {
            assert!(is_of_the_network(&name(text), &search), "{text}");
        }
    }

    #[test]
    fn public_names_are_not_the_networks_whatever_it_announces() {
        let search = [name("com"), name("co.uk"), name("corp.example.com")];
        for text in [
            "example.com",
            "notcorp.example.com",
            "www.example.co.uk",
            "evil-local.example",
            "local.example",
            "1.0.32.172.in-addr.arpa",
            "1.0.0.11.in-addr.arpa",
            "172.in-addr.arpa",
            "0.0.e.f.ip6.arpa",
        ] {
            assert!(!is_of_the_network(&name(text), &search), "{text}");
        }
    }
}
