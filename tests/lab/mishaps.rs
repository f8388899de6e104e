//! What fails beneath a router that starts, runs or ends: it says so, stays closed where it cannot know better, and goes on when it can.

use std::path::PathBuf;

use rustix::process::Signal;
use serde_json::Value;

use crate::harness::{Lab, Profiles, Router, Running, Way, binary, connect, eventually};
use crate::whole::state;

/// A program `nft` before the real one: it takes its time while the file "slow" is beside it, and fails while "broken" is.
struct Nft {
    dir: PathBuf,
}

impl Nft {
    fn new(lab: &Lab) -> Self {
        let dir = lab.dir().join("bin").join("nft");
        std::fs::create_dir_all(&dir).expect("the lab's folder is ours");
        let script = "#!/bin/sh\nhere=${0%/*}\n[ ! -e $here/slow ] || sleep 0.3\n\
            [ ! -e $here/broken ] || { echo 'Error: broken' >&2; exit 1; }\nexec /usr/sbin/nft \"$@\"\n";
        std::fs::write(dir.join("nft"), script).expect("the folder is ours");
        std::fs::set_permissions(dir.join("nft"), std::os::unix::fs::PermissionsExt::from_mode(0o755)).expect("the file is ours");
        Self { dir }
    }

    fn set(&self, how: &str, on: bool) {
        let flag = self.dir.join(how);
        let changed = if on { std::fs::write(flag, "") } else { std::fs::remove_file(flag) };
        changed.expect("the folder is ours");
    }

    /// Starts the router with it, writing to the file `log`.
    fn up(&self, lab: &Lab, profiles: &Profiles) -> Running {
        let set = profiles.path().display();
        let script = format!(
            "PATH={}:$PATH exec {} up --foreground --profiles {set} 2>{}",
            self.dir.display(),
            binary().display(),
            self.log().display()
        );
        lab.laptop().spawn(["sh", "-c", &script])
    }

    /// The same until it is active, with a router for its verbs alone.
    fn active<'a>(&self, lab: &Lab, profiles: &'a Profiles) -> (Router<'a>, Running) {
        let router = Router::start(lab, Way::Direct, profiles);
        let daemon = self.up(lab, profiles);
        eventually("the router is active", || is_active(&router));
        (router, daemon)
    }

    fn log(&self) -> PathBuf {
        self.dir.join("log")
    }

    fn said(&self) -> String {
        std::fs::read_to_string(self.log()).unwrap_or_default()
    }
}

fn is_active(router: &Router<'_>) -> Option<()> {
    (router.verb(&["status"]).code() == 0).then_some(())
}

fn status(router: &Router<'_>) -> Value {
    let told = router.verb(&["status", "--json"]).expect_success();
    serde_json::from_str(&told).unwrap_or_else(|error| panic!("{error}: {told}"))
}

fn has_note(router: &Router<'_>, text: &str) -> bool {
    let status = status(router);
    let notes = status.get("notes").and_then(Value::as_array).expect("status has notes");
    notes.iter().filter_map(Value::as_str).any(|note| note.contains(text))
}

#[test]
fn a_signal_that_comes_while_up_starts_ends_it_with_everything_as_it_was() {
    for signal in [Signal::TERM, Signal::INT, Signal::QUIT] {
        let lab = Lab::new();
        let before = state(&lab);
        let profiles = Profiles::accepting();
        let nft = Nft::new(&lab);
        nft.set("slow", true);
        let daemon = nft.up(&lab, &profiles);
        eventually("the rules are there", || lab.laptop().run(["ip", "rule"]).stdout.contains("lookup 1717").then_some(()));
        daemon.signal(signal);
        let (status, _) = daemon.finish();
        assert!(status.success(), "{status}: {}", nft.said());
        assert_eq!(state(&lab), before, "{}", nft.said());
    }
}

#[test]
fn a_signal_without_meaning_ends_nothing() {
    let lab = Lab::new();
    let profiles = Profiles::accepting();
    let nft = Nft::new(&lab);
    let (router, _daemon) = nft.active(&lab, &profiles);
    let pid = status(&router).get("pid").and_then(Value::as_i64).expect("status tells the process");
    let pid = i32::try_from(pid).ok().and_then(rustix::process::Pid::from_raw).expect("a PID");
    for signal in [Signal::USR1, Signal::USR2, Signal::ALARM] {
        rustix::process::kill_process(pid, signal).expect("ours");
        let number = format!("signal {} means nothing", signal.as_raw());
        eventually("it says so", || nft.said().contains(&number).then_some(()));
    }
    assert_eq!(is_active(&router), Some(()));
    router.verb(&["down"]).expect_success();
}

#[test]
fn down_that_could_not_take_everything_back_says_so_and_cleanup_does() {
    let lab = Lab::new();
    let before = state(&lab);
    let profiles = Profiles::accepting();
    let nft = Nft::new(&lab);
    let (router, daemon) = nft.active(&lab, &profiles);
    nft.set("broken", true);
    let told = router.verb(&["down"]).expect_code(1);
    assert!(told.stderr.contains("not restored") && told.stderr.contains("portreeve cleanup"), "{told:?}");
    assert_eq!(daemon.finish().0.code(), Some(1));
    assert!(router.verb(&["status"]).expect_code(3).stdout.contains("machine is closed"));
    router.verb(&["cleanup"]).expect_success();
    assert_eq!(state(&lab), before);
}

#[test]
fn what_could_not_be_put_right_stands_in_status_and_is_tried_again_without_an_event() {
    let lab = Lab::new();
    let profiles = Profiles::accepting();
    let nft = Nft::new(&lab);
    let (router, _daemon) = nft.active(&lab, &profiles);
    let trouble = "routes and guard are not as they should be";
    assert!(!has_note(&router, trouble));
    nft.set("broken", true);
    lab.laptop().run(["nft", "flush", "ruleset"]).expect_success();
    // Rules need no nft, and are put right although the guard is not.
    lab.laptop().run(["ip", "rule", "del", "pref", "1700"]).expect_success();
    eventually("the rule is back", || lab.laptop().run(["ip", "rule"]).stdout.contains("1700:").then_some(()));
    eventually("the trouble is told", || has_note(&router, trouble).then_some(()));
    nft.set("broken", false);
    eventually("the guard is back", || {
        lab.laptop().run(["nft", "list", "tables"]).stdout.contains("netdev portreeve").then_some(())
    });
    eventually("the trouble is over", || (!has_note(&router, trouble)).then_some(()));
    let warnings = nft.said().matches("could not be put right").count();
    assert!((1..=3).contains(&warnings), "told once, not with each try: {}", nft.said());
    router.verb(&["down"]).expect_success();
}

#[test]
fn who_flushes_the_tables_again_and_again_is_not_taken_for_a_kernel_that_lacks_them() {
    let lab = Lab::new();
    let profiles = Profiles::accepting();
    let nft = Nft::new(&lab);
    let (router, _daemon) = nft.active(&lab, &profiles);
    lab.laptop().run(["sh", "-c", "for i in $(seq 60); do nft flush ruleset; sleep 0.0$((i % 9)); done"]).expect_success();
    for table in ["inet portreeve", "netdev portreeve"] {
        eventually("the guard is back", || lab.laptop().run(["nft", "list", "tables"]).stdout.contains(table).then_some(()));
    }
    let said = nft.said();
    assert!(said.contains("the guard was put right") && !said.contains("this kernel lacks"), "{said}");
    router.verb(&["down"]).expect_success();
}

#[test]
fn without_the_right_to_see_programs_everything_is_refused_and_status_says_why() {
    let lab = Lab::new();
    let profiles = Profiles::accepting();
    let router = Router::start(&lab, Way::Direct, &profiles);
    assert_eq!(connect(&router, Lab::SERVER_4, 80).said, "OK", "without a router");
    let (binary, set) = (binary().display().to_string(), profiles.path().display().to_string());
    let words = ["setpriv", "--bounding-set=-sys_ptrace", &binary, "up", "--foreground", "--profiles", &set];
    let _daemon = lab.laptop().spawn(words);
    eventually("the router is active", || is_active(&router));
    assert!(has_note(&router, "CAP_SYS_PTRACE is missing"));
    for address in [Lab::SERVER_4, Lab::SERVER_6] {
        assert_eq!(connect(&router, address, 80).said, "ECONNREFUSED", "{address}");
    }
    router.verb(&["down"]).expect_success();
}

/// What `up` may say nowhere: into a full disk, and to a reader that has gone.
#[test]
fn a_log_that_cannot_be_written_ends_nothing() {
    for to in ["2>/dev/full", "2> >(true)"] {
        let lab = Lab::new();
        let before = state(&lab);
        let profiles = Profiles::accepting();
        let router = Router::start(&lab, Way::Direct, &profiles);
        let script = format!("exec {} up --foreground --profiles {} {to}", binary().display(), profiles.path().display());
        let daemon = lab.laptop().spawn(["bash", "-c", &script]);
        eventually("the router is active", || is_active(&router));
        // Verdicts, a repair and a reload are told there.
        for address in [Lab::SERVER_4, Lab::SERVER_6] {
            assert_eq!(connect(&router, address, 80).said, "OK", "{to} {address}");
        }
        lab.laptop().run(["nft", "flush", "ruleset"]).expect_success();
        eventually("the guard is back", || {
            lab.laptop().run(["nft", "list", "tables"]).stdout.contains("netdev portreeve").then_some(())
        });
        profiles.write("user/faulty.toml", "name = \"faulty\"\nmode = \"none\"\n");
        daemon.signal(Signal::HUP);
        router.verb(&["reload"]).expect_code(6);
        assert_eq!(connect(&router, Lab::SERVER_4, 80).said, "OK", "{to}");
        router.verb(&["down"]).expect_success();
        assert!(daemon.finish().0.success(), "{to}");
        assert_eq!(state(&lab), before, "{to}");
    }
}

#[test]
fn tables_that_went_with_an_nft_that_was_killed_are_made_anew() {
    let lab = Lab::new();
    let profiles = Profiles::accepting();
    let router = Router::start(&lab, Way::Up, &profiles);
    let tables = || lab.laptop().run(["nft", "list", "tables"]).stdout;
    let live = || lab.laptop().run(["nft", "-s", "list", "table", "inet", "portreeve_live"]).stdout;
    let before = live();
    assert!(before.contains("chain output"), "{before}");
    let told = router.verb(&["status", "--json"]).expect_success();
    let pid = serde_json::from_str::<Value>(&told)
        .ok()
        .and_then(|status| status.get("pid")?.as_u64())
        .expect("status tells the process");
    lab.laptop().run(["pkill", "-KILL", "-P", &pid.to_string(), "-x", "nft"]).expect_success();
    eventually("they have gone", || (!tables().contains("portreeve_live")).then_some(()));
    eventually("they are there again", || (live() == before && tables().contains("arp portreeve_live")).then_some(()));
    // A server's answers leave by them.
    let mut server = lab.laptop().spawn(crate::harness::probe(&["serve", Lab::LAPTOP_4, "2000"]));
    assert_eq!(server.line(), "serving");
    let asked = lab.internet().run(crate::harness::probe(&["connect", Lab::LAPTOP_4, "2000"])).expect_success();
    assert!(asked.contains("\"OK\""), "{asked}");
    router.verb(&["down"]).expect_success();
}

#[test]
fn all_who_ask_for_the_end_at_once_hear_that_it_came() {
    let lab = Lab::new();
    let before = state(&lab);
    let profiles = Profiles::accepting();
    for _ in 0..4 {
        let mut router = Router::start(&lab, Way::Up, &profiles);
        let binary = binary().display().to_string();
        let all: Vec<Running> = (0..4).map(|_| lab.laptop().spawn([&binary, "down"])).collect();
        for (status, told) in all.into_iter().map(Running::finish) {
            // Who comes after the end finds nobody.
            assert!(status.success() && told.contains("is down") || status.code() == Some(3), "{status}: {told}");
        }
        assert!(router.daemon().take().expect("the daemon was started").finish().0.success());
        assert_eq!(state(&lab), before);
    }
}

#[test]
fn run_directory_that_is_full_or_read_only_is_said_also_by_a_router_in_the_background() {
    let lab = Lab::new();
    let before = state(&lab);
    let profiles = Profiles::accepting();
    let full = "mount -t tmpfs -o size=8k none /run && mkdir /run/portreeve && (cat /dev/zero >/run/fill 2>/dev/null || true)";
    let read_only = "mount --bind /run /run && mount -o remount,ro,bind /run";
    for (how, why) in [(full, "No space left on device"), (read_only, "Read-only file system")] {
        for words in ["up", "up --foreground"] {
            let script = format!("{how}; exec {} {words} --profiles {}", binary().display(), profiles.path().display());
            let told = lab.laptop().run(["unshare", "-m", "sh", "-c", &script]).expect_code(1);
            assert!(told.stderr.contains(why) && told.stderr.contains("/run/portreeve"), "{words}: {told:?}");
            assert_eq!(state(&lab), before, "{words}");
        }
    }
}

#[test]
fn router_whose_socket_somebody_removes_is_not_called_dead_and_ends_by_what_status_says() {
    let lab = Lab::new();
    let before = state(&lab);
    let profiles = Profiles::accepting();
    let mut router = Router::start(&lab, Way::Up, &profiles);
    lab.laptop().run(["rm", "/run/portreeve/portreeve.sock"]).expect_success();
    let told = router.verb(&["status"]).expect_code(4).stdout;
    assert!(told.contains("is active") && told.contains("has removed its socket"), "{told}");
    assert!(router.verb(&["status", "--json"]).expect_code(4).stdout.contains("\"state\":\"unreachable\""));
    let remedy = told.split('`').nth(1).expect("a remedy");
    assert_eq!(connect(&router, Lab::SERVER_4, 80).said, "OK", "it goes on");
    lab.laptop().run(["sh", "-c", remedy]).expect_success();
    assert!(router.daemon().take().expect("the daemon was started").finish().0.success());
    assert_eq!(state(&lab), before);
    assert!(router.verb(&["status"]).expect_code(3).stdout.contains("not active (no socket"), "nothing was left behind");
}
