//! resolv.conf(5), as far as it names servers and search domains.
//!
//! Keeps one rule: a line that cannot be used is skipped, as libc does; the file never makes the resolver fail.

use std::net::IpAddr;

use super::upstreams::can_answer;
use crate::names::Name;

/// resolv.conf(5) ends the search list there in old libc; more than that is no laptop.
const MAX_SEARCH: usize = 32;
/// libc reads three (MAXNS); files of resolved hold more.
const MAX_SERVERS: usize = 16;

/// What the file names, in its order.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct ResolvConf {
    pub(super) servers: Vec<IpAddr>,
    pub(super) search: Vec<Name>,
}

/// Reads the file's bytes. `domain` and `search` replace each other, the last one counts.
pub(super) fn read(bytes: &[u8]) -> ResolvConf {
    let text = String::from_utf8_lossy(bytes);
    let mut read = ResolvConf::default();
    for line in text.lines() {
        let mut words = line.split_ascii_whitespace();
        match words.next() {
            Some("nameserver") => {
                // A link-local address needs its zone, which an upstream cannot carry: `fe80::1%eth0` fails to parse here.
                let server = words.next().and_then(|word| word.parse().ok()).filter(|ip| can_answer(*ip));
                if let Some(server) = server.filter(|_| read.servers.len() < MAX_SERVERS) {
                    read.servers.push(server);
                }
            }
            Some("search" | "domain") => {
                read.search = words.filter_map(|word| word.parse().ok()).take(MAX_SEARCH).collect();
            }
            Some(_) | None => {}
        }
    }
    read
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn servers_keep_their_order_and_unusable_lines_are_skipped() {
        let read = read(
            b"# comment\nnameserver 192.0.2.1\n  nameserver\t2001:db8::1 # why\nnameserver fe80::1%eth0\nnameserver fe80::1\n\
              nameserver 0.0.0.0\nnameserver\nnameserver dns.example\noptions edns0 trust-ad\n\xff\xfe\nnameserver 192.0.2.2",
        );
        let servers: Vec<_> = read.servers.iter().map(ToString::to_string).collect();
        assert_eq!(servers, ["192.0.2.1", "2001:db8::1", "192.0.2.2"]);
    }

    #[test]
    fn the_last_search_or_domain_line_counts() {
        let read = read(b"search a.example b.example\ndomain c.example\nsearch Lan.Example. . bad..name d.example");
        assert_eq!(read.search.iter().map(Name::as_str).collect::<Vec<_>>(), ["lan.example", "d.example"]);
    }

    #[test]
    fn an_endless_file_is_cut() {
        let file = "nameserver 192.0.2.1\n".repeat(1000);
        assert_eq!(read(file.as_bytes()).servers.len(), MAX_SERVERS);
    }
}
