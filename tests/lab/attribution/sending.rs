//! Which socket a packet in the TUN came from, by the program that the kernel runs at the device.

use std::net::{SocketAddr, UdpSocket};
use std::os::fd::{AsFd as _, AsRawFd as _};
use std::time::Duration;

use portreeve::bpf::{Sending, since_boot};
use portreeve::tun::Queue;
use rustix::net::sockopt::{set_socket_reuseaddr, socket_cookie};
use rustix::net::{AddressFamily, SocketType, bind};

use super::harness::{in_namespace, ip};

/// Where programs send from, and to.
const ENDS: [(&str, &str, &str); 3] = [
    ("0.0.0.0", "192.0.2.1:9", "10.9.0.2"),
    ("::", "[2001:db8::1]:9", "fd09::2"),
    // IPv4 by a socket of IPv6.
    ("::", "[::ffff:192.0.2.1]:9", "10.9.0.2"),
];

fn watched() -> (Vec<Queue>, Sending) {
    let queues = Queue::open_several("watched0", 2).expect("root may");
    for line in ["link set watched0 up", "route replace default dev watched0", "-6 route replace default dev watched0 metric 1"] {
        ip(line);
    }
    let sending = Sending::watch(queues.first().expect("two").as_fd()).expect("root may, and this kernel can");
    (queues, sending)
}

fn socket(any: &str, port: u16) -> UdpSocket {
    let family = if any == "::" { AddressFamily::INET6 } else { AddressFamily::INET };
    let socket = rustix::net::socket(family, SocketType::DGRAM, None).expect("a socket");
    set_socket_reuseaddr(&socket, true).expect("an option");
    bind(&socket, &SocketAddr::new(any.parse().expect("an address"), port)).expect("shared");
    socket.into()
}

fn option(socket: &UdpSocket, level: i32, name: i32, value: &[u8]) {
    let len = value.len().try_into().expect("short");
    // SAFETY: the kernel reads `len` bytes of `value`, which outlives the call.
    let done = unsafe { libc::setsockopt(socket.as_raw_fd(), level, name, value.as_ptr().cast(), len) };
    assert_eq!(done, 0, "option {name}: {}", std::io::Error::last_os_error());
}

fn own(socket: &UdpSocket, address: &str) -> SocketAddr {
    SocketAddr::new(address.parse().expect("an address"), socket.local_addr().expect("bound").port())
}

#[test]
fn whoever_sends_is_noted_whatever_stands_in_front_of_its_ports() {
    type Prepare = fn(&UdpSocket, bool);
    // Routing of type 2 by way of ::1, as mobile hosts have it, and destination options of nothing but padding.
    let options: [(&str, Prepare, usize); 4] = [
        ("plain", |_, _| (), 1),
        ("in fragments", |_, _| (), 4000),
        ("several together", |socket, _| option(socket, libc::SOL_UDP, libc::UDP_SEGMENT, &100_i32.to_ne_bytes()), 300),
        (
            "options",
            |socket, v4| match v4 {
                true => option(socket, libc::IPPROTO_IP, libc::IP_OPTIONS, &[7, 7, 4, 0, 0, 0, 0, 0]),
                false => option(socket, libc::IPPROTO_IPV6, libc::IPV6_DSTOPTS, &[0, 0, 1, 4, 0, 0, 0, 0]),
            },
            4000,
        ),
    ];
    in_namespace(move || {
        let (_queues, sending) = watched();
        for ((any, remote, from), (what, prepare, len)) in ENDS.into_iter().flat_map(|end| options.map(|option| (end, option))) {
            let socket = socket(any, 0);
            let (local, cookie) = (own(&socket, from), socket_cookie(&socket).expect("a cookie"));
            assert!(!sending.last(local).is(cookie), "{what}, {remote}");
            prepare(&socket, any != "::");
            socket.send_to(&vec![0; len], remote).expect("sent");
            assert!(sending.last(local).is(cookie), "{what}, {remote}");
            assert!(!sending.last(local).is(cookie + 1));
            let mut elsewhere = local;
            elsewhere.set_port(local.port() ^ 1);
            assert!(!sending.last(elsewhere).is(cookie), "another port");
            assert!(
                !sending
                    .last(SocketAddr::new(
                        if local.is_ipv4() { "fd09::2" } else { "10.9.0.2" }.parse().expect("one"),
                        local.port()
                    ))
                    .is(cookie)
            );
        }
    });
}

#[test]
fn of_two_that_send_from_one_port_the_last_is_noted_and_for_how_long_it_was_alone() {
    in_namespace(|| {
        let (_queues, sending) = watched();
        for (any, remote, from) in ENDS {
            let one = socket(any, 0);
            let local = own(&one, from);
            let other = socket(any, local.port());
            let [first, second] = [&one, &other].map(|socket| socket_cookie(socket).expect("a cookie"));
            let start = since_boot();
            one.send_to(b"one", remote).expect("sent");
            assert!(sending.last(local).is(first) && sending.last(local).is_alone_since(start), "{remote}");
            other.send_to(b"other", remote).expect("sent");
            let last = sending.last(local);
            assert!(last.is(second) && !last.is(first) && !last.is_alone_since(start), "{remote}");
            std::thread::sleep(Duration::from_millis(3));
            let later = since_boot();
            for _ in 0..3 {
                other.send_to(b"other", remote).expect("sent");
                let last = sending.last(local);
                assert!(last.is(second) && last.is_alone_since(later) && !last.is_alone_since(start), "{remote}");
            }
            one.send_to(b"one", remote).expect("sent");
            let last = sending.last(local);
            assert!(last.is(first) && !last.is_alone_since(later) && last.is_alone_since(since_boot() + 2_000_000), "{remote}");
        }
    });
}

#[test]
fn a_packet_whose_socket_has_another_port_is_nobodys() {
    in_namespace(|| {
        let (_queues, sending) = watched();
        for (any, remote, from) in ENDS.into_iter().take(2) {
            let socket = socket(any, 0);
            let local = own(&socket, from);
            socket.send_to(b"mine", remote).expect("sent");
            assert!(!sending.last(local).is_nobody());
            // By a raw socket under the port of the first one.
            let protocol = rustix::net::ipproto::UDP;
            let family = if local.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
            let raw = rustix::net::socket(family, SocketType::RAW, Some(protocol)).expect("root may");
            let ports = [local.port(), 9].map(u16::to_be_bytes).concat();
            let mut to: SocketAddr = remote.parse().expect("an address");
            to.set_port(0);
            rustix::net::sendto(&raw, &[&ports[..], &[0, 8, 0, 0]].concat(), rustix::net::SendFlags::empty(), &to).expect("sent");
            assert!(sending.last(local).is_nobody(), "{remote}");
        }
    });
}
