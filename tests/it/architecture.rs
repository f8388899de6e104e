//! The walls of the house, read from the source text: who may name whom, and what no file may hold.
//!
//! Keeps one rule: the map in `src/lib.rs` and the `use crate::` lines agree. The other two walls are the feature `edges` and
//! clippy's `disallowed_methods`.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

/// The ground floor from the bottom up: a room names only rooms that stand before it.
const GROUND: [&str; 7] = ["packet", "names", "process", "profile", "verdict", "flow", "router"];

/// The upper rooms, and the upper rooms that each may name.
const UPPER: [(&str, &[&str]); 12] = [
    ("tun", &[]),
    ("stack", &[]),
    ("egress", &[]),
    // Both set up what carries the TUN: a namespace, and a machine's routes.
    ("enclosure", &["netlink", "tun"]),
    ("netlink", &["tun"]),
    ("bpf", &[]),
    ("procfs", &[]),
    ("resolver", &[]),
    ("store", &[]),
    ("control", &[]),
    ("config", &[]),
    ("cli", &["app", "bpf", "config", "control", "enclosure", "netlink", "procfs", "resolver", "store", "tun"]),
];

/// Lines of a file with its tests; what grows past this has two subjects.
const MAX_LINES: usize = 400;

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

fn rust_files(dir: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(dir).unwrap_or_else(|error| panic!("{}: {error}", dir.display()));
    let mut found = Vec::new();
    for path in entries.map(|entry| entry.expect("an entry").path()) {
        if path.is_dir() {
            found.extend(rust_files(&path));
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
    found.sort();
    found
}

/// Every file of the source and of the two test binaries with its text.
fn all_files() -> Vec<(PathBuf, String)> {
    let read = |path: PathBuf| (path.clone(), fs::read_to_string(path).expect("a text file"));
    let folders = ["src", "tests/it", "tests/lab"].map(|folder| root().join(folder));
    folders.iter().flat_map(|folder| rust_files(folder)).map(read).collect()
}

/// The text without its comments; a comment may speak of any room.
fn code_of(text: &str) -> String {
    text.lines().map(|line| line.split("//").next().unwrap_or_default()).collect::<Vec<_>>().join("\n")
}

/// The rooms that a text names by `crate::room` or `crate::{room, …}`.
fn rooms_named(text: &str) -> BTreeSet<String> {
    let is_word = |c: char| c.is_ascii_alphanumeric() || c == '_';
    let word = |text: &str| text.chars().take_while(|c| is_word(*c)).collect::<String>();
    let mut named = BTreeSet::new();
    let code = code_of(text);
    for (at, found) in code.match_indices("crate::") {
        let rest = code.get(at + found.len()..).unwrap_or_default();
        match rest.strip_prefix('{') {
            Some(list) => {
                let mut depth = 0_usize;
                let list: String = list
                    .chars()
                    .take_while(|c| {
                        depth = match c {
                            '{' => depth + 1,
                            '}' if depth > 0 => depth - 1,
                            '}' => return false,
                            _ => depth,
                        };
                        true
                    })
                    .collect();
                named.extend(list.split(',').map(|item| word(item.trim())));
            }
            None => {
                named.insert(word(rest));
            }
        }
    }
    named
}

/// What the files of one room name beside the room itself.
fn named_by(room: &str) -> Vec<(PathBuf, BTreeSet<String>)> {
    let rooms: Vec<&str> = GROUND.into_iter().chain(UPPER.map(|(name, _)| name)).chain(["app"]).collect();
    let outside = |path: PathBuf| {
        let text = fs::read_to_string(&path).expect("a text file");
        let named = rooms_named(&text).into_iter().filter(|name| name != room && rooms.contains(&name.as_str()));
        (path, named.collect())
    };
    rust_files(&root().join("src").join(room)).into_iter().map(outside).collect()
}

#[test]
fn every_room_of_the_source_is_on_this_map_and_on_that_of_the_library() {
    let map = fs::read_to_string(root().join("src/lib.rs")).expect("src/lib.rs");
    let mut known: Vec<&str> = GROUND.into_iter().chain(UPPER.map(|(name, _)| name)).chain(["app"]).collect();
    known.sort_unstable();
    let entries = fs::read_dir(root().join("src")).expect("src").map(|entry| entry.expect("an entry").path());
    let mut found: Vec<String> =
        entries.filter(|path| path.is_dir()).filter_map(|path| Some(path.file_name()?.to_string_lossy().into_owned())).collect();
    found.sort_unstable();
    assert_eq!(found, known);
    for room in known {
        assert!(map.contains(&format!("| [`{room}`] |")), "src/lib.rs has no row for {room}");
    }
}

#[test]
fn a_ground_room_names_only_rooms_below_it() {
    for (place, room) in GROUND.into_iter().enumerate() {
        let below = GROUND.get(..place).expect("a place in the list");
        for (path, named) in named_by(room) {
            let wrong: Vec<&String> = named.iter().filter(|name| !below.contains(&name.as_str())).collect();
            assert!(wrong.is_empty(), "{} names {wrong:?}; below {room} are {below:?}", path.display());
        }
    }
}

#[test]
fn an_upper_room_names_no_other_upper_room_but_those_of_the_list() {
    for (room, may) in UPPER {
        for (path, named) in named_by(room) {
            let wrong: Vec<&String> =
                named.iter().filter(|name| !GROUND.contains(&name.as_str()) && !may.contains(&name.as_str())).collect();
            assert!(wrong.is_empty(), "{} names {wrong:?}; {room} may name {may:?}", path.display());
        }
    }
}

#[test]
fn a_wall_sees_every_way_of_naming_a_room() {
    for (text, named) in [
        ("use crate::tun::Queue;", vec!["tun"]),
        ("fn f() -> crate::egress::Dialer;", vec!["egress"]),
        ("use crate::{flow::{Flow, Table}, store, verdict::Permit};", vec!["flow", "store", "verdict"]),
        ("// crate::tun in a comment\n/// [`crate::tun::Queue`]", vec![]),
    ] {
        let found = rooms_named(text);
        let seen: Vec<&str> = found.iter().map(String::as_str).filter(|name| named.contains(name)).collect();
        assert_eq!(seen, named, "{text}");
        assert_eq!(found.contains("tun"), named.contains(&"tun"), "{text}");
    }
}

#[test]
fn the_ground_floor_has_no_clock_no_waiting_and_no_hash_order() {
    for room in GROUND {
        let head = fs::read_to_string(root().join("src").join(room).join("mod.rs")).expect("a room has a mod.rs");
        // A test may take its first instant from the clock; what is tested never reads one.
        let walls = ["#![deny(clippy::disallowed_methods)]", "#![cfg_attr(not(test), deny(clippy::disallowed_methods))]"];
        assert!(walls.iter().any(|wall| head.contains(wall)), "src/{room}/mod.rs does not deny disallowed_methods");
        for path in rust_files(&root().join("src").join(room)) {
            let code = code_of(&fs::read_to_string(&path).expect("a text file"));
            for word in ["async fn", "async move", ".await", "HashMap::new", "HashSet::new", "RandomState", "static mut"] {
                assert!(!code.contains(word), "{} holds `{word}`", path.display());
            }
        }
    }
}

#[test]
fn unsafe_stays_in_the_rooms_that_speak_with_the_kernel_by_hand() {
    let rooms = ["tun", "netlink", "egress", "enclosure", "bpf", "stack"];
    for path in rust_files(&root().join("src")) {
        let code = code_of(&fs::read_to_string(&path).expect("a text file"));
        let may = rooms.iter().any(|room| path.starts_with(root().join("src").join(room)));
        assert!(may || !code.contains(concat!("uns", "afe ")), "{} holds `{}`", path.display(), concat!("uns", "afe"));
    }
}

#[test]
fn every_file_opens_with_what_it_is() {
    for (path, text) in all_files() {
        // A room's tests in a file of their own belong to the file beside them, which says what both are about.
        let own_tests = path.ends_with("tests.rs") && path.starts_with(root().join("src"));
        assert!(own_tests || text.starts_with("//! "), "{} does not open with `//!`", path.display());
    }
}

#[test]
fn no_file_has_outgrown_one_subject() {
    for (path, text) in all_files() {
        let lines = text.lines().count();
        assert!(lines <= MAX_LINES, "{} has {lines} lines; split it by subject", path.display());
    }
}

#[test]
fn nothing_is_unfinished_and_no_lint_is_silenced() {
    // Written in two parts, so that this file does not hold them.
    let words = [
        concat!("#[all", "ow("),
        concat!("#![all", "ow("),
        concat!("todo", "!("),
        concat!("unimplemented", "!("),
        concat!("#[igno", "re"),
        concat!("dbg", "!("),
    ];
    for (path, text) in all_files() {
        for word in words {
            assert!(!text.contains(word), "{} holds `{word}`", path.display());
        }
    }
}

/// A closed or full stdout or stderr makes these macros panic, and a panic may close the machine. What stands behind a test's mark is a test.
#[test]
fn nothing_is_printed_by_a_macro_that_panics() {
    for path in rust_files(&root().join("src")) {
        let text = fs::read_to_string(&path).expect("a text file");
        let code = code_of(text.split("#[cfg(test)]").next().unwrap_or_default());
        let is_test = path.components().any(|part| part.as_os_str() == "tests");
        for word in ["println!(", "print!("].into_iter().filter(|_| !is_test) {
            assert!(!code.contains(word), "{} holds `{word}`", path.display());
        }
    }
}
