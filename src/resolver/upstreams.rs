//! Where questions go: the list that a user or the system configured.
//!
//! Keeps one rule: an upstream is an address, never a name, so that nothing has to be resolved before the resolver works.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::sync::Arc;

use super::near::Near;
use super::resolv_conf;
use crate::names::{Name, NameError};

/// More upstreams than this are a mistake: each silent one costs the program a second.
const MAX: usize = 8;
/// The files that name the system's resolvers: systemd-resolved's own upstream list, and what programs read.
const SYSTEM_FILES: [&str; 2] = ["/run/systemd/resolve/resolv.conf", "/etc/resolv.conf"];
/// RFC 8484 §6 names this path as the usual one.
const USUAL_PATH: &str = "/dns-query";

/// The upstreams in the order in which they are asked, and the system's search domains.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Upstreams {
    list: Vec<Upstream>,
    search: Vec<Name>,
    network: Option<Box<Self>>,
}

/// One upstream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Upstream {
    pub(super) address: SocketAddr,
    pub(super) transport: Transport,
}

/// How one upstream is spoken to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Transport {
    /// UDP, and TCP for what UDP cannot carry.
    Plain,
    Tcp,
    Tls {
        name: Arc<str>,
    },
    Https {
        name: Arc<str>,
        path: Arc<str>,
    },
    Quic {
        name: Arc<str>,
    },
}

impl fmt::Display for Upstream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let address = self.address;
        match &self.transport {
            Transport::Plain => write!(f, "udp://{address}"),
            Transport::Tcp => write!(f, "tcp://{address}"),
            Transport::Tls { name } => write!(f, "tls://{address}#{name}"),
            Transport::Https { name, path } => write!(f, "https://{address}{path}#{name}"),
            Transport::Quic { name } => write!(f, "quic://{address}#{name}"),
        }
    }
}

impl Transport {
    pub(super) fn is_encrypted(&self) -> bool {
        match self {
            Self::Plain | Self::Tcp => false,
            Self::Tls { .. } | Self::Https { .. } | Self::Quic { .. } => true,
        }
    }
}

/// A configured upstream cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum UpstreamError {
    #[error("no upstream is named; name at least one, such as `192.0.2.53` or `tls://192.0.2.53#dns.example`")]
    None,
    #[error("{0} upstreams are named; at most {MAX} are asked")]
    TooMany(usize),
    #[error("`{entry}`: `{scheme}` is no transport; transports are udp, tcp, tls, https and quic")]
    Transport { entry: String, scheme: String },
    #[error("`{entry}`: an upstream is an IP address with an optional port, such as `192.0.2.53:53` or `[2001:db8::53]:53`")]
    Address { entry: String },
    #[error("`{entry}`: no host answers at this address; give the resolver's own unicast address, without a zone")]
    Unusable { entry: String },
    #[error("`{entry}`: only tls, https and quic have a `#name`, it is what the certificate must show")]
    SurplusName { entry: String },
    #[error("`{entry}`: only https has a path, such as `https://192.0.2.53/dns-query#dns.example`")]
    SurplusPath { entry: String },
    #[error("`{entry}`: a path is plain text without a template, such as `/dns-query`")]
    Path { entry: String },
    #[error("`{entry}`: the name after `#` cannot be in a certificate: {source}")]
    Name { entry: String, source: NameError },
}

impl Upstreams {
    /// Reads a configured list: `192.0.2.53`, `udp://192.0.2.53:5353`, `tcp://…`, `tls://192.0.2.53#dns.example`,
    /// `https://192.0.2.53/dns-query#dns.example`, `quic://192.0.2.53#dns.example`. Without `#name` the certificate must show
    /// the address.
    ///
    /// # Errors
    ///
    /// The list is empty or too long, or the first entry that cannot be used.
    pub fn parse(list: &[String]) -> Result<Self, UpstreamError> {
        if list.is_empty() {
            return Err(UpstreamError::None);
        }
        if list.len() > MAX {
            return Err(UpstreamError::TooMany(list.len()));
        }
        let list = list.iter().map(|entry| parse_one(entry)).collect::<Result<_, _>>()?;
        Ok(Self { list, search: Vec::new(), network: None })
    }

    /// The system's resolvers and search domains. Where a stub may be asked, resolv.conf comes first: it is what a program asks
    /// without us, and a stub knows more than its upstreams (split DNS of a VPN, DNSSEC). Where it may not, because our own
    /// capture sees it and asking it would be a loop: systemd-resolved's own upstreams, else those of resolv.conf that are not on
    /// this host. Empty when nothing is left; then each question goes to the address that the program asked.
    #[must_use]
    pub fn system(near: &Near) -> Self {
        let mut files = SYSTEM_FILES.map(Path::new);
        if *near == Near::nothing() {
            files.reverse();
        }
        Self::from_files(&files, near)
    }

    /// These upstreams, but `network` for its search domains and for names that only a local network knows.
    #[must_use]
    pub fn with_network(mut self, network: Self) -> Self {
        let useful = !self.list.is_empty() && !network.list.is_empty();
        self.network = useful.then(|| Box::new(network));
        self
    }

    /// No upstream of our own: each question goes to the address that the program asked.
    #[must_use]
    pub fn asked() -> Self {
        Self { list: Vec::new(), search: Vec::new(), network: None }
    }

    fn from_files(files: &[&Path], near: &Near) -> Self {
        for file in files {
            let Ok(bytes) = std::fs::read(file) else { continue };
            let read = resolv_conf::read(&bytes);
            let usable = read.servers.into_iter().filter(|ip| !near.has(*ip));
            let list: Vec<_> = usable.take(MAX).map(|ip| Upstream::plain(SocketAddr::new(ip, 53))).collect();
            if !list.is_empty() {
                return Self { list, search: read.search, network: None };
            }
            tracing::debug!(file = %file.display(), "no usable resolver is named");
        }
        Self::asked()
    }

    /// The upstreams as a person writes them, in their order.
    #[must_use]
    pub fn describe(&self) -> Vec<String> {
        self.list.iter().map(ToString::to_string).collect()
    }

    /// The system's search domains; empty for a configured list.
    #[must_use]
    pub fn search(&self) -> &[Name] {
        &self.search
    }

    /// True when each question goes to the address that the program asked.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.list.is_empty()
    }

    pub(super) fn network(&self) -> Option<&Self> {
        self.network.as_deref()
    }

    pub(super) fn list(&self) -> &[Upstream] {
        &self.list
    }
}

impl Upstream {
    pub(super) fn plain(address: SocketAddr) -> Self {
        Self { address, transport: Transport::Plain }
    }
}

fn parse_one(entry: &str) -> Result<Upstream, UpstreamError> {
    let owned = || entry.to_owned();
    let (scheme, rest) = entry.split_once("://").unwrap_or(("udp", entry));
    let (rest, name) = rest.split_once('#').map_or((rest, None), |(rest, name)| (rest, Some(name)));
    let (host, path) = rest.find('/').map_or((rest, None), |at| {
        let (host, path) = rest.split_at(at);
        (host, Some(path))
    });
    let default_port = match scheme {
        "udp" | "tcp" => 53,
        "tls" | "quic" => 853,
        "https" => 443,
        _ => return Err(UpstreamError::Transport { entry: owned(), scheme: scheme.to_owned() }),
    };
    if path.is_some() && scheme != "https" {
        return Err(UpstreamError::SurplusPath { entry: owned() });
    }
    if path.is_some_and(|path| !path.bytes().all(|byte| byte.is_ascii_graphic() && !b"{}?\"<>\\^`|".contains(&byte))) {
        return Err(UpstreamError::Path { entry: owned() });
    }
    if name.is_some() && matches!(scheme, "udp" | "tcp") {
        return Err(UpstreamError::SurplusName { entry: owned() });
    }
    let address = address(host, default_port).ok_or_else(|| UpstreamError::Address { entry: owned() })?;
    if !can_answer(address.ip()) {
        return Err(UpstreamError::Unusable { entry: owned() });
    }
    let name = certificate_name(name, address.ip()).map_err(|source| UpstreamError::Name { entry: owned(), source })?;
    let transport = match scheme {
        "tcp" => Transport::Tcp,
        "tls" => Transport::Tls { name },
        "quic" => Transport::Quic { name },
        "https" => Transport::Https { name, path: path.filter(|path| *path != "/").unwrap_or(USUAL_PATH).into() },
        _ => Transport::Plain,
    };
    Ok(Upstream { address, transport })
}

fn address(host: &str, default_port: u16) -> Option<SocketAddr> {
    if let Ok(address) = host.parse::<SocketAddr>() {
        return (address.port() != 0).then_some(address);
    }
    let bare = host.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(host);
    bare.parse().ok().map(|ip| SocketAddr::new(ip, default_port))
}

/// Addresses that one host can have and that need no interface to be reached.
pub(super) fn can_answer(ip: IpAddr) -> bool {
    let ip = ip.to_canonical();
    let link_local = matches!(ip, IpAddr::V6(v6) if v6.is_unicast_link_local());
    let broadcast = matches!(ip, IpAddr::V4(v4) if v4.is_broadcast());
    !(ip.is_unspecified() || ip.is_multicast() || link_local || broadcast)
}

fn certificate_name(name: Option<&str>, ip: IpAddr) -> Result<Arc<str>, NameError> {
    match name {
        None => Ok(ip.to_string().into()),
        Some(name) if name.parse::<IpAddr>().is_ok() => Ok(name.into()),
        Some(name) => name.parse::<Name>().map(|name| name.as_str().into()),
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;

    fn parsed(entry: &str) -> Result<Upstream, UpstreamError> {
        parse_one(entry)
    }

    fn upstream(address: &str, transport: Transport) -> Upstream {
        Upstream { address: address.parse().expect("the test writes an address"), transport }
    }

    #[test]
    fn each_transport_reads_with_its_default_port_in_both_families() {
        let name: Arc<str> = "dns.example".into();
        let path: Arc<str> = "/dns-query".into();
        for (entry, wanted) in [
            ("192.0.2.53", upstream("192.0.2.53:53", Transport::Plain)),
            ("2001:db8::53", upstream("[2001:db8::53]:53", Transport::Plain)),
            ("udp://192.0.2.53:5353", upstream("192.0.2.53:5353", Transport::Plain)),
            ("tcp://[2001:db8::53]", upstream("[2001:db8::53]:53", Transport::Tcp)),
            ("tls://192.0.2.53#DNS.Example.", upstream("192.0.2.53:853", Transport::Tls { name: name.clone() })),
            ("quic://[2001:db8::53]:8853#dns.example", upstream("[2001:db8::53]:8853", Transport::Quic { name: name.clone() })),
            (
                "https://192.0.2.53/dns-query#dns.example",
                upstream("192.0.2.53:443", Transport::Https { name: name.clone(), path: path.clone() }),
            ),
            ("https://192.0.2.53#dns.example", upstream("192.0.2.53:443", Transport::Https { name, path })),
            ("tls://192.0.2.53", upstream("192.0.2.53:853", Transport::Tls { name: "192.0.2.53".into() })),
        ] {
            assert_eq!(parsed(entry), Ok(wanted), "{entry}");
        }
    }

    #[test]
    fn an_entry_that_cannot_be_asked_is_refused_with_what_would_be_right() {
        for (entry, part) in [
            ("ftp://192.0.2.53", "transports are"),
            ("dns.example", "an IP address"),
            ("tls://dns.example", "an IP address"),
            ("192.0.2.53:0", "an IP address"),
            ("192.0.2.53:99999", "an IP address"),
            ("", "an IP address"),
            ("0.0.0.0", "unicast"),
            ("::", "unicast"),
            ("224.0.0.251", "unicast"),
            ("ff02::fb", "unicast"),
            ("fe80::1", "unicast"),
            ("fe80::1%eth0", "an IP address"),
            ("192.0.2.53#dns.example", "`#name`"),
            ("tls://192.0.2.53/dns-query", "only https has a path"),
            ("https://192.0.2.53/dns-query{?dns}#dns.example", "without a template"),
            ("https://192.0.2.53/dns query#dns.example", "without a template"),
            ("tls://192.0.2.53#dns..example", "certificate"),
            ("tls://192.0.2.53#", "certificate"),
        ] {
            let Err(error) = parsed(entry) else { panic!("`{entry}` was accepted") };
            assert!(error.to_string().contains(part), "{entry}: {error}");
        }
    }

    #[test]
    fn an_empty_or_endless_list_is_refused() {
        assert_eq!(Upstreams::parse(&[]), Err(UpstreamError::None));
        let many = vec!["192.0.2.53".to_owned(); MAX + 1];
        assert_eq!(Upstreams::parse(&many), Err(UpstreamError::TooMany(MAX + 1)));
    }

    fn resolv_conf(text: &str) -> tempfile::NamedTempFile {
        let mut file = tempfile::NamedTempFile::new().expect("a temporary file");
        write!(file, "{text}").expect("written");
        file
    }

    fn this_host() -> Near {
        Near::this_host(&["10.9.0.2", "172.17.0.1", "fd09::2"].map(|ip| ip.parse().expect("an address")))
    }

    #[test]
    fn a_server_on_this_host_is_skipped_for_the_next_file_unless_nothing_is_captured() {
        let real = "nameserver ::1\nnameserver ::ffff:127.0.0.1\nnameserver fd09::2\nnameserver 192.0.2.53\nsearch lan.example";
        let real = resolv_conf(real);
        for stub in ["127.0.0.53", "10.9.0.2", "172.17.0.1", "::ffff:10.9.0.2", "fd09::2", "::1"] {
            let file = resolv_conf(&format!("nameserver {stub}\nsearch stub.example"));
            let files = [Path::new("/nonexistent/resolv.conf"), file.path(), real.path()];

            let strict = Upstreams::from_files(&files, &this_host());
            assert_eq!(strict.list(), [upstream("192.0.2.53:53", Transport::Plain)], "{stub}");
            assert_eq!(strict.search().iter().map(Name::as_str).collect::<Vec<_>>(), ["lan.example"]);

            let open = Upstreams::from_files(&files, &Near::nothing());
            assert_eq!(open.list(), [Upstream::plain(SocketAddr::new(stub.parse().expect("an address"), 53))]);
        }
    }

    #[test]
    fn a_neighbours_address_is_no_stub() {
        let file = resolv_conf("nameserver 10.9.0.1\nnameserver 10.9.0.2\nnameserver fd09::1\n");
        let read = Upstreams::from_files(&[file.path()], &this_host());
        assert_eq!(read.describe(), ["udp://10.9.0.1:53", "udp://[fd09::1]:53"]);
    }

    #[test]
    fn without_any_usable_file_the_asked_address_is_the_upstream() {
        let stubs = resolv_conf("nameserver 10.9.0.2\nnameserver fd09::2\nnameserver 127.0.0.1\n");
        let none = Upstreams::from_files(&[Path::new("/nonexistent/resolv.conf"), stubs.path()], &this_host());
        assert!(none.is_empty());
    }
}
