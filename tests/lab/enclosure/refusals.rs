//! What `exec` says when there can be no enclosure: one sentence with the remedy, 125, and no command run.

use std::process::{Command, Output};

use super::{Caller, binary, stderr, stdout};

fn assert_refused(output: &Output, remedy: &str) {
    assert_eq!(output.status.code(), Some(125), "{}", stderr(output));
    assert!(stderr(output).contains(remedy), "{}", stderr(output));
    assert_eq!(stdout(output), "", "the command did not run");
}

#[test]
fn a_limit_of_no_user_namespaces_is_named() {
    let script = "echo 0 >/proc/sys/user/max_user_namespaces; exec \"$0\" exec -- echo ran";
    let output = Command::new("unshare").args(["-Ur", "sh", "-c", script]).arg(binary()).output().expect("unshare runs");
    assert_refused(&output, "user.max_user_namespaces is 0; allow them: sysctl -w user.max_user_namespaces=");
}

#[test]
fn a_limit_of_no_network_namespaces_is_named() {
    let script = "echo 0 >/proc/sys/user/max_net_namespaces; exec \"$0\" exec -- echo ran";
    let output = Command::new("unshare").args(["-Ur", "sh", "-c", script]).arg(binary()).output().expect("unshare runs");
    assert_refused(&output, "user.max_net_namespaces is 0");
}

#[test]
fn a_chroot_is_named() {
    // The top of a mount would be no chroot in the kernel's eyes, so the new root lies below one.
    let script = "set -e; mount -t tmpfs tmpfs /mnt; mkdir /mnt/jail; for d in bin lib lib64 usr proc dev tmp etc; do \
                  [ -e /$d ] || continue; mkdir -p /mnt/jail/$d; mount --rbind /$d /mnt/jail/$d; done; \
                  touch /mnt/jail/portreeve; mount --bind \"$0\" /mnt/jail/portreeve; \
                  exec chroot /mnt/jail setpriv --reuid=65534 --regid=65534 --clear-groups /portreeve exec -- echo ran";
    let output = Command::new("unshare").args(["--mount", "sh", "-c", script]).arg(binary()).output().expect("unshare runs");
    assert_refused(&output, "run outside the chroot");
}

#[test]
fn a_tun_node_that_is_closed_to_users_is_named_with_its_mode() {
    let script = "set -e; d=$(mktemp -d); mount -t tmpfs tmpfs $d; mknod -m 0600 $d/tun c 10 200; \
                  mount --bind $d/tun /dev/net/tun; umount -l $d; rmdir $d; \
                  exec setpriv --reuid=65534 --regid=65534 --clear-groups \"$0\" exec -- echo ran";
    let output = Command::new("unshare").args(["--mount", "sh", "-c", script]).arg(binary()).output().expect("unshare runs");
    assert_refused(&output, "/dev/net/tun is mode 0600; 0666 is usual: chmod 0666 /dev/net/tun");
}

#[test]
fn a_missing_tun_node_is_named() {
    let script = "mount -t tmpfs tmpfs /dev/net; exec \"$0\" exec -- echo ran";
    let output = Command::new("unshare").args(["--mount", "sh", "-c", script]).arg(binary()).output().expect("unshare runs");
    assert_refused(&output, "/dev/net/tun does not exist");
}

#[test]
fn a_proc_that_a_container_has_covered_is_named() {
    let script = "set -e; mount --bind /dev/null /proc/uptime; exec \"$0\" exec -- echo ran";
    let mut unshare = Command::new("unshare");
    let output = unshare.args(["-Urmpf", "--mount-proc", "sh", "-c", script]).arg(binary()).output().expect("unshare runs");
    assert_refused(&output, "--security-opt systempaths=unconfined");
}

#[test]
fn the_hidden_verb_called_by_hand_says_what_to_use() {
    for arguments in [&[][..], &["0"], &["99", "{}", "--", "true"], &["x", "y"], &["1", "{}"]] {
        let mut command = Caller::Nobody.command();
        let output = command.arg(binary()).arg("__enclosure").args(arguments).output().expect("runs");
        assert_eq!(output.status.code(), Some(2), "{arguments:?}");
        assert!(stderr(&output).contains("portreeve exec -- CMD"), "{}", stderr(&output));
    }
}
