//! Few files and little memory: too little is said before anything changes, little carries few flows and leaves names and control theirs.

use serde_json::Value;

use crate::harness::{Finished, Lab, Profiles, Router, Way, binary, eventually, repository};
use crate::whole::state;

/// What a router runs under, as prlimit has it.
fn limited(lab: &Lab, limit: &str, words: &[&str], profiles: &Profiles) -> Finished {
    let [binary, set] = [binary(), profiles.path().to_owned()].map(|path| path.display().to_string());
    let (verb, rest) = words.split_first().expect("a verb");
    lab.laptop().run(["prlimit", limit, &binary, verb, "--profiles", &set].iter().chain(rest))
}

#[test]
fn too_few_files_and_too_little_memory_are_said_before_anything_changes() {
    let lab = Lab::new();
    let before = state(&lab);
    let profiles = Profiles::accepting();
    let ran = lab.dir().join("ran").display().to_string();
    let limits = [
        ("--nofile=6:6", "ulimit -n 1024"),
        ("--nofile=20:20", "ulimit -n 1024"),
        ("--nofile=30:30", "ulimit -n 1024"),
        ("--nofile=64:64", "LimitNOFILE=1024"),
        ("--as=300000000", "ulimit -v unlimited"),
        ("--data=30000000", "ulimit -d unlimited"),
    ];
    for (limit, remedy) in limits {
        let ways: [(&[&str], i32); 3] = [(&["exec", "--", "touch", &ran], 125), (&["up", "--foreground"], 1), (&["up"], 1)];
        for (words, code) in ways {
            let told = limited(&lab, limit, words, &profiles).expect_code(code);
            assert!(told.stderr.contains(remedy) && told.stderr.lines().count() == 1, "{limit} {words:?}: {told:?}");
        }
        assert_eq!(state(&lab), before, "{limit}");
    }
    assert!(!std::path::Path::new(&ran).exists(), "the command ran");
    assert!(!lab.laptop().run(["cat", "/run/portreeve/undo.json"]).status.success(), "something was begun");
}

#[test]
fn command_has_the_limit_on_files_that_its_caller_has() {
    let lab = Lab::new();
    let profiles = Profiles::accepting();
    for (limit, seen) in [("--nofile=20:4096", "20 4096"), ("--nofile=300:300", "300 300")] {
        let told = limited(&lab, limit, &["exec", "--", "bash", "-c", "echo $(ulimit -Sn) $(ulimit -Hn)"], &profiles);
        assert_eq!(told.expect_success().trim(), seen);
    }
}

/// Connections that a program tries to have at once.
const WANTED: u64 = 60;

#[test]
fn few_files_carry_few_flows_the_rest_is_refused_at_once_and_names_and_control_go_on() {
    for (way, server) in
        [(Way::Exec, Lab::SERVER_4), (Way::Exec, Lab::SERVER_6), (Way::Up, Lab::SERVER_4), (Way::Up, Lab::SERVER_6)]
    {
        let lab = Lab::new();
        let profiles = Profiles::accepting();
        // For its verbs alone.
        let router = Router::start(&lab, Way::Direct, &profiles);
        let greedy = lab.copy_of("/usr/bin/python3", "greedy");
        let script = format!(
            "exec 3< <({} {} keep {server} {WANTED}); head -1 <&3; dig +short +tries=1 -t A example.com; sleep 30",
            greedy.display(),
            repository().join("tests/data/lab/flood.py").display()
        );
        let [binary, set] = [binary(), profiles.path().to_owned()].map(|path| path.display().to_string());
        let router_words = ["prlimit", "--nofile=100:100", &binary];
        let (mut program, _daemon) = match way {
            Way::Up => {
                let up = ["up", "--foreground", "--profiles", &set];
                let daemon = lab.laptop().spawn(router_words.iter().chain(&up));
                eventually("the router is active", || (router.verb(&["status"]).code() == 0).then_some(()));
                (lab.laptop().spawn(["bash", "-c", &script]), Some(daemon))
            }
            Way::Exec | Way::Direct => {
                let exec = ["exec", "--profiles", &set, "--", "bash", "-c", &script];
                (lab.laptop().spawn(router_words.iter().chain(&exec)), None)
            }
        };
        let line = program.line();
        let told: Value = serde_json::from_str(&line).unwrap_or_else(|error| panic!("{error}: {line:?}"));
        let number = |path: &str| told.pointer(path).and_then(Value::as_u64).unwrap_or(0);
        let (kept, refused) = (number("/kept"), number("/said/ECONNREFUSED"));
        assert!(kept >= 10 && refused >= 10 && kept + refused == WANTED, "{way:?} {server}: {told}");
        assert_eq!(program.line(), Lab::SERVER_4, "{way:?} {server}: names resolve");
        let status = router.verb(&["status", "--json"]).expect_success();
        let status: Value = serde_json::from_str(&status).unwrap_or_else(|error| panic!("{error}: {status}"));
        let counted = status.pointer("/counters/program_flows_out").and_then(Value::as_u64).unwrap_or(0);
        assert!(counted >= refused, "{status}");
        let notes = status.get("notes").and_then(Value::as_array).expect("status has notes");
        assert!(notes.iter().filter_map(Value::as_str).any(|note| note.contains("ulimit -n")), "{status}");
    }
}
