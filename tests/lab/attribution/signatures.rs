//! What the kernel writes into the datagrams of one connected socket: a closed one is known by it.

use std::time::{Duration, Instant};

use portreeve::packet::{Checksums, IpPacket, Signature, Transport};
use portreeve::tun::{Queue, VNET_HEADER_LEN};

use super::harness::{Program, in_namespace, ip};

/// Sockets one after another on the same port, and what each sends.
const SOCKETS: usize = 5;
const EACH: usize = 3;

/// Reads the signatures of so many datagrams, with their payloads.
fn signatures(queue: &Queue, count: usize) -> Vec<(String, Option<Signature>)> {
    let (begin, mut packet, mut found) = (Instant::now(), vec![0; 2048], Vec::new());
    while found.len() < count {
        assert!(begin.elapsed() < Duration::from_secs(10), "{found:?}");
        let Ok(length) = queue.read(&mut packet) else {
            std::thread::sleep(Duration::from_millis(1));
            continue;
        };
        let Ok(packet) = IpPacket::parse(&packet[VNET_HEADER_LEN..length], Checksums::Unfinished) else { continue };
        if let Transport::Udp(data) = packet.transport() {
            found.push((String::from_utf8_lossy(data).into_owned(), packet.signature()));
        }
    }
    found
}

#[test]
fn each_connected_socket_signs_its_datagrams_and_no_other_on_its_port_signs_alike() {
    in_namespace(|| {
        let queue = Queue::open_several("signed0", 1).expect("a TUN").remove(0);
        for line in ["link set signed0 up", "route add 192.0.2.0/24 dev signed0", "-6 route add 2001:db8::/32 dev signed0"] {
            ip(line);
        }
        for (family, peer) in [("AF_INET", "192.0.2.1"), ("AF_INET6", "2001:db8::1"), ("AF_INET6", "::ffff:192.0.2.1")] {
            let script = format!(
                "def made():\n s = socket.socket(socket.{family}, socket.SOCK_DGRAM); s.bind(('', 4000)); return s\n\
                 for i in range({SOCKETS}):\n s = made(); s.connect(('{peer}', 9)); [s.send(b'signed') for _ in range({EACH})]; s.close()\n\
                 s = made(); s.sendto(b'unconnected', ('{peer}', 9))\nsay('sent'); end()"
            );
            let program = Program::python(&script);
            assert_eq!(program.said, "sent");
            let told = signatures(&queue, SOCKETS * EACH + 1);
            let (unconnected, signed) = told.split_last().expect("datagrams");
            let signed: Vec<Signature> = signed.iter().map(|(_, signature)| signature.expect("a signature")).collect();
            assert!(signed.chunks(EACH).all(|one| one.windows(2).all(|two| two[1].follows(two[0]))), "{signed:?}");
            let alike = signed.chunks(EACH).zip(signed.chunks(EACH).skip(1)).filter(|(one, next)| next[0].follows(one[EACH - 1]));
            // A count starts at the right place once in some thousand times.
            assert!(alike.count() <= 1, "{signed:?}");
            assert_eq!(unconnected.0, "unconnected");
            assert!(unconnected.1.is_none_or(|other| signed.iter().all(|one| !other.follows(*one))), "{told:?}");
        }
    });
}
