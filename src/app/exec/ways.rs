//! Where IPv6 leads inside the enclosure while its command runs: where it leads on this host.
//!
//! Keeps one rule: routes alone are changed, and inside alone. The addresses stay as they were at the start, so that no open flow ends by it.

use std::io;

use ipnet::Ipv6Net;
use rustix::event::{PollFd, PollFlags, poll};

use crate::netlink::{Host, RequestError, RouteSocket, Watcher, setup};
use crate::tun::DEVICE_NAME;

/// The ways of an enclosure.
pub(super) struct Ways {
    /// A socket of the enclosure, and the TUN's index there.
    pub(super) inside: RouteSocket,
    pub(super) index: u32,
    /// What is led into the TUN now.
    pub(super) led: Vec<Ipv6Net>,
    /// What is led there wherever this host's routes lead.
    pub(super) always: Option<Ipv6Net>,
}

impl Ways {
    /// Follows the routes of this host as long as this process lives.
    ///
    /// # Errors
    ///
    /// The kernel does not tell of changes, or gives no thread.
    pub(super) fn follow(mut self) -> io::Result<()> {
        let watchers = [Watcher::addresses()?, Watcher::routes()?];
        let mut host = RouteSocket::open()?;
        let follow = move || {
            // At once for the first time: what changed before the subscription sends no event.
            loop {
                if let Err(error) = self.adapt(&mut host) {
                    tracing::warn!(%error, "where IPv6 leads in the enclosure could not be put right");
                }
                let mut fds = watchers.each_ref().map(|watcher| PollFd::new(watcher, PollFlags::IN));
                // An interrupted wait only looks again.
                let _ = poll(&mut fds, None);
                if watchers.iter().any(|watcher| watcher.changed().is_err()) {
                    return;
                }
            }
        };
        std::thread::Builder::new().name("ways".to_owned()).spawn(follow).map(|_| ())
    }

    fn adapt(&mut self, host: &mut RouteSocket) -> Result<(), RequestError> {
        let reach = Host::read(host)?.reach(DEVICE_NAME);
        let wanted: Vec<Ipv6Net> = reach.into_iter().chain(self.always).collect();
        if wanted != self.led {
            setup::lead(&mut self.inside, self.index, &wanted)?;
            for gone in self.led.iter().filter(|net| !wanted.contains(net)) {
                setup::withdraw(&mut self.inside, self.index, *gone)?;
            }
            self.led = wanted;
        }
        Ok(())
    }
}
