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
        (0_u8..4, 8_u8..25).prop_map(|(b, len)| format!("10.{b}.0.0/{len}")),
        (0_u8..4, 16_u8..64).prop_map(|(b, len)| format!("2001:db8:{b}::/{len}")),
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

#[test]
fn ten_thousand_corrupted_files_are_refused_or_read_whole_and_never_panic() {
    let text =
        std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/profiles/fallback.toml")).expect("a shipped profile");
    let mut dice = Dice(0x5eed);
    let (mut refused, mut read) = (0, 0);
    for _ in 0..10_000 {
        let mut bytes = text.clone().into_bytes();
        for _ in 0..=dice.roll(3) {
            let at = dice.roll(bytes.len());
            match dice.roll(4) {
                0 => bytes.truncate(at),
                1 => bytes.insert(at, u8::try_from(dice.roll(256)).expect("below 256")),
                2 if !bytes.is_empty() => drop(bytes.remove(at.min(bytes.len() - 1))),
                _ => bytes.iter_mut().skip(at).take(1).for_each(|byte| *byte ^= 1 << dice.roll(8)),
            }
        }
        let Ok(corrupt) = String::from_utf8(bytes) else { continue };
        match Policy::compile(&files(&[("fallback.toml", &corrupt)]), Setup::default()) {
            Err(faults) => {
                assert!(faults.iter().all(|fault| fault.line >= 1 && fault.column >= 1 && !fault.what.is_empty()));
                refused += 1;
            }
            Ok(_) => read += 1,
        }
    }
    assert!(refused > 3000 && read > 0, "{refused} refused, {read} read: comments absorb the rest");
}
