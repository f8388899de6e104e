//! Source ports: the program's own where it is free.

use super::*;

#[test]
fn datagrams_leave_from_the_programs_port_where_it_is_free_and_from_another_where_it_is_not() {
    for at in loopbacks() {
        let peer = UdpSocket::bind(at).expect("a free port");
        peer.set_read_timeout(Some(Duration::from_secs(5))).expect("a socket");
        let to = peer.local_addr().expect("bound");
        let port = UdpSocket::bind(at).and_then(|free| free.local_addr()).expect("a free port").port();
        let mut seen = Vec::new();
        let sockets = [port, port, 0].map(|port| {
            let mut socket = Dialer::default().udp(permit(Lane::Direct), to, Source::Alone { port }).expect("a socket");
            socket.send(b"ping", None, marks(64)).expect("room");
            seen.push(peer.recv_from(&mut [0; 16]).expect("a datagram").1.port());
            socket
        });
        assert_eq!(seen.first(), Some(&port), "{to}");
        assert!(seen.iter().skip(1).all(|other| *other != port && *other != 0), "{to}: {seen:?}");
        drop(sockets);
    }
}

#[test]
fn a_connection_leaves_from_the_programs_port_to_many_peers_at_once() {
    for at in loopbacks() {
        let listeners = [TcpListener::bind(at).expect("a free port"), TcpListener::bind(at).expect("another")];
        // Out of the kernel's range, and in it.
        for port in [21_174, free_port(at)] {
            let _streams = listeners.each_ref().map(|listener| {
                let Progress::Open(stream) = connect_from(listener.local_addr().expect("bound"), port) else {
                    panic!("somebody listens")
                };
                let (peer, from) = listener.accept().expect("a connection");
                assert_eq!(from.port(), port);
                // A reset leaves no TIME-WAIT behind.
                SockRef::from(&peer).set_linger(Some(Duration::ZERO)).expect("a socket");
                (stream, peer)
            });
        }
    }
}

#[test]
fn a_port_that_is_taken_is_not_kept() {
    for at in loopbacks() {
        let listener = TcpListener::bind(at).expect("a free port");
        let to = listener.local_addr().expect("bound");
        let other = TcpListener::bind(at).expect("another");
        let taken_by_listener = other.local_addr().expect("bound").port();
        let taken_by_connection = free_port(at);
        let Progress::Open(_first) = connect_from(to, taken_by_connection) else { panic!("somebody listens") };
        assert_eq!(listener.accept().expect("a connection").1.port(), taken_by_connection);
        for port in [taken_by_listener, taken_by_connection] {
            let Progress::Open(_second) = connect_from(to, port) else { panic!("any other port does") };
            assert_ne!(listener.accept().expect("a connection").1.port(), port);
        }
    }
}

#[test]
fn a_kept_port_stays_open_to_others_that_let_the_kernel_choose() {
    for at in loopbacks() {
        let listener = TcpListener::bind(at).expect("a free port");
        let other = TcpListener::bind(at).expect("another");
        let port = free_port(at);
        let Progress::Open(_kept) = connect_from(listener.local_addr().expect("bound"), port) else { panic!("somebody listens") };
        // The kernel's own choice may fall on the port, to another peer: bind(2) would have forbidden that.
        let socket = Socket::new(Domain::for_address(at), Type::STREAM, None).expect("a socket");
        source::choose(&socket, port).expect("a range");
        socket.connect(&SockAddr::from(other.local_addr().expect("bound"))).expect("the port is free to that peer");
        assert_eq!(socket.local_addr().expect("connected").as_socket().expect("an address").port(), port);
    }
}

#[test]
fn what_leaves_from_an_address_leaves_from_that_one_or_not_at_all() {
    let [source, gone]: [IpAddr; 2] = [[127, 0, 0, 2].into(), [192, 0, 2, 1].into()];
    let dialer = |source| Dialer::default().leaving_from(Some(source));
    let at = SocketAddr::from(([127, 0, 0, 1], 0));
    let listener = TcpListener::bind(at).expect("a free port");
    let to = listener.local_addr().expect("bound");
    for port in [0, 21_175, free_port(at)] {
        let connecting = dialer(source).tcp(permit(Lane::Direct), to, opener(port)).expect("loopback has it");
        assert_eq!(listener.accept().expect("a connection").1.ip(), source, "from port {port}");
        drop(connecting);
        assert!(dialer(gone).tcp(permit(Lane::Direct), to, opener(port)).is_err(), "from port {port}");
    }
    let peer = UdpSocket::bind(at).expect("a free port");
    peer.set_read_timeout(Some(Duration::from_secs(5))).expect("a socket");
    let to = peer.local_addr().expect("bound");
    let shared = Source::Shared { port: 21_176, leased: None, hears: true };
    for from in [Source::Alone { port: 0 }, Source::Alone { port: 21_175 }, shared] {
        let mut socket = dialer(source).udp(permit(Lane::Direct), to, from).expect("a socket");
        socket.send(b"ping", None, marks(64)).expect("room");
        assert_eq!(peer.recv_from(&mut [0; 16]).expect("a datagram").1.ip(), source, "{from:?}");
        assert!(dialer(gone).udp(permit(Lane::Direct), to, from).is_err(), "{from:?}");
    }
    assert!(dialer(gone).ping(permit(Lane::Direct), to).is_err());
}
