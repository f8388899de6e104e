//! The checks, each a function of what it is given.

use std::fs::{self, OpenOptions};
use std::io::ErrorKind;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use rustix::process::Rlimit;

use super::Finding;
use crate::bpf::Without;
use crate::netlink::Conntrack;

/// Reads a sysctl by its path below /proc/sys.
type Sysctl<'a> = &'a dyn Fn(&str) -> Option<String>;

/// Each TCP flow costs one descriptor, each `exec` a few dozen.
const FEW_DESCRIPTORS: u64 = 4096;

/// capability.h: CAP_NET_ADMIN, CAP_SYS_PTRACE.
const CAP_NET_ADMIN: u32 = 12;
const CAP_SYS_PTRACE: u32 = 19;

/// `IFF_VNET_HDR` with `TUN_F_USO4` came with Linux 6.2; SOCK_DESTROY, user namespaces and nft's owner flag are older.
const KERNEL: (u32, u32) = (6, 2);

pub(super) fn kernel(release: &str) -> Finding {
    let mut numbers = release.split(|c: char| !c.is_ascii_digit()).map(|part| part.parse().unwrap_or(0));
    let version: (u32, u32) = (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0));
    let found = format!("Linux {release}");
    if version >= KERNEL {
        Finding::good("kernel", found)
    } else {
        Finding::note("kernel", found, "6.2 or newer carries large UDP packets whole; older ones are slower")
    }
}

pub(super) fn tun_node(path: &Path) -> Finding {
    let name = path.display();
    let make = "load the kernel module tun (`modprobe tun`) or make the node (`mknod /dev/net/tun c 10 200`)";
    let meta = match fs::metadata(path) {
        Ok(meta) if meta.file_type().is_char_device() => meta,
        Ok(_) => return Finding::missing("tun", format!("{name} is no device"), make),
        Err(_) => return Finding::missing("tun", format!("{name} does not exist"), make),
    };
    // Opening the node makes no device yet; that takes TUNSETIFF.
    match OpenOptions::new().read(true).write(true).open(path) {
        Ok(_) if meta.permissions().mode() & 0o666 == 0o666 => Finding::good("tun", format!("{name} can be opened by everybody")),
        Ok(_) => Finding::note(
            "tun",
            format!("{name} is mode {:04o} and open to you", meta.mode() & 0o7777),
            "0666 is usual and lets every user run `exec`: chmod 0666 /dev/net/tun",
        ),
        Err(error) if error.kind() == ErrorKind::PermissionDenied => Finding::missing(
            "tun",
            format!("{name} is mode {:04o} and closed to you", meta.mode() & 0o7777),
            "0666 is usual: chmod 0666 /dev/net/tun",
        ),
        Err(error) => Finding::missing("tun", format!("{name} cannot be opened: {error}"), make),
    }
}

/// Root makes its namespaces without a user namespace.
pub(super) fn user_namespaces(is_root: bool, sysctl: Sysctl<'_>) -> Finding {
    let off = [
        ("user/max_user_namespaces", "0", "sysctl user.max_user_namespaces=15000"),
        ("kernel/unprivileged_userns_clone", "0", "sysctl kernel.unprivileged_userns_clone=1"),
        ("kernel/apparmor_restrict_unprivileged_userns", "1", "sysctl kernel.apparmor_restrict_unprivileged_userns=0"),
    ];
    let check = "user namespaces";
    match off.iter().find(|(name, value, _)| sysctl(name).as_deref() == Some(value)) {
        None => Finding::good(check, "ordinary users may make them"),
        Some((name, value, remedy)) => {
            let found = format!("{} is {value}", name.replace('/', "."));
            if is_root {
                Finding::note(check, found, format!("`exec` works for root alone; for others: {remedy}"))
            } else {
                Finding::missing(check, found, format!("`exec` needs them: {remedy}"))
            }
        }
    }
}

pub(super) fn network_namespaces(sysctl: Sysctl<'_>) -> Finding {
    let check = "network namespaces";
    match sysctl("user/max_net_namespaces").as_deref() {
        Some("0") => {
            Finding::missing(check, "user.max_net_namespaces is 0", "`exec` needs one: sysctl user.max_net_namespaces=15000")
        }
        Some(_) => Finding::good(check, "this kernel has them"),
        None => Finding::missing(check, "this kernel has none", "`exec` needs a kernel with CONFIG_NET_NS"),
    }
}

/// Reads the effective capabilities in the text of /proc/self/status (proc(5)).
pub(super) fn privilege(status: &str) -> Finding {
    let effective =
        status.lines().find_map(|line| line.strip_prefix("CapEff:")).and_then(|hex| u64::from_str_radix(hex.trim(), 16).ok());
    let has = |bit| effective.is_some_and(|set| set >> bit & 1 == 1);
    match (has(CAP_NET_ADMIN), has(CAP_SYS_PTRACE)) {
        (true, true) => Finding::good("privilege", "CAP_NET_ADMIN is here: `up` may be run"),
        (true, false) => Finding::note(
            "privilege",
            "CAP_SYS_PTRACE is not here",
            "under `up` every program would be nobody; give CAP_SYS_PTRACE to whatever starts it",
        ),
        (false, _) => {
            Finding::note("privilege", "CAP_NET_ADMIN is not here", "`exec` works without; run `up` and `down` as root")
        }
    }
}

/// What the kernel's notes of closed sockets are good for, or why there are none.
pub(super) fn closed_sockets(probed: Result<bool, Without>) -> Finding {
    let check = "closed sockets";
    match probed {
        Ok(true) => Finding::good(check, "the kernel notes who closes UDP and raw sockets, and what makes those of UDP"),
        Ok(false) => Finding::note(
            check,
            "the kernel notes who closes UDP and raw sockets, but its types are not described (/sys/kernel/btf/vmlinux), or otherwise than known",
            "a datagram of a process that ends with it (logger -n) is nobody's",
        ),
        Err(reason) => {
            let means = "a UDP socket that is closed with its first datagram is nobody's, and so is what raw sockets send";
            Finding::note(check, reason.to_string(), means)
        }
    }
}

pub(super) fn program(name: &'static str, path: &[PathBuf], remedy: &str) -> Finding {
    let executable =
        |file: &PathBuf| fs::metadata(file).is_ok_and(|meta| meta.is_file() && meta.permissions().mode() & 0o111 != 0);
    match path.iter().map(|dir| dir.join(name)).find(executable) {
        Some(file) => Finding::good(name, file.display().to_string()),
        None => Finding::note(name, format!("the program {name} is not on the PATH"), remedy),
    }
}

pub(super) fn ipv6(sysctl: Sysctl<'_>) -> Finding {
    match sysctl("net/ipv6/conf/all/disable_ipv6").as_deref() {
        Some("0") => Finding::good("IPv6", "is on"),
        Some(_) => Finding::note("IPv6", "net.ipv6.conf.all.disable_ipv6 is set", "IPv4 alone is routed; that is no fault"),
        None => Finding::note("IPv6", "this kernel has none", "IPv4 alone is routed; that is no fault"),
    }
}

pub(super) fn conntrack(found: Option<Conntrack>) -> Finding {
    match found {
        Some(conntrack) if conntrack.is_crowded() => Finding::note("conntrack", conntrack.to_string(), Conntrack::REMEDY),
        Some(conntrack) => Finding::good("conntrack", conntrack.to_string()),
        None => Finding::good("conntrack", "is not in use"),
    }
}

pub(super) fn descriptors(limit: Rlimit) -> Finding {
    match limit.maximum {
        Some(hard) if hard < FEW_DESCRIPTORS => Finding::note(
            "descriptors",
            format!("at most {hard} open files"),
            format!("each open flow takes one; allow {FEW_DESCRIPTORS} or more (ulimit -Hn)"),
        ),
        Some(hard) => Finding::good("descriptors", format!("at most {hard} open files")),
        None => Finding::good("descriptors", "open files are not limited"),
    }
}

#[cfg(test)]
mod tests {
    use super::super::Health;
    use super::*;

    fn table<'a>(rows: &'a [(&'a str, &'a str)]) -> impl Fn(&str) -> Option<String> + 'a {
        move |name| rows.iter().find(|(key, _)| *key == name).map(|(_, value)| (*value).to_owned())
    }

    #[test]
    fn each_setting_that_forbids_user_namespaces_is_named() {
        for (rows, named) in [
            (vec![("user/max_user_namespaces", "0")], Some("user.max_user_namespaces")),
            (vec![("kernel/unprivileged_userns_clone", "0")], Some("kernel.unprivileged_userns_clone")),
            (vec![("kernel/apparmor_restrict_unprivileged_userns", "1")], Some("kernel.apparmor_restrict_unprivileged_userns")),
            (vec![("user/max_user_namespaces", "100"), ("kernel/apparmor_restrict_unprivileged_userns", "0")], None),
            (vec![], None),
        ] {
            let user = user_namespaces(false, &table(&rows));
            let root = user_namespaces(true, &table(&rows));
            match named {
                Some(name) => {
                    assert_eq!((user.state, root.state), (Health::Missing, Health::Note), "{name}");
                    assert!(user.found.contains(name) && user.remedy.is_some_and(|remedy| remedy.contains("sysctl")), "{name}");
                }
                None => assert_eq!((user.state, root.state), (Health::Good, Health::Good)),
            }
        }
    }

    #[test]
    fn what_is_no_tun_device_is_missing() {
        let dir = tempfile::tempdir().expect("a temporary folder can be made");
        assert_eq!(tun_node(&dir.path().join("tun")).state, Health::Missing);
        assert_eq!(tun_node(dir.path()).state, Health::Missing);
    }

    #[test]
    fn kernels_are_compared_by_number() {
        for (release, state) in [
            ("6.18.3-generic", Health::Good),
            ("6.2", Health::Good),
            ("10.0.0", Health::Good),
            ("6.1.0-30-amd64", Health::Note),
            ("5.15", Health::Note),
            ("odd", Health::Note),
        ] {
            assert_eq!(kernel(release).state, state, "{release}");
        }
    }

    #[test]
    fn the_capability_is_read_from_its_bit() {
        for (status, state) in [
            ("Name:\tx\nCapEff:\t0000000000081000\n", Health::Good),
            ("CapEff:\t0000000000001000\n", Health::Note),
            ("CapEff:\t000001ffffffffff\n", Health::Good),
            ("CapEff:\t0000000000000800\n", Health::Note),
            ("CapEff:\tx\n", Health::Note),
            ("", Health::Note),
        ] {
            assert_eq!(privilege(status).state, state, "{status:?}");
        }
    }

    #[test]
    fn a_program_must_be_executable_to_count() {
        let dir = tempfile::tempdir().expect("a temporary folder can be made");
        let path = [dir.path().to_path_buf()];
        assert_eq!(program("nft", &path, "x").state, Health::Note);
        let file = dir.path().join("nft");
        fs::write(&file, "").expect("the folder is ours");
        assert_eq!(program("nft", &path, "x").state, Health::Note, "not executable");
        fs::set_permissions(&file, fs::Permissions::from_mode(0o755)).expect("the file is ours");
        assert_eq!(program("nft", &path, "x").state, Health::Good);
    }

    #[test]
    fn absent_namespaces_and_ipv6_are_told_apart_from_disabled_ones() {
        assert_eq!(network_namespaces(&table(&[])).state, Health::Missing);
        assert_eq!(network_namespaces(&table(&[("user/max_net_namespaces", "0")])).state, Health::Missing);
        assert_eq!(network_namespaces(&table(&[("user/max_net_namespaces", "9")])).state, Health::Good);
        assert_eq!(ipv6(&table(&[])).state, Health::Note);
        assert_eq!(ipv6(&table(&[("net/ipv6/conf/all/disable_ipv6", "1")])).state, Health::Note);
        assert_eq!(ipv6(&table(&[("net/ipv6/conf/all/disable_ipv6", "0")])).state, Health::Good);
    }

    #[test]
    fn who_cannot_know_of_closed_sockets_is_told_why_and_nothing_is_missing_for_it() {
        assert_eq!(closed_sockets(Ok(true)).state, Health::Good);
        assert_eq!(closed_sockets(Ok(false)).state, Health::Note);
        let error = std::io::Error::from_raw_os_error(libc::EINVAL);
        for reason in [Without::Rights, Without::Kernel { attempt: "load a program", error }, Without::Trial] {
            let told = reason.to_string();
            let finding = closed_sockets(Err(reason));
            assert_eq!((finding.state, finding.found), (Health::Note, told));
        }
    }

    #[test]
    fn few_descriptors_are_worth_a_note() {
        for (maximum, state) in [(Some(1024), Health::Note), (Some(4096), Health::Good), (None, Health::Good)] {
            assert_eq!(descriptors(Rlimit { current: Some(1024), maximum }).state, state);
        }
    }
}
