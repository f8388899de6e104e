//! Datagrams whose sockets are closed before anybody looks: `tests/data/lab/closing.py`, and a shell's `/dev/udp`.

use std::time::{Duration, Instant};

use portreeve::flow::Record;
use portreeve::process::Confidence;
use rustix::process::Signal;

use crate::harness::{Lab, Profiles, Router, Running, Way, closing, executable, python};

in_all_ways! {
    what_was_sent_last_arrives_from_whoever_closes_at_once,
}

through_a_router! {
    what_is_sent_from_a_port_that_its_program_left_just_now_arrives,
    a_program_that_is_refused_is_so_with_a_closed_socket_too,
    what_a_program_sends_from_a_port_that_another_left_just_now_is_its_own,
    what_a_program_sends_that_leaves_its_port_and_keeps_its_socket_is_its_own,
    what_was_sent_before_another_program_was_executed_is_not_that_programs,
    what_a_program_says_before_it_ends_is_its_own,
    a_script_is_known_when_it_has_ended,
}

const SERVERS: [&str; 2] = [Lab::SERVER_4, Lab::SERVER_6];
const PORT: &str = "9100";
const SENT: usize = 50;
const PAIRS: usize = 60;
/// So many of them at least count: now and then the kernel draws a port that another program has left a moment ago, and then it is not certain
/// who sent.
const MOST: usize = 48;
/// While a machine stands still, portraits of those who are gone may make room for others.
const TRIES: usize = 3;

fn collector(lab: &Lab) -> Running {
    let mut server = lab.internet().spawn(closing(&["collect", PORT]));
    assert_eq!(server.line(), "collecting");
    server
}

/// What came in until now. The gateway, where no router is, says when to stop.
fn collected(lab: &Lab, server: Running, address: &str) -> Vec<String> {
    let end = format!("echo end >/dev/udp/{address}/{PORT}");
    lab.gateway().run(["bash", "-c", &end]).expect_success();
    let (status, told) = server.finish();
    assert!(status.success());
    serde_json::from_str(&told).unwrap_or_else(|error| panic!("{error}: {told}"))
}

/// A shell that sends as many, each from a socket of its own, and lives on for a moment. Without the last word it would become `sleep`.
fn shell(address: &str) -> [String; 3] {
    let words = format!("for n in {{1..{SENT}}}; do echo shell $n >/dev/udp/{address}/{PORT}; done; sleep 1; true");
    ["bash".to_owned(), "-c".to_owned(), words]
}

/// Everybody is accepted but nobody.
fn refusing_nobody() -> Profiles {
    let profiles = Profiles::accepting();
    let nobody = "name = \"Nobody\"\nendpoints = [\"- *\"]\n[match]\ntag = [\"portreeve:unattributed\"]\n";
    profiles.write("user/nobody.toml", nobody);
    profiles
}

fn count(told: &[String], word: &str) -> usize {
    told.iter().filter(|said| said.starts_with(word)).count()
}

fn what_was_sent_last_arrives_from_whoever_closes_at_once(way: Way) {
    let lab = Lab::new();
    let profiles = refusing_nobody();
    let router = Router::start(&lab, way, &profiles);
    for address in SERVERS {
        let server = collector(&lab);
        router.run(shell(address)).expect_success();
        router.run(closing(&["send", address, PORT, &SENT.to_string()])).expect_success();
        let told = collected(&lab, server, address);
        assert!(count(&told, "shell") >= MOST && count(&told, "sent") >= MOST, "{way:?}, {address}: {told:?}");
    }
    let wrong = |record: &Record| record.proto == "udp" && (record.exe.is_none() || record.confidence < Confidence::Likely);
    let wrong: Vec<Record> = router.records().into_iter().filter(wrong).collect();
    assert!(wrong.len() <= SENT - MOST, "{way:?}: {wrong:#?}");
}

fn what_is_sent_from_a_port_that_its_program_left_just_now_arrives(way: Way) {
    let lab = Lab::new();
    let profiles = refusing_nobody();
    let router = Router::start(&lab, way, &profiles);
    for address in SERVERS {
        let server = collector(&lab);
        router.run(closing(&["again", address, PORT, &PAIRS.to_string()])).expect_success();
        let told = collected(&lab, server, address);
        let said = (0..PAIRS).flat_map(|number| ["first", "second"].map(|word| format!("{word} {number}")));
        let lost: Vec<String> = said.filter(|said| !told.contains(said)).collect();
        assert!(lost.len() <= SENT - MOST, "{way:?}, {address}: {lost:?} of {told:?}");
    }
}

fn a_program_that_is_refused_is_so_with_a_closed_socket_too(way: Way) {
    let lab = Lab::new();
    let profiles = Profiles::accepting();
    profiles.user("python", &python(), "endpoints = [\"- *\"]");
    let router = Router::start(&lab, way, &profiles);
    for address in SERVERS {
        let server = collector(&lab);
        router.run(closing(&["send", address, PORT, &SENT.to_string()])).expect_success();
        router.run(shell(address)).expect_success();
        let told = collected(&lab, server, address);
        assert!(count(&told, "shell") >= MOST && count(&told, "sent") == 0, "{way:?}, {address}: {told:?}");
    }
    let pythons = |record: &&Record| record.proto == "udp" && record.profile.as_deref() == Some("python");
    let records = router.records();
    let refused = records.iter().filter(pythons).filter(|record| record.verdict == "block").count();
    assert!(refused >= 2 * MOST, "{way:?}: most of these, by its own profile: {records:#?}");
}

/// What is recorded of an accepted program and of another that is refused, which sends from its ports. `verb`: how it gets them.
fn records_beside_a_refused_one(way: Way, verb: &str) -> Vec<Record> {
    let lab = Lab::new();
    let profiles = refusing_nobody();
    let other = lab.copy_of("/usr/bin/python3", "other");
    profiles.user("other", &other, "endpoints = [\"- *\"]");
    let router = Router::start(&lab, way, &profiles);
    for address in SERVERS {
        let server = collector(&lab);
        router.run(closing(&[verb, address, PORT, &SENT.to_string(), &other.to_string_lossy()])).expect_success();
        let told = collected(&lab, server, address);
        eprintln!("{way:?}, {address}: {} of the first", count(&told, "first"));
        assert!(count(&told, "first") > 0, "{way:?}, {address}: the control");
        assert_eq!(count(&told, "second"), 0, "{way:?}, {address}: {told:?}");
    }
    router.records()
}

fn what_a_program_sends_from_a_port_that_another_left_just_now_is_its_own(way: Way) {
    records_beside_a_refused_one(way, "hand_over");
}

fn what_a_program_sends_that_leaves_its_port_and_keeps_its_socket_is_its_own(way: Way) {
    let to_the_next = |record: &Record| record.dst.ends_with(":9101") && record.verdict == "accept";
    assert_eq!(records_beside_a_refused_one(way, "leave").into_iter().find(to_the_next), None, "{way:?}");
}

fn what_was_sent_before_another_program_was_executed_is_not_that_programs(way: Way) {
    let lab = Lab::new();
    let profiles = refusing_nobody();
    profiles.user("python", &python(), "endpoints = [\"- *\"]");
    let router = Router::start(&lab, way, &profiles);
    let sleep = executable("sleep");
    for address in SERVERS {
        let server = collector(&lab);
        router.run(closing(&["change", address, PORT, "20", &sleep.to_string_lossy()])).expect_success();
        router.run(shell(address)).expect_success();
        let told = collected(&lab, server, address);
        assert!(count(&told, "shell") >= MOST, "{way:?}, {address}: {told:?}");
    }
    let records = router.records();
    let wrong = |record: &&Record| record.exe.as_deref() == sleep.to_str();
    assert_eq!(records.iter().find(wrong), None, "{way:?}");
}

/// A shell that begins as many programs, one behind the other, each of which says one word and ends.
fn each(program: &str) -> [String; 3] {
    // Without the last word the shell would become the last program. Where there are several hierarchies of cgroups, those of a program that
    // is gone are known by its parent.
    ["bash".to_owned(), "-c".to_owned(), format!("for n in {{1..{SENT}}}; do {program}; done; sleep 1; true")]
}

fn what_a_program_says_before_it_ends_is_its_own(way: Way) {
    let lab = Lab::new();
    let profiles = refusing_nobody();
    profiles.user("python", &python(), "endpoints = [\"- *\"]");
    let router = Router::start(&lab, way, &profiles);
    for address in SERVERS {
        let to = format!("/dev/udp/{address}/{PORT}");
        let family = if address.contains(':') { "AF_INET6" } else { "AF_INET" };
        let words = format!(
            "import os, socket; socket.socket(socket.{family}, socket.SOCK_DGRAM).sendto(b'python', ('{address}', {PORT})); os._exit(0)"
        );
        let mut counts = [0; 3];
        for _ in 0..TRIES {
            let server = collector(&lab);
            router.run(each(&format!("( echo child >{to} )"))).expect_success();
            router.run(each(&format!("bash -c 'echo program >{to}'"))).expect_success();
            router.run(each(&format!("{} -c \"{words}\"", python().display()))).expect_success();
            let told = collected(&lab, server, address);
            counts = ["child", "program", "python"].map(|word| count(&told, word));
            assert_eq!(counts[2], 0, "{way:?}, {address}: {counts:?}");
            if counts[0] >= MOST && counts[1] >= MOST {
                break;
            }
        }
        assert!(counts[0] >= MOST && counts[1] >= MOST, "{way:?}, {address}: {counts:?} {:#?}", router.records());
    }
    let refused = |record: &&Record| record.profile.as_deref() == Some("python") && record.verdict == "block";
    assert!(router.records().iter().filter(refused).count() >= 2 * MOST, "{way:?}: most of these, by its own profile");
}

fn a_script_is_known_when_it_has_ended(way: Way) {
    let lab = Lab::new();
    let profiles = refusing_nobody();
    let dir = tempfile::tempdir().expect("a directory");
    let [accepted, refused] = ["accepted", "refused"].map(|name| dir.path().join(name));
    for (script, endpoint) in [(&accepted, "+ *"), (&refused, "- *")] {
        let name = script.file_name().expect("it has one").to_string_lossy().into_owned();
        let tag = format!("script:{}", script.display());
        profiles.write(
            &format!("user/{name}.toml"),
            &format!("name = \"{name}\"\nendpoints = [\"{endpoint}\"]\n[match]\ntag = [\"{tag}\"]\n"),
        );
    }
    let router = Router::start(&lab, way, &profiles);
    for address in SERVERS {
        let server = collector(&lab);
        for (script, word) in [(&accepted, "accepted"), (&refused, "refused")] {
            std::fs::write(script, format!("echo {word} >/dev/udp/{address}/{PORT}\n")).expect("written");
            router.run(each(&format!("bash {}", script.display()))).expect_success();
        }
        let told = collected(&lab, server, address);
        let counts = ["accepted", "refused"].map(|word| count(&told, word));
        assert!(counts[0] >= MOST && counts[1] == 0, "{way:?}, {address}: {counts:?}");
    }
    let by = |profile: &str| router.records().iter().filter(|record| record.profile.as_deref() == Some(profile)).count();
    assert!(by("accepted") >= 2 * MOST && by("refused") >= 2 * MOST, "{way:?}: each by its own profile");
}

/// Of programs that are gone, so many count: the kernel has room for few portraits, and each of two processors begins anew at the first.
const SOME: usize = SENT / 3;
/// Longer than any datagram waits for a router that runs.
const STANDSTILL: Duration = Duration::from_millis(1500);

#[test]
fn what_was_said_while_the_router_stood_still_is_known_by_who_sent_last() {
    let lab = Lab::new();
    let profiles = refusing_nobody();
    let mut router = Router::start(&lab, Way::Up, &profiles);
    for address in SERVERS {
        let server = collector(&lab);
        let daemon = |router: &mut Router<'_>, signal| router.daemon().as_ref().expect("it runs").signal(signal);
        daemon(&mut router, Signal::STOP);
        let begun = Instant::now();
        // The shells live for longer: by those the cgroups of the gone are known.
        let each = |words: &str| {
            let words = format!("for n in {{1..{SENT}}}; do {words} >/dev/udp/{address}/{PORT}; done; sleep 4; true");
            router.spawn(["bash", "-c", &words])
        };
        let [children, shell] = ["( echo child )", "echo shell"].map(each);
        std::thread::sleep(STANDSTILL.saturating_sub(begun.elapsed()));
        daemon(&mut router, Signal::CONT);
        assert!(children.finish().0.success() && shell.finish().0.success());
        let told = collected(&lab, server, address);
        let counts = ["child", "shell"].map(|word| count(&told, word));
        assert!(counts[0] >= SOME && counts[1] >= MOST, "{address}: {counts:?} {:#?}", router.records());
    }
}
