//! Which name a program learned an address by.
//!
//! Keeps one rule: only the name that was asked for, and only for the program that asked, earns a sighting. CNAME targets are
//! kept beside it because denies match through them; they never grant.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::Name;

/// Sightings live at least this long whatever the TTL: programs keep addresses longer than the records say.
const MIN_LIFE: Duration = Duration::from_secs(600);
/// And at most this long: a TTL above a week counts as one (RFC 8767 §4).
const MAX_LIFE: Duration = Duration::from_secs(7 * 86_400);
/// Names remembered per program and address; the oldest goes first.
const MAX_NAMES: usize = 8;
/// Addresses remembered per program; the one whose last answer or flow is the oldest goes first. Not the one that expires first:
/// records that live for days would leave no room for what was asked for a moment ago.
const MAX_ADDRESSES: usize = 4096;
/// Programs remembered; the one that was quiet longest goes first.
const MAX_ASKERS: usize = 1024;

/// The key under which a program's sightings are kept: its executable, or a shared one for resolver services.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Asker {
    Program {
        device: u64,
        inode: u64,
        uid: u32,
    },
    /// Shared by every asker, read by every program: the system's resolver service asks in others' names.
    ResolverService,
    /// Nobody was found; remembered for nobody else.
    Unattributed {
        uid: Option<u32>,
    },
}

/// One name that an address was given as.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sighting {
    pub name: Name,
    /// CNAME targets between the asked name and the address.
    pub chain: Arc<[Name]>,
    pub until: Instant,
    /// Shared by all copies: a flow that has one keeps the name known.
    used: Arc<()>,
}

impl Sighting {
    #[must_use]
    pub fn new(name: Name, chain: Arc<[Name]>, until: Instant) -> Self {
        Self { name, chain, until, used: Arc::default() }
    }

    /// Whether what is kept of it counts: its time is not over, or a flow that began by it goes on and its program may open the next.
    fn is_live(&self, now: Instant) -> bool {
        self.until > now || Arc::strong_count(&self.used) > 1
    }
}

/// All sightings of all programs.
#[derive(Debug, Default)]
pub struct Sightings {
    by_asker: BTreeMap<Asker, Addresses>,
}

/// The sightings of one program.
#[derive(Debug, Default)]
struct Addresses {
    by_address: BTreeMap<IpAddr, Names>,
    /// Every address once, by the last time that it was told or had a flow: finding the oldest costs nothing while a program floods.
    by_use: BTreeSet<(Instant, IpAddr)>,
}

/// The names of one address.
#[derive(Debug)]
struct Names {
    used: Instant,
    list: Vec<Sighting>,
}

impl Addresses {
    /// The names of `address`, which count as used now.
    fn touch(&mut self, address: IpAddr, now: Instant) -> &mut Vec<Sighting> {
        if !self.by_address.contains_key(&address)
            && self.by_address.len() >= MAX_ADDRESSES
            && let Some((_, oldest)) = self.by_use.pop_first()
        {
            self.by_address.remove(&oldest);
        }
        let names = self.by_address.entry(address).or_insert_with(|| Names { used: now, list: Vec::new() });
        self.by_use.remove(&(names.used, address));
        names.used = now;
        self.by_use.insert((now, address));
        &mut names.list
    }

    fn expire(&mut self, now: Instant) {
        let Self { by_address, by_use } = self;
        by_address.retain(|address, names| {
            names.list.retain(|s| s.is_live(now));
            if names.list.is_empty() {
                by_use.remove(&(names.used, *address));
            }
            !names.list.is_empty()
        });
    }

    fn last_use(&self) -> Option<Instant> {
        self.by_use.last().map(|(used, _)| *used)
    }
}

impl Sightings {
    /// Remembers that `asker` was given `address` as `name` for max(`ttl`, 10 minutes).
    pub fn learn(&mut self, asker: &Asker, name: &Name, chain: &Arc<[Name]>, address: IpAddr, ttl: Duration, now: Instant) {
        let until = now + ttl.clamp(MIN_LIFE, MAX_LIFE);
        let address = canonical(address);
        if !self.by_asker.contains_key(asker) {
            self.make_room(now);
        }
        let list = self.by_asker.entry(asker.clone()).or_default().touch(address, now);
        list.retain(|s| s.is_live(now));
        let before = list.iter().position(|s| s.name == *name).map(|at| list.remove(at));
        if list.len() >= MAX_NAMES {
            list.remove(0);
        }
        let used = before.map(|before| before.used).unwrap_or_default();
        list.push(Sighting { name: name.clone(), chain: chain.clone(), until, used });
    }

    /// The live names of `address` for `asker`, newest last; those of the resolver service follow only where the program has
    /// none of its own.
    #[must_use]
    pub fn of(&mut self, asker: &Asker, address: IpAddr, now: Instant) -> Vec<Sighting> {
        let own = self.live(asker, address, now);
        if !own.is_empty() || matches!(asker, Asker::Unattributed { .. }) {
            return own;
        }
        self.live(&Asker::ResolverService, address, now)
    }

    /// Forgets what has expired.
    pub fn expire(&mut self, now: Instant) {
        self.by_asker.retain(|_, addresses| {
            addresses.expire(now);
            !addresses.by_address.is_empty()
        });
    }

    fn live(&mut self, asker: &Asker, address: IpAddr, now: Instant) -> Vec<Sighting> {
        let address = canonical(address);
        let Some(addresses) = self.by_asker.get_mut(asker) else { return Vec::new() };
        let Some(names) = addresses.by_address.get(&address) else { return Vec::new() };
        let found: Vec<Sighting> = names.list.iter().filter(|s| s.is_live(now)).cloned().collect();
        if !found.is_empty() {
            addresses.touch(address, now);
        }
        found
    }

    /// Makes room for one more program: what has expired goes, else who was quiet longest.
    fn make_room(&mut self, now: Instant) {
        if self.by_asker.len() < MAX_ASKERS {
            return;
        }
        self.expire(now);
        if self.by_asker.len() < MAX_ASKERS {
            return;
        }
        let first = self.by_asker.iter().min_by_key(|(_, addresses)| addresses.last_use()).map(|(asker, _)| asker.clone());
        if let Some(first) = first {
            self.by_asker.remove(&first);
        }
    }
}

/// A v4-mapped address as the IPv4 inside: programs with one socket for both families connect to either form.
fn canonical(address: IpAddr) -> IpAddr {
    address.to_canonical()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn program(inode: u64) -> Asker {
        Asker::Program { device: 1, inode, uid: 1000 }
    }

    fn name(text: &str) -> Name {
        text.parse().expect("a name")
    }

    fn addresses() -> [IpAddr; 2] {
        ["203.0.113.10", "2001:db8::10"].map(|text| text.parse().expect("an address"))
    }

    struct Bench {
        sightings: Sightings,
        now: Instant,
    }

    impl Bench {
        fn new() -> Self {
            Self { sightings: Sightings::default(), now: Instant::now() }
        }

        fn learn(&mut self, asker: &Asker, text: &str, address: IpAddr, ttl: u64) {
            self.sightings.learn(asker, &name(text), &Arc::from([]), address, Duration::from_secs(ttl), self.now);
        }

        fn names(&mut self, asker: &Asker, address: IpAddr) -> Vec<String> {
            self.sightings.of(asker, address, self.now).iter().map(|sighting| sighting.name.to_string()).collect()
        }
    }

    #[test]
    fn a_sighting_lives_ten_minutes_or_as_long_as_its_record() {
        for (ttl, life) in [(0, 600), (599, 600), (3600, 3600)] {
            for address in addresses() {
                let mut bench = Bench::new();
                bench.learn(&program(1), "example.com", address, ttl);
                bench.now += Duration::from_secs(life - 1);
                assert_eq!(bench.names(&program(1), address).len(), 1, "{ttl}");
                bench.now += Duration::from_secs(1);
                assert!(bench.names(&program(1), address).is_empty(), "{ttl}");
            }
        }
    }

    #[test]
    fn the_name_that_was_asked_for_last_comes_last_and_none_is_there_twice() {
        for address in addresses() {
            let mut bench = Bench::new();
            ["a.example", "b.example", "a.example"].into_iter().for_each(|text| bench.learn(&program(1), text, address, 60));
            assert_eq!(bench.names(&program(1), address), ["b.example", "a.example"]);
        }
    }

    #[test]
    fn names_and_addresses_are_bounded_and_the_oldest_goes_first() {
        let mut bench = Bench::new();
        let address = addresses()[0];
        (0..MAX_NAMES + 3).for_each(|i| bench.learn(&program(1), &format!("n{i}.example"), address, 60));
        let names = bench.names(&program(1), address);
        assert_eq!((names.len(), &*names[0]), (MAX_NAMES, "n3.example"));

        let mut bench = Bench::new();
        let nth = |n: usize| IpAddr::from(u32::try_from(0x0a00_0000 + n).expect("small").to_be_bytes());
        for n in 0..MAX_ADDRESSES + 10 {
            bench.learn(&program(1), "example.com", nth(n), 60);
            bench.now += Duration::from_millis(1);
        }
        bench.learn(&program(2), "example.com", nth(0), 60);
        let kept = (0..MAX_ADDRESSES + 10).filter(|n| !bench.names(&program(1), nth(*n)).is_empty()).count();
        assert_eq!(kept, MAX_ADDRESSES);
        assert!(bench.names(&program(1), nth(9)).is_empty() && !bench.names(&program(1), nth(10)).is_empty());
        assert!(!bench.names(&program(2), nth(0)).is_empty(), "one program does not push another's out");
    }

    #[test]
    fn what_was_just_asked_for_or_has_a_flow_stays_beside_records_that_live_for_days() {
        let week = MAX_LIFE.as_secs();
        let nth = |n: usize| IpAddr::from(u32::try_from(0x0a00_0000 + n).expect("small").to_be_bytes());
        for address in addresses() {
            let mut bench = Bench::new();
            bench.learn(&program(1), "open.example", nth(9000), 60);
            for n in 0..MAX_ADDRESSES + 10 {
                bench.now += Duration::from_millis(1);
                bench.learn(&program(1), "flood.example", nth(n), week);
                assert_eq!(bench.names(&program(1), nth(9000)), ["open.example"], "a flow begins");
            }
            bench.learn(&program(1), "own.example", address, 60);
            (0..MAX_ADDRESSES - 2).for_each(|n| {
                bench.now += Duration::from_millis(1);
                bench.learn(&program(1), "more.example", nth(5000 + n % 3000), week);
            });
            assert_eq!(bench.names(&program(1), address), ["own.example"]);
            assert_eq!(bench.names(&program(1), nth(9000)), ["open.example"], "flows began");
            assert!(bench.names(&program(1), nth(0)).is_empty());
        }
    }

    #[test]
    fn a_name_is_known_as_long_as_a_flow_that_began_by_it() {
        for asker in [program(1), Asker::ResolverService] {
            for address in addresses() {
                let mut bench = Bench::new();
                bench.learn(&asker, "example.com", address, 60);
                bench.learn(&asker, "example.org", address, 60);
                let mut flow = bench.sightings.of(&program(1), address, bench.now);
                flow.retain(|sighting| sighting.name.as_str() == "example.com");
                for _ in 0..3 {
                    bench.now += Duration::from_secs(3 * 3600);
                    assert_eq!(bench.names(&program(1), address), ["example.com"], "the other has no flow");
                    // Asked for again in between, it is still the same.
                    bench.learn(&asker, "example.com", address, 60);
                    bench.sightings.expire(bench.now);
                }
                bench.now += MIN_LIFE;
                let second = flow.clone();
                drop(flow);
                assert_eq!(bench.names(&program(1), address), ["example.com"]);
                drop(second);
                assert!(bench.names(&program(1), address).is_empty());
                bench.sightings.expire(bench.now);
                assert!(bench.sightings.by_asker.is_empty());
            }
        }
    }

    #[test]
    fn what_expired_leaves_nothing_behind() {
        let mut bench = Bench::new();
        for address in addresses() {
            bench.learn(&program(1), "short.example", address, 60);
            bench.learn(&program(1), "short.example", address, 60);
        }
        bench.learn(&program(1), "long.example", IpAddr::from([10, 0, 0, 1]), 3600);
        bench.now += MIN_LIFE;
        bench.sightings.expire(bench.now);
        let kept = bench.sightings.by_asker.get(&program(1)).expect("one is left");
        assert_eq!((kept.by_address.len(), kept.by_use.len()), (1, 1));
        bench.now += Duration::from_secs(3600);
        bench.sightings.expire(bench.now);
        assert!(bench.sightings.by_asker.is_empty());
    }

    #[test]
    fn programs_are_bounded_too_and_the_resolver_service_stays_while_it_asks() {
        let mut bench = Bench::new();
        let address = addresses()[0];
        for inode in 0..1500 {
            bench.learn(&program(inode), "example.com", address, 60);
            bench.learn(&Asker::ResolverService, "example.org", address, 60);
            bench.now += Duration::from_millis(1);
        }
        assert_eq!(bench.sightings.by_asker.len(), MAX_ASKERS);
        assert_eq!(bench.names(&program(1499), address), ["example.com"]);
        assert_eq!(bench.names(&Asker::ResolverService, address), ["example.org"]);
        bench.now += MIN_LIFE;
        bench.learn(&program(1), "example.com", address, 60);
        assert_eq!(bench.sightings.by_asker.len(), 1);
    }

    #[test]
    fn aliases_stand_beside_the_asked_name_and_grant_nothing() {
        for address in addresses() {
            let mut bench = Bench::new();
            let chain: Arc<[Name]> = Arc::from([name("cdn.example.net")]);
            bench.sightings.learn(&program(1), &name("example.com"), &chain, address, Duration::ZERO, bench.now);
            let [sighting] = &bench.sightings.of(&program(1), address, bench.now)[..] else { panic!("one sighting") };
            assert_eq!((sighting.name.as_str(), &*sighting.chain), ("example.com", &chain[..]));
        }
    }
}
