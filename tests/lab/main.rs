//! The lab: real programs, real servers, network namespaces. Needs root and what `scripts/prepare test` installs.

#[macro_use]
mod harness;

mod attribution;
mod behind;
mod bound;
mod control;
mod datagrams;
mod enclosed;
mod enclosure;
mod entries;
mod errors;
mod express;
mod faults;
mod groups;
mod killed;
mod last_words;
mod limits;
mod linked;
mod live;
mod loops;
mod mishaps;
mod named_tunnels;
mod names;
mod older;
mod programs;
mod queues;
mod raw;
mod refusal;
mod route;
mod scarce;
mod served;
mod sharing;
mod stalls;
mod transparency;
mod tunnels;
mod whole;
