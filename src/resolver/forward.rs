//! Asks upstream: the cache first, then the servers in their order.
//!
//! Keeps one rule: where an encrypted upstream is configured, plain ones are asked only if that fallback was switched on and no
//! encrypted one is alive, and never in silence. Equal questions at a time are asked once and end together: where an upstream asks
//! back what it was asked, the loop is one question long and over with it.

use std::collections::HashMap;
use std::future::Future;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use futures_util::FutureExt as _;
use futures_util::future::{BoxFuture, Shared, WeakShared};
use hickory_proto::op::{Message, ResponseCode};
use hickory_proto::rr::{Name, Record};
use hickory_resolver::config::ResolverOpts;
use hickory_resolver::net::{DnsError, NetError, NoRecords};
use hickory_resolver::{ResponseCache, TtlConfig};

use super::letters;
use super::limits::IN_ALL;
use super::server::{Inquiry, Server, Sign};

/// How long a program waits for us in all: below the five seconds after which libc asks again (resolv.conf(5), `timeout`).
const PATIENCE: Duration = Duration::from_secs(4);
/// How long one upstream may keep the next one waiting.
const TURN: Duration = Duration::from_millis(2000);
/// Rounds over all upstreams; a second one gives a restarted connection its chance, and a question without EDNS.
const ROUNDS: usize = 2;
/// Answers remembered for configured upstreams, with neither DO nor CD. A page full of names needs a few hundred.
pub(super) const MANY: u64 = 2048;
/// Answers remembered elsewhere.
pub(super) const FEW: u64 = 256;
/// Records and bytes of an answer that is remembered. With both, the worst that a hostile zone can fill is about 40 MB.
const MAX_CACHED_RECORDS: usize = 64;
const MAX_CACHED_BYTES: usize = 4096;

/// What came back.
#[derive(Clone, Debug)]
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
    /// Plain upstreams stand in for encrypted ones, and it was said.
    announced: AtomicBool,
    /// By DO and CD: answers differ with them, and hickory's cache knows only name, type and class.
    caches: [ResponseCache; 4],
    /// What is asked now. Not more than what is in flight (`limits`), and as much again that nobody waits for any more.
    asking: Mutex<HashMap<Inquiry, WeakShared<Asking>>>,
}

type Outcome = Result<Answer, Failure>;
type Asking = BoxFuture<'static, Outcome>;

impl Forwarder {
    /// Asks `servers` in their order and remembers `capacity` answers.
    pub(super) fn new(servers: Vec<Server>, capacity: u64) -> Self {
        let ttl = TtlConfig::from_opts(&ResolverOpts::default());
        let caches = [capacity, FEW, FEW, FEW].map(|capacity| ResponseCache::new(capacity, ttl.clone()));
        Self { servers, announced: AtomicBool::new(false), caches, asking: Mutex::default() }
    }

    /// Where the upstreams are.
    pub(super) fn addresses(&self) -> impl Iterator<Item = SocketAddr> + '_ {
        self.servers.iter().map(Server::address)
    }

    /// The upstreams that answer nothing now.
    pub(super) fn silent(&self, now: Instant) -> impl Iterator<Item = SocketAddr> + '_ {
        self.servers.iter().filter(move |server| server.is_sick(now)).map(Server::address)
    }

    /// The remembered answer, its TTLs counted down.
    pub(super) fn cached(&self, inquiry: &Inquiry, now: Instant) -> Option<Answer> {
        digest(self.cache(inquiry)?.get(&inquiry.query, now)?, &inquiry.query.name).ok()
    }

    /// Asks the upstreams, or waits with who asks the same already.
    pub(super) fn ask(self: &Arc<Self>, inquiry: Inquiry, plain_fallback: bool) -> impl Future<Output = Outcome> + Send + use<> {
        let mut asking = self.asking.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(same) = asking.get(&inquiry).and_then(WeakShared::upgrade) {
            return same;
        }
        if asking.len() >= IN_ALL {
            asking.retain(|_, asking| asking.upgrade().is_some());
        }
        let (this, key) = (Arc::clone(self), inquiry.clone());
        let fresh: Shared<Asking> = async move {
            let outcome = this.ask_in_turn(&inquiry, plain_fallback).await;
            this.asking.lock().unwrap_or_else(PoisonError::into_inner).remove(&inquiry);
            outcome
        }
        .boxed()
        .shared();
        asking.extend(fresh.downgrade().map(|weak| (key, weak)));
        fresh
    }

    /// Asks the upstreams in their order; those that were silent lately come last.
    async fn ask_in_turn(&self, inquiry: &Inquiry, plain_fallback: bool) -> Outcome {
        let deadline = Instant::now() + PATIENCE;
        let mut failure = Failure::Silence;
        for round in 0..ROUNDS {
            let order = self.order(plain_fallback);
            for (at, server) in order.iter().enumerate() {
                let left = deadline.saturating_duration_since(Instant::now());
                let turn = if at + 1 < order.len() { TURN.min(left) } else { left };
                match self.turn(server, inquiry, round > 0, turn).await {
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

    async fn turn(&self, server: &Server, inquiry: &Inquiry, again: bool, turn: Duration) -> Result<Answer, Failure> {
        let result = tokio::time::timeout(turn, server.ask(inquiry, again)).await.unwrap_or(Err(NetError::Timeout));
        let now = Instant::now();
        let sign = Sign::of(&result);
        server.saw(sign, now);
        if let Err(error) = &result
            && sign != Sign::Spoke
        {
            tracing::debug!(upstream = %server.address(), %error, "an upstream does not answer");
        }
        self.remember(inquiry, &result, now);
        digest(result, &inquiry.query.name)
    }

    fn order(&self, plain_fallback: bool) -> Vec<&Server> {
        let now = Instant::now();
        let mut encrypted = self.servers.iter().filter(|server| server.is_encrypted()).peekable();
        let has_encrypted = encrypted.peek().is_some();
        let stands_in = has_encrypted && plain_fallback && encrypted.all(|server| server.is_sick(now));
        let mut order: Vec<_> = self.servers.iter().filter(|s| !has_encrypted || stands_in || s.is_encrypted()).collect();
        order.sort_by_key(|server| (server.is_sick(now), !server.is_encrypted()));
        if self.announced.swap(stands_in, Ordering::Relaxed) != stands_in {
            if stands_in {
                tracing::warn!("no encrypted upstream can be reached; questions go out in plain");
            } else {
                tracing::info!("encrypted upstreams are asked again");
            }
        }
        order
    }

    fn remember(&self, inquiry: &Inquiry, result: &Result<Message, NetError>, now: Instant) {
        let worth = match result {
            Ok(message) => is_small(message) && !message.metadata.truncation,
            Err(error) => error.is_no_records_found(),
        };
        if let Some(cache) = self.cache(inquiry).filter(|_| worth) {
            cache.insert(inquiry.query.clone(), result.clone(), now);
        }
    }

    /// None for questions without RD: they ask what an upstream knows by itself.
    fn cache(&self, inquiry: &Inquiry) -> Option<&ResponseCache> {
        let at = usize::from(inquiry.dnssec_ok) * 2 + usize::from(inquiry.checking_disabled);
        self.caches.get(at).filter(|_| inquiry.recursion_desired)
    }
}

fn is_small(message: &Message) -> bool {
    message.all_sections().count() <= MAX_CACHED_RECORDS && message.to_vec().is_ok_and(|bytes| bytes.len() <= MAX_CACHED_BYTES)
}

fn digest(result: Result<Message, NetError>, asked: &Name) -> Result<Answer, Failure> {
    let spoke = Sign::of(&result) == Sign::Spoke;
    match result {
        Ok(mut message) => {
            let Message { answers, authorities, additionals, .. } = &mut message;
            letters::restore(answers.iter_mut().chain(authorities).chain(additionals), asked);
            Ok(Answer::Records(Box::new(message)))
        }
        Err(NetError::Dns(DnsError::NoRecordsFound(NoRecords { response_code, authorities, .. }))) => {
            let mut authorities = authorities.map(|records| records.to_vec()).unwrap_or_default();
            letters::restore(authorities.iter_mut(), asked);
            Ok(Answer::Nothing { code: response_code, authorities })
        }
        Err(NetError::Dns(DnsError::ResponseCode(code))) => Err(Failure::Refused(code)),
        // An answer that cannot be read is no silence: asking again would bring the same.
        Err(_) if spoke => Err(Failure::Refused(ResponseCode::ServFail)),
        Err(_) => Err(Failure::Silence),
    }
}
