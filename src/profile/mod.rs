//! What was typed → what holds: profile files, layers, levels, flags and endpoint rules.
//!
//! Keeps one rule: a `Profile` exists only after every key of its file was understood; a bad file never widens what is allowed.
#![deny(clippy::disallowed_methods)]

mod document;
mod entity;
mod fault;
mod features;
mod geo;
mod index;
mod keys;
mod label_file;
mod labels;
mod level;
mod lint;
mod list;
mod policy;
mod read;
mod rule;
mod scope;
mod settings;
mod source;
mod tail;
mod transport;
mod view;

pub use document::{Document, Placed, Table};
pub use entity::{Continent, Country, Entity, EntityError};
pub use fault::{Fault, Faults, nearest};
pub use features::{Engine, FEATURES, Feature, MULTICAST_DNS_REFUSED, PLAIN_DNS_REFUSED, STUN_REFUSED, features_table};
pub use geo::{Geo, NoGeo};
pub use keys::{KEYS, Key};
pub use labels::{Label, Labels};
pub use level::{Level, LevelError, Levels, PerLevel};
pub use lint::lints;
pub use list::{Found, Hit, Peer, RuleList, Search, World, hit};
pub use policy::{File, Kind, Policy, Setup, SetupError, Subject};
pub use read::read_profile;
pub use rule::{Rule, RuleError, RuleVerdict};
pub use scope::{Scope, embedded};
pub use settings::{Expect, Flag, Mode, PerFlag, Profile, RunAs};
pub use source::{Held, Layer, Source};
pub use transport::{Fit, Transport, TransportError};
pub use view::{Layers, Restrictions, Switch, View};
