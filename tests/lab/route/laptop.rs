//! A laptop and its gateway: two namespaces with a veth between them.
//!
//! The gateway answers on 203.0.113.10 and 2001:db8::10. A reader on the laptop's TUN stands in for the router: it counts what
//! arrives and answers nothing.

use std::path::Path;

use portreeve::netlink::{Install, InstallError, Installed, Plan};

use super::namespace::Namespace;
use crate::harness::eventually;

/// The mark that the tests' plans fix.
pub(crate) const MARK: u32 = 0x2a00_0000;

pub(crate) struct Laptop {
    pub(crate) inner: Namespace,
    pub(crate) gateway: Namespace,
    /// Holds the run directory.
    pub(crate) dir: tempfile::TempDir,
}

impl Laptop {
    pub(crate) fn new() -> Self {
        let (inner, gateway) = (Namespace::new("laptop"), Namespace::new("gateway"));
        for namespace in [&inner, &gateway] {
            // Duplicate address detection takes seconds and changes what a snapshot shows.
            namespace.run("sysctl -qw net.ipv6.conf.default.accept_dad=0 net.ipv6.conf.all.accept_dad=0");
        }
        inner.run(&format!("ip link add v0 type veth peer name v1 netns {}", gateway.name()));
        inner.run(
            "ip addr add 10.9.0.2/24 dev v0 && ip addr add fd09::2/64 dev v0 nodad && ip link set v0 up && \
             ip route add default via 10.9.0.1 && sysctl -qw net.ipv4.ping_group_range='0 2147483647'",
        );
        gateway.run(
            "ip addr add 10.9.0.1/24 dev v1 && ip addr add fd09::1/64 dev v1 nodad && ip link set v1 up && \
             ip addr add 203.0.113.10/32 dev lo && ip addr add 2001:db8::10/128 dev lo nodad",
        );
        inner.run("ip -6 route add default via fd09::1");
        let laptop = Self { inner, gateway, dir: tempfile::tempdir().expect("a folder") };
        assert!(laptop.reaches_within("fd09::1", 40), "the link never came up");
        // The kernel does that at leisure, and a snapshot shows it.
        eventually("the addresses are settled", || laptop.inner.run("ip -6 address show tentative").is_empty().then_some(()));
        laptop
    }

    pub(crate) fn run_dir(&self) -> std::path::PathBuf {
        self.dir.path().join("run")
    }

    pub(crate) fn up(&self, plan: &Plan) -> Result<Installed, InstallError> {
        let run_dir = self.run_dir();
        self.inner.inside(move || Install::up(plan, &run_dir))
    }

    /// Everything that `up` may touch, as text.
    pub(crate) fn snapshot(&self) -> String {
        let volatile = |line: &&str| !line.contains("expires");
        let text = self.inner.run(
            "ip -4 rule; ip -6 rule; ip -4 route show table all; ip -6 route show table all; ip addr show; \
             nft list ruleset; sysctl -a --pattern 'net.ipv[46].(conf|fwmark)' 2>/dev/null",
        );
        text.lines().filter(volatile).collect::<Vec<_>>().join("\n")
    }

    /// Whether one echo request to `to` is answered. `options` go to ping.
    pub(crate) fn pings(&self, options: &str, to: &str) -> bool {
        self.inner.attempt(&format!("ping -n -c1 -W1 {options} {to}")).status.success()
    }

    /// Whether the gateway reaches this laptop.
    pub(crate) fn is_reached(&self, to: &str) -> bool {
        self.gateway.attempt(&format!("ping -n -c1 -W1 {to}")).status.success()
    }

    /// Packets counted by a named counter of the guard.
    pub(crate) fn counted(&self, table: &str, counter: &str) -> u64 {
        let text = self.inner.run(&format!("nft list counter {table} portreeve {counter}"));
        let mut words = text.split_whitespace().skip_while(|word| *word != "packets").skip(1);
        words.next().and_then(|number| number.parse().ok()).expect("nft prints packets N")
    }

    fn reaches_within(&self, to: &str, tries: u32) -> bool {
        (0..tries).any(|_| {
            let reached = self.inner.attempt(&format!("ping -n -c1 -W0.2 {to}")).status.success();
            if !reached {
                std::thread::sleep(std::time::Duration::from_millis(50));
            }
            reached
        })
    }
}

/// Two snapshots are the same; else the lines that differ.
pub(crate) fn assert_same(now: &str, before: &str) {
    let lines = |one: &str, other: &str, sign: char| {
        let seen: std::collections::BTreeSet<&str> = other.lines().collect();
        one.lines().filter(|line| !seen.contains(line)).map(|line| format!("{sign} {line}\n")).collect::<String>()
    };
    assert!(now == before, "{}{}", lines(before, now, '-'), lines(now, before, '+'));
}

/// The default plan with a mark that commands of the test can name.
pub(crate) fn plan() -> Plan {
    plan_with("")
}

/// The same with more keys, which must be tables or come before them.
pub(crate) fn plan_with(extra: &str) -> Plan {
    let text = format!(
        "mark = {MARK}\ndevice = \"portreeve0\"\naddresses = [\"198.18.0.1/32\", \"2001:2::1/128\"]\ntable = 1717\n\
         priority = 1700\n{extra}"
    );
    Plan::parse(&text, "test.toml").expect("a plan")
}

/// Writes a Python program and returns its path.
pub(crate) fn program(dir: &Path, name: &str, text: &str) -> String {
    let path = dir.join(name);
    std::fs::write(&path, text).expect("the program is written");
    path.display().to_string()
}
