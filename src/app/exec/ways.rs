//! What of this host's network the enclosure follows while its command runs: where IPv6 leads, what fits its uplinks, and who is asked for
//! names.
//!
//! Keeps one rule: routes and the MTU alone are changed, and inside alone. The addresses stay as they were at the start, so that no open flow ends by it.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use ipnet::Ipv6Net;
use rustix::event::{PollFd, PollFlags, Timespec, poll};

use crate::app::threads::Vital;
use crate::app::upkeep::Upkeep;
use crate::netlink::{Host, RequestError, RouteSocket, Watcher, setup};
use crate::tun::DEVICE_NAME;

/// How often the name servers are looked at, since a change of resolv.conf sends no event; and how often, and how many times, right
/// after a change of addresses or routes, which another network brings a moment before its servers.
const SELDOM: Duration = Duration::from_secs(5);
const OFTEN: Duration = Duration::from_millis(250);
const TIMES: u32 = 40;

/// The ways of an enclosure.
pub(super) struct Ways {
    /// A socket of the enclosure, and the TUN's index there.
    pub(super) inside: RouteSocket,
    pub(super) index: u32,
    /// What is led into the TUN now.
    pub(super) led: Vec<Ipv6Net>,
    /// What is led there wherever this host's routes lead.
    pub(super) always: Option<Ipv6Net>,
    /// Knows the TUN's MTU.
    pub(super) upkeep: Arc<Upkeep>,
}

impl Ways {
    /// Follows the routes of this host as long as this process lives, and has `resolvers` follow its name servers.
    ///
    /// # Errors
    ///
    /// The kernel does not tell of changes, or gives no thread.
    pub(super) fn follow(mut self, vital: &Vital, mut resolvers: impl FnMut() + Send + 'static) -> io::Result<()> {
        let watchers = [Watcher::addresses()?, Watcher::routes()?];
        let mut host = RouteSocket::open()?;
        let follow = move || {
            // At once for the first time: what changed before the subscription sends no event.
            let (mut changed, mut soon) = (true, 0_u32);
            loop {
                if changed && let Err(error) = self.adapt(&mut host) {
                    tracing::warn!(%error, "where IPv6 leads in the enclosure, and its MTU, could not be put right");
                }
                resolvers();
                let mut fds = watchers.each_ref().map(|watcher| PollFd::new(watcher, PollFlags::IN));
                let wait = Timespec::try_from(if soon > 0 { OFTEN } else { SELDOM }).ok();
                // An interrupted or empty wait only looks again.
                let _ = poll(&mut fds, wait.as_ref());
                let [Ok(moved), Ok(rerouted)] = watchers.each_ref().map(Watcher::changed) else {
                    tracing::warn!(
                        "the kernel tells no more of changes: where IPv6 leads inside, the MTU and the name servers stay as they are"
                    );
                    return;
                };
                changed = moved || rerouted;
                soon = if changed { TIMES } else { soon.saturating_sub(1) };
            }
        };
        vital.spawn("ways", 0, follow).map(|_| ())
    }

    fn adapt(&mut self, host: &mut RouteSocket) -> Result<(), RequestError> {
        let host = Host::read(host)?;
        // On the way from one network to the next there may be none for a moment.
        let mtu = host.mtu_of_uplinks(DEVICE_NAME).unwrap_or(self.upkeep.mtu());
        if mtu != self.upkeep.mtu() {
            setup::set_mtu(&mut self.inside, self.index, mtu)?;
            self.upkeep.note_mtu(mtu);
        }
        let reach = host.reach(DEVICE_NAME);
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
