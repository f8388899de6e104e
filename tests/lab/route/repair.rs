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
        "ip link set portreeve0 name other",
        // It may have its name back before the last step.
        "ip link set portreeve0 down && ip link set portreeve0 name other && { ip link set other up || ip link show portreeve0; }",
        "ip link set portreeve0 mtu 900",
    ] {
        lab.laptop().run(["sh", "-c", removal]).expect_success();
        let took = until(|| state(&lab) == before);
        println!("{removal}: whole again after at most {} ms", took.as_millis());
        let page = router.run(["curl", "-sS", "--max-time", "30", "http://203.0.113.10/hello"]).expect_success();
        assert_eq!(page, "hello from the lab\n", "{removal}");
    }
}

/// A kernel setting of the laptop.
fn setting(lab: &Lab, name: &str) -> String {
    lab.laptop().run(["sysctl", "-n", name]).expect_success().trim().to_owned()
}

/// A link that somebody gives the device's name is not taken for it.
#[test]
fn name_that_another_link_has_taken_is_told_and_comes_back_with_its_end() {
    let lab = Lab::new();
    let profiles = Profiles::accepting();
    let router = Router::start(&lab, Way::Up, &profiles);
    let before = state(&lab);
    lab.laptop().run(["ip", "link", "add", "thief", "type", "veth", "peer", "name", "fence"]).expect_success();
    let theft = "printf 'link set portreeve0 name other\nlink set thief name portreeve0\n' | ip -batch -";
    // Ours may have its name back before the second step.
    until(|| lab.laptop().run(["sh", "-c", theft]).status.success());
    until(|| router.verb(&["status"]).stdout.contains("another link has the name of our device"));
    assert_ne!(router.run(["curl", "-sS", "--max-time", "5", "http://203.0.113.10/hello"]).code(), 0, "closed");
    let theirs = lab.laptop().run(["ip", "-br", "address", "show", "dev", "portreeve0"]).expect_success();
    assert!(theirs.contains("DOWN") && !theirs.contains("198.18.0.1"), "nothing of ours is done to it: {theirs}");
    lab.laptop().run(["ip", "link", "del", "portreeve0"]).expect_success();
    until(|| state(&lab) == before);
    router.run(["curl", "-sS", "--max-time", "30", "http://203.0.113.10/hello"]).expect_success();
}

#[test]
fn settings_that_somebody_changes_are_put_back_also_those_whose_change_nobody_is_told() {
    let lab = Lab::new();
    let profiles = Profiles::accepting();
    let names = ["conf.portreeve0.rp_filter", "conf.portreeve0.accept_local", "conf.all.src_valid_mark"];
    let names = names.map(|name| format!("net.ipv4.{name}")).into_iter().chain(["net.ipv6.fwmark_reflect".to_owned()]);
    let _router = Router::start(&lab, Way::Up, &profiles);
    for name in names {
        let ours = setting(&lab, &name);
        assert_ne!(ours, "0", "{name}");
        lab.laptop().run(["sysctl", "-qw", &format!("{name}=0")]).expect_success();
        until(|| setting(&lab, &name) == ours);
    }
}

#[test]
fn the_device_follows_the_uplinks_mtu_and_keeps_what_it_has_where_there_is_none() {
    let lab = Lab::new();
    let profiles = Profiles::accepting();
    let router = Router::start(&lab, Way::Up, &profiles);
    let mtu = || lab.laptop().run(["cat", "/sys/class/net/portreeve0/mtu"]).expect_success().trim().to_owned();
    let change = |words: &str| {
        lab.laptop().run(["sh", "-c", &format!("ip link set {words}")]).expect_success();
    };
    assert_eq!(mtu(), "1500");
    for (words, expected) in
        [("eth0 mtu 1400", "1400"), ("eth0 mtu 1300", "1300"), ("eth0 mtu 1500", "1500"), ("portreeve0 mtu 1300", "1500")]
    {
        change(words);
        until(|| mtu() == expected);
        until(|| router.verb(&["status"]).stdout.contains(&format!("portreeve0, MTU {expected},")));
    }
    change("eth0 mtu 1400");
    until(|| mtu() == "1400");
    lab.laptop().run(["sh", "-c", "ip route del default; ip -6 route del default; ip link set eth0 mtu 1500"]).expect_success();
    // The repair of something else shows that the change has been looked at.
    lab.laptop().run(["ip", "rule", "del", "pref", "1700"]).expect_success();
    until(|| lab.laptop().run(["ip", "rule"]).stdout.contains("1700:"));
    assert_eq!(mtu(), "1400", "no uplink, no news");
    lab.laptop().run(["sh", "-c", "ip route add default via 10.9.0.1; ip -6 route add default via fd09::1"]).expect_success();
    until(|| mtu() == "1500");
    for host in ["203.0.113.10", "[2001:db8::10]"] {
        router.run(["curl", "-sS", "--max-time", "30", &format!("http://{host}/hello")]).expect_success();
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

/// What wg-quick adds for a tunnel that carries everything, with a table that leads to the gateway instead.
const TUNNEL: &str = "for family in -4 -6; do ip $family rule add not fwmark 0xca6c table 51820; \
    ip $family rule add table main suppress_prefixlength 0; done; \
    ip route add default via 10.9.0.1 dev eth0 table 51820; ip -6 route add default via fd09::1 dev eth0 table 51820";

const NO_TUNNEL: &str = "for family in -4 -6; do ip $family rule del table 51820; ip $family rule del table main suppress_prefixlength 0; \
    ip $family route flush table 51820; done";

#[test]
fn rules_that_others_add_without_a_priority_are_asked_behind_ours_and_in_their_own_order() {
    let lab = Lab::new();
    let profiles = Profiles::accepting();
    let router = Router::start(&lab, Way::Up, &profiles);
    let before = state(&lab);
    lab.laptop().run(["sh", "-c", TUNNEL]).expect_success();
    for family in ["-4", "-6"] {
        let rules = || lab.laptop().run(["ip", family, "rule"]).expect_success();
        eventually("ours come first", || {
            let rules = rules();
            let order = ["lookup 1717", "suppress_prefixlength 0", "lookup 51820", "32766:"].map(|word| rules.rfind(word));
            (order.iter().all(Option::is_some) && order.is_sorted()).then_some(())
        });
    }
    for host in ["203.0.113.10", "[2001:db8::10]", "10.9.0.1", "[fd09::1]"] {
        // The gateway has no such server, and says so itself.
        let expected = if host.contains("9.0.1") || host.contains("fd09") { 7 } else { 0 };
        router.run(["curl", "-sS", "--max-time", "30", &format!("http://{host}/hello")]).expect_code(expected);
    }
    lab.laptop().run(["sh", "-c", NO_TUNNEL]).expect_success();
    until(|| state(&lab) == before);
}

#[test]
fn rules_of_others_that_stood_before_ours_stay_and_ours_go_before_them() {
    let lab = Lab::new();
    let profiles = Profiles::accepting();
    lab.laptop().run(["sh", "-c", "for f in -4 -6; do ip $f rule add pref 100 table main; done"]).expect_success();
    let before = state(&lab);
    let router = Router::start(&lab, Way::Up, &profiles);
    for host in ["203.0.113.10", "[2001:db8::10]"] {
        router.run(["curl", "-sS", "--max-time", "30", &format!("http://{host}/hello")]).expect_success();
    }
    router.verb(&["down"]).expect_success();
    until(|| state(&lab) == before);
}
