//! Peers that do not speak as they should.

use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use portreeve::control::{Access, Client, MAX_REQUEST_BYTES, Response};

use super::fake::Running;

struct Stranger(BufReader<UnixStream>);

impl Stranger {
    fn of(running: &Running) -> Self {
        let stream = UnixStream::connect(running.socket()).expect("the server listens");
        stream.set_read_timeout(Some(Duration::from_secs(10))).expect("ten seconds are legal");
        Self(BufReader::new(stream))
    }

    fn say(&mut self, bytes: &[u8]) {
        self.0.get_mut().write_all(bytes).expect("the server reads");
    }

    fn hear(&mut self) -> Response {
        let mut line = String::new();
        self.0.read_line(&mut line).expect("the server answers");
        serde_json::from_str(&line).expect("the answer is of this protocol")
    }
}

#[test]
fn garbage_is_answered_line_by_line_and_harms_nobody() {
    let running = Running::start(Access::Own, 0);
    let mut stranger = Stranger::of(&running);
    for line in [
        &b"\n"[..],
        b"GET / HTTP/1.1\r\n",
        b"{\n",
        b"null\n",
        b"\xff\xfe\xfd\n",
        b"{\"version\":1,\"ask\":{\"verb\":\"open_sesame\"}}\n",
        b"{\"version\":1,\"ask\":{\"verb\":\"level\",\"level\":\"high\"}}\n",
        b"{\"version\":99,\"ask\":{\"verb\":\"status\"}}\n",
    ] {
        stranger.say(line);
        assert!(matches!(stranger.hear(), Response::Malformed(_)), "{}", String::from_utf8_lossy(line));
    }
    stranger.say(b"{\"version\":1,\"ask\":{\"verb\":\"status\"}}\n");
    assert!(matches!(stranger.hear(), Response::Status(_)), "the same connection can still ask");
    assert_eq!(running.fake.asked(), Vec::<String>::new());
}

#[test]
fn a_line_without_end_is_refused_at_its_bound() {
    let running = Running::start(Access::Own, 0);
    let mut stranger = Stranger::of(&running);
    stranger.say(&vec![b' '; MAX_REQUEST_BYTES + 1]);
    match stranger.hear() {
        Response::Malformed(why) => assert!(why.contains("65536 bytes"), "{why}"),
        other => panic!("{other:?}"),
    }
    let mut rest = Vec::new();
    assert!(matches!(stranger.0.read_to_end(&mut rest), Ok(0)), "and the connection ends");
    Client::connect(running.socket()).and_then(|mut client| client.status()).expect("others are served");
}

#[test]
fn several_requests_in_one_write_are_all_answered() {
    let running = Running::start(Access::Own, 0);
    let mut stranger = Stranger::of(&running);
    let one = b"{\"version\":1,\"ask\":{\"verb\":\"prompts\"}}\n";
    stranger.say(&one.repeat(3));
    for _ in 0..3 {
        assert!(matches!(stranger.hear(), Response::Prompts(_)));
    }
}

#[test]
fn a_request_in_pieces_and_without_a_last_newline_is_understood() {
    let running = Running::start(Access::Own, 0);
    let mut stranger = Stranger::of(&running);
    for piece in [&b"{\"version\":1,"[..], b"\"ask\":{\"verb\"", b":\"prompts\"}}"] {
        stranger.say(piece);
        std::thread::sleep(Duration::from_millis(5));
    }
    stranger.0.get_ref().shutdown(std::net::Shutdown::Write).expect("the connection is open");
    assert!(matches!(stranger.hear(), Response::Prompts(_)));
}

#[test]
fn a_peer_that_hangs_up_in_the_middle_is_forgotten() {
    let running = Running::start(Access::Own, 20_000);
    for request in [&b"{\"version\":1,\"ask\":{\"verb\":\"flows\"}}\n"[..], b"{\"version\":1"] {
        let mut stranger = Stranger::of(&running);
        stranger.say(request);
        drop(stranger);
    }
    Client::connect(running.socket()).and_then(|mut client| client.status()).expect("others are served");
}
