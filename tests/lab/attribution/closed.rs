//! Sockets that are closed: who made them, by the programs that the kernel runs for us, or nobody.

use std::net::{SocketAddr, UdpSocket};
use std::os::fd::AsFd as _;

use portreeve::bpf::{ClosedSockets, Sender};
use portreeve::packet::{FiveTuple, Protocol};

use super::harness::{Program, in_namespace, table, tuple};

/// Family, peer as the program writes it, peer as the packet says it, and the address that the packet comes from.
const PEERS: [(&str, &str, &str, &str); 3] = [
    ("AF_INET", "192.0.2.1", "192.0.2.1", "10.9.0.2"),
    ("AF_INET6", "2001:db8::1", "[2001:db8::1]", "fd09::2"),
    ("AF_INET6", "::ffff:192.0.2.1", "192.0.2.1", "10.9.0.2"),
];
/// A connected socket, and one that is not.
const ACTS: [&str; 2] = ["s.connect(('PEER', 9)); s.send(b'x')", "s.sendto(b'x', ('PEER', 9))"];

fn watch() -> ClosedSockets {
    ClosedSockets::watch(table().as_fd()).expect("root may, and this kernel can")
}

fn flow(program: &Program, from: &str, remote: &str) -> FiveTuple {
    let port = program.said.rsplit(':').next().expect("a port").parse().expect("a number");
    tuple(Protocol::UDP, SocketAddr::new(from.parse().expect("an address"), port), &format!("{remote}:9"))
}

fn each(code: &str, test: impl Fn(&ClosedSockets, &mut Program, FiveTuple)) {
    let closed = watch();
    for (family, peer, remote, from) in PEERS {
        for act in ACTS {
            let act = act.replace("PEER", peer);
            let made = format!("s = socket.socket(socket.{family}, socket.SOCK_DGRAM); {act}");
            let mut program = Program::python(&code.replace("MADE", &made));
            let flow = flow(&program, from, remote);
            test(&closed, &mut program, flow);
        }
    }
}

#[test]
fn a_closed_socket_tells_the_process_that_made_and_closed_it() {
    in_namespace(|| {
        each("MADE; own = name(s); s.close(); say(own); end()", |closed, program, flow| {
            let sender = closed.sender(&flow).unwrap_or_else(|| panic!("nobody closed {flow}"));
            assert_eq!((sender.pid, sender.uid), (program.pid(), 0), "{flow}");
            assert_eq!(closed.maker(sender.cookie), Some(sender));
            assert_eq!(closed.maker(sender.cookie + 1), None, "another socket");
            assert!(closed.is_same_program(&sender));
            let mut elsewhere = flow;
            elsewhere.local.set_port(flow.local.port() ^ 1);
            assert_eq!(closed.sender(&elsewhere), None, "another port");
            assert_eq!(closed.sender(&FiveTuple { protocol: Protocol::TCP, ..flow }), None);
        });
    });
}

#[test]
fn a_socket_of_our_own_is_not_noted_and_takes_nobodys_place() {
    in_namespace(|| {
        each("MADE; own = name(s); s.close(); say(own); end()", |closed, program, flow| {
            let any: SocketAddr = if flow.local.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" }.parse().expect("literal");
            drop(UdpSocket::bind((any.ip(), flow.local.port())).expect("it is free again"));
            let sender = closed.sender(&flow).unwrap_or_else(|| panic!("nobody closed {flow}"));
            assert_eq!(sender.pid, program.pid(), "{flow}");
            let ours = UdpSocket::bind(any).expect("a port");
            let tuple = FiveTuple { local: SocketAddr::new(flow.local.ip(), ours.local_addr().expect("bound").port()), ..flow };
            drop(ours);
            assert_eq!(closed.sender(&tuple), None, "{tuple}");
        });
    });
}

#[test]
fn an_open_socket_and_one_of_another_namespace_tell_nothing() {
    in_namespace(|| {
        each("MADE; say(name(s)); end()", |closed, _, flow| assert_eq!(closed.sender(&flow), None));
    });
    let closed = watch();
    in_namespace(move || {
        let (_, peer, remote, from) = PEERS[0];
        let made = format!("s = socket.socket(type=socket.SOCK_DGRAM); s.connect(('{peer}', 9)); own = name(s)");
        let code = format!("{made}; s.close(); say(own); end()");
        assert_eq!(closed.sender(&flow(&Program::python(&code), from, remote)), None);
    });
}

#[test]
fn a_socket_that_another_process_closes_than_made_it_is_nobodys() {
    let code = "MADE; own = name(s); s.set_inheritable(True)\n\
        child = os.fork()\n\
        if child == 0: end(); os._exit(0)\n\
        s.close(); say(own); os.waitpid(child, 0); say('over'); end()";
    in_namespace(move || {
        each(code, |closed, program, flow| {
            program.go_on();
            assert_eq!(program.next_line(), "over");
            assert_eq!(closed.sender(&flow), None, "{flow}");
        });
    });
}

#[test]
fn a_port_that_two_processes_left_one_after_the_other_is_neithers() {
    let code = "MADE; own = name(s); s.close(); say(own)\n\
        child = os.fork()\n\
        if child == 0:\n  t = socket.socket(s.family, s.type); t.bind(('', int(own.rsplit(':')[-1]))); t.close(); os._exit(0)\n\
        os.waitpid(child, 0); say('over'); end()";
    in_namespace(move || {
        each(code, |closed, program, flow| {
            assert_eq!(program.next_line(), "over");
            assert_eq!(closed.sender(&flow), None, "{flow}");
        });
    });
}

#[test]
fn a_port_that_we_left_ourselves_just_now_is_the_next_ones() {
    in_namespace(|| {
        let closed = watch();
        for (family, peer, remote, from) in PEERS {
            for act in ACTS {
                let any = if family == "AF_INET" { "0.0.0.0:0" } else { "[::]:0" };
                let ours = UdpSocket::bind(any).and_then(|socket| socket.local_addr()).expect("a free port").port();
                let act = act.replace("PEER", peer);
                let made = format!("s = socket.socket(socket.{family}, socket.SOCK_DGRAM); s.bind(('', {ours})); {act}");
                let program = Program::python(&format!("{made}; own = name(s); s.close(); say(own); end()"));
                let flow = flow(&program, from, remote);
                assert_eq!(flow.local.port(), ours);
                assert_eq!(closed.sender(&flow).map(|sender| sender.pid), Some(program.pid()), "{flow}");
            }
        }
    });
}

#[test]
fn a_process_that_executed_a_program_since_is_another_one() {
    let code = "MADE; own = name(s); s.close(); say(own); end(); os.execvp('cat', ['cat'])";
    in_namespace(move || {
        each(code, |closed, program, flow| {
            let sender: Sender = closed.sender(&flow).unwrap_or_else(|| panic!("nobody closed {flow}"));
            assert!(closed.is_same_program(&sender));
            program.go_on();
            // It is `cat` as soon as it says again what it is told.
            program.go_on();
            assert!(program.next_line_may_be_empty());
            assert!(!closed.is_same_program(&sender), "{flow}");
        });
    });
}

/// More processes begin and execute a program than are remembered by their numbers.
fn flood() {
    let words = "for n in {1..5500}; do /bin/true; done";
    assert!(std::process::Command::new("bash").args(["-c", words]).status().expect("bash runs").success());
}

#[test]
fn what_made_a_socket_is_noted_and_that_it_changed_since_is_not_forgotten() {
    let code = "MADE; own = name(s); s.close(); say(own); end()\n\
        if os.fork() == 0: os.execvp('true', ['true'])\n\
        say('begun'); end(); os.execvp('cat', ['cat'])";
    in_namespace(move || {
        each(code, |closed, program, flow| {
            let sender = closed.sender(&flow).unwrap_or_else(|| panic!("nobody closed {flow}"));
            let portrait = closed.portrait(&sender).unwrap_or_else(|| panic!("no portrait of {flow}'s"));
            let exe = std::fs::read_link(format!("/proc/{}/exe", program.pid())).expect("it runs");
            assert_eq!(portrait.exe.names.last().map(Vec::as_slice), exe.file_name().map(std::ffi::OsStr::as_encoded_bytes));
            assert_eq!((portrait.parent, portrait.uid), (std::process::id(), 0));
            assert!(portrait.cmdline.ends_with(b"\0") && closed.stayed_the_same(&sender), "{flow}");
            assert_eq!(closed.portrait(&Sender { cookie: sender.cookie + 1024, ..sender }), None, "of the same place");
            program.go_on();
            assert_eq!(program.next_line(), "begun");
            assert!(!closed.stayed_the_same(&sender), "{flow}: it has begun another");
        });
        let closed = watch();
        let (family, peer, remote, from) = PEERS[0];
        let made = format!("s = socket.socket(socket.{family}, socket.SOCK_DGRAM); s.connect(('{peer}', 9)); own = name(s)");
        let mut program = Program::python(&format!("{made}; s.close(); say(own); end(); os.execvp('cat', ['cat'])"));
        let sender = closed.sender(&flow(&program, from, remote)).expect("it closed it");
        assert!(closed.stayed_the_same(&sender));
        program.go_on();
        program.go_on();
        assert!(program.next_line_may_be_empty());
        flood();
        assert!(!closed.stayed_the_same(&sender), "it has executed another, whatever others do");
    });
}

#[test]
fn what_execve_closes_was_made_by_the_program_before() {
    let code = "MADE; say(name(s)); end(); os.execvp('cat', ['cat'])";
    in_namespace(move || {
        each(code, |closed, program, flow| {
            program.go_on();
            program.go_on();
            assert!(program.next_line_may_be_empty());
            let sender = closed.sender(&flow).unwrap_or_else(|| panic!("nobody closed {flow}"));
            assert!(sender.pid == program.pid() && !closed.is_same_program(&sender), "{flow}");
        });
    });
}

#[test]
fn maker_of_a_new_socket_has_no_heir_until_it_begins_a_process() {
    let code = "MADE; say(name(s)); end()\n\
        child = os.fork()\n\
        if child == 0: os._exit(0)\n\
        os.waitpid(child, 0); say('over'); end()";
    in_namespace(move || {
        each(code, |closed, program, flow| {
            let socket = table().owner(&flow).expect("an answer").expect("it is open");
            let maker = closed.maker_of_new(socket.cookie).unwrap_or_else(|| panic!("nobody made {flow}"));
            assert_eq!(maker.pid, program.pid(), "{flow}");
            assert!(closed.has_begun_none(maker.pid, maker.made) && closed.is_same_program(&maker));
            assert_eq!(closed.maker_of_new(socket.cookie + 1), None, "another socket");
            program.go_on();
            assert_eq!(program.next_line(), "over");
            assert!(!closed.has_begun_none(maker.pid, maker.made), "{flow}");
        });
    });
}

#[test]
fn raw_sockets_that_are_closed_tell_who_made_and_closed_them_or_that_it_is_uncertain() {
    let raw = "s = socket.socket(socket.FAMILY, socket.SOCK_RAW, PROTOCOL); s.set_inheritable(True)";
    let by_another =
        "child = os.fork()\nif child == 0: end(); os._exit(0)\ns.close(); say('made'); os.waitpid(child, 0); say('over'); end()";
    let after_another =
        "child = os.fork()\nif child == 0: os._exit(0)\nos.waitpid(child, 0); say('made'); end(); s.close(); say('over'); end()";
    in_namespace(move || {
        for (family, is_v4) in [("AF_INET", true), ("AF_INET6", false)] {
            for number in ["6", "17", "255"] {
                let made = raw.replace("FAMILY", family).replace("PROTOCOL", number);
                let watched = || {
                    let closed = watch();
                    move |is_v4| {
                        let senders = closed.raw_notes().expect("readable").senders(is_v4, 0)?;
                        Some(senders.iter().map(|sender| sender.sender.pid).collect::<Vec<u32>>())
                    }
                };
                let pids = watched();
                let mut program = Program::python(&format!("{made}; say('made'); end(); s.close(); say('over'); end()"));
                assert_eq!(pids(is_v4), Some(vec![]), "it is open");
                program.go_on();
                assert_eq!(program.next_line(), "over");
                for _ in 0..2 {
                    assert_eq!((pids(is_v4), pids(!is_v4)), (Some(vec![program.pid()]), Some(vec![])));
                }
                for another in [by_another, after_another] {
                    let pids = watched();
                    let mut other = Program::python(&format!("{made}\n{another}"));
                    assert_eq!(pids(is_v4), Some(vec![]), "it is open");
                    other.go_on();
                    assert_eq!(other.next_line(), "over");
                    assert_eq!((pids(is_v4), pids(!is_v4)), (None, Some(vec![])), "{another}");
                }
            }
        }
    });
}
