//! How names are asked for inside: by resolv.conf and our listeners, and by no socket that leads outside.

use super::{CALLERS, stderr, stdout};

/// Runs a script as the caller after `prepare` in a mount namespace of its own; `exec` in it is `portreeve exec --`.
fn prepared(caller: super::Caller, prepare: &str, script: &str) -> std::process::Output {
    let mut unshare = std::process::Command::new("unshare");
    let line = format!("set -e; {prepare}; exec \"$@\"");
    unshare.args(["--mount", "sh", "-c", &line, "sh"]);
    let exec = caller.exec(["sh", "-c", script]);
    unshare.arg(exec.get_program()).args(exec.get_args()).current_dir("/tmp").output().expect("unshare runs")
}

#[test]
fn a_resolv_conf_that_names_a_server_stays_as_it_is() {
    let text = "search example.org\nnameserver 192.0.2.53\n";
    let prepare = "mount -t tmpfs tmpfs /mnt; printf 'search example.org\\nnameserver 192.0.2.53\\n' >/mnt/f; chmod 644 /mnt/f; \
                   mount --bind /mnt/f /etc/resolv.conf";
    for caller in CALLERS {
        let output = prepared(caller, prepare, "cat /etc/resolv.conf");
        assert_eq!(stdout(&output), text, "{caller:?} {}", stderr(&output));
    }
}

#[test]
fn one_that_names_none_is_covered_inside_only() {
    let prepare =
        "mount -t tmpfs tmpfs /mnt; echo 'search example.org' >/mnt/f; chmod 644 /mnt/f; mount --bind /mnt/f /etc/resolv.conf";
    for caller in CALLERS {
        let output = prepared(caller, prepare, "cat /etc/resolv.conf");
        assert_eq!(stdout(&output), "search example.org\nnameserver 127.0.0.53\n", "{caller:?} {}", stderr(&output));
    }
    let outside = std::fs::read_to_string("/etc/resolv.conf").unwrap_or_default();
    assert!(!outside.contains("search example.org"));
}

/// Like a host with systemd-resolved and nscd: resolv.conf is a link, and sockets answer for names.
const RESOLVED: &str = "mount -t tmpfs tmpfs /run; mkdir -p /run/systemd/resolve /run/nscd; \
     cd /run/systemd/resolve; printf 'nameserver 127.0.0.54\\n' >stub-resolv.conf; \
     /usr/bin/python3 -c 'import socket; [socket.socket(socket.AF_UNIX).bind(p) for p in (\"io.systemd.Resolve\", \"/run/nscd/socket\")]'; \
     mount -t tmpfs tmpfs /etc; ln -s ../run/systemd/resolve/stub-resolv.conf /etc/resolv.conf; chmod -R a+rX /etc /run; cd /tmp";

#[test]
fn the_sockets_of_resolved_and_nscd_are_masked_and_the_linked_resolv_conf_is_not() {
    for caller in CALLERS {
        let output = prepared(caller, RESOLVED, "cat /etc/resolv.conf; ls /run/systemd/resolve /run/nscd");
        let expected = "nameserver 127.0.0.54\n/run/nscd:\n\n/run/systemd/resolve:\nstub-resolv.conf\n";
        assert_eq!(stdout(&output), expected, "{caller:?} {}", stderr(&output));
    }
}

#[test]
fn every_loopback_address_that_may_be_asked_is_listened_on() {
    for caller in CALLERS {
        let output = prepared(caller, RESOLVED, "ss -Hlntu | tr -s ' ' | cut -d' ' -f1,5 | sort");
        let expected = "tcp 127.0.0.1:53\ntcp 127.0.0.53:53\ntcp 127.0.0.54:53\ntcp [::1]:53\n\
                        udp 127.0.0.1:53\nudp 127.0.0.53:53\nudp 127.0.0.54:53\nudp [::1]:53\n";
        assert_eq!(stdout(&output), expected, "{caller:?} {}", stderr(&output));
    }
}

#[test]
fn a_link_that_leads_nowhere_does_not_stop_the_command() {
    let prepare = "mount -t tmpfs tmpfs /etc; ln -s ../run/nowhere /etc/resolv.conf; chmod a+rX /etc";
    for caller in CALLERS {
        let output = prepared(caller, prepare, "echo up");
        assert_eq!(stdout(&output), "up\n", "{caller:?} {}", stderr(&output));
    }
}
