//! Links, routes, rules, socket tables and the nftables guard: install, show, undo.
//!
//! Keeps one rule: whatever is installed here is written to the undo file first and taken back by its owner, and by
//! `cleanup` when the owner was killed; what others remove meanwhile is put back. Judges no packet.

mod bare;
mod beside;
mod crowded;
mod datagrams;
mod destroyed;
mod entered;
mod express;
mod foremost;
mod frames;
mod front;
mod guard;
mod host;
mod install;
mod linked;
mod live;
mod mark;
mod nft;
mod plan;
mod repair;
mod route_socket;
mod rule;
mod run_dir;
pub mod setup;
mod show;
mod sockdiag;
mod steer;
mod stranded;
mod translated;
mod undo;
mod watch;
mod ways;

pub use bare::BareLinks;
pub use beside::older;
pub use crowded::Conntrack;
pub use destroyed::{Destroyed, Gone};
pub use entered::Entry;
pub use frames::FRAMES;
pub use guard::{EXEMPTIONS, Exemption};
pub use host::{Framing, Host, Link};
pub use install::{Install, InstallError, Installed, Look};
pub use mark::{MASK, Mark, MarkError};
pub use nft::NftError;
pub use plan::{DEFAULT, Dns, Exclude, Failure, Plan, PlanFault};
pub use route_socket::{RequestError, RouteSocket};
pub use run_dir::{LeftBehind, left_behind};
pub use show::commands;
pub use sockdiag::{Carried, Conversation, PortUse, SocketTable};
pub use translated::Translations;
pub use undo::{Cleaned, CleanupError, cleanup};
pub use watch::Watcher;
pub use ways::{EVERYWHERE, Way};
