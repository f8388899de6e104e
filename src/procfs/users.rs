//! What the system says of a user: home directory, administrator or not, logged in or not.
//!
//! Keeps one rule: unknown is no. A user whom no file names is no administrator, has no session and no home.
//!
//! Reads the files themselves, not the name service: asking that would be network traffic of our own inside a decision.

use std::collections::HashMap;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::SystemTime;

/// Groups whose members administer the machine (DESIGN.md §4, `run_as`).
const ADMIN_GROUPS: [&str; 3] = ["sudo", "wheel", "admin"];
/// `struct utmp` on Linux with its 32-bit times (utmp(5)), the same on all 64-bit machines of glibc.
const UTMP_RECORD_LEN: usize = 384;
/// `USER_PROCESS` (utmp(5)).
const UTMP_USER_PROCESS: u16 = 7;

/// A user, as the files say.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct User {
    pub(super) name: String,
    pub(super) home: Option<PathBuf>,
    pub(super) is_admin: bool,
}

/// The user database, read again when its files change.
#[derive(Debug)]
pub(super) struct Users {
    etc: PathBuf,
    run: PathBuf,
    cached: Mutex<Cached>,
}

#[derive(Debug, Default)]
struct Cached {
    changed: [Option<SystemTime>; 2],
    users: HashMap<u32, User>,
}

impl Users {
    pub(super) fn new(etc: &Path, run: &Path) -> Self {
        Self { etc: etc.to_owned(), run: run.to_owned(), cached: Mutex::default() }
    }

    /// The user of a number; root is an administrator whatever the files say.
    pub(super) fn user(&self, uid: u32) -> User {
        let (passwd, group) = (self.etc.join("passwd"), self.etc.join("group"));
        let changed = [&passwd, &group].map(|path| std::fs::metadata(path).and_then(|file| file.modified()).ok());
        let mut cached = self.cached.lock().unwrap_or_else(PoisonError::into_inner);
        if cached.changed != changed || changed == [None, None] {
            let read = |path| std::fs::read(path).map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).unwrap_or_default();
            cached.users = parse(&read(&passwd), &read(&group));
            cached.changed = changed;
        }
        let mut user = cached.users.get(&uid).cloned().unwrap_or_default();
        user.is_admin |= uid == 0;
        user
    }

    /// True for a user with an active login session: logind says so, or, where there is no logind, utmp.
    pub(super) fn has_session(&self, uid: u32, name: &str) -> bool {
        let logind = self.run.join("systemd/users");
        if logind.is_dir() {
            let state = std::fs::read_to_string(logind.join(uid.to_string())).unwrap_or_default();
            return state.lines().any(|line| line == "STATE=active");
        }
        let records = std::fs::read(self.run.join("utmp")).unwrap_or_default();
        !name.is_empty() && logged_in(&records, name)
    }
}

fn parse(passwd: &str, group: &str) -> HashMap<u32, User> {
    let mut admin_gids = Vec::new();
    let mut admin_names = Vec::new();
    for line in group.lines() {
        let fields: Vec<&str> = line.split(':').collect();
        let [name, _, gid, members, ..] = fields.as_slice() else { continue };
        if ADMIN_GROUPS.contains(name) {
            admin_gids.extend(gid.parse::<u32>().ok());
            admin_names.extend(members.split(',').map(str::trim).filter(|name| !name.is_empty()));
        }
    }
    let mut users = HashMap::new();
    for line in passwd.lines() {
        let fields: Vec<&str> = line.split(':').collect();
        let [name, _, uid, gid, _, home, ..] = fields.as_slice() else { continue };
        let (Ok(uid), Ok(gid)) = (uid.parse::<u32>(), gid.parse::<u32>()) else { continue };
        let is_admin = admin_gids.contains(&gid) || admin_names.contains(name);
        let home = home.starts_with('/').then(|| PathBuf::from(home));
        // Two names for one number: the first is the user (getpwuid(3)), but either may administer.
        let user = users.entry(uid).or_insert_with(|| User { name: (*name).to_owned(), home, is_admin });
        user.is_admin |= is_admin;
    }
    users
}

fn logged_in(records: &[u8], name: &str) -> bool {
    records.chunks_exact(UTMP_RECORD_LEN).any(|record| {
        // ut_type at 0, ut_user at 44, 32 bytes padded with zeros.
        let kind = record.first_chunk().map(|bytes| u16::from_ne_bytes(*bytes));
        let user = record.get(44..76).and_then(|user| user.split(|byte| *byte == 0).next());
        kind == Some(UTMP_USER_PROCESS) && user == Some(Path::new(name).as_os_str().as_bytes())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const PASSWD: &str = "root:x:0:0:root:/root:/bin/sh\nann:x:1000:1000::/home/ann:/bin/sh\nbob:x:1001:27::/home/bob:/bin/sh\n\
                          carl:x:1002:1002::relative:/bin/sh\nbroken:x:y:z\nshort\nann2:x:1000:27:::\n";
    const GROUP: &str = "root:x:0:\nsudo:x:27:dora, eve\nusers:x:100:carl\nwheel:x\nadmin:x:70:\ndora:x:5:\n";

    #[test]
    fn administrators_are_those_of_the_groups_by_membership_or_as_their_own_group() {
        let users = parse(PASSWD, GROUP);
        assert!(users[&1001].is_admin, "primary group");
        assert!(!users[&1002].is_admin, "a member of users only");
        let users = parse("dora:x:9:9::/d:", GROUP);
        assert!(users[&9].is_admin, "listed");
    }

    #[test]
    fn second_name_of_a_number_keeps_the_first_name_but_can_add_administration() {
        let users = parse(PASSWD, GROUP);
        assert_eq!(users[&1000].name, "ann");
        assert_eq!(users[&1000].home.as_deref(), Some(Path::new("/home/ann")));
        assert!(users[&1000].is_admin);
    }

    #[test]
    fn home_that_is_no_absolute_path_is_no_home() {
        assert_eq!(parse(PASSWD, GROUP)[&1002].home, None);
    }

    #[test]
    fn files_are_read_again_after_a_change_and_their_absence_makes_nobody_but_root_an_administrator() {
        let dir = tempfile::tempdir().expect("a directory");
        let users = Users::new(dir.path(), dir.path());
        assert!(users.user(0).is_admin);
        assert_eq!(users.user(1000), User::default());
        std::fs::write(dir.path().join("passwd"), PASSWD).expect("written");
        std::fs::write(dir.path().join("group"), GROUP).expect("written");
        assert_eq!(users.user(1001).name, "bob");
    }

    #[test]
    fn only_an_active_session_of_logind_counts_where_logind_runs() {
        let dir = tempfile::tempdir().expect("a directory");
        let logind = dir.path().join("systemd/users");
        std::fs::create_dir_all(&logind).expect("made");
        std::fs::write(logind.join("1000"), "NAME=ann\nSTATE=active\n").expect("written");
        std::fs::write(logind.join("1001"), "NAME=bob\nSTATE=lingering\n").expect("written");
        let users = Users::new(dir.path(), dir.path());
        assert!(users.has_session(1000, "ann"));
        assert!(!users.has_session(1001, "bob"));
        assert!(!users.has_session(1002, "carl"));
    }

    #[test]
    fn utmp_counts_only_live_user_records_of_that_name() {
        let mut record = vec![0; UTMP_RECORD_LEN];
        record[..2].copy_from_slice(&7_u16.to_ne_bytes());
        record[44..47].copy_from_slice(b"ann");
        assert!(logged_in(&record, "ann"));
        assert!(!logged_in(&record, "an") && !logged_in(&record, "anna"));
        record[..2].copy_from_slice(&8_u16.to_ne_bytes());
        assert!(!logged_in(&record, "ann"), "a dead one");
        assert!(!logged_in(&record[..100], "ann"), "a cut one");
    }
}
