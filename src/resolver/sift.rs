//! What an upstream said, reduced to what this program may be told.
//!
//! Keeps one rule: a record that does not belong to the asked name or to its CNAME chain is left out, and so is each address
//! that the judge refuses. Additional records are left out altogether: they are addresses of names that nobody asked for.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use hickory_proto::op::{Message, Query};
use hickory_proto::rr::rdata::svcb::{IpHint, SvcParamKey, SvcParamValue};
use hickory_proto::rr::rdata::{A, AAAA, HTTPS, SVCB};
use hickory_proto::rr::{Name as WireName, RData, Record, RecordType};

use super::judge::Judge;
use super::reply::NoteCode;
use crate::names::Name;
use crate::verdict::{Check, Reason};

/// CNAMEs followed in one answer; resolvers follow 8 to 16.
const MAX_CHAIN: usize = 16;
/// Addresses that one answer tells: each becomes a sighting, and one that is told without would be refused by rules for the name.
const MAX_SIGHTINGS: usize = 64;

/// What is left.
#[derive(Debug)]
pub(super) struct Sifted {
    pub(super) answers: Vec<Record>,
    pub(super) authorities: Vec<Record>,
    /// The upstream vouched for the answer and nothing was taken out of it.
    pub(super) authentic: bool,
    pub(super) sightings: Vec<(IpAddr, Duration)>,
    pub(super) chain: Arc<[Name]>,
}

/// Why nothing is left.
#[derive(Debug)]
pub(super) struct Refusal {
    pub(super) code: NoteCode,
    pub(super) reason: Reason,
}

impl Refusal {
    fn chain(reason: Reason) -> Self {
        Self { code: NoteCode::Blocked, reason }
    }

    fn unjudgeable(phrase: &str) -> Self {
        Self::chain(Reason { rule: Some(phrase.into()), ..Reason::of(Check::RefusedName) })
    }
}

/// The name as policy knows it; None for the root and for names that hold bytes no host name has. Not by hickory's text, which
/// escapes a hyphen that begins a label.
pub(super) fn canonical(name: &WireName) -> Option<Name> {
    let labels: Option<Vec<&str>> =
        name.iter().map(|label| std::str::from_utf8(label).ok().filter(|l| !l.contains('.'))).collect();
    labels.filter(|labels| labels.iter().all(|label| label.is_ascii()))?.join(".").parse().ok()
}

/// Sifts `message`, the answer to `query`, for the program that asked for `name`.
pub(super) fn sift<J: Judge>(
    judge: &J,
    asker: &J::Asker,
    name: &Name,
    query: &Query,
    message: Message,
) -> Result<Sifted, Refusal> {
    let owners = owners(query.name(), &message.answers)?;
    let (mut kept, strangers): (Vec<_>, Vec<_>) = message.answers.into_iter().partition(|record| belongs(record, &owners));
    let chain = chain(&owners, &kept)?;
    if !chain.is_empty()
        && let Some(reason) = judge.chain(asker, name, &chain)
    {
        return Err(Refusal::chain(reason));
    }
    let mut sieve = Sieve { judge, asker, name, refused: None, cut: false, sightings: Vec::new() };
    kept.retain_mut(|record| sieve.keeps(record));
    let Sieve { refused, cut, sightings, .. } = sieve;
    if let Some(reason) = refused.as_ref().filter(|_| sightings.is_empty() && asks_addresses(query.query_type())) {
        return Err(Refusal { code: NoteCode::Filtered, reason: reason.clone() });
    }
    restore_case(&mut kept, query.name());
    let mut authorities = message.authorities;
    authorities.retain(|record| !matches!(record.data, RData::A(_) | RData::AAAA(_)));
    let authentic = message.metadata.authentic_data && refused.is_none() && !cut && strangers.is_empty();
    Ok(Sifted { answers: kept, authorities, authentic, sightings, chain })
}

fn asks_addresses(qtype: RecordType) -> bool {
    matches!(qtype, RecordType::A | RecordType::AAAA | RecordType::ANY)
}

/// The asked name and the CNAME targets behind it, in order.
fn owners(asked: &WireName, answers: &[Record]) -> Result<Vec<WireName>, Refusal> {
    let mut owners = vec![asked.clone()];
    let mut current = asked;
    while let Some(target) = target(current, answers) {
        if owners.contains(target) {
            break;
        }
        if owners.len() > MAX_CHAIN {
            return Err(Refusal::unjudgeable("the CNAME chain is too long"));
        }
        owners.push(target.clone());
        current = target;
    }
    Ok(owners)
}

fn target<'a>(owner: &WireName, answers: &'a [Record]) -> Option<&'a WireName> {
    answers.iter().find_map(|record| match &record.data {
        RData::CNAME(cname) if record.name == *owner => Some(&cname.0),
        _ => None,
    })
}

/// A DNAME stands above the name that it rewrites (RFC 6672); the CNAME made from it is in the chain.
fn belongs(record: &Record, owners: &[WireName]) -> bool {
    let is_dname = record.record_type() == RecordType::DNAME;
    owners.iter().any(|owner| *owner == record.name || (is_dname && record.name.zone_of(owner)))
}

/// CNAME targets, then the targets of SVCB and HTTPS records: a program may go there without asking again.
fn chain(owners: &[WireName], kept: &[Record]) -> Result<Arc<[Name]>, Refusal> {
    let services = kept.iter().filter_map(|record| match &record.data {
        RData::SVCB(svcb) | RData::HTTPS(HTTPS(svcb)) => Some(&svcb.target_name),
        _ => None,
    });
    let mut seen: BTreeSet<&WireName> = owners.first().into_iter().collect();
    let mut chain = Vec::new();
    for target in owners.iter().skip(1).chain(services.filter(|target| !target.is_root())) {
        if seen.insert(target) {
            chain.push(canonical(target).ok_or_else(|| Refusal::unjudgeable("a CNAME target is no host name"))?);
        }
    }
    Ok(chain.into())
}

/// Upstream was asked in random case, which its answer repeats, also where it abbreviates other names by the asked one. The
/// program sees the case that it wrote; the names behind it are lower case.
fn restore_case(records: &mut [Record], asked: &WireName) {
    let restored = |name: &WireName| if name == asked { asked.clone() } else { name.to_lowercase() };
    for record in records {
        record.name = restored(&record.name);
        if let RData::CNAME(target) = &mut record.data {
            target.0 = restored(&target.0);
        }
    }
}

/// Judges addresses one after another.
struct Sieve<'a, J: Judge> {
    judge: &'a J,
    asker: &'a J::Asker,
    name: &'a Name,
    /// Why the first refused address was refused.
    refused: Option<Reason>,
    /// Whether there were more addresses than an answer may tell.
    cut: bool,
    sightings: Vec<(IpAddr, Duration)>,
}

impl<J: Judge> Sieve<'_, J> {
    fn keeps(&mut self, record: &mut Record) -> bool {
        let ttl = Duration::from_secs(u64::from(record.ttl));
        match &mut record.data {
            RData::A(A(address)) => self.passes(IpAddr::V4(*address), ttl),
            RData::AAAA(AAAA(address)) => self.passes(IpAddr::V6(*address), ttl),
            RData::SVCB(svcb) | RData::HTTPS(HTTPS(svcb)) => self.keeps_service(svcb, ttl),
            _ => true,
        }
    }

    fn passes(&mut self, address: IpAddr, ttl: Duration) -> bool {
        match self.judge.address(self.asker, self.name, address) {
            Ok(()) if self.sightings.len() >= MAX_SIGHTINGS => {
                self.cut = true;
                false
            }
            Ok(()) => {
                self.sightings.push((address, ttl));
                true
            }
            Err(reason) => {
                self.refused.get_or_insert(reason);
                false
            }
        }
    }

    /// Takes refused hints out; a record that declares an emptied hint mandatory goes as a whole (RFC 9460 §8).
    fn keeps_service(&mut self, svcb: &mut SVCB, ttl: Duration) -> bool {
        let mut emptied = Vec::new();
        svcb.svc_params.retain_mut(|(key, value)| {
            let left = match value {
                SvcParamValue::Ipv4Hint(IpHint(hints)) => {
                    hints.retain(|A(address)| self.passes(IpAddr::V4(*address), ttl));
                    hints.len()
                }
                SvcParamValue::Ipv6Hint(IpHint(hints)) => {
                    hints.retain(|AAAA(address)| self.passes(IpAddr::V6(*address), ttl));
                    hints.len()
                }
                _ => return true,
            };
            if left == 0 {
                emptied.push(*key);
            }
            left > 0
        });
        !svcb.svc_params.iter().any(|(_, value)| requires(value, &emptied))
    }
}

fn requires(value: &SvcParamValue, emptied: &[SvcParamKey]) -> bool {
    matches!(value, SvcParamValue::Mandatory(keys) if keys.0.iter().any(|key| emptied.contains(key)))
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;
    use crate::resolver::testing::{Tables, address, cname, question, wire};

    const NAMES: [&str; 5] = ["a.example.", "b.example.", "c.example.", "d.example.", "A.Example."];
    const ADDRESSES: [&str; 6] = ["192.0.2.1", "10.0.0.1", "2001:db8::1", "fd00::1", "127.0.0.1", "::ffff:10.0.0.1"];

    fn record() -> impl Strategy<Value = Record> {
        (0..NAMES.len(), 0..NAMES.len(), 0..ADDRESSES.len(), 0_u8..4).prop_map(|(owner, target, ip, kind)| {
            let pick = |list: &[&'static str], at: usize| list.get(at).copied().unwrap_or_default();
            let (owner, target, ip) = (pick(&NAMES, owner), pick(&NAMES, target), pick(&ADDRESSES, ip));
            match kind {
                0 => cname(owner, target),
                1 => service(owner, target, ip),
                _ => address(owner, ip),
            }
        })
    }

    fn service(owner: &str, target: &str, ip: &str) -> Record {
        let (key, value) = match address("x.", ip).data {
            RData::A(v4) => (SvcParamKey::Ipv4Hint, SvcParamValue::Ipv4Hint(IpHint(vec![v4]))),
            RData::AAAA(v6) => (SvcParamKey::Ipv6Hint, SvcParamValue::Ipv6Hint(IpHint(vec![v6]))),
            _ => (SvcParamKey::NoDefaultAlpn, SvcParamValue::NoDefaultAlpn),
        };
        Record::from_rdata(wire(owner), 300, RData::HTTPS(HTTPS(SVCB::new(1, wire(target), vec![(key, value)]))))
    }

    /// Every address that a record tells.
    fn told(record: &Record) -> Vec<IpAddr> {
        match &record.data {
            RData::A(A(v4)) => vec![IpAddr::V4(*v4)],
            RData::AAAA(AAAA(v6)) => vec![IpAddr::V6(*v6)],
            RData::HTTPS(HTTPS(svcb)) => svcb.svc_params.iter().flat_map(|(_, value)| hints(value)).collect(),
            _ => Vec::new(),
        }
    }

    fn hints(value: &SvcParamValue) -> Vec<IpAddr> {
        match value {
            SvcParamValue::Ipv4Hint(IpHint(hints)) => hints.iter().map(|A(v4)| IpAddr::V4(*v4)).collect(),
            SvcParamValue::Ipv6Hint(IpHint(hints)) => hints.iter().map(|AAAA(v6)| IpAddr::V6(*v6)).collect(),
            _ => Vec::new(),
        }
    }

    #[test]
    fn more_addresses_than_are_remembered_are_not_told() {
        let judge = Tables::default();
        let name = "a.example".parse().expect("a name");
        for (qtype, prefix) in [(RecordType::A, "192.0.2."), (RecordType::AAAA, "2001:db8::")] {
            for (sent, left) in [(MAX_SIGHTINGS, MAX_SIGHTINGS), (MAX_SIGHTINGS + 60, MAX_SIGHTINGS)] {
                let asked = question("a.example.", qtype);
                let mut message = asked.clone().into_response();
                message.metadata.authentic_data = true;
                message.insert_answers((0..sent).map(|n| address("a.example.", &format!("{prefix}{n}"))).collect());
                let query = asked.queries.first().cloned().unwrap_or_default();
                let sifted = sift(&judge, &1, &name, &query, message).expect("nothing is refused");
                let learned: Vec<_> = sifted.sightings.iter().map(|(ip, _)| *ip).collect();
                assert_eq!(sifted.answers.iter().flat_map(told).collect::<Vec<_>>(), learned);
                assert_eq!((learned.len(), sifted.authentic), (left, sent == left));
            }
        }
    }

    #[test]
    fn a_name_is_judged_as_it_is_spelt_also_where_a_label_begins_with_a_hyphen() {
        for (labels, expected) in [
            (vec![&b"-a"[..], b"-", b"Example"], Some("-a.-.example")),
            (vec![b"_sip", b"a--b", b"example"], Some("_sip.a--b.example")),
            (vec![b"a.b", b"example"], None),
            (vec![b"a b", b"example"], None),
            (vec![b"*", b"example"], None),
            (vec![b"\xc3\xa4", b"example"], None),
            (vec![b"a\0", b"example"], None),
            (vec![], None),
        ] {
            let name = WireName::from_labels(labels).expect("a name of the wire");
            assert_eq!(canonical(&name).as_ref().map(Name::as_str), expected, "{name}");
        }
    }

    proptest! {
        #[test]
        fn nothing_is_told_that_was_refused_or_belongs_to_no_name_of_the_chain(
            answers in vec(record(), 0..12),
            additionals in vec(record(), 0..4),
            authorities in vec(record(), 0..4),
            kind in 0_usize..3,
        ) {
            let mut judge = Tables::default();
            judge.refused_addresses.extend(ADDRESSES.iter().skip(3).filter_map(|ip| ip.parse::<IpAddr>().ok()));
            judge.refused_addresses.insert(IpAddr::from([10, 0, 0, 1]));
            judge.denied_targets.insert("d.example".to_owned());
            let qtype = [RecordType::A, RecordType::AAAA, RecordType::HTTPS].get(kind).copied().unwrap_or(RecordType::A);
            let asked = question("a.example.", qtype);
            let mut message = asked.clone().into_response();
            message.metadata.authentic_data = true;
            message.insert_answers(answers.clone());
            message.insert_additionals(additionals);
            message.insert_authorities(authorities);
            let query = asked.queries.first().cloned().unwrap_or_default();
            let name = "a.example".parse().expect("a name");
            match sift(&judge, &1, &name, &query, message) {
                Ok(sifted) => {
                    let mut owners: Vec<_> = sifted.chain.iter().map(ToString::to_string).collect();
                    prop_assert!(!owners.contains(&"d.example".to_owned()));
                    owners.push("a.example".to_owned());
                    let addresses: Vec<_> = sifted.answers.iter().flat_map(told).collect();
                    prop_assert!(addresses.iter().all(|ip| !judge.refused_addresses.contains(ip)));
                    let learned: Vec<_> = sifted.sightings.iter().map(|(ip, _)| *ip).collect();
                    prop_assert_eq!(learned, addresses);
                    for record in &sifted.answers {
                        let owner = canonical(&record.name).map(|name| name.to_string()).unwrap_or_default();
                        prop_assert!(owners.contains(&owner), "{} is a stranger", owner);
                    }
                    prop_assert!(!sifted.authorities.iter().any(|record| record.data.ip_addr().is_some()));
                    prop_assert!(!sifted.authentic || sifted.answers.len() == answers.len());
                }
                Err(refusal) => prop_assert!(matches!(refusal.code, NoteCode::Blocked | NoteCode::Filtered)),
            }
        }
    }
}
