//! Flows that are older than `up`: the accepted ones go on beside the router to their last byte, the refused ones end at once.

use std::time::{Duration, Instant};

use portreeve::flow::{Direction, Record};
use serde_json::Value;

use crate::harness::{Capture, Lab, Profiles, Router, Running, Seen, Way, eventually, executable, hold, python};

/// Sends a datagram every 50 ms by a connected or an unconnected socket and counts the answers: "talking" after the first, then
/// what ended it, or after 15 s how many came.
const DATAGRAMS: &str = "
import errno, socket, sys, time
address, connected = sys.argv[1], sys.argv[2] == 'connected'
s = socket.socket(socket.AF_INET6 if ':' in address else socket.AF_INET, socket.SOCK_DGRAM)
s.settimeout(1)
if connected: s.connect((address, 7))
came, until = 0, time.monotonic() + 15
try:
    while time.monotonic() < until:
        try:
            s.send(b'ping') if connected else s.sendto(b'ping', (address, 7))
            came += s.recv(10) == b'ping'
        except TimeoutError:
            continue
        if came == 1: print('talking', flush=True)
        time.sleep(0.05)
    print('many' if came > 50 else came, flush=True)
except OSError as error:
    print(errno.errorcode[error.errno], flush=True)
";

/// Opens a connection every 10 ms for 6 s, and 250 at least; each asks twice, a second apart. Tells how many went wrong after their SYN-ACK.
const OPENER: &str = "
import socket, sys, threading, time
address, wrong, right = sys.argv[1], [], []
def talk():
    try:
        s = socket.create_connection((address, 7), 20)
        for turn in range(3):
            s.sendall(b'ask'); assert s.recv(10) == b'ask'; time.sleep(0.5)
        s.close(); right.append(1)
    except Exception as error: wrong.append(repr(error))
threads = []
until = time.monotonic() + 6
while time.monotonic() < until or len(threads) < 250:
    t = threading.Thread(target=talk); t.start(); threads.append(t)
    if len(threads) == 20: print('opening', flush=True)
    time.sleep(0.01)
for t in threads: t.join()
print(len(right) > 200, wrong, flush=True)
";

/// Tells who asks by which port, until it has heard nobody for 10 s.
const PORT_TELLER: &str = "
import select, socket, sys
both = [socket.socket(family, socket.SOCK_DGRAM) for family in (socket.AF_INET, socket.AF_INET6)]
for s, address in zip(both, sys.argv[1:]): s.bind((address, 5555))
print('telling', flush=True)
while True:
    ready, _, _ = select.select(both, [], [], 10)
    if not ready: break
    for s in ready:
        _, who = s.recvfrom(10)
        s.sendto(str(who[1]).encode(), who)
";

/// Asks by port 5000 and, with IPv6, by 5001 every 100 ms until its input ends; a line for each answer.
const PORT_ASKER: &str = "
import select, socket, sys, time
def asker(port, address):
    s = socket.socket(socket.AF_INET6 if ':' in address else socket.AF_INET, socket.SOCK_DGRAM)
    s.bind(('', port)); s.setblocking(False)
    return s, address
askers = [asker(5000 + index, address) for index, address in enumerate(sys.argv[1:])]
until = time.monotonic() + 30
while time.monotonic() < until:
    for s, address in askers: s.sendto(b'?', (address, 5555))
    ready, _, _ = select.select([s for s, _ in askers], [], [], 0.05)
    time.sleep(0.05)
    for s in ready: print(s.recv(10).decode(), flush=True)
";

fn python_runs(lab: &Lab, code: &str, words: &[&str]) -> Running {
    lab.laptop().spawn(["/usr/bin/python3", "-c", code].iter().chain(words))
}

/// The elements of the guard's sets of older flows.
fn beside(lab: &Lab) -> String {
    let list = "nft list set inet portreeve_live beside4; nft list set inet portreeve_live beside6";
    let text = lab.laptop().run(["sh", "-c", list]).expect_success();
    text.lines().filter(|line| line.contains(" . ") && !line.contains("type ")).collect()
}

fn older(router: &Router<'_>) -> Vec<Value> {
    let text = router.verb(&["status", "--json"]).expect_success();
    let status: Value = serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text}"));
    status.get("older").and_then(Value::as_array).expect("status lists older flows").clone()
}

fn field<'a>(value: &'a Value, key: &str) -> &'a str {
    value.get(key).and_then(Value::as_str).unwrap_or_else(|| panic!("no {key} in {value}"))
}

fn is_beside(record: &Record) -> bool {
    record.lane.as_deref() == Some("beside")
}

#[test]
fn a_download_goes_on_to_its_last_byte_and_then_nothing_is_left_of_it() {
    let lab = Lab::new();
    let right = lab.internet().run(["sha256sum", &lab.dir().join("www/100m.bin").display().to_string()]).expect_success();
    let right = right.split_whitespace().next().expect("a hash").to_owned();
    let fetch = |url: &str| lab.laptop().spawn(["sh", "-c", &format!("curl -sS --limit-rate 6M {url} | sha256sum")]);
    let downloads = ["http://203.0.113.10/100m.bin", "http://[2001:db8::10]/100m.bin"].map(fetch);
    eventually("both downloads run", || {
        let open = lab.laptop().run(["ss", "-tnH", "state", "established", "dport = :80"]).expect_success();
        (open.lines().count() == 2).then_some(())
    });
    let profiles = Profiles::accepting();
    let router = Router::start(&lab, Way::Up, &profiles);
    let list = older(&router);
    assert_eq!(list.len(), 2, "{list:?}");
    for flow in &list {
        assert!(field(flow, "exe").ends_with("curl") && field(flow, "verdict") == "accept", "{flow}");
    }
    assert!(router.verb(&["status"]).expect_success().contains("older     2 beside the router, 0 ended"));
    let records: Vec<Record> = router.records().into_iter().filter(is_beside).collect();
    assert_eq!(records.len(), 2, "{records:?}");
    assert!(beside(&lab).contains("203.0.113.10") && beside(&lab).contains("2001:db8::10"));
    for download in downloads {
        assert_eq!(download.finish().1.split_whitespace().next(), Some(right.as_str()));
    }
    eventually("their elements are gone", || beside(&lab).is_empty().then_some(()));
    assert!(older(&router).is_empty());
    let ended = router.record("the end of a download", |record| is_beside(record) && record.end.is_some());
    assert_eq!(ended.outcome.as_deref(), Some("closed"));
}

#[test]
fn a_refused_flow_ends_at_once_and_no_byte_of_it_leaves_afterwards() {
    let lab = Lab::new();
    let profiles = Profiles::accepting();
    profiles.user("python", &python(), "endpoints = [\"- *\"]");
    let mut refused: Vec<Running> = [Lab::SERVER_4, Lab::SERVER_6].iter().map(|to| lab.laptop().spawn(hold(to))).collect();
    refused.push(python_runs(&lab, DATAGRAMS, &[Lab::OTHER_4, "connected"]));
    refused.push(python_runs(&lab, DATAGRAMS, &[Lab::OTHER_6, "connected"]));
    for program in &mut refused {
        assert_eq!(program.line(), "talking");
    }
    let router = Router::start(&lab, Way::Up, &profiles);
    let capture = Capture::start(&lab, "refused");
    for (nth, program) in refused.into_iter().enumerate() {
        let said = program.finish().1;
        // A datagram socket that sends before it reads finds itself unconnected.
        assert!(said == "ECONNABORTED\n" || nth > 1 && said == "EDESTADDRREQ\n", "{said}");
    }
    let list = older(&router);
    assert_eq!(list.len(), 4, "{list:?}");
    assert!(list.iter().all(|flow| field(flow, "verdict") == "block" && flow.get("open") == Some(&Value::Bool(false))));
    let record = router.record("the refusal", |record| record.dst == "203.0.113.10:7");
    assert_eq!((record.verdict.as_str(), record.outcome.as_deref()), ("block", Some("refused by policy")));
    assert_eq!((record.lane, record.profile.as_deref()), (None, Some("python")));
    assert_eq!(beside(&lab), "");
    // The control: what is accepted leaves.
    router.run(["curl", "-sS", "http://198.51.100.10/hello"]).expect_success();
    capture.stop_with_only(&[Seen::tcp("198.51.100.10", 80)], &[]);
}

#[test]
fn a_program_that_may_only_reach_names_loses_its_older_flow() {
    let lab = Lab::new();
    let profiles = Profiles::accepting();
    profiles.user("python", &python(), "domain_whitelist = [\"example.com\"]");
    let mut held = lab.laptop().spawn(hold(Lab::SERVER_4));
    assert_eq!(held.line(), "talking");
    let router = Router::start(&lab, Way::Up, &profiles);
    assert_eq!(held.finish().1, "ECONNABORTED\n");
    assert_eq!(router.record("the refusal", |record| record.dst == "203.0.113.10:7").check, "domain_whitelist");
}

#[test]
fn a_change_of_policy_ends_an_accepted_older_flow_and_spares_the_others() {
    let lab = Lab::new();
    let profiles = Profiles::accepting();
    let copy = lab.copy_of("/usr/bin/python3", "other");
    let mut held = lab.laptop().spawn(hold(Lab::SERVER_4));
    let mut spared = lab.laptop().spawn(crate::harness::probe_by(&copy.display().to_string(), &["hold", Lab::SERVER_6]));
    for program in [&mut held, &mut spared] {
        assert_eq!(program.line(), "talking");
    }
    let router = Router::start(&lab, Way::Up, &profiles);
    assert_eq!(older(&router).len(), 2);
    profiles.user("python", &python(), "endpoints = [\"- *\"]");
    let told = router.verb(&["reload", "--json"]).expect_success();
    assert!(told.contains("\"cut\":1"), "{told}");
    assert_eq!(held.finish().1, "ECONNABORTED\n");
    eventually("its element is gone", || (!beside(&lab).contains("203.0.113.10")).then_some(()));
    std::thread::sleep(Duration::from_millis(500));
    assert!(!spared.has_ended());
    profiles.fallback("mode = \"whitelist\"\n[scope]\ninternet = true\n[flags]\npeer_to_peer = [\"dynamic\"]\n");
    router.verb(&["level", "fortress"]).expect_success();
    router.verb(&["reload"]).expect_success();
    assert_eq!(spared.finish().1, "ECONNABORTED\n");
}

#[test]
fn down_leaves_an_older_flow_as_it_was_before() {
    let lab = Lab::new();
    let profiles = Profiles::accepting();
    let mut held: Vec<Running> = [Lab::SERVER_4, Lab::SERVER_6].iter().map(|to| lab.laptop().spawn(hold(to))).collect();
    for program in &mut held {
        assert_eq!(program.line(), "talking");
    }
    for _ in 0..2 {
        let mut router = Router::start(&lab, Way::Up, &profiles);
        router.verb(&["down"]).expect_success();
        assert!(router.daemon().take().expect("the daemon was started").finish().0.success());
    }
    std::thread::sleep(Duration::from_millis(500));
    assert!(held.iter_mut().all(|program| !program.has_ended()));
}

#[test]
fn datagrams_of_a_connected_socket_go_on_beside_and_those_of_another_into_the_router() {
    let lab = Lab::new();
    // Conntrack follows them before `up` already, and holds on to their ports.
    let watch = "nft 'add table inet mine; add chain inet mine c { type filter hook input priority 0; }; \
         add rule inet mine c ct state established accept'";
    lab.laptop().run(["sh", "-c", watch]).expect_success();
    let profiles = Profiles::accepting();
    let mut programs = Vec::new();
    for (address, kind) in
        [(Lab::SERVER_4, "connected"), (Lab::SERVER_6, "connected"), (Lab::OTHER_4, "unconnected"), (Lab::OTHER_6, "unconnected")]
    {
        let mut program = python_runs(&lab, DATAGRAMS, &[address, kind]);
        assert_eq!(program.line(), "talking");
        programs.push(program);
    }
    let router = Router::start(&lab, Way::Up, &profiles);
    let lane = |dst: &str| router.record(dst, |record| record.dst == dst).lane;
    for dst in ["203.0.113.10:7", "[2001:db8::10]:7"] {
        assert_eq!(lane(dst).as_deref(), Some("beside"));
    }
    for dst in ["203.0.113.11:7", "[2001:db8::11]:7"] {
        assert_eq!(lane(dst).as_deref(), Some("direct"));
    }
    for program in programs {
        assert_eq!(program.finish().1, "many\n");
    }
}

#[test]
fn whatever_opens_while_the_router_starts_is_not_reset() {
    for address in [Lab::SERVER_4, Lab::SERVER_6] {
        let lab = Lab::new();
        let profiles = Profiles::accepting();
        let mut opener = python_runs(&lab, OPENER, &[address]);
        assert_eq!(opener.line(), "opening");
        let _router = Router::start(&lab, Way::Up, &profiles);
        assert_eq!(opener.finish().1, "True []\n", "{address}");
    }
}

/// Runs the lab's ssh server on the laptop, and on the internet host a session that says a number every 100 ms and, at a word, how many
/// lines the server has seen.
fn session(lab: &Lab, address: &str) -> (Running, Running) {
    let config = lab.dir().join("sshd_config").display().to_string();
    let server = lab.laptop().spawn([executable("sshd").display().to_string().as_str(), "-D", "-e", "-f", &config]);
    eventually("sshd listens", || {
        let listening = lab.laptop().run(["ss", "-ltnH", "sport = :2222"]).expect_success();
        (!listening.is_empty()).then_some(())
    });
    let [known, key] = ["known_hosts", "user_key"].map(|file| lab.dir().join(file).display().to_string());
    let (known, target) = (format!("UserKnownHostsFile={known}"), format!("root@{address}"));
    let count = "for i in $(seq 1200); do echo $i; sleep 0.1; done";
    let words = ["ssh", "-F", "none", "-o", "BatchMode=yes", "-o", &known, "-i", &key, "-p", "2222", target.as_str(), count];
    let mut client = lab.internet().spawn(words);
    assert_eq!(client.line(), "1");
    (server, client)
}

#[test]
fn a_session_with_the_laptops_ssh_server_lives_through_up_load_and_down() {
    for address in [Lab::LAPTOP_4, Lab::LAPTOP_6] {
        let lab = Lab::new();
        // Conntrack follows the session before `up` already, as on a laptop with a firewall of its own.
        let watch = "nft 'add table inet mine; add chain inet mine c { type filter hook input priority 0; }; \
             add rule inet mine c ct state established accept'";
        lab.laptop().run(["sh", "-c", watch]).expect_success();
        let (_server, mut client) = session(&lab, address);
        let profiles = Profiles::accepting();
        let mut router = Router::start(&lab, Way::Up, &profiles);
        let list = older(&router);
        let direction =
            |flow: &Value| serde_json::from_value::<Direction>(flow.get("direction").cloned().unwrap_or_default()).ok();
        assert_eq!(list.iter().filter_map(direction).collect::<Vec<_>>(), [Direction::Inbound], "{list:?}");
        for url in ["http://203.0.113.10/100m.bin", "http://[2001:db8::10]/100m.bin"] {
            router.run(["curl", "-sS", "-o", "/dev/null", url]).expect_success();
        }
        router.verb(&["down"]).expect_success();
        assert!(router.daemon().take().expect("the daemon was started").finish().0.success());
        // Lines that came before wait in the pipe; who reads for two seconds has read them all.
        let mut last: u32 = client.line().parse().expect("a number");
        let until = Instant::now() + Duration::from_secs(2);
        while Instant::now() < until {
            last += 1;
            assert_eq!(client.line(), last.to_string(), "{address}");
        }
        client.signal(rustix::process::Signal::TERM);
    }
}

#[test]
fn a_killed_router_takes_older_flows_with_it_into_the_closed_state() {
    let lab = Lab::new();
    let profiles = Profiles::accepting();
    let mut held = lab.laptop().spawn(hold(Lab::SERVER_4));
    assert_eq!(held.line(), "talking");
    let mut router = Router::start(&lab, Way::Up, &profiles);
    assert!(!held.has_ended());
    router.daemon().take().expect("the daemon was started").kill();
    let said = held.finish().1;
    assert!(["ECONNRESET\n", "silence\n", "ECONNREFUSED\n", "EHOSTUNREACH\n"].contains(&said.as_str()), "{said}");
    router.verb(&["cleanup"]).expect_success();
}

/// Two ports are told, and no other, until each was told 20 times.
fn expect_ports(asker: &mut Running, when: &str) {
    let mut told = [0; 2];
    while told.iter().any(|count| *count < 20) {
        let line = asker.line();
        let index = ["5000", "5001"].iter().position(|port| line == *port);
        told[index.unwrap_or_else(|| panic!("{when}: by port {line:?}"))] += 1;
    }
}

#[test]
fn a_socket_that_speaks_to_anybody_keeps_its_port_when_the_router_comes_and_when_it_goes() {
    let lab = Lab::new();
    // Conntrack is at work, and so are translations of somebody else's.
    let others = "table inet others { chain input { type filter hook input priority 0; ct state established accept; }
        chain out { type nat hook postrouting priority 100; }; chain in { type nat hook prerouting priority -100; }; }";
    lab.laptop().run(["nft", others]).expect_success();
    let mut teller = lab.internet().spawn(["/usr/bin/python3", "-c", PORT_TELLER, Lab::SERVER_4, Lab::SERVER_6]);
    assert_eq!(teller.line(), "telling");
    let mut asker = python_runs(&lab, PORT_ASKER, &[Lab::SERVER_4, Lab::SERVER_6]);
    // Longer than two seconds: then conntrack gives these ends to no other conversation.
    expect_ports(&mut asker, "before");
    expect_ports(&mut asker, "a little later");
    let profiles = Profiles::accepting();
    for turn in 0..2 {
        let router = Router::start(&lab, Way::Up, &profiles);
        let is_through = |record: &Record| record.proto == "udp" && record.src.ends_with(":5001") && !is_beside(record);
        eventually("a flow through the router", || router.records().iter().any(is_through).then_some(()));
        expect_ports(&mut asker, &format!("turn {turn}, under the router"));
        drop(router);
        expect_ports(&mut asker, &format!("turn {turn}, after it"));
    }
}
