//! A packet loop that stands still: it is told, nothing of what it carries passes, the others go on, and `down` takes everything back.

use serde_json::Value;

use crate::harness::{Capture, Lab, Profiles, Router, Running, Seen, Way, eventually, repository, stuck};
use crate::whole::state;

const TWO: &str = "queues = 2\n";
const NOTE: &str = "packet loops stand still";

fn status(router: &Router<'_>) -> Value {
    let told = router.verb(&["status", "--json"]).expect_success();
    serde_json::from_str(&told).unwrap_or_else(|error| panic!("{error}: {told}"))
}

fn stalls(status: &Value) -> u64 {
    status.pointer("/counters/stalls").and_then(Value::as_u64).expect("status counts them")
}

fn is_noted(status: &Value) -> bool {
    let notes = status.get("notes").and_then(Value::as_array).expect("status has notes");
    notes.iter().filter_map(Value::as_str).any(|note| note.contains(NOTE))
}

/// Holds these of the router's packet loops still.
fn freeze(lab: &Lab, router: &Router<'_>, loops: &[&str]) -> Vec<Running> {
    let pid = status(router).get("pid").and_then(Value::as_u64).expect("status tells the process").to_string();
    let script = repository().join("tests/data/lab/freeze.py").display().to_string();
    let hold = |number: &&str| {
        let mut held = lab.laptop().spawn(["/usr/bin/python3", &script, &pid, number]);
        assert_eq!(held.line(), "held");
        held
    };
    loops.iter().map(hold).collect()
}

#[test]
fn a_loop_that_stands_still_is_told_and_told_when_it_goes_on_and_lets_nothing_past() {
    let lab = Lab::new();
    let profiles = Profiles::accepting();
    let router = Router::start_with(&lab, Way::Up, &profiles, Some(TWO));
    let before = status(&router);
    assert!(stalls(&before) == 0 && !is_noted(&before), "{before}");
    let capture = Capture::start(&lab, "stalled");
    let held = freeze(&lab, &router, &["0", "1"]);
    let dials = [Lab::SERVER_4, Lab::SERVER_6].map(|address| {
        lab.laptop().spawn([
            "curl",
            "-sS",
            "--max-time",
            "80",
            "--resolve",
            &format!("a.example:80:{address}"),
            "http://a.example/hello",
        ])
    });
    eventually("the stall of both is told", || {
        let now = status(&router);
        (stalls(&now) == 2 && is_noted(&now)).then_some(())
    });
    assert!(router.verb(&["status"]).expect_success().contains("2 of 2 packet loops stand still"));
    // The control: the laptop's echo reply, which needs no packet loop.
    lab.gateway().run(["ping", "-c1", "-q", Lab::LAPTOP_4]).expect_success();
    let control = Seen { protocol: "ICMP", destination: std::net::IpAddr::from([10, 9, 0, 1]), port: None };
    capture.stop_with_only(&[control], &[]);
    drop(held);
    for dial in dials {
        assert_eq!(dial.finish().1, "hello from the lab\n", "what waited goes on");
    }
    eventually("they turn again", || (!is_noted(&status(&router))).then_some(()));
    assert_eq!(stalls(&status(&router)), 2);
}

#[test]
fn one_loop_that_stands_still_leaves_the_flows_of_the_other_and_the_reload_alone() {
    let lab = Lab::new();
    let profiles = Profiles::accepting();
    let router = Router::start_with(&lab, Way::Up, &profiles, Some(TWO));
    let _held = freeze(&lab, &router, &["1"]);
    let fetch = |_| router.run(["curl", "-sS", "--max-time", "2", "http://203.0.113.10/hello"]).code() == 0;
    // Which loop a connection comes to, its ports decide.
    assert!((0..20).any(fetch), "the other loop carries what comes to it");
    router.verb(&["reload"]).expect_success();
    assert!(router.verb(&["status"]).expect_success().contains("1 of 2 packet loops stand still"));
}

#[test]
fn down_takes_everything_back_although_a_loop_stands_still() {
    let lab = Lab::new();
    let before = state(&lab);
    let profiles = Profiles::accepting();
    let mut router = Router::start_with(&lab, Way::Up, &profiles, Some(TWO));
    let held = freeze(&lab, &router, &["0"]);
    router.verb(&["down"]).expect_success();
    assert_eq!(state(&lab), before);
    drop(held);
    router.daemon().take().expect("the daemon was started").finish();
    router.verb(&["status"]).expect_code(3);
    lab.laptop().run(["curl", "-sS", "http://203.0.113.10/hello"]).expect_success();
}

/// `ip netns exec` gives each program a mount namespace, so nobody else sees the file system. Loops that looked at the file would stand
/// still, and the thread that searches, too.
#[test]
fn a_program_on_a_file_system_that_does_not_answer_holds_no_loop() {
    let lab = Lab::new();
    let profiles = Profiles::accepting();
    let router = Router::start_with(&lab, Way::Up, &profiles, Some(TWO));
    let dir = tempfile::tempdir().expect("a directory");
    let name = dir.path().to_str().expect("text");
    let ask = "for to in SERVERS; do for turn in 1 2 3 4; do\n\
        exec 3<>/dev/udp/$to/7; echo $turn >&3; read -t 5 -N 1 answer <&3; echo $answer; sleep 1; done; done\n\
        curl -sS --max-time 10 --resolve a.example:80:SERVER http://a.example/hello";
    let script = ask.replace("SERVERS", &[Lab::SERVER_4, Lab::SERVER_6].join(" ")).replace("SERVER", Lab::SERVER_4);
    let told = router.run(stuck(&[name, &script])).expect_success();
    let wanted = ["stuck", "1", "2", "3", "4", "1", "2", "3", "4", "hello from the lab"];
    assert_eq!(told.lines().collect::<Vec<_>>(), wanted);
    assert_eq!(stalls(&status(&router)), 0);
    let record = router.record("the program", |record| record.exe.as_deref().is_some_and(|exe| exe.ends_with("/program")));
    assert_eq!(record.verdict, "accept", "{record:?}");
}

/// The same in the mount namespace of the router, which looks at the program's path.
#[test]
fn a_program_whose_path_cannot_be_looked_at_keeps_no_other_waiting() {
    let lab = Lab::new();
    let profiles = Profiles::accepting();
    let router = Router::start_with(&lab, Way::Up, &profiles, Some(TWO));
    let pid = status(&router).get("pid").and_then(Value::as_u64).expect("status tells the process").to_string();
    let dir = tempfile::tempdir().expect("a directory");
    let name = dir.path().to_str().expect("text");
    let script = format!("(exec 3<>/dev/tcp/{}/80) & sleep 12; kill -9 $!", Lab::SERVER_4);
    let words =
        [["nsenter", "--mount", "--target", &pid].map(str::to_owned).to_vec(), stuck(&[name, &script, "nameless"])].concat();
    let mut held = lab.laptop().spawn(words);
    assert_eq!(held.line(), "stuck");
    let pending = |status: &Value| status.get("flows_pending").and_then(Value::as_u64);
    eventually("its flow waits", || pending(&status(&router)).filter(|pending| *pending > 0));
    for (name, host) in [("one", "203.0.113.10"), ("two", "[2001:db8::10]")] {
        let program = lab.copy_of("curl", name).display().to_string();
        let told = router.run([&program, "-sS", &format!("http://{host}/hello")]);
        assert_eq!(told.expect_success(), "hello from the lab\n");
        let record = router.record("the program", |record| record.exe.as_deref() == Some(&program));
        assert_eq!(record.verdict, "accept", "{record:?}");
    }
    router.verb(&["down"]).expect_success();
    held.finish();
}
