//! Which profiles count for a program, and which of their settings.

use portreeve::profile::Level;

use super::world::{OPEN, PROGRAM, Put, expect, set, to, user};

const V4: &str = "192.0.2.1:443";

fn stamp(settings: &str) -> String {
    user(settings).replace("\"tool\"", "\"tool stamp\"")
}

#[test]
fn for_each_key_the_first_layer_that_sets_it_decides() {
    let scope = |value: &str| format!("[scope]\ninternet = {value}\n");
    let rest = "mode = \"blacklist\"\n[flags]\npeer_to_peer = true\n";
    for (user_value, global, stamp_value, fallback, wanted) in [
        (Some("true"), Some("false"), Some("false"), Some("false"), "accept mode"),
        (None, Some("true"), Some("false"), Some("false"), "accept mode"),
        (None, None, Some("true"), Some("false"), "accept mode"),
        (None, None, None, Some("true"), "accept mode"),
        (Some("false"), Some("true"), Some("true"), Some("true"), "block scope"),
        (None, Some("false"), Some("true"), Some("true"), "block scope"),
        (None, None, Some("false"), Some("true"), "block scope"),
        (None, None, None, None, "block scope"),
    ] {
        let text = |value: Option<&str>| value.map(scope).unwrap_or_default();
        let policy = set(&[
            ("user/tool.toml", &user(&format!("\n{}", text(user_value)))),
            ("global.toml", &format!("name = \"Global\"\n{}", text(global))),
            ("stamp/tool.toml", &stamp(&format!("\n{}", text(stamp_value)))),
            ("fallback.toml", &format!("{rest}{}", text(fallback))),
        ]);
        expect(&policy, &[(to(V4), wanted), (to("[2001:db8::1]:443"), wanted)]);
    }
}

#[test]
fn a_key_set_without_the_current_level_is_an_explicit_no() {
    let policy = set(&[
        ("user/tool.toml", &user("\n[scope]\ninternet = [\"dynamic\"]")),
        ("global.toml", "name = \"Global\"\n[scope]\ninternet = true"),
        ("fallback.toml", OPEN),
    ]);
    for (level, wanted) in [(Level::Dynamic, "accept mode"), (Level::Secure, "block scope"), (Level::Fortress, "block scope")] {
        expect(&policy, &[(to(V4).at(level), wanted)]);
    }
}

#[test]
fn a_mode_per_level_is_unset_at_the_levels_that_it_does_not_name() {
    let policy = set(&[
        ("user/tool.toml", &user("mode = { fortress = \"prompt\" }")),
        ("stamp/tool.toml", &stamp("mode = { secure = \"whitelist\" }")),
        ("fallback.toml", OPEN),
    ]);
    for (level, wanted) in [(Level::Dynamic, "accept mode"), (Level::Secure, "block mode"), (Level::Fortress, "ask mode")] {
        expect(&policy, &[(to(V4).at(level), wanted)]);
    }
    let one_word = set(&[("user/tool.toml", &user("mode = \"prompt\"")), ("fallback.toml", OPEN)]);
    for level in Level::ALL {
        expect(&one_word, &[(to(V4).at(level), "ask mode")]);
    }
}

#[test]
fn between_layers_the_first_that_sets_the_mode_wins_in_fortress_too() {
    let fallback = "mode = { dynamic = \"blacklist\", secure = \"blacklist\", fortress = \"whitelist\" }\n[scope]\ninternet = true\n[flags]\npeer_to_peer = true";
    let policy = set(&[("user/tool.toml", &user("mode = \"blacklist\"")), ("fallback.toml", fallback)]);
    expect(
        &policy,
        &[(to(V4).at(Level::Fortress), "accept mode"), (to(V4).by("/usr/bin/other").at(Level::Fortress), "block mode")],
    );
}

#[test]
fn the_level_in_force_is_the_higher_of_the_systems_and_the_first_minimum_that_is_set() {
    let fallback = |level: &str| format!("level = \"{level}\"\n{}", OPEN.replace("internet = true", "internet = [\"dynamic\"]"));
    for (user_level, global, stamp_level, fall, wanted) in [
        ("", "", "", "dynamic", "accept mode"),
        ("", "", "", "secure", "block scope"),
        ("level = \"dynamic\"", "", "", "secure", "accept mode"),
        ("", "level = \"dynamic\"", "", "secure", "accept mode"),
        ("", "", "level = \"fortress\"", "dynamic", "accept mode"),
        ("level = \"secure\"", "", "", "dynamic", "block scope"),
    ] {
        let policy = set(&[
            ("user/tool.toml", &user(user_level)),
            ("global.toml", &format!("name = \"Global\"\n{global}")),
            ("stamp/tool.toml", &stamp(stamp_level)),
            ("fallback.toml", &fallback(fall)),
        ]);
        expect(&policy, &[(to(V4), wanted), (to(V4).at(Level::Secure), "block scope")]);
    }
}

#[test]
fn endpoint_lists_are_walked_whole_from_layer_to_layer() {
    let list = |rules: &str| format!("endpoints = [{rules}]");
    let policy = set(&[
        ("user/tool.toml", &user(&list("\"+ a.example\""))),
        ("global.toml", &format!("name = \"Global\"\n{}", list("\"- a.example\", \"- b.example\""))),
        ("stamp/tool.toml", &stamp(&list("\"+ b.example\", \"? c.example\""))),
        ("fallback.toml", &format!("{}\n{OPEN}", list("\"- c.example\", \"- d.example\""))),
    ]);
    for remote in [V4, "[2001:db8::1]:443"] {
        for (name, wanted) in [
            ("a.example", "accept endpoints"),
            ("b.example", "block endpoints"),
            ("c.example", "ask endpoints"),
            ("d.example", "block endpoints"),
            ("e.example", "accept mode"),
        ] {
            expect(&policy, &[(to(remote).named(name), wanted)]);
        }
    }
}

#[test]
fn independent_skips_stamp_in_its_levels_alone() {
    let policy = set(&[
        ("user/tool.toml", &user("\n[flags]\nindependent = [\"secure\"]")),
        ("stamp/tool.toml", &stamp("endpoints = [\"- *\"]\n[scope]\nlan = false")),
        ("fallback.toml", OPEN),
    ]);
    expect(
        &policy,
        &[
            (to(V4), "block endpoints"),
            (to("10.0.0.1:1"), "block scope"),
            (to(V4).at(Level::Secure), "accept mode"),
            (to("10.0.0.1:1").at(Level::Secure), "accept mode"),
            (to(V4).at(Level::Fortress), "block endpoints"),
        ],
    );
}

#[test]
fn an_empty_list_is_set_and_ends_the_search() {
    let policy = set(&[
        ("user/tool.toml", &user("connect_ports = []\ndomain_whitelist = []")),
        ("fallback.toml", &format!("connect_ports = [\"TCP/1\"]\ndomain_whitelist = [\"x.example\"]\n{OPEN}")),
    ]);
    expect(&policy, &[(to(V4), "accept mode"), (to(V4).by("/usr/bin/other"), "block domain_whitelist")]);
}

fn named(name: &str, settings: &str, matching: &str) -> String {
    let (top, tables) = settings.split_once("\n[").map_or((settings, String::new()), |(top, rest)| (top, format!("[{rest}")));
    format!("name = \"{name}\"\n{top}\n[match]\n{matching}\n{tables}\n")
}

/// The name of the User profile that counts.
fn counted(put: &Put, files: &[(&str, &str)]) -> Vec<String> {
    let policy = set(files);
    put.subject(&policy).layers().user.iter().map(|profile| profile.name.to_string()).collect()
}

#[test]
fn the_strongest_match_counts_tag_then_path_then_longest_prefix() {
    let tag = named("tag", "", "tag = [\"unit:tool.service\"]");
    let path = named("path", "", "path = [\"/usr/bin/tool\"]");
    let long = named("long", "", "prefix = [\"/usr/bin/\"]");
    let short = named("short", "", "prefix = [\"/usr/\"]");
    let files = [("user/a.toml", &*short), ("user/b.toml", &*long), ("user/c.toml", &*path), ("user/d.toml", &*tag)];
    assert_eq!(counted(&to(V4).tag("unit:tool.service"), &files), ["tag"]);
    assert_eq!(counted(&to(V4), &files), ["path"]);
    assert_eq!(counted(&to(V4).by("/usr/bin/other"), &files), ["long"]);
    assert_eq!(counted(&to(V4).by("/usr/lib/other"), &files), ["short"]);
    assert!(counted(&to(V4).by("/opt/other"), &files).is_empty());
}

#[test]
fn another_file_under_a_known_path_is_another_program() {
    let policy = set(&[("user/tool.toml", &user(OPEN))]);
    let forged = to(V4).with(|identity| identity.exe.iter_mut().for_each(|exe| exe.path_is_ours = false));
    expect(&policy, &[(to(V4), "accept mode"), (forged, "block scope")]);
}

#[test]
fn the_command_line_narrows_a_path_and_selects_nothing_by_itself() {
    let files = [("user/a.toml", &*named("api", "", "path = [\"/usr/bin/tool\"]\ncmdline = [\"--api\"]"))];
    assert_eq!(counted(&to(V4).cmdline(&[PROGRAM, "--api"]), &files), ["api"]);
    assert!(counted(&to(V4).cmdline(&[PROGRAM]), &files).is_empty());
    assert!(counted(&to(V4).by("/usr/bin/evil").cmdline(&[PROGRAM, "--api"]), &files).is_empty());
    let alone = [("user/a.toml", &*named("api", "", "cmdline = [\"--api\"]"))];
    assert!(counted(&to(V4).cmdline(&[PROGRAM, "--api"]), &alone).is_empty());
}

#[test]
fn on_a_tie_both_count_and_the_stricter_setting_holds() {
    let tie = |a: &str, b: &str| {
        let own = "path = [\"/usr/bin/tool\"]";
        set(&[("user/a.toml", &named("a", a, own)), ("user/b.toml", &named("b", b, own)), ("fallback.toml", OPEN)])
    };
    for (loose, strict, put, wanted) in [
        ("\n[scope]\ninternet = true", "\n[scope]\ninternet = false", to(V4), "block scope"),
        ("\n[flags]\npeer_to_peer = true", "\n[flags]\npeer_to_peer = false", to(V4), "block peer_to_peer"),
        ("\n[flags]\nservice = true", "\n[flags]\nservice = [\"secure\"]", to(V4).inbound(), "drop direction"),
        ("\n[flags]\nstrict = false", "\n[flags]\nstrict = true", to(V4), "block strict"),
        ("mode = \"blacklist\"", "mode = \"prompt\"", to(V4), "ask mode"),
        ("mode = \"prompt\"", "mode = \"whitelist\"", to(V4), "block mode"),
        ("mode = \"blacklist\"", "mode = \"whitelist\"", to(V4), "block mode"),
        ("endpoints = [\"+ *\"]", "endpoints = [\"- 192.0.2.1\"]", to(V4), "block endpoints"),
        ("endpoints = [\"+ *\"]", "endpoints = [\"? 192.0.2.1\"]", to(V4), "ask endpoints"),
        ("connect_ports = [\"TCP/443\"]", "connect_ports = [\"TCP/80\"]", to(V4), "block connect_ports"),
        ("connect_ports = []", "connect_ports = [\"TCP/80\"]", to(V4), "block connect_ports"),
        ("\n[flags]\nrun_as = \"user\"", "\n[flags]\nrun_as = \"system\"", to(V4), "block run_as"),
        ("level = \"dynamic\"\n[scope]\ninternet = [\"dynamic\"]", "level = \"secure\"", to(V4), "block scope"),
        ("", "mode = \"whitelist\"", to(V4), "block mode"),
    ] {
        for policy in [tie(loose, strict), tie(strict, loose)] {
            expect(&policy, &[(put.clone(), wanted)]);
        }
    }
}

#[test]
fn the_profile_to_show_is_the_users_own_else_the_strongest_that_matched() {
    let fallback = ("fallback.toml", "name = \"Fallback\"");
    let stamp_file = stamp("");
    let user_file = user("");
    let shown = |files: &[(&str, &str)]| to(V4).subject(&set(files)).profile_name().map(str::to_owned);
    assert_eq!(shown(&[]), None);
    assert_eq!(shown(&[fallback]).as_deref(), Some("Fallback"));
    assert_eq!(shown(&[fallback, ("stamp/a.toml", &stamp_file)]).as_deref(), Some("tool stamp"));
    assert_eq!(shown(&[fallback, ("stamp/a.toml", &stamp_file), ("user/a.toml", &user_file)]).as_deref(), Some("tool"));
}
