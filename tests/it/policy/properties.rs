//! What holds for all sets and cases.

use proptest::prelude::*;

use portreeve::profile::{Level, Policy, Rule, Setup};
use portreeve::verdict::Verdict;

use super::world::{OPEN, Put, files, question, set, to, user};

fn entity() -> impl Strategy<Value = String> {
    let domain = "[a-c]\\.(example|test)";
    prop_oneof![
        Just("*".to_owned()),
        (0_u8..4, 0_u8..4).prop_map(|(b, d)| format!("10.{b}.0.{d}")),
        (0_u8..4, 16_u8..25).prop_map(|(b, len)| format!("10.{b}.0.0/{len}")),
        (0_u8..4, 48_u8..64).prop_map(|(b, len)| format!("2001:db8:{b}::/{len}")),
        proptest::sample::select(vec!["10.0.0.0/8", "10.2.0.0/15", "0.0.0.0/0", "::/0", "2001:db8::/32"]).prop_map(str::to_owned),
        (0_u8..4).prop_map(|b| format!("2001:db8:{b}::1")),
        proptest::sample::select(vec!["LAN", "Internet", "Localhost", "LAN,Internet", "L:tracker", "AT", "C:EU", "AS64496"])
            .prop_map(str::to_owned),
        domain.prop_map(|d| d),
        domain.prop_map(|d| format!(".{d}")),
        domain.prop_map(|d| format!("*.{d}")),
        "\\*[a-c]\\.(example|test)",
        "[a-c]\\.(ex)?\\*",
        "\\*[a-c](\\.e)?\\*",
    ]
}

fn rule() -> impl Strategy<Value = String> {
    let transport = proptest::sample::select(vec!["", "", "", " TCP", " UDP", " TCP/443", " */80-90", " UDP/53", " ICMP"]);
    ("[-+?]", entity(), transport).prop_map(|(verdict, entity, transport)| format!("{verdict} {entity}{transport}"))
}

fn put() -> impl Strategy<Value = Put> {
    let address = prop_oneof![
        (0_u8..4, 0_u8..4).prop_map(|(b, d)| format!("10.{b}.0.{d}")),
        (0_u8..4).prop_map(|b| format!("[2001:db8:{b}::1]")),
        Just("127.0.0.1".to_owned()),
        Just("192.0.2.1".to_owned()),
        Just("240.0.0.1".to_owned()),
    ];
    let name = proptest::option::of("([ab]\\.)?[a-c]\\.(example|test)");
    let port = proptest::sample::select(vec![443_u16, 53, 85, 1000]);
    let protocol = proptest::sample::select(vec![6_u8, 17, 1]);
    (address, name, port, protocol, proptest::sample::select(Level::ALL.to_vec()), any::<bool>(), any::<bool>()).prop_map(
        |(address, name, port, protocol, level, inbound, asks)| {
            let flow = to(&format!("{address}:{port}")).proto(protocol).at(level);
            match name {
                Some(name) if asks => question(&name).at(level),
                Some(name) if inbound => flow.named(&name).inbound(),
                Some(name) => flow.named(&name),
                None if inbound => flow.inbound(),
                None => flow,
            }
        },
    )
}

fn policy(rules: &[String], mode: &str) -> Policy {
    let list = rules.iter().map(|rule| format!("\"{rule}\"")).collect::<Vec<_>>().join(", ");
    let text = format!("endpoints = [{list}]\nservice_endpoints = [{list}]\n{}", OPEN.replace("blacklist", mode));
    let labels = "label = \"tracker\"\nnames = [\".a.test\"]\nnetworks = [\"10.3.0.0/16\"]";
    set(&[("user/x.toml", &user(&text)), ("labels/t.toml", labels)])
}

fn refusal(verdict: Verdict) -> u8 {
    match verdict {
        Verdict::Accept => 0,
        Verdict::Ask => 1,
        Verdict::Block | Verdict::Drop => 2,
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(300) })]

    #[test]
    fn a_rule_prints_as_it_is_read(text in rule()) {
        let rule: Rule = text.parse().expect("a generated rule is valid");
        prop_assert_eq!(rule.to_string().parse::<Rule>(), Ok(rule));
    }

    #[test]
    fn no_text_makes_the_grammar_panic(text in "\\PC{0,40}") {
        let _ = text.parse::<Rule>();
    }

    #[test]
    fn a_deny_put_anywhere_never_widens(rules in proptest::collection::vec(rule(), 0..12), deny in entity(), at in any::<prop::sample::Index>(), put in put()) {
        let before = policy(&rules, "blacklist");
        let mut with = rules.clone();
        with.insert(at.index(rules.len() + 1), format!("- {deny}"));
        let after = policy(&with, "blacklist");
        prop_assert!(refusal(put.judge(&after).verdict) >= refusal(put.judge(&before).verdict));
    }

    #[test]
    fn a_question_is_open_wherever_a_flow_under_that_name_may_be_accepted_by_name(rules in proptest::collection::vec(rule(), 0..8), name in "[a-c]\\.(example|test)") {
        // Rules that speak of addresses may contradict each other between question and flow, so only the others are looked at.
        let named: Vec<String> = rules.into_iter().filter(|rule| rule.contains("example") || rule.contains("test")).collect();
        for mode in ["whitelist", "blacklist", "prompt"] {
            let policy = policy(&named, mode);
            for port in [443, 85, 53] {
                let flow = to(&format!("192.0.2.1:{port}")).named(&name).judge(&policy);
                if flow.verdict == Verdict::Accept {
                    prop_assert_eq!(question(&name).judge(&policy).verdict, Verdict::Accept);
                }
            }
        }
    }

    #[test]
    fn the_walk_that_explains_is_the_walk_that_decides(rules in proptest::collection::vec(rule(), 0..12), put in put(), mode in "(whitelist|prompt|blacklist)") {
        // `judge` compares the two.
        let _ = put.judge(&policy(&rules, &mode));
    }
}

/// xorshift64*: mutations must be the same in every run.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, below: usize) -> usize {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        let wide = self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 16;
        usize::try_from(wide).expect("48 bits fit") % below.max(1)
    }
}

impl Dice {
    /// The text with one to three bytes changed, put in or taken out, or cut short; None where that is no text any more.
    fn corrupt(&mut self, text: &str) -> Option<String> {
        let mut bytes = text.as_bytes().to_vec();
        for _ in 0..=self.roll(3) {
            let at = self.roll(bytes.len());
            match self.roll(4) {
                0 => bytes.truncate(at),
                1 => bytes.insert(at, u8::try_from(self.roll(256)).expect("below 256")),
                2 if at < bytes.len() => drop(bytes.remove(at)),
                _ => bytes.iter_mut().skip(at).take(1).for_each(|byte| *byte ^= 1 << self.roll(8)),
            }
        }
        String::from_utf8(bytes).ok()
    }
}

/// Every line permits, so that whatever is lost on the way permits less. A changed byte can still name another host or port, and
/// no reader could see that; the battery below asks for none of those.
const PERMITS: &str = r#"name = "tool"
mode = "whitelist"
endpoints = [
  "+ .example.com TCP/443",
  "+ 192.0.2.0/28 UDP/5000-5010",
  "+ 2001:db8:1::/48 TCP/22",
  "? .example.org TCP/443",
]
service_endpoints = ["+ 10.1.0.0/16 TCP/22"]
connect_ports = ["TCP/443", "UDP/5000-5010", "TCP/22"]

[match]
path = ["/usr/bin/tool"]

[scope]
internet = ["dynamic"]
lan = ["dynamic"]

[flags]
peer_to_peer = ["dynamic"]
service = ["dynamic"]
"#;

/// Cases that the whole file permits, asks for or refuses.
fn battery() -> Vec<Put> {
    let flows = [
        to("192.0.2.1:443").named("www.example.com"),
        to("[2001:db8::1]:443").named("example.com"),
        to("192.0.2.1:443").named("example.org"),
        to("192.0.2.1:443").named("www.example.net"),
        to("[2001:db8::1]:443").named("bank.test"),
        to("192.0.2.1:25").named("example.com"),
        to("192.0.2.1:5005").proto(17),
        to("198.51.100.1:5005").proto(17),
        to("203.0.113.200:22"),
        to("[2001:db8:1::5]:22"),
        to("[2001:db8:ffff::5]:22"),
        to("10.1.2.3:22").inbound(),
        to("172.20.2.3:22").inbound(),
        to("192.0.2.1:22").inbound(),
        to("192.168.1.1:631"),
        to("127.0.0.1:631"),
        to("240.0.0.1:443"),
    ];
    let questions = ["www.example.com", "example.org", "example.net", "bank.test"].map(question);
    let at_all = flows.into_iter().chain(questions).flat_map(|put| Level::ALL.map(|level| put.clone().at(level)));
    at_all.collect()
}

#[test]
fn ten_thousand_corrupted_files_are_refused_or_permit_no_more_than_the_whole_one() {
    let whole = set(&[("user/tool.toml", PERMITS)]);
    let battery = battery();
    let before: Vec<u8> = battery.iter().map(|put| refusal(put.judge(&whole).verdict)).collect();
    assert!(before.contains(&0) && before.contains(&1) && before.contains(&2));
    let mut dice = Dice(0x5eed);
    let (mut refused, mut read) = (0, 0);
    for _ in 0..10_000 {
        let Some(corrupt) = dice.corrupt(PERMITS) else {
            refused += 1;
            continue;
        };
        match Policy::compile(&files(&[("user/tool.toml", &corrupt)]), Setup::default()) {
            Err(faults) => {
                assert!(faults.iter().all(|fault| fault.line >= 1 && fault.column >= 1 && !fault.what.is_empty()), "{faults:?}");
                refused += 1;
            }
            Ok(policy) => {
                read += 1;
                for (put, before) in battery.iter().zip(&before) {
                    let after = refusal(put.judge(&policy).verdict);
                    assert!(after >= *before, "{put:?} went from {before} to {after} under\n{corrupt}");
                }
            }
        }
    }
    assert!(refused > 5000 && read > 100, "{refused} refused, {read} read");
}

#[test]
fn a_corrupted_shipped_profile_never_makes_the_reader_panic() {
    let text =
        std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/profiles/fallback.toml")).expect("a shipped profile");
    let mut dice = Dice(0xfa11);
    for corrupt in (0..2000).filter_map(|_| dice.corrupt(&text)) {
        let _ = Policy::compile(&files(&[("fallback.toml", &corrupt)]), Setup::default());
    }
}
