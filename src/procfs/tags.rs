//! Tags: what else a program is known as, beside its path.
//!
//! Keeps one rule: a tag can grant, so none rests on environment variables or argument text alone, nor on cgroup names in the
//! part of the tree that a user's own manager hands out. The last two of the table are the weakest: a hostile program of the
//! same user that overwrites its arguments can stage what they ask for.
//!
//! | tag | rests on |
//! |---|---|
//! | `unit:` | cgroup path down to the first service, outside of `user@N.service`: made by root |
//! | `container:` | cgroup path, outside of `user@N.service` |
//! | `snap:` | the kernel's AppArmor label |
//! | `flatpak:` | `/.flatpak-info`, and the executable being the installed app's or runtime's own file by device and inode |
//! | `appimage:` | APPIMAGE, and that very file running as a child of the program or of its parents: the server of its mount |
//! | `script:` | the argument of an interpreter, and that very file being open in it (shells keep it open) |
//!
//! An interpreter that closes its script after reading, as Python does, earns no `script:` tag; a profile's `[framework]` is
//! for those.

use std::path::{Component, Path, PathBuf};

use super::process::{FileId, Process, file_id};
use crate::process::{Exe, Tag};

/// The part of an interpreter's name before its version.
const INTERPRETERS: [&str; 14] =
    ["sh", "bash", "dash", "zsh", "ksh", "mksh", "busybox", "fish", "python", "perl", "ruby", "node", "lua", "php"];
/// Descriptors compared with the script's file.
const SCRIPT_FDS: usize = 64;
/// Hexadecimal digits of a container's id.
const CONTAINER_ID_LEN: usize = 64;
/// A flatpak's description of itself, an environment, a label: longer ones are not read to the end.
const TEXT_LEN: u64 = 64 * 1024;

/// What tags are made from.
#[derive(Debug)]
pub(super) struct Facts<'a> {
    pub(super) process: &'a Process,
    pub(super) proc_root: &'a Path,
    pub(super) exe: Option<&'a Exe>,
    pub(super) cmdline: &'a [String],
    pub(super) cwd: Option<&'a Path>,
    pub(super) cgroup: &'a str,
    pub(super) home: Option<&'a Path>,
    /// The nearest first.
    pub(super) ancestors: &'a [u32],
}

/// All tags of a process, sorted.
pub(super) fn tags(facts: &Facts<'_>) -> Vec<Tag> {
    let mut tags: Vec<Tag> = Vec::new();
    tags.extend(unit(facts.cgroup).map(|name| Tag(format!("unit:{name}"))));
    tags.extend(container(facts.cgroup).map(|id| Tag(format!("container:{id}"))));
    let label = facts.process.read("attr/current", TEXT_LEN).unwrap_or_default();
    tags.extend(snap(&label).map(|name| Tag(format!("snap:{name}"))));
    tags.extend(flatpak(facts).map(|id| Tag(format!("flatpak:{id}"))));
    tags.extend(appimage(facts).map(|path| Tag(format!("appimage:{}", path.display()))));
    tags.extend(script(facts).map(|path| Tag(format!("script:{}", path.display()))));
    tags.sort();
    tags
}

/// All tags of a process that has ended, sorted. None: it may have had one more, of which nothing is left. `is_open`: whether a shell was noted to
/// have this very file open.
pub(super) fn of_ended(
    exe: &Exe,
    cmdline: &[String],
    cwd: &Path,
    cgroup: &str,
    is_open: impl Fn(&Path) -> bool,
) -> Option<Vec<Tag>> {
    let mut parts = exe.path.components().map(|part| part.as_os_str().to_string_lossy());
    if exe.path.starts_with("/snap") || parts.any(|part| part.starts_with(".mount_") || part == "flatpak" || part == "snapd") {
        return None;
    }
    let mut tags: Vec<Tag> = Vec::new();
    tags.extend(unit(cgroup).map(|name| Tag(format!("unit:{name}"))));
    tags.extend(container(cgroup).map(|id| Tag(format!("container:{id}"))));
    // Nobody else's arguments are looked up: they may name a file system that does not answer.
    if is_interpreter(&exe.path)
        && let Some((script, _)) = script_named(cmdline, Some(cwd))
    {
        // It may have been open elsewhere.
        tags.push(is_open(&script).then(|| Tag(format!("script:{}", script.display())))?);
    }
    tags.sort();
    Some(tags)
}

/// True for a program that runs whatever file or text it is given.
pub(super) fn is_interpreter(exe: &Path) -> bool {
    let Some(name) = exe.file_name().and_then(|name| name.to_str()) else { return false };
    let name = name.trim_end_matches(|c: char| c.is_ascii_digit() || c == '.' || c == '-');
    INTERPRETERS.contains(&name)
}

/// The components of a cgroup path that only root can have named.
fn roots_part(cgroup: &str) -> impl Iterator<Item = &str> {
    cgroup.split('/').filter(|name| !name.is_empty()).take_while(|name| !name.starts_with("user@"))
}

fn unit(cgroup: &str) -> Option<&str> {
    roots_part(cgroup).find(|name| name.ends_with(".service"))
}

fn container(cgroup: &str) -> Option<&str> {
    roots_part(cgroup).find_map(|name| {
        // docker-ID.scope, libpod-ID.scope, cri-containerd-ID.scope, or ID alone below /docker.
        let name = name.strip_suffix(".scope").unwrap_or(name);
        let id = name.rsplit('-').next().unwrap_or(name);
        (id.len() == CONTAINER_ID_LEN && id.bytes().all(|byte| byte.is_ascii_hexdigit())).then_some(id)
    })
}

/// AppArmor names a confined snap `snap.NAME.APP (enforce)`; only the kernel writes it.
fn snap(label: &[u8]) -> Option<String> {
    let label = str::from_utf8(label).ok()?.trim_end_matches(['\n', '\0']);
    let (profile, mode) = label.split_once(' ')?;
    let name = profile.strip_prefix("snap.")?.split('.').next()?;
    (mode == "(enforce)" && !name.is_empty()).then(|| name.to_owned())
}

fn flatpak(facts: &Facts<'_>) -> Option<String> {
    let exe = facts.exe?;
    let info = facts.process.read("root/.flatpak-info", TEXT_LEN).ok()?;
    let info = String::from_utf8_lossy(&info);
    let id = flatpak_key(&info, "Application", "name")?;
    let file = FileId { device: exe.device, inode: exe.inode };
    let places = flatpak_files(id, flatpak_key(&info, "Application", "runtime"), &exe.path, facts.home);
    places.iter().any(|path| file_id(path) == Some(file)).then(|| id.to_owned())
}

/// A value of the key file that flatpak puts into each sandbox (flatpak-metadata(5)).
fn flatpak_key<'a>(text: &'a str, section: &str, key: &str) -> Option<&'a str> {
    let mut here = false;
    for line in text.lines().map(str::trim) {
        if let Some(name) = line.strip_prefix('[').and_then(|line| line.strip_suffix(']')) {
            here = name == section;
        } else if here
            && let Some((name, value)) = line.split_once('=')
            && name.trim() == key
        {
            return Some(value.trim());
        }
    }
    None
}

/// Where the file that a sandbox calls `exe` is installed, if it is the app's or its runtime's.
fn flatpak_files(id: &str, runtime: Option<&str>, exe: &Path, home: Option<&Path>) -> Vec<PathBuf> {
    let (part, rest) = if let Ok(rest) = exe.strip_prefix("/app") {
        (format!("app/{id}/current/active/files"), rest)
    } else if let (Some(runtime), Ok(rest)) = (runtime, exe.strip_prefix("/usr")) {
        (format!("runtime/{}/active/files", runtime.strip_prefix("runtime/").unwrap_or(runtime)), rest)
    } else {
        return Vec::new();
    };
    // The id is text from inside the sandbox: it must not climb out of the installation.
    if Path::new(&part).components().any(|component| !matches!(component, Component::Normal(_))) {
        return Vec::new();
    }
    let user = home.map(|home| home.join(".local/share/flatpak"));
    [Some(PathBuf::from("/var/lib/flatpak")), user].into_iter().flatten().map(|root| root.join(&part).join(rest)).collect()
}

/// An AppImage mounts itself below a temporary folder, served by a child of the process that then becomes the program.
fn appimage(facts: &Facts<'_>) -> Option<PathBuf> {
    let exe = facts.exe?;
    if !exe.path.components().any(|part| part.as_os_str().to_string_lossy().starts_with(".mount_")) {
        return None;
    }
    let environment = facts.process.read("environ", TEXT_LEN).ok()?;
    let claimed = environment.split(|byte| *byte == 0).find_map(|entry| entry.strip_prefix(b"APPIMAGE="))?;
    let claimed = PathBuf::from(str::from_utf8(claimed).ok()?);
    let image = file_id(&claimed)?;
    let line = std::iter::once(facts.process.pid).chain(facts.ancestors.iter().copied());
    let mut children = line.filter_map(|pid| Process::open(facts.proc_root, pid)).flat_map(|parent| parent.children());
    let is_image = |pid: u32| {
        let child = Process::open(facts.proc_root, pid)?;
        child.file("exe").ok().map(|file| file == image)
    };
    children.any(|pid| is_image(pid) == Some(true)).then_some(claimed)
}

fn script(facts: &Facts<'_>) -> Option<PathBuf> {
    if !is_interpreter(&facts.exe?.path) {
        return None;
    }
    let (path, file) = script_named(facts.cmdline, facts.cwd)?;
    facts.process.has_open(file, SCRIPT_FDS).then_some(path)
}

/// The file that an interpreter's arguments name first, if it is there.
fn script_named(cmdline: &[String], cwd: Option<&Path>) -> Option<(PathBuf, FileId)> {
    let argument = cmdline.iter().skip(1).find(|word| !word.starts_with('-'))?;
    let path = cwd.unwrap_or(Path::new("/")).join(argument);
    let file = file_id(&path)?;
    Some((path, file))
}

#[cfg(test)]
mod tests {
    use super::*;

    const ID: &str = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";

    #[test]
    fn service_made_by_root_is_a_unit_and_one_of_a_user_s_manager_is_not() {
        assert_eq!(unit("/system.slice/ssh.service"), Some("ssh.service"));
        assert_eq!(unit("/system.slice/docker.service/x/evil.service"), Some("docker.service"));
        assert_eq!(unit("/user.slice/user-1000.slice/user@1000.service/app.slice/ssh.service"), None);
        assert_eq!(unit("/user.slice/user-1000.slice/session-2.scope"), None);
        assert_eq!(unit(""), None);
    }

    #[test]
    fn container_id_is_taken_from_the_common_engines_and_from_nothing_shorter() {
        for path in [
            format!("/system.slice/docker-{ID}.scope"),
            format!("/docker/{ID}"),
            format!("/machine.slice/libpod-{ID}.scope/container"),
        ] {
            assert_eq!(container(&path), Some(ID), "{path}");
        }
        assert_eq!(container(&format!("/user.slice/user@1.service/docker-{ID}.scope")), None);
        assert_eq!(container("/system.slice/docker-0123.scope"), None);
        assert_eq!(container(&format!("/docker/{}", ID.replace('0', "g"))), None);
    }

    #[test]
    fn snap_needs_the_kernel_s_label_in_enforcing_mode() {
        assert_eq!(snap(b"snap.firefox.firefox (enforce)\n").as_deref(), Some("firefox"));
        for label in ["unconfined", "snap.firefox.firefox (complain)", "snap. (enforce)", "/usr/bin/man (enforce)", ""] {
            assert_eq!(snap(label.as_bytes()), None, "{label}");
        }
        assert_eq!(snap(b"\xff"), None);
    }

    #[test]
    fn flatpak_file_is_looked_for_in_the_installation_and_an_id_cannot_climb_out_of_it() {
        let info = "[Instance]\nname=no\n[Application]\nname=org.example.App\nruntime=runtime/org.P/x86_64/1\n";
        assert_eq!(flatpak_key(info, "Application", "name"), Some("org.example.App"));
        assert_eq!(flatpak_key(info, "Application", "missing"), None);
        let files = |id, exe| flatpak_files(id, Some("runtime/org.P/x86_64/1"), Path::new(exe), Some(Path::new("/home/ann")));
        let app = files("org.example.App", "/app/bin/x");
        assert_eq!(app[0], Path::new("/var/lib/flatpak/app/org.example.App/current/active/files/bin/x"));
        assert_eq!(app[1], Path::new("/home/ann/.local/share/flatpak/app/org.example.App/current/active/files/bin/x"));
        let runtime = files("org.example.App", "/usr/bin/sh");
        assert_eq!(runtime[0], Path::new("/var/lib/flatpak/runtime/org.P/x86_64/1/active/files/bin/sh"));
        assert!(files("../../../../tmp", "/app/bin/x").is_empty());
        assert!(files("org.example.App", "/opt/x").is_empty());
    }

    #[test]
    fn interpreters_are_known_with_and_without_a_version() {
        for path in ["/usr/bin/python3.11", "/bin/sh", "/usr/bin/perl5.36", "/usr/bin/python", "/usr/bin/lua5.4"] {
            assert!(is_interpreter(Path::new(path)), "{path}");
        }
        for path in ["/usr/bin/curl", "/usr/bin/ssh", "/", "/usr/bin/pythonista"] {
            assert!(!is_interpreter(Path::new(path)), "{path}");
        }
    }

    #[test]
    fn packed_program_that_has_ended_may_have_had_a_tag_and_an_ordinary_one_has_that_of_its_cgroup() {
        let of = |path: &str, cgroup: &str| {
            let exe = Exe { path: path.into(), device: 1, inode: 1, path_is_ours: true };
            of_ended(&exe, &["x".to_owned()], Path::new("/"), cgroup, |_| false)
        };
        assert_eq!(of("/usr/bin/logger", "/user.slice/user-1.slice/session-2.scope"), Some(vec![]));
        assert_eq!(of("/usr/bin/logger", "/system.slice/ssh.service"), Some(vec![Tag("unit:ssh.service".to_owned())]));
        assert_eq!(of("/usr/bin/logger", &format!("/docker/{ID}")), Some(vec![Tag(format!("container:{ID}"))]));
        for path in [
            "/snap/core/1/usr/bin/logger",
            "/var/lib/snapd/x",
            "/tmp/.mount_abc/usr/bin/x",
            "/var/lib/flatpak/app/x",
            "/home/a/.local/share/flatpak/app/x",
        ] {
            assert_eq!(of(path, ""), None, "{path}");
        }
    }
}
