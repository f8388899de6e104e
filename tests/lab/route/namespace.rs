//! A network namespace that lives as long as its value.
//!
//! Keeps one rule: what a test does to a network it does inside [`Namespace::inside`] or [`Namespace::run`].

use std::process::{Command, Output, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

/// A namespace named by `ip netns`; removed on drop.
pub(crate) struct Namespace {
    name: String,
}

static NEXT: AtomicU32 = AtomicU32::new(0);

impl Namespace {
    /// Makes a namespace whose name nobody else uses; its loopback is up.
    pub(crate) fn new(role: &str) -> Self {
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let name = format!("pr-{role}-{}-{number}", std::process::id());
        // `ip netns add` prepares /run/netns at its first use, which two at a time get wrong; scripts/lab takes the same lock.
        shell(&format!("flock /run/portreeve-lab.lock ip netns add {name}"));
        let namespace = Self { name };
        namespace.run("ip link set lo up");
        namespace
    }

    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// A command to be run inside.
    pub(crate) fn command(&self, program: &str) -> Command {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &self.name, program]);
        command
    }

    /// Runs a shell line inside; it must succeed. Returns what it printed.
    pub(crate) fn run(&self, line: &str) -> String {
        let output = self.attempt(line);
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success(), "{line}: {text}");
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    /// Runs a shell line inside, whatever comes of it.
    pub(crate) fn attempt(&self, line: &str) -> Output {
        self.command("sh").args(["-c", line]).stdin(Stdio::null()).output().expect("ip is installed")
    }

    /// Calls `work` on a thread that is inside; processes that it starts are inside too.
    pub(crate) fn inside<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        let handle = std::fs::File::open(format!("/run/netns/{}", self.name)).expect("the namespace exists");
        std::thread::scope(|scope| {
            let inner = scope.spawn(move || {
                move_into_link_name_space(std::os::fd::AsFd::as_fd(&handle), Some(LinkNameSpaceType::Network))
                    .expect("lab tests run as root");
                work()
            });
            inner.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        let _ = Command::new("ip").args(["netns", "del", &self.name]).status();
    }
}

/// Runs a shell line that must succeed.
pub(crate) fn shell(line: &str) {
    let output = Command::new("sh").args(["-c", line]).output().expect("sh is installed");
    assert!(output.status.success(), "{line}: {} (lab tests run as root)", String::from_utf8_lossy(&output.stderr));
}
