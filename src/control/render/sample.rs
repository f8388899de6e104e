//! Things to render in tests.

use std::collections::BTreeMap;

use crate::control::{OlderFlow, ProfileSource, Prompt, State, Status, Way};
use crate::flow::{Direction, Record};
use crate::process::Confidence;
use crate::profile::Level;

/// An accepted flow that ended.
pub(in crate::control) fn record() -> Record {
    Record {
        id: 1,
        start: 1_700_000_000_000,
        end: Some(1_700_000_003_000),
        direction: Direction::Outbound,
        proto: "tcp".to_owned(),
        src: "198.18.0.1:40000".to_owned(),
        dst: "203.0.113.10:443".to_owned(),
        name: Some("example.com".to_owned()),
        exe: Some("/usr/bin/curl".to_owned()),
        pid: Some(4711),
        uid: Some(1000),
        profile: Some("curl".to_owned()),
        confidence: Confidence::Exact,
        verdict: "accept".to_owned(),
        check: "endpoints".to_owned(),
        rule: Some("+ .example.com (user/curl.toml:4)".to_owned()),
        lane: Some("direct".to_owned()),
        bytes_up: 1234,
        bytes_down: 104_857_600,
        rtt_us: Some(76),
        outcome: Some("closed".to_owned()),
    }
}

/// A refused flow without a name.
pub(in crate::control) fn refused() -> Record {
    Record {
        id: 2,
        end: Some(1_700_000_000_000),
        dst: "[2001:db8::10]:22".to_owned(),
        name: None,
        exe: Some("/usr/bin/ssh".to_owned()),
        pid: Some(99),
        profile: None,
        verdict: "block".to_owned(),
        check: "scope".to_owned(),
        rule: Some("internet = false (fallback.toml:3)".to_owned()),
        lane: None,
        bytes_up: 0,
        bytes_down: 0,
        rtt_us: None,
        outcome: None,
        ..record()
    }
}

pub(in crate::control) fn prompt() -> Prompt {
    Prompt {
        id: 5,
        program: "curl".to_owned(),
        exe: Some("/usr/bin/curl".to_owned()),
        pid: Some(4711),
        uid: Some(1000),
        name: Some("example.com".to_owned()),
        dst: "203.0.113.10:443".to_owned(),
        proto: "tcp".to_owned(),
        since_ms: 1_700_000_000_000,
        deadline_ms: 1_700_000_060_000,
    }
}

/// A flow that was there before.
pub(in crate::control) fn older(verdict: &str) -> OlderFlow {
    OlderFlow {
        exe: Some("/usr/bin/curl".to_owned()),
        pid: Some(4711),
        direction: Direction::Outbound,
        proto: "tcp".to_owned(),
        src: "10.9.0.2:40000".to_owned(),
        dst: "203.0.113.10:443".to_owned(),
        verdict: verdict.to_owned(),
        open: verdict == "accept",
    }
}

pub(in crate::control) fn status() -> Status {
    Status {
        state: State::Active,
        way: Way::Up,
        version: "0.1.0".to_owned(),
        pid: 321,
        since: 1_700_000_000_000,
        level: Level::Secure,
        profiles: vec![
            ProfileSource { from: "shipped".to_owned(), profiles: 14 },
            ProfileSource { from: "/etc/portreeve/profiles".to_owned(), profiles: 1 },
        ],
        epoch: 2,
        device: "portreeve0".to_owned(),
        addresses: vec!["198.18.0.1/32".to_owned(), "2001:db8::1/128".to_owned()],
        mtu: 1500,
        plan: Some("routes/default.toml".to_owned()),
        socket: "/run/portreeve/portreeve.sock".into(),
        dns_upstreams: vec!["192.0.2.53".to_owned()],
        flows_open: 12,
        flows_pending: 1,
        prompts: 1,
        inbound_judged: false,
        older: vec![older("accept"), older("block")],
        notes: vec!["country rules have no data: they refuse".to_owned()],
        counters: BTreeMap::from([("packets_in".to_owned(), 1000), ("drop_truncated".to_owned(), 0)]),
    }
}
