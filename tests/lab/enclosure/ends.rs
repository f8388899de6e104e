//! How an enclosure ends: with its command, or with the process that made it, and never later.

use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use super::{CALLERS, Caller, processes_with, stderr, stdout, until};

/// A number that no other process's command line holds: a `sleep` that can be found again.
fn mark(offset: u32) -> String {
    format!("{}.{offset}", 1_000_000 + std::process::id())
}

#[test]
fn killing_the_outer_process_ends_everything_within_a_second() {
    for (caller, offset) in CALLERS.into_iter().zip(10..) {
        let mark = mark(offset);
        let script = format!("setsid sleep {mark} & nohup sleep {mark} & (trap '' TERM HUP INT; sleep {mark}) & sleep {mark}");
        let mut child = caller.exec(["sh", "-c", &script]).stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("runs");
        let sleep = format!("sleep\0{mark}");
        assert!(until(Duration::from_secs(5), || processes_with(&sleep).len() == 4), "{caller:?}");
        let outer = outer_of(&mark);
        assert!(Command::new("kill").args(["-KILL", &outer.to_string()]).status().expect("kill runs").success());
        assert!(until(Duration::from_secs(1), || processes_with(&mark).iter().all(|pid| *pid == child.id())), "{caller:?}");
        child.wait().expect("reaped");
    }
}

/// The process that runs `portreeve exec` with this mark: not `timeout`, whose line holds it too, nor what is inside.
pub(super) fn outer_of(mark: &str) -> u32 {
    let outer = processes_with(mark).into_iter().find(|pid| {
        let line = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        line.starts_with(super::binary().to_string_lossy().as_bytes())
    });
    outer.expect("the outer process")
}

#[test]
fn killing_the_keeper_or_the_first_process_ends_everything_and_is_told() {
    for (victim, offset) in [0, 1].into_iter().zip(20..) {
        let mark = mark(offset);
        let mut exec = Caller::Nobody.exec(["sh", "-c", &format!("setsid sleep {mark} & sleep {mark}")]);
        let child = exec.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().expect("runs");
        assert!(until(Duration::from_secs(5), || processes_with(&format!("sleep\0{mark}")).len() == 2));
        let mut inner = processes_with("__enclosure");
        inner.retain(|pid| processes_with(&mark).contains(pid));
        inner.sort_unstable();
        let victim = inner.get(victim).expect("the keeper and the first process").to_string();
        assert!(Command::new("kill").args(["-KILL", &victim]).status().expect("kill runs").success());
        let output = child.wait_with_output().expect("ends");
        assert_ne!(output.status.code(), Some(0));
        assert!(stderr(&output).contains("killed from outside"), "{}", stderr(&output));
        assert!(processes_with(&mark).is_empty());
    }
}

#[test]
fn what_the_command_leaves_running_is_told_to_end_and_heard() {
    for caller in CALLERS {
        let begin = Instant::now();
        let output = caller.shell("(trap 'echo told; exit' TERM; echo up; while :; do sleep 0.05; done) & sleep 0.3; exit 6");
        assert_eq!(output.status.code(), Some(6), "{caller:?}");
        assert_eq!(stdout(&output), "up\ntold\n", "{caller:?} {}", stderr(&output));
        assert!(begin.elapsed() < Duration::from_secs(2), "{:?}", begin.elapsed());
    }
}

#[test]
fn what_does_not_hear_is_killed_after_two_seconds() {
    for (caller, offset) in CALLERS.into_iter().zip(30..) {
        let begin = Instant::now();
        let mark = mark(offset);
        let output = caller.shell(&format!("(trap '' TERM; exec setsid sleep {mark}) >/dev/null 2>&1 & sleep 0.2; exit 6"));
        assert_eq!(output.status.code(), Some(6), "{caller:?}");
        assert!((Duration::from_millis(1900)..Duration::from_secs(5)).contains(&begin.elapsed()), "{:?}", begin.elapsed());
        assert!(processes_with(&mark).is_empty(), "{caller:?}");
    }
}

#[test]
fn a_stopped_process_does_not_hold_the_end_up() {
    let begin = Instant::now();
    let output = Caller::Nobody.shell("sleep 50 & kill -STOP $!; exit 2");
    assert_eq!(output.status.code(), Some(2));
    assert!(begin.elapsed() < Duration::from_secs(2), "{:?}", begin.elapsed());
}

#[test]
fn orphans_are_reaped_while_the_command_runs() {
    let script = "for i in 1 2 3 4 5 6 7 8; do (sh -c true &); done; sleep 0.3; grep -l zombie /proc/[0-9]*/status; echo end";
    assert_eq!(stdout(&Caller::Nobody.shell(script)), "end\n");
}
