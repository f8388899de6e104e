//! What the router counts, by cause.

use std::collections::BTreeMap;

use crate::packet::{Lost, Malformed};

/// A cause. Its name in `status --json` is [`Counter::name`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Counter {
    Malformed(Malformed),
    /// A packet in fragments that will never be whole.
    Fragments(Lost),
    /// Multicast reports, neighbour discovery and ICMP errors that the kernel sends by itself.
    Chatter,
    /// Protocols without ports that are not carried.
    OtherProtocol,
    /// A packet came after its flow, or all flows together, had parked all they may.
    ParkedOut,
    /// A new flow came when the table was full.
    FlowsOut,
    /// A new flow came when the places for flows that wait were taken.
    PendingOut,
    /// As the three before, for the share of one program.
    ProgramParkedOut,
    ProgramFlowsOut,
    ProgramPendingOut,
    /// What gave way to a new flow: one that was only remembered, an idle one, one that waited for its upstream socket.
    EvictedRefused,
    EvictedIdle,
    EvictedHalfOpen,
    /// A TCP segment of a flow that nobody knows.
    OlderFlow,
    /// A repeated SYN of a flow that is not open yet.
    Retransmit,
    /// A datagram of a flow that was refused before.
    RefusedAgain,
    /// The resolver, the attribution or the control side could not keep up.
    HandOverFull,
    /// A first packet of a new flow for which there was no place to wait beside others.
    RushOut,
    /// A packet for the program that the TUN did not take.
    TunFull,
    /// Datagrams that an upstream socket had no room for.
    UpstreamFull,
    /// A flow for which there was no port, descriptor or memory.
    Exhausted,
    /// A datagram from an address that the program did not write to and may not.
    Stranger,
    /// A fault of our own, which ended a flow.
    Fault,
    Accepted,
    Blocked,
    Dropped,
    Asked,
}

impl Counter {
    /// Every counter, in the order of its name's first use.
    pub fn all() -> impl Iterator<Item = Self> {
        let others = [
            Self::Chatter,
            Self::OtherProtocol,
            Self::ParkedOut,
            Self::FlowsOut,
            Self::PendingOut,
            Self::ProgramParkedOut,
            Self::ProgramFlowsOut,
            Self::ProgramPendingOut,
            Self::EvictedRefused,
            Self::EvictedIdle,
            Self::EvictedHalfOpen,
            Self::OlderFlow,
            Self::Retransmit,
            Self::RefusedAgain,
            Self::HandOverFull,
            Self::RushOut,
            Self::TunFull,
            Self::UpstreamFull,
            Self::Exhausted,
            Self::Stranger,
            Self::Fault,
            Self::Accepted,
            Self::Blocked,
            Self::Dropped,
            Self::Asked,
        ];
        let fragments = Lost::ALL.into_iter().map(Self::Fragments);
        Malformed::ALL.into_iter().map(Self::Malformed).chain(fragments).chain(others)
    }

    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Malformed(Malformed::Truncated) => "malformed_truncated",
            Self::Malformed(Malformed::Version) => "malformed_version",
            Self::Malformed(Malformed::Checksum) => "malformed_checksum",
            Self::Malformed(Malformed::Address) => "malformed_address",
            Self::Malformed(Malformed::PortZero) => "malformed_port_zero",
            Self::Malformed(Malformed::Flags) => "malformed_flags",
            Self::Malformed(Malformed::SourceRoute) => "malformed_source_route",
            Self::Malformed(Malformed::HeaderChain) => "malformed_header_chain",
            Self::Malformed(Malformed::Fragment) => "malformed_fragment",
            Self::Fragments(Lost::Malformed) => "fragments_malformed",
            Self::Fragments(Lost::Overlap) => "fragments_overlap",
            Self::Fragments(Lost::TooLarge) => "fragments_too_large",
            Self::Fragments(Lost::Expired) => "fragments_expired",
            Self::Fragments(Lost::Evicted) => "fragments_evicted",
            Self::Chatter => "kernel_chatter",
            Self::OtherProtocol => "other_protocol",
            Self::ParkedOut => "parked_out",
            Self::FlowsOut => "flows_out",
            Self::PendingOut => "pending_out",
            Self::ProgramParkedOut => "program_parked_out",
            Self::ProgramFlowsOut => "program_flows_out",
            Self::ProgramPendingOut => "program_pending_out",
            Self::EvictedRefused => "evicted_refused",
            Self::EvictedIdle => "evicted_idle",
            Self::EvictedHalfOpen => "evicted_half_open",
            Self::OlderFlow => "older_flow",
            Self::Retransmit => "retransmit",
            Self::RefusedAgain => "refused_again",
            Self::HandOverFull => "hand_over_full",
            Self::RushOut => "rush_out",
            Self::TunFull => "tun_full",
            Self::UpstreamFull => "upstream_full",
            Self::Exhausted => "exhausted",
            Self::Stranger => "stranger",
            Self::Fault => "fault",
            Self::Accepted => "accepted",
            Self::Blocked => "blocked",
            Self::Dropped => "dropped",
            Self::Asked => "asked",
        }
    }
}

/// All counters of one router.
#[derive(Clone, Debug, Default)]
pub struct Counters(BTreeMap<Counter, u64>);

impl Counters {
    pub(super) fn add(&mut self, counter: Counter) {
        *self.0.entry(counter).or_default() += 1;
    }

    #[must_use]
    pub fn value(&self, counter: Counter) -> u64 {
        self.0.get(&counter).copied().unwrap_or(0)
    }

    /// Every counter with its name, zeros included.
    #[must_use]
    pub fn named(&self) -> BTreeMap<String, u64> {
        Counter::all().map(|counter| (counter.name().to_owned(), self.value(counter))).collect()
    }
}
