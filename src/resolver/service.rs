//! The resolver as `app` holds it.
//!
//! Keeps one rule: whatever arrives, the caller gets back bytes for the asker or nothing; there is no error to handle.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use arc_swap::ArcSwap;
use hickory_resolver::TlsConfig;
use hickory_resolver::net::NetError;
use hickory_server::net::runtime::TokioTime;
use hickory_server::net::xfer::Protocol;
use hickory_server::server::RequestHandler as _;
use tokio::io::{AsyncRead, AsyncWrite};

use super::counters::{Counters, Counts};
use super::desk::Desk;
use super::dialer::Dialer;
use super::forward::Forwarder;
use super::judge::Judge;
use super::limits::Limits;
use super::local::Fixed;
use super::near::Near;
use super::opening::{Opening, open};
use super::outbox::{Outbox, unsendable};
use super::route::{Maker, Route};
use super::stream;
use super::upstreams::Upstreams;
use crate::names::Name;

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
    pub(super) limits: Arc<Limits>,
    pub(super) counters: Counters,
    maker: Maker,
    route: ArcSwap<Route>,
    plain_fallback: AtomicBool,
    network_resolvers: AtomicBool,
}

impl<J: Judge> Inner<J> {
    /// Who is asked about `name`; None where nobody can be.
    pub(super) async fn forwarder(&self, asker: &J::Asker, asked: SocketAddr, name: &Name) -> Option<Arc<Forwarder>> {
        let route = self.route.load_full();
        let Some(configured) = route.configured(name, self.network_resolvers.load(Ordering::Relaxed)) else {
            return route.asked(asked, &self.maker);
        };
        for server in route.near_servers(&configured) {
            if self.judge.is_server(asker, server).await {
                return route.beyond(asked, &self.maker);
            }
        }
        Some(configured)
    }

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
        let tls = TlsConfig::new().map_err(ResolverError::Tls)?;
        Ok(Self::trusting(tls, &upstreams, dialer, fixed, judge))
    }

    /// A resolver that checks certificates as `tls` says.
    pub(super) fn trusting(
        tls: TlsConfig,
        upstreams: &Upstreams,
        dialer: Dialer,
        fixed: BTreeMap<Name, Vec<IpAddr>>,
        judge: Arc<J>,
    ) -> Self {
        let maker = Maker::new(dialer, tls);
        let inner = Inner {
            judge,
            fixed,
            route: ArcSwap::from_pointee(Route::new(upstreams, Near::nothing(), &maker)),
            maker,
            limits: Arc::default(),
            counters: Counters::default(),
            plain_fallback: AtomicBool::new(false),
            network_resolvers: AtomicBool::new(true),
        };
        Self { inner: Arc::new(inner) }
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

    /// Asks others from now on and forgets what was answered so far: the laptop is in another network, or the file was edited.
    pub fn set_upstreams(&self, upstreams: &Upstreams) {
        let near = self.inner.route.load().near().clone();
        self.inner.route.store(Arc::new(Route::new(upstreams, near, &self.inner.maker)));
    }

    /// The upstreams that are asked now, as a person writes them; empty where each question goes to the address that was asked.
    #[must_use]
    pub fn upstreams(&self) -> Vec<String> {
        self.inner.route.load().describe()
    }

    /// The upstreams that answered none of the last questions, nor lately.
    #[must_use]
    pub fn silent(&self) -> BTreeSet<SocketAddr> {
        self.inner.route.load().silent(Instant::now())
    }

    /// Says which addresses are this host's from now on; at first, nothing is.
    pub fn set_near(&self, near: Near) {
        let route = self.inner.route.load();
        if *route.near() != near {
            self.inner.route.store(Arc::new(route.beside(near, &self.inner.maker)));
        }
    }

    /// Whether the network's own resolvers are asked for its names ([`Upstreams::with_network`]); on at first.
    pub fn set_network_resolvers(&self, allowed: bool) {
        self.inner.network_resolvers.store(allowed, Ordering::Relaxed);
    }

    /// Whether plain upstreams are asked when no encrypted one can be reached; off at first. Each change to plain is logged.
    pub fn set_plain_fallback(&self, allowed: bool) {
        self.inner.plain_fallback.store(allowed, Ordering::Relaxed);
    }

    /// Asks no more than so many questions at a time; beyond them a program is told SERVFAIL. 512 at first, and at most.
    pub fn set_room(&self, questions: usize) {
        self.inner.limits.narrow(questions);
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
