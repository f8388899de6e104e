//! Programs that others wrote to look at a network see the same one.

use std::collections::BTreeSet;
use std::fmt::Debug;

use super::AGAIN;
use super::site::Site;
use crate::harness::{Lab, Profiles, Router, Way};

through_a_router! {
    a_scan_of_ports_finds_the_same_as_without_a_router,
    traceroute_sees_the_same_hops_as_without_a_router,
    mtr_sees_the_same_hops_as_without_a_router,
}

/// Every port is closed but for the servers', whoever asks.
fn a_scan_of_ports_finds_the_same_as_without_a_router(way: Way) {
    let lab = Lab::new();
    let profiles = Profiles::accepting();
    let scan = |router: &Router<'_>, (family, address, ports): (&'static str, &'static str, &'static str)| -> BTreeSet<String> {
        let words = ["-n", "-Pn", "-sT", "-p", ports, "-T4", "-oG", "-", address];
        let told = router.run(["nmap"].into_iter().chain((family == "-6").then_some(family)).chain(words)).expect_success();
        assert!(told.contains("1 host up"), "{told}");
        let ports = told.lines().filter_map(|line| line.split_once("Ports: ")).flat_map(|(_, ports)| ports.split([',', '\t']));
        // Questions of all programs end at the router, so port 53 always answers.
        ports
            .map(|port| port.trim().to_owned())
            .filter(|port| port.starts_with(|first: char| first.is_ascii_digit()) && !port.starts_with("53/"))
            .collect()
    };
    let asked = [("-4", Lab::OTHER_4, "1-65535"), ("-6", Lab::OTHER_6, "1-10000")];
    let direct = Router::start(&lab, Way::Direct, &profiles);
    let without: Vec<_> = asked.map(|one| scan(&direct, one)).into();
    assert!(without.iter().all(|ports| ports.iter().any(|port| port.starts_with("80/open"))), "{without:?}");
    let router = Router::start(&lab, way, &profiles);
    for (one, without) in asked.into_iter().zip(without) {
        assert_agrees(way, &without, || scan(&router, one));
    }
}

/// Traceroute by UDP, by echo and by TCP; the last sends from a raw socket. By UDP to port 53 (-U) there are no hops: questions end at the router.
fn traceroute_sees_the_same_hops_as_without_a_router(way: Way) {
    let lab = Lab::new();
    // Where hosts limit how often they answer, a second traceroute sees less than the first.
    let _site = Site::build(&lab);
    let hops = |router: &Router<'_>, (method, address): Asked| -> Vec<String> {
        // 0,0: a hop has its five seconds however quick the next one was.
        let words = ["traceroute", "-n", "-q1", "-m5", "-w5,0,0"];
        let told = router.run(words.into_iter().chain(method.split_whitespace()).chain([address])).expect_success();
        let hop = |line: &str| line.split_whitespace().take(2).collect::<Vec<_>>().join(" ");
        told.lines().skip(1).map(hop).collect()
    };
    let methods = ["", "-I", "-T -p 80", "-T -p 81"];
    let asked = methods.map(|method| [(method, Lab::SERVER_4), (method, Lab::SERVER_6)]);
    assert_same_hops(&lab, way, asked.as_flattened(), hops);
}

/// By echo, by datagrams and by TCP. The first two send whole packets from a raw socket in IPv4.
fn mtr_sees_the_same_hops_as_without_a_router(way: Way) {
    let lab = Lab::new();
    let _site = Site::build(&lab);
    let hops = |router: &Router<'_>, (method, address): Asked| -> Vec<String> {
        let words = ["mtr", "-n", "-r", "-c2", "-i0.2", "-G0.5", "-m5"];
        let told = router.run(words.into_iter().chain(method.split_whitespace()).chain([address])).expect_success();
        // The hop, its address, and how much was lost of how many.
        let hop = |line: &str| line.split_whitespace().take(4).collect::<Vec<_>>().join(" ");
        told.lines().skip(2).map(hop).collect()
    };
    let asked = ["", "-u", "-T -P 80"].map(|method| [(method, Lab::SERVER_4), (method, Lab::SERVER_6)]);
    assert_same_hops(&lab, way, asked.as_flattened(), hops);
}

/// Two hops to each, and through the router the same ones as without it.
fn assert_same_hops(lab: &Lab, way: Way, asked: &[Asked], hops: impl Fn(&Router<'_>, Asked) -> Vec<String>) {
    let profiles = Profiles::accepting();
    let direct = Router::start(lab, Way::Direct, &profiles);
    let without: Vec<_> = asked.iter().map(|one| hops(&direct, *one)).collect();
    assert!(without.iter().all(|hops| hops.len() == 2), "{without:?}");
    let router = Router::start(lab, way, &profiles);
    for (one, without) in asked.iter().zip(without) {
        assert_agrees(way, &without, || hops(&router, *one));
    }
}

/// What differs is asked again: these programs give an answer little time, and a busy machine may need more.
fn assert_agrees<T: Debug + PartialEq>(way: Way, without: &T, ask: impl Fn() -> T) {
    let mut through = ask();
    for _ in 0..AGAIN {
        if through != *without {
            through = ask();
        }
    }
    assert_eq!(through, *without, "{way:?}");
}

/// Words for the tool, and whom it asks.
type Asked = (&'static str, &'static str);
