//! How an enclosure ends: with its command, or with the process that made it, and never later.

use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use super::{CALLERS, Caller, PATIENCE, processes_with, quickest, stderr, stdout, until};

/// A number that no other process's command line holds: a `sleep` that can be found again.
fn mark(offset: u32) -> String {
    format!("{}.{offset}", 1_000_000 + std::process::id())
}

#[test]
fn killing_the_outer_process_ends_everything_within_a_second() {
    for (caller, offset) in CALLERS.into_iter().zip(10..) {
        let mut rounds = (0..3).map(|_| end_of_everything(caller, &mark(offset)));
        assert!(rounds.any(|took| took < Duration::from_secs(1)), "{caller:?}");
    }
}

/// Kills the outer process around four programs: how long these outlive it. On a busy machine that may be longer once.
fn end_of_everything(caller: Caller, mark: &str) -> Duration {
    let script = format!("setsid sleep {mark} & nohup sleep {mark} & (trap '' TERM HUP INT; sleep {mark}) & sleep {mark}");
    let mut child = caller.exec(["sh", "-c", &script]).stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("runs");
    assert!(until(PATIENCE, || processes_with(&format!("sleep\0{mark}")).len() == 4), "{caller:?}");
    let outer = outer_of(mark);
    assert!(Command::new("kill").args(["-KILL", &outer.to_string()]).status().expect("kill runs").success());
    let begin = Instant::now();
    assert!(until(PATIENCE, || processes_with(mark).iter().all(|pid| *pid == child.id())), "{caller:?}");
    let took = begin.elapsed();
    child.wait().expect("reaped");
    took
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
        assert!(until(PATIENCE, || processes_with(&format!("sleep\0{mark}")).len() == 2));
        let mut inner = processes_with("__enclosure");
        inner.retain(|pid| processes_with(&mark).contains(pid));
        inner.sort_unstable();
        let victim = inner.get(victim).expect("the keeper and the first process").to_string();
        assert!(Command::new("kill").args(["-KILL", &victim]).status().expect("kill runs").success());
        let output = child.wait_with_output().expect("ends");
        assert_ne!(output.status.code(), Some(0));
        assert!(stderr(&output).contains("killed from outside"), "{}", stderr(&output));
        // Without its keeper the kernel alone ends the rest, and nobody waits for that.
        assert!(until(PATIENCE, || processes_with(&mark).is_empty()));
    }
}

/// What a shell runs in the background says to the shell, and what that waits for.
const READY: &str = "kill -USR1 $$";
const WAIT: &str = "until [ -n \"$ready\" ]; do sleep 0.05; done";

#[test]
fn what_the_command_leaves_running_is_told_to_end_and_heard() {
    let left = format!("(trap 'echo told; exit' TERM; echo up; {READY}; while :; do sleep 0.05; done)");
    for caller in CALLERS {
        let (output, took) =
            quickest(Duration::from_secs(2), || caller.shell(&format!("trap ready=1 USR1; {left} & {WAIT}; exit 6")));
        assert_eq!(output.status.code(), Some(6), "{caller:?}");
        assert_eq!(stdout(&output), "up\ntold\n", "{caller:?} {}", stderr(&output));
        assert!(took < Duration::from_secs(2), "{took:?}");
    }
}

#[test]
fn what_does_not_hear_is_killed_after_two_seconds() {
    for (caller, offset) in CALLERS.into_iter().zip(30..) {
        let mark = mark(offset);
        let left = format!("(trap '' TERM; {READY}; exec setsid sleep {mark}) >/dev/null 2>&1");
        let (output, took) =
            quickest(Duration::from_secs(5), || caller.shell(&format!("trap ready=1 USR1; {left} & {WAIT}; exit 6")));
        assert_eq!(output.status.code(), Some(6), "{caller:?}");
        assert!((Duration::from_millis(1900)..Duration::from_secs(5)).contains(&took), "{took:?}");
        assert!(processes_with(&mark).is_empty(), "{caller:?}");
    }
}

#[test]
fn a_stopped_process_does_not_hold_the_end_up() {
    let limit = Duration::from_secs(2);
    let (output, took) = quickest(limit, || Caller::Nobody.shell("sleep 50 & kill -STOP $!; exit 2"));
    assert_eq!(output.status.code(), Some(2));
    assert!(took < limit, "{took:?}");
}

#[test]
fn orphans_are_reaped_while_the_command_runs() {
    // Whoever has just ended may be seen before it is reaped, so the shell looks until there is none, for at most ten seconds.
    let script = "for i in 1 2 3 4 5 6 7 8; do (sh -c true &); done; n=0; \
                  while sleep 0.3; grep -qs zombie /proc/[0-9]*/status; do n=$((n+1)); [ $n -lt 33 ] || exit 1; done; echo end";
    assert_eq!(stdout(&Caller::Nobody.shell(script)), "end\n");
}
