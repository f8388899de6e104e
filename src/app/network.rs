//! What changes on this host's network while the router runs: addresses, routes, rules, tables.
//!
//! Keeps one rule: what could not be done now is done in a later turn, also where nothing changes any more.

use std::io;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};

use super::shard::{Handles, Message};
use super::shared::locked;
use super::threads::Vital;
use super::up::Shelf;
use super::upkeep::Upkeep;
use crate::netlink::{Host, InstallError, RouteSocket, Watcher};

/// Between two looks where nothing is heard of a change: resolv.conf and some kernel settings send no event.
const PAUSE: Duration = Duration::from_secs(5);

/// The addresses of this host; None where the kernel does not say.
pub(super) fn own_addresses() -> Option<Vec<IpAddr>> {
    let host = RouteSocket::open().ok().and_then(|mut socket| Host::read(&mut socket).ok());
    host.map(|host| host.own_addresses())
}

/// What came of putting right what others change; None once everything was taken back.
type Repair = Option<Result<(), InstallError>>;

/// What is still to be done.
#[derive(Debug, Default)]
struct Due {
    repair: bool,
    read: bool,
    tell: bool,
}

impl Due {
    /// Does what is to be done; false once everything was taken back. `changed`: something did, `moved`: addresses did. `repair` is told
    /// whether all is to be looked at, or only what sends no event.
    fn turn(
        &mut self,
        (changed, moved): (bool, bool),
        own: &mut Vec<IpAddr>,
        repair: impl FnOnce(bool) -> Repair,
        read: impl FnOnce() -> Option<Vec<IpAddr>>,
        tell: impl FnOnce(&[IpAddr]) -> bool,
    ) -> bool {
        // First, since to put things right takes longer than a program waits that uses a new address.
        if moved || self.read {
            let now = read();
            self.read = now.is_none();
            if let Some(now) = now {
                (*own, self.tell) = (now, true);
            }
        }
        self.tell = self.tell && !tell(own);
        let Some(repaired) = repair(changed || self.repair) else { return false };
        self.repair = repaired.is_err();
        true
    }
}

/// Follows this host's network until everything is taken back: tells the packet loops and `follow` its addresses, and has repaired what
/// others remove. `own`: the addresses so far.
pub(super) fn watch(
    vital: &Vital,
    shards: Handles,
    (shelf, upkeep): (Shelf, Arc<Upkeep>),
    mut own: Vec<IpAddr>,
    mut follow: impl FnMut(&[IpAddr]) + Send + 'static,
) -> io::Result<()> {
    let [addresses, routes, tables] = [Watcher::addresses()?, Watcher::routes()?, Watcher::tables()?];
    let watch = move || {
        // Read once more behind the subscription: what came before it sends no event.
        let mut due = Due { read: true, ..Due::default() };
        loop {
            let [moved, rerouted, reloaded] = [&addresses, &routes, &tables].map(|watcher| matches!(watcher.changed(), Ok(true)));
            let repair = |all| locked(&shelf).as_mut().map(|installed| upkeep.repair(installed, all));
            let tell = |own: &[IpAddr]| shards.send_all(|| Message::Addresses(own.to_vec()));
            // Who has lost its address for a moment finds its way back when there is a route again.
            if !due.turn((moved || rerouted || reloaded, moved || rerouted), &mut own, repair, own_addresses, tell) {
                return;
            }
            // After each wait, also without an event.
            follow(&own);
            let mut fds = [&addresses, &routes, &tables].map(|watcher| PollFd::new(watcher, PollFlags::IN));
            let wait = Timespec::try_from(PAUSE).ok();
            // An interrupted or empty wait only looks again.
            let _ = poll(&mut fds, wait.as_ref());
        }
    };
    vital.spawn("network", 0, watch).map(|_| ())
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOTHING: (bool, bool) = (false, false);

    fn own(last: u8) -> Vec<IpAddr> {
        vec![[10, 9, 0, last].into()]
    }

    fn refused() -> Repair {
        Some(Err(InstallError::LinkName { name: "a\"b".to_owned() }))
    }

    #[test]
    fn repair_that_failed_is_tried_again_without_another_change_and_one_that_did_not_is_not() {
        let (mut due, mut known) = (Due::default(), own(1));
        let mut tries = 0;
        for (changed, outcome, expected) in [
            (true, refused(), 1),
            (false, refused(), 2),
            (false, Some(Ok(())), 3),
            (false, refused(), 3),
            (true, Some(Ok(())), 4),
        ] {
            let repair = |all| {
                tries += u32::from(all);
                outcome
            };
            assert!(due.turn((changed, false), &mut known, repair, || panic!("none moved"), |_| panic!("none moved")));
            assert_eq!(tries, expected);
        }
        assert!(!due.turn((true, false), &mut known, |_| None, || None, |_| true), "everything was taken back");
    }

    #[test]
    fn addresses_that_a_loop_did_not_take_are_told_again_and_the_watch_goes_on() {
        let (mut due, mut known) = (Due::default(), own(1));
        let whole = |_| Some(Ok(()));
        assert!(due.turn((true, true), &mut known, whole, || Some(own(2)), |_| false));
        let mut told = Vec::new();
        let mut tell = |own: &[IpAddr]| {
            told.push(own.to_vec());
            true
        };
        assert!(due.turn(NOTHING, &mut known, whole, || panic!("none moved"), &mut tell));
        assert!(due.turn(NOTHING, &mut known, whole, || panic!("none moved"), &mut tell));
        assert_eq!(told, [own(2)]);
    }

    #[test]
    fn addresses_are_told_before_anything_is_put_right() {
        let (mut due, mut known) = (Due::default(), own(1));
        let order = std::cell::RefCell::new(Vec::new());
        let repair = |_| {
            order.borrow_mut().push("repair");
            Some(Ok(()))
        };
        let tell = |own: &[IpAddr]| {
            order.borrow_mut().push(if own == self::own(2) { "tell" } else { "tell old ones" });
            true
        };
        assert!(due.turn((true, true), &mut known, repair, || Some(own(2)), tell));
        assert_eq!(order.into_inner(), ["tell", "repair"]);
    }

    #[test]
    fn addresses_that_could_not_be_read_are_read_again_and_the_last_ones_hold() {
        let (mut due, mut known) = (Due::default(), own(1));
        let whole = |_| Some(Ok(()));
        assert!(due.turn((true, true), &mut known, whole, || None, |_| panic!("nothing is known")));
        assert_eq!(known, own(1));
        assert!(due.turn(NOTHING, &mut known, whole, || Some(own(2)), |_| true));
        assert_eq!(known, own(2));
    }
}
