//! The profiles that come with the program.

use portreeve::profile::{File, Flag, Kind, Layer, Level, Policy, Setup};

use super::world::{expect, question, to};

/// The repository's `profiles/` as a set.
pub(crate) fn shipped() -> Policy {
    let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("profiles");
    let read = |path: &str, layer| File {
        kind: Kind::Profile(layer),
        path: path.into(),
        text: std::fs::read_to_string(root.join(path)).expect("a shipped profile"),
    };
    let mut files = vec![read("global.toml", Layer::Global), read("fallback.toml", Layer::Fallback)];
    let stamps = std::fs::read_dir(root.join("stamp")).expect("the folder of Stamp profiles");
    let mut names: Vec<String> =
        stamps.map(|entry| entry.expect("an entry").file_name().to_string_lossy().into_owned()).collect();
    names.sort();
    files.extend(names.iter().map(|name| read(&format!("stamp/{name}"), Layer::Stamp)));
    Policy::compile(&files, Setup::default()).unwrap_or_else(|faults| panic!("{faults:#?}"))
}

#[test]
fn the_shipped_fallback_is_blacklist_in_dynamic_and_secure_and_whitelist_in_fortress() {
    let policy = shipped();
    let anything = "/nonexistent/program";
    for (level, named, peer, lan) in [
        (Level::Dynamic, "accept mode", "accept mode", "accept mode"),
        (Level::Secure, "accept mode", "block peer_to_peer", "block scope"),
        (Level::Fortress, "block mode", "block peer_to_peer", "block scope"),
    ] {
        for (internet, local) in [("192.0.2.1:443", "192.168.1.1:443"), ("[2001:db8::1]:443", "[fe80::1]:443")] {
            expect(
                &policy,
                &[
                    (to(internet).by(anything).at(level).named("example.com"), named),
                    (to(internet).by(anything).at(level), peer),
                    (to(local).by(anything).at(level), lan),
                    (to(internet).by(anything).at(level).inbound(), "drop direction"),
                ],
            );
        }
        expect(&policy, &[(question("example.com").by(anything).at(level), named)]);
    }
    for local in ["127.0.0.1:1", "[::1]:1"] {
        expect(&policy, &[(to(local).by(anything).at(Level::Secure), "accept mode")]);
    }
}

#[test]
fn what_lies_in_dropped_files_folders_gets_nothing_at_any_level() {
    let policy = shipped();
    for path in ["/tmp/x", "/home/ann/Downloads/x", "/home/bob/.cache/a/b", "/root/Downloads/x"] {
        for level in Level::ALL {
            for remote in ["192.0.2.1:443", "[2001:db8::1]:443", "10.0.0.1:1", "127.0.0.1:1", "[::1]:1"] {
                expect(&policy, &[(to(remote).by(path).at(level).named("example.com"), "block scope")]);
                expect(&policy, &[(to(remote).by(path).at(level).inbound(), "drop direction")]);
            }
        }
    }
}

#[test]
fn shipped_profiles_give_lan_services_and_peers_in_dynamic_alone() {
    // Resolvers are literal addresses at every level.
    let exempt = "systemd-resolved";
    for profile in shipped().profiles() {
        for flag in [Flag::Lan, Flag::Service, Flag::PeerToPeer, Flag::Gateway] {
            let Some(held) = profile.flags.of(flag) else { continue };
            if &*profile.name == exempt && flag == Flag::PeerToPeer {
                continue;
            }
            assert!(!held.value.secure && !held.value.fortress, "{}: {}", profile.name, held.source.text);
        }
    }
}

#[test]
fn every_shipped_profile_says_why_and_has_cases() {
    let policy = shipped();
    assert!(policy.profiles().count() >= 18);
    for profile in policy.profiles() {
        let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("profiles").join(profile.file.as_path());
        let text = std::fs::read_to_string(path).expect("a shipped profile");
        assert!(text.starts_with("# "), "{} says not why", profile.name);
        assert!(profile.layer == Layer::Global || !profile.expects.is_empty(), "{} has no cases", profile.name);
    }
}

#[test]
fn shipped_frameworks_find_the_script_or_stay_with_the_interpreter() {
    let policy = shipped();
    for (exe, words, actor) in [
        ("/usr/bin/python3.12", "python3 /opt/t.py -v", "/opt/t.py"),
        ("/usr/bin/python3", "/usr/bin/python3 -u -X dev t.py", "/work/t.py"),
        ("/usr/bin/python3", "python3 -u -m pkg.tool", "/usr/bin/python3"),
        ("/usr/bin/python3", "python3 -c import_x /opt/t.py", "/usr/bin/python3"),
        ("/usr/bin/python3", "python3 - /opt/t.py", "/usr/bin/python3"),
        ("/usr/bin/python3", "python3", "/usr/bin/python3"),
        ("/usr/bin/bash", "/bin/bash -eu ./run.sh", "/work/run.sh"),
        ("/usr/bin/bash", "bash -o pipefail run.sh", "/work/run.sh"),
        ("/usr/bin/bash", "bash -c curl", "/usr/bin/bash"),
        ("/usr/bin/bash", "-bash", "/usr/bin/bash"),
        ("/usr/bin/dash", "sh -ec run", "/usr/bin/dash"),
        ("/usr/bin/perl", "perl -w -I/opt/lib t.pl", "/work/t.pl"),
        ("/usr/bin/perl", "perl -we 1", "/usr/bin/perl"),
        ("/usr/bin/ruby", "ruby -W0 -rjson t.rb", "/usr/bin/ruby"),
        ("/usr/bin/ruby", "ruby -rjson t.rb", "/work/t.rb"),
        ("/usr/bin/node", "node --max-old-space-size=4096 app.js", "/work/app.js"),
        ("/usr/bin/node", "node --require ./hook.js app.js", "/usr/bin/node"),
        ("/usr/bin/node", "node -e x", "/usr/bin/node"),
        ("/usr/bin/php8.4", "php -d memory_limit=1 -f t.php", "/work/t.php"),
        ("/usr/bin/php8.4", "php -r x", "/usr/bin/php8.4"),
        ("/usr/bin/java", "java -Xmx1g -Dx=y -jar app.jar", "/work/app.jar"),
        ("/usr/bin/java", "java -cp x Main", "/usr/bin/java"),
        ("/usr/lib/wine/wine64-preloader", "C:\\games\\Chess.exe -x", "wine:Chess.exe"),
    ] {
        let put = to("192.0.2.1:1").by(exe).cmdline(&words.split(' ').collect::<Vec<_>>());
        let put = put.with(|identity| identity.cwd = Some("/work".into()));
        let subject = put.subject(&policy);
        assert_eq!(subject.actor_path().map(|path| path.display().to_string()).as_deref(), Some(actor), "{words}");
        assert_eq!(subject.known(), Ok(()), "{words}");
    }
}
