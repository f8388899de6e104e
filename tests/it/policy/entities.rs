//! Entities that need data beside the rules: labels, groups, countries and AS numbers.

use std::net::IpAddr;
use std::sync::Arc;

use portreeve::profile::{Country, Geo, Policy, Setup};

use super::world::{OPEN, expect, files, set, to, user};

const V4: &str = "192.0.2.1:443";
const V6: &str = "[2001:db8::1]:443";

#[test]
fn blocked_labels_refuse_names_chains_and_networks_unless_unbroken() {
    let labels = "label = \"tracker\"\nnames = [\".tracker.example\"]\nnetworks = [\"198.51.100.0/24\", \"2001:db8:bad::/48\"]\n\
                  unbreak = [\"login.tracker.example\"]\n";
    let policy =
        set(&[("labels/tracker.toml", labels), ("user/x.toml", &user(&format!("{OPEN}[labels]\nblock = [\"tracker\"]")))]);
    for remote in [V4, V6] {
        expect(
            &policy,
            &[
                (to(remote).named("a.tracker.example"), "block labels"),
                (to(remote).named("login.tracker.example"), "accept mode"),
                (to(remote).chained("shop.example", &["a.tracker.example"]), "block labels"),
                (to(remote).named("shop.example"), "accept mode"),
            ],
        );
    }
    for remote in ["198.51.100.7:443", "[2001:db8:bad::7]:443"] {
        expect(&policy, &[(to(remote).named("shop.example"), "block labels"), (to(remote).inbound(), "drop labels")]);
    }
    let rules =
        set(&[("labels/tracker.toml", labels), ("user/x.toml", &user(&format!("endpoints = [\"- L:tracker\"]\n{OPEN}")))]);
    expect(&rules, &[(to(V4).named("login.tracker.example"), "block endpoints"), (to("198.51.100.7:1"), "block endpoints")]);
}

#[test]
fn registry_rules_speak_of_the_internet_alone_and_deny_without_data() {
    let policy = set(&[(
        "user/x.toml",
        &user(&format!("endpoints = [\"+ AT TCP/443\", \"+ C:EU TCP/80\", \"+ AS64496 TCP/81\"]\n{OPEN}")),
    )]);
    for host in ["192.0.2.1", "[2001:db8::1]"] {
        for port in [443, 80, 81] {
            expect(&policy, &[(to(&format!("{host}:{port}")), "block endpoints")]);
        }
        expect(&policy, &[(to(&format!("{host}:82")), "accept mode")]);
    }
    expect(&policy, &[(to("10.0.0.1:443"), "accept mode"), (to("[fe80::1]:443"), "accept mode")]);
}

#[test]
fn a_group_that_is_not_configured_denies() {
    let policy = set(&[("user/x.toml", &user(&format!("endpoints = [\"+ @office TCP/1\"]\n{OPEN}")))]);
    expect(
        &policy,
        &[(to("192.0.2.1:1"), "block endpoints"), (to("[2001:db8::1]:1"), "block endpoints"), (to(V4), "accept mode")],
    );
}

/// Everything in 192.0.2.0/24 and 2001:db8::/32 is Austrian and of AS64496; nothing is known of the rest.
#[derive(Debug)]
struct Registry;

impl Geo for Registry {
    fn country(&self, address: IpAddr) -> Option<Country> {
        let known = address.to_string().starts_with("192.0.2.") || address.to_string().starts_with("2001:db8:");
        known.then(|| Country::new("AT")).flatten()
    }

    fn asn(&self, address: IpAddr) -> Option<u32> {
        self.country(address).map(|_| 64496)
    }
}

#[test]
fn registry_rules_match_by_country_continent_and_as_where_there_are_data() {
    for (rule, wanted) in [
        ("+ AT", "accept endpoints"),
        ("+ DE", "block mode"),
        ("+ C:EU", "accept endpoints"),
        ("+ C:NA", "block mode"),
        ("+ AS64496", "accept endpoints"),
        ("+ AS64497", "block mode"),
        ("- AT TCP/80", "block mode"),
    ] {
        let text = user(&format!("endpoints = [\"{rule}\"]\n{}", OPEN.replace("blacklist", "whitelist")));
        let setup = Setup { geo: Some(Arc::new(Registry)), ..Setup::default() };
        let policy = Policy::compile(&files(&[("user/x.toml", &text)]), setup).expect("a valid set");
        expect(&policy, &[(to(V4), wanted), (to(V6), wanted), (to("10.0.0.1:443"), "block mode")]);
        if rule.starts_with('+') {
            expect(&policy, &[(to("198.51.100.1:443"), "block endpoints")]);
        }
    }
}

#[test]
fn a_named_group_is_all_of_its_entries() {
    let mut setup = Setup::default();
    setup.add_group("office", [".office.example", "192.0.2.0/24", "2001:db8::/32"]).expect("a valid group");
    for wrong in ["a..b", "@other"] {
        assert!(setup.add_group("wrong", [wrong]).is_err());
    }
    assert!(setup.add_group("a b", ["*"]).is_err());
    let text = user(&format!("endpoints = [\"+ @office TCP/443\", \"- *\"]\n{OPEN}"));
    let policy = Policy::compile(&files(&[("user/x.toml", &text)]), setup).expect("a valid set");
    expect(
        &policy,
        &[
            (to(V4), "accept endpoints"),
            (to(V6), "accept endpoints"),
            (to("198.51.100.1:443").named("www.office.example"), "accept endpoints"),
            (to("198.51.100.1:443"), "block endpoints"),
            (to("192.0.2.1:80"), "block endpoints"),
        ],
    );
}
