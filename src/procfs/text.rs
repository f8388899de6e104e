//! Text of /proc, read: pure functions from bytes to facts.
//!
//! Keeps one rule: what a program can write into these files (its name, its arguments) never moves a field. A line that does
//! not parse yields nothing, never a guess.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// The fields of `/proc/PID/stat` (proc_pid_stat(5)) that say which process this is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Stat {
    pub(super) parent: u32,
    pub(super) start_ticks: u64,
}

/// Reads a stat line. The second field is the program's own choice and may hold `)`, blanks and newlines: the fields behind it
/// begin after the *last* parenthesis.
pub(super) fn stat(line: &[u8]) -> Option<Stat> {
    let end = line.iter().rposition(|byte| *byte == b')')?;
    let rest = str::from_utf8(line.get(end + 1..)?).ok()?;
    let mut fields = rest.split_ascii_whitespace();
    // Field 3 is the state, 4 the parent, 22 the start time.
    let parent = fields.nth(1)?.parse().ok()?;
    let start_ticks = fields.nth(17)?.parse().ok()?;
    Some(Stat { parent, start_ticks })
}

/// Splits `/proc/PID/cmdline`. Bytes that are no UTF-8 become U+FFFD.
pub(super) fn cmdline(bytes: &[u8]) -> Vec<String> {
    let bytes = bytes.strip_suffix(b"\0").unwrap_or(bytes);
    if bytes.is_empty() {
        return Vec::new();
    }
    bytes.split(|byte| *byte == 0).map(|word| String::from_utf8_lossy(word).into_owned()).collect()
}

/// The cgroup path of `/proc/PID/cgroup` (cgroups(7)): the unified hierarchy's, or systemd's own where that one is not in use.
pub(super) fn cgroup_path(text: &[u8]) -> String {
    let mut systemd = None;
    let mut unified = None;
    for line in String::from_utf8_lossy(text).lines() {
        let mut fields = line.splitn(3, ':');
        let (id, controllers, path) = (fields.next(), fields.next(), fields.next());
        match (id, controllers, path) {
            (Some("0"), Some(""), Some(path)) => unified = Some(path.to_owned()),
            (_, Some("name=systemd"), Some(path)) => systemd = Some(path.to_owned()),
            _ => {}
        }
    }
    unified.filter(|path| path != "/").or(systemd).unwrap_or_default()
}

/// A line of `/proc/PID/net/{icmp,icmp6,raw,raw6}`. The local port is the echo identifier of a ping socket, the protocol of a
/// raw one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct NetLine {
    pub(super) local: SocketAddr,
    pub(super) remote: SocketAddr,
    pub(super) uid: u32,
    pub(super) inode: u64,
}

/// The sockets of such a table; its heading and lines that do not parse are skipped.
pub(super) fn net_lines(text: &[u8]) -> impl Iterator<Item = NetLine> {
    text.split(|byte| *byte == b'\n').filter_map(net_line)
}

fn net_line(line: &[u8]) -> Option<NetLine> {
    let mut fields = str::from_utf8(line).ok()?.split_ascii_whitespace();
    // sl local_address rem_address st tx:rx tr:when retrnsmt uid timeout inode (net/ipv4/ping.c, ping_v4_format_sock)
    let local = end(fields.nth(1)?)?;
    let remote = end(fields.next()?)?;
    let uid = fields.nth(4)?.parse().ok()?;
    let inode = fields.nth(1)?.parse().ok()?;
    Some(NetLine { local, remote, uid, inode })
}

/// `0100007F:0035`: 32-bit words as this machine stores them, the port in plain hexadecimal.
fn end(text: &str) -> Option<SocketAddr> {
    let (address, port) = text.split_once(':')?;
    let port = u16::from_str_radix(port, 16).ok()?;
    if !address.is_ascii() {
        return None;
    }
    let word = |at: usize| u32::from_str_radix(address.get(at..at + 8)?, 16).ok().map(u32::to_ne_bytes);
    let address = match address.len() {
        8 => IpAddr::V4(Ipv4Addr::from(word(0)?)),
        32 => {
            let mut octets = [0; 16];
            for (index, chunk) in octets.chunks_exact_mut(4).enumerate() {
                chunk.copy_from_slice(&word(index * 8)?);
            }
            IpAddr::V6(Ipv6Addr::from(octets))
        }
        _ => return None,
    };
    Some(SocketAddr::new(address.to_canonical(), port))
}

#[cfg(test)]
mod tests {
    use super::*;

    const TAIL: &str = " S 17 42 42 0 -1 4194560 1 0 0 0 0 0 0 0 20 0 1 0 987654 1 2 3";

    #[test]
    fn program_named_after_a_stat_line_cannot_move_the_fields() {
        for name in ["sh", "a) S 1 (b", ") S 1 2 3", "a\nb) R 9", "", "((", "))", "\u{fffd}"] {
            let line = format!("42 ({name}){TAIL}");
            assert_eq!(stat(line.as_bytes()), Some(Stat { parent: 17, start_ticks: 987_654 }), "{name:?}");
        }
    }

    #[test]
    fn stat_line_that_ends_early_or_is_no_line_is_refused() {
        for line in ["", "42", "42 (sh", "42 (sh)", "42 (sh) S", "42 (sh) S 17 1 1", "42 (sh) S x 42 42 0 -1"] {
            assert_eq!(stat(line.as_bytes()), None, "{line:?}");
        }
        assert_eq!(stat(b"42 (\xff\xfe)\xff S 17"), None);
    }

    #[test]
    fn cmdline_keeps_empty_arguments_and_bytes_that_are_no_text() {
        assert_eq!(cmdline(b"a\0\0b\0"), ["a", "", "b"]);
        assert_eq!(cmdline(b"\xff\0"), ["\u{fffd}"]);
        assert_eq!(cmdline(b""), Vec::<String>::new());
        assert_eq!(cmdline(b"title without end"), ["title without end"]);
    }

    #[test]
    fn cgroup_is_the_unified_path_unless_only_systemd_s_own_says_more() {
        assert_eq!(cgroup_path(b"0::/user.slice/a:b.scope\n"), "/user.slice/a:b.scope");
        assert_eq!(cgroup_path(b"5:cpu:/x\n1:name=systemd:/system.slice/ssh.service\n0::/\n"), "/system.slice/ssh.service");
        assert_eq!(cgroup_path(b"9:name=systemd:/old\n0::/new\n"), "/new");
        assert_eq!(cgroup_path(b"5:cpu:/x\n"), "");
        assert_eq!(cgroup_path(b"\xff\n\n::"), "");
    }

    #[test]
    fn ping_socket_lines_of_both_families_are_read() {
        let v4 = b"  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode ref pointer drops\n\
            \x20   7: 0100007F:1F90 00000000:0000 07 00000000:00000000 00:00000000 00000000  1000        0 4711 2 0000000000000000 0\n";
        let lines: Vec<_> = net_lines(v4).collect();
        assert_eq!(lines.len(), 1);
        assert_eq!(lines[0].local, "127.0.0.1:8080".parse().expect("address"));
        assert_eq!((lines[0].uid, lines[0].inode), (1000, 4711));

        let v6 = b" 7: 00000000000000000000000001000000:0007 B80D0120000000000000000002000000:0000 07 0:0 0:0 0 0 0 12 2 0 0";
        let line = net_lines(v6).next().expect("a line");
        assert_eq!(line.local, "[::1]:7".parse().expect("address"));
        assert_eq!(line.remote, "[2001:db8::2]:0".parse().expect("address"));
    }

    #[test]
    fn malformed_net_lines_are_skipped() {
        for line in
            ["", "7:", "7: 0100007F 0:0", "7: 0100007G:1F90 00000000:0000 07 0:0 0:0 0 0 0 1", "7: é0000007F:1 é:1", "x x x x"]
        {
            assert_eq!(net_lines(line.as_bytes()).count(), 0, "{line:?}");
        }
    }

    proptest::proptest! {
        #[test]
        fn no_bytes_make_a_parser_panic(bytes: Vec<u8>) {
            let _ = (stat(&bytes), cmdline(&bytes), cgroup_path(&bytes), net_lines(&bytes).count());
        }

        #[test]
        fn no_name_moves_the_fields_of_a_stat_line(name: Vec<u8>) {
            let line = [b"42 (", name.as_slice(), b")", TAIL.as_bytes()].concat();
            proptest::prop_assert_eq!(stat(&line), Some(Stat { parent: 17, start_ticks: 987_654 }));
        }
    }
}
