//! What of an answer a program is told.

use std::net::IpAddr;

use portreeve::profile::{Level, Policy};
use portreeve::verdict::{Check, answer_allowed, chain_allowed};

use super::world::{OPEN, name, question, set, user};

fn allowed(policy: &Policy, level: Level, text: &str, address: &str) -> Result<(), Check> {
    let address: IpAddr = address.parse().expect("an address");
    let subject = question(text).subject(policy);
    answer_allowed(policy, &subject, level, &name(text), address).map_err(|reason| reason.check)
}

#[test]
fn private_addresses_are_filtered_from_public_names_whatever_the_flags() {
    let policy = set(&[("user/x.toml", &user(OPEN))]);
    for (text, address, fine) in [
        ("example.com", "192.0.2.1", true),
        ("example.com", "2001:db8::1", true),
        ("example.com", "10.0.0.1", false),
        ("example.com", "127.0.0.1", false),
        ("example.com", "::1", false),
        ("example.com", "fd00::1", false),
        ("example.com", "::ffff:10.0.0.1", false),
        ("example.com", "64:ff9b::a00:1", false),
        ("example.com", "0.0.0.0", false),
        ("printer.local", "10.0.0.1", true),
        ("printer.local", "fe80::1", true),
        ("nas.home.arpa", "192.168.1.5", true),
        ("printer", "192.168.1.5", true),
        ("a.internal", "fd00::1", true),
        ("printer.local", "240.0.0.1", false),
    ] {
        for level in Level::ALL {
            assert_eq!(allowed(&policy, level, text, address).is_ok(), fine, "{text} {address} {level}");
        }
    }
}

#[test]
fn addresses_of_refused_scopes_are_not_told() {
    let policy = set(&[("user/x.toml", &user("mode = \"blacklist\"\n[scope]\nlan = [\"dynamic\"]\ninternet = [\"secure\"]"))]);
    for (text, address, dynamic, secure) in [
        ("printer.local", "10.0.0.1", Ok(()), Err(Check::Scope)),
        ("printer.local", "fe80::1", Ok(()), Err(Check::Scope)),
        ("example.com", "192.0.2.1", Err(Check::Scope), Ok(())),
        ("example.com", "2001:db8::1", Err(Check::Scope), Ok(())),
        ("a.internal", "127.0.0.1", Err(Check::Scope), Err(Check::Scope)),
    ] {
        assert_eq!(allowed(&policy, Level::Dynamic, text, address), dynamic, "{text} {address}");
        assert_eq!(allowed(&policy, Level::Secure, text, address), secure, "{text} {address}");
    }
}

#[test]
fn the_name_of_the_hosts_loopback_needs_the_localhost_flag_alone() {
    let host = "host.portreeve.internal";
    for (scope, fine) in
        [("localhost = true\ninternet = false\nlan = false", true), ("localhost = false\ninternet = true\nlan = true", false)]
    {
        let policy = set(&[("user/x.toml", &user(&format!("[scope]\n{scope}")))]);
        for address in ["169.254.17.1", "fd17::1", "127.0.0.1", "::1"] {
            assert_eq!(allowed(&policy, Level::Dynamic, host, address).is_ok(), fine, "{address}");
        }
    }
}

#[test]
fn addresses_that_a_rule_denies_are_not_told_and_rules_with_ports_are_left_to_the_flow() {
    let rules =
        "endpoints = [\"+ .good.example TCP/443\", \"- 198.51.100.0/24\", \"- 2001:db8:1::/48\", \"- 203.0.113.0/24 TCP/25\"]\n";
    let policy = set(&[("user/x.toml", &user(&format!("{rules}{OPEN}")))]);
    for (text, address, fine) in [
        ("a.example", "198.51.100.1", false),
        ("a.example", "2001:db8:1::1", false),
        ("a.good.example", "198.51.100.1", true),
        ("a.example", "203.0.113.1", true),
        ("a.example", "192.0.2.1", true),
    ] {
        let wanted = if fine { Ok(()) } else { Err(Check::Endpoints) };
        assert_eq!(allowed(&policy, Level::Dynamic, text, address), wanted, "{text} {address}");
    }
}

#[test]
fn a_chain_is_denied_through_and_never_permits() {
    let policy = set(&[(
        "user/x.toml",
        &user(&format!("endpoints = [\"- .tracker.example\", \"+ .cdn.example\", \"- shop.example\"]\n{OPEN}")),
    )]);
    let judge = |text: &str, chain: &[&str]| {
        let chain: Vec<_> = chain.iter().map(|text| name(text)).collect();
        chain_allowed(&policy, &question(text).subject(&policy), Level::Dynamic, &name(text), &chain)
            .map_err(|reason| reason.check)
    };
    assert_eq!(judge("a.example", &["b.tracker.example"]), Err(Check::Endpoints));
    assert_eq!(judge("a.example", &["b.cdn.example"]), Ok(()));
    assert_eq!(judge("shop.example", &["b.cdn.example"]), Err(Check::Endpoints));
}
