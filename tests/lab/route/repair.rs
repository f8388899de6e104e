//! What others remove while the router runs is back before anything gets past it.

use std::time::{Duration, Instant};

use crate::harness::{Lab, Profiles, Router, Way, binary, eventually};

/// Rules, routes and tables, without what counts by itself.
fn state(lab: &Lab) -> String {
    let commands = "ip rule; ip -6 rule; ip route show table 1717; ip -6 route show table 1717; ip -br address show dev portreeve0 scope global; \
        nft -s list table inet portreeve; nft -s list table netdev portreeve";
    lab.laptop().run(["sh", "-c", commands]).stdout
}

/// How long it took until `whole` holds. The time limit is a busy machine's: looking alone takes a dozen processes.
fn until(whole: impl Fn() -> bool) -> Duration {
    let start = Instant::now();
    eventually("the guard is whole", || whole().then_some(()));
    start.elapsed()
}

#[test]
fn whatever_is_removed_is_back_at_once() {
    let lab = Lab::new();
    let profiles = Profiles::accepting();
    let router = Router::start(&lab, Way::Up, &profiles);
    let before = state(&lab);
    assert!(before.contains("lookup 1717") && before.contains("chain egress_"), "{before}");
    for removal in [
        "ip rule del pref 1700",
        "ip -6 rule del pref 1700",
        "ip rule del pref 1698 ipproto icmp",
        "ip -6 rule del pref 0 iif lo",
        "ip route flush table 1717",
        "ip -6 route flush table 1717",
        "nft delete table inet portreeve",
        "nft flush chain inet portreeve output",
        "nft delete table netdev portreeve",
        "nft flush ruleset",
        "ip address flush dev portreeve0",
        "ip link set portreeve0 down",
    ] {
        lab.laptop().run(["sh", "-c", removal]).expect_success();
        let took = until(|| state(&lab) == before);
        println!("{removal}: whole again after at most {} ms", took.as_millis());
        let page = router.run(["curl", "-sS", "--max-time", "30", "http://203.0.113.10/hello"]).expect_success();
        assert_eq!(page, "hello from the lab\n", "{removal}");
    }
}

#[test]
fn a_link_that_appears_later_is_guarded_and_one_that_goes_is_forgotten() {
    let lab = Lab::new();
    let profiles = Profiles::accepting();
    let router = Router::start(&lab, Way::Up, &profiles);
    let chains = || lab.laptop().run(["nft", "list", "table", "netdev", "portreeve"]).expect_success();
    assert!(!chains().contains("late0"));
    lab.laptop().run(["ip", "link", "add", "late0", "type", "veth", "peer", "name", "late1"]).expect_success();
    until(|| chains().contains("device \"late0\""));
    lab.laptop().run(["ip", "link", "del", "late0"]).expect_success();
    until(|| !chains().contains("late0"));
    router.verb(&["down"]).expect_success();
    lab.laptop().run([binary().into_os_string(), "status".into()]).expect_code(3);
}
