//! `route show`: the printed commands do what `up` does.

use portreeve::netlink::{Host, Mark, Plan, RouteSocket, commands};

use super::laptop::{Laptop, MARK, assert_same, plan, plan_with};

fn printed(laptop: &Laptop, plan: &Plan) -> String {
    let host = laptop.inner.inside(|| Host::read(&mut RouteSocket::open().expect("a socket")).expect("the host"));
    commands(plan, &host, Mark::new(MARK.into()).expect("a mark")).join("\n")
}

/// What both ways must agree on: all but the device's own particulars and the owner of the live tables.
fn state(laptop: &Laptop) -> String {
    let text = laptop.snapshot();
    let same = |line: &&str| {
        let volatile = ["portreeve0: <", "inet6 fe80", "local fe80", "valid_lft", "conf.portreeve0.", "linkdown", "flags owner"];
        !volatile.iter().any(|word| line.contains(word))
            && !line.contains("fe80::/64 dev portreeve0")
            && !line.contains("ff00::/8 dev portreeve0")
    };
    // A persistent device without a reader has no carrier.
    let text = text.replace(" linkdown", "").replace(" # progname nft", "");
    // nft lists tables in the order in which they were made, which says nothing; inside a chain the texts are the same.
    let mut lines: Vec<&str> = text.lines().filter(same).map(str::trim_end).filter(|line| !line.is_empty()).collect();
    lines.sort_unstable();
    lines.join("\n")
}

#[test]
fn the_printed_commands_make_the_state_that_up_makes() {
    for (extra, filter) in [
        ("", 0),
        ("failure = \"closed\"\n", 2),
        ("[exclude]\nnetworks = [\"192.0.2.0/24\", \"2001:db8:1::/48\"]\ninterfaces = [\"v9\"]\nusers = [1000]\n", 0),
        ("[dns]\nstubs = [\"127.0.0.53\", \"::1\"]\nport = 5300\n", 1),
    ] {
        let laptop = Laptop::new();
        laptop.inner.run(&format!("sysctl -qw net.ipv4.conf.v0.rp_filter={filter}"));
        if filter == 2 {
            laptop.inner.run("ip -6 route del default");
        }
        let plan = plan_with(extra);
        let script = printed(&laptop, &plan);
        let mut installed = laptop.up(&plan).expect("up");
        laptop.inner.inside(|| installed.redirect_stubs(plan.dns.port)).expect("redirect");
        let wanted = state(&laptop);
        laptop.inner.inside(|| installed.remove()).expect("removed");
        laptop.inner.run(&format!("set -e\n{script}\n"));
        assert_same(&state(&laptop), &wanted);
    }
}

#[test]
fn the_printed_commands_of_a_host_without_ipv6_run_there() {
    let laptop = Laptop::new();
    laptop.inner.run("sysctl -qw net.ipv6.conf.all.disable_ipv6=1 net.ipv6.conf.default.disable_ipv6=1");
    let script = printed(&laptop, &plan());
    assert!(!script.contains("ip -6"));
    laptop.inner.run(&format!("set -e\n{script}\n"));
    assert!(laptop.inner.run("ip route get 203.0.113.10").contains("dev portreeve0"));
}

#[test]
fn the_plan_can_be_shown_without_privilege() {
    let laptop = Laptop::new();
    let as_root = printed(&laptop, &plan());
    let as_nobody = laptop.inner.inside(|| {
        let nobody = rustix::process::Uid::from_raw(65534);
        rustix::thread::set_thread_res_uid(nobody, nobody, nobody).expect("root may become nobody");
        let host = Host::read(&mut RouteSocket::open().expect("a socket")).expect("the host");
        commands(&plan(), &host, Mark::new(MARK.into()).expect("a mark")).join("\n")
    });
    assert_eq!(as_nobody, as_root);
    assert!(as_root.contains("ip -4 rule add not fwmark 0x2a000000/0xff000000 lookup 1717 priority 1700 protocol kernel"));
}
