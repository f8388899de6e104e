//! Programs that pretend: another's path, another's root, no readable /proc; and the honest ones that look alike.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

use portreeve::process::{Confidence, Identity, Socket};
use portreeve::procfs::{Options, Processes};

use super::harness::{Program, in_namespace, only_holder, processes};

/// A shell program that holds a UDP socket, says its inode and waits. Its helper, which has the socket too, ends before it speaks.
const HOLD: &str = "exec 3<>/dev/udp/192.0.2.1/9; said=$(readlink /proc/$$/fd/3); echo $said; read line";

/// The socket that a program said.
fn said(program: &Program, uid: u32) -> Socket {
    let inode = program.said.trim_start_matches("socket:[").trim_end_matches(']').parse().expect("a socket");
    Socket { inode, uid, cookie: 0, cgroup_id: None, mark: 0, link: 0, confidence: Confidence::Exact }
}

fn holder(program: &Program) -> Arc<Identity> {
    only_holder(&processes(), &said(program, 0))
}

fn copy(from: &str, to: &Path) {
    // By another process: a descriptor open for writing here would be inherited by programs of other tests (ETXTBSY).
    assert!(Command::new("cp").arg(from).arg(to).status().expect("cp runs").success());
}

#[test]
fn program_mounted_over_an_allowed_path_does_not_get_that_path() {
    in_namespace(|| {
        let dir = tempfile::tempdir().expect("a directory");
        let (allowed, evil) = (dir.path().join("allowed"), dir.path().join("evil"));
        copy("/bin/cat", &allowed);
        copy("/bin/bash", &evil);
        let forge = format!("mount --bind {} {1} && exec {1} -c '{HOLD}'", evil.display(), allowed.display());
        let program = Program::start(Command::new("unshare").args(["-Urm", "sh", "-c", &forge]));
        let shown = std::fs::read_link(format!("/proc/{}/exe", program.pid())).expect("readable");
        assert_eq!(shown, allowed, "the text of the link is forged");
        let exe = holder(&program).exe.clone().expect("readable");
        assert_eq!((exe.path, exe.path_is_ours), (allowed.clone(), false));

        let honest = Program::start(Command::new(&evil).args(["-c", HOLD]));
        let honest = holder(&honest).exe.clone().expect("readable");
        assert_eq!((honest.path, honest.path_is_ours), (evil, true));
        assert_eq!((honest.device, honest.inode), (exe.device, exe.inode));
    });
}

#[test]
fn parent_mounted_over_an_allowed_path_does_not_get_that_path() {
    in_namespace(|| {
        let dir = tempfile::tempdir().expect("a directory");
        let (allowed, evil) = (dir.path().join("allowed"), dir.path().join("evil"));
        copy("/bin/cat", &allowed);
        copy("/bin/bash", &evil);
        for (script, parent) in [
            ("mount --bind $1 $2 && exec $2 -c '/bin/bash -c \"$0\"; exit' \"$3\"", PathBuf::new()),
            ("exec $1 -c '/bin/bash -c \"$0\"; exit' \"$3\"", evil.clone()),
        ] {
            let mut command = Command::new("unshare");
            command.args(["-Urm", "sh", "-c", script, "sh"]).args([&evil, &allowed]).arg(HOLD);
            let program = Program::start(&mut command);
            let ancestors = holder(&program).ancestors.clone();
            let of_parent = ancestors.first().map(|parent| (parent.pid, parent.path.clone()));
            assert_eq!(of_parent, Some((program.pid(), parent)));
        }
    });
}

#[test]
fn program_replaced_while_it_runs_keeps_its_path_with_less_confidence() {
    in_namespace(|| {
        let dir = tempfile::tempdir().expect("a directory");
        let (path, new) = (dir.path().join("tool"), dir.path().join("tool.new"));
        copy("/bin/bash", &path);
        copy("/bin/cat", &new);
        let program = Program::start(Command::new(&path).args(["-c", HOLD]));
        assert_eq!(holder(&program).confidence, Confidence::Exact);
        std::fs::rename(&new, &path).expect("replaced");
        let holder = holder(&program);
        let exe = holder.exe.clone().expect("readable");
        assert_eq!((exe.path, exe.path_is_ours, holder.confidence), (path, true, Confidence::Likely));
    });
}

#[test]
fn program_deleted_in_a_mount_namespace_of_its_own_has_no_path_of_ours() {
    in_namespace(|| {
        let dir = tempfile::tempdir().expect("a directory");
        let (allowed, place) = (dir.path().join("allowed"), dir.path().display());
        copy("/bin/cat", &allowed);
        // A folder of its own over the real one, a program at the allowed path in it, deleted while it runs.
        let forge = format!(
            "mount -t tmpfs none {place} && cp /bin/bash {place}/allowed && exec {place}/allowed -c 'rm {place}/allowed; {HOLD}'"
        );
        let program = Program::start(Command::new("unshare").args(["-Urm", "sh", "-c", &forge]));
        let exe = holder(&program).exe.clone().expect("readable");
        assert_eq!((exe.path, exe.path_is_ours), (allowed, false));
    });
}

#[test]
fn program_of_another_mount_namespace_that_runs_in_ours_has_no_path_of_ours_once_it_is_deleted() {
    // A file system of its own over the allowed folder, and a folder of the same one, whose device says nothing.
    for mount in ["mount -t tmpfs none", "mkdir mine && mount --bind mine"] {
        in_namespace(move || {
            let dir = tempfile::tempdir().expect("a directory");
            let folder = dir.path().join("bin");
            let allowed = folder.join("allowed");
            std::fs::create_dir(&folder).expect("made");
            copy("/bin/cat", &allowed);
            let stage = format!("{mount} {0} && cp /bin/bash {0}/allowed && echo ready && read line", folder.display());
            let stage = Program::start(Command::new("unshare").args(["-Urm", "sh", "-c", &stage]).current_dir(dir.path()));
            let there = format!("/proc/{}/root{}", stage.pid(), allowed.display());
            let program = Program::start(Command::new(&there).args(["-c", &format!("rm {there}; {HOLD}")]));
            let ours = |pid: &str| std::fs::read_link(format!("/proc/{pid}/ns/mnt")).expect("readable");
            assert_eq!(ours(&program.pid().to_string()), ours("self"));
            let holder = holder(&program);
            let exe = holder.exe.clone().expect("readable");
            assert_eq!((exe.path, exe.path_is_ours, holder.confidence), (allowed, false, Confidence::Likely));
        });
    }
}

#[test]
fn program_in_memory_has_no_path_of_ours() {
    in_namespace(|| {
        let code = format!(
            "import os\nfd = os.memfd_create('curl')\nos.write(fd, open('/bin/bash', 'rb').read())\nos.execve(fd, ['curl', '-c', '''{HOLD}'''], os.environ)"
        );
        let program = Program::start(Command::new("python3").args(["-c", &code]));
        let holder = holder(&program);
        let exe = holder.exe.clone().expect("readable");
        assert_eq!((exe.path, exe.path_is_ours), (PathBuf::from("/memfd:curl"), false));
        assert_eq!(holder.confidence, Confidence::Likely);
    });
}

#[test]
fn paths_exist_as_the_program_sees_them() {
    in_namespace(|| {
        let dir = tempfile::tempdir().expect("a directory");
        std::fs::write(dir.path().join("ours"), "").expect("written");
        let place = dir.path().display();
        let inside =
            format!("mount -t tmpfs none {place} && touch {place}/theirs && ln -s /theirs {place}/link && exec bash -c '{HOLD}'");
        let program = Program::start(Command::new("unshare").args(["-Urm", "sh", "-c", &inside]));
        let identity = holder(&program);
        let exists = processes().exists_for(&identity);
        assert!(exists(&dir.path().join("theirs")));
        assert!(!exists(&dir.path().join("ours")));
        assert!(!exists(&dir.path().join("link")), "an absolute link stays in the program's root");
        let reused = Identity { start_ticks: identity.start_ticks + 1, ..Identity::clone(&identity) };
        assert!(!processes().exists_for(&reused)(Path::new("/")), "another process has the number now");
        drop(program);
        assert!(!processes().exists_for(&identity)(Path::new("/")), "gone");
    });
}

#[test]
fn enclosure_finds_its_own_programs_only() {
    in_namespace(|| {
        let hold = ["-c", HOLD];
        let init = Program::start(Command::new("unshare").args(["-n", "bash"]).args(["-c", "echo ready; read line"]));
        let inside = Program::start(
            Command::new("nsenter")
                .args(["-t", &init.pid().to_string(), "-n", "bash", "-c"])
                .arg(format!("ip link set lo up; ip route add default dev lo; {HOLD}")),
        );
        let outside = Program::start(Command::new("bash").args(hold));
        let options = Options { enclosure: Some(init.pid()), ..Options::default() };
        let processes = Processes::new(options);
        assert_eq!(only_holder(&processes, &said(&inside, 0)).pid, Some(inside.pid()));
        assert_eq!(only_holder(&processes, &said(&outside, 0)).pid, None);
        let unseen = Processes::new(Options { enclosure: Some(u32::MAX), ..Options::default() });
        assert_eq!(only_holder(&unseen, &said(&outside, 0)).pid, None, "an enclosure that cannot be seen finds nobody");
    });
}

/// Leaves root behind in this thread alone: capabilities go with the user.
fn become_nobody() {
    let (uid, gid) = (rustix::process::Uid::from_raw(65534), rustix::process::Gid::from_raw(65534));
    rustix::thread::set_thread_res_gid(gid, gid, gid).expect("root may");
    rustix::thread::set_thread_res_uid(uid, uid, uid).expect("root may");
}

/// Holds a socket and says its inode; with `1`, hides: prctl(PR_SET_DUMPABLE, 0) makes the descriptor list root's.
const HIDE: &str = "import ctypes, os, socket, sys\ns = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)\n\
    if sys.argv[1] == '1': ctypes.CDLL(None).prctl(4, 0, 0, 0, 0)\n\
    print(os.fstat(s.fileno()).st_ino, flush=True); sys.stdin.readline()";

#[test]
fn without_root_a_program_is_found_and_one_that_hides_is_nobody_with_its_user_kept() {
    in_namespace(|| {
        become_nobody();
        let plain = Program::start(Command::new("/usr/bin/python3").args(["-c", HIDE, "0"]).current_dir("/"));
        let found = only_holder(&processes(), &said(&plain, 65534));
        assert_eq!((found.pid, found.uid, found.confidence), (Some(plain.pid()), Some(65534), Confidence::Exact));
        let hidden = Program::start(Command::new("/usr/bin/python3").args(["-c", HIDE, "1"]).current_dir("/"));
        let found = only_holder(&processes(), &said(&hidden, 65534));
        assert_eq!((found.pid, found.uid), (None, Some(65534)));
    });
}

#[test]
fn without_root_a_program_that_hides_in_a_user_namespace_of_ours_is_found_by_its_descriptors() {
    in_namespace(|| {
        become_nobody();
        let mut command = Command::new("unshare");
        command.args(["-U", "--map-current-user", "/usr/bin/python3", "-c", HIDE, "1"]).current_dir("/");
        let hidden = Program::start(&mut command);
        let fds = std::fs::read_dir(format!("/proc/{}/fd", hidden.pid()));
        assert!(fds.is_err(), "the list is closed to us");
        let found = only_holder(&processes(), &said(&hidden, 65534));
        assert_eq!(found.pid, Some(hidden.pid()));
        assert!(found.exe.as_ref().is_some_and(|exe| exe.path_is_ours && exe.path.starts_with("/usr/bin")));
    });
}
