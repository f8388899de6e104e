//! What a configuration file may say, and what is said of its faults.

use super::*;

fn faults(text: &str) -> Vec<String> {
    match Config::parse(Path::new("p.toml"), text) {
        Ok(config) => panic!("accepted as {config:?}"),
        Err(faults) => faults.iter().map(ToString::to_string).collect(),
    }
}

#[test]
fn a_whole_file_is_understood() {
    let text = r#"
        level = "secure"
        queues = 2
        [dns]
        upstream = ["192.0.2.53", "tls://[2001:db8::53]:853#dns.example.com", "https://192.0.2.1/dns-query#dns.example.com"]
        private = ["corp.example.com", "Example.org."]
        [groups]
        work = ["example.com", "192.0.2.0/24"]
        [geo]
        country = "/usr/share/GeoIP/country.mmdb"
    "#;
    let config = Config::parse(Path::new("p.toml"), text).expect("every key is legal");
    assert_eq!((config.level, config.queues), (Level::Secure, Some(2)));
    assert_eq!((config.dns.upstream.len(), config.dns.private.len()), (3, 2));
    assert_eq!(config.groups["work"], ["example.com", "192.0.2.0/24"]);
    assert_eq!(config.geo, Geo { country: Some("/usr/share/GeoIP/country.mmdb".into()), asn: None });
}

#[test]
fn a_number_of_queues_that_makes_no_sense_is_a_fault() {
    for (text, column) in [
        ("queues = 0", 10),
        ("queues = 5", 10),
        ("queues = -1", 10),
        ("queues = \"2\"", 10),
        ("queues = 99999999999999999999", 10),
    ] {
        let place = format!("p.toml:1:{column}: this is no number of queues; a number from 1 to 4 belongs here");
        assert_eq!(faults(text), [place], "{text}");
    }
}

#[test]
fn a_private_zone_that_nobody_owns_is_a_fault() {
    for zone in ["com", "co.uk", "", "*.example.com", "a b"] {
        let place =
            format!("p.toml:1:16: `{zone}` does not fit here; a zone is a name that somebody owns, such as corp.example.com");
        assert_eq!(faults(&format!("dns.private = [\"{zone}\"]")), [place], "{zone}");
    }
}

#[test]
fn an_empty_file_is_the_default() {
    assert_eq!(Config::parse(Path::new("p.toml"), "# nothing\n").expect("comments are legal"), Config::default());
}

#[test]
fn all_faults_are_told_at_once_with_line_and_column() {
    let text = "levle = \"secure\"\n[dns]\nupstream = [\"192.0.2.53\", \"dns.example.com\", 4]\n[geo]\n  asn = \"x.mmdb\"\n";
    assert_eq!(
        faults(text),
        [
            "p.toml:1:1: unknown key `levle`; did you mean `level`?",
            "p.toml:3:27: `dns.example.com` does not fit here; an upstream is an address, ADDRESS:PORT, or one of udp, tcp, tls, https and \
             quic://ADDRESS[:PORT][/PATH][#NAME]",
            "p.toml:3:46: here is a number; a text in quotes belongs here",
            "p.toml:5:9: `x.mmdb` is no absolute path; begin with /, since the router may be started anywhere",
        ]
    );
}

#[test]
fn what_is_no_toml_is_a_fault_with_its_place() {
    let faults = faults("level = \"secure\"\n[dns\n");
    assert!(faults.first().is_some_and(|fault| fault.starts_with("p.toml:2:")), "{faults:?}");
}

#[test]
fn values_of_the_wrong_kind_are_refused() {
    for (text, what) in [
        ("level = 3", "here is a number"),
        ("level = \"high\"", "`high` is no security level"),
        ("dns = \"192.0.2.1\"", "`dns` is a text"),
        ("[dns]\nupstream = \"192.0.2.1\"", "here is a text"),
        ("[groups]\n\"a b\" = []", "`a b` is no name for a group"),
        ("[groups]\na = [\"@b\"]", "`@b` does not fit here"),
        ("[geo]\ncountry = true", "here is true or false"),
        ("level = \"dynamic\"\nlevel = \"secure\"", "duplicate key"),
    ] {
        let faults = faults(text);
        assert!(faults.iter().any(|fault| fault.contains(what)), "{text}: {faults:?}");
    }
}

proptest::proptest! {
    #[test]
    fn no_text_makes_the_reader_panic_or_leaves_a_fault_without_its_place(text in "(\\[(dns|groups|geo)\\]\n|[a-z]{1,8} ?= ?|\"\\PC{0,8}\"|[\\[\\],{}\n#]|\\PC)*") {
        if let Err(faults) = Config::parse(Path::new("p"), &text) {
            proptest::prop_assert!(!faults.is_empty());
            let lines = text.split('\n').count();
            proptest::prop_assert!(faults.iter().all(|fault| (1..=lines).contains(&fault.line) && fault.column >= 1), "{faults:?}");
        }
    }
}

#[test]
fn upstreams_are_named_by_address() {
    for good in
        ["192.0.2.1", "192.0.2.1:5353", "2001:db8::1", "[2001:db8::1]:53", "tls://[2001:db8::1]#x", "quic://192.0.2.1:853#x"]
    {
        assert!(upstream_can_be(good), "{good}");
    }
    for bad in [
        "",
        "dns.example.com",
        "https://dns.example.com/q",
        "ftp://192.0.2.1",
        "192.0.2.1:0",
        "192.0.2.1 #x",
        "://192.0.2.1",
        "1.2.3",
    ] {
        assert!(!upstream_can_be(bad), "{bad}");
    }
}

#[test]
fn only_the_default_file_may_be_missing() {
    let named = Places { config_override: Some("/nonexistent/p.toml".into()), ..Places::default() };
    assert!(matches!(Config::load(&named), Err(ConfigError::Read { .. })));
}
