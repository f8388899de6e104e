//! One program's flood is that program's trouble, and what a dead program leaves behind is gone at once.

use std::path::Path;

use serde_json::Value;

use crate::harness::{Host, Lab, Profiles, Router, Way, binary, repository};

in_all_ways! {
    a_killed_program_leaves_no_connection_behind,
}

through_a_router! {
    a_flood_to_silent_hosts_leaves_others_alone,
}

/// Connections that the flood begins, and that another program makes beside it.
const FLOOD: u64 = 10_000;
const BESIDE: u64 = 1000;
/// A question of another program.
const ASK: &str = "dig +short -t A example.com | head -1";

/// The same where the TUN's queue may be full at times: a datagram that finds no place in it is asked again, as on any busy link.
const ASK_AGAIN: &str = "dig +short +time=3 +tries=5 -t A example.com | grep -v '^;' | head -1";

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

fn a_flood_to_silent_hosts_leaves_others_alone(way: Way) {
    let profiles = Profiles::accepting();
    for (silent, server) in [(Lab::SILENT[0], Lab::SERVER_4), (Lab::SILENT[1], Lab::SERVER_6)] {
        let lab = Lab::new();
        let router = Router::start(&lab, way, &profiles);
        let [scanner, other] = ["scanner", "other"].map(|name| lab.copy_of("/usr/bin/python3", name));
        let steady = flood(&other, &format!("steady {server} {BESIDE}"));
        let begin = flood(&scanner, &format!("begin {silent} {FLOOD}"));
        let script =
            format!("{steady}; exec 3< <({begin}) 4< <({ASK_AGAIN}); {steady}; head -1 <&3; head -1 <&4; {ASK_AGAIN}; sleep 30");
        let mut running = router.spawn(["bash", "-c", &script]);
        let [quiet, beside, flooded] = [(); 3].map(|()| object(&running.line()));
        let answers = [(); 2].map(|()| running.line());
        let counters = status(&lab.laptop()).get("counters").cloned().unwrap_or_default();
        eprintln!("{way:?} {server}: quiet {quiet}, beside {beside}, the flood {flooded}, {counters}");
        let (ok, waiting, refused) =
            (number(&beside, "/ok"), number(&flooded, "/waiting"), number(&flooded, "/said/ECONNREFUSED"));
        assert!(ok * 1000 >= BESIDE * 999, "{beside}");
        // The rest waits in the scanner's kernel: what the TUN's queue could not take is sent again later.
        assert!(waiting > 0 && refused > 0 && number(&counters, "/program_pending_out") > 0, "{flooded}: {counters}");
        let lost_places = number(&counters, "/blocked") + number(&counters, "/pending_out");
        assert!(lost_places * 100 < FLOOD, "nobody is refused for want of an attribution: {counters}");
        assert_eq!(answers, [Lab::SERVER_4; 2], "names resolve beside a flood");
    }
}

#[test]
fn programs_that_keep_all_the_connections_they_can_have_leave_names_and_status_to_others() {
    let profiles = Profiles::accepting();
    let lab = Lab::new();
    let greedy = ["one", "two"].map(|name| flood(&lab.copy_of("/usr/bin/python3", name), "keep 203.0.113.10 400"));
    let [first, second] = greedy.map(|keep| format!("<({keep})"));
    let script = format!("exec 3< {first}; head -1 <&3; exec 4< {second}; head -1 <&4; {ASK}; sleep 30");
    let (binary, set) = (binary().display().to_string(), profiles.path().display().to_string());
    // What is kept for the router's own needs, names and control leaves 188 flows.
    let words = ["prlimit", "--nofile=465:465", &binary, "exec", "--profiles", &set, "--", "bash", "-c", &script];
    let mut running = lab.laptop().spawn(words);
    let [one, two] = [(); 2].map(|()| object(&running.line()));
    let answer = running.line();
    eprintln!("the first {one}, the second {two}");
    // Each queue has its share of the places, and rounds its three quarters up.
    let (kept, refused) = (number(&one, "/kept"), number(&one, "/said/ECONNREFUSED"));
    assert!((141..=144).contains(&kept) && kept + refused == 400, "three quarters of 188: {one}");
    assert_eq!(number(&two, "/kept") + number(&two, "/said/ECONNREFUSED"), 400);
    assert!((20..47).contains(&number(&two, "/kept")), "three quarters of the rest: {two}");
    assert_eq!(answer, Lab::SERVER_4);
    let status = status(&lab.laptop());
    assert!(number(&status, "/flows_open") >= number(&one, "/kept") + number(&two, "/kept"), "{status}");
    assert!(number(&status, "/counters/program_flows_out") >= refused, "{status}");
}

fn a_killed_program_leaves_no_connection_behind(way: Way) {
    let profiles = Profiles::accepting();
    for address in [Lab::SERVER_4, Lab::SERVER_6] {
        let lab = Lab::new();
        let router = Router::start(&lab, way, &profiles);
        // One of three: on a busy machine even the witness's clock may be looked at late.
        let mut rounds = (0..3).map(|_| outlived(&lab, &router, address));
        // The killer looks at its clock after the deed.
        assert!(rounds.any(|seconds| (-1.0..1.0).contains(&seconds)), "{way:?} {address}");
    }
}

/// How many seconds the connection of a killed program outlives it.
fn outlived(lab: &Lab, router: &Router<'_>, address: &str) -> f64 {
    let python = Path::new("/usr/bin/python3");
    let words = flood(python, &format!("witness {address} 9001"));
    let mut witness = lab.internet().spawn(words.split(' '));
    assert_eq!(witness.line(), "serving");
    let words = flood(python, &format!("killed {address} 9001"));
    let mut program = router.spawn(words.split(' '));
    let [killed, ended] = [program.line(), witness.line()].map(|line| line.parse::<f64>().expect("a time"));
    eprintln!("{address}: {} s", ended - killed);
    ended - killed
}
