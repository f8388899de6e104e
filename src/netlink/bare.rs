//! The numbers of links without headers: the guard writes them into packets, the packet loops read them there.
//!
//! Keeps one rule: a link keeps its number for as long as it is there, so that no packet on its way is taken for one by another link. A
//! link that comes up when all numbers are given has none, and what names it is refused.

use std::sync::atomic::{AtomicU32, Ordering};

use super::host::{Framing, Link};
use crate::packet::LinkNumber;

/// The index of the link that has each number; 0: of none.
#[derive(Debug, Default)]
pub struct BareLinks([AtomicU32; LinkNumber::COUNT]);

impl BareLinks {
    /// The link with this number.
    #[must_use]
    pub fn link(&self, number: LinkNumber) -> Option<u32> {
        self.0.get(number.place()).map(|link| link.load(Ordering::Relaxed)).filter(|index| *index != 0)
    }

    /// All of them, the links that have none as well.
    pub(super) fn all(&self) -> [Option<u32>; LinkNumber::COUNT] {
        self.0.each_ref().map(|link| Some(link.load(Ordering::Relaxed)).filter(|index| *index != 0))
    }

    pub(super) fn number_of(&self, index: u32) -> Option<LinkNumber> {
        LinkNumber::all().find(|number| self.link(*number) == Some(index))
    }

    /// Gives a number to each of these links that is up, and takes those back of links that went.
    pub(super) fn follow<'a>(&self, links: impl Iterator<Item = &'a Link>) {
        let links: Vec<&Link> = links.filter(|link| link.framing == Framing::Bare).collect();
        for place in &self.0 {
            if !links.iter().any(|link| link.index == place.load(Ordering::Relaxed)) {
                place.store(0, Ordering::Relaxed);
            }
        }
        for link in links.iter().filter(|link| link.up && self.number_of(link.index).is_none()) {
            let free = self.0.iter().find(|place| place.load(Ordering::Relaxed) == 0);
            match free {
                Some(place) => place.store(link.index, Ordering::Relaxed),
                None => tracing::warn!(link = link.name, "what names this link is refused: {} like it are up", LinkNumber::COUNT),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn link(index: u32, framing: Framing, up: bool) -> Link {
        Link { index, name: format!("tun{index}"), mtu: 1500, up, loopback: false, framing, shared: false }
    }

    #[test]
    fn links_without_headers_that_are_up_have_numbers_and_keep_them() {
        let bare = BareLinks::default();
        let mut links = vec![link(2, Framing::Ethernet, true), link(3, Framing::Bare, true), link(4, Framing::Bare, false)];
        links.extend([link(5, Framing::Other, true), link(6, Framing::Bare, true)]);
        bare.follow(links.iter());
        let numbers = [2, 3, 4, 5, 6].map(|index| bare.number_of(index).map(LinkNumber::place));
        assert_eq!(numbers, [None, Some(0), None, None, Some(1)]);
        links.retain(|link| link.index != 3);
        links.iter_mut().for_each(|link| link.up = !link.up);
        bare.follow(links.iter());
        let numbers = [3, 4, 6].map(|index| bare.number_of(index).map(LinkNumber::place));
        assert_eq!(numbers, [None, Some(0), Some(1)]);
        assert_eq!(LinkNumber::all().map(|number| bare.link(number)).collect::<Vec<_>>(), bare.all());
    }

    #[test]
    fn there_are_no_more_numbers_than_can_be_told_apart() {
        let bare = BareLinks::default();
        let links: Vec<Link> = (2..12).map(|index| link(index, Framing::Bare, true)).collect();
        bare.follow(links.iter());
        assert!(bare.number_of(8).is_some() && bare.number_of(9).is_none());
        bare.follow(links.iter().skip(1));
        assert!(bare.number_of(9).is_some() && bare.number_of(10).is_none());
    }
}
