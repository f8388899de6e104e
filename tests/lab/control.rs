//! Who may speak to the control socket, tried with real users, groups and namespaces.
//!
//! The server runs in the test's own process; peers are the binary under setpriv(1) and unshare(1). A test that needs the server
//! itself elsewhere runs itself again there ([`again`]).

use std::collections::BTreeMap;
use std::fs::{self, Permissions};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

use portreeve::control::{Access, Engine, Event, Fault, Listener, Prompt, Reloaded, State, Status, Way, serve};
use portreeve::flow::Record;
use portreeve::profile::Level;
use portreeve::verdict::Answer;
use tokio::runtime::Runtime;
use tokio::sync::broadcast;

const NOBODY: &str = "setpriv --reuid=65534 --regid=65534 --clear-groups";

/// Set where [`again`] runs a test for the second time.
const AGAIN: &str = "PORTREEVE_TEST_AGAIN";

/// A router that permits everything: who is kept out is kept out by the server.
struct Willing;

#[async_trait::async_trait]
impl Engine for Willing {
    fn status(&self) -> Status {
        Status {
            state: State::Active,
            way: Way::Up,
            version: String::new(),
            pid: 0,
            since: 0,
            level: Level::Dynamic,
            profiles: Vec::new(),
            epoch: 0,
            device: String::new(),
            addresses: Vec::new(),
            mtu: 0,
            plan: None,
            socket: PathBuf::new(),
            dns_upstreams: Vec::new(),
            flows_open: 0,
            flows_pending: 0,
            prompts: 0,
            inbound_judged: false,
            older: Vec::new(),
            notes: Vec::new(),
            counters: BTreeMap::new(),
        }
    }

    fn flows(&self) -> Vec<Record> {
        Vec::new()
    }

    fn subscribe(&self) -> broadcast::Receiver<Event> {
        broadcast::channel(1).1
    }

    async fn set_level(&self, _: Level) -> Result<(), Fault> {
        Ok(())
    }

    async fn reload(&self) -> Result<Reloaded, Vec<Fault>> {
        Ok(Reloaded::default())
    }

    fn prompts(&self) -> Vec<Prompt> {
        Vec::new()
    }

    async fn answer(&self, _: u64, _: Answer) -> Result<(), Fault> {
        Ok(())
    }

    async fn down(&self) -> Result<(), Fault> {
        Ok(())
    }
}

struct Server {
    path: PathBuf,
    _dir: tempfile::TempDir,
    _runtime: Runtime,
}

impl Server {
    /// In a folder that everybody may enter, so that the socket's own mode and the server decide.
    fn start(access: Access) -> Self {
        let dir = tempfile::tempdir().expect("a temporary folder can be made");
        fs::set_permissions(dir.path(), Permissions::from_mode(0o755)).expect("the folder is ours");
        let path = dir.path().join("s.sock");
        let listener = Listener::bind(&path, access).expect("the folder is safe");
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().expect("threads can be made");
        runtime.spawn(serve(listener, Arc::new(Willing), 64));
        Self { path, _dir: dir, _runtime: runtime }
    }

    /// Takes the first wall down: the file's mode keeps nobody out any more.
    fn open_to_all(self) -> Self {
        fs::set_permissions(&self.path, Permissions::from_mode(0o666)).expect("the socket is ours");
        self
    }

    /// The exit codes of a reading and of a changing verb, run under `wrapper`.
    fn codes(&self, wrapper: &str) -> (i32, i32) {
        (self.code(wrapper, "status"), self.code(wrapper, "level secure"))
    }

    fn code(&self, wrapper: &str, verb: &str) -> i32 {
        let words: Vec<&str> = wrapper.split_whitespace().chain([binary()]).chain(verb.split_whitespace()).collect();
        let (program, args) = words.split_first().expect("the binary is among them");
        let output = Command::new(program).args(args).env("PORTREEVE_SOCKET", &self.path).output().expect("it can be run");
        output.status.code().unwrap_or_else(|| panic!("{wrapper} {verb}: {output:?}"))
    }
}

fn binary() -> &'static str {
    env!("CARGO_BIN_EXE_portreeve")
}

/// True inside the second run of the calling test. In the first, starts the second under `wrapper` and asserts that it passed.
fn again(test: &str, wrapper: &[&str]) -> bool {
    if std::env::var_os(AGAIN).is_some() {
        return true;
    }
    let this = std::env::current_exe().expect("/proc is mounted");
    let (program, args) = wrapper.split_first().expect("a program comes first");
    let output = Command::new(program).args(args).arg(this).args(["--exact", test, "--nocapture"]).env(AGAIN, "1").output();
    let output = output.expect("the wrapper can be run");
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success() && said.contains("1 passed"), "{said}{}", String::from_utf8_lossy(&output.stderr));
    false
}

#[test]
fn root_reads_and_changes_both_kinds() {
    for access in [Access::Machine, Access::Own] {
        assert_eq!(Server::start(access).codes("env"), (0, 0), "{access:?}");
    }
}

#[test]
fn nobody_is_kept_out_by_the_file_and_by_the_server() {
    for access in [Access::Machine, Access::Own] {
        assert_eq!(Server::start(access).codes(NOBODY), (5, 5), "{access:?}, by the file's mode");
        assert_eq!(Server::start(access).open_to_all().codes(NOBODY), (5, 5), "{access:?}, by the server");
    }
}

#[test]
fn root_in_another_pid_namespace_does_not_reach_an_own_socket() {
    let own = Server::start(Access::Own);
    assert_eq!(own.codes("unshare -nmpf --mount-proc"), (5, 5), "as from inside an enclosure");
    assert_eq!(own.codes("unshare -n"), (0, 0), "an administrator in another network is no enclosed program");
    assert_eq!(Server::start(Access::Machine).codes("unshare -npf"), (0, 0), "root administers the machine from anywhere");
}

#[test]
fn a_user_reaches_his_own_socket_and_a_program_in_his_enclosure_does_not() {
    let test = "control::a_user_reaches_his_own_socket_and_a_program_in_his_enclosure_does_not";
    let wrapper: Vec<&str> = NOBODY.split_whitespace().collect();
    if !again(test, &wrapper) {
        return;
    }
    let server = Server::start(Access::Own);
    assert_eq!(server.codes("env"), (0, 0));
    assert_eq!(server.codes("unshare -U"), (0, 0), "a user namespace alone changes nothing");
    assert_eq!(server.codes("unshare -Urnpf"), (5, 5));
    assert_eq!(server.codes("unshare -Urnmpf --mount-proc"), (5, 5), "with its own /proc, too");
    assert_eq!(server.codes("unshare -Urnmpf --mount-proc unshare -Urnmpf --mount-proc"), (5, 5), "and from a second one inside");
}

#[test]
fn an_enclosure_in_an_enclosure_has_a_socket_although_root_has_no_number_there() {
    let test = "control::an_enclosure_in_an_enclosure_has_a_socket_although_root_has_no_number_there";
    let inside = ["unshare", "--user", "--map-current-user", "--net", "--mount", "--pid", "--fork", "--mount-proc"];
    let wrapper: Vec<&str> = NOBODY.split_whitespace().chain(inside).collect();
    if !again(test, &wrapper) {
        return;
    }
    assert_eq!(file_of(Path::new("/")).uid(), 65534, "root's files look like nobody's here");
    let server = Server::start(Access::Own);
    assert_eq!(server.codes("env"), (0, 0));
    assert_eq!(server.codes("unshare -Urnmpf --mount-proc"), (5, 5));
}

#[test]
fn members_of_the_group_read_and_do_not_change() {
    let dir = tempfile::tempdir().expect("a temporary folder can be made");
    let group = dir.path().join("group");
    fs::write(&group, "root:x:0:\nnogroup:x:65534:\nportreeve:x:990:nobody\n").expect("the folder is ours");
    let script = format!("mount --bind {} /etc/group && exec \"$@\"", group.display());
    let wrapper = ["unshare", "-m", "--propagation", "private", "sh", "-c", &script, "sh"];
    if !again("control::members_of_the_group_read_and_do_not_change", &wrapper) {
        return;
    }
    let server = Server::start(Access::Machine);
    let meta = file_of(&server.path);
    assert_eq!((meta.uid(), meta.gid(), meta.mode() & 0o7777), (0, 990, 0o660));
    let held = |uid| format!("setpriv --reuid={uid} --regid={uid} --groups=990");
    assert_eq!(server.codes(&held(65534)), (0, 5), "named in the group");
    assert_eq!(server.codes(&held(65533)), (0, 5), "holds the group as a service does");
    assert_eq!(server.codes("setpriv --reuid=65533 --regid=990 --clear-groups"), (0, 5), "runs under the group");
    let server = server.open_to_all();
    assert_eq!(server.codes("setpriv --reuid=65533 --regid=65533 --groups=991"), (5, 5), "another group");
    assert_eq!(server.codes("env"), (0, 0), "root changes");
}

fn file_of(path: &Path) -> fs::Metadata {
    fs::symlink_metadata(path).expect("the socket is there")
}
