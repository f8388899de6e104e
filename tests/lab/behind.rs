//! Beside `up`: containers behind the laptop, and firewalls that look where packets come from.

use crate::harness::{Finished, Host, Lab, Profiles, Router, Running, Way, eventually};

/// A network of its own behind a bridge of the laptop, as Docker makes it: masqueraded, and with its port 80 published as 8080.
struct Container {
    laptop: Host,
    pid: String,
    _init: Running,
    _server: Running,
}

impl Container {
    fn new(lab: &Lab) -> Self {
        let laptop = lab.laptop();
        let mut init = laptop.spawn(["unshare", "-n", "sh", "-c", "echo $$; exec sleep 300"]);
        let pid = init.line();
        let wire = format!(
            "set -e; inside='nsenter --net -t {pid} --'
             ip link add br0 type bridge; ip addr add 172.17.0.1/16 dev br0; ip link set br0 up
             ip link add port type veth peer name wire netns {pid}; ip link set port master br0 up
             $inside ip addr add 172.17.0.2/16 dev wire; $inside ip link set wire up; $inside ip route add default via 172.17.0.1
             sysctl -qw net.ipv4.ip_forward=1
             nft 'table ip docker {{ \
             chain post {{ type nat hook postrouting priority srcnat; ip saddr 172.17.0.0/16 oifname != \"br0\" masquerade; }}; \
             chain pre {{ type nat hook prerouting priority dstnat; tcp dport 8080 fib daddr type local dnat to 172.17.0.2:80; }}; }}'"
        );
        laptop.run(["sh", "-c", &wire]).expect_success();
        let server = laptop.spawn([
            "nsenter",
            "--net",
            "-t",
            &pid,
            "--",
            "python3",
            "-m",
            "http.server",
            "80",
            "--directory",
            "/proc/self",
        ]);
        let asked = ["curl", "-sS", "-o", "/dev/null", "http://172.17.0.2/"];
        eventually("the container's server listens", || (laptop.run(asked).code() == 0).then_some(()));
        Self { laptop, pid, _init: init, _server: server }
    }

    /// Publishes the port to the laptop itself, too, at its address as Docker does and on loopback as Podman does.
    fn publish_here(&self) {
        let rules = "sysctl -qw net.ipv4.conf.br0.route_localnet=1; nft 'table ip podman { \
             chain out { type nat hook output priority -100; tcp dport 8080 fib daddr type local meta mark set mark or 0x2000 \
             dnat to 172.17.0.2:80; }; \
             chain post { type nat hook postrouting priority srcnat; meta mark & 0x2000 == 0x2000 masquerade; }; }'";
        self.laptop.run(["sh", "-c", rules]).expect_success();
    }

    fn run(&self, words: &[&str]) -> Finished {
        self.laptop.run([&["nsenter", "--net", "-t", &self.pid, "--"], words].concat())
    }
}

/// What curl says: its exit code, and the status of the answer.
fn ask(run: impl Fn(&[&str]) -> Finished, url: &str) -> (i32, String) {
    let told = run(&["curl", "-sS", "-m", "10", "-o", "/dev/null", "-w", "%{http_code}", url]);
    (told.code(), told.stdout)
}

fn fine() -> (i32, String) {
    (0, "200".to_owned())
}

#[test]
fn a_container_is_told_at_once_that_it_is_refused_and_its_published_port_is_reached() {
    let lab = Lab::new();
    let container = Container::new(&lab);
    let published = format!("http://{}:8080/", Lab::LAPTOP_4);
    let (out, inbound) = (
        || ask(|words| container.run(words), "http://203.0.113.10/hello"),
        || ask(|words| lab.internet().run(words), &published),
    );
    assert_eq!((out(), inbound()), (fine(), fine()), "control");
    let profiles = Profiles::accepting();
    let _router = Router::start(&lab, Way::Up, &profiles);
    // 7: refused. Behind a masquerade it is nobody's, which a set that accepts programs does not accept.
    assert_eq!((out(), inbound()), ((7, "000".to_owned()), fine()));
}

/// A set that accepts what is nobody's, too.
fn accepting_nobody() -> Profiles {
    let profiles = Profiles::accepting();
    let text = "name = \"Nobody\"\nmode = \"blacklist\"\n[match]\ntag = [\"portreeve:unattributed\"]\n[scope]\ninternet = true\nlan = true\n";
    profiles.write("user/nobody.toml", text);
    profiles
}

#[test]
fn a_container_gets_answers_where_nobody_is_accepted() {
    let lab = Lab::new();
    let container = Container::new(&lab);
    let profiles = accepting_nobody();
    let _router = Router::start(&lab, Way::Up, &profiles);
    assert_eq!(ask(|words| container.run(words), "http://203.0.113.10/hello"), fine());
    let name = ["dig", "+short", "+time=5", "@198.51.100.53", "v4.example.com"];
    assert_eq!(container.run(&name).expect_success().trim(), Lab::SERVER_4);
}

#[test]
fn who_asks_for_a_published_port_of_its_own_host_is_judged_as_itself() {
    let lab = Lab::new();
    let container = Container::new(&lab);
    container.publish_here();
    let refused = lab.copy_of("curl", "refused");
    let profiles = Profiles::accepting();
    profiles.user("refused", &refused, "[scope]\nlan = false");
    let places = [Lab::LAPTOP_4, "127.0.0.1"].map(|place| format!("http://{place}:8080/"));
    for place in &places {
        assert_eq!(ask(|words| lab.laptop().run(words), place), fine(), "control: {place}");
    }
    let router = Router::start(&lab, Way::Up, &profiles);
    for place in &places {
        assert_eq!(ask(|words| lab.laptop().run(words), place), fine(), "{place}");
        let other = |words: &[&str]| lab.laptop().run([&[refused.to_str().expect("a name")], &words[1..]].concat());
        assert_eq!(ask(other, place), (7, "000".to_owned()), "{place}");
    }
    let record = router.record("the container", |record| record.verdict == "accept" && record.dst == "172.17.0.2:80");
    assert!(record.exe.is_some_and(|exe| exe.ends_with("/curl")));
}

/// A datagram from port 5353 to port 7 of `argv[1]`; prints what came back.
const FROM_5353: &str = r#"
import socket, sys, time
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
s.bind(("", 5353))
s.settimeout(2)
try:
    s.sendto(b"hello", (sys.argv[1], 7))
    print(s.recv(5).decode(), flush=True)
except OSError: print("nothing", flush=True)
time.sleep(60)
"#;

#[test]
fn a_containers_datagrams_are_nobodys_also_from_the_port_of_a_program_of_the_host() {
    let lab = Lab::new();
    let container = Container::new(&lab);
    let profiles = Profiles::accepting();
    let router = Router::start(&lab, Way::Up, &profiles);
    let mut program = router.spawn(["/usr/bin/python3", "-c", FROM_5353, "203.0.113.10"]);
    assert_eq!(program.line(), "hello");
    let told = container.run(&["timeout", "5", "/usr/bin/python3", "-c", FROM_5353, "203.0.113.11"]);
    assert_eq!(told.stdout, "nothing\n");
    router.record("the container", |record| record.verdict == "block" && record.dst == "203.0.113.11:7" && record.exe.is_none());
}

/// Answers each datagram at once, and again a second later.
const LATE: &str = r#"
import socket, time
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
s.bind(("203.0.113.10", 9100))
print("ready", flush=True)
while True:
    _, who = s.recvfrom(100)
    s.sendto(b"now", who)
    time.sleep(1)
    s.sendto(b"late", who)
"#;

const ASK_LATE: &str = r#"
import socket
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
s.settimeout(5)
s.connect(("203.0.113.10", 9100))
s.send(b"when")
print(s.recv(10).decode(), s.recv(10).decode())
"#;

#[test]
fn a_container_hears_an_answer_that_comes_late() {
    let lab = Lab::new();
    let container = Container::new(&lab);
    let mut server = lab.internet().spawn(["/usr/bin/python3", "-c", LATE]);
    assert_eq!(server.line(), "ready");
    let heard = || container.run(&["/usr/bin/python3", "-c", ASK_LATE]);
    assert_eq!(heard().expect_success(), "now late\n", "control");
    let profiles = accepting_nobody();
    let _router = Router::start(&lab, Way::Up, &profiles);
    assert_eq!(heard().expect_success(), "now late\n");
}

/// What firewalld (`IPv6_rpfilter`) and NixOS drop: whatever would not be answered by the link that it came from.
const STRICT: &str = "nft 'table inet firewall { chain strict { type filter hook prerouting priority filter + 10; \
     fib saddr . mark . iif oif missing drop; }; }'";

#[test]
fn a_firewall_that_asks_for_the_way_back_drops_no_answer_and_no_question() {
    let lab = Lab::new();
    lab.laptop().run(["sh", "-c", STRICT]).expect_success();
    let _server = lab.laptop().spawn(["python3", "-m", "http.server", "8000", "--bind", "::", "--directory", "/proc/self"]);
    let inbound = |address: &str| ask(|words| lab.internet().run(words), &format!("http://{address}:8000/"));
    eventually("the laptop's server listens", || (inbound(Lab::LAPTOP_4) == fine()).then_some(()));
    let profiles = Profiles::accepting();
    let _router = Router::start(&lab, Way::Up, &profiles);
    for (server, laptop) in [(Lab::SERVER_4, Lab::LAPTOP_4), (&*format!("[{}]", Lab::SERVER_6), &*format!("[{}]", Lab::LAPTOP_6))]
    {
        assert_eq!(ask(|words| lab.laptop().run(words), &format!("http://{server}/hello")), fine());
        assert_eq!(inbound(laptop), fine(), "{laptop}");
        lab.internet().run(["ping", "-c1", "-W5", laptop.trim_matches(['[', ']'])]).expect_success();
    }
}
