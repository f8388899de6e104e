//! Ping sockets and raw ones, which sock_diag does not list.

use std::net::SocketAddr;

use portreeve::packet::Protocol;
use portreeve::process::Confidence;

use super::harness::{Program, in_namespace, only_holder, processes, tuple};

const FAMILIES: [(&str, &str, &str, &str, Protocol, &str); 2] = [
    ("AF_INET", "IPPROTO_ICMP", "192.0.2.1", "10.9.0.2", Protocol::ICMP, "192.0.2.1:0"),
    ("AF_INET6", "IPPROTO_ICMPV6", "2001:db8::1", "fd09::2", Protocol::ICMPV6, "[2001:db8::1]:0"),
];

fn allow_ping_sockets() {
    // /proc/sys/net is the calling thread's namespace, which is not the machine's.
    std::fs::write("/proc/sys/net/ipv4/ping_group_range", "0 0").expect("our own namespace");
}

#[test]
fn echo_belongs_to_the_ping_socket_with_its_identifier() {
    in_namespace(|| {
        allow_ping_sockets();
        for (family, protocol, peer, local, number, remote) in FAMILIES {
            let code = format!(
                "s = socket.socket(socket.{family}, socket.SOCK_DGRAM, socket.{protocol}); s.bind(('', 0))\n\
                 s.connect(('{peer}', 0)); say(s.getsockname()[1]); end()"
            );
            let (one, other) = (Program::python(&code), Program::python(&code));
            let processes = processes();
            for program in [&one, &other] {
                let identifier: u16 = program.said.parse().expect("an identifier");
                let local = SocketAddr::new(local.parse().expect("an address"), identifier);
                let flow = tuple(number, local, remote);
                let socket = processes.ping_owner(&flow, None).expect("an owner");
                assert_eq!(socket.confidence, Confidence::Exact);
                assert_eq!(only_holder(&processes, &socket).pid, Some(program.pid()));
                assert_eq!(processes.ping_owner(&flow, Some(program.pid())), Some(socket), "by its namespace");
            }
            let unknown = tuple(number, SocketAddr::new(local.parse().expect("an address"), 1), remote);
            assert_eq!(processes.ping_owner(&unknown, None), None);
        }
    });
}

#[test]
fn echo_may_be_of_every_raw_socket_and_these_have_the_programs_that_hold_them() {
    in_namespace(|| {
        for (family, protocol, _, local, number, remote) in FAMILIES {
            let flow = tuple(number, SocketAddr::new(local.parse().expect("an address"), 77), remote);
            let processes = processes();
            let senders = || processes.raw_table(flow.local.is_ipv4(), None)?.senders(number);
            let mut programs = Vec::new();
            for kind in [protocol, "IPPROTO_TCP"] {
                let code = format!("s = socket.socket(socket.{family}, socket.SOCK_RAW, socket.{kind}); say('ready'); end()");
                programs.push(Program::python(&code));
                assert_eq!(processes.ping_owner(&flow, None), None);
                let open = senders().expect("few");
                let holders = processes.all_holders(&open).expect("few");
                let pids: Vec<Vec<u32>> = open.iter().map(|socket| holders.pids(socket).collect()).collect();
                assert_eq!(pids, programs.iter().map(|program| vec![program.pid()]).collect::<Vec<_>>(), "{kind}");
            }
        }
    });
}

#[test]
fn ping_in_another_namespace_is_not_seen_from_here() {
    in_namespace(|| {
        allow_ping_sockets();
        let code =
            "s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM, socket.IPPROTO_ICMP); s.bind(('', 77)); say('ready'); end()";
        let program = Program::python(code);
        let pid = program.pid();
        in_namespace(move || {
            let flow = tuple(Protocol::ICMP, "10.9.0.2:77".parse().expect("an address"), "192.0.2.1:0");
            assert_eq!(processes().ping_owner(&flow, None), None);
            assert!(processes().ping_owner(&flow, Some(pid)).is_some());
            assert_eq!(processes().ping_owner(&flow, Some(u32::MAX)), None);
        });
        drop(program);
    });
}
