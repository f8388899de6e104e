//! The checks of a flow, one after another, in both families.

use std::net::IpAddr;
use std::sync::Arc;

use portreeve::profile::{Country, Geo, Level, Policy, Setup};
use portreeve::verdict::{Answer, Epoch, Lane, Verdict};

use super::world::{OPEN, expect, files, set, to, user};

const V4: &str = "192.0.2.1:443";
const V6: &str = "[2001:db8::1]:443";

#[test]
fn an_empty_set_refuses_everything() {
    let policy = set(&[]);
    for remote in [V4, V6, "10.0.0.1:1", "[fe80::1]:1", "127.0.0.1:1", "[::1]:1"] {
        expect(
            &policy,
            &[
                (to(remote), "block scope"),
                (to(remote).named("example.com"), "block scope"),
                (to(remote).inbound(), "drop direction"),
            ],
        );
    }
}

#[test]
fn the_address_of_refused_names_is_blocked_before_all_else_with_the_names_reason() {
    let policy = set(&[("fallback.toml", &format!("endpoints = [\"- bad.example\"]\n{OPEN}"))]);
    for remote in ["0.0.0.17:443", "[::17]:443", "[::ffff:0.0.0.17]:443"] {
        expect(&policy, &[(to(remote), "block refused_name"), (to(remote).tag("portreeve:unattributed"), "block refused_name")]);
        let reason = to(remote).named("bad.example").judge(&policy).reason;
        assert_eq!(reason.rule.as_deref(), Some("- bad.example"));
        assert_eq!(reason.line, Some(1));
    }
}

#[test]
fn nobody_needs_a_profile_of_its_own() {
    let open = set(&[("fallback.toml", OPEN)]);
    let own = "name = \"nobody\"\nmode = \"blacklist\"\n[match]\ntag = [\"portreeve:unattributed\"]\n";
    let with_own = set(&[("fallback.toml", OPEN), ("user/nobody.toml", own)]);
    for remote in [V4, V6] {
        for tag in ["portreeve:unattributed", "portreeve:forwarded", "portreeve:kernel"] {
            let nobody = to(remote).tag(tag).with(|identity| identity.exe = None);
            let wanted = if tag == "portreeve:unattributed" { "accept mode" } else { "block identity" };
            expect(&open, &[(nobody.clone(), "block identity"), (nobody.clone().inbound(), "drop identity")]);
            expect(&with_own, &[(nobody, wanted)]);
        }
    }
    expect(&open, &[(to(V4).with(|identity| identity.exe = None), "block identity")]);
}

#[test]
fn run_as_compares_the_user() {
    for (who, rows) in [
        ("system", [(Some(0), true), (Some(999), true), (Some(1000), false), (None, false)]),
        ("admin", [(Some(0), true), (Some(999), false), (Some(1000), false), (None, false)]),
        ("user", [(Some(0), false), (Some(999), false), (Some(1000), true), (None, false)]),
    ] {
        let policy = set(&[("user/x.toml", &user(&format!("{OPEN}run_as = \"{who}\"")))]);
        for (uid, fits) in rows {
            for remote in [V4, V6] {
                expect(&policy, &[(to(remote).uid(uid), if fits { "accept mode" } else { "block run_as" })]);
            }
        }
    }
    let admin = set(&[("user/x.toml", &user(&format!("{OPEN}run_as = \"admin\"")))]);
    expect(&admin, &[(to(V4).with(|identity| identity.is_admin = true), "accept mode")]);
    let person = set(&[("user/x.toml", &user(&format!("{OPEN}run_as = \"user\"")))]);
    expect(&person, &[(to(V4).with(|identity| identity.has_session = false), "block run_as")]);
}

#[test]
fn inbound_needs_service_and_a_listed_port() {
    let closed = set(&[("user/x.toml", &user(&OPEN.replace("service = true", "service = false")))]);
    let listed = set(&[("user/x.toml", &user(&format!("listen_ports = [\"TCP/22\", \"UDP/60000-60010\"]\n{OPEN}")))]);
    for host in ["192.0.2.1", "[2001:db8::1]"] {
        let from = |port: u16| to(&format!("{host}:{port}")).inbound();
        expect(&closed, &[(from(22), "drop direction")]);
        expect(
            &listed,
            &[
                (from(22), "accept mode"),
                (from(23), "drop direction"),
                (from(60005), "drop direction"),
                (from(60005).proto(17), "accept mode"),
                (from(1).proto(1), "drop direction"),
            ],
        );
    }
}

#[test]
fn each_scope_has_its_flag_and_an_unset_one_is_refused() {
    let addresses =
        [("internet", [V4, V6]), ("lan", ["192.168.1.1:1", "[fe80::1]:1"]), ("localhost", ["127.0.0.1:1", "[::1]:1"])];
    for (flag, _) in addresses {
        for setting in ["true", "[\"dynamic\"]"] {
            let text = format!("mode = \"blacklist\"\n[scope]\n{flag} = {setting}\n[flags]\npeer_to_peer = true");
            let policy = set(&[("user/x.toml", &user(&text))]);
            for (other, remotes) in addresses {
                for remote in remotes {
                    expect(&policy, &[(to(remote), if other == flag { "accept mode" } else { "block scope" })]);
                    let secure = if other == flag && setting == "true" { "accept mode" } else { "block scope" };
                    expect(&policy, &[(to(remote).at(Level::Secure), secure)]);
                }
            }
        }
    }
}

#[test]
fn invalid_addresses_are_denied_whatever_the_flags() {
    let policy = set(&[("user/x.toml", &user(&format!("endpoints = [\"+ *\"]\n{OPEN}")))]);
    for remote in ["0.0.0.0:1", "240.0.0.1:1", "[::]:1", "[::2]:1", "[::ffff:0.1.2.3]:1"] {
        expect(&policy, &[(to(remote), "block scope"), (to(remote).inbound(), "drop scope")]);
    }
}

#[test]
fn v4_mapped_addresses_count_as_the_ipv4_inside() {
    let policy = set(&[("user/x.toml", &user(&format!("endpoints = [\"- 192.0.2.1\", \"- 10.0.0.0/8\"]\n{OPEN}")))]);
    for remote in ["[::ffff:192.0.2.1]:1", "[64:ff9b::192.0.2.1]:1", "[::ffff:10.1.1.1]:1"] {
        expect(&policy, &[(to(remote), "block endpoints")]);
    }
}

#[test]
fn an_address_without_a_name_needs_peer_to_peer_unless_the_peer_is_this_host() {
    let policy = set(&[("user/x.toml", &user(&OPEN.replace("peer_to_peer = true", "peer_to_peer = false")))]);
    for remote in [V4, V6, "10.0.0.1:1", "[fd00::1]:1"] {
        expect(
            &policy,
            &[
                (to(remote), "block peer_to_peer"),
                (to(remote).named("example.com"), "accept mode"),
                (to(remote).on_this_host(), "accept mode"),
                (to(remote).inbound(), "accept mode"),
            ],
        );
    }
    expect(&policy, &[(to("127.0.0.1:1"), "accept mode"), (to("[::1]:1"), "accept mode")]);
    let gateway = set(&[("user/x.toml", &user(&OPEN.replace("peer_to_peer = true", "gateway = true")))]);
    expect(&gateway, &[(to(V4), "accept mode"), (to(V6), "accept mode")]);
}

#[test]
fn the_first_rule_that_matches_decides() {
    let rules = "endpoints = [\"+ .example.com TCP/443\", \"? LAN\", \"- 2001:db8::/32 UDP\", \"+ 192.0.2.0/24 */80-90\", \"- *\"]\n\
                 service_endpoints = [\"+ LAN TCP/22\", \"- *\"]\n";
    let policy = set(&[("user/x.toml", &user(&format!("{rules}{OPEN}")))]);
    expect(
        &policy,
        &[
            (to(V4).named("www.example.com"), "accept endpoints"),
            (to(V6).named("example.com"), "accept endpoints"),
            (to("192.0.2.1:444").named("example.com"), "block endpoints"),
            (to(V4).named("example.com").proto(17), "block endpoints"),
            (to("10.0.0.1:5"), "ask endpoints"),
            (to("[fe80::1]:5"), "ask endpoints"),
            (to("10.0.0.1:5").answered(Answer::Allow), "accept prompt"),
            (to("10.0.0.1:5").answered(Answer::Deny), "block prompt"),
            (to("192.0.2.1:85"), "accept endpoints"),
            (to("192.0.2.1:85").proto(17), "accept endpoints"),
            (to("192.0.2.1:85").proto(1), "block endpoints"),
            (to("192.0.2.1:91").answered(Answer::Allow), "block endpoints"),
            (to("10.0.0.1:22").inbound(), "accept endpoints"),
            (to("[fd00::1]:22").inbound(), "accept endpoints"),
            (to("10.0.0.1:23").inbound(), "drop endpoints"),
            (to("192.0.2.1:22").inbound(), "drop endpoints"),
        ],
    );
    let reason = to(V4).named("example.com").judge(&policy).reason;
    assert_eq!((reason.rule.as_deref(), reason.line), (Some("+ .example.com TCP/443"), Some(2)));
}

#[test]
fn a_chain_of_cnames_is_denied_through_but_never_permitted_through() {
    let policy =
        set(&[("user/x.toml", &user(&format!("endpoints = [\"- .tracker.example\", \"+ .cdn.example\", \"? *\"]\n{OPEN}")))]);
    for remote in [V4, V6] {
        expect(
            &policy,
            &[
                (to(remote).chained("shop.example", &["x.tracker.example"]), "block endpoints"),
                (to(remote).chained("shop.example", &["x.cdn.example"]), "ask endpoints"),
                (to(remote).chained("x.cdn.example", &["y.tracker.example"]), "block endpoints"),
                (to(remote).named("x.cdn.example"), "accept endpoints"),
            ],
        );
    }
}

#[test]
fn of_several_names_the_strictest_verdict_holds() {
    let policy = set(&[("user/x.toml", &user(&format!("endpoints = [\"+ good.example\", \"- bad.example\", \"? *\"]\n{OPEN}")))]);
    for (names, wanted) in [
        (&["good.example", "bad.example"][..], "block endpoints"),
        (&["bad.example", "good.example"], "block endpoints"),
        (&["good.example", "other.example"], "ask endpoints"),
        (&["good.example"], "accept endpoints"),
    ] {
        for remote in [V4, V6] {
            let put = names.iter().fold(to(remote), |put, name| put.named(name));
            expect(&policy, &[(put, wanted)]);
        }
    }
}

#[test]
fn the_domain_whitelist_and_connect_ports_refuse_but_never_permit() {
    let lists = "domain_whitelist = [\"example.com\", \"*.example.org\"]\nconnect_ports = [\"TCP/443\", \"UDP/50000-60000\"]\nmode = \"whitelist\"\n";
    let rest = "[scope]\ninternet = true\n[flags]\npeer_to_peer = true\n";
    let whitelist = set(&[("user/x.toml", &user(&format!("{lists}{rest}")))]);
    let open = set(&[("user/x.toml", &user(&format!("{}{rest}", lists.replace("whitelist\"\n", "blacklist\"\n"))))]);
    for host in ["192.0.2.1", "[2001:db8::1]"] {
        let to = |port: u16| to(&format!("{host}:{port}"));
        expect(&whitelist, &[(to(443).named("example.com"), "block mode")]);
        expect(
            &open,
            &[
                (to(443).named("example.com"), "accept mode"),
                (to(443).named("www.example.com"), "block domain_whitelist"),
                (to(443).named("www.example.org"), "accept mode"),
                (to(443).named("example.org"), "block domain_whitelist"),
                (to(443), "block domain_whitelist"),
                (to(80).named("example.com"), "block connect_ports"),
                (to(50000).named("example.com"), "block connect_ports"),
                (to(50000).named("example.com").proto(17), "accept mode"),
                (to(1).named("example.com").proto(1), "block connect_ports"),
                (to(1).named("example.com").proto(58), "block connect_ports"),
            ],
        );
    }
    let free = set(&[("user/x.toml", &user(&format!("domain_whitelist = []\nconnect_ports = []\n{OPEN}")))]);
    expect(&free, &[(to(V4), "accept mode"), (to(V6), "accept mode")]);
}

#[test]
fn encrypted_dns_beside_our_own_is_refused_unless_a_rule_permits_it() {
    let policy = set(&[("user/x.toml", &user(OPEN))]);
    let permitted = set(&[("user/x.toml", &user(&format!("endpoints = [\"+ * */853\"]\n{OPEN}")))]);
    for remote in ["192.0.2.1:853", "[2001:db8::1]:853"] {
        expect(&policy, &[(to(remote), "block bypass"), (to(remote).proto(17), "block bypass")]);
        expect(&permitted, &[(to(remote), "accept endpoints")]);
    }
    for (level, wanted) in [(Level::Dynamic, "accept mode"), (Level::Secure, "accept mode"), (Level::Fortress, "block bypass")] {
        expect(
            &policy,
            &[(to("192.0.2.1:3478").proto(17).at(level), wanted), (to("[2001:db8::1]:3478").proto(17).at(level), wanted)],
        );
    }
}

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
fn strict_reaches_related_domains_alone_and_gateway_lifts_it() {
    let strict = set(&[("user/x.toml", &user(&format!("{OPEN}strict = true")))]);
    let gateway = set(&[("user/x.toml", &user(&format!("{OPEN}strict = true\ngateway = true")))]);
    for remote in [V4, V6] {
        expect(
            &strict,
            &[
                (to(remote).named("www.tool.com"), "accept mode"),
                (to(remote).named("tools.co.uk"), "accept mode"),
                (to(remote).named("example.com"), "block strict"),
                (to(remote), "block strict"),
                (to(remote).inbound(), "accept mode"),
            ],
        );
        expect(&gateway, &[(to(remote).named("example.com"), "accept mode"), (to(remote), "accept mode")]);
    }
}

#[test]
fn the_mode_decides_what_no_rule_speaks_of() {
    let with = |mode: &str, flags: &str| set(&[("user/x.toml", &user(&format!("{}{flags}", OPEN.replace("blacklist", mode))))]);
    for remote in [V4, V6] {
        expect(&with("blacklist", ""), &[(to(remote), "accept mode"), (to(remote).inbound(), "accept mode")]);
        expect(&with("whitelist", ""), &[(to(remote), "block mode"), (to(remote).inbound(), "drop mode")]);
        let prompt = with("prompt", "");
        expect(
            &prompt,
            &[
                (to(remote), "ask mode"),
                (to(remote).named("tool.com"), "ask mode"),
                (to(remote).answered(Answer::Allow), "accept prompt"),
                (to(remote).answered(Answer::Deny), "block prompt"),
            ],
        );
        let related = with("prompt", "related = [\"dynamic\"]");
        expect(
            &related,
            &[
                (to(remote).named("tool.com"), "accept mode"),
                (to(remote).named("tool.com").at(Level::Secure), "ask mode"),
                (to(remote).named("example.com"), "ask mode"),
                (to(remote), "ask mode"),
            ],
        );
    }
    let none = set(&[("user/x.toml", &user(&OPEN.replace("mode = \"blacklist\"", "")))]);
    expect(&none, &[(to(V4), "block mode"), (to(V6), "block mode")]);
}

#[test]
fn an_accepted_flow_that_requires_the_gate_is_blocked_while_there_is_none() {
    let policy = set(&[("user/x.toml", &user(&format!("endpoints = [\"? 192.0.2.0/24 TCP/1\"]\n{OPEN}require_gate17 = true")))]);
    for remote in [V4, V6] {
        let decision = to(remote).judge(&policy);
        assert_eq!((decision.verdict, decision.lane), (Verdict::Block, Lane::Gate));
        assert_eq!(decision.permit(Epoch(1)), None);
        expect(&policy, &[(to(remote), "block gate"), (to(remote).inbound(), "drop gate")]);
    }
    expect(&policy, &[(to("192.0.2.1:1").answered(Answer::Allow), "block gate")]);
}

#[test]
fn a_prompts_answer_turns_nothing_but_an_ask() {
    let policy = set(&[("user/x.toml", &user(&format!("endpoints = [\"- 192.0.2.1\", \"+ 192.0.2.2\"]\n{OPEN}")))]);
    expect(
        &policy,
        &[
            (to("192.0.2.1:1").answered(Answer::Allow), "block endpoints"),
            (to("192.0.2.2:1").answered(Answer::Deny), "accept endpoints"),
        ],
    );
}

#[test]
fn only_an_accept_of_the_walk_mints_a_permit() {
    let policy = set(&[("user/x.toml", &user(OPEN))]);
    let accepted = to(V4).judge(&policy);
    assert_eq!(accepted.permit(Epoch(7)).map(|permit| (permit.epoch(), permit.lane())), Some((Epoch(7), Lane::Direct)));
    let mut forged = to("240.0.0.1:1").judge(&policy);
    forged.verdict = Verdict::Accept;
    assert_eq!(forged.permit(Epoch(7)), None);
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
