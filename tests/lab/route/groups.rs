//! Multicast that names no link: what is sent goes into the TUN, who joins a group does so by a link of the host.

use portreeve::netlink::{Cleaned, Plan, cleanup};
use portreeve::tun::Queue;

use super::guard::canaries;
use super::laptop::{Laptop, MARK, assert_same, plan, plan_with, program};

/// Sends one datagram: argv[1] says how, argv[2] where to.
const SEND: &str = r#"
import os, socket, sys
how, to = sys.argv[1:]
# A socket belongs to whoever makes it.
if how == "nobody": os.setresuid(65534, 65534, 65534)
s = socket.socket(socket.AF_INET6 if ":" in to else socket.AF_INET, socket.SOCK_DGRAM)
if how == "marked": s.setsockopt(socket.SOL_SOCKET, 36, 0x2a000000)
s.sendto(b"CANARY", (to, 9))
"#;

/// Joins a group and lists the groups of each link.
const JOIN: &str = r#"
import socket, subprocess, sys
group = sys.argv[1]
if ":" in group:
    s = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
    s.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_JOIN_GROUP, socket.inet_pton(socket.AF_INET6, group) + bytes(4))
else:
    s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    s.setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, socket.inet_aton(group) + bytes(4))
print(" ".join(link for link in ["v0", "portreeve0"] if group in subprocess.run(["ip", "maddr", "show", "dev", link], capture_output=True, text=True).stdout))
"#;

/// The last one within the link, where a datagram may name none all the same.
const GROUPS: [&str; 3] = ["239.1.2.3", "ff05::1:3", "ff02::1717"];

/// Where the datagrams of one `how` came out: in the TUN, on the wire.
fn sent(laptop: &Laptop, queue: &Queue, how: &str, to: &str) -> (usize, usize) {
    let path = program(laptop.dir.path(), "send.py", SEND);
    let on_wire = canaries(laptop, || drop(laptop.inner.run(&format!("python3 {path} {how} {to}"))));
    let mut buffer = [0; 4096];
    let mut in_tun = 0;
    while let Ok(length) = queue.read(&mut buffer) {
        in_tun += usize::from(buffer[..length].windows(6).any(|bytes| bytes == b"CANARY"));
    }
    (in_tun, on_wire)
}

/// The links by which a group is joined.
fn joined(laptop: &Laptop, group: &str) -> String {
    let path = program(laptop.dir.path(), "join.py", JOIN);
    laptop.inner.run(&format!("python3 {path} {group}")).trim().to_owned()
}

/// Calls `work` while a plan is up.
fn while_up(laptop: &Laptop, plan: &Plan, work: impl FnOnce(&Queue)) {
    let mut installed = laptop.up(plan).expect("up");
    let queue = installed.take_queues().pop().expect("the queue");
    work(&queue);
    drop(queue);
    laptop.inner.inside(|| installed.remove()).expect("removed");
}

#[test]
fn what_programs_send_to_a_group_goes_into_the_tun_and_marked_sockets_send_by_the_link() {
    let laptop = Laptop::new();
    laptop.inner.run("ip route add 224.0.0.0/4 dev v0");
    let before = laptop.snapshot();
    while_up(&laptop, &plan(), |queue| {
        for group in GROUPS {
            assert_eq!(sent(&laptop, queue, "plainly", group), (1, 0), "{group}");
            assert_eq!(sent(&laptop, queue, "marked", group), (0, 1), "{group}");
        }
        assert_eq!((laptop.counted("inet", "leak"), laptop.counted("inet", "loop")), (0, 0));
    });
    assert_same(&laptop.snapshot(), &before);
}

#[test]
fn a_group_is_joined_by_the_hosts_link_also_after_that_was_down() {
    let laptop = Laptop::new();
    while_up(&laptop, &plan(), |queue| {
        let joined_and_sent = |when: &str| {
            for group in GROUPS {
                assert_eq!(joined(&laptop, group), "v0", "{group}, {when}");
            }
            assert_eq!(sent(&laptop, queue, "marked", "ff05::1:3"), (0, 1), "{when}");
            assert_eq!(sent(&laptop, queue, "plainly", "ff05::1:3"), (1, 0), "{when}");
        };
        joined_and_sent("at first");
        laptop.inner.run("ip link set v0 down && ip link set v0 up && ip route add default via 10.9.0.1 dev v0");
        joined_and_sent("again");
    });
}

#[test]
fn multicast_of_excluded_users_and_to_excluded_networks_leaves_by_the_link() {
    let laptop = Laptop::new();
    let plan = plan_with("[exclude]\nnetworks = [\"239.7.0.0/16\", \"ff08::/16\"]\nusers = [65534]\n");
    while_up(&laptop, &plan, |queue| {
        for group in GROUPS {
            assert_eq!(sent(&laptop, queue, "nobody", group), (0, 1), "{group}");
            assert_eq!(sent(&laptop, queue, "plainly", group), (1, 0), "{group}");
        }
        for group in ["239.7.1.1", "ff08::1"] {
            assert_eq!(sent(&laptop, queue, "plainly", group), (0, 1), "{group}");
        }
    });
}

/// A person's own route for multicast on loopback, which some kinds of middleware want.
#[test]
fn who_names_loopback_is_left_there() {
    let laptop = Laptop::new();
    laptop.inner.run("ip -6 route add ff00::/8 dev lo table local metric 256 2>/dev/null || ip -6 route append ff00::/8 dev lo table local metric 256");
    let route = || laptop.inner.run("ip -6 route get ff05::1:3 oif lo");
    assert!(route().contains("dev lo"), "control");
    while_up(&laptop, &plan(), |_| assert!(route().contains("dev lo"), "{}", route()));
}

#[test]
fn an_up_that_was_killed_while_the_front_was_rebuilt_is_cleaned_up_after() {
    let laptop = Laptop::new();
    let before = laptop.snapshot();
    for left in [
        "ip -6 rule add lookup local priority 1 protocol kernel",
        "ip -6 rule add lookup local priority 1 protocol kernel && ip -6 rule del lookup local priority 0",
    ] {
        super::kill::leave_behind(&laptop);
        laptop.inner.run(left);
        let run_dir = laptop.run_dir();
        assert_eq!(laptop.inner.inside(move || cleanup(&run_dir)).expect("cleanup"), Cleaned::Restored);
        assert_same(&laptop.snapshot(), &before);
    }
}

#[test]
fn a_host_that_moved_its_rule_for_local_keeps_it_there() {
    let laptop = Laptop::new();
    laptop.inner.run("ip -6 rule add lookup local priority 100 && ip -6 rule del lookup local priority 0");
    let before = laptop.snapshot();
    while_up(&laptop, &plan(), |queue| assert_eq!(sent(&laptop, queue, "plainly", "ff05::1:3"), (1, 0)));
    assert_same(&laptop.snapshot(), &before);
    assert_eq!(MARK, 0x2a00_0000, "the mark that the program above sets");
}
