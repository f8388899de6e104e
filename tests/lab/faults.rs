//! What is wrong is said with its place and its remedy, and nothing is changed.

use crate::harness::{Finished, Lab, Profiles, binary};
use crate::whole::state;

/// Runs the binary on the laptop.
fn portreeve(lab: &Lab, words: &[&str]) -> Finished {
    let binary = binary().display().to_string();
    lab.laptop().run([binary.as_str()].into_iter().chain(words.iter().copied()))
}

#[test]
fn a_faulty_profile_is_named_by_line_and_column() {
    let lab = Lab::new();
    let before = state(&lab);
    let faults = [
        ("name = \"p\"\nendpoint = [\"- *\"]\n", "2:1"),
        ("name = \"p\"\nmode = \"blocklist\"\n", "2:8"),
        ("name = \"p\"\nendpoints = [\"+ 1.2.3.*\"]\n", "2:"),
        ("name = \"p\"\nendpoints = [\n", "2:"),
    ];
    for (text, place) in faults {
        let profiles = Profiles::accepting();
        profiles.write("user/p.toml", text);
        let set = profiles.path().display().to_string();
        let marker = lab.dir().join("ran").display().to_string();
        for words in [vec!["exec", "--profiles", &set, "--", "touch", &marker], vec!["up", "--foreground", "--profiles", &set]] {
            let told = portreeve(&lab, &words).expect_code(6);
            assert!(told.stderr.contains(&format!("user/p.toml:{place}")), "{text:?}: {told:?}");
        }
        assert!(!std::path::Path::new(&marker).exists(), "the program ran under a faulty set");
        assert_eq!(state(&lab), before, "{text:?}");
    }
}

#[test]
fn a_faulty_plan_is_named_by_line_and_column() {
    let lab = Lab::new();
    let before = state(&lab);
    let plan = lab.dir().join("plan.toml");
    std::fs::write(&plan, "device = \"portreeve0\"\ntabel = 17\n").expect("the lab's folder is ours");
    let told = portreeve(&lab, &["up", "--foreground", "--plan", &plan.display().to_string()]).expect_code(6);
    assert!(told.stderr.contains("plan.toml:2:1"), "{told:?}");
    assert_eq!(state(&lab), before);
}

#[test]
fn a_wrong_flag_is_a_usage_error() {
    let lab = Lab::new();
    for words in [
        vec!["exec", "--no-such-flag", "--", "true"],
        vec!["level", "paranoid"],
        vec!["no-such-verb"],
        vec!["exec", "--level", "9", "--", "true"],
    ] {
        let told = portreeve(&lab, &words).expect_code(2);
        assert!(!told.stderr.is_empty(), "{words:?}");
    }
}

#[test]
fn a_missing_profile_folder_is_said() {
    let lab = Lab::new();
    let told = portreeve(&lab, &["exec", "--profiles", "/no/such/folder", "--", "true"]);
    assert_ne!(told.code(), 0);
    assert!(told.stderr.contains("/no/such/folder"), "{told:?}");
}

#[test]
fn up_without_privilege_says_what_is_missing() {
    let lab = Lab::new();
    let before = state(&lab);
    let copy = lab.dir().join("bin/portreeve");
    std::fs::copy(binary(), &copy).expect("the lab's folder is ours");
    std::fs::set_permissions(&copy, std::os::unix::fs::PermissionsExt::from_mode(0o755)).expect("the copy is ours");
    let copy = copy.display().to_string();
    let told = lab.laptop().run(["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", &copy, "up", "--foreground"]);
    assert!([1, 5].contains(&told.code()), "{told:?}");
    assert!(told.stderr.contains("root") || told.stderr.contains("CAP_NET_ADMIN"), "{told:?}");
    assert_eq!(state(&lab), before);
}

#[test]
fn a_missing_nft_is_named_with_its_package() {
    let lab = Lab::new();
    let before = state(&lab);
    let set = Profiles::accepting();
    let script = format!(
        "mount -t tmpfs none /usr/sbin && PATH=/usr/bin && export PATH && exec {} up --foreground --profiles {}",
        binary().display(),
        set.path().display()
    );
    let told = lab.laptop().run(["unshare", "-m", "sh", "-c", &script]);
    assert_ne!(told.code(), 0);
    assert!(told.stderr.contains("nftables"), "{told:?}");
    assert_eq!(state(&lab), before);
}

#[test]
fn a_start_that_fails_behind_the_routes_leaves_nothing_behind() {
    let lab = Lab::new();
    let before = state(&lab);
    let set = Profiles::accepting();
    // Somebody has the port that the resolver is to have.
    let mut taken = lab.laptop().spawn(crate::harness::probe(&["serve", "127.0.0.1", "17053"]));
    assert_eq!(taken.line(), "serving");
    let told = portreeve(&lab, &["up", "--foreground", "--profiles", &set.path().display().to_string()]).expect_code(1);
    assert!(told.stderr.contains("start the router: bind the resolver's port 17053"), "{told:?}");
    assert_eq!(state(&lab), before, "{told:?}");
}
