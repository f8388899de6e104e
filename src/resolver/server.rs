//! One upstream: its connections, and whether it answered lately.
//!
//! Keeps one rule: each upstream has a pool of its own. In a pool of several, hickory's deadline is the same as its time for one
//! server, so that a silent first server would leave no time for the second.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use futures_util::StreamExt as _;
use hickory_proto::op::{DnsRequest, DnsRequestOptions, Edns, Message, OpCode, Query, ResponseCode};
use hickory_resolver::config::{ConnectionConfig, NameServerConfig, ResolverOpts, ServerOrderingStrategy};
use hickory_resolver::net::xfer::DnsHandle as _;
use hickory_resolver::net::{DnsError, NetError};
use hickory_resolver::{NameServerPool, PoolContext, TlsConfig};

use super::dialer::Provider;
use super::upstreams::{Transport, Upstream};

/// How long one upstream has for one step (a UDP exchange, a TCP connect, an answer on an open connection).
const STEP: Duration = Duration::from_millis(1500);
/// How long a dead upstream is asked last.
const SICK: Duration = Duration::from_secs(30);
/// Silences in a row that count as death. One alone may be a slow name; a name that anyone can make slow must not decide which
/// upstream is asked.
const SILENCES: u32 = 3;
/// Questions in a row that were answered only without EDNS, after which it is left out at once: one alone may have been slow.
const DEAF: u32 = 3;
/// Questions at a time on one TCP, TLS or QUIC connection; the bound on all questions is below `limits`.
const PER_CONNECTION: usize = 256;
/// Answers larger than this come over TCP: the value of DNS flag day 2020, which never fragments.
pub(super) const PAYLOAD: u16 = 1232;

/// A question as it goes upstream.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Inquiry {
    /// Name, type and class IN.
    pub(super) query: Query,
    pub(super) dnssec_ok: bool,
    pub(super) checking_disabled: bool,
    pub(super) recursion_desired: bool,
}

/// What all upstreams share: time limits and the certificates that are trusted.
pub(super) fn context(tls: TlsConfig) -> Arc<PoolContext> {
    let mut options = ResolverOpts::default();
    options.timeout = STEP;
    options.num_concurrent_reqs = 1;
    options.max_active_requests = PER_CONNECTION;
    options.server_ordering_strategy = ServerOrderingStrategy::UserProvidedOrder;
    Arc::new(PoolContext::new(options, tls))
}

/// What an attempt says about an upstream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Sign {
    /// It answered, be it with a failure.
    Spoke,
    /// Nothing came in time.
    Silent,
    /// No connection: refused, unreachable, a wrong certificate.
    Dead,
}

impl Sign {
    pub(super) fn of(result: &Result<Message, NetError>) -> Self {
        match result {
            Ok(_) => Self::Spoke,
            Err(NetError::Timeout | NetError::Busy) => Self::Silent,
            Err(
                NetError::Dns(_)
                | NetError::Proto(_)
                | NetError::ForeignClassRecord { .. }
                | NetError::QueryCaseMismatch
                | NetError::Truncated,
            ) => Self::Spoke,
            Err(_) => Self::Dead,
        }
    }
}

/// One upstream and its health.
pub(super) struct Server {
    pool: NameServerPool<Provider>,
    address: SocketAddr,
    encrypted: bool,
    health: Mutex<Health>,
}

#[derive(Debug, Default)]
struct Health {
    silences: u32,
    sick_until: Option<Instant>,
    /// Questions in a row that were answered only without EDNS.
    unheard: u32,
}

impl Server {
    pub(super) fn new(upstream: &Upstream, context: &Arc<PoolContext>, provider: &Provider) -> Self {
        let config = NameServerConfig::new(upstream.address.ip(), true, connections(upstream));
        Self {
            pool: NameServerPool::from_config([config], Arc::clone(context), provider.clone()),
            address: upstream.address,
            encrypted: upstream.transport.is_encrypted(),
            health: Mutex::default(),
        }
    }

    pub(super) fn address(&self) -> SocketAddr {
        self.address
    }

    pub(super) fn is_encrypted(&self) -> bool {
        self.encrypted
    }

    pub(super) fn is_sick(&self, now: Instant) -> bool {
        self.health().sick_until.is_some_and(|until| until > now)
    }

    /// Remembers what an attempt said about the upstream.
    pub(super) fn saw(&self, sign: Sign, now: Instant) {
        let mut health = self.health();
        match sign {
            Sign::Spoke => *health = Health { unheard: health.unheard, ..Health::default() },
            Sign::Silent => {
                health.silences = health.silences.saturating_add(1);
                if health.silences >= SILENCES {
                    health.sick_until = Some(now + SICK);
                }
            }
            Sign::Dead => health.sick_until = Some(now + SICK),
        }
    }

    fn health(&self) -> MutexGuard<'_, Health> {
        self.health.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Asks once; a server that does not know EDNS is asked again without (RFC 6891 §6.2.2). `again`: it did not answer before, which
    /// may be because it, or a router on the way, throws EDNS away or refuses it by what is no answer to the question (§7).
    pub(super) async fn ask(&self, inquiry: &Inquiry, again: bool) -> Result<Message, NetError> {
        let may_be_bare = !inquiry.dnssec_ok && !self.encrypted;
        if may_be_bare && (again || self.health().unheard >= DEAF) {
            let bare = self.send(request(inquiry, false)).await;
            if Sign::of(&bare) == Sign::Spoke {
                let mut health = self.health();
                health.unheard = health.unheard.saturating_add(1);
            }
            return bare;
        }
        let first = self.send(request(inquiry, true)).await;
        if Sign::of(&first) == Sign::Spoke {
            self.health().unheard = 0;
        }
        match first {
            Err(NetError::Dns(DnsError::ResponseCode(ResponseCode::FormErr | ResponseCode::NotImp))) if !inquiry.dnssec_ok => {
                self.send(request(inquiry, false)).await
            }
            first => first,
        }
    }

    async fn send(&self, request: DnsRequest) -> Result<Message, NetError> {
        match self.pool.send(request).next().await {
            Some(response) => Ok(response?.into_message()),
            None => Err(NetError::NoConnections),
        }
    }
}

fn connections(upstream: &Upstream) -> Vec<ConnectionConfig> {
    let mut connections = match &upstream.transport {
        Transport::Plain => vec![ConnectionConfig::udp(), ConnectionConfig::tcp()],
        Transport::Tcp => vec![ConnectionConfig::tcp()],
        Transport::Tls { name } => vec![ConnectionConfig::tls(Arc::clone(name))],
        Transport::Https { name, path } => vec![ConnectionConfig::https(Arc::clone(name), Some(Arc::clone(path)))],
        Transport::Quic { name } => vec![ConnectionConfig::quic(Arc::clone(name))],
    };
    for connection in &mut connections {
        connection.port = upstream.address.port();
    }
    connections
}

/// The letters of the name get random case, which an answer over UDP must repeat (draft-vixie-dnsext-dns0x20); options that the
/// program sent stay here, they are between it and us (RFC 6891 §6.1.1), and a client subnet would tell where it is.
fn request(inquiry: &Inquiry, edns: bool) -> DnsRequest {
    let mut query = inquiry.query.clone();
    query.name.randomize_label_case();
    let mut message = Message::query();
    message.metadata.op_code = OpCode::Query;
    message.metadata.recursion_desired = inquiry.recursion_desired;
    message.metadata.checking_disabled = inquiry.checking_disabled;
    // RFC 6840 §5.7: asks for the AD bit without asking for signatures.
    message.metadata.authentic_data = true;
    message.add_query(query);
    if edns {
        let mut opt = Edns::new();
        opt.set_max_payload(PAYLOAD).set_dnssec_ok(inquiry.dnssec_ok);
        message.set_edns(opt);
    }
    let mut options = DnsRequestOptions::default();
    options.case_randomization = true;
    options.recursion_desired = inquiry.recursion_desired;
    DnsRequest::new(message, options).with_original_query(Some(inquiry.query.clone()))
}
