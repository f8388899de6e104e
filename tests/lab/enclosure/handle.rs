//! The handle that the router holds: what comes out of an enclosure works outside, and its end is the enclosure's.

use std::ffi::OsString;
use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::Duration;

use portreeve::enclosure::{CommandStatus, EncloseError, Enclosed, Request, enclose_with};
use portreeve::tun::{DEVICE_NAME, Queue, VNET_HEADER_LEN};

use super::{PATIENCE, binary, until};

fn request(command: &[&str]) -> Request {
    Request {
        command: command.iter().map(OsString::from).collect(),
        addresses: vec![
            (IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1)), 32),
            (IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1)), 128),
        ],
        reach: vec![portreeve::netlink::EVERYWHERE],
        mtu: 1400,
        device: DEVICE_NAME.to_owned(),
        queues: 1,
        record_env: vec![("PORTREEVE_LAB".into(), "told".into())],
    }
}

fn enclosed(command: &[&str]) -> Enclosed {
    enclose_with(binary(), request(command)).expect("an enclosure")
}

/// The command's processes outside: the first process's children.
fn children(enclosed: &Enclosed) -> Vec<String> {
    let path = format!("/proc/{0}/task/{0}/children", enclosed.init_pid);
    std::fs::read_to_string(path).unwrap_or_default().split_whitespace().map(str::to_owned).collect()
}

#[test]
fn the_command_waits_for_its_start() {
    let mut enclosed = enclosed(&["sh", "-c", "test \"$PORTREEVE_LAB\" = told"]);
    std::thread::sleep(Duration::from_millis(200));
    assert_eq!(children(&enclosed), [""; 0]);
    enclosed.start().expect("started");
    assert_eq!(enclosed.wait().expect("a status"), CommandStatus::Exited(0));
}

#[test]
fn no_command_is_no_enclosure() {
    assert_eq!(enclose_with(binary(), request(&[])).expect_err("refused"), EncloseError::NoCommand);
}

#[test]
fn a_binary_that_is_not_there_is_told() {
    let error = enclose_with(std::path::Path::new("/no/such/binary"), request(&["true"])).expect_err("refused");
    assert!(matches!(error, EncloseError::Keeper { .. }), "{error}");
}

#[test]
fn a_device_name_that_the_kernel_refuses_is_told_and_nothing_stays() {
    let bad = Request { device: "a/b".to_owned(), ..request(&["true"]) };
    assert!(matches!(enclose_with(binary(), bad).expect_err("refused"), EncloseError::Device { .. }));
}

#[test]
fn packets_of_the_command_come_out_of_the_tun_in_both_families() {
    for (target, version) in [("192.0.2.9", 4), ("2001:db8::9", 6)] {
        let script = "import socket, sys; i = socket.getaddrinfo(sys.argv[1], 9, type=socket.SOCK_DGRAM)[0]; \
                      socket.socket(i[0], i[1]).sendto(b'x', i[4])";
        let mut enclosed = enclosed(&["/usr/bin/python3", "-c", script, target]);
        let queue = Queue::adopt(enclosed.tun[0].try_clone().expect("a copy")).expect("a queue");
        enclosed.start().expect("started");
        let mut packet = vec![0; 2048];
        let came = until(PATIENCE, || {
            queue.read(&mut packet).is_ok_and(|length| {
                // The kernel's own multicast reports come out too; protocol 17 is UDP.
                let ip = &packet[VNET_HEADER_LEN..length];
                ip[0] >> 4 == version && (if version == 4 { ip[9] } else { ip[6] }) == 17
            })
        });
        assert!(came, "{target}");
        assert_eq!(enclosed.wait().expect("a status").code(), 0);
    }
}

#[test]
fn questions_to_a_loopback_resolver_arrive_outside_and_answers_come_from_the_asked_address() {
    let script = "import socket\nfor a in ('127.0.0.53', '127.0.0.1', '::1'):\n \
                  f = socket.AF_INET6 if ':' in a else socket.AF_INET\n \
                  s = socket.socket(f, socket.SOCK_DGRAM); s.settimeout(20); s.sendto(b'q', (a, 53)); d, p = s.recvfrom(9)\n \
                  assert d == b'a' and p[:2] == (a, 53), p\n \
                  c = socket.create_connection((a, 53), 20); c.sendall(b'q'); assert c.recv(9) == b'a'\n";
    let mut enclosed = enclosed(&["/usr/bin/python3", "-c", script]);
    enclosed.start().expect("started");
    assert_eq!((enclosed.dns_udp.len(), enclosed.dns_tcp.len()), (3, 3));
    let mut answered = 0;
    let all = until(PATIENCE, || {
        let mut question = [0; 16];
        for udp in &enclosed.dns_udp {
            if let Ok((_, from)) = udp.recv_from(&mut question) {
                udp.send_to(b"a", from).expect("answered");
                answered += 1;
            }
        }
        for tcp in &enclosed.dns_tcp {
            if let Ok((mut stream, _)) = tcp.accept() {
                stream.set_nonblocking(false).expect("blocking");
                stream.read_exact(&mut question[..1]).expect("a question");
                stream.write_all(b"a").expect("answered");
                answered += 1;
            }
        }
        answered == 6
    });
    assert!(all, "{answered} answered");
    assert_eq!(enclosed.wait().expect("a status").code(), 0);
}

#[test]
fn a_signal_that_the_callers_group_has_not_got_reaches_the_command_alone() {
    // The group's second process hears nothing while the first one lives.
    let script = "trap 'sleep 0.3; exit 21' USR1; trap 'sleep 0.3; exit 22' TERM; trap 'sleep 0.3; exit 23' HUP; \
                  (trap 'kill -0 $$ && touch \"$0.too-much\"' TERM USR1 HUP; touch \"$0.ready\"; \
                  while :; do sleep 0.05; done) & while :; do sleep 0.05; done";
    for (signal, code) in [(libc::SIGUSR1, 21), (libc::SIGTERM, 22), (libc::SIGHUP, 23), (libc::SIGKILL, 137)] {
        let dir = tempfile::tempdir().expect("a directory");
        let file = dir.path().join("heard");
        let mut enclosed = enclosed(&["sh", "-c", script, &file.to_string_lossy()]);
        enclosed.start().expect("started");
        let ready = dir.path().join("heard.ready");
        assert!(until(PATIENCE, || ready.exists()));
        enclosed.signal(signal).expect("sent");
        let status = enclosed.wait().expect("a status");
        assert_eq!(status.code(), code, "{status}");
        assert!(!dir.path().join("heard.too-much").exists(), "{signal}");
    }
}

#[test]
fn what_is_no_signal_is_refused() {
    let enclosed = enclosed(&["true"]);
    for number in [0, -9, 4711] {
        assert!(enclosed.signal(number).is_err(), "{number}");
    }
}

/// A command that ends as soon as the file is there that it is called with.
pub(super) const UNTIL_TOLD: &str = "until [ -e \"$0\" ]; do sleep 0.05; done; exit 8";

fn is_stopped(pid: &str) -> bool {
    std::fs::read_to_string(format!("/proc/{pid}/status")).is_ok_and(|status| status.contains("State:\tT"))
}

#[test]
fn a_stopped_command_goes_on_by_signal() {
    let dir = tempfile::tempdir().expect("a directory");
    let go = dir.path().join("go");
    let mut enclosed = enclosed(&["sh", "-c", UNTIL_TOLD, &go.to_string_lossy()]);
    enclosed.start().expect("started");
    assert!(until(PATIENCE, || children(&enclosed).len() == 1));
    enclosed.signal(libc::SIGTSTP).expect("sent");
    assert!(until(PATIENCE, || children(&enclosed).iter().all(|pid| is_stopped(pid))));
    std::fs::write(&go, "").expect("the directory is ours");
    std::thread::sleep(Duration::from_millis(700));
    assert_eq!(children(&enclosed).len(), 1);
    enclosed.signal(libc::SIGCONT).expect("sent");
    assert_eq!(enclosed.wait().expect("a status").code(), 8);
}

#[test]
fn dropping_the_handle_ends_everything_at_once() {
    for started in [false, true] {
        let mut enclosed = enclosed(&["sh", "-c", "trap '' TERM; setsid sleep 60 & sleep 60"]);
        if started {
            enclosed.start().expect("started");
            assert!(until(PATIENCE, || !children(&enclosed).is_empty()));
        }
        let init = enclosed.init_pid;
        drop(enclosed);
        assert!(!std::path::Path::new(&format!("/proc/{init}")).exists());
    }
}

#[test]
fn the_thread_that_made_it_may_end_before_it() {
    let maker = std::thread::spawn(|| enclosed(&["sh", "-c", "sleep 0.3; exit 4"]));
    let mut enclosed = maker.join().expect("made");
    enclosed.start().expect("started");
    assert_eq!(enclosed.wait().expect("a status").code(), 4);
}

#[test]
fn the_status_descriptor_is_readable_when_the_command_has_ended_and_not_before() {
    use rustix::event::{PollFd, PollFlags, Timespec, poll};
    let dir = tempfile::tempdir().expect("a directory");
    let go = dir.path().join("go");
    let mut enclosed = enclosed(&["sh", "-c", UNTIL_TOLD, &go.to_string_lossy()]);
    enclosed.start().expect("started");
    let readable = |millis: i64| {
        let limit = Timespec { tv_sec: millis / 1000, tv_nsec: millis % 1000 * 1_000_000 };
        poll(&mut [PollFd::from_borrowed_fd(enclosed.status_fd(), PollFlags::IN)], Some(&limit)).expect("polled") == 1
    };
    assert!(!readable(200));
    std::fs::write(&go, "").expect("the directory is ours");
    assert!(readable(30_000));
    assert_eq!(enclosed.wait().expect("a status").code(), 8);
    assert!(enclosed.start().is_err());
}
