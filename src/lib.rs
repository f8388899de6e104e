//! Portreeve: an application firewall in the form of a transparent userspace TUN router.
//!
//! # The way of a packet
//!
//! 1. [`tun`] reads a batch; [`packet`] parses each packet once. What does not parse is a counted drop.
//! 2. [`flow`] finds the flow. Known, with a permit of this epoch: on to 6. New: the flow is pending and its packet parked.
//! 3. [`netlink`] asks the kernel's socket tables who owns the five-tuple, [`procfs`] turns the socket into an
//!    identity ("nobody" is an answer too).
//! 4. [`names`] says as which name this program learned the address.
//! 5. [`profile`] gives the layers in force for that identity, [`verdict`] walks its checks. Block: the program is told at
//!    once. Drop: a counter. Ask: the packet stays parked until the prompt is answered. Accept: a [`verdict::Permit`].
//! 6. TCP: [`egress`] connects the upstream socket first, only then [`stack`] gives the SYN-ACK, so refused, unreachable and
//!    timed out reach the program truthfully. UDP and ICMP echo: one upstream socket a flow. Replies walk back the same way.
//!    With `express = true` an accepted connection of `up` takes the express lane: its first packet is sent on, the kernel carries on the rest.
//! 7. A policy change bumps the epoch: open flows are judged again and cut if refused. Every end writes one [`flow::Record`].
//!
//! Packets to port 53 become questions for [`resolver`]; nothing is asked upstream before the verdict.
//!
//! How the user's words are met: an accepted TCP flow ends in a smoltcp socket of its own ([`stack`]), unless the express lane
//! has it; UDP and ICMP, which have no transport state, are parsed and built by smoltcp's `wire`.
//!
//! # The rooms
//!
//! Two floors; arrows never point up. The ground floor is pure: no clock, no IO, no `async`, no hash order. It builds with
//! `--no-default-features`; clippy's `disallowed_methods` and `tests/it/architecture.rs` guard it.
//!
//! | floor | room | holds |
//! |---|---|---|
//! | ground | [`packet`] | bytes ⇄ meaning, the five-tuple, RST and ICMP answers |
//! | | [`flow`] | flow table, lifecycle, limits, records |
//! | | [`names`] | domain names, patterns, sightings |
//! | | [`process`] | identity, fingerprints, framework |
//! | | [`profile`] | what was typed → what holds: layers, levels, flags, endpoint rules |
//! | | [`verdict`] | case → decision; the permit |
//! | | [`router`] | the machine that joins them |
//! | upper | [`tun`] | TUN device, offload |
//! | | [`stack`] | smoltcp behind one door |
//! | | [`egress`] | upstream sockets |
//! | | [`enclosure`] | `exec`'s namespaces |
//! | | [`netlink`] | links, routes, rules, socket tables, the nftables guard |
//! | | [`bpf`] | programs in the kernel that note who makes and closes sockets, and which one sends |
//! | | [`procfs`] | /proc and cgroups → identity |
//! | | [`resolver`] | DNS in and out |
//! | | [`store`] | profiles on disk |
//! | | [`control`] | the unix-socket API |
//! | | [`config`] | the configuration file, paths |
//! | | [`cli`] | verbs |
//! | top | [`app`] | start order, event loops, shutdown: the only room that sees all |
//!
//! Rule: `app → upper → router → flow → verdict → profile → process, names → packet`; a ground room names only rooms below it. An
//! upper room never names another upper room, with two exceptions: [`cli`], whose verbs are the others' doors, calls them and
//! [`app`]; and who sets up what carries the TUN may name it ([`enclosure`] → [`netlink`] → [`tun`]). `app` may name all.

pub mod flow;
pub mod names;
pub mod packet;
pub mod process;
pub mod profile;
pub mod router;
pub mod verdict;

#[cfg(feature = "edges")]
pub mod app;
#[cfg(feature = "edges")]
pub mod bpf;
#[cfg(feature = "edges")]
pub mod cli;
#[cfg(feature = "edges")]
pub mod config;
#[cfg(feature = "edges")]
pub mod control;
#[cfg(feature = "edges")]
pub mod egress;
#[cfg(feature = "edges")]
pub mod enclosure;
#[cfg(feature = "edges")]
pub mod netlink;
#[cfg(feature = "edges")]
pub mod procfs;
#[cfg(feature = "edges")]
pub mod resolver;
#[cfg(feature = "edges")]
pub mod stack;
#[cfg(feature = "edges")]
pub mod store;
#[cfg(feature = "edges")]
pub mod tun;
