//! Sockets with more than one holder, and holders that become another program.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

use portreeve::packet::Protocol;
use portreeve::process::{Confidence, Identity, Tag};
use portreeve::procfs::Effort;

use super::harness::{Program, in_namespace, only_holder, owner, processes, python, table, tuple};

const PEER: &str = "192.0.2.1:9";
const UDP: &str = "s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); s.connect(('192.0.2.1', 9))\n";

fn exe_name(identity: &Identity) -> PathBuf {
    let exe = identity.exe.as_ref().expect("a readable program");
    Path::new(exe.path.file_name().expect("a name")).to_owned()
}

#[test]
fn program_that_executes_another_with_its_socket_open_is_the_other() {
    in_namespace(|| {
        let code = format!("{UDP}os.set_inheritable(s.fileno(), True); say(name(s)); end(); os.execv('/bin/cat', ['cat'])");
        let mut program = Program::python(&code);
        let socket = owner(&tuple(Protocol::UDP, program.local(), PEER));
        let processes = processes();
        let sent = Instant::now();
        let before = only_holder(&processes, &socket);
        assert!(exe_name(&before).to_string_lossy().starts_with("python"));
        program.go_on();
        // `cat` answers once it runs.
        program.go_on();
        assert!(program.next_line_may_be_empty());
        let first = processes.find_quick(&socket, None, sent, Effort::Read).expect("still held");
        assert_eq!(first.exe, before.exe, "what had been sent when it was read is the first program's");
        let after = processes.find_quick(&socket, None, Instant::now(), Effort::Read).expect("still held");
        assert_eq!((exe_name(&after), after.pid), (PathBuf::from("cat"), before.pid));
        assert_eq!(exe_name(&only_holder(&processes, &socket)), PathBuf::from("cat"));
    });
}

#[test]
fn interpreter_that_executes_itself_with_another_script_is_read_again() {
    in_namespace(|| {
        let second = python("say('second'); end()").replace('\'', "\\'").replace('\n', "\\n");
        let code = format!(
            "{UDP}os.set_inheritable(s.fileno(), True); say(name(s)); end()\nos.execv(sys.executable, ['python3', '-c', '{second}'])"
        );
        let mut program = Program::python(&code);
        let socket = owner(&tuple(Protocol::UDP, program.local(), PEER));
        let processes = processes();
        let before = only_holder(&processes, &socket);
        program.go_on();
        assert_eq!(program.next_line(), "second");
        let after = processes.find_quick(&socket, None, Instant::now(), Effort::Read).expect("still held");
        assert_eq!(after.exe, before.exe);
        assert_ne!(after.cmdline, before.cmdline);
    });
}

#[test]
fn forked_child_of_the_same_program_is_one_identity() {
    in_namespace(|| {
        let code = format!("{UDP}say(name(s)) if os.fork() else end(); end()");
        let program = Program::python(&code);
        let socket = owner(&tuple(Protocol::UDP, program.local(), PEER));
        let holder = only_holder(&processes(), &socket);
        assert_eq!(holder.confidence, Confidence::Exact);
    });
}

#[test]
fn socket_inherited_by_another_program_has_both_as_ambiguous_holders() {
    in_namespace(|| {
        // As its standard input, the way inetd hands it over, and at the number that it had.
        for hand_over in ["stdin=s", "pass_fds=[s.fileno()]"] {
            // Popen returns while the child is still executing: until it has its arguments it is no program yet.
            let wait = "while not open(f'/proc/{p.pid}/cmdline').read(): pass";
            let code = format!(
                "{UDP}import subprocess\np = subprocess.Popen(['sleep', '60'], {hand_over})\n{wait}\nsay(name(s)); end()"
            );
            let program = Program::python(&code);
            let socket = owner(&tuple(Protocol::UDP, program.local(), PEER));
            let processes = processes();
            for _ in 0..2 {
                let found = processes.find(&socket);
                let mut names: Vec<_> = found.iter().map(|identity| exe_name(identity)).collect();
                names.sort();
                assert!(names.len() == 2 && names.contains(&PathBuf::from("sleep")), "{hand_over}: {names:?}");
                assert!(found.iter().all(|identity| identity.confidence == Confidence::Ambiguous));
                assert_eq!(
                    processes.find_quick(&socket, None, Instant::now(), Effort::Read),
                    None,
                    "one holder alone is no answer"
                );
            }
            end_children(&program);
        }
    });
}

/// Programs started by the program under test outlive it otherwise.
fn end_children(program: &Program) {
    let children = std::fs::read_to_string(format!("/proc/{0}/task/{0}/children", program.pid())).expect("it runs");
    for pid in children.split_ascii_whitespace() {
        assert!(Command::new("kill").arg(pid).status().expect("kill is installed").success());
    }
}

#[test]
fn members_of_a_port_sharing_group_are_all_owners() {
    in_namespace(|| {
        for (family, any, remote) in [("AF_INET", "0.0.0.0", PEER), ("AF_INET6", "::", "[2001:db8::1]:9")] {
            let code = format!(
                "s = socket.socket(socket.{family}, socket.SOCK_DGRAM); s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)\n\
                 s.bind(('{any}', 5353)); say(name(s)); end()"
            );
            let local = if family == "AF_INET" { "10.9.0.2:5353" } else { "[fd09::2]:5353" };
            let flow = tuple(Protocol::UDP, local.parse().expect("an address"), remote);
            let one = Program::python(&code);
            assert_eq!(table().owners(&flow).expect("the kernel answers").len(), 1);
            let other = Program::python(&code);
            let owners = table().owners(&flow).expect("the kernel answers");
            assert!(owners.iter().all(|socket| socket.confidence == Confidence::Ambiguous));
            let processes = processes();
            let mut pids: Vec<_> =
                owners.iter().flat_map(|socket| processes.find(socket)).filter_map(|found| found.pid).collect();
            pids.sort_unstable();
            let mut expected = vec![one.pid(), other.pid()];
            expected.sort_unstable();
            assert_eq!(pids, expected);
        }
    });
}

#[test]
fn client_that_opens_one_socket_after_another_is_found_quickly_each_time() {
    in_namespace(|| {
        let code = "say('ready'); end()\nwhile True:\n  s = socket.socket(); s.setblocking(False)\n\
                    \x20 s.connect_ex(('192.0.2.1', 80)); say(name(s)); end(); s.close()";
        let mut program = Program::python(code);
        let processes = processes();
        for round in 0..100 {
            program.go_on();
            let local = program.next_line().parse().expect("an address");
            let socket = owner(&tuple(Protocol::TCP, local, "192.0.2.1:80"));
            match processes.find_quick(&socket, None, Instant::now(), Effort::Read) {
                Some(found) => assert_eq!(found.pid, Some(program.pid())),
                None => {
                    assert_eq!(round, 0, "only the first time it is unknown");
                    assert_eq!(only_holder(&processes, &socket).pid, Some(program.pid()));
                }
            }
        }
    });
}

#[test]
fn shell_script_that_is_open_in_its_interpreter_has_a_tag_and_a_claimed_one_has_not() {
    in_namespace(|| {
        let dir = tempfile::tempdir().expect("a directory");
        let script = dir.path().join("fetch.sh");
        std::fs::write(&script, "exec 3<>/dev/udp/192.0.2.1/9\necho ready\nread line\nread line\n").expect("written");
        let mut honest = Command::new("bash");
        honest.arg(&script);
        let mut forged = Command::new("python3");
        let code =
            python("s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); s.connect(('192.0.2.1', 9)); say('ready'); end()");
        forged.args(["-c", &code]).arg(&script);
        for (command, expected) in [(&mut honest, true), (&mut forged, false)] {
            let program = Program::start(command);
            let socket = socket_of(&program);
            let holder = only_holder(&processes(), &socket);
            let tag = Tag(format!("script:{}", script.display()));
            assert_eq!(holder.tags.contains(&tag), expected, "{:?}", holder.tags);
        }
    });
}

/// The UDP socket of a program that cannot say its own address.
fn socket_of(program: &Program) -> portreeve::process::Socket {
    let fd = if Path::new(&format!("/proc/{}/fd/3", program.pid())).exists() { 3 } else { 4 };
    let link = std::fs::read_link(format!("/proc/{}/fd/{fd}", program.pid())).expect("open");
    let text = link.to_string_lossy().into_owned();
    let inode = text.trim_start_matches("socket:[").trim_end_matches(']').parse().expect("a socket");
    portreeve::process::Socket { inode, uid: 0, cookie: 0, cgroup_id: None, mark: 0, link: 0, confidence: Confidence::Exact }
}
