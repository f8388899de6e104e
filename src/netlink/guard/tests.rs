use super::*;
use std::collections::BTreeSet;

fn host() -> Host {
    let link = |index: u32, name: &str| Link {
        index,
        name: name.to_owned(),
        mtu: 1500,
        up: true,
        loopback: name == "lo",
        framing: match name {
            "wg0" => Framing::Bare,
            "gre1" => Framing::Other,
            _ => Framing::Ethernet,
        },
        shared: name == "tap0",
    };
    let links = vec![link(1, "lo"), link(2, "eth0"), link(3, "wg0"), link(4, "tap0"), link(5, "portreeve0"), link(6, "gre1")];
    Host { links, addresses: Vec::new(), uplinks: BTreeSet::new(), ways: Vec::new(), ipv6: true }
}

fn texts(plan: &Plan) -> (String, String) {
    let host = host();
    let bare = BareLinks::default();
    let guard = Guard { plan, host: &host, mark: Mark::new(0x2a00_0000).expect("a mark"), bare: &bare };
    bare.follow(guard.guarded_links());
    (guard.plain(), guard.live(true))
}

#[test]
fn what_is_neither_ours_nor_exempt_is_counted_and_refused() {
    let (plain, _) = texts(&Plan::default());
    let output = plain.split("chain output").nth(1).expect("the chain");
    let order = ["oifname { \"lo\", \"portreeve0\" } accept", "== 0x2a000000 accept", "counter name \"leak\" jump refuse"];
    let (_, output) =
        output.split_once("ip saddr 127.0.0.0/8 counter name \"leak\" jump refuse").expect("loopback addresses stay in");
    let found: Vec<usize> = order.iter().map(|rule| output.find(rule).expect(rule)).collect();
    assert!(found.is_sorted());
    assert!(plain.contains("meta l4proto tcp reject with tcp reset\n\t\treject with icmpx admin-prohibited"));
}

#[test]
fn every_exemption_is_in_the_output_chain_and_in_each_egress_chain() {
    let (plain, _) = texts(&Plan::default());
    for exemption in EXEMPTIONS {
        assert_eq!(plain.matches(&format!("{} accept", exemption.rule)).count(), 4, "{}", exemption.name);
    }
}

#[test]
fn loopback_our_device_and_ports_of_a_bridge_get_no_egress_chain_and_tunnels_no_ethernet_rule() {
    let (plain, _) = texts(&Plan::default());
    assert!(plain.contains("egress_2") && plain.contains("egress_3"));
    assert!(!plain.contains("egress_1") && !plain.contains("egress_4") && !plain.contains("egress_5"));
    assert_eq!(plain.matches("ether type arp").count(), 1);
}

#[test]
fn what_names_a_link_is_led_where_that_can_be_told_and_refused_elsewhere() {
    let (plain, _) = texts(&Plan::default());
    assert!(plain.contains("oifname { \"eth0\", \"wg0\" } accept"));
    assert!(plain.contains("oifname != { \"eth0\", \"wg0\", \"lo\", \"portreeve0\" } counter name \"leak\" drop"));
    let chains: Vec<(&str, usize)> =
        plain.split("chain egress_").skip(1).map(|chain| (&chain[..1], chain.matches("fwd to").count())).collect();
    assert_eq!(chains, [("2", 1), ("3", 2), ("6", 0)]);
}

#[test]
fn a_closed_guard_outlives_us_and_an_open_one_does_not() {
    let closed = Plan::default();
    assert!(!texts(&closed).0.contains("flags owner"));
    let open = Plan { failure: Failure::Open, ..closed };
    assert_eq!(texts(&open).0.matches("flags owner").count(), 2);
    assert!(texts(&open).1.contains("flags owner"));
}

#[test]
fn what_ends_here_is_marked_on_arrival_and_what_is_forwarded_is_not() {
    let (_, live) = texts(&Plan::default());
    let prerouting = live.split("chain prerouting").nth(1).and_then(|text| text.split("chain errors").next()).expect("the chain");
    let marking = |line: &&str| line.contains("meta mark set");
    let conditions =
        ["ct status snat", "ct mark & 0xff000000 == 0x2b", "== 0x2a000000", "== 0x2a001000", "fib daddr type { local,"];
    let lines: Vec<&str> = prerouting.lines().filter(marking).collect();
    assert_eq!(lines.len(), conditions.len());
    assert!(lines.iter().zip(conditions).all(|(line, condition)| line.contains(condition)), "{prerouting}");
    assert!(live.contains("table arp portreeve_live"));
}

#[test]
fn errors_about_our_own_flows_leave_where_the_kernel_says_them_and_no_program_does() {
    let (_, live) = texts(&Plan::default());
    assert!(live.contains("chain errors {\n\t\tmeta skuid >= 0 return\n\t\tmeta mark set"), "{live}");
    assert!(live.contains("ct state related ct mark & 0xff000000 == 0x2a000000 jump errors"), "{live}");
}

#[test]
fn exclusions_are_marked_and_nothing_else_is() {
    let mut plan = Plan::default();
    let marked = |plan: &Plan| texts(plan).0.matches("meta mark set").count();
    let before = marked(&plan);
    plan.exclude.networks = vec!["192.0.2.0/24".parse().expect("a network"), "2001:db8::/32".parse().expect("a network")];
    plan.exclude.users = vec![1000];
    assert_eq!(marked(&plan), before + 3);
    plan.exclude.interfaces = vec!["eth0".to_owned()];
    assert_eq!(marked(&plan), before + 5);
    assert!(!texts(&plan).0.contains("egress_2"));
}

#[test]
fn stubs_are_redirected_for_everybody_but_ourselves() {
    let mut plan = Plan::default();
    plan.dns.stubs = vec!["127.0.0.53".parse().expect("an address"), "::1".parse().expect("an address")];
    let text = stubs(&plan, Mark::new(0x2a00_0000).expect("a mark"), 5300, true);
    assert!(text.find("== 0x2a000000 return") < text.find("redirect"));
    assert!(text.contains("ip daddr 127.0.0.53 meta l4proto { tcp, udp } th dport 53 redirect to :5300"));
    assert!(text.contains("ip6 daddr ::1 meta l4proto { tcp, udp } th dport 53 redirect to :5300"));
}

#[test]
fn what_is_let_past_with_a_mark_of_others_leaves_by_the_main_table() {
    assert!(TOLD_APART.contains(&format!("| {BY_MAIN:#010x}")) && TOLD_APART.contains(&format!("& {:#010x}", !MASK)));
    let (_, live) = texts(&Plan::default());
    let output = live.split("chain output").nth(1).expect("the chain");
    let (apart, answers) = (output.find(TOLD_APART).expect("the rule"), output.find("jump beside").expect("the rule"));
    assert!(output.find("== 0x2a000000 accept").expect("our own") < apart && apart < answers);
    assert!(
        live.contains("ct mark & 0xff001000 == 0x2a001000 meta mark set meta mark & 0x00ffffff | 0x2a001000 accept"),
        "{live}"
    );
}
