//! What the text of profiles may be, and what is told of the rest.

use portreeve::profile::Level;

use super::world::{expect, faults, set, to};

/// The example of the design, whole.
const EXAMPLE: &str = r#"
name  = "curl"
level = "dynamic"                      # minimum security level for this program
mode  = "prompt"                       # or per level
endpoints         = ["+ .example.com TCP/443", "? LAN", "- *"]    # outbound, first match decides
service_endpoints = ["+ LAN TCP/22", "- *"]                       # inbound
domain_whitelist  = ["example.com", "*.example.org"]   # empty = no restriction
connect_ports     = ["TCP/443", "UDP/50000-60000"]     # empty = no restriction
listen_ports      = ["TCP/22"]

[match]
path   = ["/usr/bin/curl"]
prefix = ["/opt/tools/", "~/bin/"]
cmdline = ["--api"]
tag    = ["flatpak:org.example.App"]

[scope]
internet = true
lan = ["dynamic", "secure"]
localhost = true

[flags]
related = true
strict = false
gateway = false
peer_to_peer = false
service = false
independent = false
require_gate17 = false
run_as = "user"

[labels]
block = ["tracker", "malware"]

[framework]
find = '^\S*python[0-9.]*\s+(\S+)'
build = "{1}|{CWD}/{1}"
virtual = false

[[expect]]
to = "example.com:443"
verdict = "accept"
"#;

#[test]
fn the_example_of_the_documentation_is_valid_and_does_what_it_says() {
    let policy = set(&[("user/curl.toml", EXAMPLE)]);
    let curl = |remote: &str| to(remote).by("/usr/bin/curl").cmdline(&["curl", "--api"]);
    expect(
        &policy,
        &[
            (curl("192.0.2.1:443").named("example.com"), "accept endpoints"),
            (curl("192.0.2.1:443").named("example.net"), "block endpoints"),
            (curl("192.0.2.1:443"), "block peer_to_peer"),
            (curl("192.0.2.1:443").named("example.com").uid(Some(0)), "block run_as"),
            (curl("10.0.0.1:80").named("nas.lan").at(Level::Fortress), "block scope"),
            (curl("10.0.0.1:22").inbound(), "drop direction"),
        ],
    );
}

#[test]
fn every_fault_of_a_file_is_told_at_once_with_place_and_remedy() {
    let text = "name = \"x\"\nlevl = \"secure\"\nmode = \"blocklist\"\nendpoints = [\"+ 1.2.3.*\", \"+ ok.example\",\n  \"allow x\"]\n\
                connect_ports = [\"TCP/0\"]\n[scope]\nlan = [\"dynamic\", \"paranoid\"]\n[flags]\nrun_as = \"root\"\nservice = 1\n\
                [match]\npath = [\"../x\"]\ncmdline = [\"(\"]\ntag = [\"flatpack:x\"]\n";
    let told = faults(&[("user/x.toml", text)]);
    for (place, what) in [
        ("2:1", "unknown key `levl`; did you mean `level`?"),
        ("3:8", "`blocklist` is no mode; did you mean `blacklist`?"),
        ("4:14", "CIDR"),
        ("5:3", "`allow` is no verdict"),
        ("6:18", "no port"),
        ("8:19", "`paranoid` is no security level; levels are dynamic, secure and fortress"),
        ("10:10", "`root` is no run_as"),
        ("11:11", "write true, false or a list of levels"),
        ("13:9", "holds `..`"),
        ("14:12", "regular expression"),
        ("15:8", "did you mean `flatpak:`?"),
    ] {
        let start = format!("user/x.toml:{place}: ");
        assert!(told.iter().any(|fault| fault.starts_with(&start) && fault.contains(what)), "{start}{what}\n{told:#?}");
    }
    assert_eq!(told.len(), 11, "{told:#?}");
}

#[test]
fn faults_of_all_files_come_together_and_one_is_enough_to_refuse_the_set() {
    let told = faults(&[
        ("user/a.toml", "name = \"a\""),
        ("user/b.toml", "name = 7"),
        ("global.toml", "nam = \"x\""),
        ("labels/l.toml", "label = 1"),
    ]);
    assert_eq!(told.len(), 3, "{told:#?}");
}

#[test]
fn what_is_wrong_in_a_file_is_refused() {
    for (path, text) in [
        ("user/x.toml", "endpoints = []"),
        ("user/x.toml", "name = \"\""),
        ("user/x.toml", "name = \"x\"\nname = \"y\""),
        ("user/x.toml", "name = \"x"),
        ("user/x.toml", "name = \"x\"\nmode = { dynamik = \"prompt\" }"),
        ("user/x.toml", "name = \"x\"\nmode = [\"prompt\"]"),
        ("user/x.toml", "name = \"x\"\nmode = \"Prompt\""),
        ("user/x.toml", "name = \"x\"\nendpoints = \"+ *\""),
        ("user/x.toml", "name = \"x\"\nendpoints = [[\"+ *\"]]"),
        ("user/x.toml", "name = \"x\"\ndomain_whitelist = [\"1.2.3.*\"]"),
        ("user/x.toml", "name = \"x\"\nconnect_ports = [\"443\"]"),
        ("user/x.toml", "name = \"x\"\n[scope]\nwan = true"),
        ("user/x.toml", "name = \"x\"\n[flags]\npeer-to-peer = true"),
        ("user/x.toml", "name = \"x\"\n[framework]\nfind = 'x'\nbuild = \"{1}\""),
        ("user/x.toml", "name = \"x\"\n[framework]\nfind = '(x)'\nbuild = \"{2}\""),
        ("user/x.toml", "name = \"x\"\n[framework]\nfind = '(x)'"),
        ("user/x.toml", "name = \"x\"\n[framework]\nfind = '(x)'\nbuild = \"{1}\"\nparent_level = 1"),
        ("user/x.toml", "name = \"x\"\n[framework]\nparent_level = 0"),
        ("user/x.toml", "name = \"x\"\n[framework]\nfind = '(a)(?=b)'\nbuild = \"{1}\""),
        ("user/x.toml", "name = \"x\"\n[match]\ncmdline = ['(\\w{1000}){1000}']"),
        ("user/x.toml", "name = \"x\"\n[[expect]]\nto = \"x\""),
        ("user/x.toml", "name = \"x\"\n[[expect]]\nto = \"x\"\nverdict = \"allow\""),
        ("user/x.toml", "name = \"x\"\n[expect]\nto = \"x\"\nverdict = \"ask\""),
        ("global.toml", "[match]\npath = [\"/x\"]"),
        ("fallback.toml", "[match]\nprefix = [\"/\"]"),
        ("labels/x.toml", "names = [\"x.example\"]"),
        ("labels/x.toml", "label = \"a b\""),
        ("labels/x.toml", "label = \"a\"\nnames = [\"LAN\"]"),
        ("labels/x.toml", "label = \"a\"\nname = [\"x.example\"]"),
    ] {
        assert!(!faults(&[(path, text)]).is_empty(), "{path}: {text} should be refused");
    }
}

#[test]
fn names_are_unique_in_a_layer_and_free_between_layers() {
    let own = "name = \"x\"\n[match]\npath = [\"/x\"]";
    assert!(faults(&[("user/a.toml", own), ("stamp/a.toml", own)]).is_empty());
    let told = faults(&[("user/a.toml", own), ("user/b.toml", own)]);
    assert!(
        told.first().is_some_and(|fault| fault.starts_with("user/b.toml:1:8: the name `x` is taken by user/a.toml:1")),
        "{told:?}"
    );
}

#[test]
fn an_empty_file_is_no_profile_and_no_fault() {
    assert_eq!(set(&[("user/a.toml", ""), ("global.toml", "  \n"), ("labels/a.toml", "\n")]).profiles().count(), 0);
}
