//! Upstream sockets against real ones on this host's loopback, in both families.

mod alive;
mod ports;

use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{Ipv4Addr, Ipv6Addr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::{AsFd as _, BorrowedFd};
use std::time::Duration;

use socket2::SockRef;

use super::*;
use crate::packet::{ErrorMessage, Marks, Unreachable};
use crate::router::Failure;
use crate::verdict::{Check, Decision, Epoch, Reason, Verdict};

/// More rounds of a millisecond than loopback ever takes.
const PATIENCE: u32 = 5000;

fn permit(lane: Lane) -> Permit {
    let mut decision = Decision::for_test(Verdict::Accept, Reason::of(Check::Mode));
    decision.lane = lane;
    decision.permit(Epoch(1)).expect("an accepting decision")
}

fn marks(hop_limit: u8) -> Marks {
    Marks { hop_limit, traffic_class: 0, dont_fragment: true }
}

fn loopbacks() -> [SocketAddr; 2] {
    [(Ipv4Addr::LOCALHOST, 0).into(), (Ipv6Addr::LOCALHOST, 0).into()]
}

/// Asks again until there is an answer.
fn wait<T>(what: &str, mut ask: impl FnMut() -> Option<T>) -> T {
    for _ in 0..PATIENCE {
        if let Some(found) = ask() {
            return found;
        }
        std::thread::sleep(Duration::from_millis(1));
    }
    panic!("{what} did not happen");
}

/// The kernel's answer, once it has one.
fn ready<T>(result: io::Result<T>) -> Option<io::Result<T>> {
    match result {
        Err(error) if error.kind() == ErrorKind::WouldBlock => None,
        other => Some(other),
    }
}

/// Whether the kernel has heard that this connection is over.
fn has_ended(connecting: &Connecting) -> bool {
    use rustix::event::{PollFd, PollFlags, Timespec, poll};
    // SAFETY: the descriptor is that of `connecting`, which is borrowed meanwhile.
    let fd = unsafe { BorrowedFd::borrow_raw(std::os::fd::AsRawFd::as_raw_fd(connecting)) };
    poll(&mut [PollFd::from_borrowed_fd(fd, PollFlags::empty())], Some(&Timespec { tv_sec: 0, tv_nsec: 0 })).expect("polled") == 1
}

fn opener(port: u16) -> Opener {
    Opener { port, hop_limit: 64 }
}

/// Any free port of the kernel's range.
fn free_port(at: SocketAddr) -> u16 {
    let probe = TcpListener::bind(at).expect("a free port");
    probe.local_addr().expect("bound").port()
}

fn connect_from(to: SocketAddr, port: u16) -> Progress {
    let mut connecting = Some(Dialer::default().tcp(permit(Lane::Direct), to, opener(port)).expect("loopback is there"));
    wait("the connection", || match connecting.take()?.finish(false) {
        Progress::Waiting(again) => {
            connecting = Some(again);
            None
        }
        other => Some(other),
    })
}

fn connect(to: SocketAddr) -> Result<Stream, Failure> {
    match connect_from(to, free_port(to_any_port(to))) {
        Progress::Open(stream) => Ok(stream),
        Progress::Failed(failure) => Err(failure),
        other => panic!("{other:?}"),
    }
}

fn to_any_port(at: SocketAddr) -> SocketAddr {
    (at.ip(), 0).into()
}

fn connected(at: SocketAddr) -> (Stream, TcpStream) {
    let listener = TcpListener::bind(at).expect("a free port");
    let stream = connect(listener.local_addr().expect("bound")).expect("somebody listens");
    (stream, listener.accept().expect("a connection").0)
}

fn read(stream: &Stream) -> io::Result<Vec<u8>> {
    let mut buffer = [0; 64];
    let len = wait("bytes", || ready(stream.read(&mut buffer)))?;
    Ok(buffer[..len].to_vec())
}

#[test]
fn a_connection_carries_bytes_both_ways_and_each_side_may_finish_alone() {
    for at in loopbacks() {
        let (stream, mut peer) = connected(at);
        assert_eq!(stream.write(b"up").expect("room"), 2);
        stream.finish_writing();
        let mut got = Vec::new();
        peer.read_to_end(&mut got).expect("the end of what was sent");
        assert_eq!(got, b"up");
        peer.write_all(b"down").expect("the other way is open");
        assert_eq!(read(&stream).expect("bytes"), b"down");
        drop(peer);
        assert_eq!(read(&stream).expect("the end"), b"");
    }
}

#[test]
fn a_reset_passes_both_ways() {
    for at in loopbacks() {
        let (stream, mut peer) = connected(at);
        stream.reset();
        let error = peer.read(&mut [0; 8]).expect_err("a reset");
        assert_eq!(error.kind(), ErrorKind::ConnectionReset);

        let (stream, peer) = connected(at);
        SockRef::from(&peer).set_linger(Some(Duration::ZERO)).expect("a socket");
        drop(peer);
        let error = read(&stream).expect_err("a reset");
        assert_eq!(failure_of(&error), Failure::Reset);
    }
}

#[test]
fn a_closed_port_is_refused() {
    for at in loopbacks() {
        let listener = TcpListener::bind(at).expect("a free port");
        let to = listener.local_addr().expect("bound");
        drop(listener);
        assert_eq!(connect(to).expect_err("nobody listens"), Failure::Refused, "{to}");
    }
}

#[test]
fn a_connection_that_stood_and_was_reset_at_once_is_not_refused() {
    for at in loopbacks() {
        let listener = TcpListener::bind(at).expect("a free port");
        let to = listener.local_addr().expect("bound");
        let connecting = Dialer::default().tcp(permit(Lane::Direct), to, opener(free_port(at))).expect("loopback is there");
        let (mut peer, _) = listener.accept().expect("a connection");
        peer.write_all(b"last words").expect("the connection stands");
        SockRef::from(&peer).set_linger(Some(Duration::ZERO)).expect("a socket");
        drop(peer);
        wait("the reset", || has_ended(&connecting).then_some(()));
        let Progress::Reset(stream) = connecting.finish(false) else { panic!("the connection stood") };
        assert_eq!(read(&stream).expect("what came before"), b"last words");
        assert_eq!(read(&stream).expect("and nothing more"), b"");
    }
}

#[test]
fn a_reset_behind_the_peers_end_is_told_by_asking() {
    for at in loopbacks() {
        let (stream, peer) = connected(at);
        peer.shutdown(std::net::Shutdown::Write).expect("connected");
        assert_eq!(read(&stream).expect("the end"), b"");
        assert!(stream.take_error().is_none());
        SockRef::from(&peer).set_linger(Some(Duration::ZERO)).expect("a socket");
        drop(peer);
        let error = wait("the reset", || stream.take_error());
        assert_eq!(failure_of(&error), Failure::Reset);
    }
}

#[test]
fn datagrams_pass_with_the_hop_limit_of_the_program() {
    for at in loopbacks() {
        let peer = UdpSocket::bind(at).expect("a free port");
        let mut socket = Dialer::default()
            .udp(permit(Lane::Direct), peer.local_addr().expect("bound"), Source::Alone { port: 0 })
            .expect("a socket");
        for hop_limit in [64, 1, 7] {
            socket.send(b"ping", None, marks(hop_limit)).expect("room");
            let mut buffer = [0; 64];
            let (len, from) = peer.recv_from(&mut buffer).expect("a datagram");
            assert_eq!(&buffer[..len], b"ping");
            // SAFETY: the descriptor is the socket's, which lives until the end of this turn.
            let fd = unsafe { BorrowedFd::borrow_raw(std::os::fd::AsRawFd::as_raw_fd(&socket)) };
            let option = SockRef::from(&fd);
            let set = if at.is_ipv4() { option.ttl_v4() } else { option.unicast_hops_v6() };
            assert_eq!(set.expect("an option"), u32::from(hop_limit));
            SockRef::from(&peer.as_fd()).set_ttl_v4(9).ok();
            peer.send_to(b"pong", from).expect("room");
            let received = wait("the answer", || ready(socket.receive(&mut buffer))).expect("a datagram");
            assert_eq!(&buffer[..received.len], b"pong");
            assert_eq!(received.hop_limit, Some(if at.is_ipv4() { 9 } else { 64 }));
        }
    }
}

#[test]
fn datagrams_that_leave_together_arrive_one_by_one_and_may_come_back_together() {
    for at in loopbacks() {
        let peer = UdpSocket::bind(at).expect("a free port");
        peer.set_read_timeout(Some(Duration::from_secs(5))).expect("a socket");
        let mut socket = Dialer::default()
            .udp(permit(Lane::Direct), peer.local_addr().expect("bound"), Source::Alone { port: 0 })
            .expect("a socket");
        socket.expect_many(true);
        socket.send(&[7; 2500], Some(1000), marks(64)).expect("room");
        let mut buffer = [0; 4000];
        let mut from = at;
        for wanted in [1000, 1000, 500] {
            let (len, sender) = peer.recv_from(&mut buffer).expect("a datagram");
            (from, _) = (sender, assert_eq!(len, wanted));
        }
        SockRef::from(&peer).connect(&SockAddr::from(from)).expect("the socket's address");
        message::send(&SockRef::from(&peer), None, &[9; 2500], Some(1000)).expect("room");
        let mut sizes = Vec::new();
        while sizes.iter().sum::<usize>() < 2500 {
            let received = wait("the answer", || ready(socket.receive(&mut buffer))).expect("datagrams");
            let size = received.segment.map_or(received.len, usize::from);
            sizes.extend(buffer[..received.len].chunks(size).map(<[u8]>::len));
        }
        assert_eq!(sizes, [1000, 1000, 500]);
    }
}

#[test]
fn the_mark_of_congestion_passes_both_ways_and_an_answer_may_have_one_that_the_question_had_not() {
    for (at, asked) in loopbacks().into_iter().flat_map(|at| [(at, 0xb9), (at, 0)]) {
        let peer = UdpSocket::bind(at).expect("a free port");
        peer.set_read_timeout(Some(Duration::from_secs(5))).expect("a socket");
        let mut socket = Dialer::default()
            .udp(permit(Lane::Direct), peer.local_addr().expect("bound"), Source::Alone { port: 0 })
            .expect("a socket");
        socket.send(b"ping", None, Marks { traffic_class: asked, ..marks(64) }).expect("room");
        let mut buffer = [0; 64];
        let (_, from) = peer.recv_from(&mut buffer).expect("a datagram");
        // SAFETY: the descriptor is the socket's, which lives until the end of this turn.
        let fd = unsafe { BorrowedFd::borrow_raw(std::os::fd::AsRawFd::as_raw_fd(&socket)) };
        let option = SockRef::from(&fd);
        let set = if at.is_ipv4() { option.tos_v4() } else { option.tclass_v6() };
        assert_eq!(set.expect("an option"), u32::from(asked));
        let answer = SockRef::from(&peer);
        if at.is_ipv4() { answer.set_tos_v4(3) } else { answer.set_tclass_v6(3) }.expect("an option");
        peer.send_to(b"pong", from).expect("room");
        let received = wait("the answer", || ready(socket.receive(&mut buffer))).expect("a datagram");
        assert_eq!(received.traffic_class, 3, "{at}");
    }
}

#[test]
fn a_datagram_to_a_closed_port_comes_back_as_trouble_once() {
    for at in loopbacks() {
        let peer = UdpSocket::bind(at).expect("a free port");
        let to = peer.local_addr().expect("bound");
        drop(peer);
        let mut socket = Dialer::default().udp(permit(Lane::Direct), to, Source::Alone { port: 0 }).expect("a socket");
        socket.send(b"ping", None, marks(64)).expect("room");
        let mut quoted = [0; 64];
        let (trouble, len) =
            wait("the error", || Some(socket.trouble(&mut quoted)).filter(|(trouble, _)| *trouble != Trouble::None));
        let (kind, code) = if at.is_ipv4() { (3, 3) } else { (1, 4) };
        let message = ErrorMessage { kind, code, detail: 0, hop_limit: Some(64) };
        assert_eq!(trouble, Trouble::Message(message, Some(at.ip())), "{to}");
        assert_eq!(&quoted[..len], b"ping");
        assert_eq!(socket.trouble(&mut quoted).0, Trouble::None);
    }
}

#[test]
fn an_echo_comes_back_with_its_sequence_data_and_service() {
    for at in loopbacks() {
        let mut socket = match Dialer::default().ping(permit(Lane::Direct), at) {
            Ok(socket) => socket,
            // Neither the group range nor a capability: the refusal is truthful, which is all that can be seen here.
            Err(DialError::Kernel { source, .. }) => {
                assert_eq!(source.kind(), ErrorKind::PermissionDenied);
                continue;
            }
            Err(DialError::NoGate) => panic!("a direct permit needs no gate"),
        };
        for sequence in [1, 2, 65_535] {
            socket.send(7, sequence, b"data", Marks { traffic_class: 0x28, ..marks(64) }).expect("room");
            let mut buffer = [0; 256];
            let reply = wait("the echo", || match socket.receive(7, &mut buffer) {
                Ok(Some(Reply { sequence, data, hop_limit, traffic_class })) => {
                    Some((sequence, data.to_vec(), hop_limit, traffic_class))
                }
                Ok(None) => None,
                Err(error) => {
                    assert_eq!(error.kind(), ErrorKind::WouldBlock);
                    None
                }
            });
            assert_eq!(reply, (sequence, b"data".to_vec(), 64, 0x28));
        }
    }
}

#[test]
fn without_a_gate_no_socket_is_made_for_a_permit_that_requires_one() {
    for at in loopbacks() {
        let listener = TcpListener::bind(at).expect("a free port");
        let to = listener.local_addr().expect("bound");
        listener.set_nonblocking(true).expect("a socket");
        let dialer = Dialer::default();
        assert!(matches!(dialer.tcp(permit(Lane::Gate), to, opener(0)), Err(DialError::NoGate)));
        assert!(matches!(dialer.udp(permit(Lane::Gate), to, Source::Alone { port: 0 }), Err(DialError::NoGate)));
        assert!(matches!(dialer.ping(permit(Lane::Gate), to), Err(DialError::NoGate)));
        assert_eq!(listener.accept().map(|_| ()).map_err(|error| error.kind()), Err(ErrorKind::WouldBlock));
    }
}

#[test]
fn a_socket_carries_the_mark_or_does_not_exist() {
    for at in loopbacks() {
        let peer = UdpSocket::bind(at).expect("a free port");
        match Dialer::new(Some(0x1700_0000)).udp(
            permit(Lane::Direct),
            peer.local_addr().expect("bound"),
            Source::Alone { port: 0 },
        ) {
            Ok(socket) => {
                // SAFETY: the descriptor is the socket's, which lives until the end of this arm.
                let fd = unsafe { BorrowedFd::borrow_raw(std::os::fd::AsRawFd::as_raw_fd(&socket)) };
                assert_eq!(SockRef::from(&fd).mark().expect("an option"), 0x1700_0000);
            }
            Err(error) => assert!(error.to_string().starts_with("open a socket to"), "{error}"),
        }
    }
}

#[test]
fn every_errno_of_connect_2_has_a_meaning() {
    for (errno, failure) in [
        (libc::ECONNREFUSED, Failure::Refused),
        (libc::ECONNRESET, Failure::Reset),
        (libc::EPIPE, Failure::Reset),
        (libc::ETIMEDOUT, Failure::TimedOut),
        (libc::ENETUNREACH, Failure::Unreachable(Unreachable::Network)),
        (libc::EADDRNOTAVAIL, Failure::Exhausted),
        (libc::EHOSTUNREACH, Failure::Unreachable(Unreachable::Host)),
        (libc::EHOSTDOWN, Failure::Unreachable(Unreachable::Host)),
        (libc::EACCES, Failure::Unreachable(Unreachable::Prohibited)),
        (libc::EPERM, Failure::Unreachable(Unreachable::Prohibited)),
        (libc::ENOPROTOOPT, Failure::Unreachable(Unreachable::Protocol)),
        (libc::EMFILE, Failure::Exhausted),
        (libc::ENOBUFS, Failure::Exhausted),
        (libc::EAGAIN, Failure::Exhausted),
    ] {
        assert_eq!(failure_of(&io::Error::from_raw_os_error(errno)), failure, "{errno}");
    }
}
