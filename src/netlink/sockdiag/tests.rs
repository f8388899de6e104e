//! Which found socket is whose, and how often the kernel is asked for all.

use super::*;

fn found(local: &str, remote: &str) -> Found {
    Found {
        state: 1,
        local: local.parse().expect("address"),
        remote: remote.parse().expect("address"),
        uid: 1000,
        inode: 1,
        cookie: 1,
        cgroup_id: None,
        v6_only: false,
        mark: 0,
        interface: 0,
        carried: Carried::default(),
    }
}

fn tuple(local: &str, remote: &str) -> FiveTuple {
    FiveTuple { protocol: Protocol::UDP, local: local.parse().expect("address"), remote: remote.parse().expect("address") }
}

#[test]
fn socket_on_the_same_port_of_another_address_is_not_a_sender() {
    let asked = tuple("127.0.0.2:53", "192.0.2.1:9");
    assert!(!is_sender(&found("127.0.0.3:53", "0.0.0.0:0"), &asked));
    assert!(!is_sender(&found("127.0.0.2:54", "0.0.0.0:0"), &asked));
    assert!(is_sender(&found("127.0.0.2:53", "0.0.0.0:0"), &asked));
}

#[test]
fn dual_stack_wildcard_sends_both_families_and_a_v6_only_one_does_not() {
    let v4 = tuple("10.0.0.1:5000", "192.0.2.1:9");
    let v6 = tuple("[fd00::1]:5000", "[2001:db8::1]:9");
    let mut socket = found("[::]:5000", "[::]:0");
    assert!(is_sender(&socket, &v4) && is_sender(&socket, &v6));
    socket.v6_only = true;
    assert!(!is_sender(&socket, &v4) && is_sender(&socket, &v6));
    assert!(!is_sender(&found("0.0.0.0:5000", "0.0.0.0:0"), &v6));
}

#[test]
fn socket_that_is_bound_to_a_group_sends_from_any_address_of_its_family() {
    for (bound, own, other) in [
        ("239.255.255.250:1900", "10.0.0.1:1900", "[fd00::1]:1900"),
        ("255.255.255.255:1900", "10.0.0.1:1900", "[fd00::1]:1900"),
        ("[ff05::c]:1900", "[fd00::1]:1900", "10.0.0.1:1900"),
    ] {
        let bound = found(bound, if own.starts_with('[') { "[::]:0" } else { "0.0.0.0:0" });
        let peer = if own.starts_with('[') { ["[2001:db8::1]:9", "192.0.2.1:9"] } else { ["192.0.2.1:9", "[2001:db8::1]:9"] };
        assert!(is_sender(&bound, &tuple(own, peer[0])));
        assert!(!is_sender(&bound, &tuple(other, peer[1])));
        assert!(!is_sender(&bound, &tuple(&own.replace("1900", "1901"), peer[0])));
    }
}

#[test]
fn listener_and_time_wait_are_not_connections() {
    let asked = tuple("127.0.0.1:80", "192.0.2.1:9");
    assert!(!is_connection(&found("127.0.0.1:80", "0.0.0.0:0"), &asked));
    let mut gone = found("127.0.0.1:80", "192.0.2.1:9");
    assert!(is_connection(&gone, &asked));
    gone.state = TCP_TIME_WAIT;
    assert!(!is_connection(&gone, &asked));
}

#[test]
fn unconnected_socket_is_likely_and_a_connected_one_exact() {
    assert_eq!(socket(found("0.0.0.0:1", "0.0.0.0:0")).confidence, Confidence::Likely);
    assert_eq!(socket(found("10.0.0.1:1", "10.0.0.2:2")).confidence, Confidence::Exact);
}

#[test]
fn dumps_are_counted_and_allowed_again_in_the_next_second() {
    let mut table = SocketTable::open().expect("sock_diag is there");
    let start = Instant::now();
    assert_eq!((0..1000).filter(|_| table.may_dump(start)).count(), usize::try_from(DUMPS_A_SECOND).expect("small"));
    assert!(table.may_dump(start + Duration::from_secs(2)));
}

#[test]
fn descriptor_that_is_no_netlink_socket_is_refused() {
    let file = std::fs::File::open("/dev/null").expect("/dev/null is there");
    assert!(SocketTable::adopt(file.into()).is_err());
}
