//! How long a decision takes, and the compiling of a large set. `cargo bench --bench decide`.
//!
//! Each figure is the median of batches; the aims are those of the policy's issue.

use std::hint::black_box;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use portreeve::flow::Direction;
use portreeve::names::{Name, Sighting};
use portreeve::packet::Protocol;
use portreeve::process::{Confidence, Exe, Identity};
use portreeve::profile::{File, Kind, Layer, Level, Policy, Setup};
use portreeve::verdict::{Case, Target, decide};

fn main() {
    for (rules, aim) in [(40, 300), (5000, 2000)] {
        let policy = policy(rules);
        for (what, nanoseconds) in decisions(&policy) {
            println!("decide, {rules:>4} rules, {what:<28} {nanoseconds:>6} ns  (aim {aim})");
        }
    }
    let files = many_files(500);
    let milliseconds = median((0..9).map(|_| time(|| drop(black_box(compile(&files)))).as_micros()).collect()) / 1000;
    println!("compile 500 files                                {milliseconds:>6} ms  (aim 100)");
    #[cfg(feature = "edges")]
    batch();
}

fn median(mut values: Vec<u128>) -> u128 {
    values.sort_unstable();
    values.get(values.len() / 2).copied().unwrap_or(0)
}

fn time(work: impl FnOnce()) -> Duration {
    let start = Instant::now();
    work();
    start.elapsed()
}

fn file(kind: Kind, path: &str, text: String) -> File {
    File { kind, path: path.into(), text }
}

/// `count` rules of all kinds, none of which speaks of what the cases ask for.
fn rules(count: usize, seed: usize) -> String {
    let rule = |n: usize| {
        let (a, b) = (n / 256 % 256, n % 256);
        match n % 10 {
            0 => format!("\"- host{n}.layer{seed}.example\""),
            1 => format!("\"- .zone{n}.layer{seed}.example\""),
            2 => format!("\"- *.below{n}.layer{seed}.example\""),
            3 => format!("\"+ host{n}.layer{seed}.example TCP/443\""),
            4 => format!("\"- *suffix{n}.example\""),
            5 => format!("\"- 10.{a}.{b}.7\""),
            6 => format!("\"- 10.{a}.{b}.0/24\""),
            7 => format!("\"- 2001:db8:{n:x}::/48\""),
            8 => format!("\"? prefix{n}.* TCP/1-1024\""),
            _ => format!("\"- * TCP/{}\"", 20_000 + n % 40_000),
        }
    };
    (0..count).map(rule).collect::<Vec<_>>().join(",\n")
}

fn policy(count: usize) -> Policy {
    let each = count / 4;
    let user = format!("name = \"tool\"\nendpoints = [{}]\n[match]\npath = [\"/usr/bin/tool\"]\n", rules(each, 0));
    let global = format!("name = \"Global\"\nendpoints = [{}]\n", rules(each, 1));
    let stamp = format!("name = \"tool\"\nendpoints = [{}]\n[match]\npath = [\"/usr/bin/tool\"]\n", rules(each, 2));
    let fallback = format!(
        "mode = \"blacklist\"\nendpoints = [{}]\n[scope]\ninternet = true\nlan = true\n[flags]\npeer_to_peer = true\n",
        rules(each, 3)
    );
    compile(&[
        file(Kind::Profile(Layer::User), "user/tool.toml", user),
        file(Kind::Profile(Layer::Global), "global.toml", global),
        file(Kind::Profile(Layer::Stamp), "stamp/tool.toml", stamp),
        file(Kind::Profile(Layer::Fallback), "fallback.toml", fallback),
    ])
}

fn compile(files: &[File]) -> Policy {
    match Policy::compile(files, Setup::default()) {
        Ok(policy) => policy,
        Err(faults) => panic!("{faults:#?}"),
    }
}

fn many_files(count: usize) -> Vec<File> {
    let text = |n: usize| {
        format!(
            "# why\nname = \"tool{n}\"\nmode = \"prompt\"\nendpoints = [{}]\n[match]\npath = [\"/usr/bin/tool{n}\"]\n[scope]\ninternet = true\n",
            rules(10, n)
        )
    };
    (0..count).map(|n| file(Kind::Profile(Layer::User), &format!("user/{n}.toml"), text(n))).collect()
}

fn decisions(policy: &Policy) -> Vec<(&'static str, u128)> {
    let identity = Identity {
        exe: Some(Exe { path: "/usr/bin/tool".into(), device: 1, inode: 1, path_is_ours: true }),
        pid: Some(1),
        start_ticks: 0,
        uid: Some(1000),
        is_admin: false,
        has_session: true,
        cmdline: vec!["tool".to_owned()],
        cwd: None,
        home: None,
        cgroup: String::new(),
        tags: Vec::new(),
        ancestors: Vec::new(),
        confidence: Confidence::Exact,
    };
    let subject = policy.subject(Arc::new(identity), &|_: &Path| false);
    let name: Name = "www.shop.example.com".parse().expect("a name");
    let names = [Sighting::new(name.clone(), Arc::from([]), Instant::now() + Duration::from_secs(600))];
    let flow = |remote: &str, names| Target::Flow {
        direction: Direction::Outbound,
        protocol: Protocol::TCP,
        remote: remote.parse().expect("an address"),
        port: Some(443),
        names,
        peer_is_this_host: false,
    };
    let cases = [
        ("IPv4 by name", flow("192.0.2.1", &names[..])),
        ("IPv6 by name", flow("2001:db8:ffff::1", &names[..])),
        ("IPv4 without a name", flow("192.0.2.1", &[])),
        ("question", Target::Question { name: &name, qtype: 1 }),
    ];
    cases
        .map(|(what, target)| (what, case_time(policy, &Case { subject: &subject, level: Level::Dynamic, target, answer: None })))
        .into()
}

fn case_time(policy: &Policy, case: &Case<'_>) -> u128 {
    const BATCH: u32 = 500;
    let once = || {
        let spent = time(|| (0..BATCH).for_each(|_| drop(black_box(decide(policy, black_box(case))))));
        (spent / BATCH).as_nanos()
    };
    median((0..301).map(|_| once()).collect())
}

#[cfg(feature = "edges")]
fn batch() {
    use portreeve::cli::case::{Asked, Judge};

    let policy = policy(5000);
    let lines: Vec<String> = (0..20_000)
        .map(|n| {
            format!(r#"{{"exe":"/usr/bin/tool","to":"host{n}.example.org:443","name":"host{n}.example.org","level":"secure"}}"#)
        })
        .collect();
    let mut judge = Judge::new(&policy);
    let spent = time(|| {
        for line in &lines {
            let asked: Asked = serde_json::from_str(line).expect("a case");
            drop(black_box(judge.explain(&asked).expect("a sensible case")));
        }
    });
    println!("explain in a batch                             {:>6.0} cases/s  (aim 10000)", 20_000.0 / spent.as_secs_f64());
}
