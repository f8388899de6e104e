//! What the network inside looks like: one TUN, both families, nothing of the host's.

use super::{CALLERS, Caller, stderr, stdout};

#[test]
fn the_tun_carries_both_families_and_both_default_routes() {
    for caller in CALLERS {
        let output =
            caller.shell("ip -o addr show dev portreeve0; ip route; ip -6 route; cat /sys/class/net/portreeve0/tx_queue_len");
        let text = stdout(&output);
        assert!(text.contains("inet ") && text.contains("inet6 "), "{caller:?} {text} {}", stderr(&output));
        assert!(!text.contains("tentative"), "{text}");
        assert_eq!(text.matches("default dev portreeve0").count(), 2, "{text}");
        assert!(text.ends_with("\n1000\n"), "{text}");
    }
}

#[test]
fn no_other_link_is_there_and_sys_shows_the_same() {
    for caller in CALLERS {
        let output = caller.shell("ls /sys/class/net; ip -o link | wc -l");
        assert_eq!(stdout(&output), "lo\nportreeve0\n2\n", "{caller:?} {}", stderr(&output));
    }
}

#[test]
fn what_is_mounted_below_sys_is_still_there() {
    let script = "find /sys/fs/cgroup /sys/kernel/security -maxdepth 2 -name 'cgroup.procs' -o -maxdepth 1 | sort";
    for caller in CALLERS {
        let outside = caller.command().args(["sh", "-c", script]).output().expect("runs");
        assert_eq!(stdout(&caller.shell(script)), stdout(&outside), "{caller:?}");
    }
}

#[test]
fn loopback_works_and_so_does_an_unprivileged_ping() {
    for caller in CALLERS {
        let output = caller.shell("ping -c1 -W10 127.0.0.1 && ping -c1 -W10 ::1; cat /proc/sys/net/ipv4/ping_group_range");
        assert_eq!(output.status.code(), Some(0), "{caller:?} {}", stderr(&output));
        let id = caller.id();
        assert!(stdout(&output).ends_with(&format!("\n{id}\t{id}\n")), "{}", stdout(&output));
    }
}

#[test]
fn a_privileged_port_can_be_listened_on() {
    let script = "import socket; [socket.create_server(a, family=f) for f, a in \
                  ((socket.AF_INET, ('127.0.0.1', 80)), (socket.AF_INET6, ('::1', 80)))]; print('listening')";
    for caller in CALLERS {
        let output = caller.exec(["/usr/bin/python3", "-c", script]).output().expect("runs");
        assert_eq!(stdout(&output), "listening\n", "{caller:?} {}", stderr(&output));
    }
}

#[test]
fn router_advertisements_are_not_taken() {
    let output = Caller::Nobody.shell("cat /proc/sys/net/ipv6/conf/portreeve0/accept_ra");
    assert_eq!(stdout(&output), "0\n");
}

#[test]
fn enclosures_nest() {
    for caller in CALLERS {
        let binary = super::binary().as_os_str();
        let nested = ["exec", "--", "sh", "-c", "ip -o addr show dev portreeve0; id -u; exit 5"].map(AsRef::as_ref);
        let output = caller.exec(std::iter::once(binary).chain(nested)).output().expect("runs");
        assert_eq!(output.status.code(), Some(5), "{caller:?} {}", stderr(&output));
        let text = stdout(&output);
        assert!(text.contains("inet ") && text.ends_with(&format!("\n{}\n", caller.id())), "{text}");
    }
}

#[test]
fn the_root_of_a_user_namespace_and_a_named_network_namespace_have_enclosures_too() {
    let script = "test $(id -u) = 0 && ip -o addr show dev portreeve0 | wc -l";
    let shells = [&["-Ur"][..], &["-n"], &["-Urn"], &["-Urpf", "--mount-proc"]];
    for flags in shells {
        let mut unshare = std::process::Command::new("unshare");
        let output = unshare.args(flags).arg(super::binary()).args(["exec", "--", "sh", "-c", script]).output().expect("runs");
        assert_eq!(stdout(&output), "2\n", "{flags:?} {}", stderr(&output));
    }
}

#[test]
fn the_network_outside_stays_as_it_was() {
    let shown = || {
        let outputs = [&["link"][..], &["addr"], &["route", "show", "table", "all"], &["rule"]]
            .map(|arguments| stdout(&std::process::Command::new("ip").arg("-o").args(arguments).output().expect("ip runs")));
        // Lifetimes count down by themselves.
        outputs.join("\n").split_whitespace().filter(|word| !word.ends_with("sec")).collect::<Vec<_>>().join(" ")
    };
    let before = shown();
    for caller in CALLERS {
        assert_eq!(caller.exec(["true"]).status().expect("runs").code(), Some(0));
    }
    assert_eq!(shown(), before);
}
