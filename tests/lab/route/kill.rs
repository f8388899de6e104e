//! After SIGKILL: closed until `cleanup` or the next `up`, open where the plan says so.

use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, Stdio};

use rustix::mount::{MountFlags, MountPropagationFlags, mount, mount_change};
use rustix::thread::UnshareFlags;

use portreeve::netlink::{Cleaned, CleanupError, Install, Plan, cleanup};

use super::laptop::{Laptop, MARK, assert_same, plan, plan_with};

/// Names the run directory; set only for the process that is to be killed.
const RUN_DIR: &str = "PORTREEVE_LAB_RUN_DIR";
/// Keys for its plan.
const EXTRA: &str = "PORTREEVE_LAB_PLAN";

/// Not a test of its own: the other tests start this process again inside the laptop, with [`RUN_DIR`] set, to kill it.
#[test]
fn a_process_that_is_up_until_it_is_killed() {
    let Ok(run_dir) = std::env::var(RUN_DIR) else { return };
    let plan = plan_with(&std::env::var(EXTRA).unwrap_or_default());
    let _installed = Install::up(&plan, Path::new(&run_dir)).expect("up");
    println!("\nis up");
    loop {
        std::thread::park();
    }
}

/// A router in a process of its own.
struct Router(Child);

impl Router {
    fn up(laptop: &Laptop, extra: &str) -> Self {
        let own = std::env::current_exe().expect("the test binary");
        let mut command = laptop.inner.command(&own.display().to_string());
        command.args(["--exact", "route::kill::a_process_that_is_up_until_it_is_killed", "--nocapture"]);
        let mut child = command
            .env("HOME", laptop.dir.path().join("home"))
            .env(RUN_DIR, laptop.run_dir())
            .env(EXTRA, extra)
            .stdout(Stdio::piped())
            .spawn()
            .expect("the test binary");
        let output = BufReader::new(child.stdout.take().expect("a pipe"));
        assert!(output.lines().map_while(Result::ok).any(|line| line == "is up"), "the router did not come up");
        Self(child)
    }

    /// SIGKILL.
    fn kill(mut self) {
        self.0.kill().expect("it lives");
        self.0.wait().expect("it is ours");
    }
}

/// What a killed router leaves.
pub(super) fn leave_behind(laptop: &Laptop) {
    Router::up(laptop, "").kill();
}

fn cleaned(laptop: &Laptop) -> Result<Cleaned, CleanupError> {
    let run_dir = laptop.run_dir();
    laptop.inner.inside(move || cleanup(&run_dir))
}

/// Neither a program, nor a bound one, nor a marked socket that goes where the TUN was.
fn assert_closed(laptop: &Laptop) {
    for to in ["203.0.113.10", "2001:db8::10", "10.9.0.1", "fd09::1"] {
        assert!(!laptop.pings("", to), "{to}");
        assert!(!laptop.pings("-I v0", to), "bound to {to}");
    }
}

#[test]
fn a_killed_router_leaves_the_host_closed_and_cleanup_restores_it() {
    let laptop = Laptop::new();
    laptop.inner.run("sysctl -qw net.ipv4.conf.v0.rp_filter=1");
    let before = laptop.snapshot();
    let router = Router::up(&laptop, "");
    assert!(matches!(cleaned(&laptop), Err(CleanupError::Active(_))));
    router.kill();
    assert_closed(&laptop);
    assert_eq!(cleaned(&laptop).expect("cleanup"), Cleaned::Restored);
    assert_same(&laptop.snapshot(), &before);
    for to in ["203.0.113.10", "2001:db8::10"] {
        assert!(laptop.pings("", to), "{to}");
    }
    assert_eq!(cleaned(&laptop).expect("again"), Cleaned::Nothing);
    assert_same(&laptop.snapshot(), &before);
}

#[test]
fn cleanup_from_another_run_directory_says_that_a_router_is_active() {
    let laptop = Laptop::new();
    let installed = laptop.up(&plan()).expect("up");
    let during = laptop.snapshot();
    let other = laptop.dir.path().join("other");
    let refused = laptop.inner.inside(move || cleanup(&other));
    assert!(matches!(refused, Err(CleanupError::ActiveElsewhere)), "{refused:?}");
    assert_same(&laptop.snapshot(), &during);
    laptop.inner.inside(|| installed.remove()).expect("removed");
}

#[test]
fn a_full_disk_keeps_nothing_from_being_put_right_or_taken_back() {
    let laptop = Laptop::new();
    let before = laptop.snapshot();
    let dir = tempfile::tempdir().expect("a folder");
    let run_dir = dir.path().join("run");
    laptop.inner.inside(|| {
        // SAFETY: this thread is alone with the file system attributes and mounts that it gets here.
        unsafe { rustix::thread::unshare_unsafe(UnshareFlags::NEWNS | UnshareFlags::FS) }.expect("lab tests run as root");
        mount_change("/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC).expect("mounts of our own");
        mount("none", dir.path(), "tmpfs", MountFlags::empty(), Some(c"size=128k")).expect("a small disk");
        let mut installed = Install::up(&plan(), &run_dir).expect("up");
        let during = laptop.snapshot();
        while std::fs::OpenOptions::new()
            .create(true)
            .append(true)
            .open(dir.path().join("fill"))
            .and_then(|mut fill| fill.write_all(&[0; 1024]))
            .is_ok()
        {}
        // Others' rule comes before ours, and the guard goes: both take the undo file or a script.
        laptop
            .inner
            .run("ip rule add not fwmark 0xca6c table 51820 && nft flush ruleset && ip link add v2 type veth peer name v3");
        installed.repair().expect("a full disk is no obstacle");
        let rules = laptop.inner.run("ip rule");
        assert!(rules.find("lookup 1717") < rules.find("lookup 51820"), "{rules}");
        installed.lead_beside(&[]).expect("what dies with us needs no disk either");
        laptop.inner.run("ip rule del table 51820 && ip link del v2");
        installed.repair().expect("and back");
        assert_same(&laptop.snapshot(), &during);
        installed.remove().expect("removed");
    });
    assert_same(&laptop.snapshot(), &before);
}

#[test]
fn a_router_that_is_killed_where_ipv6_leads_nowhere_is_cleaned_up_too() {
    let laptop = Laptop::new();
    laptop.inner.run("ip -6 route del default");
    let before = laptop.snapshot();
    Router::up(&laptop, "").kill();
    assert_closed(&laptop);
    laptop.inner.run("ip -6 route add default via fd09::1");
    assert_closed(&laptop);
    laptop.inner.run("ip -6 route del default");
    assert_eq!(cleaned(&laptop).expect("cleanup"), Cleaned::Restored);
    assert_same(&laptop.snapshot(), &before);
}

#[test]
fn nothing_is_written_to_the_users_home() {
    let laptop = Laptop::new();
    let home = laptop.dir.path().join("home");
    std::fs::create_dir(&home).expect("a folder");
    Router::up(&laptop, "").kill();
    cleaned(&laptop).expect("cleanup");
    assert_eq!(std::fs::read_dir(&home).expect("the folder").count(), 0);
}

#[test]
fn a_killed_router_is_refused_at_once_and_not_after_a_timeout() {
    let laptop = Laptop::new();
    Router::up(&laptop, "").kill();
    let begin = std::time::Instant::now();
    let text = "import socket\nfor to in ['203.0.113.10', '2001:db8::10']:\n  s = socket.socket(socket.AF_INET6 if ':' in to else \
                socket.AF_INET)\n  s.settimeout(20)\n  print(s.connect_ex((to, 80)))\n";
    let path = super::laptop::program(laptop.dir.path(), "connect.py", text);
    // EHOSTUNREACH
    assert_eq!(laptop.inner.run(&format!("python3 {path}")), "113\n113\n");
    assert!(begin.elapsed().as_secs() < 10);
    cleaned(&laptop).expect("cleanup");
}

#[test]
fn a_gateway_can_be_set_while_the_host_is_closed() {
    let laptop = Laptop::new();
    laptop.inner.run("ip route del default");
    Router::up(&laptop, "").kill();
    laptop.inner.run("ip route add default via 10.9.0.1 dev v0");
    cleaned(&laptop).expect("cleanup");
    assert!(laptop.pings("", "203.0.113.10"));
}

#[test]
fn a_killed_router_that_fails_open_leaves_the_network_usable() {
    let laptop = Laptop::new();
    let before = laptop.snapshot();
    let router = Router::up(&laptop, "failure = \"open\"\n");
    assert!(!laptop.pings("", "203.0.113.10"), "while it lives it decides");
    assert!(!laptop.pings("-I v0", "203.0.113.10"), "and its guard holds");
    router.kill();
    for to in ["203.0.113.10", "2001:db8::10"] {
        assert!((0..5).any(|_| laptop.pings("", to)), "{to}");
    }
    assert_eq!(cleaned(&laptop).expect("cleanup"), Cleaned::Restored);
    assert_same(&laptop.snapshot(), &before);
}

#[test]
fn up_after_sigkill_takes_over_and_remove_restores_what_was_before_the_first() {
    let laptop = Laptop::new();
    laptop.inner.run("sysctl -qw net.ipv4.conf.v0.rp_filter=1");
    let before = laptop.snapshot();
    Router::up(&laptop, "").kill();
    let second = Plan { mark: portreeve::netlink::Mark::new(0x2c00_0000).ok(), table: 1800, priority: 1800, ..plan() };
    let installed = laptop.up(&second).expect("up takes over");
    let during = laptop.snapshot();
    assert!(during.contains("fwmark 0x2c000000/0xff000000 lookup 1800"), "{during}");
    assert!(!during.contains("0x2a000000") && !during.contains("table 1717"), "{during}");
    assert!(laptop.pings("-m 738197504", "203.0.113.10"), "the new mark passes");
    assert!(!laptop.pings(&format!("-m {MARK}"), "203.0.113.10"), "the old one does not");
    laptop.inner.inside(|| installed.remove()).expect("removed");
    assert_same(&laptop.snapshot(), &before);
}

#[test]
fn up_that_fails_after_sigkill_leaves_the_host_closed() {
    let laptop = Laptop::new();
    let before = laptop.snapshot();
    Router::up(&laptop, "").kill();
    let taken = laptop.inner.inside(|| portreeve::tun::Queue::open("portreeve0").expect("a device"));
    laptop.up(&plan()).expect_err("the device is taken");
    drop(taken);
    assert_closed(&laptop);
    assert_eq!(cleaned(&laptop).expect("cleanup"), Cleaned::Restored);
    assert_same(&laptop.snapshot(), &before);
}

#[test]
fn an_undo_file_is_not_acted_upon_in_another_namespace() {
    let laptop = Laptop::new();
    Router::up(&laptop, "").kill();
    let run_dir = laptop.run_dir();
    let elsewhere = laptop.gateway.inside(move || cleanup(&run_dir));
    assert!(matches!(elsewhere, Err(CleanupError::Elsewhere(_))), "{elsewhere:?}");
    assert_closed(&laptop);
    cleaned(&laptop).expect("cleanup");
}

#[test]
fn a_host_without_nft_is_told_which_package_it_needs_and_is_left_alone() {
    let laptop = Laptop::new();
    let before = laptop.snapshot();
    let own = std::env::current_exe().expect("the test binary");
    let line = format!(
        "mount -t tmpfs none /usr/sbin && exec {} --exact route::kill::a_process_that_is_up_until_it_is_killed --nocapture",
        own.display()
    );
    let mut command = laptop.inner.command("unshare");
    let output = command.args(["-m", "sh", "-c", &line]).env(RUN_DIR, laptop.run_dir()).output().expect("unshare");
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    let sentence = portreeve::netlink::NftError::Missing.to_string();
    assert_eq!(sentence, "the program nft is not installed; install the package nftables");
    assert!(!output.status.success() && said.contains("Missing"), "{said}");
    assert_same(&laptop.snapshot(), &before);
}

#[test]
fn up_and_cleanup_without_privilege_are_refused_as_such() {
    let laptop = Laptop::new();
    let before = laptop.snapshot();
    let run_dir = laptop.run_dir();
    let refused = laptop.inner.inside(move || {
        // This thread alone becomes nobody; the others keep their identity.
        let nobody = rustix::process::Uid::from_raw(65534);
        rustix::thread::set_thread_res_uid(nobody, nobody, nobody).expect("root may become nobody");
        (Install::up(&plan(), &run_dir).map(drop), cleanup(&run_dir).map(drop))
    });
    let (Err(up), Err(cleanup)) = refused else { panic!("both are refused") };
    assert!(up.is_privilege(), "{up}");
    assert!(cleanup.is_privilege(), "{cleanup}");
    assert_same(&laptop.snapshot(), &before);
}
