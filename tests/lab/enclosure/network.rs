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
fn settings_of_the_network_that_programs_can_tell_are_as_outside() {
    let names =
        "ipv4/ip_default_ttl ipv4/ip_local_port_range ipv4/tcp_keepalive_time ipv6/bindv6only ipv6/conf/default/hop_limit";
    let set = "cd /proc/sys/net; for pair in ipv4/ip_default_ttl=77 'ipv4/ip_local_port_range=40000 40999' ipv4/tcp_keepalive_time=600 \
               ipv6/bindv6only=1 ipv6/conf/default/hop_limit=99; do echo \"${pair#*=}\" >${pair%%=*}; done; \
               cd /tmp; exec \"$@\"";
    let show = format!("cd /proc/sys/net; cat {names}");
    for caller in CALLERS {
        let exec = caller.exec(["sh", "-c", &show]);
        let mut unshare = std::process::Command::new("unshare");
        unshare.args(["-n", "sh", "-c", set, "sh"]).arg(exec.get_program()).args(exec.get_args());
        let output = unshare.output().expect("unshare runs");
        assert_eq!(stdout(&output), "77\n40000\t40999\n600\n1\n99\n", "{caller:?} {}", stderr(&output));
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
        let exec = [binary, "exec".as_ref(), "--".as_ref()];
        let script = ["sh", "-c", "ip -o addr show dev portreeve0; id -u; exit 5"].map(AsRef::as_ref);
        // From the second inside on all have the same PID, each in its own namespace.
        for depth in [1, 2] {
            let output = caller.exec(exec.repeat(depth).into_iter().chain(script)).output().expect("runs");
            assert_eq!(output.status.code(), Some(5), "{caller:?} {}", stderr(&output));
            let text = stdout(&output);
            assert!(text.contains("inet ") && text.ends_with(&format!("\n{}\n", caller.id())), "{text}");
            assert_eq!(stderr(&output), "", "{caller:?} {depth}");
        }
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
fn the_root_of_an_ordinary_users_namespace_has_enclosures_too() {
    let script = "test $(id -u) = 0 && ip -o addr show dev portreeve0 | wc -l";
    let mut unshare = Caller::Nobody.command();
    // The folder for sockets of root in /tmp may be there and another's; nobody's runtime folder is not there at all.
    unshare.args(["unshare", "-Ur"]).arg(super::binary()).args(["exec", "--", "sh", "-c", script]);
    let output = unshare.env_remove("XDG_RUNTIME_DIR").output().expect("runs");
    assert_eq!(stdout(&output), "2\n", "{}", stderr(&output));
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
