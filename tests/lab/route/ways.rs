//! A host whose IPv6 leads nowhere, or to single networks only: programs see what they see without a router.

use super::laptop::{Laptop, assert_same, plan, program};
use crate::enclosed::{NOBODY, binary_for_everyone};
use crate::harness::{Lab, Profiles, Router, Running, Way, eventually};

/// The order in which a name's addresses are tried, and what becomes of a socket that connects to each of the arguments.
const TELL: &str = r#"
import errno, socket, sys
print(*(a[4][0] for a in socket.getaddrinfo("example.com", 80, 0, socket.SOCK_STREAM)))
for to in sys.argv[1:]:
    for kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM):
        s = socket.socket(socket.AF_INET6, kind)
        s.settimeout(5)
        try:
            s.connect((to, 7))
            s.send(b"x")
            print(to, s.recv(1).decode(), s.getsockname()[0])
        except OSError as error:
            print(to, errno.errorcode.get(error.errno, error))
"#;

/// The Internet, a neighbour, a network behind the gateway, one that no route leads to.
const TO: [&str; 4] = ["2001:db8::10", "fd09::1", "fd77::10", "fd55::1"];

/// A home network that announces addresses of its own (RFC 4193) and whose provider has no IPv6; and one without any.
const CHANGES: [&str; 2] = [
    "ip -6 route replace fd77::/64 via fd09::1 dev eth0; ip -6 route del default",
    "ip -6 route del fd77::/64; ip -6 route del default; ip -6 address del fd09::2/64 dev eth0",
];

fn tell(lab: &Lab, way: Way, profiles: &Profiles) -> Vec<String> {
    let path = program(lab.dir(), "tell.py", TELL);
    let router = Router::start(lab, way, profiles);
    let words = ["/usr/bin/python3", &path].into_iter().chain(TO);
    router.run(words).expect_success().lines().map(str::to_owned).collect()
}

fn on_laptop(lab: &Lab, command: &str) {
    lab.laptop().run(["sh", "-c", command]).expect_success();
}

#[test]
fn what_has_no_way_out_is_told_at_once_and_neighbours_are_reached() {
    let (lab, profiles) = (Lab::new(), Profiles::accepting());
    for change in CHANGES {
        on_laptop(&lab, change);
        let direct = tell(&lab, Way::Direct, &profiles);
        assert!(direct.iter().any(|line| line == "2001:db8::10 ENETUNREACH"), "{direct:?}");
        for way in [Way::Up, Way::Exec] {
            assert_eq!(tell(&lab, way, &profiles), direct, "{way:?}: {change}");
        }
    }
}

#[test]
fn a_way_out_that_goes_and_comes_back_is_followed() {
    let (lab, profiles) = (Lab::new(), Profiles::accepting());
    let router = Router::start(&lab, Way::Up, &profiles);
    let path = program(lab.dir(), "tell.py", TELL);
    let told = || router.run(["/usr/bin/python3", &path, TO[0]]).expect_success();
    let reached = |text: &str| text.contains("2001:db8::10 x").then_some(());
    assert!(reached(&told()).is_some());
    for _ in 0..2 {
        on_laptop(&lab, CHANGES[0]);
        eventually("IPv6 is known to be gone", || told().contains("2001:db8::10 ENETUNREACH").then_some(()));
        on_laptop(&lab, "ip -6 route add default via fd09::1 dev eth0");
        eventually("IPv6 is back", || reached(&told()));
    }
}

/// Says each time that it changes whether the server of its argument is reached.
const WATCH: &str = r#"
import errno, socket, sys, time
said, end = None, time.time() + 50
while time.time() < end:
    s = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
    s.settimeout(1)
    try:
        s.connect((sys.argv[1], 7))
        s.send(b"x")
        now = s.recv(1).decode()
    except OSError as error: now = errno.errorcode.get(error.errno, "silence")
    s.close()
    if now != said: print(now, flush=True)
    said = now
    time.sleep(0.1)
"#;

#[test]
fn an_enclosure_follows_a_way_out_that_goes_and_comes_back() {
    let (lab, profiles) = (Lab::new(), Profiles::accepting());
    let words = ["/usr/bin/python3", "-c", WATCH, TO[0]];
    let router = Router::start(&lab, Way::Exec, &profiles);
    let copy = binary_for_everyone(&lab).display().to_string();
    let set = profiles.path().display().to_string();
    let nobody = NOBODY.into_iter().chain(["env", "-u", "XDG_RUNTIME_DIR", &copy, "exec", "--profiles", &set, "--"]);
    let mut watching = [router.spawn(words), lab.laptop().spawn(nobody.chain(words))];
    let mut say = |what: &str| watching.iter_mut().for_each(|watch| wait_for(watch, what));
    say("x");
    for _ in 0..2 {
        on_laptop(&lab, CHANGES[0]);
        say("ENETUNREACH");
        on_laptop(&lab, "ip -6 route add default via fd09::1 dev eth0");
        say("x");
    }
    on_laptop(&lab, CHANGES[1]);
    let mut late = router.spawn(words);
    wait_for(&mut late, "ENETUNREACH");
    on_laptop(&lab, "ip -6 address add fd09::2/64 dev eth0 nodad; ip -6 route add default via fd09::1 dev eth0");
    wait_for(&mut late, "x");
}

/// Until [`WATCH`] says so; another line may be of the moment in which the route changes.
fn wait_for(watch: &mut Running, what: &str) {
    loop {
        let line = watch.line();
        assert_ne!(line, "", "it has ended");
        if line == what {
            return;
        }
    }
}

#[test]
fn our_table_leads_where_the_host_does_and_is_taken_back_whole() {
    let laptop = Laptop::new();
    laptop.inner.run("ip -6 route add fd77::/64 via fd09::1; ip -6 route add 2001:db8:5::/48 via fd09::1");
    let with_default = laptop.snapshot();
    laptop.inner.run("ip -6 route del default");
    let before = laptop.snapshot();
    let mut installed = laptop.up(&plan()).expect("up");
    let table = |word: &str| laptop.inner.run("ip -6 route show table 1717").contains(word);
    for net in ["fd09::/64", "fd77::/64", "2001:db8:5::/48", "ff00::/8"] {
        assert!(table(&format!("{net} dev portreeve0")), "{net}");
    }
    assert!(!table("default dev portreeve0") && table("throw default") && table("unreachable default"));
    assert!(!laptop.inner.run("ip addr show dev portreeve0").contains("2001:2::1"));
    let state = || laptop.snapshot().lines().filter(|line| !line.contains("packets")).collect::<Vec<_>>().join("\n");
    let without = state();
    // Until it is followed, what the host could reach again is led into the TUN by its link.
    laptop.inner.run("ip -6 route add default via fd09::1");
    assert!(!laptop.pings("", "2001:db8::10"));
    laptop.inner.inside(|| installed.repair()).expect("followed");
    assert!(table("default dev portreeve0") && !table("fd77") && !table("throw"));
    assert!(laptop.inner.run("ip addr show dev portreeve0").contains("2001:2::1"));
    let with = laptop.snapshot();
    laptop.inner.inside(|| installed.repair()).expect("whole");
    assert_same(&laptop.snapshot(), &with);
    laptop.inner.run("ip -6 route del default via fd09::1");
    laptop.inner.inside(|| installed.repair()).expect("followed");
    assert_same(&state(), &without);
    laptop.inner.inside(|| installed.remove()).expect("removed");
    assert_same(&laptop.snapshot(), &before);
    laptop.inner.run("ip -6 route add default via fd09::1");
    assert_same(&laptop.snapshot(), &with_default);
}

#[test]
fn a_route_that_is_added_by_its_gateway_alone_gets_the_gateways_link() {
    let (lab, profiles) = (Lab::new(), Profiles::accepting());
    let router = Router::start(&lab, Way::Up, &profiles);
    for (family, net, gateway) in [("-4", "192.0.2.0/24", "10.9.0.1"), ("-6", "2001:db8:5::/48", "fd09::1")] {
        on_laptop(&lab, &format!("ip {family} route del default; ip {family} route add default via {gateway}"));
        on_laptop(&lab, &format!("ip {family} route add {net} via {gateway}"));
        for to in ["default", net] {
            let route = lab.laptop().run(["ip", family, "route", "show", to]).expect_success();
            assert!(route.contains(&format!("via {gateway} dev eth0")), "{route}");
        }
    }
    for to in ["http://203.0.113.10/hello", "http://[2001:db8::10]/hello"] {
        eventually(to, || (router.run(["curl", "-sS", "--max-time", "5", to]).code() == 0).then_some(()));
    }
    router.verb(&["down"]).expect_success();
    let left = lab.laptop().run(["ip", "route", "show", "default"]).expect_success();
    assert!(left.contains("via 10.9.0.1 dev eth0"), "{left}");
}

#[test]
fn who_asks_for_neighbours_alone_does_not_get_past_the_router() {
    let laptop = Laptop::new();
    let installed = laptop.up(&plan()).expect("up");
    assert!(!laptop.pings("-r", "10.9.0.1"));
    laptop.inner.inside(|| installed.remove()).expect("removed");
    assert!(laptop.pings("-r", "10.9.0.1"));
}
