//! All that a decision may look at.

use std::net::IpAddr;

use crate::names::{Name, Sighting};
use crate::packet::{Direction, Protocol};
use crate::profile::{Level, Subject};

/// What a person answered to a prompt for this program and target.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    Allow,
    Deny,
}

/// A flow or a DNS question of one program.
#[derive(Clone, Debug)]
pub struct Case<'a> {
    pub subject: &'a Subject,
    /// The system's level; the program's own minimum is applied by the decision.
    pub level: Level,
    pub target: Target<'a>,
    /// A standing answer; it can only turn an Ask into Accept or Block.
    pub answer: Option<Answer>,
}

/// What the program wants to reach, or who wants to reach it.
#[derive(Clone, Copy, Debug)]
pub enum Target<'a> {
    Flow {
        direction: Direction,
        protocol: Protocol,
        remote: IpAddr,
        /// The destination's port: remote for outbound, local for inbound. None for protocols without ports.
        port: Option<u16>,
        /// Live names of `remote` for this program, newest last. Several: the most restrictive verdict holds.
        names: &'a [Sighting],
        /// The peer is this host (one of its own addresses).
        peer_is_this_host: bool,
    },
    Question {
        name: &'a Name,
        qtype: u16,
    },
}
