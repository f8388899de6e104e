//! What the caller leaves to the command is the command's: descriptors, signal state, signals on the way, and its end.

use std::io::Read;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Child, Command, Stdio};

use rustix::process::{Pid, Signal, kill_process, kill_process_group};

use super::{CALLERS, Caller, PATIENCE, stderr, stdout, until};

/// As `portreeve exec -- CMD…` after a line of shell, by a caller that is this process's child itself: without a time limit.
fn own_child(caller: Caller, before: &str, command: &[&str]) -> Command {
    let all = caller.command();
    let user = all.get_args().skip_while(|word| *word != "setpriv");
    let mut own = Command::new("env");
    own.args(user).args(["sh", "-c", &format!("{before}; exec \"$@\""), "sh"]).arg(super::binary());
    own.args(["exec", "--"]).args(command).current_dir("/tmp").stdin(Stdio::null());
    own
}

/// A folder in which everybody may make files.
fn open_folder() -> tempfile::TempDir {
    let dir = tempfile::tempdir().expect("a directory");
    std::fs::set_permissions(dir.path(), PermissionsExt::from_mode(0o1777)).expect("the directory is ours");
    dir
}

#[test]
fn standard_descriptors_that_are_closed_stay_closed() {
    let count = "c=0; for n in 0 1 2; do [ -e /proc/$$/fd/$n ] || c=$((c + n + 1)); done; exit $c";
    for caller in CALLERS {
        for (close, code) in [("", 0), ("<&-", 1), (">&-", 2), ("2>&-", 3), ("<&- >&- 2>&-", 6)] {
            let mut shell = caller.command();
            shell.args(["sh", "-c", &format!("exec \"$@\" {close}"), "sh"]).arg(super::binary());
            let status = shell.args(["exec", "--", "sh", "-c", count]).stdin(Stdio::null()).status().expect("runs");
            assert_eq!(status.code(), Some(code), "{caller:?} {close}");
        }
    }
}

#[test]
fn ignored_and_blocked_signals_stay_so() {
    let script = "import os, signal, sys\nfor s in signal.SIGPIPE, signal.SIGCHLD: signal.signal(s, getattr(signal, sys.argv[1]))\n\
                  signal.pthread_sigmask(signal.SIG_SETMASK, [signal.SIGUSR1] if sys.argv[1] == 'SIG_IGN' else [])\n\
                  os.execvp(sys.argv[2], sys.argv[2:])";
    let show = ["grep", "-E", "^Sig(Blk|Ign)", "/proc/self/status"];
    for caller in CALLERS {
        for action in ["SIG_IGN", "SIG_DFL"] {
            let shown = |through: &[&std::ffi::OsStr]| {
                let mut python = caller.command();
                python.args(["/usr/bin/python3", "-c", script, action]).args(through).args(show);
                stdout(&python.output().expect("python runs"))
            };
            let inside = shown(&[super::binary().as_os_str(), "exec".as_ref(), "--".as_ref()]);
            assert_eq!(inside, shown(&[]), "{caller:?} {action}");
            assert!(!inside.is_empty());
        }
    }
}

#[test]
fn who_reads_from_the_command_sees_the_end_when_it_closes_its_side() {
    for caller in CALLERS {
        for (before, number) in [(":", 1), ("exec 3>&1 >/dev/null", 3)] {
            let dir = open_folder();
            let go = dir.path().join("go");
            let script = format!("echo word >&{number}; exec {number}>&-; {}", super::handle::UNTIL_TOLD);
            let mut exec = own_child(caller, before, &["sh", "-c", &script, &go.to_string_lossy()]);
            let mut child = exec.stdout(Stdio::piped()).spawn().expect("runs");
            let mut pipe = child.stdout.take().expect("a pipe");
            let reader = std::thread::spawn(move || {
                let mut said = String::new();
                pipe.read_to_string(&mut said).map(|_| said)
            });
            let ended = until(PATIENCE, || reader.is_finished());
            std::fs::write(&go, "").expect("the directory is ours");
            assert_eq!(child.wait().expect("ends").code(), Some(8), "{caller:?} {number}");
            assert_eq!(reader.join().expect("no panic").expect("read"), "word\n");
            assert!(ended, "{caller:?} {number}");
        }
    }
}

#[test]
fn a_command_that_is_killed_is_seen_to_be_killed() {
    for caller in CALLERS {
        for signal in [libc::SIGKILL, libc::SIGTERM, libc::SIGHUP, libc::SIGINT, libc::SIGSEGV, libc::SIGPIPE, libc::SIGRTMAX()] {
            let status = own_child(caller, ":", &["sh", "-c", &format!("kill -{signal} $$")]).status().expect("runs");
            assert_eq!((status.signal(), status.core_dumped()), (Some(signal), false), "{caller:?}");
        }
        let exited = own_child(caller, ":", &["sh", "-c", "exit 137"]).status().expect("runs");
        assert_eq!(exited.code(), Some(137), "{caller:?}");
    }
}

#[test]
fn a_variable_that_names_the_caller_names_the_command() {
    for caller in CALLERS {
        for name in ["LISTEN_PID", "WATCHDOG_PID"] {
            let run = |value: &str, script: &str| {
                let mut shell = caller.command();
                shell.args(["sh", "-c", &format!("{name}={value} exec \"$@\""), "sh"]).arg(super::binary());
                let output = shell.args(["exec", "--", "sh", "-c", script]).output().expect("runs");
                stdout(&output) + &stderr(&output)
            };
            assert_eq!(run("$$", &format!("test ${name} = $$ && echo own")), "own\n", "{caller:?}");
            assert_eq!(run("1", &format!("echo ${name}")), "1\n", "{caller:?}");
        }
    }
}

/// A command whose group has a second process, and what each of them hears of one signal.
struct Pair {
    child: Child,
    dir: tempfile::TempDir,
}

impl Pair {
    fn start(caller: Caller, name: &str) -> Self {
        let dir = open_folder();
        let script = "import os, signal, sys, time\n\
                      os.chdir(sys.argv[1])\n\
                      name = 'first' if os.fork() else 'second'\n\
                      signal.signal(getattr(signal, 'SIG' + sys.argv[2]), lambda *_: open(name, 'w').close())\n\
                      open(name + '.ready', 'w').close()\n\
                      while not os.path.exists('end'): time.sleep(0.02)\n\
                      if name == 'first': os.wait()";
        let mut exec = own_child(caller, ":", &["/usr/bin/python3", "-c", script, &dir.path().to_string_lossy(), name]);
        let child = exec.process_group(0).spawn().expect("runs");
        let pair = Self { child, dir };
        assert!(pair.sees("first.ready") && pair.sees("second.ready"));
        pair
    }

    fn sees(&self, file: &str) -> bool {
        until(PATIENCE, || self.dir.path().join(file).exists())
    }

    fn pid(&self) -> Pid {
        Pid::from_child(&self.child)
    }

    /// Ends the command; what was heard.
    fn heard(mut self) -> [bool; 2] {
        std::fs::write(self.dir.path().join("end"), "").expect("the directory is ours");
        assert_eq!(self.child.wait().expect("ends").code(), Some(0));
        ["first", "second"].map(|file| self.dir.path().join(file).exists())
    }
}

const PASSED_ON: [(&str, Signal); 5] =
    [("TERM", Signal::TERM), ("INT", Signal::INT), ("QUIT", Signal::QUIT), ("USR1", Signal::USR1), ("HUP", Signal::HUP)];

#[test]
fn what_comes_to_the_callers_whole_group_comes_to_the_commands_whole_group() {
    for caller in CALLERS {
        for (name, signal) in PASSED_ON {
            let pair = Pair::start(caller, name);
            kill_process_group(pair.pid(), signal).expect("sent");
            assert!(pair.sees("first") && pair.sees("second"), "{caller:?} {name}");
            assert_eq!(pair.heard(), [true, true]);
        }
    }
}

#[test]
fn what_comes_to_the_router_alone_comes_to_the_command_alone() {
    for caller in CALLERS {
        for (name, signal) in PASSED_ON {
            let pair = Pair::start(caller, name);
            kill_process(pair.pid(), signal).expect("sent");
            // HUP has the router read its profiles again.
            let is_for_us = signal == Signal::HUP;
            if is_for_us {
                std::thread::sleep(std::time::Duration::from_millis(300));
            } else {
                assert!(pair.sees("first"), "{caller:?} {name}");
            }
            assert_eq!(pair.heard(), [!is_for_us, false], "{caller:?} {name}");
        }
    }
}
