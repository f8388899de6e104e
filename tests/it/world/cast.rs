//! Who takes part: programs, and the policies that may come into force.

use std::path::PathBuf;
use std::sync::{Arc, OnceLock};

use portreeve::flow::Owner;
use portreeve::names::{Asker, Sighting};
use portreeve::process::{Confidence, Exe, Identity, Tag};
use portreeve::profile::{File, Kind, Layer, Level, Policy, Setup};

use super::dice::Dice;

const OPEN: &str = "[scope]\ninternet = true\nlan = true\nlocalhost = true\n[flags]\npeer_to_peer = true\n";

/// Policies from "everything" to "nothing".
const POLICIES: [(&str, &str); 7] = [
    ("mode = \"blacklist\"", OPEN),
    ("mode = \"prompt\"", OPEN),
    ("mode = \"whitelist\"", OPEN),
    ("mode = { dynamic = \"blacklist\", secure = \"prompt\", fortress = \"whitelist\" }", OPEN),
    ("mode = \"blacklist\"\nendpoints = [\"- 203.0.113.0/24 TCP/443\", \"? * UDP\", \"+ 2001:db8::/32\", \"- LAN\"]", OPEN),
    ("mode = \"prompt\"\nendpoints = [\"+ .example.com\", \"- .example.org\"]", OPEN),
    ("", ""),
];

/// What single programs may do beside that.
const OWN: [(&str, &str); 3] = [
    ("/usr/bin/trusted", "endpoints = [\"+ *\"]"),
    ("/usr/bin/asked", "mode = \"prompt\""),
    ("/usr/bin/banned", "endpoints = [\"- *\"]"),
];

const PROGRAMS: [&str; 5] = ["/usr/bin/trusted", "/usr/bin/asked", "/usr/bin/banned", "/usr/bin/curl", "/usr/bin/ssh"];
const NAMES: [&str; 4] = ["example.com", "www.example.com", "example.org", "example.net"];
const LEVELS: [Level; 3] = [Level::Dynamic, Level::Secure, Level::Fortress];

/// All policies, compiled once.
pub(super) fn policies() -> &'static [Arc<Policy>] {
    static POLICIES: OnceLock<Vec<Arc<Policy>>> = OnceLock::new();
    POLICIES.get_or_init(compile_all)
}

fn compile_all() -> Vec<Arc<Policy>> {
    let file = |layer, name: String, text: String| File { kind: Kind::Profile(layer), path: PathBuf::from(name), text };
    let compile = |(head, tail): (&str, &str)| {
        let mut files = vec![file(Layer::Fallback, "fallback.toml".to_owned(), format!("name = \"fallback\"\n{head}\n{tail}"))];
        for (place, (path, text)) in OWN.iter().enumerate() {
            let text = format!("name = \"user {place}\"\n{text}\n[match]\npath = [\"{path}\"]\n");
            files.push(file(Layer::User, format!("user/{place}.toml"), text));
        }
        Arc::new(Policy::compile(&files, Setup::default()).expect("valid profiles"))
    };
    POLICIES.into_iter().map(compile).chain([Arc::new(Policy::default())]).collect()
}

pub(super) fn level(dice: &mut Dice) -> Level {
    dice.pick(&LEVELS).expect("a level")
}

/// The programs, and last the one that is nobody.
pub(super) fn programs() -> Vec<Arc<Identity>> {
    let program = |(inode, path): (u64, &str)| {
        let exe = Exe { path: path.into(), device: 1, inode, path_is_ours: true };
        let unknown = Identity::tagged("world:program", Some(1000));
        Arc::new(Identity { exe: Some(exe), pid: Some(42), tags: Vec::new(), confidence: Confidence::Exact, ..unknown })
    };
    let nobody = Arc::new(Identity::tagged(Tag::UNATTRIBUTED, None));
    (1..).zip(PROGRAMS).map(program).chain([nobody]).collect()
}

/// What the kernel answers to "who owns this": usually the truth, sometimes late, wrong, several or nobody.
pub(super) fn owners(programs: &[Arc<Identity>], policy: &Policy, dice: &mut Dice, now: std::time::Instant) -> Vec<Owner> {
    let count = [0, 1, 1, 1, 1, 1, 1, 2, 3][dice.index(9)];
    let owner = |dice: &mut Dice| {
        let identity = dice.pick(programs).expect("a program");
        let asker = match &identity.exe {
            Some(exe) => Asker::Program { device: exe.device, inode: exe.inode, uid: 1000 },
            None => Asker::Unattributed { uid: None },
        };
        let until = now + std::time::Duration::from_secs(600);
        let names = (0..dice.below(3))
            .filter_map(|_| dice.pick(&NAMES))
            .map(|name| Sighting::new(name.parse().expect("a name"), Arc::from([]), until));
        let names = names.collect();
        Owner { subject: policy.subject(identity, &|_| true), asker, names }
    };
    (0..count).map(|_| owner(dice)).collect()
}
