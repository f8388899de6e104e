//! How the packet loops come to be: one for each queue, each with its share of what there is only so much of.

use std::collections::BTreeSet;
use std::io;
use std::net::IpAddr;
use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::sync::mpsc::Receiver;
use std::time::{Duration, Instant};

use mio::unix::SourceFd;
use mio::{Interest, Poll, Waker};

use super::datagrams::Datagrams;
use super::express::Express;
use super::held::Held;
use super::inbox::Handle;
use super::linked::Links;
use super::newcomers::Newcomers;
use super::patience::Patience;
use super::rush::Turn;
use super::telling::Told;
use super::{Attributor, Handles, INBOX, Jobs, Lanes, Message, PACKET_MAX, Shard, TUN};
use crate::app::dns::{Datagram, Stream};
use crate::app::older;
use crate::app::shared::Shared;
use crate::egress::{self, Dialer};
use crate::flow::Numbers;
use crate::netlink::BareLinks;
use crate::router::{Config, Input, Router, Rules};
use crate::stack::Stack;
use crate::tun::Queue;

/// So long after the start a segment of an unknown flow is taken for one of an older flow.
const OLDER: Duration = Duration::from_secs(60);

/// What every loop is made from.
#[derive(Clone)]
pub(in crate::app) struct Parts {
    /// Programs had flows before us, whose segments come now.
    pub(in crate::app) takes_over: bool,
    pub(in crate::app) config: Config,
    pub(in crate::app) dialer: Dialer,
    /// The kernel alone carries accepted connections on.
    pub(in crate::app) express: Option<Arc<egress::Express>>,
    pub(in crate::app) attributor: Arc<Attributor>,
    pub(in crate::app) jobs: Jobs,
    pub(in crate::app) dns: tokio::sync::mpsc::Sender<Datagram>,
    pub(in crate::app) streams: tokio::sync::mpsc::Sender<Stream>,
    pub(in crate::app) own_addresses: Vec<IpAddr>,
    /// What programs have that leave their address to the kernel; none: those of the host.
    pub(in crate::app) device_addresses: Arc<[IpAddr]>,
    pub(in crate::app) bare_links: Arc<BareLinks>,
    /// Who knows the flows that are older; None: there can be none.
    pub(in crate::app) older: Option<older::Handle>,
}

/// Without the express lane connections go through the router's own stack.
pub(in crate::app) fn tolerated<T>(express: io::Result<T>) -> Option<T> {
    express.inspect_err(|error| tracing::warn!("this kernel has no express lane, TCP goes through the router: {error}")).ok()
}

/// Where a loop waits, and how it is reached.
struct Door {
    poll: Poll,
    inbox: Receiver<Message>,
    handle: Handle,
}

impl Door {
    fn new() -> io::Result<Self> {
        let poll = Poll::new()?;
        let (sender, inbox) = std::sync::mpsc::sync_channel(4096);
        let handle = Handle { inbox: sender, waker: Arc::new(Waker::new(poll.registry(), INBOX)?), turns: Arc::default() };
        Ok(Self { poll, inbox, handle })
    }
}

impl Shard {
    /// Makes the loops and the way to them.
    pub(in crate::app) fn several(queues: Vec<Queue>, parts: &Parts, shared: &Arc<Shared>) -> io::Result<(Vec<Self>, Handles)> {
        let doors = queues.iter().map(|_| Door::new()).collect::<io::Result<Vec<Door>>>()?;
        let handles = Handles::new(doors.iter().map(|door| door.handle.clone()).collect());
        let count = doors.len();
        let make = |(index, (tun, door)): (usize, (Queue, Door))| {
            let config = Config {
                max_flows: parts.config.max_flows / count,
                max_parked: parts.config.max_parked / count,
                max_pending: parts.config.max_pending / count,
                numbers: Numbers::of_shard(index, count),
                ..parts.config.clone()
            };
            Self::new((index, handles.clone()), (tun, door), Parts { config, ..parts.clone() }, shared.clone())
        };
        let shards = queues.into_iter().zip(doors).enumerate().map(make).collect::<io::Result<_>>()?;
        Ok((shards, handles))
    }

    fn new((index, others): (usize, Handles), (tun, door): (Queue, Door), parts: Parts, shared: Arc<Shared>) -> io::Result<Self> {
        let Parts { takes_over, config, dialer, express, attributor, jobs, dns, streams, .. } = parts;
        let Parts { own_addresses, device_addresses, bare_links, older, .. } = parts;
        let Door { poll, inbox, handle } = door;
        poll.registry().register(&mut SourceFd(&tun.as_raw_fd()), TUN, Interest::READABLE)?;
        let express = express.and_then(|way| tolerated(Express::new(way, &poll)));
        let now = Instant::now();
        let seed = config.seed;
        let rules = Rules::clone(&shared.rules());
        let mut router = Router::new(config, rules);
        router.handle(Input::Addresses(own_addresses.clone()), now);
        Ok(Self {
            index,
            others,
            shared,
            poll,
            inbox,
            inbox_waits: false,
            turns: handle.turns,
            tun,
            tun_ready: true,
            gone_ready: false,
            express,
            router,
            stack: Stack::new(seed.rotate_left(32), now),
            lanes: Lanes::default(),
            dialer,
            attributor,
            jobs,
            dns,
            streams,
            own_addresses,
            device_addresses,
            bare_links,
            older,
            dirty: Vec::new(),
            later: BTreeSet::new(),
            unidentified: Vec::new(),
            patience: Patience::default(),
            buffer: vec![0; PACKET_MAX].into_boxed_slice(),
            held: Held::default(),
            out: Vec::with_capacity(PACKET_MAX),
            came_by: None,
            links: Links::default(),
            datagrams: Datagrams::default(),
            newcomers: Newcomers::default(),
            turn: Turn::default(),
            told: Told::default(),
            older_until: if takes_over { now + OLDER } else { now },
            stop_at: None,
            clock_seen: now,
        })
    }
}
