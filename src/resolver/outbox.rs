//! From a reply to bytes that the asker can take.
//!
//! Keeps one rule: an answer over UDP is never larger than the asker said it can take nor than a packet that is not cut on the
//! way; a larger one goes empty with the TC bit, so that the asker comes back over TCP.

use std::sync::{Arc, OnceLock};

use hickory_proto::op::{Message, ResponseCode};
use hickory_proto::rr::Record;
use hickory_proto::serialize::binary::BinEncoder;
use hickory_server::net::NetError;
use hickory_server::net::xfer::Protocol;
use hickory_server::server::{Request, ResponseHandler, ResponseInfo};
use hickory_server::zone_handler::MessageResponse;

use super::server::PAYLOAD;

/// Holds the bytes of one answer. Clones share them.
#[derive(Clone, Debug)]
pub(super) struct Outbox {
    limit: u16,
    bytes: Arc<OnceLock<Vec<u8>>>,
}

impl Outbox {
    /// An outbox for the answer to `request`: bounded for UDP, whatever a frame can hold for TCP.
    pub(super) fn new(request: &Request) -> Self {
        let limit = match request.protocol() {
            Protocol::Udp => request.max_payload().min(PAYLOAD),
            _ => u16::MAX,
        };
        Self { limit, bytes: Arc::default() }
    }

    /// The answer, once it was sent here.
    pub(super) fn take(&self) -> Option<Vec<u8>> {
        self.bytes.get().cloned()
    }
}

#[async_trait::async_trait]
impl ResponseHandler for Outbox {
    async fn send_response<'a>(
        &mut self,
        response: MessageResponse<
            '_,
            'a,
            impl Iterator<Item = &'a Record> + Send + 'a,
            impl Iterator<Item = &'a Record> + Send + 'a,
            impl Iterator<Item = &'a Record> + Send + 'a,
            impl Iterator<Item = &'a Record> + Send + 'a,
        >,
    ) -> Result<ResponseInfo, NetError> {
        let mut bytes = Vec::with_capacity(512);
        let mut encoder = BinEncoder::new(&mut bytes);
        encoder.set_max_size(u16::MAX);
        let info = response.destructive_emit(&mut encoder)?;
        let bytes = if bytes.len() > usize::from(self.limit) { shortened(&bytes, self.limit)? } else { bytes };
        // One question has one answer; a second one would be a fault of ours and is not sent.
        let _ = self.bytes.set(bytes);
        Ok(info)
    }
}

/// The question, the OPT record and the TC bit. An error text that does not fit is left out.
fn shortened(bytes: &[u8], limit: u16) -> Result<Vec<u8>, NetError> {
    let mut message = Message::from_vec(bytes)?.truncate();
    let short = message.to_vec()?;
    if short.len() <= usize::from(limit) {
        return Ok(short);
    }
    if let Some(edns) = &mut message.edns {
        edns.options_mut().options.clear();
    }
    Ok(message.to_vec()?)
}

/// What is said when an answer cannot be put into bytes.
pub(super) fn unsendable(request: &Request) -> Option<Vec<u8>> {
    Message::error_msg(request.metadata.id, request.metadata.op_code, ResponseCode::ServFail).to_vec().ok()
}
