//! `portreeve exec` around a program: its exit code, its user, its neighbours on loopback.

use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;

use crate::harness::{Finished, Lab, Profiles, Router, Way, binary, executable};

/// The user "nobody", who may do nothing.
pub(crate) const NOBODY: [&str; 4] = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"];

/// Runs `portreeve exec` with these words behind it, as the user "nobody".
pub(crate) fn exec_as_nobody(lab: &Lab, profiles: &Profiles, words: &[&str]) -> Finished {
    let copy = binary_for_everyone(lab).display().to_string();
    let set = profiles.path().display().to_string();
    let all = NOBODY
        .into_iter()
        .chain(["env", "-u", "XDG_RUNTIME_DIR", &copy, "exec", "--profiles", &set])
        .chain(words.iter().copied());
    lab.laptop().run(all)
}

/// The folder that cargo builds in may be closed to others.
pub(crate) fn binary_for_everyone(lab: &Lab) -> PathBuf {
    let copy = lab.dir().join("bin/portreeve");
    if !copy.exists() {
        std::fs::copy(binary(), &copy).expect("the lab's folder is ours");
        std::fs::set_permissions(&copy, PermissionsExt::from_mode(0o755)).expect("the copy is ours");
    }
    copy
}

#[test]
fn the_exit_code_is_the_programs() {
    let lab = Lab::new();
    let profiles = Profiles::accepting();
    let router = Router::start(&lab, Way::Exec, &profiles);
    router.run(["true"]).expect_code(0);
    router.run(["sh", "-c", "exit 3"]).expect_code(3);
    router.run(["sh", "-c", "kill -9 $$"]).expect_code(137);
    router.run(["/no/such/program"]).expect_code(127);
    router.run(["/etc/passwd"]).expect_code(126);
    exec_as_nobody(&lab, &profiles, &["--", "sh", "-c", "exit 3"]).expect_code(3);
}

#[test]
fn an_ordinary_user_needs_no_root() {
    let lab = Lab::new();
    let profiles = Profiles::accepting();
    let exec = |words: &[&str]| exec_as_nobody(&lab, &profiles, words).expect_success();
    assert_eq!(exec(&["--", "id", "-u"]), "65534\n");
    for url in ["http://example.com/hello", "http://203.0.113.10/hello", "http://[2001:db8::10]/hello"] {
        assert_eq!(exec(&["--", "curl", "-sS", url]), "hello from the lab\n", "{url}");
    }
    assert!(exec(&["--", "ping", "-c1", "-W10", Lab::SERVER_4]).contains("1 received"));
    assert!(exec(&["--", "ping", "-c1", "-W10", Lab::SERVER_6]).contains("1 received"));
}

#[test]
fn an_ordinary_user_is_refused_as_root_is() {
    let lab = Lab::new();
    let profiles = Profiles::accepting();
    profiles.user("curl", &executable("curl"), "endpoints = [\"- *\"]");
    exec_as_nobody(&lab, &profiles, &["--", "curl", "-sS", "http://203.0.113.10/hello"]).expect_code(7);
    exec_as_nobody(&lab, &profiles, &["--", "git", "ls-remote", "http://203.0.113.10/repo.git"]).expect_success();
}

/// Runs ssh as the user "daemon", without and then with `exec`. ("nobody" has the number as which files of unknown owners are
/// shown.) /etc/ssh is what `furnish` makes of an empty `ssh_config.d`, included by ssh_config, and is seen by this one program.
fn ssh_with_a_configuration(lab: &Lab, furnish: &str) -> [Finished; 2] {
    let profiles = Profiles::accepting();
    let [copy, set, known, key] =
        [binary_for_everyone(lab), profiles.path().to_owned(), lab.dir().join("known_hosts"), lab.dir().join("user_key")]
            .map(|path| path.display().to_string());
    let ssh = format!(
        "ssh -o BatchMode=yes -o UserKnownHostsFile={known} -i /etc/ssh/key -p 2222 root@the-server 'cat; echo over ssh'"
    );
    ["", &format!("{copy} exec --profiles {set} --")].map(|exec| {
        let script = format!(
            "set -e; mount -t tmpfs -o mode=0755 tmpfs /etc/ssh; cd /etc/ssh; mkdir ssh_config.d back-ends; umask 022
             install -o daemon -m 0600 {key} key; echo 'Include ssh_config.d/*.conf' >ssh_config; {furnish}
             exec setpriv --reuid=daemon --regid=daemon --clear-groups env -u XDG_RUNTIME_DIR HOME=/nonexistent {exec} {ssh}"
        );
        lab.laptop().run(["unshare", "-m", "sh", "-c", &script])
    })
}

#[test]
fn ssh_reads_what_root_has_included_for_an_ordinary_user() {
    let lab = Lab::new();
    for address in [Lab::SERVER_4, Lab::SERVER_6] {
        // A link, as systemd ships one, and an include in an included file, as Fedora has it.
        let furnish = format!(
            "echo 'Host unix/*' >back-ends/systemd; ln -s ../back-ends/systemd ssh_config.d/20-systemd-ssh-proxy.conf
             echo 'Include /etc/ssh/back-ends/host' >ssh_config.d/50-own.conf
             printf 'Host the-server\\n HostName {address}\\n' >back-ends/host"
        );
        for ssh in ssh_with_a_configuration(&lab, &furnish) {
            assert_eq!(ssh.expect_success(), "over ssh\n", "{address}");
        }
    }
}

#[test]
fn what_ssh_refuses_in_its_configuration_stays_refused() {
    let lab = Lab::new();
    for fault in ["chmod 0664", "chmod 0646", "chown 1234"] {
        let furnish = format!(
            "printf 'Host the-server\\n HostName {}\\n' >ssh_config.d/50-own.conf; {fault} ssh_config.d/50-own.conf",
            Lab::SERVER_4
        );
        for ssh in ssh_with_a_configuration(&lab, &furnish) {
            let told = ssh.expect_code(255).stderr;
            assert!(told.contains("Bad owner or permissions on /etc/ssh/ssh_config.d/50-own.conf"), "{fault}: {told}");
        }
    }
}

#[test]
fn a_program_that_loses_its_files_rights_is_told_of_with_the_remedy() {
    let lab = Lab::new();
    let profiles = Profiles::accepting();
    let tool = lab.copy_of("true", "set-id");
    let words = ["--", tool.to_str().expect("plain text")];
    for (mode, told) in [(0o4755, true), (0o755, false)] {
        std::fs::set_permissions(&tool, PermissionsExt::from_mode(mode)).expect("the copy is ours");
        let said = exec_as_nobody(&lab, &profiles, &words).expect_code(0).stderr;
        assert_eq!(said.contains("as root: sudo portreeve exec"), told, "{mode:o} {said}");
        assert_eq!(said.is_empty(), !told, "{said}");
    }
    std::fs::set_permissions(&tool, PermissionsExt::from_mode(0o4755)).expect("the copy is ours");
    assert_eq!(Router::start(&lab, Way::Exec, &profiles).run([&tool]).expect_code(0).stderr, "", "root loses nothing");
}

#[test]
fn the_hosts_network_is_as_before() {
    let lab = Lab::new();
    let profiles = Profiles::accepting();
    let router = Router::start(&lab, Way::Exec, &profiles);
    let state = || {
        let commands = "ip link; ip -4 address; ip -6 address; ip rule; ip -6 rule; ip route show table all; ip -6 route show table all; nft list ruleset";
        lab.laptop().run(["sh", "-c", commands]).expect_success()
    };
    let before = state();
    let during = router.spawn(["sh", "-c", "curl -sS http://example.com/hello; sleep 20"]);
    let mut during = during;
    assert_eq!(during.line(), "hello from the lab");
    assert_eq!(state(), before);
    drop(during);
    assert_eq!(state(), before);
}

#[test]
fn sigkill_of_the_router_ends_the_program_too() {
    let lab = Lab::new();
    let profiles = Profiles::accepting();
    let router = Router::start(&lab, Way::Exec, &profiles);
    let marker = lab.dir().join("alive").display().to_string();
    let script = format!("setsid sh -c 'while :; do date +%s%N >{marker}; sleep 0.05; done' & echo started; sleep 60");
    let mut exec = router.spawn(["sh", "-c", &script]);
    assert_eq!(exec.line(), "started");
    exec.kill();
    crate::harness::eventually("the daemon that the program left is gone", || {
        let read = || std::fs::read_to_string(&marker).ok();
        let first = read();
        std::thread::sleep(std::time::Duration::from_millis(300));
        (first == read()).then_some(())
    });
}

#[test]
fn host_loopback_is_reached_only_where_it_is_asked_for() {
    let lab = Lab::new();
    let profiles = Profiles::accepting();
    let set = profiles.path().display().to_string();
    let portreeve = binary().display().to_string();
    let mut servers = Vec::new();
    for address in ["127.0.0.1", "::1"] {
        let mut server = lab.laptop().spawn(crate::harness::probe(&["serve", address, "7"]));
        assert_eq!(server.line(), "serving");
        servers.push(server);
    }
    for address in ["169.254.17.1", "fd17::1", "host.portreeve.internal"] {
        let connect = crate::harness::probe(&["connect", address, "7"]);
        let exec = |flags: &[&str]| {
            let words = [portreeve.as_str(), "exec", "--profiles", &set].into_iter().chain(flags.iter().copied()).chain(["--"]);
            let words: Vec<String> = words.map(str::to_owned).chain(connect.clone()).collect();
            lab.laptop().run(words).stdout
        };
        assert!(exec(&["--host-loopback"]).contains("\"OK\""), "{address}");
        assert!(!exec(&[]).contains("\"OK\""), "{address} without --host-loopback");
    }
}

#[test]
fn a_closed_tun_device_is_named_with_its_remedy() {
    let lab = Lab::new();
    let profiles = Profiles::accepting();
    let [copy, set] = [binary_for_everyone(&lab), profiles.path().to_owned()].map(|path| path.display().to_string());
    // A device file of the same numbers but mode 0600, over the real one, seen by this one program.
    let nobody = NOBODY.join(" ");
    let script = format!(
        "mount -t tmpfs -o dev tmpfs /mnt && mknod -m 0600 /mnt/tun c 10 200 && mount --bind /mnt/tun /dev/net/tun && exec {nobody} env -u XDG_RUNTIME_DIR {copy} exec --profiles {set} -- true"
    );
    let told = lab.laptop().run(["unshare", "-m", "sh", "-c", &script]).expect_code(125);
    assert!(told.stderr.contains("/dev/net/tun is mode 0600") && told.stderr.contains("chmod 0666 /dev/net/tun"), "{told:?}");
}
