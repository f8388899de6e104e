//! The inside of the network namespace: sysctls, the TUN, links, addresses, routes and the sockets that are passed out.
//!
//! Keeps one rule: all of it is made inside, because a socket belongs to the namespace in which it was made. The router outside
//! only uses what comes out of here.

use std::fs;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, UdpSocket};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::net::{AddressFamily, SocketFlags, SocketType, netlink, socket_with};

use super::keeper::Parameters;
use super::{EncloseError, error};
use crate::netlink::{RouteSocket, setup};
use crate::tun;

const DNS_PORT: u16 = 53;

/// Where programs ask by default: systemd-resolved's stub, and the C library's choice when resolv.conf is silent.
const LISTEN: [IpAddr; 3] =
    [IpAddr::V4(Ipv4Addr::new(127, 0, 0, 53)), IpAddr::V4(Ipv4Addr::LOCALHOST), IpAddr::V6(Ipv6Addr::LOCALHOST)];

/// Addresses on which we listen at most; resolv.conf names three servers usefully (`MAXNS` of resolv.conf(5)).
const LISTEN_LIMIT: usize = 12;

/// Settings of a network namespace that programs can tell, and that this host may have changed.
const AS_OUTSIDE: [&str; 10] = [
    "ipv4/ip_default_ttl",
    "ipv4/ip_local_port_range",
    "ipv4/ip_local_reserved_ports",
    "ipv4/ip_nonlocal_bind",
    "ipv4/tcp_keepalive_time",
    "ipv4/tcp_keepalive_intvl",
    "ipv4/tcp_keepalive_probes",
    "ipv6/bindv6only",
    "ipv6/ip_nonlocal_bind",
    "ipv6/conf/default/hop_limit",
];

/// These settings as they are on this host.
#[derive(Debug)]
pub(super) struct Settings(Vec<(&'static str, String)>);

impl Settings {
    /// Reads them, outside. What is not there is not set inside either.
    pub(super) fn of_this_host() -> Self {
        let read = |name: &'static str| Some((name, fs::read_to_string(format!("/proc/sys/net/{name}")).ok()?));
        Self(AS_OUTSIDE.into_iter().filter_map(read).collect())
    }
}

/// What is passed out.
pub(super) struct Sockets {
    pub(super) tun: Vec<OwnedFd>,
    sock_diag: OwnedFd,
    route: RouteSocket,
    pub(super) dns_udp: Vec<UdpSocket>,
    pub(super) dns_tcp: Vec<TcpListener>,
}

impl Sockets {
    /// In the order that `Report::Ready` promises.
    pub(super) fn fds(&self) -> Vec<BorrowedFd<'_>> {
        let first = [self.sock_diag.as_fd(), self.route.as_fd()];
        let tun = self.tun.iter().map(AsFd::as_fd);
        let udp = self.dns_udp.iter().map(AsFd::as_fd);
        first.into_iter().chain(tun).chain(udp).chain(self.dns_tcp.iter().map(AsFd::as_fd)).collect()
    }
}

/// Makes the network. `servers` are the loopback addresses that resolv.conf names.
pub(super) fn make(
    parameters: &Parameters,
    settings: &Settings,
    servers: &[IpAddr],
    around: &error::Surroundings,
) -> Result<Sockets, EncloseError> {
    let attempt = |what: &str, source: &io::Error| error::explain(what, source, around);
    sysctls(parameters, settings).map_err(|(path, source)| attempt(&format!("write {path}"), &source))?;
    let tun =
        tun::Queue::open_several(&parameters.device, parameters.queues).map_err(|source| explain_device(&source, around))?;
    let mut route = RouteSocket::open().map_err(|source| attempt("open an rtnetlink socket", &source))?;
    links(&mut route, parameters).map_err(|source| match source.errno() {
        Some(errno) => attempt("configure the enclosure's links", &io::Error::from_raw_os_error(errno)),
        None => EncloseError::step("configure the enclosure's links", source),
    })?;
    let sock_diag = socket_with(AddressFamily::NETLINK, SocketType::DGRAM, SocketFlags::CLOEXEC, Some(netlink::SOCK_DIAG))
        .map_err(|source| attempt("open a sock_diag socket", &source.into()))?;
    let (dns_udp, dns_tcp) = listeners(servers)?;
    Ok(Sockets { tun: tun.into_iter().map(tun::Queue::into_fd).collect(), sock_diag, route, dns_udp, dns_tcp })
}

/// A TUN that is refused to the root of a fresh user namespace is a ban on such namespaces, not a want of root.
fn explain_device(source: &tun::OpenError, around: &error::Surroundings) -> EncloseError {
    match source {
        tun::OpenError::Privilege { name } => {
            error::explain(&format!("make the TUN device {name}"), &io::Error::from_raw_os_error(libc::EPERM), around)
        }
        tun::OpenError::Missing | tun::OpenError::Mode { .. } | tun::OpenError::Busy { .. } | tun::OpenError::Kernel { .. } => {
            EncloseError::Device { sentence: source.to_string() }
        }
    }
}

/// Namespaced sysctls (ip-sysctl.rst). They must stand before the TUN is made, which copies `default`.
fn sysctls(parameters: &Parameters, Settings(settings): &Settings) -> Result<(), (String, io::Error)> {
    for (name, value) in settings {
        // One that a kernel gives to the first namespace alone stays as the kernel makes it.
        let _ = write_sysctl(name, value.trim_end());
    }
    let gid = rustix::process::getegid().as_raw();
    // No privileged port: the DNS listeners and the command's own servers need no capability.
    write_sysctl("ipv4/ip_unprivileged_port_start", "0")?;
    // Ping without file capabilities stays dumpable, hence attributable. A wider range has ids that are not mapped: EINVAL.
    write_sysctl("ipv4/ping_group_range", &format!("{gid} {gid}"))?;
    // The way from the program to us loses nothing and needs no pacing; that of the network is upstream's. Where reno may not be chosen
    // the program is slower, no more.
    let _ = write_sysctl("ipv4/tcp_congestion_control", "reno");
    if !ipv6_is_there() {
        return Ok(());
    }
    let wanted = parameters.addresses.iter().any(|(address, _)| address.is_ipv6());
    // A link-local address would have the kernel talk to neighbours that a TUN does not have (1 is IN6_ADDR_GEN_MODE_NONE).
    write_sysctl("ipv6/conf/default/addr_gen_mode", "1")?;
    for link in ["all", "default"] {
        // Nobody advertises routers on our TUN; an advertisement could only be forged.
        write_sysctl(&format!("ipv6/conf/{link}/accept_ra"), "0")?;
        if wanted {
            write_sysctl(&format!("ipv6/conf/{link}/disable_ipv6"), "0")?;
        }
    }
    Ok(())
}

fn write_sysctl(name: &str, value: &str) -> Result<(), (String, io::Error)> {
    let path = format!("/proc/sys/net/{name}");
    fs::write(&path, value).map_err(|source| (path, source))
}

fn ipv6_is_there() -> bool {
    fs::exists("/proc/sys/net/ipv6/conf/default").unwrap_or(false)
}

fn links(route: &mut RouteSocket, parameters: &Parameters) -> Result<(), crate::netlink::RequestError> {
    setup::loopback_up(route)?;
    let index = setup::configure_tun(route, &parameters.device, &parameters.addresses, parameters.mtu)?;
    setup::lead(route, index, &parameters.reach)
}

/// Binds each loopback address by itself: a wildcard socket would answer from the wrong one.
fn listeners(servers: &[IpAddr]) -> Result<(Vec<UdpSocket>, Vec<TcpListener>), EncloseError> {
    let mut addresses = LISTEN.to_vec();
    for server in servers.iter().filter(|server| server.is_loopback()) {
        if !addresses.contains(server) && addresses.len() < LISTEN_LIMIT {
            addresses.push(*server);
        }
    }
    let (mut udp, mut tcp) = (Vec::new(), Vec::new());
    for address in addresses.into_iter().filter(|address| address.is_ipv4() || ipv6_is_there()) {
        let at = SocketAddr::new(address, DNS_PORT);
        let (datagram, stream) =
            listen(at).map_err(|source| EncloseError::step(format!("listen on {at} in the enclosure"), source))?;
        udp.push(datagram);
        tcp.push(stream);
    }
    Ok((udp, tcp))
}

fn listen(at: SocketAddr) -> io::Result<(UdpSocket, TcpListener)> {
    let (udp, tcp) = (UdpSocket::bind(at)?, TcpListener::bind(at)?);
    udp.set_nonblocking(true)?;
    tcp.set_nonblocking(true)?;
    Ok((udp, tcp))
}
