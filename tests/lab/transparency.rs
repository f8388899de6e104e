//! What sockets say is the same without a router and through one: `tests/sockprobe` asks, this compares.
//!
//! Rule: a behaviour that differs is a failure, unless `tests/data/known-diffs.toml` says why it must; what stands there and does not
//! differ is a failure as well. Time on a busy machine is no behaviour: what differs is asked again, through the router and then without,
//! and counts only if it never agrees.

mod answers;
mod known;
mod site;
mod suites;

use crate::harness::{Capture, Lab, Profiles, Router, Seen, Way};
use known::Known;
use site::Site;

/// How often what differs is asked again.
const AGAIN: usize = 2;

through_a_router! {
    sockets_behave_as_without_a_router,
    whatever_reaches_the_network_is_refused_and_nothing_leaves,
}

fn sockets_behave_as_without_a_router(way: Way) {
    behave(way, if way == Way::Up { "up" } else { "exec" }, None);
}

#[test]
fn sockets_behave_by_the_express_lane_as_without_a_router() {
    behave(Way::Up, "express", Some("express = true\n"));
}

fn behave(way: Way, name: &str, config: Option<&str>) {
    let lab = Lab::new();
    let site = Site::build(&lab);
    let profiles = Profiles::accepting();
    let direct = Router::start(&lab, Way::Direct, &profiles);
    let mut without = site.ask(&direct, &[]);
    let known = Known::read(name);
    let (expected, mut differing): (Vec<_>, Vec<_>);
    {
        let router = Router::start_with(&lab, way, &profiles, config);
        let through = site.ask(&router, &[]);
        without.expect_same_questions(&through);
        (expected, differing) = without.differing(&through).into_iter().partition(|(key, _)| known.holds(key));
        for _ in 0..AGAIN {
            let again = site.ask_again(&router, &differing);
            differing = without.differing(&again);
        }
    }
    for _ in 0..AGAIN {
        let again = site.ask_again(&direct, &differing);
        differing.retain(|(key, seen)| again.result(key) != Some(seen));
        without.replace(again);
    }
    differing.extend(expected);
    known.judge(name, &without, &differing);
}

fn whatever_reaches_the_network_is_refused_and_nothing_leaves(way: Way) {
    let lab = Lab::new();
    let site = Site::build(&lab);
    let profiles = Profiles::empty();
    let direct = Router::start(&lab, Way::Direct, &profiles);
    let mut without = site.ask(&direct, &[]);
    let router = Router::start(&lab, way, &profiles);
    let capture = Capture::start(&lab, "refused");
    let mut answers = site.ask(&router, &[]);
    for _ in 0..AGAIN {
        let again = site.ask_again(&router, &answers.not_refused(&without));
        answers.replace(again);
    }
    // The control: the laptop's echo reply.
    lab.gateway().run(["ping", "-c1", "-q", Lab::LAPTOP_4]).expect_success();
    let control = Seen { protocol: "ICMP", destination: std::net::IpAddr::from([10, 9, 0, 1]), port: None };
    // Who joins a group tells the link, as IPv6 does by what the capture leaves out (RFC 3376 §4.2.14).
    let joined = Seen { protocol: "IGMP", destination: std::net::IpAddr::from([224, 0, 0, 22]), port: None };
    capture.stop_with_only(&[control], &[joined]);
    drop(router);
    let mut unlike = answers.not_refused(&without);
    for _ in 0..AGAIN {
        without.replace(site.ask_again(&direct, &unlike));
        unlike = answers.not_refused(&without);
    }
    assert!(unlike.is_empty(), "{way:?}: not refused as promised: {unlike:#?}");
    assert!(answers.prohibited() > 100, "{way:?}: {} behaviours were told that they are prohibited", answers.prohibited());
}
