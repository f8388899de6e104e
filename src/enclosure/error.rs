//! Why an enclosure could not be made, and which setting changes that.
//!
//! Keeps one rule: one sentence names the cause and the remedy. A ban on user namespaces shows in different calls (the clone,
//! the id maps, the first mount, the TUN), so [`explain`] judges a refused call by its surroundings, not by its name alone.

use std::io;

use serde::{Deserialize, Serialize};

/// Why there is no enclosure. `exec` ends with 125 for each of these.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error, Serialize, Deserialize)]
pub enum EncloseError {
    #[error("no command to run; exec takes one: portreeve exec -- CMD…")]
    NoCommand,
    #[error("start a copy of this program as the enclosure's keeper: {cause}; /proc must be mounted and the binary executable")]
    Keeper { cause: String },
    #[error("namespaces are switched off here: user.{limit} is 0; allow them: sysctl -w user.{limit}=65536, or run as root")]
    LimitIsZero { limit: String },
    #[error(
        "a limit on namespaces is reached: {attempt}; raise user.max_user_namespaces, user.max_net_namespaces, \
         user.max_mnt_namespaces or user.max_pid_namespaces by sysctl -w, or nest less deeply"
    )]
    LimitIsReached { attempt: String },
    #[error(
        "ordinary users may not make user namespaces: kernel.unprivileged_userns_clone is 0; \
         allow it: sysctl -w kernel.unprivileged_userns_clone=1, or run as root"
    )]
    OrdinaryUsersMayNot,
    #[error(
        "AppArmor keeps user namespaces from programs without a profile ({attempt} was refused): \
         give portreeve an AppArmor profile with `userns,`, or sysctl -w kernel.apparmor_restrict_unprivileged_userns=0, \
         or run as root"
    )]
    AppArmor { attempt: String },
    #[error(
        "the container around this process forbids namespaces and mounts ({attempt} was refused by seccomp or AppArmor); it needs \
         --security-opt seccomp=unconfined --security-opt apparmor=unconfined, and --cap-add SYS_ADMIN for root"
    )]
    Container { attempt: String },
    #[error("a changed root directory forbids user namespaces ({attempt} was refused); run outside the chroot, or as root")]
    Chroot { attempt: String },
    #[error("this kernel has no user namespaces (CONFIG_USER_NS); run as root, or use a kernel that has them")]
    NotInThisKernel,
    #[error(
        "{attempt} was refused ({cause}); user namespaces are restricted here: look at user.max_user_namespaces, \
         AppArmor, SELinux and seccomp, or run as root"
    )]
    Restricted { attempt: String, cause: String },
    #[error("{sentence}")]
    Device { sentence: String },
    #[error("{attempt}: {cause}")]
    Step { attempt: String, cause: String },
    #[error("the enclosure ended before it was ready; its processes were killed from outside or memory ran out")]
    Lost,
}

impl EncloseError {
    /// A step that failed for a reason that needs no surroundings.
    pub(super) fn step(attempt: impl Into<String>, cause: impl ToString) -> Self {
        Self::Step { attempt: attempt.into(), cause: cause.to_string() }
    }
}

/// What around this process decides over namespaces.
#[derive(Clone, Debug, Default)]
pub(super) struct Surroundings {
    /// Whether a user namespace is part of the attempt; root needs none.
    pub(super) user_namespace: bool,
    /// The first of the `user.max_*_namespaces` that is 0.
    pub(super) zero_limit: Option<String>,
    pub(super) unprivileged_clone_off: bool,
    pub(super) apparmor_restricts: bool,
    pub(super) seccomp_filters: bool,
    pub(super) chrooted: bool,
}

impl Surroundings {
    /// Looks around. What cannot be read does not restrict.
    pub(super) fn look(user_namespace: bool) -> Self {
        let is = |path: &str, value: &str| std::fs::read_to_string(path).is_ok_and(|text| text.trim() == value);
        let limits = ["max_user_namespaces", "max_net_namespaces", "max_mnt_namespaces", "max_pid_namespaces"];
        let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
        Self {
            user_namespace,
            zero_limit: limits.iter().find(|name| is(&format!("/proc/sys/user/{name}"), "0")).map(|&name| name.to_owned()),
            unprivileged_clone_off: is("/proc/sys/kernel/unprivileged_userns_clone", "0"),
            apparmor_restricts: is("/proc/sys/kernel/apparmor_restrict_unprivileged_userns", "1"),
            // proc_pid_status(5): 2 is SECCOMP_MODE_FILTER.
            seccomp_filters: status.lines().any(|line| line.strip_prefix("Seccomp:").is_some_and(|mode| mode.trim() == "2")),
            chrooted: chrooted(),
        }
    }
}

/// A process is in a chroot when its root is not the top of a mount (`current_chrooted` in the kernel's fs/namespace.c).
fn chrooted() -> bool {
    let Ok(mounts) = std::fs::read_to_string("/proc/self/mountinfo") else { return false };
    !mounts.is_empty() && !mounts.lines().any(|line| line.split(' ').nth(4) == Some("/"))
}

/// Names the cause of a refused call and its remedy.
pub(super) fn explain(attempt: &str, error: &io::Error, around: &Surroundings) -> EncloseError {
    let attempt = attempt.to_owned();
    match error.raw_os_error() {
        // clone(2): ENOSPC for a limit, EUSERS before Linux 4.9.
        Some(libc::ENOSPC | libc::EUSERS) => match &around.zero_limit {
            Some(limit) => EncloseError::LimitIsZero { limit: limit.clone() },
            None => EncloseError::LimitIsReached { attempt },
        },
        Some(libc::EINVAL | libc::ENOSYS) if around.user_namespace && attempt.starts_with("clone") => {
            EncloseError::NotInThisKernel
        }
        Some(libc::EPERM | libc::EACCES) => explain_ban(attempt, error, around),
        _ => EncloseError::Step { attempt, cause: error.to_string() },
    }
}

fn explain_ban(attempt: String, error: &io::Error, around: &Surroundings) -> EncloseError {
    match around {
        Surroundings { user_namespace: true, unprivileged_clone_off: true, .. } => EncloseError::OrdinaryUsersMayNot,
        Surroundings { user_namespace: true, apparmor_restricts: true, .. } => EncloseError::AppArmor { attempt },
        Surroundings { seccomp_filters: true, .. } => EncloseError::Container { attempt },
        Surroundings { user_namespace: true, chrooted: true, .. } => EncloseError::Chroot { attempt },
        Surroundings { user_namespace: true, .. } => EncloseError::Restricted { attempt, cause: error.to_string() },
        Surroundings { user_namespace: false, .. } => EncloseError::Step { attempt, cause: error.to_string() },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sentence(errno: i32, around: &Surroundings) -> String {
        explain("clone the namespaces", &io::Error::from_raw_os_error(errno), around).to_string()
    }

    fn ordinary() -> Surroundings {
        Surroundings { user_namespace: true, ..Surroundings::default() }
    }

    #[test]
    fn every_ban_names_the_setting_that_lifts_it() {
        let cases = [
            (
                libc::ENOSPC,
                Surroundings { zero_limit: Some("max_user_namespaces".into()), ..ordinary() },
                "sysctl -w user.max_user_namespaces=",
            ),
            (libc::ENOSPC, ordinary(), "user.max_net_namespaces"),
            (libc::EPERM, Surroundings { unprivileged_clone_off: true, ..ordinary() }, "kernel.unprivileged_userns_clone=1"),
            (
                libc::EPERM,
                Surroundings { apparmor_restricts: true, ..ordinary() },
                "kernel.apparmor_restrict_unprivileged_userns=0",
            ),
            (libc::EACCES, Surroundings { apparmor_restricts: true, ..ordinary() }, "`userns,`"),
            (libc::EPERM, Surroundings { seccomp_filters: true, ..ordinary() }, "--security-opt seccomp=unconfined"),
            (libc::EPERM, Surroundings { chrooted: true, ..ordinary() }, "outside the chroot"),
            (libc::EINVAL, ordinary(), "CONFIG_USER_NS"),
            (libc::EPERM, ordinary(), "user.max_user_namespaces"),
        ];
        for (errno, around, remedy) in cases {
            let sentence = sentence(errno, &around);
            assert!(sentence.contains(remedy), "{remedy} is not in: {sentence}");
            assert!(!sentence.contains('\n') && !sentence.contains("  "), "one line: {sentence}");
        }
    }

    #[test]
    fn root_is_not_told_of_settings_for_ordinary_users() {
        let around = Surroundings { apparmor_restricts: true, unprivileged_clone_off: true, ..Surroundings::default() };
        assert!(sentence(libc::EPERM, &around).starts_with("clone the namespaces: "));
    }

    #[test]
    fn a_fault_that_is_no_ban_keeps_its_cause() {
        assert!(sentence(libc::ENOMEM, &ordinary()).contains("memory"));
    }

    #[test]
    fn this_process_is_not_taken_for_a_chroot() {
        assert!(!chrooted());
    }
}
