//! Protocol and port of a rule: `TCP`, `UDP/53`, `*/80-90`, `TCP/HTTPS`.
//!
//! Keeps one rule: what is printed is read back as the same value.

use std::fmt;
use std::ops::RangeInclusive;
use std::str::FromStr;

use crate::packet::Protocol;

/// What a rule asks of protocol and port.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Transport {
    /// None: any protocol that has ports.
    pub protocol: Option<Protocol>,
    pub ports: Option<RangeInclusive<u16>>,
}

/// How a flow and a transport compare.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fit {
    Yes,
    No,
    /// The protocol has ports but this flow's is not known.
    Unknown,
}

/// Why a text is no transport.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TransportError {
    #[error("`{0}` is no protocol; write TCP, UDP, ICMP, ICMP6, another name, or a number up to 255")]
    Protocol(String),
    #[error("`{0}` is no port; write a number from 1 to 65535, a range such as 8000-8999, or a service name such as HTTPS")]
    Port(String),
    #[error("the range {0}-{1} runs backwards; write the lower port first")]
    Backwards(u16, u16),
    #[error("`*` as protocol needs a port; write */443, or leave the protocol out")]
    AnyWithoutPort,
    #[error("{0} has no ports; write {0} alone")]
    NoPorts(String),
}

/// IANA "Assigned Internet Protocol Numbers", those that a person may want to name.
const PROTOCOLS: [(&str, u8); 14] = [
    ("ICMP", 1),
    ("IGMP", 2),
    ("TCP", 6),
    ("UDP", 17),
    ("RDP", 27),
    ("DCCP", 33),
    ("IPV6", 41),
    ("GRE", 47),
    ("ESP", 50),
    ("AH", 51),
    ("ICMP6", 58),
    ("ICMPV6", 58),
    ("SCTP", 132),
    ("UDP-LITE", 136),
];
/// Protocols whose header starts with two port numbers.
const WITH_PORTS: [u8; 5] = [6, 17, 33, 132, 136];
/// IANA "Service Name and Transport Protocol Port Number Registry", with the short forms that people type.
const SERVICES: [(&str, u16); 38] = [
    ("FTP-DATA", 20),
    ("FTP", 21),
    ("SSH", 22),
    ("TELNET", 23),
    ("SMTP", 25),
    ("WHOIS", 43),
    ("DNS", 53),
    ("DOMAIN", 53),
    ("DHCP-SERVER", 67),
    ("DHCP-CLIENT", 68),
    ("TFTP", 69),
    ("HTTP", 80),
    ("POP3", 110),
    ("NTP", 123),
    ("IMAP", 143),
    ("SNMP", 161),
    ("BGP", 179),
    ("IRC", 194),
    ("LDAP", 389),
    ("HTTPS", 443),
    ("SMB", 445),
    ("SMTP-SSL", 465),
    ("SUBMISSION", 587),
    ("SMTP-ALT", 587),
    ("IPP", 631),
    ("LDAPS", 636),
    ("DOT", 853),
    ("RSYNC", 873),
    ("IMAPS", 993),
    ("IMAP-SSL", 993),
    ("POP3S", 995),
    ("POP3-SSL", 995),
    ("STUN", 3478),
    ("RDP", 3389),
    ("MDNS", 5353),
    ("LLMNR", 5355),
    ("GIT", 9418),
    ("SSDP", 1900),
];

impl Transport {
    /// Compares with a flow's protocol and port.
    #[must_use]
    pub fn fits(&self, protocol: Protocol, port: Option<u16>) -> Fit {
        if self.protocol.is_some_and(|own| own != protocol) {
            return Fit::No;
        }
        match (&self.ports, port) {
            (None, _) => Fit::Yes,
            (Some(ports), Some(port)) if ports.contains(&port) => Fit::Yes,
            (Some(_), Some(_)) => Fit::No,
            (Some(_), None) if protocol.has_ports() => Fit::Unknown,
            (Some(_), None) => Fit::No,
        }
    }
}

impl FromStr for Transport {
    type Err = TransportError;

    fn from_str(text: &str) -> Result<Self, TransportError> {
        let (protocol, ports) = match text.split_once('/') {
            Some((protocol, ports)) => (protocol, Some(ports)),
            None => (text, None),
        };
        let ports = ports.map(read_ports).transpose()?;
        if protocol == "*" {
            return if ports.is_some() { Ok(Self { protocol: None, ports }) } else { Err(TransportError::AnyWithoutPort) };
        }
        let number = read_protocol(protocol)?;
        if ports.is_some() && !WITH_PORTS.contains(&number) {
            return Err(TransportError::NoPorts(protocol.to_ascii_uppercase()));
        }
        Ok(Self { protocol: Some(Protocol(number)), ports })
    }
}

fn read_protocol(text: &str) -> Result<u8, TransportError> {
    let upper = text.to_ascii_uppercase().replace('_', "-");
    let named = PROTOCOLS.iter().find(|(name, _)| *name == upper).map(|(_, number)| *number);
    named.or_else(|| digits(text)).ok_or_else(|| TransportError::Protocol(text.to_owned()))
}

/// A number without sign; `str::parse` alone would take `+6`.
fn digits<T: FromStr>(text: &str) -> Option<T> {
    text.bytes().all(|b| b.is_ascii_digit()).then(|| text.parse().ok()).flatten()
}

fn read_ports(text: &str) -> Result<RangeInclusive<u16>, TransportError> {
    // Names such as SMTP-SSL hold the range's own sign, so the name is tried first.
    if let Some(port) = read_port(text) {
        return Ok(port..=port);
    }
    let bad = || TransportError::Port(text.to_owned());
    let (low, high) = text.split_once('-').ok_or_else(bad)?;
    let (low, high) = (read_port(low).ok_or_else(bad)?, read_port(high).ok_or_else(bad)?);
    if low > high { Err(TransportError::Backwards(low, high)) } else { Ok(low..=high) }
}

fn read_port(text: &str) -> Option<u16> {
    let upper = text.to_ascii_uppercase().replace('_', "-");
    let named = SERVICES.iter().find(|(name, _)| *name == upper).map(|(_, port)| *port);
    named.or_else(|| digits(text).filter(|&port| port != 0))
}

impl fmt::Display for Transport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.protocol {
            None => f.write_str("*")?,
            Some(Protocol(number)) => match PROTOCOLS.iter().find(|(_, own)| *own == number) {
                Some((name, _)) => f.write_str(name)?,
                None => write!(f, "{number}")?,
            },
        }
        match &self.ports {
            None => Ok(()),
            Some(ports) if ports.start() == ports.end() => write!(f, "/{}", ports.start()),
            Some(ports) => write!(f, "/{}-{}", ports.start(), ports.end()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_form_prints_as_its_canonical_text() {
        for (typed, printed) in [
            ("tcp", "TCP"),
            ("TCP/https", "TCP/443"),
            ("udp/50000-60000", "UDP/50000-60000"),
            ("6/22", "TCP/22"),
            ("*/80", "*/80"),
            ("icmp6", "ICMP6"),
            ("58", "ICMP6"),
            ("253", "253"),
            ("TCP/smtp_ssl", "TCP/465"),
            ("TCP/SSH-TELNET", "TCP/22-23"),
        ] {
            let transport: Transport = typed.parse().expect(typed);
            assert_eq!(transport.to_string(), printed);
            assert_eq!(printed.parse::<Transport>().as_ref(), Ok(&transport));
        }
    }

    #[test]
    fn what_is_no_protocol_or_port_is_refused() {
        for text in [
            "",
            "*",
            "*/",
            "/80",
            "TCP/",
            "TCP/0",
            "TCP/65536",
            "TCP/9-8",
            "TCP/+80",
            "TCP/*",
            "+6",
            "256",
            "ICMP/8",
            "FOO",
            "TCP/80-",
            "TCP/-80",
            "TCP/80-90-100",
            "TCP/80,90",
            "TCP/nosuch",
        ] {
            assert!(text.parse::<Transport>().is_err(), "{text} should be refused");
        }
    }

    #[test]
    fn a_flow_without_ports_never_fits_a_rule_with_ports() {
        let any: Transport = "*/80".parse().expect("a transport");
        assert_eq!(any.fits(Protocol::ICMP, None), Fit::No);
        assert_eq!(any.fits(Protocol::TCP, None), Fit::Unknown);
        assert_eq!(any.fits(Protocol::UDP, Some(80)), Fit::Yes);
        assert_eq!(any.fits(Protocol::UDP, Some(81)), Fit::No);
    }
}
