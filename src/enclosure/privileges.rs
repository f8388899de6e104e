//! Which namespaces a caller needs, whom its user namespace maps, and what the command loses.
//!
//! Keeps one rule: whoever is root over all ids keeps them as they are and needs no user namespace; whoever is not gets one in
//! which each id is itself. The command never holds NET_ADMIN or SYS_ADMIN, by no way that exec knows: it could change the TUN or
//! leave.

use std::fs;
use std::io;

use rustix::process::{Pid, getegid, geteuid};
use rustix::thread::{CapabilitySet, capabilities, remove_capability_from_bounding_set, set_capabilities, set_no_new_privs};

/// What the command must not have.
const FORBIDDEN: [CapabilitySet; 2] = [CapabilitySet::NET_ADMIN, CapabilitySet::SYS_ADMIN];

/// The id map of the first user namespace: every id is itself (user_namespaces(7)).
const FULL_MAP: [&str; 3] = ["0", "0", "4294967295"];

/// How the caller stands towards the namespaces that it wants to make.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Standing {
    /// Root over all ids: network, mount and pid namespace are enough.
    Root,
    /// Root over some ids, in a user namespace or without SYS_ADMIN: a user namespace that maps each of them to itself.
    SomeIds,
    /// An ordinary user: a user namespace that maps the own uid and gid to themselves.
    Ordinary,
}

impl Standing {
    pub(super) fn look() -> io::Result<Self> {
        let held = capabilities(None)?.effective;
        let mapper = CapabilitySet::SETUID | CapabilitySet::SETGID;
        let full = fs::read_to_string("/proc/self/uid_map").is_ok_and(|map| map.split_whitespace().eq(FULL_MAP));
        Ok(match geteuid().is_root() {
            true if full && held.contains(CapabilitySet::SYS_ADMIN) => Self::Root,
            true if held.contains(mapper) => Self::SomeIds,
            true | false => Self::Ordinary,
        })
    }

    pub(super) fn wants_user_namespace(self) -> bool {
        self != Self::Root
    }

    /// Whether root's files show as nobody's inside, and so are none of root's for a program that asks.
    pub(super) fn hides_root(self) -> bool {
        self == Self::Ordinary && !geteuid().is_root()
    }
}

/// Writes the id maps of a child that was cloned into a user namespace. Called by its creator, whose rights count here.
pub(super) fn write_maps(standing: Standing, child: Pid) -> io::Result<()> {
    let dir = format!("/proc/{}", child.as_raw_nonzero());
    match standing {
        Standing::Root => Ok(()),
        Standing::SomeIds => {
            fs::write(format!("{dir}/gid_map"), identity(&fs::read_to_string("/proc/self/gid_map")?))?;
            fs::write(format!("{dir}/uid_map"), identity(&fs::read_to_string("/proc/self/uid_map")?))
        }
        Standing::Ordinary => {
            // user_namespaces(7): without CAP_SETGID the gid map is taken only after setgroups is denied.
            fs::write(format!("{dir}/setgroups"), "deny")?;
            fs::write(format!("{dir}/gid_map"), format!("{0} {0} 1", getegid().as_raw()))?;
            fs::write(format!("{dir}/uid_map"), format!("{0} {0} 1", geteuid().as_raw()))
        }
    }
}

/// Turns our own map into one that maps each id that we have to itself.
fn identity(map: &str) -> String {
    let mut text = String::new();
    for line in map.lines() {
        let mut fields = line.split_whitespace();
        if let (Some(inside), Some(_), Some(count)) = (fields.next(), fields.next(), fields.next()) {
            text.push_str(&format!("{inside} {inside} {count}\n"));
        }
    }
    text
}

/// Takes [`FORBIDDEN`] away from this thread and all that it will start, and the way back by setuid programs.
pub(super) fn drop_forbidden() -> io::Result<()> {
    set_no_new_privs(true)?;
    let mut sets = capabilities(None)?;
    for capability in FORBIDDEN {
        // Where the caller's own bounding set lacks it, there is nothing to take.
        if rustix::thread::capability_is_in_bounding_set(capability)? {
            remove_capability_from_bounding_set(capability)?;
        }
        // Root's exec adds the inheritable set to the bounded one (capabilities(7)), so it goes from there too.
        sets.effective.remove(capability);
        sets.permitted.remove(capability);
        sets.inheritable.remove(capability);
    }
    Ok(set_capabilities(None, sets)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_own_map_becomes_one_of_each_id_to_itself() {
        assert_eq!(identity("         0       1000          1\n         1     100000      65536\n"), "0 0 1\n1 1 65536\n");
        assert_eq!(identity("         0          0 4294967295\n"), "0 0 4294967295\n");
        assert_eq!(identity(""), "");
    }

    #[test]
    fn only_root_over_all_ids_goes_without_a_user_namespace() {
        assert!(!Standing::Root.wants_user_namespace());
        assert!(Standing::SomeIds.wants_user_namespace() && Standing::Ordinary.wants_user_namespace());
    }
}
