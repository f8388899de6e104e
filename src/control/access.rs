//! Who may ask what. The kernel's word on the peer decides; its program's path is never an authority.
//!
//! Keeps one rule: what is not known to be permitted is refused. The mode of the socket's file is the first wall, this is the
//! second. Groups are read from /etc/group and /etc/passwd, where the installation puts the group, and from the peer's /proc
//! entry; a directory service is not asked.

use std::fs;

/// The group whose members may read the state of a machine-wide router.
const GROUP: &str = "portreeve";

/// For whom a socket is made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// `up`: root and the daemon's own user change, the group portreeve reads.
    Machine,
    /// `exec`: root and the user who started it. Nobody from another PID namespace: the programs inside an enclosure run as that
    /// user too and must not answer their own prompts, and a PID namespace is what no process can leave
    /// (pid_namespaces(7)).
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
        self.right_by(peer, own_uid, reads_by_group, beside_us)
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
    let text = fs::read_to_string("/etc/group").unwrap_or_default();
    let Some(group) = find_group(&text) else { return false };
    let passwd = fs::read_to_string("/etc/passwd").unwrap_or_default();
    is_member(&group, &passwd, peer) || holds_group(&group, peer)
}

/// True when the peer's process holds the group without being its member, as a service with `SupplementaryGroups=` does.
fn holds_group(group: &Group<'_>, peer: Peer) -> bool {
    let Some(pid) = peer.pid else { return false };
    names_group(&fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default(), group.gid)
}

/// proc(5): `Groups:` lists the supplementary groups.
fn names_group(status: &str, gid: u32) -> bool {
    let groups = status.lines().find_map(|line| line.strip_prefix("Groups:"));
    groups.is_some_and(|groups| groups.split_whitespace().any(|number| number.parse() == Ok(gid)))
}

/// True when the peer lives in our own PID namespace. A peer that is gone or hidden is not beside us.
fn beside_us(peer: Peer) -> bool {
    let Some(pid) = peer.pid else { return false };
    let theirs = fs::read_to_string(format!("/proc/{pid}/status"));
    let ours = fs::read_to_string("/proc/self/status");
    matches!((theirs, ours), (Ok(theirs), Ok(ours)) if depth(&theirs).is_some() && depth(&theirs) == depth(&ours))
}

/// proc(5): `NSpid:` has one number for each PID namespace from that of this /proc down to the process's own. Whom we can see is in
/// ours or below it, so the same depth is the same namespace.
fn depth(status: &str) -> Option<usize> {
    status.lines().find_map(|line| line.strip_prefix("NSpid:")).map(|pids| pids.split_whitespace().count())
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
fn is_member(group: &Group<'_>, passwd: &str, peer: Peer) -> bool {
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
        let text = "root:x:0:\nportreeve:x:990:anna,ben\nportreeve2:x:991:carl\n";
        let group = find_group(text).expect("the group is there");
        let passwd =
            "root:x:0:0::/:/bin/sh\nanna:x:1000:1000::/:/bin/sh\ncarl:x:1002:1002::/:/bin/sh\ndora:x:1003:990::/:/bin/sh\n";
        assert!(is_member(&group, passwd, peer(1000)), "named in the group");
        assert!(is_member(&group, passwd, peer(1003)), "the group is dora's own");
        assert!(is_member(&group, passwd, Peer { uid: 1002, gid: 990, pid: None }), "runs under the group");
        assert!(!is_member(&group, passwd, peer(1002)), "another group whose name begins alike");
        assert!(!is_member(&group, passwd, peer(4000)), "unknown to passwd");
        let nobody = Group { gid: 990, members: "" };
        assert!(!is_member(&nobody, ":x:1000:1000::/:", peer(1000)), "an empty name is not in an empty list");
    }

    #[test]
    fn what_is_not_the_group_is_not_taken_for_it() {
        for text in ["", "portreeve", "portreeve:x:none:anna", "staff:x:990:anna", "xportreeve:x:990:anna"] {
            assert!(find_group(text).is_none(), "{text}");
        }
    }

    #[test]
    fn a_group_that_a_process_holds_is_read_as_a_whole_number() {
        let status = "Name:\tx\nUid:\t990\t990\t990\t990\nGroups:\t99 9900 1000 \n";
        assert!(!names_group(status, 990));
        assert!(names_group(status, 9900));
        assert!(!names_group("", 990));
    }

    #[test]
    fn this_process_is_beside_us_and_a_missing_one_is_not() {
        let pid = i32::try_from(std::process::id()).expect("PIDs stay below 2^22");
        assert!(beside_us(Peer { uid: 0, gid: 0, pid: Some(pid) }));
        assert!(!beside_us(Peer { uid: 0, gid: 0, pid: Some(i32::MAX) }));
        assert!(!beside_us(Peer { uid: 0, gid: 0, pid: None }));
    }

    #[test]
    fn a_process_in_a_namespace_below_has_more_pids() {
        assert_eq!(depth("Pid:\t7\nNSpid:\t7\nNSpgid:\t7\n"), Some(1));
        assert_eq!(depth("NSpid:\t7\t1\n"), Some(2));
        assert_eq!(depth("Pid:\t7\n"), None);
    }
}
