//! A router that runs: what it tells, what it is told, and flows that live through a change of policy.

use std::collections::BTreeSet;

use rustix::process::Signal;
use serde_json::Value;

use crate::harness::{
    Capture, Finished, Lab, Profiles, Router, Running, Seen, Way, binary, eventually, executable, hold, python,
};

through_a_router! {
    status_tells_what_runs,
    flows_lists_an_open_flow_with_its_program,
    a_reload_cuts_the_flow_that_it_refuses,
    a_reload_spares_the_flow_that_it_allows,
    a_faulty_reload_changes_nothing,
    a_higher_level_cuts_what_it_refuses,
    an_allowed_prompt_lets_the_held_connection_go_on,
    a_denied_prompt_refuses_the_held_connection,
    nothing_leaves_while_nobody_has_answered,
}

/// The JSON objects of a verb's answer: one a line, or one array.
fn objects(finished: Finished) -> Vec<Value> {
    let text = finished.expect_success();
    let parsed = serde_json::Deserializer::from_str(&text).into_iter::<Value>();
    let values = parsed.map(|value| value.unwrap_or_else(|error| panic!("{error}: {text}")));
    values.flat_map(|value| if let Value::Array(many) = value { many } else { vec![value] }).collect()
}

fn text<'a>(value: &'a Value, key: &str) -> &'a str {
    value.get(key).and_then(Value::as_str).unwrap_or_else(|| panic!("no text '{key}' in {value}"))
}

/// An echo conversation that goes on.
fn conversation(router: &Router<'_>, address: &str) -> Running {
    let mut held = router.spawn(hold(address));
    assert_eq!(held.line(), "talking");
    held
}

/// A router in either way that has something to talk about: `exec` lives as long as its program.
fn running<'a>(lab: &Lab, way: Way, profiles: &'a Profiles) -> (Router<'a>, Running) {
    let router = Router::start(lab, way, profiles);
    let held = conversation(&router, Lab::SERVER_4);
    (router, held)
}

fn status_tells_what_runs(way: Way) {
    let lab = Lab::new();
    let profiles = Profiles::accepting();
    let (router, _held) = running(&lab, way, &profiles);
    let answer = objects(router.verb(&["status", "--json"]));
    let status = answer.first().expect("status is one object");
    assert_eq!(text(status, "state"), "active", "{way:?}");
    assert_eq!(text(status, "way"), if way == Way::Up { "up" } else { "exec" });
    assert_eq!(text(status, "level"), "dynamic", "{way:?}");
    assert_eq!(status.get("inbound_judged"), Some(&Value::Bool(false)), "{way:?}");
    assert!(!router.verb(&["status"]).expect_success().is_empty());
}

#[test]
fn status_says_that_nothing_runs() {
    let lab = Lab::new();
    let profiles = Profiles::accepting();
    let router = Router::start(&lab, Way::Exec, &profiles);
    router.verb(&["status"]).expect_code(3);
    router.verb(&["flows", "--json"]).expect_code(3);
    router.verb(&["down"]).expect_code(3);
}

fn flows_lists_an_open_flow_with_its_program(way: Way) {
    let lab = Lab::new();
    let profiles = Profiles::accepting();
    let (router, _held) = running(&lab, way, &profiles);
    let flows = objects(router.verb(&["flows", "--json"]));
    let flow = flows.iter().find(|flow| text(flow, "dst") == "203.0.113.10:7").expect("the conversation is listed");
    assert_eq!(text(flow, "exe"), python().to_string_lossy(), "{way:?}");
    assert_eq!((text(flow, "proto"), text(flow, "verdict"), text(flow, "direction")), ("tcp", "accept", "outbound"));
    assert_eq!(flow.get("end"), Some(&Value::Null), "{way:?}");
    for key in
        ["id", "start", "src", "name", "pid", "uid", "profile", "confidence", "check", "rule", "lane", "bytes_up", "bytes_down"]
    {
        assert!(flow.get(key).is_some(), "{way:?}: no '{key}' in {flow}");
    }
    let table = router.verb(&["flows"]).expect_success();
    assert!(table.contains("203.0.113.10") && table.contains("python"), "{way:?}: {table}");
}

#[test]
fn monitor_shows_a_flow_as_it_happens() {
    let lab = Lab::new();
    let profiles = Profiles::accepting();
    let router = Router::start(&lab, Way::Up, &profiles);
    let binary = binary().display().to_string();
    let mut monitor = lab.laptop().spawn([binary.as_str(), "monitor", "--json"]);
    // The monitor may not yet listen when the first program runs.
    let talker = std::thread::scope(|scope| {
        let line = scope.spawn(|| {
            loop {
                let line = monitor.line();
                if line.is_empty() || line.contains("203.0.113.11:80") {
                    return line;
                }
            }
        });
        eventually("the monitor says something", || {
            router.run(["curl", "-sS", "http://203.0.113.11/hello"]).expect_success();
            line.is_finished().then_some(())
        });
        line.join().expect("the reader does not panic")
    });
    let shown: Value = serde_json::from_str(&talker).unwrap_or_else(|error| panic!("{error}: {talker}"));
    assert!(shown.to_string().contains("curl"), "{shown}");
}

fn a_reload_cuts_the_flow_that_it_refuses(way: Way) {
    for by_signal in [false, true] {
        let lab = Lab::new();
        let profiles = Profiles::accepting();
        let (mut router, held) = running(&lab, way, &profiles);
        profiles.user("python", &python(), "endpoints = [\"- *\"]");
        if !by_signal {
            router.verb(&["reload"]).expect_success();
        } else if let Some(daemon) = router.daemon() {
            daemon.signal(Signal::HUP);
        } else {
            held.signal(Signal::HUP);
        }
        let (_, said) = held.finish();
        assert_eq!(said, "ECONNRESET\n", "{way:?}, by signal: {by_signal}");
    }
}

fn a_reload_spares_the_flow_that_it_allows(way: Way) {
    let lab = Lab::new();
    let profiles = Profiles::accepting();
    let (router, mut held) = running(&lab, way, &profiles);
    profiles.user("curl", &executable("curl"), "endpoints = [\"- *\"]");
    router.verb(&["reload"]).expect_success();
    std::thread::sleep(std::time::Duration::from_millis(500));
    assert!(!held.has_ended(), "{way:?}");
}

fn a_faulty_reload_changes_nothing(way: Way) {
    let lab = Lab::new();
    let profiles = Profiles::accepting();
    let (router, mut held) = running(&lab, way, &profiles);
    profiles.write("user/faulty.toml", "name = \"faulty\"\nendpoints = [\"- * TCP/notaport\"]\n");
    let told = router.verb(&["reload"]).expect_code(6);
    assert!(format!("{}{}", told.stdout, told.stderr).contains("faulty.toml:2:"), "{told:?}");
    assert!(!held.has_ended(), "{way:?}");
    let status = objects(router.verb(&["status", "--json"]));
    assert_eq!(status.first().map(|status| text(status, "state")), Some("active"));
}

fn a_higher_level_cuts_what_it_refuses(way: Way) {
    let lab = Lab::new();
    let profiles = Profiles::accepting();
    profiles.user("python", &python(), "[scope]\ninternet = [\"dynamic\"]");
    let (router, held) = running(&lab, way, &profiles);
    assert!(router.verb(&["level"]).expect_success().to_lowercase().contains("dynamic"));
    router.verb(&["level", "fortress"]).expect_success();
    let (_, said) = held.finish();
    assert_eq!(said, "ECONNRESET\n", "{way:?}");
}

/// Curl is asked about when it goes to ask.example.net.
fn asking() -> Profiles {
    let profiles = Profiles::accepting();
    profiles.user("curl", &executable("curl"), "endpoints = [\"? ask.example.net\", \"+ *\"]");
    profiles
}

/// Waits for the one open prompt.
fn prompt(router: &Router<'_>) -> Value {
    eventually("somebody is asked", || {
        let listed = router.verb(&["prompt", "list", "--json"]);
        // Exit 3: the router of `exec` is still starting.
        if listed.code() == 3 { None } else { objects(listed).into_iter().next() }
    })
}

fn an_allowed_prompt_lets_the_held_connection_go_on(way: Way) {
    let lab = Lab::new();
    let profiles = asking();
    let router = Router::start(&lab, way, &profiles);
    let held = router.spawn(["curl", "-sS", "--max-time", "30", "http://ask.example.net/hello", "http://ask.example.net/hello"]);
    let asked = prompt(&router);
    assert_eq!(text(&asked, "name"), "ask.example.net", "{way:?}");
    let id = asked.get("id").expect("a prompt has an id").to_string();
    router.verb(&["prompt", "allow", &id]).expect_success();
    let (status, said) = held.finish();
    assert!(status.success(), "{way:?}");
    assert_eq!(said, "hello from the lab\n".repeat(2), "{way:?}");
    if way == Way::Up {
        // The answer holds for program and name until restart.
        router.run(["curl", "-sS", "--max-time", "30", "http://ask.example.net/hello"]).expect_success();
    }
}

fn a_denied_prompt_refuses_the_held_connection(way: Way) {
    let lab = Lab::new();
    let profiles = asking();
    let router = Router::start(&lab, way, &profiles);
    let held = router.spawn(["curl", "-sS", "-4", "--max-time", "30", "http://ask.example.net/hello"]);
    let id = prompt(&router).get("id").expect("a prompt has an id").to_string();
    router.verb(&["prompt", "deny", &id]).expect_success();
    let (status, _) = held.finish();
    assert_eq!(status.code(), Some(7), "{way:?}");
}

fn nothing_leaves_while_nobody_has_answered(way: Way) {
    let lab = Lab::new();
    let profiles = asking();
    let router = Router::start(&lab, way, &profiles);
    let capture = Capture::start(&lab, "asked");
    let held = router.spawn(["curl", "-sS", "--max-time", "30", "http://ask.example.net/hello"]);
    let id = prompt(&router).get("id").expect("a prompt has an id").to_string();
    // The held SYN is sent again by the program's kernel after one second.
    std::thread::sleep(std::time::Duration::from_millis(1500));
    // The control: the laptop's echo reply.
    lab.gateway().run(["ping", "-c1", "-q", Lab::LAPTOP_4]).expect_success();
    let control = Seen { protocol: "ICMP", destination: std::net::IpAddr::from([10, 9, 0, 1]), port: None };
    capture.stop_with_only(&[control], &Seen::questions());
    let capture = Capture::start(&lab, "answered");
    router.verb(&["prompt", "allow", &id]).expect_success();
    assert!(held.finish().0.success(), "{way:?}");
    let targets = [Seen::tcp(Lab::OTHER_4, 80), Seen::tcp(Lab::OTHER_6, 80)];
    let is_there = |seen: &BTreeSet<Seen>| targets.iter().any(|target| seen.contains(target));
    let seen = capture.stop_when(is_there);
    assert!(is_there(&seen), "{way:?}: {seen:?}");
}

#[test]
fn a_stranger_may_neither_read_nor_change() {
    let lab = Lab::new();
    let profiles = Profiles::accepting();
    let router = Router::start(&lab, Way::Up, &profiles);
    let copy = lab.copy_of(&binary().display().to_string(), "portreeve");
    let copy = copy.display().to_string();
    for verb in [vec!["status"], vec!["flows"], vec!["level", "fortress"], vec!["reload"], vec!["down"]] {
        let nobody = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", &copy];
        lab.laptop().run(nobody.into_iter().chain(verb)).expect_code(5);
    }
    assert!(router.verb(&["level"]).expect_success().to_lowercase().contains("dynamic"));
}

#[test]
fn a_program_cannot_answer_for_itself() {
    let lab = Lab::new();
    let profiles = asking();
    let router = Router::start(&lab, Way::Exec, &profiles);
    let script = format!(
        "curl -sS -4 --max-time 8 http://ask.example.net/hello & for i in 1 2 3 4 5 6 7 8 9; do sleep 0.3; {} prompt allow $i; done >/dev/null 2>&1; wait",
        binary().display()
    );
    let told = router.run(["sh", "-c", &script]);
    assert!(!told.stdout.contains("hello from the lab"), "the program inside allowed its own flow: {told:?}");
}

#[test]
fn an_answer_to_no_question_fails() {
    let lab = Lab::new();
    let profiles = asking();
    let router = Router::start(&lab, Way::Up, &profiles);
    assert_eq!(objects(router.verb(&["prompt", "list", "--json"])), Vec::<Value>::new());
    router.verb(&["prompt", "allow", "4711"]).expect_code(1);
}

#[test]
fn a_prompt_that_nobody_answers_is_a_refusal() {
    let lab = Lab::new();
    let profiles = asking();
    let router = Router::start(&lab, Way::Exec, &profiles);
    // The deadline is 60 s; curl must be told then, not at its own limit.
    let told = router.run(["curl", "-sS", "-4", "--max-time", "80", "http://ask.example.net/hello"]).expect_code(7);
    let waited = told.elapsed.as_secs();
    assert!((50..75).contains(&waited), "refused after {waited} s");
    let flow = router.record("the expired flow", |record| record.proto == "tcp" && record.end.is_some());
    assert_eq!((flow.verdict.as_str(), flow.outcome.as_deref()), ("block", Some("prompt expired")));
}
