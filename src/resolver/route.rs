//! Which upstreams are asked about which name.
//!
//! Keeps one rule: upstreams that answer differently never share a cache.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};

use hickory_resolver::{PoolContext, TlsConfig};

use super::dialer::{Dialer, Provider};
use super::forward::{FEW, Forwarder, MANY};
use super::lan::is_of_the_network;
use super::server::{self, Server};
use super::upstreams::{Upstream, Upstreams, can_answer};
use crate::names::Name;

/// Asked addresses whose answers are remembered, where they are the upstreams.
const MAX_ASKED: usize = 16;

/// Makes upstreams.
pub(super) struct Maker {
    context: Arc<PoolContext>,
    provider: Provider,
}

impl Maker {
    pub(super) fn new(dialer: Dialer, tls: TlsConfig) -> Self {
        Self { context: server::context(tls), provider: Provider::new(dialer) }
    }

    fn forwarder(&self, upstreams: &[Upstream], capacity: u64) -> Arc<Forwarder> {
        let servers = upstreams.iter().map(|upstream| Server::new(upstream, &self.context, &self.provider));
        Arc::new(Forwarder::new(servers.collect(), capacity))
    }
}

/// Where questions go.
pub(super) enum Route {
    Configured {
        own: Arc<Forwarder>,
        network: Option<Network>,
    },
    /// To the address that the program asked, each with a cache of its own.
    Asked {
        loopback: bool,
        known: Mutex<BTreeMap<SocketAddr, Arc<Forwarder>>>,
    },
}

/// The network's own resolvers and search domains.
pub(super) struct Network {
    forwarder: Arc<Forwarder>,
    search: Vec<Name>,
}

impl Route {
    pub(super) fn new(upstreams: &Upstreams, maker: &Maker) -> Self {
        if upstreams.is_empty() {
            return Self::Asked { loopback: upstreams.allows_loopback(), known: Mutex::default() };
        }
        let network = upstreams
            .network()
            .map(|network| Network { forwarder: maker.forwarder(network.list(), FEW), search: network.search().to_vec() });
        Self::Configured { own: maker.forwarder(upstreams.list(), MANY), network }
    }

    /// Who is asked about `name`; None where the asked address cannot be an upstream. `network` allows the network's resolvers.
    pub(super) fn forwarder(&self, maker: &Maker, asked: SocketAddr, name: &Name, network: bool) -> Option<Arc<Forwarder>> {
        match self {
            Self::Configured { own, network: theirs } => {
                let theirs = theirs.as_ref().filter(|theirs| network && is_of_the_network(name, &theirs.search));
                Some(Arc::clone(theirs.map_or(own, |theirs| &theirs.forwarder)))
            }
            Self::Asked { loopback, known } => {
                if !can_answer(asked.ip()) || (asked.ip().to_canonical().is_loopback() && !loopback) {
                    return None;
                }
                let mut known = known.lock().unwrap_or_else(PoisonError::into_inner);
                if known.len() >= MAX_ASKED && !known.contains_key(&asked) {
                    known.pop_first();
                }
                Some(Arc::clone(known.entry(asked).or_insert_with(|| maker.forwarder(&[Upstream::plain(asked)], FEW))))
            }
        }
    }
}
