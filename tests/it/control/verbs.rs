//! Our client and our server.

use portreeve::control::{Access, Client, ClientError, Event, Fault, FaultKind, Seen};
use portreeve::profile::Level;
use portreeve::verdict::Answer;

use super::fake::{Running, prompt, record, status};

fn client(running: &Running) -> Client {
    Client::connect(running.socket()).expect("the server listens")
}

#[test]
fn every_read_brings_what_the_router_knows() {
    let running = Running::start(Access::Own, 3);
    let mut client = client(&running);
    assert_eq!(client.status().expect("we may read"), status());
    assert_eq!(client.flows().expect("we may read"), [record(0), record(1), record(2)]);
    assert_eq!(client.prompts().expect("we may read"), [prompt()], "one connection serves several questions");
    assert_eq!(running.fake.asked(), Vec::<String>::new(), "reading changes nothing");
}

#[test]
fn more_flows_than_a_line_or_a_buffer_holds_arrive_in_order() {
    let running = Running::start(Access::Own, 20_000);
    let flows = client(&running).flows().expect("we may read");
    assert_eq!(flows.len(), 20_000);
    assert!(flows.iter().zip(0..).all(|(flow, id)| flow.id == id));
}

#[test]
fn every_change_reaches_the_router() {
    let running = Running::start(Access::Own, 0);
    let mut client = client(&running);
    client.set_level(Level::Fortress).expect("we may change");
    let reloaded = client.reload().expect("we may change");
    client.answer(5, Answer::Allow).expect("prompt 5 is open");
    client.answer(5, Answer::Deny).expect("prompt 5 is open");
    assert_eq!((reloaded.profiles, reloaded.cut), (3, 1));
    assert_eq!(running.fake.asked(), ["level fortress", "reload", "answer 5 Allow", "answer 5 Deny"]);
}

#[test]
fn faults_come_back_whole_and_the_connection_stays() {
    let running = Running::start(Access::Own, 0);
    let faults = [Fault::configuration("user/a.toml:1:2: x; y"), Fault::configuration("user/b.toml:3:4: z; w")];
    running.fake.set_faults(&faults);
    let mut client = client(&running);
    match client.reload() {
        Err(ClientError::Refused(told)) => assert_eq!(told, faults),
        other => panic!("{other:?}"),
    }
    match client.answer(99, Answer::Allow) {
        Err(ClientError::Refused(told)) => assert!(matches!(told.as_slice(), [fault] if fault.kind == FaultKind::NoSuchPrompt)),
        other => panic!("{other:?}"),
    }
    client.status().expect("a refusal ends nothing");
}

#[test]
fn down_is_answered_and_ends_the_server_its_monitors_and_its_socket() {
    let running = Running::start(Access::Own, 0);
    let path = running.path.clone();
    let mut watch = client(&running).monitor().expect("we may read");
    client(&running).down().expect("we may change");
    assert!(watch.next().is_none(), "the monitor ends without an error");
    running.wait_for_end().expect("the server ends well");
    assert!(!path.exists());
    assert!(matches!(Client::connect(&path), Err(ClientError::NotActive { .. })));
}

#[test]
fn a_monitor_sees_events_in_order_and_none_before_it_came() {
    let running = Running::start(Access::Own, 0);
    let _ = running.fake.events.send(Event::Notice("too early".to_owned()));
    let watch = client(&running).monitor().expect("we may read");
    for id in 0..5 {
        running.fake.events.send(Event::Decided(record(id))).expect("somebody watches");
    }
    let seen: Vec<Seen> = watch.take(5).map(|seen| seen.expect("the server goes on")).collect();
    assert_eq!(seen, (0..5).map(|id| Seen::Event(Box::new(Event::Decided(record(id))))).collect::<Vec<_>>());
}

#[test]
fn a_slow_monitor_is_told_how_many_events_it_missed() {
    const EVENTS: u64 = 5_000;
    let running = Running::start(Access::Own, 0);
    let watch = client(&running).monitor().expect("we may read");
    for id in 0..EVENTS {
        running.fake.events.send(Event::Ended(record(id))).expect("somebody watches");
    }
    let (mut got, mut missed, mut last) = (0, 0, None);
    for seen in watch {
        match seen.expect("the server goes on") {
            Seen::Event(event) => {
                let Event::Ended(record) = *event else { panic!("{event:?}") };
                assert!(last < Some(record.id), "no event comes twice or late");
                last = Some(record.id);
                got += 1;
            }
            Seen::Missed(events) => missed += events,
        }
        if got + missed == EVENTS {
            break;
        }
    }
    assert!(missed > 0 && got > 0, "{got} came, {missed} were missed");
    assert_eq!(last, Some(EVENTS - 1), "the newest are kept");
}

#[test]
fn a_monitor_that_goes_frees_its_place() {
    let running = Running::start(Access::Own, 0);
    drop(client(&running).monitor().expect("we may read"));
    super::fake::wait_until("the server lets go", || running.fake.events.receiver_count() == 0);
}
