//! Asks upstream: the cache first, then the servers in their order.
//!
//! Keeps one rule: a question that has an encrypted upstream goes to plain ones only where that fallback was switched on, and
//! never in silence.

use std::time::{Duration, Instant};

use hickory_proto::op::{Message, ResponseCode};
use hickory_proto::rr::Record;
use hickory_resolver::config::ResolverOpts;
use hickory_resolver::net::{DnsError, NetError, NoRecords};
use hickory_resolver::{ResponseCache, TtlConfig};

use super::server::{Inquiry, Server};

/// How long a program waits for us in all: below the five seconds after which libc asks again (resolv.conf(5), `timeout`).
const PATIENCE: Duration = Duration::from_secs(4);
/// How long one upstream may keep the next one waiting.
const TURN: Duration = Duration::from_millis(2000);
/// Rounds over all upstreams; a second one gives a restarted connection its chance.
const ROUNDS: usize = 2;
/// Answers remembered per cache.
const CACHED: u64 = 4096;
/// Records in an answer that is worth remembering; hostile giants are not.
const MAX_CACHED_RECORDS: usize = 64;

/// What came back.
#[derive(Debug)]
pub(super) enum Answer {
    Records(Box<Message>),
    /// No such name, or no such records; the authorities prove it.
    Nothing {
        code: ResponseCode,
        authorities: Vec<Record>,
    },
}

/// Why nothing usable came back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Failure {
    /// The last upstream that spoke refused or failed.
    Refused(ResponseCode),
    /// Nobody answered in time.
    Silence,
}

/// Upstreams that answer alike, and what they said.
pub(super) struct Forwarder {
    servers: Vec<Server>,
    /// By DO and CD: answers differ with them, and hickory's cache knows only name, type and class.
    caches: [ResponseCache; 4],
}

impl Forwarder {
    pub(super) fn new(servers: Vec<Server>) -> Self {
        let ttl = TtlConfig::from_opts(&ResolverOpts::default());
        Self { servers, caches: std::array::from_fn(|_| ResponseCache::new(CACHED, ttl.clone())) }
    }

    /// The remembered answer, its TTLs counted down.
    pub(super) fn cached(&self, inquiry: &Inquiry, now: Instant) -> Option<Answer> {
        digest(self.cache(inquiry)?.get(&inquiry.query, now)?).ok()
    }

    /// Asks the upstreams in their order; those that were silent lately come last.
    pub(super) async fn ask(&self, inquiry: &Inquiry, plain_fallback: bool) -> Result<Answer, Failure> {
        let deadline = Instant::now() + PATIENCE;
        let mut failure = Failure::Silence;
        for _ in 0..ROUNDS {
            let order = self.order(plain_fallback);
            for (at, server) in order.iter().enumerate() {
                let left = deadline.saturating_duration_since(Instant::now());
                let turn = if at + 1 < order.len() { TURN.min(left) } else { left };
                match self.turn(server, inquiry, turn).await {
                    Ok(answer) => return Ok(answer),
                    Err(Failure::Silence) => {}
                    Err(refused) => failure = refused,
                }
            }
            // Whoever spoke will not say anything else a moment later.
            if failure != Failure::Silence || Instant::now() >= deadline {
                break;
            }
        }
        Err(failure)
    }

    async fn turn(&self, server: &Server, inquiry: &Inquiry, turn: Duration) -> Result<Answer, Failure> {
        let result = tokio::time::timeout(turn, server.ask(inquiry)).await.unwrap_or(Err(NetError::Timeout));
        let now = Instant::now();
        let spoke = matches!(result, Ok(_) | Err(NetError::Dns(_)));
        server.answered(spoke, now);
        if let Err(error) = &result
            && !spoke
        {
            tracing::debug!(upstream = %server.address(), %error, "an upstream does not answer");
        }
        self.remember(inquiry, &result, now);
        digest(result)
    }

    fn order(&self, plain_fallback: bool) -> Vec<&Server> {
        let now = Instant::now();
        let encrypted = self.servers.iter().any(Server::is_encrypted);
        let mut order: Vec<_> = self.servers.iter().filter(|s| !encrypted || plain_fallback || s.is_encrypted()).collect();
        order.sort_by_key(|server| (server.is_sick(now), !server.is_encrypted()));
        if encrypted && order.first().is_some_and(|first| !first.is_encrypted()) {
            tracing::warn!("no encrypted upstream answers; questions go to plain ones");
        }
        order
    }

    fn remember(&self, inquiry: &Inquiry, result: &Result<Message, NetError>, now: Instant) {
        let small = match result {
            Ok(message) => message.all_sections().count() <= MAX_CACHED_RECORDS && !message.metadata.truncation,
            Err(error) => error.is_no_records_found(),
        };
        if let Some(cache) = self.cache(inquiry).filter(|_| small) {
            cache.insert(inquiry.query.clone(), result.clone(), now);
        }
    }

    /// None for questions without RD: they ask what an upstream knows by itself.
    fn cache(&self, inquiry: &Inquiry) -> Option<&ResponseCache> {
        let at = usize::from(inquiry.dnssec_ok) * 2 + usize::from(inquiry.checking_disabled);
        self.caches.get(at).filter(|_| inquiry.recursion_desired)
    }
}

fn digest(result: Result<Message, NetError>) -> Result<Answer, Failure> {
    match result {
        Ok(message) => Ok(Answer::Records(Box::new(message))),
        Err(NetError::Dns(DnsError::NoRecordsFound(NoRecords { response_code, authorities, .. }))) => {
            let authorities = authorities.map(|records| records.to_vec()).unwrap_or_default();
            Ok(Answer::Nothing { code: response_code, authorities })
        }
        Err(NetError::Dns(DnsError::ResponseCode(code))) => Err(Failure::Refused(code)),
        Err(_) => Err(Failure::Silence),
    }
}
