//! Where an address is registered. The data comes from outside.

use std::fmt;
use std::net::IpAddr;

use super::entity::{Continent, Country};

/// Answers from registry data. `None` means: no data, and a rule that needs it is then a match error.
pub trait Geo: fmt::Debug + Send + Sync {
    fn country(&self, address: IpAddr) -> Option<Country>;
    fn continent(&self, address: IpAddr) -> Option<Continent>;
    fn asn(&self, address: IpAddr) -> Option<u32>;
}

/// Knows nothing.
#[derive(Clone, Copy, Debug, Default)]
pub struct NoGeo;

impl Geo for NoGeo {
    fn country(&self, _: IpAddr) -> Option<Country> {
        None
    }

    fn continent(&self, _: IpAddr) -> Option<Continent> {
        None
    }

    fn asn(&self, _: IpAddr) -> Option<u32> {
        None
    }
}
