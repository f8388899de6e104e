//! Which name a program learned an address by, and for how long.

use std::sync::Arc;
use std::time::{Duration, Instant};

use portreeve::names::{Asker, Name, Sightings};

const V4: &str = "192.0.2.1";
const V6: &str = "2001:db8::1";

fn program(inode: u64) -> Asker {
    Asker::Program { device: 1, inode, uid: 1000 }
}

fn minutes(count: u64) -> Duration {
    Duration::from_secs(count * 60)
}

fn learn(sightings: &mut Sightings, asker: &Asker, name: &str, address: &str, ttl: Duration, now: Instant) {
    let chain: Arc<[Name]> = Arc::from([]);
    sightings.learn(asker, &name.parse().expect("a name"), &chain, address.parse().expect("an address"), ttl, now);
}

fn names(sightings: &mut Sightings, asker: &Asker, address: &str, now: Instant) -> Vec<String> {
    let found = sightings.of(asker, address.parse().expect("an address"), now);
    found.iter().map(|sighting| sighting.name.to_string()).collect()
}

#[test]
fn a_sighting_is_the_askers_own() {
    let (mut sightings, now) = (Sightings::default(), Instant::now());
    for address in [V4, V6] {
        learn(&mut sightings, &program(1), "example.com", address, minutes(1), now);
        assert_eq!(names(&mut sightings, &program(1), address, now), ["example.com"]);
        assert!(names(&mut sightings, &program(2), address, now).is_empty());
        assert!(names(&mut sightings, &Asker::Unattributed { uid: Some(1000) }, address, now).is_empty());
    }
}

#[test]
fn what_the_resolver_service_learned_counts_where_a_program_has_no_name_of_its_own() {
    let (mut sightings, now) = (Sightings::default(), Instant::now());
    learn(&mut sightings, &Asker::ResolverService, "shared.example", V4, minutes(1), now);
    assert_eq!(names(&mut sightings, &program(1), V4, now), ["shared.example"]);
    assert!(names(&mut sightings, &Asker::Unattributed { uid: None }, V4, now).is_empty());
    learn(&mut sightings, &program(1), "own.example", V4, minutes(1), now);
    assert_eq!(names(&mut sightings, &program(1), V4, now), ["own.example"]);
}

#[test]
fn a_sighting_lives_ten_minutes_or_its_ttl_and_never_longer_than_a_week() {
    let (mut sightings, now) = (Sightings::default(), Instant::now());
    learn(&mut sightings, &program(1), "short.example", V4, minutes(1), now);
    learn(&mut sightings, &program(1), "long.example", V4, minutes(60), now);
    learn(&mut sightings, &program(1), "ever.example", V6, Duration::MAX, now);
    assert_eq!(names(&mut sightings, &program(1), V4, now + minutes(9)), ["short.example", "long.example"]);
    assert_eq!(names(&mut sightings, &program(1), V4, now + minutes(11)), ["long.example"]);
    assert!(names(&mut sightings, &program(1), V4, now + minutes(61)).is_empty());
    assert!(names(&mut sightings, &program(1), V6, now + minutes(7 * 24 * 60)).is_empty());
    sightings.expire(now + minutes(61));
    assert_eq!(names(&mut sightings, &program(1), V6, now), ["ever.example"]);
    assert!(names(&mut sightings, &program(1), V4, now).is_empty());
}

#[test]
fn an_open_flow_keeps_its_names_alive_but_wakes_no_dead_ones() {
    let (mut sightings, now) = (Sightings::default(), Instant::now());
    learn(&mut sightings, &program(1), "example.com", V4, minutes(1), now);
    learn(&mut sightings, &program(1), "dead.example", V4, minutes(1), now);
    let found = sightings.of(&program(1), V4.parse().expect("an address"), now + minutes(9));
    let flow: Vec<_> = found.into_iter().filter(|sighting| sighting.name.as_str() == "example.com").collect();
    assert_eq!(names(&mut sightings, &program(1), V4, now + minutes(180)), ["example.com"]);
    drop(flow);
    assert!(names(&mut sightings, &program(1), V4, now + minutes(180)).is_empty());
}

#[test]
fn an_address_asked_for_again_is_the_newest_and_names_are_bounded() {
    let (mut sightings, now) = (Sightings::default(), Instant::now());
    for count in 0..20 {
        learn(&mut sightings, &program(1), &format!("n{count}.example"), V4, minutes(1), now);
    }
    learn(&mut sightings, &program(1), "n15.example", V4, minutes(1), now);
    let found = names(&mut sightings, &program(1), V4, now);
    assert_eq!(found.len(), 8);
    assert_eq!(found.last().map(String::as_str), Some("n15.example"));
}

#[test]
fn addresses_and_programs_are_bounded_and_the_first_to_expire_goes() {
    let (mut sightings, now) = (Sightings::default(), Instant::now());
    let address = |count: u64| format!("2001:db8::{count:x}");
    for count in 0..5000 {
        learn(&mut sightings, &program(1), "example.com", &address(count), minutes(20) + Duration::from_secs(count), now);
    }
    let kept = (0..5000).filter(|count| !names(&mut sightings, &program(1), &address(*count), now).is_empty());
    assert_eq!(kept.collect::<Vec<_>>(), (904..5000).collect::<Vec<_>>());
    for count in 0..1100 {
        learn(&mut sightings, &program(1000 + count), "example.com", V4, minutes(600) + Duration::from_secs(count), now);
    }
    assert!(names(&mut sightings, &program(1), &address(4999), now).is_empty());
    let kept = (0..1100).filter(|count| !names(&mut sightings, &program(1000 + count), V4, now).is_empty());
    assert_eq!(kept.collect::<Vec<_>>(), (76..1100).collect::<Vec<_>>());
}

#[test]
fn a_mapped_address_is_the_address_inside() {
    let (mut sightings, now) = (Sightings::default(), Instant::now());
    learn(&mut sightings, &program(1), "example.com", V4, minutes(1), now);
    assert_eq!(names(&mut sightings, &program(1), "::ffff:192.0.2.1", now), ["example.com"]);
}
