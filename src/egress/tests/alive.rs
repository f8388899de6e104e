//! Peers that are asked whether they are still there.

use super::*;

#[test]
fn a_peer_that_is_asked_is_heard_from_and_what_is_no_connection_always_was() {
    for at in loopbacks() {
        let (stream, _peer) = connected(at);
        std::thread::sleep(Duration::from_millis(1100));
        assert!(!stream.was_heard(Duration::from_secs(1)), "{at}");
        for _ in 0..2 {
            stream.ask().expect("a connection");
            wait("the answer", || stream.was_heard(Duration::from_secs(1)).then_some(()));
        }
    }
    let (ours, _theirs) = std::os::unix::net::UnixStream::pair().expect("two descriptors");
    let stream = Stream::from(ours);
    assert!(stream.was_heard(Duration::ZERO) && stream.ask().is_err());
}

#[test]
fn a_peer_that_has_no_room_is_there_however_long_it_is_silent() {
    for at in loopbacks() {
        let (stream, _peer) = connected(at);
        while stream.write(&[0; 65_536]).is_ok() {}
        std::thread::sleep(Duration::from_millis(1100));
        assert!(stream.was_heard(Duration::ZERO), "{at}");
    }
}
