//! Name servers on the laptop itself, whose own questions come back to the router.

use std::path::PathBuf;

use crate::harness::{Lab, Profiles, Router, Running, Way, eventually};

/// Forwards each datagram, and writes a line for each. `inside` asks by itself, `beside` by a child that has none of its sockets.
const FORWARDER: &str = r#"
import socket, subprocess, sys, threading

def ask(question, there):
    family = socket.AF_INET6 if ":" in there else socket.AF_INET
    asker = socket.socket(family, socket.SOCK_DGRAM)
    asker.settimeout(20)
    asker.sendto(question, (there, 53))
    return asker.recv(4096)

if sys.argv[1] == "child":
    sys.stdout.buffer.write(ask(sys.stdin.buffer.read(), sys.argv[2]))
    sys.exit()

_, way, here, there, log = sys.argv
server = socket.socket(socket.AF_INET6 if ":" in here else socket.AF_INET, socket.SOCK_DGRAM)
server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
server.bind((here, 53))
print("ready", flush=True)

def forward(question, asker):
    if way == "inside":
        answer = ask(question, there)
    else:
        answer = subprocess.run([sys.executable, __file__, "child", there], input=question, capture_output=True).stdout
    server.sendto(answer, asker)

while True:
    question, asker = server.recvfrom(4096)
    with open(log, "a") as lines:
        lines.write("%s\n" % (asker,))
    threading.Thread(target=forward, args=(question, asker), daemon=True).start()
"#;

/// A forwarder on the laptop.
struct Forwarder {
    log: PathBuf,
    _program: Running,
}

impl Forwarder {
    fn start(lab: &Lab, way: &str, here: &str) -> Self {
        let (script, log) = (lab.dir().join("forwarder.py"), lab.dir().join(format!("forwarded-{way}-{here}")));
        std::fs::write(&script, FORWARDER).expect("the lab's folder is ours");
        std::fs::write(&log, "").expect("the lab's folder is ours");
        let there = if here.contains(':') { Lab::RESOLVER_6 } else { Lab::RESOLVER_4 };
        let words = ["/usr/bin/python3".into(), script, way.into(), here.into(), there.into(), log.clone()];
        let mut program = lab.laptop().spawn(words);
        assert_eq!(program.line(), "ready");
        Self { log, _program: program }
    }

    /// How often it was asked.
    fn count(&self) -> usize {
        std::fs::read_to_string(&self.log).expect("the log is there").lines().count()
    }
}

/// Has the laptop's programs, the daemon among them, ask this server.
fn name_server(lab: &Lab, server: &str) {
    let mut files = vec![PathBuf::from(format!("/etc/netns/{}/resolv.conf", lab.laptop().namespace()))];
    // Where resolv.conf is a link into /run, the laptop has a /run of its own.
    let target = std::fs::canonicalize("/etc/resolv.conf").unwrap_or_default();
    files.extend(target.strip_prefix("/").ok().map(|target| lab.dir().join(target)).filter(|file| file.exists()));
    for file in files {
        std::fs::write(&file, format!("nameserver {server}\n")).expect("the lab's files are ours");
    }
}

fn asked(router: &Router, words: &[&str]) -> String {
    let dig = ["dig", "+short", "+tries=1", "+time=20", "A"].iter().chain(words);
    router.run(dig).expect_success()
}

#[test]
fn an_own_address_in_resolv_conf_is_no_upstream() {
    for own in [Lab::LAPTOP_4, Lab::LAPTOP_6] {
        let lab = Lab::new();
        let profiles = Profiles::accepting();
        name_server(&lab, own);
        let forwarder = Forwarder::start(&lab, "inside", own);
        let router = Router::start(&lab, Way::Up, &profiles);
        assert_eq!(asked(&router, &["v4.example.com"]), "203.0.113.10\n", "{own}");
        assert_eq!(forwarder.count(), 1, "{own}: it was asked by us, too");
        // Whom the forwarder asked is whom we asked, and the forwarder is who is judged.
        let resolver = if own.contains(':') { Lab::RESOLVER_6 } else { Lab::RESOLVER_4 };
        let question = router.record("the forwarder's question", |record| record.name.as_deref() == Some("v4.example.com"));
        assert!(question.dst.contains(resolver) && question.verdict == "accept", "{own}: {question:?}");
        assert!(question.exe.as_ref().is_some_and(|exe| exe.contains("python3")), "{own}: {question:?}");
        // Who asks another server gets it: there is no upstream that would stand in.
        assert_eq!(asked(&router, &["@198.51.100.53", "other.example.com"]), "203.0.113.11\n", "{own}");
        assert_eq!(forwarder.count(), 1, "{own}");
    }
}

#[test]
fn an_address_that_the_laptop_gets_later_is_no_upstream_from_then_on() {
    for (own, length) in [("10.9.0.77", 32), ("fd09::77", 128)] {
        let lab = Lab::new();
        let profiles = Profiles::accepting();
        name_server(&lab, own);
        let router = Router::start(&lab, Way::Up, &profiles);
        let upstreams = || router.verb(&["status"]).expect_success();
        // A neighbour's address until now, and nobody is there.
        assert!(upstreams().contains(own), "{}", upstreams());
        router.run(["dig", "@198.51.100.53", "+tries=1", "+time=20", "A", "v4.example.com"]);
        let address = format!("{own}/{length}");
        let mut add = vec!["ip", "address", "add", &address, "dev", "eth0"];
        add.extend(own.contains(':').then_some("nodad"));
        lab.laptop().run(add).expect_success();
        let forwarder = Forwarder::start(&lab, "inside", own);
        eventually("names resolve", || (asked(&router, &["v4.example.com"]) == "203.0.113.10\n").then_some(()));
        let before = forwarder.count();
        assert_eq!(asked(&router, &["other.example.com"]), "203.0.113.11\n", "{own}");
        assert_eq!(forwarder.count(), before + 1, "{own}: it was asked by us, too");
        assert!(upstreams().contains("asks whom the program asks"), "{}", upstreams());
    }
}

#[test]
fn an_enclosure_asks_whom_this_host_asks_from_then_on() {
    for resolver in [Lab::RESOLVER_4, Lab::RESOLVER_6] {
        let lab = Lab::new();
        let profiles = Profiles::accepting();
        // Of the network that the laptop has left.
        name_server(&lab, "10.9.0.77");
        let router = Router::start(&lab, Way::Exec, &profiles);
        let script = "ask() { dig +short +tries=1 +time=1 A v4.example.com; }; ask >&2; echo asked
                      for i in $(seq 60); do [ \"$(ask)\" = 203.0.113.10 ] && echo found && exit; sleep 0.5; done; echo never";
        let mut program = router.spawn(["sh", "-c", script]);
        assert_eq!(program.line(), "asked");
        name_server(&lab, resolver);
        assert_eq!(program.line(), "found", "{resolver}");
    }
}

#[test]
fn an_upstream_of_the_users_on_this_host_is_asked_but_never_its_own_question() {
    let lab = Lab::new();
    let profiles = Profiles::accepting();
    for own in [Lab::LAPTOP_4, Lab::LAPTOP_6, "127.0.0.1", "::1"] {
        let forwarder = Forwarder::start(&lab, "inside", own);
        let config = format!("[dns]\nupstream = [\"{own}\"]\n");
        let router = Router::start_with(&lab, Way::Up, &profiles, Some(&config));
        assert_eq!(asked(&router, &["v4.example.com"]), "203.0.113.10\n", "{own}");
        assert_eq!(asked(&router, &["@192.0.2.53", "other.example.com"]), "203.0.113.11\n", "{own}");
        assert_eq!(forwarder.count(), 2, "{own}");
    }
}

#[test]
fn a_loop_that_nobody_sees_ends_with_its_question() {
    let lab = Lab::new();
    let profiles = Profiles::accepting();
    for own in [Lab::LAPTOP_4, Lab::LAPTOP_6] {
        let forwarder = Forwarder::start(&lab, "beside", own);
        let config = format!("[dns]\nupstream = [\"{own}\"]\n");
        let router = Router::start_with(&lab, Way::Up, &profiles, Some(&config));
        let told = router.run(["dig", "+tries=1", "+time=20", "A", "v4.example.com"]).expect_success();
        assert!(told.contains("status: SERVFAIL"), "{own}: {told}");
        let count = forwarder.count();
        assert!((1..=12).contains(&count), "{own}: {count}");
        std::thread::sleep(std::time::Duration::from_secs(3));
        assert_eq!(forwarder.count(), count, "{own}: the loop outlives its question");
    }
}
