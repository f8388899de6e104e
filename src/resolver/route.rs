//! Which upstreams are asked about which name.
//!
//! Keeps two rules: upstreams that answer differently never share a cache, and nobody is asked its own question.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use hickory_resolver::{PoolContext, TlsConfig};

use super::dialer::{Dialer, Provider};
use super::forward::{FEW, Forwarder, MANY};
use super::lan::is_of_the_network;
use super::near::Near;
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
pub(super) struct Route {
    upstreams: Upstreams,
    near: Near,
    /// None: to the address that the program asked.
    own: Option<Arc<Forwarder>>,
    network: Option<Arc<Forwarder>>,
    /// The upstreams that are not on this host, for what those on this host ask themselves; None where these are all or none.
    far: Option<Arc<Forwarder>>,
    /// By the address that the program asked, each with a cache of its own.
    asked: Mutex<BTreeMap<SocketAddr, Arc<Forwarder>>>,
}

impl Route {
    pub(super) fn new(upstreams: &Upstreams, near: Near, maker: &Maker) -> Self {
        let own = (!upstreams.is_empty()).then(|| maker.forwarder(upstreams.list(), MANY));
        let network = upstreams.network().map(|network| maker.forwarder(network.list(), FEW));
        let far = far(upstreams, &near, maker);
        Self { upstreams: upstreams.clone(), near, own, network, far, asked: Mutex::default() }
    }

    /// The same upstreams where other addresses are this host's; what was answered is still known.
    pub(super) fn beside(&self, near: Near, maker: &Maker) -> Self {
        let Self { upstreams, near: _, own, network, far: _, asked } = self;
        let asked = asked.lock().unwrap_or_else(PoisonError::into_inner).clone();
        Self {
            far: far(upstreams, &near, maker),
            upstreams: upstreams.clone(),
            near,
            own: own.clone(),
            network: network.clone(),
            asked: Mutex::new(asked),
        }
    }

    pub(super) fn describe(&self) -> Vec<String> {
        self.upstreams.describe()
    }

    /// The upstreams of all lists that answer nothing now.
    pub(super) fn silent(&self, now: Instant) -> BTreeSet<SocketAddr> {
        let asked: Vec<_> = self.asked.lock().unwrap_or_else(PoisonError::into_inner).values().cloned().collect();
        let lists = [&self.own, &self.network, &self.far].into_iter().flatten().chain(&asked);
        lists.flat_map(|forwarder| forwarder.silent(now)).collect()
    }

    pub(super) fn near(&self) -> &Near {
        &self.near
    }

    /// The upstreams for `name`; None where the asked address is the upstream. `network` allows the network's resolvers.
    pub(super) fn configured(&self, name: &Name, network: bool) -> Option<Arc<Forwarder>> {
        let search = self.upstreams.network().map(Upstreams::search).unwrap_or_default();
        let theirs = self.network.as_ref().filter(|_| network && is_of_the_network(name, search));
        theirs.or(self.own.as_ref()).cloned()
    }

    /// The servers of an upstream list that are on this host.
    pub(super) fn near_servers(&self, forwarder: &Forwarder) -> Vec<SocketAddr> {
        forwarder.addresses().filter(|address| self.near.has(address.ip())).collect()
    }

    /// Who is asked what an upstream on this host asks itself: the other ones, else whom it means to ask.
    pub(super) fn beyond(&self, asked: SocketAddr, maker: &Maker) -> Option<Arc<Forwarder>> {
        self.far.clone().or_else(|| self.asked(asked, maker))
    }

    /// The address that the program asked; None where it cannot be an upstream.
    pub(super) fn asked(&self, asked: SocketAddr, maker: &Maker) -> Option<Arc<Forwarder>> {
        if !can_answer(asked.ip()) || self.near.has(asked.ip()) {
            return None;
        }
        let mut known = self.asked.lock().unwrap_or_else(PoisonError::into_inner);
        if known.len() >= MAX_ASKED && !known.contains_key(&asked) {
            known.pop_first();
        }
        Some(Arc::clone(known.entry(asked).or_insert_with(|| maker.forwarder(&[Upstream::plain(asked)], FEW))))
    }
}

fn far(upstreams: &Upstreams, near: &Near, maker: &Maker) -> Option<Arc<Forwarder>> {
    let far: Vec<Upstream> = upstreams.list().iter().filter(|upstream| !near.has(upstream.address.ip())).cloned().collect();
    (!far.is_empty() && far.len() < upstreams.list().len()).then(|| maker.forwarder(&far, FEW))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn maker() -> Maker {
        Maker::new(Dialer::default(), TlsConfig::new().expect("the certificates are readable"))
    }

    fn near() -> Near {
        Near::this_host(&["10.9.0.2", "fd09::2"].map(|ip| ip.parse().expect("an address")))
    }

    fn at(text: &str) -> SocketAddr {
        text.parse().expect("the test writes an address")
    }

    fn servers(forwarder: Option<Arc<Forwarder>>) -> Vec<String> {
        forwarder.map(|forwarder| forwarder.addresses().map(|address| address.to_string()).collect()).unwrap_or_default()
    }

    #[tokio::test]
    async fn an_address_of_this_host_is_never_the_asked_upstream_also_one_that_comes_later() {
        let maker = maker();
        let early = Route::new(&Upstreams::asked(), Near::this_host(&[]), &maker);
        for asked in ["10.9.0.2:53", "[fd09::2]:53", "198.51.100.53:53", "[2001:db8::53]:53"] {
            assert_eq!(servers(early.asked(at(asked), &maker)), [asked]);
        }
        let route = early.beside(near(), &maker);
        for asked in ["10.9.0.2:53", "[::ffff:10.9.0.2]:53", "[fd09::2]:53", "127.0.0.1:53", "[::1]:53"] {
            assert!(route.asked(at(asked), &maker).is_none(), "{asked}");
        }
        for asked in ["198.51.100.53:53", "[2001:db8::53]:53"] {
            assert_eq!(servers(route.asked(at(asked), &maker)), [asked]);
        }
    }

    #[tokio::test]
    async fn what_an_upstream_of_this_host_asks_goes_to_the_others_else_to_whom_it_means() {
        let maker = maker();
        for (list, wanted) in [
            (vec!["10.9.0.2", "192.0.2.53", "fd09::2", "2001:db8::53"], vec!["192.0.2.53:53", "[2001:db8::53]:53"]),
            (vec!["127.0.0.1:5300", "fd09::2"], vec!["198.51.100.53:53"]),
        ] {
            let list: Vec<String> = list.into_iter().map(str::to_owned).collect();
            let upstreams = Upstreams::parse(&list).expect("upstreams");
            let route = Route::new(&upstreams, near(), &maker);
            let name: Name = "www.example.com".parse().expect("a name");
            let configured = route.configured(&name, true).expect("upstreams are configured");
            assert_eq!(configured.addresses().count(), list.len(), "others ask all that the user named");
            assert_eq!(route.near_servers(&configured).len(), 2);
            assert_eq!(servers(route.beyond(at("198.51.100.53:53"), &maker)), wanted);
        }
    }
}
