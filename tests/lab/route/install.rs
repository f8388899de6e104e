//! `up` and the way back.

use portreeve::netlink::{Cleaned, CleanupError, InstallError, cleanup};

use super::laptop::{Laptop, MARK, assert_same, plan, plan_with};

#[test]
fn what_up_changes_remove_takes_back_to_the_byte() {
    let laptop = Laptop::new();
    let before = laptop.snapshot();
    for extra in [
        "",
        "failure = \"open\"\n",
        "[exclude]\nnetworks = [\"192.0.2.0/24\", \"2001:db8:1::/48\"]\ninterfaces = [\"v9\"]\nusers = [1000]\n",
    ] {
        let installed = laptop.up(&plan_with(extra)).expect("up");
        let during = laptop.snapshot();
        assert!(during.contains("not from all fwmark 0x2a000000/0xff000000 lookup 1717"), "{during}");
        assert!(during.contains("table inet portreeve {") && during.contains("table inet portreeve_live {"), "{during}");
        laptop.inner.inside(|| installed.remove()).expect("removed");
        assert_same(&laptop.snapshot(), &before);
    }
}

/// Programs that speak on each link that takes multicast would tell the network the TUN's addresses as their own.
#[test]
fn the_device_says_that_it_takes_no_multicast_and_groups_are_sent_there_all_the_same() {
    let laptop = Laptop::new();
    let installed = laptop.up(&plan()).expect("up");
    let shown = laptop.inner.run("ip -o link show portreeve0");
    assert!(shown.contains("POINTOPOINT") && !shown.contains("MULTICAST"), "{shown}");
    for group in ["239.1.2.3 ipproto udp", "ff05::1:3"] {
        assert!(laptop.inner.run(&format!("ip route get {group}")).contains("dev portreeve0"), "{group}");
    }
    laptop.inner.inside(|| drop(installed));
}

#[test]
fn dropping_restores_too_even_while_somebody_holds_the_device() {
    let laptop = Laptop::new();
    let before = laptop.snapshot();
    let mut installed = laptop.up(&plan()).expect("up");
    let _reader = installed.take_queues().pop().expect("the queue");
    assert!(installed.take_queues().is_empty());
    laptop.inner.inside(|| drop(installed));
    assert_same(&laptop.snapshot(), &before);
}

#[test]
fn a_host_without_ipv6_is_steered_in_ipv4_alone_and_restored() {
    let laptop = Laptop::new();
    laptop.inner.run("sysctl -qw net.ipv6.conf.all.disable_ipv6=1 net.ipv6.conf.default.disable_ipv6=1");
    let before = laptop.snapshot();
    let installed = laptop.up(&plan()).expect("up");
    assert!(laptop.inner.run("ip route get 203.0.113.10").contains("dev portreeve0"));
    laptop.inner.inside(|| installed.remove()).expect("removed");
    assert_same(&laptop.snapshot(), &before);
}

#[test]
fn a_second_up_is_refused_and_changes_nothing() {
    let laptop = Laptop::new();
    let installed = laptop.up(&plan()).expect("up");
    let during = laptop.snapshot();
    assert!(matches!(laptop.up(&plan()), Err(InstallError::Active)));
    let elsewhere = laptop.dir.path().join("other");
    let second = laptop.inner.inside(|| portreeve::netlink::Install::up(&plan(), &elsewhere));
    assert!(matches!(second, Err(InstallError::Active)), "{second:?}");
    assert_same(&laptop.snapshot(), &during);
    let run_dir = laptop.run_dir();
    assert!(matches!(laptop.inner.inside(|| cleanup(&run_dir)), Err(CleanupError::Active(_))));
    laptop.inner.inside(|| drop(installed));
}

#[test]
fn a_device_that_is_taken_leaves_everything_as_it_was() {
    let laptop = Laptop::new();
    let _held = laptop.inner.inside(|| portreeve::tun::Queue::open("portreeve0").expect("a device"));
    let before = laptop.snapshot();
    let refused = laptop.up(&plan());
    assert!(matches!(refused, Err(InstallError::Tun(_))), "{refused:?}");
    assert_same(&laptop.snapshot(), &before);
}

#[test]
fn a_failure_midway_takes_back_what_was_done() {
    let laptop = Laptop::new();
    // A table of this name whose owner lives makes the guard's transaction fail after routes are in.
    let mut foreign = laptop.inner.command("nft").arg("-i").stdin(std::process::Stdio::piped()).spawn().expect("nft");
    let mut input = foreign.stdin.take().expect("a pipe");
    std::io::Write::write_all(&mut input, b"add table inet portreeve { flags owner; }\n").expect("written");
    while !laptop.inner.run("nft list tables").contains("inet portreeve") {
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
    let before = laptop.snapshot();
    let refused = laptop.up(&plan());
    assert!(matches!(refused, Err(InstallError::Nft(_))), "{refused:?}");
    assert_same(&laptop.snapshot(), &before);
    drop(input);
    foreign.wait().expect("nft ends");
}

#[test]
fn cleanup_without_anything_to_clean_is_done_at_once() {
    let laptop = Laptop::new();
    let before = laptop.snapshot();
    let run_dir = laptop.run_dir();
    for _ in 0..2 {
        assert_eq!(laptop.inner.inside(|| cleanup(&run_dir)).expect("cleanup"), Cleaned::Nothing);
    }
    assert_same(&laptop.snapshot(), &before);
}

#[test]
fn the_device_gets_the_uplinks_mtu_and_the_hosts_addresses_are_known() {
    let laptop = Laptop::new();
    laptop.inner.run("ip link set v0 mtu 1420");
    let installed = laptop.up(&plan()).expect("up");
    assert_eq!(installed.mtu(), 1420);
    assert_eq!(installed.mark().value(), MARK);
    assert!(laptop.inner.run("ip link show portreeve0").contains("mtu 1420"));
    for own in ["10.9.0.2", "fd09::2", "198.18.0.1", "2001:2::1", "127.0.0.1", "::1"] {
        assert!(installed.own_addresses().contains(&own.parse().expect("an address")), "{own}");
    }
    laptop.inner.inside(|| drop(installed));
}

#[test]
fn a_changed_address_is_reported_and_a_quiet_host_is_not() {
    let laptop = Laptop::new();
    let watcher = laptop.inner.inside(|| portreeve::netlink::Watcher::addresses().expect("a watcher"));
    assert!(!watcher.changed().expect("works"));
    for change in ["ip addr add 10.9.0.3/24 dev v0", "ip -6 addr del fd09::2/64 dev v0", "ip link set v0 mtu 1400"] {
        laptop.inner.run(change);
        assert!(watcher.changed().expect("works"), "{change}");
        assert!(!watcher.changed().expect("works"), "told once");
    }
}

#[test]
fn a_host_that_has_ipv6_on_one_link_alone_is_steered_in_ipv6_too() {
    let laptop = Laptop::new();
    laptop.inner.run("sysctl -qw net.ipv6.conf.default.disable_ipv6=1");
    let before = laptop.snapshot();
    let installed = laptop.up(&plan()).expect("up");
    let route = laptop.inner.run("ip route get 2001:db8::10");
    assert!(route.contains("dev portreeve0"), "{route}");
    laptop.inner.inside(|| installed.remove()).expect("removed");
    assert_same(&laptop.snapshot(), &before);
}
