//! Programs that name a tunnel under `up`, whose packets have no header of the link's: they are heard as without a router, judged like the
//! rest, and told what was refused.

use std::path::PathBuf;

use crate::harness::{Host, Lab, Profiles, Router, Running, Way, eventually, python, raw, repository};
use crate::linked::{ECHO, naming};

const HERE: [&str; 2] = ["10.66.0.2", "fd66::2"];
const THERE: [&str; 2] = ["10.66.0.1", "fd66::1"];

/// A tunnel from the laptop to the gateway, where port 9020 answers.
struct Tunnel {
    name: &'static str,
    _joint: Running,
    _echo: Option<Running>,
    seen: PathBuf,
}

impl Tunnel {
    fn new(lab: &Lab, name: &'static str, options: &[&str]) -> Self {
        let (laptop, gateway) = (lab.laptop(), lab.gateway());
        let seen = lab.dir().join(format!("{name}.seen"));
        let script = repository().join("tests/data/lab/tunnel.py");
        let words = ["/usr/bin/python3", script.to_str().expect("text"), name, laptop.namespace(), seen.to_str().expect("text")];
        let mut joint = gateway.spawn(words.iter().chain(options));
        assert_eq!(joint.line(), "ready");
        Self { name, _joint: joint, _echo: None, seen }
    }

    /// Brings both ends up with the addresses that every test has.
    fn up(mut self, lab: &Lab) -> Self {
        for (host, [v4, v6]) in [(lab.laptop(), HERE), (lab.gateway(), THERE)] {
            ip(&host, &format!("addr add {v4}/24 dev {}", self.name));
            ip(&host, &format!("addr add {v6}/64 dev {} nodad", self.name));
            ip(&host, &format!("link set {} up", self.name));
        }
        let mut echo = lab.gateway().spawn(["/usr/bin/python3", "-c", ECHO]);
        assert_eq!(echo.line(), "ready");
        self._echo = Some(echo);
        self
    }

    /// Where packets that left by it were going, but for what every link carries.
    fn carried(&self) -> Vec<String> {
        let text = std::fs::read_to_string(&self.seen).expect("the tunnel's notes");
        let groups = |line: &&str| !line.contains(" ff02::") && !line.contains(" 224.0.0.");
        text.lines().filter(groups).map(str::to_owned).collect()
    }
}

fn ip(host: &Host, words: &str) {
    host.run(["ip"].into_iter().chain(words.split(' '))).expect_success();
}

/// The link-local address of the gateway's end, as the laptop writes it.
fn neighbour(lab: &Lab, name: &str) -> String {
    let shown = lab.gateway().run(["ip", "-6", "-o", "addr", "show", "dev", name, "scope", "link"]).expect_success();
    let address = shown.split_whitespace().find_map(|word| word.strip_suffix("/64")).expect("a link-local address");
    format!("{address}%{name}")
}

fn said(router: &Router<'_>, how: &str, to: &str, port: &str) -> String {
    router.run(naming("tun9", how, to, port)).expect_success().trim().to_owned()
}

/// What answers by the tunnel, by every way to name it.
fn talks(neighbour: &str) -> Vec<(&'static str, &str, &'static str, &'static str)> {
    let [v4, v6] = THERE;
    let both = [v4, v6].into_iter().flat_map(|to| {
        [
            ("tcp", to, "9020", "5"),
            ("tcp", to, "81", "ECONNREFUSED"),
            ("bound", to, "9020", "5"),
            ("bound", to, "81", "ECONNREFUSED"),
            ("large", to, "9020", "4000"),
        ]
    });
    both.chain([("scope", neighbour, "9020", "5"), ("tcp", neighbour, "9020", "5")]).collect()
}

#[test]
fn who_names_a_tunnel_is_heard_as_without_a_router() {
    let lab = Lab::new();
    let profiles = Profiles::accepting();
    for options in [&[][..], &["offload"]] {
        let tunnel = Tunnel::new(&lab, "tun9", options).up(&lab);
        let neighbour = neighbour(&lab, "tun9");
        for way in [Way::Direct, Way::Up] {
            let router = Router::start(&lab, way, &profiles);
            for (how, to, port, expected) in talks(&neighbour) {
                assert_eq!(said(&router, how, to, port), expected, "{way:?}, {options:?}: {how} to {to}");
            }
            for to in THERE.into_iter().chain([neighbour.as_str()]) {
                router.run(["ping", "-c1", "-W5", "-q", "-I", "tun9", to]).expect_success();
            }
        }
        assert!(!tunnel.carried().is_empty());
    }
}

#[test]
fn nothing_leaves_by_a_named_tunnel_where_it_is_refused_and_its_program_is_told() {
    let lab = Lab::new();
    let profiles = Profiles::accepting();
    profiles.user("python", &python(), "endpoints = [\"- *\"]\n[scope]\nlan = false\ninternet = false");
    let tunnel = Tunnel::new(&lab, "tun9", &[]).up(&lab);
    let router = Router::start(&lab, Way::Up, &profiles);
    for (how, to, port, _) in talks(&neighbour(&lab, "tun9")) {
        let told = said(&router, how, to, port);
        match how {
            "tcp" => assert_eq!(told, "ECONNREFUSED", "{how} to {to}"),
            _ => assert!(["silence", "EACCES", "EHOSTUNREACH"].contains(&told.as_str()), "{how} to {to}: {told}"),
        }
    }
    assert_eq!(tunnel.carried(), [""; 0]);
    // The control: another program's, and what is its.
    router.run(["ping", "-c1", "-W5", "-q", "-I", "tun9", THERE[0]]).expect_success();
    assert_eq!(tunnel.carried(), [format!("1 {}", THERE[0])]);
}

#[test]
fn a_tunnel_that_comes_up_under_up_can_be_named_also_where_others_rules_alone_lead_to_it() {
    let lab = Lab::new();
    let profiles = Profiles::accepting();
    let router = Router::start(&lab, Way::Up, &profiles);
    let tunnel = Tunnel::new(&lab, "tun9", &[]);
    let ping = |to: &str| router.run(["ping", "-c1", "-W1", "-q", "-I", "tun9", to]).code() == 0;
    assert!(!ping(THERE[0]));
    let _tunnel = tunnel.up(&lab);
    eventually("an answer by the new tunnel", || ping(THERE[0]).then_some(()));
    // As wg-quick does.
    for (host, words) in [
        (lab.gateway(), "addr add 192.0.2.77/32 dev lo"),
        (lab.gateway(), "addr add 2001:db8:77::1/128 dev lo"),
        (lab.laptop(), "-4 route add default dev tun9 table 51820"),
        (lab.laptop(), "-6 route add default dev tun9 table 51820"),
        (lab.laptop(), "-4 rule add not fwmark 51820 table 51820"),
        (lab.laptop(), "-6 rule add not fwmark 51820 table 51820"),
    ] {
        ip(&host, words);
    }
    for to in ["192.0.2.77", "2001:db8:77::1"] {
        assert_eq!(said(&router, "tcp", to, "9020"), "5", "{to}");
    }
}

#[test]
fn a_reload_ends_a_connection_by_a_named_tunnel_that_it_refuses() {
    let lab = Lab::new();
    let profiles = Profiles::accepting();
    let _tunnel = Tunnel::new(&lab, "tun9", &[]).up(&lab);
    let router = Router::start(&lab, Way::Up, &profiles);
    let held = THERE.map(|to| {
        let mut held = router.spawn(naming("tun9", "hold", to, "9020"));
        assert_eq!(held.line(), "talking");
        let record = router.record(to, |record| record.outcome.is_none() && record.dst.contains(to));
        assert!(record.exe.is_some_and(|exe| exe.contains("python3")) && record.verdict == "accept");
        held
    });
    profiles.user("python", &python(), "endpoints = [\"- *\"]");
    router.verb(&["reload"]).expect_success();
    for mut one in held {
        assert_eq!(one.line(), "ECONNABORTED");
    }
}

#[test]
fn packet_that_says_falsely_that_it_came_by_a_tunnel_is_refused() {
    let lab = Lab::new();
    let profiles = Profiles::accepting();
    let tunnel = Tunnel::new(&lab, "tun9", &[]).up(&lab);
    let router = Router::start(&lab, Way::Up, &profiles);
    for to in [Lab::SERVER_4, Lab::SERVER_6] {
        assert_eq!(router.run(raw(&["forged", to])).expect_success().trim(), r#""not permitted""#);
    }
    assert_eq!(tunnel.carried(), [""; 0]);
    assert!(router.records().iter().all(|record| record.proto != "tcp"));
}

#[test]
fn what_a_closed_socket_sent_by_a_named_tunnel_is_no_raw_sockets() {
    let lab = Lab::new();
    let profiles = Profiles::accepting();
    // It leaves it to a datagram's socket to finish its checksum, as a raw one does.
    let _tunnel = Tunnel::new(&lab, "tun9", &[]).up(&lab);
    let router = Router::start(&lab, Way::Up, &profiles);
    for to in THERE {
        router.run(raw(&["closed", to, "tun9"])).expect_success();
        let records = router.records();
        let mine: Vec<_> = records.iter().filter(|record| record.proto == "udp" && record.dst.contains(to)).collect();
        assert!(mine.len() > 50, "{records:#?}");
        assert!(mine.iter().all(|record| record.exe.as_deref().is_none_or(|exe| Some(exe) == python().to_str())), "{mine:#?}");
    }
}
