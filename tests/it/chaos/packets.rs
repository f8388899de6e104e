//! Raw bytes into the parser, and what it accepts into the answers.

use portreeve::packet::{
    Checksums, ErrorMessage, IpPacket, Transport, Unreachable, acknowledge_more, answer_of, datagrams_together, error_message,
    is_unfinished, reset, split_stream, step_back, stream_bytes, stream_end, under_headers, unfinished_tcp, unreachable,
};

const CAUSES: [Unreachable; 6] = [
    Unreachable::Network,
    Unreachable::Nowhere,
    Unreachable::Host,
    Unreachable::Protocol,
    Unreachable::Port,
    Unreachable::Prohibited,
];

pub(super) fn run(bytes: &[u8]) {
    let _ = (is_unfinished(bytes), datagrams_together(bytes));
    let _ = unfinished_tcp(&mut bytes.to_vec(), 1448);
    renumber(bytes);
    for checksums in [Checksums::Unfinished, Checksums::Finished] {
        let Ok(packet) = IpPacket::parse(bytes, checksums) else { continue };
        assert_eq!(packet.tuple().local.is_ipv4(), packet.tuple().remote.is_ipv4());
        let mut answers = vec![Vec::new(), Vec::new()];
        reset(&packet, &mut answers[0]);
        let remote = packet.tuple().remote.ip();
        error_message(&packet, remote, ErrorMessage::too_large(remote.is_ipv4(), 1280), &mut answers[1]);
        answers.extend(CAUSES.map(|why| {
            let mut out = Vec::new();
            unreachable(&packet, why, &mut out);
            out
        }));
        for answer in answers.iter().filter(|answer| !answer.is_empty()) {
            // The answer to somebody who has an address can be read; the source may be one that nobody sends to.
            if let Ok(answer) = IpPacket::parse(answer, Checksums::Finished) {
                assert!(!matches!(answer.transport(), Transport::Echo(_)));
                assert_eq!(answer.tuple().remote.ip(), packet.tuple().local.ip());
            }
        }
    }
}

/// What is moved on and back again is as before, and headers carry other bytes.
fn renumber(bytes: &[u8]) {
    let mut moved = bytes.to_vec();
    step_back(&mut moved, 5);
    acknowledge_more(&mut moved, 7);
    assert_eq!(stream_bytes(&moved), stream_bytes(bytes));
    assert_eq!(stream_end(&moved), stream_end(bytes).map(|end| end.wrapping_sub(5)));
    step_back(&mut moved, 5_u32.wrapping_neg());
    acknowledge_more(&mut moved, 7_u32.wrapping_neg());
    assert_eq!(moved, bytes);
    if let Some((headers, _)) = split_stream(bytes)
        && under_headers(headers, (3, 4), 9, b"x", &mut moved).is_some()
    {
        assert_eq!((answer_of(&moved).unwrap_or((3, 4)), stream_bytes(&moved)), ((3, 4), Some(&b"x"[..])));
    }
}
