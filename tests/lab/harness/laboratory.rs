//! One lab: three namespaces and their servers, made by `scripts/lab hold` and gone with this value.
//!
//! The script removes everything as soon as its standard input ends, so a killed test leaves nothing behind either.

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};

use super::Host;

/// Addresses and ports of the internet host, as `scripts/lab` gives them.
impl Lab {
    pub(crate) const SERVER_4: &'static str = "203.0.113.10";
    pub(crate) const SERVER_6: &'static str = "2001:db8::10";
    pub(crate) const OTHER_4: &'static str = "203.0.113.11";
    pub(crate) const OTHER_6: &'static str = "2001:db8::11";
    pub(crate) const SILENT: [&'static str; 2] = ["203.0.113.66", "2001:db8::66"];
    pub(crate) const UNREACHABLE: [&'static str; 2] = ["203.0.113.67", "2001:db8::67"];
    pub(crate) const RESOLVER_4: &'static str = "198.51.100.53";
    pub(crate) const RESOLVER_6: &'static str = "2001:db8::53";
    /// What private.example.com has.
    pub(crate) const PRIVATE: [&'static str; 2] = ["192.168.77.10", "fd77::10"];
    pub(crate) const LAPTOP_4: &'static str = "10.9.0.2";
    pub(crate) const LAPTOP_6: &'static str = "fd09::2";
    /// No server listens there, on any address.
    pub(crate) const CLOSED_PORT: u16 = 81;
}

/// A lab of this test's own.
pub(crate) struct Lab {
    name: String,
    dir: PathBuf,
    script: Child,
    /// The script ends when this does.
    lifeline: Option<ChildStdin>,
}

impl Lab {
    /// Builds a lab under a random name.
    ///
    /// # Panics
    /// Where it cannot be built: a missing prerequisite is a failure, never a skipped test.
    pub(crate) fn new() -> Self {
        let mut script = Command::new(repository().join("scripts/lab"))
            .arg("hold")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("scripts/lab starts");
        let lifeline = script.stdin.take();
        let output = BufReader::new(script.stdout.take().expect("stdout is piped"));
        let lines: Vec<String> = output.lines().map_while(Result::ok).take_while(|line| line != "ready").collect();
        let value = |key: &str| {
            let found = lines.iter().find_map(|line| line.strip_prefix(key)?.strip_prefix('='));
            found.unwrap_or_else(|| panic!("scripts/lab hold did not say {key}: {lines:?}")).to_owned()
        };
        Self { name: value("NAME"), dir: PathBuf::from(value("DIR")), script, lifeline }
    }

    /// Where the programs run.
    pub(crate) fn laptop(&self) -> Host {
        Host::new(format!("laptop-{}", self.name), Some(self.dir.join("enter")))
    }

    pub(crate) fn gateway(&self) -> Host {
        Host::new(format!("gateway-{}", self.name), None)
    }

    pub(crate) fn internet(&self) -> Host {
        Host::new(format!("internet-{}", self.name), None)
    }

    /// The lab's folder: `www` is what the web server shows, the rest is scratch.
    pub(crate) fn dir(&self) -> &Path {
        &self.dir
    }

    /// A copy of a program at a path of its own, so that it can have a profile of its own.
    pub(crate) fn copy_of(&self, program: &str, name: &str) -> PathBuf {
        let dir = self.dir.join("bin").join(name);
        std::fs::create_dir_all(&dir).expect("the lab's folder is ours");
        let source = super::executable(program);
        let copy = dir.join(source.file_name().expect("a program has a name"));
        std::fs::copy(&source, &copy).unwrap_or_else(|error| panic!("copy {} to {}: {error}", source.display(), copy.display()));
        copy
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        drop(self.lifeline.take());
        let _ = self.script.wait();
    }
}

/// The root of the checkout.
pub(crate) fn repository() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

#[test]
fn a_lab_reaches_its_servers_in_both_families_and_leaves_nothing_behind() {
    let lab = Lab::new();
    let (name, dir) = (lab.name.clone(), lab.dir.clone());
    for family in ["-4", "-6"] {
        let page = lab.laptop().run(["curl", "-sS", family, "http://example.com/hello"]).expect_success();
        assert_eq!(page, "hello from the lab\n");
    }
    drop(lab);
    assert!(!dir.exists(), "{} is still there", dir.display());
    for host in ["laptop", "gateway", "internet"] {
        assert!(!Path::new(&format!("/run/netns/{host}-{name}")).exists(), "namespace {host} is still there");
    }
}

/// The regular files that a process may write to.
fn written_by(pid: &str) -> Vec<PathBuf> {
    let fds = std::fs::read_dir(format!("/proc/{pid}/fd")).into_iter().flatten().flatten();
    let is_written = |fd: &std::fs::DirEntry| {
        let info =
            std::fs::read_to_string(format!("/proc/{pid}/fdinfo/{}", fd.file_name().to_string_lossy())).unwrap_or_default();
        let flags = info.lines().find_map(|line| line.strip_prefix("flags:")).unwrap_or_default();
        // The last digit, in octal, holds O_WRONLY or O_RDWR.
        !flags.trim().ends_with(['0', '4'])
    };
    let files = fds.filter(is_written).filter_map(|fd| std::fs::read_link(fd.path()).ok());
    files.filter(|file| file.is_file()).collect()
}

#[test]
fn a_labs_servers_write_to_no_file_that_another_labs_servers_have() {
    let lab = Lab::new();
    let pids = Command::new("ip").args(["netns", "pids", lab.internet().namespace()]).output().expect("ip runs").stdout;
    let files: Vec<PathBuf> = String::from_utf8_lossy(&pids).split_whitespace().flat_map(written_by).collect();
    assert!(files.iter().any(|file| file.starts_with(lab.dir())), "the logs: {files:?}");
    let shared: Vec<_> = files.iter().filter(|file| !file.starts_with(lab.dir())).collect();
    assert!(shared.is_empty(), "{shared:?}");
}
