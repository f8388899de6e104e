//! A router so small that it only answers echo requests: proof that packets come back through the TUN.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use portreeve::tun::{Queue, VNET_HEADER_LEN};

use super::laptop::{Laptop, plan, program};

/// Calls `work` while every echo request that reaches the TUN is answered.
fn while_answering(queue: &Queue, work: impl FnOnce()) {
    struct StopOnDrop<'a>(&'a AtomicBool);
    impl Drop for StopOnDrop<'_> {
        fn drop(&mut self) {
            self.0.store(true, Ordering::Relaxed);
        }
    }
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| answer_echoes(queue, &stop));
        // A test that fails must not wait for the answering thread.
        let _stop = StopOnDrop(&stop);
        work();
    });
}

/// Answers until `stop` is set.
fn answer_echoes(queue: &Queue, stop: &AtomicBool) {
    let mut buffer = [0; 4096];
    while !stop.load(Ordering::Relaxed) {
        match queue.read(&mut buffer) {
            Ok(length) => {
                let packet = &mut buffer[..length];
                if turn_round(packet) {
                    queue.write(packet).expect("the TUN takes the answer");
                }
            }
            Err(_) => std::thread::sleep(Duration::from_millis(1)),
        }
    }
}

/// Makes the answer of an echo request. False for anything else.
fn turn_round(packet: &mut [u8]) -> bool {
    let ip = &mut packet[VNET_HEADER_LEN..];
    let (source, length, header, request, answer) = match ip[0] >> 4 {
        4 => (12, 4, 20, 8, 0),
        _ => (8, 16, 40, 128, 129),
    };
    let protocol = if header == 20 { ip[9] } else { ip[6] };
    if !matches!((header, protocol), (20, 1) | (40, 58)) || ip[header] != request {
        return false;
    }
    let (from, to) = ip[source..source + 2 * length].split_at_mut(length);
    from.swap_with_slice(to);
    ip[header] = answer;
    // The checksum follows the changed type (RFC 1624): one's complement sum of old and inverted new.
    let sum = u16::from_be_bytes([ip[header + 2], ip[header + 3]]);
    let change = u32::from(!sum) + u32::from(!u16::from_be_bytes([request, 0])) + u32::from(u16::from_be_bytes([answer, 0]));
    let folded = (change & 0xffff) + (change >> 16);
    let folded = u16::try_from((folded & 0xffff) + (folded >> 16)).expect("folded twice");
    ip[header + 2..header + 4].copy_from_slice(&(!folded).to_be_bytes());
    true
}

/// Whether one of five requests is answered within its second: a busy machine may take longer once.
fn is_answered(laptop: &Laptop, to: &str) -> bool {
    (0..5).any(|_| laptop.pings("", to))
}

#[test]
fn answers_come_back_through_the_tun_whatever_the_reverse_path_filter() {
    for filter in [0, 1, 2] {
        let laptop = Laptop::new();
        laptop.inner.run(&format!("sysctl -qw net.ipv4.conf.all.rp_filter={filter} net.ipv4.conf.default.rp_filter={filter}"));
        let mut installed = laptop.up(&plan()).expect("up");
        let queue = installed.take_queues().pop().expect("the queue");
        while_answering(&queue, || {
            for to in ["203.0.113.99", "2001:db8::99", "10.9.0.77", "fd09::77"] {
                assert!(is_answered(&laptop, to), "rp_filter {filter}: {to}");
            }
        });
        laptop.inner.inside(|| drop(installed));
    }
}

#[test]
fn a_host_without_an_ipv6_address_of_its_own_still_sends_ipv6_into_the_tun_alone() {
    let laptop = Laptop::new();
    laptop.inner.run("ip -6 addr del fd09::2/64 dev v0");
    let mut installed = laptop.up(&plan()).expect("up");
    assert!(!laptop.inner.run("ip -6 addr show dev portreeve0").contains("2001:2::1"));
    let queue = installed.take_queues().pop().expect("the queue");
    while_answering(&queue, || assert!(is_answered(&laptop, "2001:db8::99")));
    laptop.inner.inside(|| drop(installed));
}

#[test]
fn getaddrinfo_keeps_its_order_under_up() {
    let text = "import socket\nprint([a[4][0] for a in socket.getaddrinfo('two.example', 80, 0, socket.SOCK_STREAM)])\n";
    for own_ipv6 in [true, false] {
        let laptop = Laptop::new();
        if !own_ipv6 {
            laptop.inner.run("ip -6 addr del fd09::2/64 dev v0");
        } else {
            laptop.inner.run("ip -6 addr add 2001:db8:9::2/64 dev v0 nodad");
        }
        let hosts = program(laptop.dir.path(), "hosts", "203.0.113.10 two.example\n2001:db8::10 two.example\n");
        let path = program(laptop.dir.path(), "order.py", text);
        let order = || laptop.inner.run(&format!("unshare -m sh -c 'mount --bind {hosts} /etc/hosts && python3 {path}'"));
        let before = order();
        let installed = laptop.up(&plan()).expect("up");
        assert_eq!(order(), before, "own IPv6 address: {own_ipv6}");
        laptop.inner.inside(|| drop(installed));
    }
}
