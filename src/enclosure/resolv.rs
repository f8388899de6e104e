//! What resolv.conf says, and what the command shall read instead when it says nothing useful.
//!
//! Keeps one rule: a file that names a server which programs can ask stays as it is; questions to any address are captured, so
//! the address does not matter.

use std::net::IpAddr;

/// What the enclosure needs to know of a resolv.conf.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct ResolvConf {
    /// The servers that a program inside can ask.
    pub(super) servers: Vec<IpAddr>,
    /// Every line that names no server.
    others: String,
}

impl ResolvConf {
    /// Reads the text as resolv.conf(5) has it. A server with a scope (`fe80::1%eth0`) names a link that is not inside.
    pub(super) fn parse(text: &str) -> Self {
        let mut parsed = Self::default();
        for line in text.lines() {
            let mut words = line.split_whitespace();
            match (words.next(), words.next()) {
                (Some("nameserver"), server) => parsed.servers.extend(server.and_then(|server| server.parse::<IpAddr>().ok())),
                _ => {
                    parsed.others.push_str(line);
                    parsed.others.push('\n');
                }
            }
        }
        parsed
    }

    /// The text that stands in for a file without a usable server; `None` where the file is good as it is.
    pub(super) fn replacement(&self) -> Option<String> {
        self.servers.is_empty().then(|| format!("{}nameserver 127.0.0.53\n", self.others))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_with_a_server_of_either_family_stays() {
        for server in ["192.0.2.1", "2001:db8::1", "127.0.0.53", "::1", "127.0.1.1"] {
            let conf = ResolvConf::parse(&format!("# comment\nsearch example.org\nnameserver {server} # x\noptions edns0\n"));
            assert_eq!(conf.servers, [server.parse::<IpAddr>().expect("an address")]);
            assert_eq!(conf.replacement(), None, "{server}");
        }
    }

    #[test]
    fn a_file_without_a_usable_server_gets_ours_and_keeps_its_other_lines() {
        for useless in ["", "nameserver fe80::1%eth0\n", "nameserver\n", "nameserver gateway\n", "#nameserver 192.0.2.1\n"] {
            let conf = ResolvConf::parse(&format!("{useless}search example.org\n"));
            let text = conf.replacement().expect("a replacement");
            assert!(text.ends_with("search example.org\nnameserver 127.0.0.53\n"), "{text}");
        }
    }
}
