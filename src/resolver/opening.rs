//! What arrives: a question, something that gets a refusal, or something that gets nothing.
//!
//! Keeps one rule: the header is looked at before anything is parsed by it, so that a lying count costs nothing.

use std::net::SocketAddr;

use hickory_proto::op::{Header, Message, MessageType, Metadata, OpCode, ResponseCode};
use hickory_proto::serialize::binary::{BinDecodable as _, BinDecoder};
use hickory_server::net::xfer::Protocol;
use hickory_server::server::Request;

/// What a payload is.
pub(super) enum Opening {
    /// One question, well formed; its class and type are not judged yet.
    Question(Box<Request>),
    /// No question; these bytes say so.
    Refusal(Vec<u8>),
    /// An answer, or shorter than a header: replying could start a loop between two servers.
    Silence,
}

/// Reads a payload.
pub(super) fn open(payload: &[u8], from: SocketAddr, protocol: Protocol) -> Opening {
    let Ok(header) = Header::read(&mut BinDecoder::new(payload)) else { return Opening::Silence };
    if header.metadata.message_type == MessageType::Response {
        return Opening::Silence;
    }
    if header.metadata.op_code != OpCode::Query {
        return refusal(&header.metadata, ResponseCode::NotImp);
    }
    // A question has one name and carries no answers; authorities are left to IXFR, which is refused later.
    if header.counts.queries != 1 || header.counts.answers != 0 {
        return refusal(&header.metadata, ResponseCode::FormErr);
    }
    match Request::from_bytes(payload.to_vec(), from, protocol) {
        Ok(request) => Opening::Question(Box::new(request)),
        Err(_) => refusal(&header.metadata, ResponseCode::FormErr),
    }
}

fn refusal(asked: &Metadata, code: ResponseCode) -> Opening {
    let mut message = Message::error_msg(asked.id, asked.op_code, code);
    message.metadata.recursion_desired = asked.recursion_desired;
    message.metadata.recursion_available = true;
    message.to_vec().map_or(Opening::Silence, Opening::Refusal)
}
