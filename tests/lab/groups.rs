//! Multicast: what is sent to a group is judged and leaves, and who joined one hears it.

use crate::harness::{Capture, Host, Lab, Profiles, Router, Running, Seen, Way, datagrams, python};

in_all_ways! {
    a_host_of_a_group_hears_what_is_sent_there_and_answers_from_its_own_address,
}

through_a_router! {
    nothing_is_sent_to_a_group_where_the_network_is_refused,
}

/// Groups within the site (RFC 2365, RFC 4291), and the address of the laptop, and of the gateway, in each.
const GROUPS: [[&str; 3]; 2] = [["239.255.17.17", Lab::LAPTOP_4, "10.9.0.1"], ["ff05::1717", Lab::LAPTOP_6, "fd09::1"]];

/// Joins a group, by a link or by the one that the kernel finds.
fn joined(host: &Host, group: &str, link: Option<&str>) -> Running {
    let words: Vec<&str> = ["join", group].into_iter().chain(link).collect();
    let mut member = host.spawn(datagrams(&words));
    assert_eq!(member.line(), "joined");
    member
}

fn a_host_of_a_group_hears_what_is_sent_there_and_answers_from_its_own_address(way: Way) {
    let lab = Lab::new();
    let profiles = Profiles::accepting();
    let router = Router::start(&lab, way, &profiles);
    for [group, laptop, gateway] in GROUPS {
        let mut member = joined(&lab.gateway(), group, Some("lan0"));
        let told = router.run(datagrams(&["stranger", group])).expect_success();
        assert_eq!(told.trim(), format!("{gateway:?}"), "{group}");
        assert_eq!(member.line(), laptop, "{group}");
    }
}

fn nothing_is_sent_to_a_group_where_the_network_is_refused(way: Way) {
    let lab = Lab::new();
    let profiles = Profiles::accepting();
    profiles.user("python", &python(), "[scope]\nlan = false");
    let router = Router::start(&lab, way, &profiles);
    let capture = Capture::start(&lab, "groups");
    for [group, _, _] in GROUPS {
        let _member = joined(&lab.gateway(), group, Some("lan0"));
        let told = router.run(datagrams(&["stranger", group])).expect_success();
        assert_eq!(told.trim(), "\"silence\"", "{group}");
    }
    // The control: the laptop's echo reply.
    lab.gateway().run(["ping", "-c1", "-q", Lab::LAPTOP_4]).expect_success();
    capture.stop_with_only(&[Seen { protocol: "ICMP", destination: std::net::IpAddr::from([10, 9, 0, 1]), port: None }], &[]);
}

#[test]
fn a_member_on_the_same_host_hears_once_and_is_heard() {
    let lab = Lab::new();
    crate::whole::settle(&lab);
    let profiles = Profiles::accepting();
    for way in [Way::Direct, Way::Up] {
        let router = Router::start(&lab, way, &profiles);
        for [group, laptop, _] in GROUPS {
            let member = joined(&lab.laptop(), group, None);
            let told = router.run(datagrams(&["stranger", group])).expect_success();
            assert_eq!(told.trim(), format!("{laptop:?}"), "{way:?}, {group}");
            member.signal(rustix::process::Signal::TERM);
            assert_eq!(member.finish().1, format!("{laptop}\n"), "{way:?}, {group}");
        }
    }
}

/// What comes in is not judged yet, so a profile set that refuses everything keeps nobody from hearing.
#[test]
fn who_joined_a_group_hears_it_before_up_under_it_and_after() {
    let lab = Lab::new();
    crate::whole::settle(&lab);
    let profiles = Profiles::empty();
    for [group, _, gateway] in GROUPS {
        let hears = |member: &mut Running, when: &str| {
            lab.gateway().run(datagrams(&["tell", group, "lan0"])).expect_success();
            assert_eq!(member.line(), gateway, "{group}, {when}");
        };
        // Each alone: a datagram for a group goes to every socket of the port.
        for link in [None, Some("eth0")] {
            let mut member = joined(&lab.laptop(), group, link);
            hears(&mut member, "before");
            let router = Router::start(&lab, Way::Up, &profiles);
            hears(&mut member, "joined before, under `up`");
            drop(member);
            let mut member = joined(&lab.laptop(), group, link);
            hears(&mut member, "joined under `up`");
            drop(router);
            hears(&mut member, "joined under `up`, after `down`");
        }
    }
}

/// Answers on port 9014 what is sent to the group `argv[1]` by a socket that is bound to the group, as UPnP servers do.
const RESPONDER: &str = r#"
import socket, struct, sys
group = sys.argv[1]
family = socket.AF_INET6 if ":" in group else socket.AF_INET
s = socket.socket(family, socket.SOCK_DGRAM)
s.bind((group, 9014))
link = socket.if_nametoindex("eth0")
packed = socket.inet_pton(family, group)
if family == socket.AF_INET: s.setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, packed + struct.pack("4si", bytes(4), link))
else: s.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_JOIN_GROUP, packed + struct.pack("I", link))
print("ready", flush=True)
while True:
    said, who = s.recvfrom(100)
    try: s.sendto(b"here", who)
    except OSError as error: print(error, flush=True)
"#;

/// Asks a group by lan0, port 9014, and prints who answered.
const ASK: &str = r#"
import socket, sys
group = sys.argv[1]
family = socket.AF_INET6 if ":" in group else socket.AF_INET
s = socket.socket(family, socket.SOCK_DGRAM)
s.settimeout(3)
s.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, b"lan0")
s.sendto(b"who", (group, 9014))
try: print(s.recvfrom(100)[1][0])
except socket.timeout: print("silence")
"#;

#[test]
fn a_responder_that_is_bound_to_its_group_is_heard_and_judged_as_itself() {
    let lab = Lab::new();
    crate::whole::settle(&lab);
    let asked = |group: &str| lab.gateway().run(["/usr/bin/python3", "-c", ASK, group]).expect_success().trim().to_owned();
    for (way, lan) in [(Way::Direct, true), (Way::Up, true), (Way::Up, false)] {
        let profiles = Profiles::accepting();
        profiles.user("python", &python(), &format!("[scope]\nlan = {lan}"));
        let router = Router::start(&lab, way, &profiles);
        for [group, laptop, _] in GROUPS {
            let mut responder = router.spawn(["/usr/bin/python3", "-c", RESPONDER, group]);
            assert_eq!(responder.line(), "ready");
            assert_eq!(asked(group), if lan { laptop } else { "silence" }, "{way:?}, {group}, {lan}");
        }
    }
}

/// Listens on port 9012 while it sends to everybody in the network there, as KDE Connect does. Prints who was heard.
const ALL: &str = r#"
import socket, time
heard = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
heard.bind(("", 9012))
heard.settimeout(1)
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
s.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
try:
    s.sendto(b"hello", ("255.255.255.255", 9012))
    while True: print(heard.recvfrom(100)[1][0])
except OSError: pass
"#;

#[test]
fn who_calls_everybody_hears_itself_once_and_from_its_own_address_and_not_at_all_where_it_is_refused() {
    let lab = Lab::new();
    crate::whole::settle(&lab);
    let profiles = Profiles::accepting();
    for way in [Way::Direct, Way::Up] {
        let router = Router::start(&lab, way, &profiles);
        let capture = Capture::start(&lab, "all");
        assert_eq!(router.run(["/usr/bin/python3", "-c", ALL]).expect_success(), format!("{}\n", Lab::LAPTOP_4), "{way:?}");
        let expected = Seen::udp("255.255.255.255", 9012);
        capture.stop_with_only(std::slice::from_ref(&expected), std::slice::from_ref(&expected));
    }
    let profiles = Profiles::accepting();
    profiles.user("python", &python(), "[scope]\nlan = false");
    let router = Router::start(&lab, Way::Up, &profiles);
    assert_eq!(router.run(["/usr/bin/python3", "-c", ALL]).expect_success(), "");
}

/// Sends to a group by a link that it names, as responders of mDNS do: by `IP_MULTICAST_IF`, by `IP_PKTINFO`, or by a socket that is bound
/// to the link. Says what came of it.
const NAMING: &str = r#"
import errno, socket, struct, sys, time
how, group = sys.argv[1:]
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
own = socket.inet_aton("10.9.0.2")
if how == "interface": s.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, own)
if how == "bound": s.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, b"eth0")
told = [(socket.IPPROTO_IP, 8, struct.pack("=I4s4s", socket.if_nametoindex("eth0"), own, bytes(4)))] if how == "packet" else []
try: s.sendmsg([b"hello"], told, 0, (group, 9010)); print("sent")
except OSError as error: print(errno.errorcode[error.errno])
time.sleep(1)
"#;

#[test]
fn who_names_the_link_for_a_group_is_judged_like_who_names_none() {
    let lab = Lab::new();
    let group = GROUPS[0][0];
    let send = |how: &str| lab.laptop().run(["/usr/bin/python3", "-c", NAMING, how, group]).expect_success();
    let profiles = Profiles::accepting();
    let router = Router::start(&lab, Way::Up, &profiles);
    for how in ["interface", "packet", "bound"] {
        let mut member = joined(&lab.gateway(), group, Some("lan0"));
        assert_eq!(send(how), "sent\n");
        assert_eq!(member.line(), Lab::LAPTOP_4, "{how}");
    }
    drop(router);
    profiles.user("python", &python(), "[scope]\nlan = false");
    let _router = Router::start(&lab, Way::Up, &profiles);
    let capture = Capture::start(&lab, "named");
    for how in ["interface", "packet", "bound"] {
        send(how);
    }
    lab.gateway().run(["ping", "-c1", "-q", Lab::LAPTOP_4]).expect_success();
    capture.stop_with_only(&[Seen { protocol: "ICMP", destination: std::net::IpAddr::from([10, 9, 0, 1]), port: None }], &[]);
}
