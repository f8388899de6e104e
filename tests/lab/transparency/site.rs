//! What the lab needs beside its own servers: a scripted peer, a gateway that rejects and loses, and a narrow path.

use serde_json::Value;

use super::answers::{Answers, Key};
use crate::harness::{Host, Lab, Router, Running, repository};

/// Where the gateway answers with an ICMP error: port 9100 and on, in this order. `tests/sockprobe/kit.py` has the same.
const REJECTIONS_4: [&str; 7] = [
    "net-unreachable",
    "host-unreachable",
    "prot-unreachable",
    "port-unreachable",
    "net-prohibited",
    "host-prohibited",
    "admin-prohibited",
];
const REJECTIONS_6: [&str; 6] =
    ["no-route", "admin-prohibited", "addr-unreachable", "port-unreachable", "policy-fail", "reject-route"];
/// Hosts behind a hop with a small MTU, eight a family: 198.51.100.100–107, fd77::100–107.
const NARROW: u16 = 1300;
const NARROW_NETWORKS: [(&str, &str, &str); 3] =
    [("-4", "198.51.100.100/30", "10.10.0.2"), ("-4", "198.51.100.104/30", "10.10.0.2"), ("-6", "fd77::100/125", "fd10::2")];

/// A lab made ready; the peer ends with it.
pub(super) struct Site {
    laptop: Host,
    _peer: Running,
}

impl Site {
    pub(super) fn build(lab: &Lab) -> Self {
        let (laptop, gateway, internet) = (lab.laptop(), lab.gateway(), lab.internet());
        // An answer to every packet that earns one: errors are compared, not the kernel's limits on their rate.
        for host in [&laptop, &gateway, &internet] {
            let limits = ["net.ipv4.icmp_ratelimit=0", "net.ipv6.icmp.ratelimit=0", "net.ipv4.icmp_msgs_per_sec=100000"];
            host.run(["sysctl", "-qw"].into_iter().chain(limits)).expect_success();
        }
        internet.run(["sysctl", "-qw", "net.ipv4.tcp_fastopen=3"]).expect_success();
        // A route that is unreachable answers at a limited rate; the rules below answer always.
        gateway.run(["ip", "route", "del", Lab::UNREACHABLE[0]]).expect_success();
        gateway.run(["ip", "-6", "route", "del", Lab::UNREACHABLE[1]]).expect_success();
        for (family, to, via) in NARROW_NETWORKS {
            let mtu = NARROW.to_string();
            gateway.run(["ip", family, "route", "replace", to, "via", via, "mtu", "lock", &mtu]).expect_success();
        }
        let narrow: Vec<String> = (0..8).flat_map(|n| [format!("198.51.100.10{n}"), format!("fd77::10{n}")]).collect();
        for address in &narrow {
            internet.run(["ip", "address", "add", address, "dev", "lo"]).expect_success();
        }
        gateway.run(["nft", &rules()]).expect_success();
        let served =
            [Lab::SERVER_4, Lab::OTHER_4, Lab::SERVER_6, Lab::OTHER_6].into_iter().chain(narrow.iter().map(String::as_str));
        let mut peer = internet.spawn(["/usr/bin/python3", "-B", &script("peer.py")].into_iter().chain(served));
        assert_eq!(peer.line(), "serving");
        Self { laptop, _peer: peer }
    }

    /// Asks once more what differed.
    pub(super) fn ask_again(&self, router: &Router<'_>, differing: &[(Key, Value)]) -> Answers {
        let keys: Vec<Key> = differing.iter().map(|(key, _)| key.clone()).collect();
        if keys.is_empty() { Answers::default() } else { self.ask(router, &keys) }
    }

    /// Runs the probe, for all behaviours or for some.
    pub(super) fn ask(&self, router: &Router<'_>, only: &[Key]) -> Answers {
        // What the kernel learned of paths in the run before is no part of this one.
        for family in ["-4", "-6"] {
            self.laptop.run(["ip", family, "route", "flush", "cache"]).expect_success();
        }
        self.laptop.run(["ip", "tcp_metrics", "flush"]).expect_success();
        let mut words = vec!["/usr/bin/python3".to_owned(), "-B".to_owned(), script("probe.py")];
        if !only.is_empty() {
            let names: Vec<String> = only.iter().map(|(id, family)| format!("{id}/{family}")).collect();
            words.extend(["--only".to_owned(), names.join(",")]);
        }
        Answers::parse(&router.run(words).expect_success())
    }
}

fn script(file: &str) -> String {
    repository().join("tests/sockprobe").join(file).display().to_string()
}

/// The gateway's rules: rejections by port and by address, and a port behind which all but the first packets are lost.
fn rules() -> String {
    let rejections = |version: &str, kind: &str, codes: &[&str]| -> String {
        codes
            .iter()
            .zip(9100_u16..)
            .map(|(code, port)| {
                format!("meta nfproto {version} meta l4proto {{ tcp, udp }} th dport {port} reject with {kind} {code}\n")
            })
            .collect()
    };
    format!(
        "table inet sockprobe {{ chain forward {{ type filter hook forward priority 0\n{}{}\
         ip daddr {} reject with icmp host-unreachable\nip6 daddr {} reject with icmpv6 addr-unreachable\n\
         tcp dport 9090 ct original packets > 4 drop\ntcp sport 9090 ct reply packets > 4 drop\n}}\n}}\n",
        rejections("ipv4", "icmp", &REJECTIONS_4),
        rejections("ipv6", "icmpv6", &REJECTIONS_6),
        Lab::UNREACHABLE[0],
        Lab::UNREACHABLE[1],
    )
}
