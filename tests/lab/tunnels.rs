//! Tunnels whose own packets must not go into them: those that are told apart by a mark, and the kernel's.

use std::time::Duration;

use crate::harness::{Lab, Profiles, Router, Way, eventually};

/// Leads what lacks the mark 0xca6c into a tunnel, as wg-quick does. The tunnel is a link at whose other end nobody answers.
const TUNNEL: &str = "set -e; ip link add tunnel0 type veth peer name tunnel1; ip link set tunnel0 up; ip link set tunnel1 up;
ip addr add 10.66.0.2/24 dev tunnel0; ip addr add fd66::2/64 dev tunnel0 nodad;
ip neigh add 10.66.0.1 lladdr 02:00:00:00:00:66 dev tunnel0; ip neigh add fd66::1 lladdr 02:00:00:00:00:66 dev tunnel0;
ip route add default via 10.66.0.1 dev tunnel0 table 51820; ip -6 route add default via fd66::1 dev tunnel0 table 51820;
for family in -4 -6; do ip $family rule add not fwmark 0xca6c table 51820; ip $family rule add table main suppress_prefixlength 0; done
sysctl -q net.ipv4.conf.all.src_valid_mark=1
nft 'table inet tunnel {
    chain arrived { type filter hook prerouting priority mangle; meta mark set ct mark; }
    chain left { type filter hook postrouting priority mangle; meta mark 0xca6c ct mark set meta mark; }
}'";

/// Says hello with the mark `argv[1]` and prints what came back.
const HELLO: &str = r#"
import errno, socket, sys
mark, kind, to = sys.argv[1:]
end = (to, 7)
s = socket.socket(socket.AF_INET6 if ":" in to else socket.AF_INET, getattr(socket, "SOCK_" + kind))
s.setsockopt(socket.SOL_SOCKET, socket.SO_MARK, int(mark, 16))
s.settimeout(2)
try:
    s.connect(end)
    s.sendall(b"hello")
    print(s.recv(5).decode())
except TimeoutError: print("silence")
except OSError as error: print(errno.errorcode[error.errno])
"#;

fn with_tunnel() -> Lab {
    let lab = Lab::new();
    crate::whole::settle(&lab);
    lab.laptop().run(["sh", "-c", TUNNEL]).expect_success();
    lab
}

fn hello(router: &Router<'_>, mark: &str, kind: &str, to: &str) -> String {
    router.run(["/usr/bin/python3", "-c", HELLO, mark, kind, to]).expect_success().trim().to_owned()
}

#[test]
fn a_marked_program_stays_out_of_the_tunnel_that_it_carries_and_the_others_go_in() {
    let lab = with_tunnel();
    let profiles = Profiles::accepting();
    for way in [Way::Direct, Way::Up] {
        let router = Router::start(&lab, way, &profiles);
        for kind in ["STREAM", "DGRAM"] {
            for to in [Lab::SERVER_4, Lab::SERVER_6] {
                assert_eq!(hello(&router, "0xca6c", kind, to), "hello", "{way:?}: {kind} to {to}");
                assert_eq!(hello(&router, "0", kind, to), "silence", "{way:?}: {kind} to {to}");
            }
        }
    }
}

/// Speaks without the mark, then with it, by one socket, as wg-quick has a tunnel do; prints who was heard.
const LATER: &str = r#"
import socket, sys, time
s = socket.socket(socket.AF_INET6 if ":" in sys.argv[1] else socket.AF_INET, socket.SOCK_DGRAM)
s.settimeout(0.2)
def heard(tries):
    for _ in range(tries):
        s.sendto(b"hello", (sys.argv[1], 7))
        try: return s.recv(5).decode()
        except TimeoutError: pass
    return "silence"
before = heard(3)
s.setsockopt(socket.SOL_SOCKET, socket.SO_MARK, 0xca6c)
print(before, heard(25))
"#;

#[test]
fn a_socket_that_is_marked_later_leaves_the_tunnel() {
    let lab = with_tunnel();
    let profiles = Profiles::accepting();
    for way in [Way::Direct, Way::Up] {
        let router = Router::start(&lab, way, &profiles);
        for to in [Lab::SERVER_4, Lab::SERVER_6] {
            let told = router.run(["/usr/bin/python3", "-c", LATER, to]).expect_success();
            assert_eq!(told, "silence hello\n", "{way:?}: {to}");
        }
    }
}

#[test]
fn a_mark_is_no_way_past_a_refusal() {
    let lab = Lab::new();
    let profiles = Profiles::accepting();
    profiles.user("python", &crate::harness::python(), "endpoints = [\"- *\"]");
    let router = Router::start(&lab, Way::Up, &profiles);
    for to in [Lab::SERVER_4, Lab::SERVER_6] {
        assert_eq!(hello(&router, "0xca6c", "STREAM", to), "ECONNREFUSED");
        let told = hello(&router, "0xca6c", "DGRAM", to);
        assert!(["EACCES", "EHOSTUNREACH"].contains(&told.as_str()), "{to}: {told}");
    }
}

/// A tunnel of the kernel that carries all that lacks its mark, as WireGuard's does; `$1` is the other end. This kind does not ask for
/// its own way by its mark, so without a router it needs `$2`.
const OF_THE_KERNEL: &str = "set -e; ip link add tunnel0 address 02:00:00:00:67:01 type vxlan id 7 remote $1 dstport 4789 srcport 4789 4790; ip link set tunnel0 up
ip addr add 10.67.0.1/24 dev tunnel0; ip route add default via 10.67.0.2 dev tunnel0 table 51820
ip addr add fd67::1/64 dev tunnel0 nodad; ip route add default via fd67::2 dev tunnel0 table 51820; ip route add $1 via $2
for family in -4 -6; do ip $family rule add not fwmark 0xca6c table 51820; ip $family rule add table main suppress_prefixlength 0; done
nft 'table netdev tunnel {
    chain egress { type filter hook egress device \"tunnel0\" priority 10; meta mark set 0xca6c; }
}
table inet firewall { chain input { type filter hook input priority 0; ct state established accept; }; }'";
/// It never speaks first: what others begin is not judged.
const OTHER_END: &str = "set -e; ip link add tunnel0 type vxlan id 7 remote $1 local $2 dstport 4789 srcport 4789 4790
ip link set tunnel0 up; ip addr add 10.67.0.2/24 dev tunnel0; sysctl -q net.ipv6.conf.tunnel0.disable_ipv6=1
ip neigh add 10.67.0.1 lladdr 02:00:00:00:67:01 dev tunnel0";

const ASSURED: Duration = Duration::from_millis(2100);

#[test]
fn a_tunnel_of_the_kernel_is_judged_by_its_tag_and_does_not_go_into_itself() {
    for (laptop, gateway, server) in [(Lab::LAPTOP_4, "10.9.0.1", Lab::SERVER_4), (Lab::LAPTOP_6, "fd09::1", Lab::SERVER_6)] {
        let lab = Lab::new();
        crate::whole::settle(&lab);
        lab.laptop().run(["sh", "-c", OF_THE_KERNEL, "sh", server, gateway]).expect_success();
        lab.internet().run(["sh", "-c", OTHER_END, "sh", laptop, server]).expect_success();
        let profiles = Profiles::accepting();
        for way in [Way::Direct, Way::Up] {
            let router = Router::start(&lab, way, &profiles);
            let ping = || router.run(["ping", "-c1", "-W2", "-q", "10.67.0.2"]).code() == 0;
            if way == Way::Direct {
                eventually(&format!("{way:?} by {server}"), || ping().then_some(()));
                // After two seconds with answers, conntrack gives the ends of a conversation to no other.
                std::thread::sleep(ASSURED);
                assert!(ping() && ping());
                lab.laptop().run(["ip", "route", "del", server]).expect_success();
                continue;
            }
            assert!(!ping(), "by {server}");
            router.record(server, |record| record.verdict == "block" && record.exe.is_none());
            let tunnel = "name = \"tunnel\"\n[match]\ntag = [\"portreeve:kernel\"]\n";
            profiles.write("user/tunnel.toml", tunnel);
            router.verb(&["reload"]).expect_success();
            eventually(&format!("{way:?} by {server}"), || ping().then_some(()));
        }
    }
}
