//! Job control: `script` (util-linux) gives a pseudo-terminal, an interactive bash the jobs.

use std::io::{Read, Write};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use super::{PATIENCE, binary, processes_with, until};

/// A program on a terminal of its own.
struct Typist {
    child: Child,
    keys: ChildStdin,
    screen: Arc<Mutex<String>>,
}

impl Typist {
    fn sit_down(command: &str) -> Self {
        let mut script = Command::new("script");
        script.args(["-qefc", command, "/dev/null"]).env("TERM", "dumb");
        let mut child = script.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("script runs");
        let keys = child.stdin.take().expect("a pipe");
        let mut paper = child.stdout.take().expect("a pipe");
        let screen = Arc::new(Mutex::new(String::new()));
        let shown = Arc::clone(&screen);
        std::thread::spawn(move || {
            let mut bytes = [0; 4096];
            while let Ok(length @ 1..) = paper.read(&mut bytes) {
                let text = String::from_utf8_lossy(bytes.get(..length).unwrap_or_default()).into_owned();
                shown.lock().expect("not poisoned").push_str(&text);
            }
        });
        Self { child, keys, screen }
    }

    fn bash() -> Self {
        let typist = Self::sit_down("PS1='lab> ' exec bash --norc --noprofile -i");
        typist.expect("lab> ");
        typist
    }

    /// Types, a little later: a program that has just drawn its prompt may still be setting up its terminal.
    fn types(&mut self, keys: &str) {
        std::thread::sleep(Duration::from_millis(300));
        self.screen.lock().expect("not poisoned").clear();
        self.keys.write_all(keys.as_bytes()).expect("typed");
    }

    /// Types again and again, until the screen shows this since the keys before.
    fn types_until(&mut self, keys: &str, text: &str) {
        let seen = until(PATIENCE, || {
            self.keys.write_all(keys.as_bytes()).expect("typed");
            until(Duration::from_millis(500), || self.shows(text))
        });
        assert!(seen, "no {text:?} in {:?}", self.screen.lock().expect("not poisoned"));
    }

    fn shows(&self, text: &str) -> bool {
        self.screen.lock().expect("not poisoned").contains(text)
    }

    /// Waits until the screen shows this since the last keys.
    fn expect(&self, text: &str) {
        let seen = until(PATIENCE, || self.shows(text));
        assert!(seen, "no {text:?} in {:?}", self.screen.lock().expect("not poisoned"));
    }
}

impl Drop for Typist {
    fn drop(&mut self) {
        // The terminal's end hangs its session up.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn exec(command: &str) -> String {
    format!("{} exec -- {command}", binary().display())
}

/// A `sleep` that can be found by its argument.
fn mark(offset: u32) -> String {
    format!("{}.{offset}", 1_000_000 + std::process::id())
}

fn wait_for_sleep(mark: &str) {
    assert!(until(PATIENCE, || !processes_with(&format!("sleep\0{mark}")).is_empty()), "no sleep {mark}");
}

#[test]
fn an_interrupt_reaches_the_command_and_not_the_router() {
    let mut typist = Typist::sit_down(&exec("sh -c 'trap \"echo caught; exit 9\" INT; echo ready; while :; do sleep 0.1; done'"));
    typist.expect("ready");
    typist.types("\x03");
    typist.expect("caught");
    assert_eq!(typist.child.wait().expect("ends").code(), Some(9));
}

#[test]
fn a_stop_is_seen_by_the_shell_and_the_job_goes_on_in_the_foreground() {
    let mut typist = Typist::bash();
    typist.types(&format!("{}\n", exec("sh -c 'echo rea\"\"dy; exec cat'")));
    typist.expect("ready");
    typist.types("\x1a");
    typist.expect("Stopped");
    typist.types("fg\n");
    typist.expect("exec -- sh");
    typist.types("words\n");
    typist.expect("words\r\nwords");
    typist.types("\x04");
    typist.expect("lab> ");
    typist.types("echo status=$?\n");
    typist.expect("status=0");
}

#[test]
fn a_reader_in_the_background_stops_until_it_is_fetched() {
    let mut typist = Typist::bash();
    typist.types(&format!("{} &\n", exec("cat")));
    // The shell tells it at its next prompt.
    typist.types_until("\n", "Stopped");
    typist.types("fg\n");
    typist.expect("exec -- cat");
    typist.types("words\n");
    typist.expect("words\r\nwords");
}

#[test]
fn a_shell_inside_has_jobs_of_its_own_and_gives_the_terminal_back() {
    let mut typist = Typist::bash();
    typist.types(&format!("{}\n", exec("bash --norc --noprofile -i")));
    typist.expect("lab> ");
    typist.types("echo pid=$$\n");
    typist.expect("pid=2\r");
    let mark = mark(78);
    typist.types(&format!("sleep {mark}\n"));
    wait_for_sleep(&mark);
    typist.types("\x1a");
    typist.expect("Stopped");
    typist.types("exit\n");
    typist.expect("stopped jobs");
    typist.types("exit 7\n");
    typist.expect("lab> ");
    typist.types("echo status=$?\n");
    typist.expect("status=7");
    typist.types("echo rea\"\"dy; cat\n");
    typist.expect("ready");
    typist.types("words\n");
    typist.expect("words\r\nwords");
}

#[test]
fn an_interrupt_ends_the_script_around_the_command_too() {
    let mut typist = Typist::bash();
    let mark = mark(79);
    typist.types(&format!("sh -c '{}; echo af\"\"ter'\n", exec(&format!("sleep {mark}"))));
    wait_for_sleep(&mark);
    typist.types("\x03");
    typist.expect("lab> ");
    typist.types("echo status=$?\n");
    typist.expect("status=130");
    assert!(!typist.shows("after"));
}

#[test]
fn an_interrupt_ends_the_rest_of_a_pipeline_as_it_ends_the_command() {
    let mut typist = Typist::bash();
    let mark = mark(81);
    typist.types(&format!("{} | cat\n", exec(&format!("sleep {mark}"))));
    wait_for_sleep(&mark);
    typist.types("\x03");
    typist.expect("lab> ");
    typist.types("echo status=$?\n");
    typist.expect("status=130");
}

#[test]
fn a_stop_without_a_shell_that_could_undo_it_does_not_last() {
    let mut typist = Typist::sit_down(&exec("sh -c 'echo ready; sleep 3; echo done'"));
    typist.expect("ready");
    typist.types("\x1a");
    typist.expect("done");
}

#[test]
fn the_terminal_comes_back_when_the_outer_process_is_killed() {
    let mark = mark(77);
    let mut typist = Typist::bash();
    typist.types(&format!("sh -c '{}; cat'\n", exec(&format!("sleep {mark}"))));
    wait_for_sleep(&mark);
    let outer = super::ends::outer_of(&mark).to_string();
    assert!(Command::new("kill").args(["-KILL", &outer]).status().expect("kill runs").success());
    typist.expect("Killed");
    typist.types("words\n");
    typist.expect("words\r\nwords");
}

#[test]
fn a_pager_at_the_end_of_a_pipe_gets_the_terminal() {
    let mut typist = Typist::bash();
    typist.types(&format!("seq 100 | {}\n", exec("sh -c 'echo as\"\"ks; read x </dev/tty; echo got=$x; wc -l'")));
    typist.expect("asks");
    typist.types("key\n");
    typist.expect("got=key\r\n100");
}

#[test]
fn a_background_job_of_a_script_leaves_the_terminal_to_the_script() {
    let mut typist = Typist::bash();
    let mark = mark(80);
    typist.types(&format!("sh -c '{} & sleep 0.5; read x; echo got=$x; kill $!'\n", exec(&format!("sleep {mark}"))));
    wait_for_sleep(&mark);
    typist.types("words\n");
    typist.expect("got=words");
}

#[test]
fn a_job_that_has_no_terminal_as_its_input_stops_and_goes_on_too() {
    let mut typist = Typist::bash();
    typist.types(&format!(
        "{} </dev/null\n",
        exec("sh -c 'echo rea\"\"dy; for i in 1 2 3 4 5 6 7 8 9; do sleep 0.2; done; echo do\"\"ne'")
    ));
    typist.expect("ready");
    typist.types("\x1a");
    typist.expect("Stopped");
    std::thread::sleep(Duration::from_secs(2));
    typist.types("echo sti\"\"ll; fg\n");
    typist.expect("still");
    typist.expect("done");
}
