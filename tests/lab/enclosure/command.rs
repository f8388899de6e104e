//! What the command finds: everything as its caller left it, except the privileges that could undo the enclosure.

use std::io::Write;
use std::os::unix::process::ExitStatusExt;
use std::process::Stdio;

use super::{CALLERS, Caller, stderr, stdout};

#[test]
fn the_exit_code_is_the_commands_own() {
    let cases = [("exit 0", 0), ("exit 3", 3), ("exit 255", 255), ("kill -9 $$", 137), ("kill -TERM $$", 143)];
    for caller in CALLERS {
        for (script, code) in cases {
            let status = caller.shell(script).status;
            // As a shell has it.
            let told = status.code().or(status.signal().map(|signal| signal + 128));
            assert_eq!(told, Some(code), "{caller:?} {script}");
        }
    }
}

#[test]
fn what_cannot_be_run_is_told_apart_as_env_does() {
    for caller in CALLERS {
        let missing = caller.exec(["no-such-program-anywhere"]).env("PATH", "/usr/sbin:/usr/bin:/bin").output().expect("runs");
        assert_eq!(missing.status.code(), Some(127), "{caller:?}");
        assert!(stderr(&missing).contains("no-such-program-anywhere: not found"), "{}", stderr(&missing));
        for refused in ["/etc/passwd", "/etc"] {
            let refused = caller.exec([refused]).output().expect("runs");
            assert_eq!(refused.status.code(), Some(126), "{caller:?}");
            assert!(stderr(&refused).contains("cannot be run"), "{}", stderr(&refused));
        }
    }
}

#[test]
fn standard_input_and_output_are_the_callers_own() {
    for caller in CALLERS {
        let mut child = caller.exec(["tr", "a-z", "A-Z"]).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("runs");
        let text = "line\n".repeat(100_000);
        let mut input = child.stdin.take().expect("a pipe");
        let written = text.clone();
        let writer = std::thread::spawn(move || input.write_all(written.as_bytes()));
        let output = child.wait_with_output().expect("ends");
        writer.join().expect("joined").expect("written");
        assert!(stdout(&output) == text.to_uppercase(), "{caller:?}: {} bytes", output.stdout.len());
    }
}

#[test]
fn directory_environment_umask_and_limits_are_kept() {
    for caller in CALLERS {
        let script = "umask 027; ulimit -n 777; cd /usr/share; export PORTREEVE_LAB='a b'; exec \"$0\" exec -- sh -c \
                      'umask; ulimit -n; pwd; echo \"$PORTREEVE_LAB\"'";
        let output = caller.command().args(["sh", "-c", script]).arg(super::binary()).output().expect("runs");
        assert_eq!(stdout(&output), "0027\n777\n/usr/share\na b\n", "{caller:?} {}", stderr(&output));
    }
}

#[test]
fn no_descriptor_and_no_signal_state_of_ours_reaches_the_command() {
    // The first shell closes what this test's own runner left open, so that the rest is ours.
    let close = "for n in $(seq 3 300); do eval \"exec $n>&-\" 2>/dev/null; done; exec \"$@\"";
    let show =
        "for n in $(seq 0 300); do [ -e /proc/$$/fd/$n ] && echo fd $n; done; exec grep -E '^Sig(Blk|Ign)' /proc/self/status";
    for caller in CALLERS {
        let run = |words: &[&std::ffi::OsStr]| {
            stdout(&caller.command().args(["bash", "-c", close, "bash"]).args(words).output().expect("runs"))
        };
        let shell = ["sh", "-c", show].map(AsRef::as_ref);
        let [binary, exec, dashes] = [super::binary().as_os_str(), "exec".as_ref(), "--".as_ref()];
        let inside = run(&[&[binary, exec, dashes][..], &shell].concat());
        assert!(inside.starts_with("fd 0\nfd 1\nfd 2\nSigBlk"), "{caller:?} {inside}");
        assert_eq!(inside, run(&shell), "{caller:?}");
    }
}

#[test]
fn ids_inside_are_the_callers_own() {
    for caller in CALLERS {
        let output = caller.shell("id -u; id -g; id -G");
        let id = caller.id();
        assert_eq!(stdout(&output), format!("{id}\n{id}\n{id}\n"), "{}", stderr(&output));
    }
}

#[test]
fn root_keeps_every_other_id() {
    let output = Caller::Root.shell("setpriv --reuid=1234 --regid=4321 --clear-groups sh -c 'id -u; id -g'");
    assert_eq!(stdout(&output), "1234\n4321\n", "{}", stderr(&output));
}

#[test]
fn the_command_lacks_net_admin_and_sys_admin_for_good() {
    for caller in CALLERS {
        let output = caller.shell("cat /proc/self/status; ip link set portreeve0 down || echo refused");
        let status = stdout(&output);
        for set in ["CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"] {
            let line = status.lines().find(|line| line.starts_with(set)).expect("the set");
            let bits = line.split('\t').nth(1).and_then(|bits| u64::from_str_radix(bits, 16).ok()).expect("a number");
            // capabilities(7): NET_ADMIN is 12, SYS_ADMIN 21.
            assert_eq!(bits & (1 << 12 | 1 << 21), 0, "{caller:?} {line}");
        }
        assert!(status.contains("NoNewPrivs:\t1"), "{caller:?}");
        assert!(status.ends_with("refused\n"), "{caller:?} {status}");
    }
}

#[test]
fn only_the_enclosures_own_processes_are_seen() {
    for caller in CALLERS {
        let output = caller.shell("for p in /proc/[0-9]*; do echo ${p#/proc/}; done");
        let pids: Vec<u32> = stdout(&output).lines().filter_map(|pid| pid.parse().ok()).collect();
        assert_eq!(pids, [1, 2], "{caller:?}");
    }
}

#[test]
fn the_first_process_is_out_of_an_ordinary_commands_reach() {
    let output =
        Caller::Nobody.shell("readlink /proc/1/exe || echo exe; cat /proc/1/fd/2 2>/dev/null || echo fd; kill -9 1; echo lives");
    assert_eq!(stdout(&output), "exe\nfd\nlives\n", "{}", stderr(&output));
}
