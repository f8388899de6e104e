//! The walk of DNS questions.

use portreeve::profile::Level;

use super::world::{OPEN, expect, question, set, to, user};

#[test]
fn a_question_needs_the_internet_or_the_lan() {
    for (scope, wanted) in [
        ("internet = true", "accept mode"),
        ("lan = true", "accept mode"),
        ("internet = false\nlan = true", "accept mode"),
        ("localhost = true", "block scope"),
        ("internet = false\nlan = false", "block scope"),
        ("internet = [\"secure\"]", "block scope"),
    ] {
        let policy = set(&[("user/x.toml", &user(&format!("mode = \"blacklist\"\n[scope]\n{scope}")))]);
        expect(&policy, &[(question("example.com"), wanted)]);
    }
}

#[test]
fn name_rules_decide_and_rules_that_need_more_are_left_to_the_flow() {
    let rules = |rules: &str| set(&[("user/x.toml", &user(&format!("endpoints = [{rules}]\n{OPEN}")))]);
    for (list, name, wanted) in [
        (r#""- .bad.example""#, "www.bad.example", "block endpoints"),
        (r#""+ .good.example", "- *""#, "www.good.example", "accept endpoints"),
        (r#""+ .good.example", "- *""#, "other.example", "block endpoints"),
        (r#""? .good.example", "- *""#, "good.example", "accept endpoints"),
        (r#""- 192.0.2.0/24", "- LAN", "- AT", "- AS64496""#, "any.example", "accept mode"),
        (r#""- * TCP/25", "- .good.example UDP""#, "good.example", "accept mode"),
        (r#""- * TCP/25", "- .good.example""#, "good.example", "block endpoints"),
        (r#""+ .good.example TCP/443", "? LAN", "- *""#, "good.example", "accept mode"),
        (r#""+ .good.example TCP/443", "? LAN", "- *""#, "other.example", "block endpoints"),
        (r#""+ 192.0.2.0/24", "- *""#, "other.example", "block endpoints"),
    ] {
        expect(&rules(list), &[(question(name), wanted)]);
    }
}

#[test]
fn a_whitelisted_question_stays_open_for_permits_and_asks_that_the_flow_settles() {
    for (list, wanted) in [
        ("", "block mode"),
        (r#""- 192.0.2.0/24""#, "block mode"),
        (r#""- * TCP/25""#, "block mode"),
        (r#""+ 192.0.2.0/24""#, "accept endpoints"),
        (r#""? LAN""#, "accept endpoints"),
        (r#""+ * TCP/443""#, "accept endpoints"),
        (r#""+ .other.example TCP/443""#, "block mode"),
        (r#""+ .good.example TCP/443""#, "accept endpoints"),
    ] {
        let text = format!("endpoints = [{list}]\n{}", OPEN.replace("blacklist", "whitelist"));
        expect(&set(&[("user/x.toml", &user(&text))]), &[(question("www.good.example"), wanted)]);
    }
}

#[test]
fn names_resolve_before_anyone_is_asked() {
    let policy = set(&[("user/x.toml", &user(&OPEN.replace("blacklist", "prompt")))]);
    expect(&policy, &[(question("example.com"), "accept mode"), (to("192.0.2.1:443").named("example.com"), "ask mode")]);
}

#[test]
fn whitelist_labels_strict_and_bypass_hold_for_questions_too() {
    let label = "label = \"tracker\"\nnames = [\".tracker.example\"]\nunbreak = [\"ok.tracker.example\"]";
    let policy = set(&[("labels/a.toml", label), ("user/x.toml", &user(&format!("{OPEN}[labels]\nblock = [\"tracker\"]")))]);
    expect(
        &policy,
        &[
            (question("a.tracker.example"), "block labels"),
            (question("ok.tracker.example"), "accept mode"),
            (question("use-application-dns.net"), "block bypass"),
            (question("dns.google"), "block bypass"),
        ],
    );
    let listed = set(&[("user/x.toml", &user(&format!("domain_whitelist = [\"*.example.org\"]\n{OPEN}")))]);
    expect(&listed, &[(question("a.example.org"), "accept mode"), (question("example.org"), "block domain_whitelist")]);
    let strict = set(&[("user/x.toml", &user(&format!("{OPEN}strict = true")))]);
    expect(&strict, &[(question("tool.com"), "accept mode"), (question("example.com"), "block strict")]);
}

#[test]
fn nobody_and_wrong_users_get_no_names() {
    let policy = set(&[("fallback.toml", OPEN)]);
    expect(&policy, &[(question("example.com").tag("portreeve:unattributed"), "block identity")]);
    let system = set(&[("user/x.toml", &user(&format!("{OPEN}run_as = \"system\"")))]);
    expect(
        &system,
        &[(question("example.com").uid(Some(1000)), "block run_as"), (question("example.com").uid(Some(0)), "accept mode")],
    );
}

#[test]
fn a_question_needs_no_peer_to_peer_and_no_gate() {
    let policy = set(&[("user/x.toml", &user("mode = \"blacklist\"\n[scope]\ninternet = true\n[flags]\nrequire_gate17 = true"))]);
    expect(&policy, &[(question("example.com"), "accept mode"), (question("example.com").at(Level::Fortress), "accept mode")]);
}
