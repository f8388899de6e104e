//! One question from verdict to answer, as hickory-server's request handler.
//!
//! Keeps one rule: the judge speaks first and about every question, cached or not, ours or not.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use hickory_proto::op::{Edns, Header, HeaderCounts, Metadata, Query, ResponseCode};
use hickory_proto::rr::{DNSClass, RecordType};
use hickory_server::net::runtime::Time;
use hickory_server::server::{Request, RequestHandler, ResponseHandler, ResponseInfo};
use hickory_server::zone_handler::MessageResponseBuilder;

use super::forward::{Answer, Failure};
use super::judge::Judge;
use super::limits::Account;
use super::local::{self, Local};
use super::reply::{NoteCode, Reply};
use super::server::{Inquiry, PAYLOAD};
use super::service::Inner;
use super::sift::{Refusal, canonical, sift};
use crate::names::Name;
use crate::verdict::{Reason, Verdict};

/// Handles one question of one asker.
pub(super) struct Desk<J: Judge> {
    pub(super) inner: Arc<Inner<J>>,
    /// Behind an `Arc` because hickory wants handlers that can be moved while borrowed.
    pub(super) asker: Arc<J::Asker>,
    /// The address that the program sent its question to.
    pub(super) asked: SocketAddr,
}

/// A question that was judged and not refused outright.
struct Accepted {
    name: Name,
    query: Query,
}

#[async_trait]
impl<J: Judge> RequestHandler for Desk<J> {
    async fn handle_request<R: ResponseHandler, T: Time>(&self, request: &Request, mut outbox: R) -> ResponseInfo {
        let Some(reply) = self.reply(request).await else { return unsent(request, ResponseCode::Refused) };
        let mut metadata = Metadata::response_from_request(&request.metadata);
        metadata.recursion_available = true;
        metadata.response_code = reply.code;
        // RFC 6840 §5.8: only for those who asked for it.
        metadata.authentic_data = reply.authentic && (request.metadata.authentic_data || dnssec_ok(request));
        let edns = request.edns.as_ref().map(|_| edns(request, &reply));
        let response = MessageResponseBuilder::new(&request.queries, edns.as_ref()).build(
            metadata,
            &reply.answers,
            &reply.authorities,
            None,
            None,
        );
        match outbox.send_response(response).await {
            Ok(info) => info,
            Err(error) => {
                tracing::debug!(%error, "an answer cannot be encoded");
                unsent(request, ResponseCode::ServFail)
            }
        }
    }
}

impl<J: Judge> Desk<J> {
    /// None: the verdict is Drop.
    async fn reply(&self, request: &Request) -> Option<Reply> {
        let inner = &self.inner;
        let account = inner.judge.account(&self.asker).map_or_else(|| Account::Socket(request.src()), Account::Program);
        let Some(_place) = inner.limits.enter(account) else {
            inner.counters.over_limit.up();
            return Some(Reply::failed(ResponseCode::ServFail, NoteCode::Other, "too many questions at a time"));
        };
        let accepted = match self.judged(request) {
            Ok(accepted) => accepted,
            Err(refused) => return refused,
        };
        if let Some(meaning) = local::meaning(&inner.fixed, &accepted.name) {
            return Some(self.local_answer(&accepted, meaning));
        }
        Some(self.upstream_answer(request, accepted).await)
    }

    /// Err: what the program is told instead, None for silence.
    fn judged(&self, request: &Request) -> Result<Accepted, Option<Reply>> {
        let counters = &self.inner.counters;
        let refuse = |reply| {
            counters.malformed.up();
            Err(Some(reply))
        };
        let Ok(info) = request.request_info() else {
            return refuse(Reply::failed(ResponseCode::FormErr, NoteCode::Other, "not exactly one question"));
        };
        let query = info.query.original().clone();
        if request.version() > 0 {
            return refuse(Reply::nothing(ResponseCode::BADVERS, Vec::new()));
        }
        if query.query_class() != DNSClass::IN || is_no_question(query.query_type()) {
            return refuse(Reply::failed(ResponseCode::Refused, NoteCode::NotSupported, "only lookups in class IN"));
        }
        let Some(name) = canonical(query.name()) else {
            return refuse(Reply::failed(ResponseCode::Refused, NoteCode::NotSupported, "not a name that a rule can judge"));
        };
        counters.questions.up();
        let decision = self.inner.judge.question(&self.asker, &name, u16::from(query.query_type()));
        match decision.verdict {
            Verdict::Accept => Ok(Accepted { name, query }),
            Verdict::Drop => {
                counters.dropped.up();
                Err(None)
            }
            // Names resolve before anyone is asked, so Ask cannot come; were it to, it is not an Accept.
            Verdict::Block | Verdict::Ask => Err(Some(self.blocked(&query, &decision.reason))),
        }
    }

    fn blocked(&self, query: &Query, reason: &Reason) -> Reply {
        self.inner.counters.blocked.up();
        Reply::refused(query, NoteCode::Blocked, reason)
    }

    /// Names of our own pass the answer filter: their addresses are ours.
    fn local_answer(&self, accepted: &Accepted, meaning: Local) -> Reply {
        let Local::Addresses(addresses) = meaning else { return Reply::nothing(ResponseCode::NXDomain, Vec::new()) };
        let reply = Reply::addresses(&accepted.query, &addresses);
        let chain: Arc<[Name]> = Arc::default();
        for record in &reply.answers {
            if let Some(address) = record.data.ip_addr() {
                let ttl = Duration::from_secs(u64::from(record.ttl));
                self.inner.judge.learned(&self.asker, &accepted.name, &chain, address, ttl);
            }
        }
        reply
    }

    async fn upstream_answer(&self, request: &Request, accepted: Accepted) -> Reply {
        let inner = &self.inner;
        let inquiry = inquiry(request, &accepted.query);
        let Some(forwarder) = inner.forwarder(&self.asker, self.asked, &accepted.name).await else {
            inner.counters.unanswered.up();
            return Reply::failed(ResponseCode::ServFail, NoteCode::NoReachableAuthority, "no upstream is known");
        };
        let answer = match forwarder.cached(&inquiry, Instant::now()) {
            Some(answer) => {
                inner.counters.cached.up();
                Ok(answer)
            }
            None => forwarder.ask(inquiry, inner.plain_fallback()).await,
        };
        match answer {
            Ok(Answer::Records(message)) => self.sifted(&accepted, *message),
            Ok(Answer::Nothing { code, authorities }) => Reply::nothing(code, authorities),
            Err(Failure::Refused(code)) => Reply::nothing(code, Vec::new()),
            Err(Failure::Silence) => {
                inner.counters.unanswered.up();
                Reply::failed(ResponseCode::ServFail, NoteCode::NoReachableAuthority, "no upstream answered in time")
            }
        }
    }

    fn sifted(&self, accepted: &Accepted, message: hickory_proto::op::Message) -> Reply {
        let Accepted { name, query } = accepted;
        let inner = &self.inner;
        let code = message.metadata.response_code;
        match sift(&*inner.judge, &*self.asker, name, query, message) {
            Ok(sifted) => {
                for (address, ttl) in &sifted.sightings {
                    inner.judge.learned(&self.asker, name, &sifted.chain, *address, *ttl);
                }
                Reply::sifted(sifted, code)
            }
            Err(Refusal { code, reason }) => {
                inner.judge.withheld(&self.asker, name, &reason);
                if code != NoteCode::Filtered {
                    return self.blocked(query, &reason);
                }
                inner.counters.filtered.up();
                Reply::refused(query, code, &reason)
            }
        }
    }
}

/// Types that ask for more than one message or are no questions (RFC 6895 §3.1): OPT, TKEY, TSIG, IXFR, AXFR.
fn is_no_question(qtype: RecordType) -> bool {
    matches!(u16::from(qtype), 0 | 41 | 249..=252)
}

fn inquiry(request: &Request, query: &Query) -> Inquiry {
    Inquiry {
        query: query.clone(),
        dnssec_ok: dnssec_ok(request),
        checking_disabled: request.metadata.checking_disabled,
        recursion_desired: request.metadata.recursion_desired,
    }
}

fn dnssec_ok(request: &Request) -> bool {
    request.edns.as_ref().is_some_and(|edns| edns.flags().dnssec_ok)
}

/// RFC 6891 §6.1.1: a question with OPT gets an answer with OPT, one without does not.
fn edns(request: &Request, reply: &Reply) -> Edns {
    let mut edns = Edns::new();
    edns.set_max_payload(PAYLOAD).set_dnssec_ok(dnssec_ok(request));
    if let Some(note) = &reply.note {
        edns.options_mut().insert(note.option());
    }
    edns
}

/// What hickory gets to know where nothing was sent.
fn unsent(request: &Request, code: ResponseCode) -> ResponseInfo {
    let mut metadata = Metadata::response_from_request(&request.metadata);
    metadata.response_code = code;
    Header { metadata, counts: HeaderCounts::default() }.into()
}
