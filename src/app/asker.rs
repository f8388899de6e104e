//! Under which key a program's sightings are kept.

use crate::names::Asker;
use crate::process::{Identity, UID_MIN};

/// Programs that ask for others: what they learn, everybody may know.
const RESOLVER_SERVICES: [&str; 4] =
    ["/usr/lib/systemd/systemd-resolved", "/lib/systemd/systemd-resolved", "/usr/sbin/nscd", "/usr/sbin/dnsmasq"];

/// The key of `identity`. A resolver service counts only under its own path in our mount namespace and as a system user.
pub(super) fn asker_of(identity: &Identity) -> Asker {
    let (Some(exe), Some(uid)) = (&identity.exe, identity.uid) else {
        return Asker::Unattributed { uid: identity.uid };
    };
    let is_service = exe.path_is_ours && uid < UID_MIN && RESOLVER_SERVICES.iter().any(|path| exe.path.as_os_str() == *path);
    if is_service { Asker::ResolverService } else { Asker::Program { device: exe.device, inode: exe.inode, uid } }
}
