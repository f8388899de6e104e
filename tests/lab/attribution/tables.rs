//! Five-tuples of TCP and UDP: the right socket, or nobody.

use std::collections::HashSet;
use std::time::Instant;

use portreeve::packet::{Direction, Protocol};
use portreeve::process::Confidence;
use portreeve::procfs::Effort;

use super::harness::{Program, in_namespace, only_holder, owner, processes, python, table, tuple};

/// Family, peer as the program writes it, peer as the packet says it.
const PEERS: [(&str, &str, &str); 3] = [
    ("AF_INET", "192.0.2.1", "192.0.2.1"),
    ("AF_INET6", "2001:db8::1", "[2001:db8::1]"),
    ("AF_INET6", "::ffff:192.0.2.1", "192.0.2.1"),
];

#[test]
fn held_syn_belongs_to_the_program_that_sent_it() {
    in_namespace(|| {
        for (family, peer, remote) in PEERS {
            let program = Program::python(&format!(
                "s = socket.socket(socket.{family}); s.setblocking(False); s.connect_ex(('{peer}', 80)); say(name(s)); end()"
            ));
            let flow = tuple(Protocol::TCP, program.local(), &format!("{remote}:80"));
            let socket = owner(&flow);
            assert_eq!((socket.uid, socket.confidence), (0, Confidence::Exact), "{flow}");
            let processes = processes();
            assert_eq!(processes.find_quick(&socket, None, Instant::now(), Effort::Read), None, "nothing is known yet");
            assert_eq!(only_holder(&processes, &socket).pid, Some(program.pid()), "{flow}");
            let again = processes.find_quick(&socket, None, Instant::now(), Effort::Read).expect("known now");
            assert_eq!((again.pid, again.confidence), (Some(program.pid()), Confidence::Exact));

            let elsewhere = tuple(Protocol::TCP, program.local(), &format!("{remote}:81"));
            assert_eq!(table().owner(&elsewhere).expect("the kernel answers"), None, "another port of the peer");
        }
    });
}

#[test]
fn udp_belongs_to_its_program_connected_or_not_bound_or_not() {
    let bind = |address: &str| format!("s.bind(('{address}', 0))");
    let connect = |address: &str| format!("s.connect(('{address}', 9))");
    let send = |address: &str| format!("s.sendto(b'x', ('{address}', 9))");
    in_namespace(move || {
        for (family, act, local, remote, confidence) in [
            ("AF_INET", connect("192.0.2.1"), None, "192.0.2.1:9", Confidence::Exact),
            ("AF_INET6", connect("2001:db8::1"), None, "[2001:db8::1]:9", Confidence::Exact),
            ("AF_INET6", connect("::ffff:192.0.2.1"), None, "192.0.2.1:9", Confidence::Exact),
            ("AF_INET", send("192.0.2.1"), Some("10.9.0.2"), "192.0.2.1:9", Confidence::Likely),
            ("AF_INET6", send("2001:db8::1"), Some("fd09::2"), "[2001:db8::1]:9", Confidence::Likely),
            ("AF_INET6", send("::ffff:192.0.2.1"), Some("10.9.0.2"), "192.0.2.1:9", Confidence::Likely),
            ("AF_INET", bind("10.9.0.2"), None, "192.0.2.1:9", Confidence::Likely),
            ("AF_INET6", bind("::"), Some("10.9.0.2"), "192.0.2.1:9", Confidence::Likely),
        ] {
            let program =
                Program::python(&format!("s = socket.socket(socket.{family}, socket.SOCK_DGRAM); {act}; say(name(s)); end()"));
            let port = program.said.rsplit(':').next().expect("a port").parse().expect("a number");
            let local = match local {
                Some(address) => std::net::SocketAddr::new(address.parse().expect("an address"), port),
                None => program.local(),
            };
            let flow = tuple(Protocol::UDP, local, remote);
            let socket = owner(&flow);
            assert_eq!(socket.confidence, confidence, "{flow} after {act}");
            assert_eq!(only_holder(&processes(), &socket).pid, Some(program.pid()), "{flow} after {act}");
        }
    });
}

#[test]
fn udp_socket_connected_elsewhere_or_bound_to_the_device_is_found_by_its_port() {
    in_namespace(|| {
        for act in [
            "s.connect(('192.0.2.7', 9)); s.sendto(b'x', ('192.0.2.1', 9))",
            "s.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, b'silent0'); s.bind(('0.0.0.0', 0))",
        ] {
            let program =
                Program::python(&format!("s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); {act}; say(name(s)); end()"));
            let local = std::net::SocketAddr::new("10.9.0.2".parse().expect("an address"), program.local().port());
            let socket = owner(&tuple(Protocol::UDP, local, "192.0.2.1:9"));
            assert_eq!(socket.confidence, Confidence::Likely, "{act}");
            assert_eq!(only_holder(&processes(), &socket).pid, Some(program.pid()), "{act}");
        }
    });
}

#[test]
fn tcp_socket_bound_to_the_device_is_found_when_the_device_is_named() {
    in_namespace(|| {
        let program = Program::python(
            "s = socket.socket(); s.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, b'silent0'); s.setblocking(False)\n\
             s.connect_ex(('192.0.2.1', 80)); say(name(s)); say(socket.if_nametoindex('silent0')); end()",
        );
        let mut program = program;
        let flow = tuple(Protocol::TCP, program.local(), "192.0.2.1:80");
        let index = program.next_line().parse().expect("a number");
        let mut table = table();
        assert_eq!(table.owner(&flow).expect("the kernel answers"), None);
        table.set_interface(index);
        let socket = table.owner(&flow).expect("the kernel answers").expect("an owner");
        assert_eq!(only_holder(&processes(), &socket).pid, Some(program.pid()));
    });
}

#[test]
fn same_port_on_two_loopback_addresses_is_two_programs() {
    in_namespace(|| {
        let code = |address| {
            format!("s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); s.bind(('{address}', 5000)); say(name(s)); end()")
        };
        let programs = ["127.0.0.2", "127.0.0.3"].map(|address| Program::python(&code(address)));
        let processes = processes();
        for program in &programs {
            let socket = owner(&tuple(Protocol::UDP, program.local(), "127.0.0.1:9"));
            assert_eq!(only_holder(&processes, &socket).pid, Some(program.pid()), "{}", program.said);
        }
        let third = tuple(Protocol::UDP, "127.0.0.4:5000".parse().expect("an address"), "127.0.0.1:9");
        assert_eq!(table().owner(&third).expect("the kernel answers"), None);
    });
}

#[test]
fn listener_is_not_blamed_for_a_flow_from_its_port() {
    in_namespace(|| {
        for (family, address, remote) in [("AF_INET", "0.0.0.0", "192.0.2.1:9"), ("AF_INET6", "::", "[2001:db8::1]:9")] {
            let program = Program::python(&format!(
                "s = socket.socket(socket.{family}); s.bind(('{address}', 0)); s.listen(); say(s.getsockname()[1]); end()"
            ));
            let local = if family == "AF_INET" { "10.9.0.2" } else { "fd09::2" };
            let local = std::net::SocketAddr::new(local.parse().expect("an address"), program.said.parse().expect("a port"));
            let flow = tuple(Protocol::TCP, local, remote);
            assert_eq!(table().owner(&flow).expect("the kernel answers"), None);
            assert!(!table().destroy(&flow).expect("the kernel answers"), "a listener is not destroyed either");
        }
    });
}

#[test]
fn nobody_owns_what_was_never_opened_and_other_protocols() {
    in_namespace(|| {
        for protocol in [Protocol::TCP, Protocol::UDP, Protocol::ICMP, Protocol(47)] {
            for (local, remote) in [("10.9.0.2:4000", "192.0.2.1:9"), ("[fd09::2]:4000", "[2001:db8::1]:9")] {
                let flow = tuple(protocol, local.parse().expect("an address"), remote);
                assert_eq!(table().owner(&flow).expect("the kernel answers"), None, "{flow}");
                assert!(table().owners(&flow).expect("the kernel answers").is_empty(), "{flow}");
            }
        }
    });
}

/// A connection over loopback, both ends in one program.
fn connection(family: &str, address: &str) -> String {
    format!(
        "l = socket.socket(socket.{family}); l.bind(('{address}', 0)); l.listen()\n\
         c = socket.socket(socket.{family}); c.connect(l.getsockname()); s, _ = l.accept(); say(name(c)); say(name(s))\n\
         kept = globals().get('kept', []) + [(l, c, s)]\n"
    )
}

#[test]
fn destroyed_connection_is_aborted_and_its_listener_lives() {
    in_namespace(|| {
        for (family, address) in [("AF_INET", "127.0.0.1"), ("AF_INET6", "::1")] {
            let code = connection(family, address)
                + "end()\ntry: c.send(b'x'); c.recv(1)\nexcept OSError as e: say(e.errno)\n\
                   d = socket.create_connection(l.getsockname()[:2]); say('again'); end()";
            let mut program = Program::python(&code);
            let remote = program.next_line();
            let flow = tuple(Protocol::TCP, program.local(), &remote);
            let mut table = table();
            assert!(table.destroy(&flow).expect("root may"));
            assert!(!table.destroy(&flow).expect("root may"), "it is gone");
            program.go_on();
            assert_eq!(program.next_line(), "103", "ECONNABORTED");
            assert_eq!(program.next_line(), "again");
            let ping = tuple(Protocol::ICMP, program.local(), &remote);
            assert!(table.destroy(&ping).is_err(), "ICMP has no socket table");
        }
    });
}

#[test]
fn inventory_lists_open_conversations_of_both_families_and_who_opened_them() {
    in_namespace(|| {
        let code = connection("AF_INET", "127.0.0.1")
            + &connection("AF_INET6", "::1")
            + "u = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM); u.connect(('::ffff:192.0.2.1', 9)); say(name(u))\n\
               w = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); w.bind(('', 0))\n\
               h = socket.socket(); h.setblocking(False); h.connect_ex(('192.0.2.1', 80)); end()";
        let mut program = Program::python(&code);
        let mut said = vec![program.said.clone()];
        said.extend((0..4).map(|_| program.next_line()));
        let [client4, server4, client6, server6, datagrams] = said.as_slice() else { panic!("{said:?}") };
        let all = table().conversations().expect("the kernel answers");
        let of = |direction| -> HashSet<String> {
            all.iter().filter(|one| one.direction == direction).map(|one| one.tuple.local.to_string()).collect()
        };
        assert_eq!(of(Direction::Outbound), HashSet::from([client4, client6, datagrams].map(String::clone)));
        assert_eq!(of(Direction::Inbound), HashSet::from([server4, server6].map(String::clone)));
    });
}

#[test]
fn destroyed_datagram_socket_is_aborted_and_an_unconnected_one_is_not_hit() {
    in_namespace(|| {
        for (family, peer, remote) in PEERS {
            let mut program = Program::python(&format!(
                "s = socket.socket(socket.{family}, socket.SOCK_DGRAM); s.connect(('{peer}', 9)); say(name(s)); end()\n\
                 try: s.recv(1)\nexcept OSError as e: say(e.errno)\nend()"
            ));
            let flow = tuple(Protocol::UDP, program.local(), &format!("{remote}:9"));
            let elsewhere = tuple(Protocol::UDP, program.local(), &format!("{remote}:10"));
            assert!(!table().destroy(&elsewhere).expect("the kernel answers"), "{flow}");
            assert!(table().destroy(&flow).expect("root may"), "{flow}");
            program.go_on();
            assert_eq!(program.next_line(), "103", "ECONNABORTED, {flow}");
        }
    });
}

#[test]
fn connection_in_time_wait_belongs_to_nobody() {
    in_namespace(|| {
        let mut program =
            Program::python(&(connection("AF_INET", "127.0.0.1") + "kept.clear(); c.close(); s.close(); say('closed'); end()"));
        let remote = program.next_line();
        assert_eq!(program.next_line(), "closed");
        let flow = tuple(Protocol::TCP, program.local(), &remote);
        assert_eq!(table().owner(&flow).expect("the kernel answers"), None);
    });
}

#[test]
fn table_made_in_another_namespace_answers_for_that_one() {
    in_namespace(|| {
        let program = Program::python(
            "s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); s.connect(('192.0.2.1', 9)); say(name(s)); end()",
        );
        let flow = tuple(Protocol::UDP, program.local(), "192.0.2.1:9");
        let mut here = table();
        assert!(here.owner(&flow).expect("the kernel answers").is_some());
        in_namespace(move || {
            assert_eq!(table().owner(&flow).expect("the kernel answers"), None);
            assert!(here.owner(&flow).expect("the kernel answers").is_some());
        });
    });
}

#[test]
fn user_of_the_socket_is_known_even_after_its_program_is_gone() {
    in_namespace(|| {
        let code =
            python("s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); s.connect(('192.0.2.1', 9)); say(name(s)); end()");
        let mut command = std::process::Command::new("setpriv");
        command.args(["--reuid=65534", "--regid=65534", "--clear-groups", "/usr/bin/python3", "-c", &code]).current_dir("/");
        let program = Program::start(&mut command);
        let socket = owner(&tuple(Protocol::UDP, program.local(), "192.0.2.1:9"));
        assert_eq!(socket.uid, 65534);
        drop(program);
        let nobody = only_holder(&processes(), &socket);
        assert_eq!((nobody.pid, nobody.uid, nobody.confidence), (None, Some(65534), Confidence::None));
        assert_eq!(nobody.to_string(), "portreeve:unattributed");
    });
}
