//! What `status` must know of the device and the routes while they are kept as they should be.
//!
//! Keeps one rule: what could not be put right is in the log once, and stands in `status` as long as it is so.

use std::sync::Mutex;
use std::sync::atomic::{AtomicU32, Ordering};

use super::shared::locked;
use crate::netlink::{InstallError, Installed};

/// What changes of the device and the routes while a router runs.
#[derive(Debug, Default)]
pub(super) struct Upkeep {
    mtu: AtomicU32,
    /// Why routes and guard are not as they should be.
    trouble: Mutex<Option<String>>,
}

impl Upkeep {
    pub(super) fn new(mtu: u32) -> Self {
        Self { mtu: mtu.into(), trouble: Mutex::default() }
    }

    /// The device has another MTU.
    pub(super) fn note_mtu(&self, mtu: u32) {
        self.mtu.store(mtu, Ordering::Relaxed);
    }

    /// The device's MTU, which follows the uplinks'.
    pub(super) fn mtu(&self) -> u32 {
        self.mtu.load(Ordering::Relaxed)
    }

    /// What a person must know.
    pub(super) fn note(&self) -> Option<String> {
        let trouble = locked(&self.trouble).clone()?;
        Some(format!("routes and guard are not as they should be, which is tried again and again: {trouble}"))
    }

    /// Puts right what is not as it should be: `all`, or only that of which the kernel sends no event.
    pub(super) fn repair(&self, installed: &mut Installed, all: bool) -> Result<(), InstallError> {
        let repaired =
            if all || installed.has_lost_its_tables() { installed.repair() } else { installed.repair_settings().map(|()| false) };
        self.note_mtu(installed.mtu());
        if let Ok(true) = repaired {
            tracing::info!("the guard was put right after a change of links or tables");
        }
        self.tell(repaired.as_ref().err().map(ToString::to_string));
        repaired.map(|_| ())
    }

    fn tell(&self, trouble: Option<String>) {
        let mut known = locked(&self.trouble);
        match (&*known, &trouble) {
            (Some(before), Some(now)) if before == now => {}
            (_, Some(error)) => tracing::warn!(%error, "routes and guard could not be put right; this is tried again"),
            (Some(_), None) => tracing::info!("routes and guard are right again"),
            (None, None) => {}
        }
        *known = trouble;
    }
}
