//! What a command will miss inside, as far as it can be seen before it starts.
//!
//! Keeps one rule: hints change nothing. What is certain for this command is a warning; what only may concern it is told by `-v`.

use std::env;
use std::ffi::{OsStr, OsString};
use std::fs::{self, Metadata};
use std::os::unix::fs::MetadataExt;
use std::path::Path;

/// Variables that name a server by its address, and may name this host's loopback.
const SERVERS: [&str; 8] =
    ["DISPLAY", "PULSE_SERVER", "http_proxy", "https_proxy", "all_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"];
const LOOPBACK: [&str; 3] = ["localhost", "127.", "[::1]"];

/// Says what the command will miss.
pub(super) fn give(command: &[OsString], host_loopback: bool) {
    let (uid, gid) = (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw());
    let path = env::var_os("PATH").unwrap_or_default();
    if let Some(program) = command.first()
        && file_of(program, &path).is_some_and(|file| loses_rights(file.mode(), (file.uid(), file.gid()), (uid, gid)))
    {
        let program = program.display();
        tracing::warn!(
            "{program} runs without the rights that its file gives, as all do inside; as root: sudo portreeve exec -- CMD…"
        );
    }
    for hint in unreachable(|name| env::var(name).ok(), host_loopback) {
        tracing::info!("{hint}");
    }
}

/// The file that execvp(3) runs.
fn file_of(program: &OsStr, path: &OsStr) -> Option<Metadata> {
    let file = |path: &Path| fs::metadata(path).ok().filter(|file| file.is_file() && file.mode() & 0o111 != 0);
    match program.as_encoded_bytes().contains(&b'/') {
        true => file(Path::new(program)),
        false => env::split_paths(path).find_map(|dir| file(&dir.join(program))),
    }
}

/// Whether a file gives the rights of another user or group (execve(2)), which no_new_privs keeps from whoever is not root.
fn loses_rights(mode: u32, of: (u32, u32), own: (u32, u32)) -> bool {
    own.0 != 0 && (mode & libc::S_ISUID != 0 && of.0 != own.0 || mode & libc::S_ISGID != 0 && of.1 != own.1)
}

/// What of the environment leads nowhere in another network namespace (unix(7), abstract; loopback).
fn unreachable(variable: impl Fn(&str) -> Option<String>, host_loopback: bool) -> Vec<String> {
    let mut hints = Vec::new();
    const BUS: &str = "DBUS_SESSION_BUS_ADDRESS";
    if variable(BUS).is_some_and(|address| address.split(';').all(|way| way.starts_with("unix:abstract="))) {
        hints.push(format!("{BUS} names an abstract socket, which cannot be reached inside; one with a path could"));
    }
    for name in SERVERS {
        // Behind the scheme, and behind a password, which is nobody's business.
        let host = variable(name).and_then(|value| value.rsplit(['/', '@']).find(|part| !part.is_empty()).map(str::to_owned));
        let Some(host) =
            host.filter(|host| LOOPBACK.iter().any(|loopback| host.trim_start_matches("tcp:").starts_with(loopback)))
        else {
            continue;
        };
        let remedy = if host_loopback { "it is" } else { "with --host-loopback it is" };
        hints.push(format!(
            "{name} names {host}, which is the command's own loopback inside; {remedy} host.portreeve.internal there"
        ));
    }
    hints
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rights_are_lost_by_files_of_others_alone_and_not_by_root() {
        let (own, root) = ((1000, 1000), (0, 0));
        for (mode, of, who, lost) in [
            (0o4755, root, own, true),
            (0o2755, (1000, 43), own, true),
            (0o755, root, own, false),
            (0o6755, own, own, false),
            (0o4755, root, root, false),
            (0o2755, (0, 43), root, false),
        ] {
            assert_eq!(loses_rights(mode, of, who), lost, "{mode:o} {of:?} {who:?}");
        }
    }

    #[test]
    fn a_program_is_found_as_the_kernel_finds_it() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("tool");
        fs::write(&path, "").expect("written");
        assert!(file_of("tool".as_ref(), dir.path().as_os_str()).is_none(), "not executable");
        fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o4755)).expect("ours");
        assert!(file_of("tool".as_ref(), dir.path().as_os_str()).is_some_and(|file| file.mode() & 0o4000 != 0));
        assert!(file_of(path.as_os_str(), OsStr::new("")).is_some());
        assert!(file_of("tool".as_ref(), OsStr::new("/nonexistent")).is_none());
    }

    #[test]
    fn what_leads_nowhere_inside_is_named_and_what_does_is_not() {
        let told = |set: &[(&str, &str)]| {
            unreachable(|name| set.iter().find(|(key, _)| *key == name).map(|(_, value)| (*value).to_owned()), false).len()
        };
        for (name, value) in [
            ("DBUS_SESSION_BUS_ADDRESS", "unix:abstract=/tmp/dbus-1,guid=0"),
            ("DISPLAY", "localhost:10.0"),
            ("PULSE_SERVER", "tcp:127.0.0.1:4713"),
            ("https_proxy", "http://localhost:3128"),
            ("ALL_PROXY", "socks5h://user:secret@[::1]:1080/"),
        ] {
            assert_eq!(told(&[(name, value)]), 1, "{name}={value}");
        }
        let fine = [
            ("DBUS_SESSION_BUS_ADDRESS", "unix:path=/run/user/1000/bus"),
            ("DISPLAY", ":0"),
            ("http_proxy", "http://proxy.example.com:3128"),
        ];
        assert_eq!(told(&fine), 0);
    }
}
