//! The verbs of the binary: output, exit codes, and readers that go away.

use std::io::{BufRead, BufReader, Read};
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::process::{Command, Output, Stdio};

use portreeve::control::{Access, Event, Fault};
use portreeve::flow::Record;

use super::fake::{Running, record, status};

fn portreeve(socket: &Path, args: &str) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_portreeve"));
    command.args(args.split_whitespace()).env("PORTREEVE_SOCKET", socket).stdin(Stdio::null());
    command
}

fn run(socket: &Path, args: &str) -> Output {
    portreeve(socket, args).output().expect("the binary can be run")
}

fn stdout(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).expect("output is UTF-8")
}

fn stderr(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).expect("output is UTF-8")
}

fn code(output: &Output) -> i32 {
    output.status.code().expect("the binary ends by itself")
}

#[test]
fn status_is_a_screen_or_one_json_object() {
    let running = Running::start(Access::Own, 0);
    let output = run(running.socket(), "status");
    assert_eq!(code(&output), 0, "{}", stderr(&output));
    assert!(stdout(&output).starts_with("Portreeve is active around one command, level secure\n"), "{}", stdout(&output));
    assert!(stdout(&output).contains("not judged yet"));
    let output = run(running.socket(), "status --json");
    assert_eq!(serde_json::from_str::<portreeve::control::Status>(&stdout(&output)).expect("one object"), status());
    let value: serde_json::Value = serde_json::from_str(&stdout(&output)).expect("one object");
    assert_eq!((&value["state"], &value["inbound_judged"]), (&"active".into(), &false.into()));
}

#[test]
fn flows_are_a_table_or_one_record_a_line() {
    let running = Running::start(Access::Own, 2);
    let table = stdout(&run(running.socket(), "flows"));
    assert_eq!(table.lines().count(), 3, "{table}");
    assert!(table.contains("curl") && table.contains("example.com:443"), "{table}");
    let lines = stdout(&run(running.socket(), "flows --json"));
    let records: Vec<Record> = lines.lines().map(|line| serde_json::from_str(line).expect("a record")).collect();
    assert_eq!(records, [record(0), record(1)]);
}

#[test]
fn monitor_prints_lines_as_they_come_until_the_router_ends() {
    let running = Running::start(Access::Own, 0);
    let mut child =
        portreeve(running.socket(), "monitor --json").stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("it runs");
    let mut lines = BufReader::new(child.stdout.take().expect("stdout is a pipe")).lines();
    running.wait_for_monitor();
    for event in [Event::Notice("not a record".to_owned()), Event::Decided(record(7)), Event::Question(record(8))] {
        running.fake.events.send(event).expect("somebody watches");
    }
    for (kind, id) in [("decided", 7), ("question", 8)] {
        let line = lines.next().expect("a line comes").expect("it is UTF-8");
        let value: serde_json::Value = serde_json::from_str(&line).expect("each line is an object");
        assert_eq!((&value["event"], &value["id"], &value["name"]), (&kind.into(), &id.into(), &"example.com".into()));
        serde_json::from_str::<Record>(&line).expect("each line is a record, too");
    }
    assert_eq!(code(&run(running.socket(), "down")), 0);
    assert!(lines.next().is_none());
    assert_eq!(child.wait().expect("it ends").code(), Some(0));
    running.wait_for_end().expect("the server ends well");
}

#[test]
fn a_monitor_whose_reader_went_ends_without_a_word() {
    let running = Running::start(Access::Own, 0);
    let mut child =
        portreeve(running.socket(), "monitor").stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("it runs");
    running.wait_for_monitor();
    drop(child.stdout.take());
    super::fake::wait_until("it notices", || {
        let _ = running.fake.events.send(Event::Decided(record(1)));
        child.try_wait().expect("it is our child").is_some()
    });
    let mut said = String::new();
    child.stderr.take().expect("stderr is a pipe").read_to_string(&mut said).expect("it is UTF-8");
    assert_eq!((child.wait().expect("it ended").code(), said.as_str()), (Some(0), ""));
}

#[test]
fn a_closed_stdout_never_panics() {
    let running = Running::start(Access::Own, 5_000);
    for verb in ["status", "flows", "flows --json", "prompt list", "completions zsh", "level", "reload"] {
        let mut child = portreeve(running.socket(), verb).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("it runs");
        drop(child.stdout.take());
        let output = child.wait_with_output().expect("it ends");
        assert_eq!((code(&output), stderr(&output).as_str()), (0, ""), "{verb}");
    }
}

#[test]
fn changes_say_what_they_did() {
    let running = Running::start(Access::Own, 0);
    for (verb, said) in [
        ("level fortress", "fortress\n"),
        ("level", "secure\n"),
        ("level --json", "{\"level\":\"secure\"}\n"),
        ("reload", "3 profiles are in force, 1 open flows were cut\n"),
        ("prompt allow 5", "prompt 5 allowed\n"),
        ("prompt deny 5", "prompt 5 denied\n"),
    ] {
        let output = run(running.socket(), verb);
        assert_eq!((code(&output), stdout(&output).as_str()), (0, said), "{verb}");
    }
    assert_eq!(running.fake.asked(), ["level fortress", "reload", "answer 5 Allow", "answer 5 Deny"]);
}

#[test]
fn faults_of_profiles_are_exit_6_line_by_line() {
    let running = Running::start(Access::Own, 0);
    running.fake.set_faults(&[Fault::configuration("user/a.toml:1:2: x; y"), Fault::configuration("user/b.toml:3:4: z; w")]);
    let output = run(running.socket(), "reload");
    assert_eq!(code(&output), 6);
    assert!(stderr(&output).starts_with("user/a.toml:1:2: x; y\nuser/b.toml:3:4: z; w\n"), "{}", stderr(&output));
    assert!(stderr(&output).contains("nothing was changed"));
}

#[test]
fn a_prompt_that_is_not_there_is_exit_1() {
    let running = Running::start(Access::Own, 0);
    let output = run(running.socket(), "prompt allow 99");
    assert_eq!(code(&output), 1);
    assert_eq!(stderr(&output), "there is no prompt 99; `portreeve prompt list` shows the open ones\n");
}

#[test]
fn nothing_there_is_exit_3_and_nobody_answering_exit_4() {
    let dir = tempfile::tempdir().expect("a temporary folder can be made");
    let absent = dir.path().join("absent.sock");
    for verb in ["status", "flows", "monitor", "level", "level secure", "reload", "prompt list", "down"] {
        let output = run(&absent, verb);
        assert_eq!(code(&output), 3, "{verb}");
        let said = format!("{}{}", stdout(&output), stderr(&output));
        assert!(said.contains("not active") && said.contains("absent.sock"), "{verb}: {said}");
    }
    assert_eq!(stdout(&run(&absent, "status --json")), "{\"state\":\"inactive\",\"left_behind\":false,\"closed\":false}\n");
    let stale = dir.path().join("stale.sock");
    drop(UnixListener::bind(&stale).expect("the folder is ours"));
    for verb in ["status", "flows --json", "down"] {
        assert_eq!(code(&run(&stale, verb)), 4, "{verb}");
    }
}

#[test]
fn a_listener_that_never_answers_is_exit_4() {
    let dir = tempfile::tempdir().expect("a temporary folder can be made");
    let path = dir.path().join("silent.sock");
    let _silent = UnixListener::bind(&path).expect("the folder is ours");
    let output = run(&path, "status");
    assert_eq!(code(&output), 4);
    assert!(stderr(&output).contains("no answer in time"), "{}", stderr(&output));
}

#[test]
fn wrong_usage_is_exit_2_and_help_is_not() {
    let nowhere = Path::new("/nonexistent");
    for verb in ["", "exec", "level high", "prompt allow x", "statsu", "up extra"] {
        let output = run(nowhere, verb);
        assert_eq!(code(&output), 2, "{verb}");
        assert!(stdout(&output).is_empty() && stderr(&output).contains("Usage") || stderr(&output).contains("--help"), "{verb}");
    }
    for verb in ["--help", "exec --help", "--version", "help level"] {
        assert_eq!(code(&run(nowhere, verb)), 0, "{verb}");
    }
}
