//! The resolver as `app` holds it.
//!
//! Keeps one rule: whatever arrives, the caller gets back bytes for the asker or nothing; there is no error to handle.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use hickory_resolver::PoolContext;
use hickory_resolver::net::NetError;
use hickory_server::net::runtime::TokioTime;
use hickory_server::net::xfer::Protocol;
use hickory_server::server::RequestHandler as _;
use tokio::io::{AsyncRead, AsyncWrite};

use super::counters::{Counters, Counts};
use super::desk::Desk;
use super::dialer::{Dialer, Provider};
use super::forward::Forwarder;
use super::judge::Judge;
use super::limits::Limits;
use super::local::Fixed;
use super::opening::{Opening, open};
use super::outbox::{Outbox, unsendable};
use super::server::{self, Server};
use super::stream;
use super::upstreams::{Upstream, Upstreams, can_answer};
use crate::names::Name;

/// Asked addresses whose answers are remembered, where they are the upstreams.
const MAX_ASKED: usize = 16;

/// The resolver cannot start.
#[derive(Debug, thiserror::Error)]
pub enum ResolverError {
    #[error("prepare the certificates that encrypted upstreams are checked against: {0}")]
    Tls(NetError),
}

/// Answers questions. Clones share everything. Must be used inside a tokio runtime.
pub struct Resolver<J: Judge> {
    inner: Arc<Inner<J>>,
}

impl<J: Judge> Clone for Resolver<J> {
    fn clone(&self) -> Self {
        Self { inner: Arc::clone(&self.inner) }
    }
}

/// What all questions share.
pub(super) struct Inner<J: Judge> {
    pub(super) judge: Arc<J>,
    pub(super) fixed: Fixed,
    pub(super) route: Route,
    pub(super) limits: Arc<Limits>,
    pub(super) counters: Counters,
    plain_fallback: AtomicBool,
}

impl<J: Judge> Inner<J> {
    pub(super) fn plain_fallback(&self) -> bool {
        self.plain_fallback.load(Ordering::Relaxed)
    }
}

impl<J: Judge> Resolver<J> {
    /// A resolver for `upstreams`. `fixed` names are answered here, judged like all others, and pass the answer filter.
    ///
    /// # Errors
    ///
    /// The TLS settings of encrypted upstreams cannot be made.
    pub fn new(
        upstreams: Upstreams,
        dialer: Dialer,
        fixed: BTreeMap<Name, Vec<IpAddr>>,
        judge: Arc<J>,
    ) -> Result<Self, ResolverError> {
        let maker = Maker { context: server::context().map_err(ResolverError::Tls)?, provider: Provider::new(dialer) };
        let inner = Inner {
            judge,
            fixed,
            route: Route::new(&upstreams, maker),
            limits: Arc::default(),
            counters: Counters::default(),
            plain_fallback: AtomicBool::new(false),
        };
        Ok(Self { inner: Arc::new(inner) })
    }

    /// Answers one UDP payload that the program sent from `from` to `asked`. None: there is nothing to say.
    pub async fn answer(&self, payload: &[u8], from: SocketAddr, asked: SocketAddr, asker: J::Asker) -> Option<Vec<u8>> {
        self.handle(payload, Protocol::Udp, from, asked, Arc::new(asker)).await
    }

    /// Answers the questions on one TCP stream until it ends, errs or is idle (RFC 7766).
    pub async fn serve_stream<S>(&self, stream: S, from: SocketAddr, asked: SocketAddr, asker: J::Asker)
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        let asker = Arc::new(asker);
        stream::serve(stream, |payload| {
            let asker = Arc::clone(&asker);
            async move { self.handle(&payload, Protocol::Tcp, from, asked, asker).await }
        })
        .await;
    }

    /// Whether plain upstreams are asked when no encrypted one answers; off at first. Each time it happens is logged.
    pub fn set_plain_fallback(&self, allowed: bool) {
        self.inner.plain_fallback.store(allowed, Ordering::Relaxed);
    }

    /// What happened so far.
    #[must_use]
    pub fn counts(&self) -> Counts {
        self.inner.counters.snapshot()
    }

    async fn handle(
        &self,
        payload: &[u8],
        protocol: Protocol,
        from: SocketAddr,
        asked: SocketAddr,
        asker: Arc<J::Asker>,
    ) -> Option<Vec<u8>> {
        let request = match open(payload, from, protocol) {
            Opening::Question(request) => request,
            Opening::Refusal(bytes) => {
                self.inner.counters.malformed.up();
                return Some(bytes);
            }
            Opening::Silence => {
                self.inner.counters.malformed.up();
                return None;
            }
        };
        let desk = Desk { inner: Arc::clone(&self.inner), asker, asked };
        let outbox = Outbox::new(&request);
        let info = desk.handle_request::<_, TokioTime>(&request, outbox.clone()).await;
        outbox.take().or_else(|| {
            let is_fault = info.response_code == hickory_proto::op::ResponseCode::ServFail;
            is_fault.then(|| unsendable(&request)).flatten()
        })
    }
}

/// Where questions go.
pub(super) enum Route {
    Configured(Arc<Forwarder>),
    /// To the address that the program asked, each with a cache of its own.
    Asked {
        maker: Maker,
        loopback: bool,
        known: Mutex<BTreeMap<SocketAddr, Arc<Forwarder>>>,
    },
}

/// Makes upstreams.
pub(super) struct Maker {
    context: Arc<PoolContext>,
    provider: Provider,
}

impl Maker {
    fn forwarder(&self, upstreams: &[Upstream]) -> Arc<Forwarder> {
        let servers = upstreams.iter().map(|upstream| Server::new(upstream, &self.context, &self.provider));
        Arc::new(Forwarder::new(servers.collect()))
    }
}

impl Route {
    fn new(upstreams: &Upstreams, maker: Maker) -> Self {
        if upstreams.is_empty() {
            Self::Asked { maker, loopback: upstreams.allows_loopback(), known: Mutex::default() }
        } else {
            Self::Configured(maker.forwarder(upstreams.list()))
        }
    }

    /// None where the asked address cannot be an upstream.
    pub(super) fn forwarder(&self, asked: SocketAddr) -> Option<Arc<Forwarder>> {
        let (maker, loopback, known) = match self {
            Self::Configured(forwarder) => return Some(Arc::clone(forwarder)),
            Self::Asked { maker, loopback, known } => (maker, *loopback, known),
        };
        if !can_answer(asked.ip()) || (asked.ip().is_loopback() && !loopback) {
            return None;
        }
        let mut known = known.lock().unwrap_or_else(PoisonError::into_inner);
        if known.len() >= MAX_ASKED && !known.contains_key(&asked) {
            known.pop_first();
        }
        let forwarder = known.entry(asked).or_insert_with(|| maker.forwarder(&[Upstream::plain(asked)]));
        Some(Arc::clone(forwarder))
    }
}
