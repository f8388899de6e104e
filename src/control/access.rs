//! Who may ask what. The kernel's word on the peer decides; its program's path is never an authority.
//!
//! Keeps one rule: what is not known to be permitted is refused. Groups are read from /etc/group and /etc/passwd, where the
//! installation puts the group; a directory service is not asked.

use std::fs;
use std::os::unix::fs::MetadataExt;

/// The group whose members may read the state of a machine-wide router.
const GROUP: &str = "portreeve";

/// For whom a socket is made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// `up`: root and the daemon's own user change, the group portreeve reads.
    Machine,
    /// `exec`: root and the user who started it. Nobody from another network namespace, since the programs inside an enclosure
    /// run as that user too and must not answer their own prompts.
    Own,
}

/// What a peer may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Right {
    Nothing,
    Read,
    Change,
}

/// The other end of a connection, as the kernel names it at the time of `connect`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Peer {
    pub(super) uid: u32,
    pub(super) gid: u32,
    /// None when the peer is not visible in our PID namespace.
    pub(super) pid: Option<i32>,
}

impl Access {
    pub(super) fn right(self, peer: Peer) -> Right {
        let own_uid = rustix::process::geteuid().as_raw();
        self.right_by(peer, own_uid, reads_by_group, in_our_network)
    }

    fn right_by(self, peer: Peer, own_uid: u32, by_group: impl Fn(Peer) -> bool, near: impl Fn(Peer) -> bool) -> Right {
        let is_owner = peer.uid == 0 || peer.uid == own_uid;
        match self {
            Self::Own if is_owner && near(peer) => Right::Change,
            Self::Own => Right::Nothing,
            Self::Machine if is_owner => Right::Change,
            Self::Machine if by_group(peer) => Right::Read,
            Self::Machine => Right::Nothing,
        }
    }
}

/// The number of the group portreeve, if this machine has it.
pub(super) fn group_gid() -> Option<u32> {
    find_group(&fs::read_to_string("/etc/group").ok()?).map(|group| group.gid)
}

fn reads_by_group(peer: Peer) -> bool {
    let group = fs::read_to_string("/etc/group").unwrap_or_default();
    let passwd = fs::read_to_string("/etc/passwd").unwrap_or_default();
    is_member(&group, &passwd, peer)
}

/// True when the peer's /proc entry shows our own network namespace. A peer that is gone or hidden is not near.
fn in_our_network(peer: Peer) -> bool {
    let Some(pid) = peer.pid else { return false };
    let theirs = fs::metadata(format!("/proc/{pid}/ns/net"));
    let ours = fs::metadata("/proc/self/ns/net");
    matches!((theirs, ours), (Ok(theirs), Ok(ours)) if (theirs.dev(), theirs.ino()) == (ours.dev(), ours.ino()))
}

struct Group<'a> {
    gid: u32,
    members: &'a str,
}

/// group(5): `name:password:GID:member,member`.
fn find_group(text: &str) -> Option<Group<'_>> {
    text.lines().find_map(|line| {
        let mut fields = line.split(':');
        let (name, _, gid) = (fields.next()?, fields.next()?, fields.next()?);
        (name == GROUP).then_some(())?;
        Some(Group { gid: gid.parse().ok()?, members: fields.next().unwrap_or_default() })
    })
}

/// passwd(5): `name:password:UID:GID:…`.
fn is_member(group: &str, passwd: &str, peer: Peer) -> bool {
    let Some(group) = find_group(group) else { return false };
    peer.gid == group.gid
        || passwd.lines().any(|line| {
            let mut fields = line.split(':');
            let (Some(name), _, Some(uid), Some(gid)) = (fields.next(), fields.next(), fields.next(), fields.next()) else {
                return false;
            };
            uid.parse() == Ok(peer.uid)
                && (gid.parse() == Ok(group.gid) || group.members.split(',').any(|member| !member.is_empty() && member == name))
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    const OWN: u32 = 1000;

    fn peer(uid: u32) -> Peer {
        Peer { uid, gid: uid, pid: Some(1) }
    }

    #[test]
    fn rights_follow_the_table() {
        for (access, uid, by_group, near, right) in [
            (Access::Machine, 0, false, false, Right::Change),
            (Access::Machine, OWN, false, false, Right::Change),
            (Access::Machine, 1001, true, true, Right::Read),
            (Access::Machine, 1001, false, true, Right::Nothing),
            (Access::Own, 0, false, true, Right::Change),
            (Access::Own, OWN, false, true, Right::Change),
            (Access::Own, OWN, true, false, Right::Nothing),
            (Access::Own, 0, true, false, Right::Nothing),
            (Access::Own, 1001, true, true, Right::Nothing),
        ] {
            let found = access.right_by(peer(uid), OWN, |_| by_group, |_| near);
            assert_eq!(found, right, "{access:?} uid {uid} group {by_group} near {near}");
        }
    }

    #[test]
    fn members_are_found_by_name_and_by_primary_group() {
        let group = "root:x:0:\nportreeve:x:990:anna,ben\nportreeve2:x:991:carl\n";
        let passwd =
            "root:x:0:0::/:/bin/sh\nanna:x:1000:1000::/:/bin/sh\ncarl:x:1002:1002::/:/bin/sh\ndora:x:1003:990::/:/bin/sh\n";
        assert!(is_member(group, passwd, peer(1000)), "named in the group");
        assert!(is_member(group, passwd, peer(1003)), "the group is dora's own");
        assert!(is_member(group, passwd, Peer { uid: 1002, gid: 990, pid: None }), "runs under the group");
        assert!(!is_member(group, passwd, peer(1002)), "another group whose name begins alike");
        assert!(!is_member(group, passwd, peer(4000)), "unknown to passwd");
    }

    #[test]
    fn without_the_group_nobody_is_a_member() {
        for group in ["", "portreeve", "portreeve:x:none:anna", "staff:x:990:anna"] {
            assert!(!is_member(group, "anna:x:1000:990::/:/bin/sh", peer(1000)), "{group}");
        }
        assert!(!is_member("portreeve:x:990:\n", ":x:1000:1000::/:", peer(1000)), "an empty name is not in an empty list");
    }

    #[test]
    fn this_process_is_near_and_a_missing_one_is_not() {
        let pid = i32::try_from(std::process::id()).expect("PIDs stay below 2^22");
        assert!(in_our_network(Peer { uid: 0, gid: 0, pid: Some(pid) }));
        assert!(!in_our_network(Peer { uid: 0, gid: 0, pid: Some(i32::MAX) }));
        assert!(!in_our_network(Peer { uid: 0, gid: 0, pid: None }));
    }
}
