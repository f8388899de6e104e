//! One program's flood is that program's trouble, and what a dead program leaves behind is gone at once.

use std::path::Path;

use serde_json::Value;

use crate::harness::{Host, Lab, Profiles, Router, Way, binary, repository};

in_all_ways! {
    a_killed_program_leaves_no_connection_behind,
}

/// A question of another program.
const ASK: &str = "dig +short -t A example.com | head -1";

/// The command line of `tests/data/lab/flood.py` under a Python.
fn flood(python: &Path, words: &str) -> String {
    format!("{} {} {words}", python.display(), repository().join("tests/data/lab/flood.py").display())
}

fn object(line: &str) -> Value {
    serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line:?}"))
}

fn number(value: &Value, path: &str) -> u64 {
    value.pointer(path).and_then(Value::as_u64).unwrap_or(0)
}

fn status(laptop: &Host) -> Value {
    let binary = binary().display().to_string();
    object(&laptop.run([binary.as_str(), "status", "--json"]).expect_success())
}

#[test]
fn programs_that_keep_all_the_connections_they_can_have_leave_names_and_status_to_others() {
    let profiles = Profiles::accepting();
    let lab = Lab::new();
    let greedy = ["one", "two"].map(|name| flood(&lab.copy_of("/usr/bin/python3", name), "keep 203.0.113.10 400"));
    let [first, second] = greedy.map(|keep| format!("<({keep})"));
    let script = format!("exec 3< {first}; head -1 <&3; exec 4< {second}; head -1 <&4; {ASK}; sleep 30");
    let (binary, set) = (binary().display().to_string(), profiles.path().display().to_string());
    // 512 of these are kept for the router's own needs, which leaves 188 flows.
    let words = ["prlimit", "--nofile=700:700", &binary, "exec", "--profiles", &set, "--", "bash", "-c", &script];
    let mut running = lab.laptop().spawn(words);
    let [one, two] = [(); 2].map(|()| object(&running.line()));
    let answer = running.line();
    eprintln!("the first {one}, the second {two}");
    assert_eq!((number(&one, "/kept"), number(&one, "/said/ECONNREFUSED")), (141, 259), "three quarters of 188");
    assert_eq!(number(&two, "/kept") + number(&two, "/said/ECONNREFUSED"), 400);
    assert!((20..47).contains(&number(&two, "/kept")), "three quarters of the rest: {two}");
    assert_eq!(answer, Lab::SERVER_4);
    let status = status(&lab.laptop());
    assert!(number(&status, "/flows_open") >= number(&one, "/kept") + number(&two, "/kept"), "{status}");
    assert!(number(&status, "/counters/program_flows_out") >= 259, "{status}");
}

fn a_killed_program_leaves_no_connection_behind(way: Way) {
    let profiles = Profiles::accepting();
    for address in [Lab::SERVER_4, Lab::SERVER_6] {
        let lab = Lab::new();
        let router = Router::start(&lab, way, &profiles);
        let python = Path::new("/usr/bin/python3");
        let words = flood(python, &format!("witness {address} 9001"));
        let mut witness = lab.internet().spawn(words.split(' '));
        assert_eq!(witness.line(), "serving");
        let words = flood(python, &format!("killed {address} 9001"));
        let mut program = router.spawn(words.split(' '));
        let [killed, ended] = [program.line(), witness.line()].map(|line| line.parse::<f64>().expect("a time"));
        assert!((0.0..1.0).contains(&(ended - killed)), "{way:?} {address}: {} s", ended - killed);
    }
}
