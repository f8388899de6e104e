//! Senders of echo requests: ping sockets, from the tables in `/proc/PID/net`.
//!
//! Keeps one rule: a ping socket is asked for by its identifier *and* addresses. What raw ones send has no owner here (`raw`).

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use super::text::{NetLine, net_lines};
use crate::packet::FiveTuple;
use crate::process::{Confidence, Socket};

/// A table this long is no laptop's; the rest of it is not read.
const TABLE_LEN: u64 = 4 * 1024 * 1024;

/// The owner of an ICMP echo flow.
///
/// `net` is the folder with the tables of the right network namespace.
pub(super) fn owner(tuple: &FiveTuple, net: &Path) -> Option<Socket> {
    let table = if tuple.local.is_ipv4() { "icmp" } else { "icmp6" };
    let is_echo = tuple.protocol.is_icmp();
    is_echo.then(|| choose(read(net.join(table)).iter(), tuple, tuple.local.port(), Confidence::Exact)).flatten()
}

fn read(path: PathBuf) -> Vec<NetLine> {
    use std::io::Read as _;
    let mut text = Vec::new();
    let Ok(file) = std::fs::File::open(path) else { return Vec::new() };
    if file.take(TABLE_LEN).read_to_end(&mut text).is_err() {
        return Vec::new();
    }
    net_lines(&text).collect()
}

/// Sockets bound or connected to exactly these addresses go before those that take any; several of equal rank are ambiguous.
fn choose<'a>(lines: impl Iterator<Item = &'a NetLine>, tuple: &FiveTuple, port: u16, alone: Confidence) -> Option<Socket> {
    let rank = |line: &NetLine| {
        let local = fits(line.local, tuple.local)?;
        let remote = fits(line.remote, tuple.remote)?;
        (line.local.port() == port && line.inode != 0).then_some(usize::from(local) + usize::from(remote))
    };
    let mut best: Option<(usize, &NetLine)> = None;
    let mut several = false;
    for line in lines {
        let Some(rank) = rank(line) else { continue };
        match best {
            Some((found, _)) if found > rank => {}
            Some((found, _)) if found == rank => several = true,
            _ => {
                best = Some((rank, line));
                several = false;
            }
        }
    }
    let (_, line) = best?;
    let confidence = if several { Confidence::Ambiguous } else { alone };
    Some(Socket { inode: line.inode, uid: line.uid, cookie: 0, cgroup_id: None, mark: 0, link: 0, confidence })
}

/// `Some(true)`: the same address; `Some(false)`: any address.
fn fits(socket: SocketAddr, packet: SocketAddr) -> Option<bool> {
    if socket.ip() == packet.ip() {
        return Some(true);
    }
    socket.ip().is_unspecified().then_some(false)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::packet::Protocol;

    fn line(local: &str, remote: &str, inode: u64) -> NetLine {
        NetLine { local: local.parse().expect("address"), remote: remote.parse().expect("address"), uid: 1000, inode }
    }

    fn echo(local: &str, remote: &str) -> FiveTuple {
        FiveTuple { protocol: Protocol::ICMP, local: local.parse().expect("address"), remote: remote.parse().expect("address") }
    }

    fn chosen(lines: &[NetLine], tuple: &FiveTuple, port: u16) -> Option<(u64, Confidence)> {
        choose(lines.iter(), tuple, port, Confidence::Exact).map(|socket| (socket.inode, socket.confidence))
    }

    #[test]
    fn ping_socket_is_found_by_identifier_and_address_in_both_families() {
        for (local, remote, any) in [("10.0.0.1:77", "192.0.2.1:0", "0.0.0.0:77"), ("[fd00::1]:77", "[2001:db8::1]:0", "[::]:77")]
        {
            let unspecified = any.replace(":77", ":0");
            let lines = [line(any, &unspecified, 5), line(any.replace(":77", ":78").as_str(), &unspecified, 6)];
            assert_eq!(chosen(&lines, &echo(local, remote), 77), Some((5, Confidence::Exact)));
        }
    }

    #[test]
    fn same_identifier_on_another_address_or_to_another_host_is_no_owner() {
        let asked = echo("10.0.0.1:77", "192.0.2.1:0");
        assert_eq!(chosen(&[line("10.0.0.2:77", "0.0.0.0:0", 5)], &asked, 77), None);
        assert_eq!(chosen(&[line("10.0.0.1:77", "192.0.2.9:0", 5)], &asked, 77), None);
        assert_eq!(chosen(&[line("10.0.0.1:77", "0.0.0.0:0", 0)], &asked, 77), None, "closed");
    }

    #[test]
    fn socket_connected_to_the_peer_goes_before_one_that_takes_all_and_equals_are_ambiguous() {
        let asked = echo("10.0.0.1:77", "192.0.2.1:0");
        let lines = [line("0.0.0.0:1", "0.0.0.0:0", 5), line("0.0.0.0:1", "192.0.2.1:0", 6), line("0.0.0.0:1", "0.0.0.0:0", 7)];
        assert_eq!(chosen(&lines, &asked, 1), Some((6, Confidence::Exact)));
        let equals = [lines[0], lines[2]];
        assert_eq!(chosen(&equals, &asked, 1), Some((5, Confidence::Ambiguous)));
    }

    #[test]
    fn ping_table_is_asked_for_echo_alone() {
        let dir = tempfile::tempdir().expect("a directory");
        let text = " 1: 00000000:004D 00000000:0000 07 0:0 0:0 0 1000 0 4711 2 0 0\n";
        std::fs::write(dir.path().join("icmp"), text).expect("written");
        let mut tuple = echo("10.0.0.1:77", "192.0.2.1:0");
        assert_eq!(owner(&tuple, dir.path()).map(|socket| (socket.inode, socket.confidence)), Some((4711, Confidence::Exact)));
        for protocol in [Protocol::TCP, Protocol(47)] {
            tuple.protocol = protocol;
            assert_eq!(owner(&tuple, dir.path()), None);
        }
        assert_eq!(owner(&echo("10.0.0.1:78", "192.0.2.1:0"), dir.path()), None);
        assert_eq!(owner(&tuple, Path::new("/nowhere")), None);
    }
}
