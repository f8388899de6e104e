//! The real actor behind an interpreter or below a parent.

use std::path::Path;
use std::sync::Arc;

use portreeve::process::Ancestor;
use portreeve::profile::{Policy, Subject};

use super::world::{OPEN, Put, expect, set, to};

const V4: &str = "192.0.2.1:443";
const PYTHON: &str = "name = \"python\"\n[match]\npath = [\"/usr/bin/python3\"]\n[framework]\n\
    find = '^\\S*python[0-9.]*\\s+(\\S+)'\nbuild = \"{1}|{CWD}/{1}\"\n";
const TOOL: &str = "name = \"script\"\nmode = \"blacklist\"\n[match]\npath = [\"/opt/tool.py\"]\n[scope]\ninternet = true\n[flags]\npeer_to_peer = true\n";

fn python(words: &[&str]) -> Put {
    to(V4).by("/usr/bin/python3").cmdline(words)
}

fn subject(policy: &Policy, put: &Put, existing: &[&str]) -> Subject {
    policy.subject(Arc::new(put.identity.clone()), &|path| existing.iter().any(|own| Path::new(own) == path))
}

#[test]
fn a_script_gets_the_profile_of_its_path_wherever_it_is_started() {
    let policy = set(&[("user/python.toml", PYTHON), ("user/script.toml", TOOL)]);
    let started = [
        python(&["python3", "/opt/tool.py", "--fast"]),
        python(&["python3", "tool.py"]).with(|identity| identity.cwd = Some("/opt".into())),
        python(&["python3", "../opt/./tool.py"]).with(|identity| identity.cwd = Some("/home".into())),
    ];
    for put in started {
        let subject = subject(&policy, &put, &["/opt/tool.py"]);
        assert_eq!(subject.profile_name(), Some("script"));
        assert_eq!(subject.actor_path(), Some(Path::new("/opt/tool.py")));
    }
}

#[test]
fn a_path_that_does_not_exist_leaves_the_interpreter_in_force() {
    let policy = set(&[("user/python.toml", PYTHON), ("user/script.toml", TOOL)]);
    for put in [python(&["python3", "/opt/tool.py"]), python(&["python3"]), python(&["python3", "-c", "x"])] {
        let subject = subject(&policy, &put, &[]);
        assert_eq!(subject.profile_name(), Some("python"));
        assert_eq!(subject.known(), Ok(()));
    }
}

#[test]
fn a_virtual_name_need_not_exist() {
    let wine = "name = \"wine\"\n[match]\npath = [\"/usr/bin/wine\"]\n[framework]\nfind = '(\\w+\\.exe)'\nbuild = \"wine:{1}\"\nvirtual = true\n";
    let notepad = "name = \"notepad\"\n[match]\npath = [\"wine:notepad.exe\"]\n";
    let policy = set(&[("user/wine.toml", wine), ("user/notepad.toml", notepad)]);
    let put = to(V4).by("/usr/bin/wine").cmdline(&["wine", "C:\\notepad.exe"]);
    assert_eq!(subject(&policy, &put, &[]).profile_name(), Some("notepad"));
}

fn hop(from: &str, to: &str) -> String {
    format!(
        "name = \"{from}\"\n{OPEN}[match]\npath = [\"/{from}\"]\n[framework]\nfind = '(.+)'\nbuild = \"/{to}\"\nvirtual = true\n"
    )
}

#[test]
fn ten_rounds_of_rewriting_are_followed_and_an_eleventh_is_refused() {
    let chain: Vec<(String, String)> =
        (0..12).map(|n| (format!("user/{n:02}.toml"), hop(&format!("h{n}"), &format!("h{}", n + 1)))).collect();
    let open = format!("name = \"end\"\n{OPEN}[match]\nprefix = [\"/\"]\n");
    let with_rounds = |rounds: usize| {
        let start = 12 - rounds;
        let mut files: Vec<(&str, &str)> = chain.iter().map(|(path, text)| (&**path, &**text)).collect();
        files.push(("user/end.toml", &open));
        (set(&files), to(V4).by(&format!("/h{start}")))
    };
    for (rounds, wanted) in [(1, "accept mode"), (10, "accept mode"), (11, "block identity"), (12, "block identity")] {
        let (policy, put) = with_rounds(rounds);
        expect(&policy, &[(put, wanted)]);
    }
}

#[test]
fn a_loop_of_frameworks_is_refused() {
    let policy = set(&[("user/a.toml", &hop("a", "b")), ("user/b.toml", &hop("b", "a")), ("user/c.toml", &hop("c", "c"))]);
    expect(
        &policy,
        &[(to(V4).by("/a"), "block identity"), (to(V4).by("/c"), "block identity"), (to(V4).by("/c").inbound(), "drop identity")],
    );
}

fn ancestor(pid: u32, path: &str) -> Ancestor {
    Ancestor { pid, path: path.into(), cmdline: vec![path.to_owned()], cwd: None, uid: 0 }
}

#[test]
fn parent_level_counts_from_the_parent_and_merging_shows_the_flow_under_it() {
    let helper = |level: u32, merge: bool| {
        format!(
            "name = \"helper\"\n[match]\npath = [\"/usr/bin/helper\"]\n[framework]\nparent_level = {level}\nmerge_with_parent = {merge}\n"
        )
    };
    let manager = "name = \"manager\"\n[match]\npath = [\"/usr/bin/manager\"]\n";
    let init = "name = \"init\"\n[match]\npath = [\"/sbin/init\"]\n";
    let put = to(V4).by("/usr/bin/helper").with(|identity| {
        identity.ancestors = vec![ancestor(50, "/usr/bin/manager"), ancestor(1, "/sbin/init")];
    });
    for (level, merge, profile, shown) in
        [(1, true, "manager", Some(50)), (1, false, "manager", None), (2, true, "init", Some(1)), (3, true, "helper", None)]
    {
        let policy = set(&[("user/h.toml", &helper(level, merge)), ("user/m.toml", manager), ("user/i.toml", init)]);
        let subject = subject(&policy, &put, &[]);
        assert_eq!((subject.profile_name(), subject.shown_as()), (Some(profile), shown), "level {level}");
    }
}

#[test]
fn a_process_that_cannot_be_read_is_refused_where_its_profile_must_look_at_it() {
    let policy = set(&[("user/python.toml", PYTHON)]);
    expect(&policy, &[(python(&[]), "block identity"), (python(&["python3"]), "block scope")]);
    let helper = "name = \"helper\"\n[match]\npath = [\"/usr/bin/helper\"]\n[framework]\nparent_level = 1\n";
    let policy = set(&[("user/helper.toml", helper)]);
    expect(&policy, &[(to(V4).by("/usr/bin/helper"), "block identity")]);
}
