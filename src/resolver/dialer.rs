//! Sockets to upstreams: each carries the mark before its first packet.
//!
//! Keeps one rule: no socket of this room is made elsewhere, so nothing that we ask can loop back into the TUN. UDP sockets are
//! connected: the kernel then drops answers from strangers and reports a closed port at once.

use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use async_trait::async_trait;
use hickory_resolver::net::runtime::iocompat::AsyncIoTokioAsStd;
use hickory_resolver::net::runtime::{DnsUdpSocket, QuicSocketBinder, RuntimeProvider, TokioHandle, TokioTime};
use quinn::Runtime as _;
use socket2::{Domain, Protocol, SockRef, Socket, Type};
use tokio::io::Interest;
use tokio::net::{TcpSocket, TcpStream, UdpSocket};

/// How upstreams are reached.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Dialer {
    /// The firewall mark of each socket (`SO_MARK`, socket(7)); None inside `exec`, where the host does not capture us.
    pub mark: Option<u32>,
}

/// How long a TCP connect may take where hickory names no bound.
const CONNECT_WAIT: Duration = Duration::from_secs(2);

/// The dialer as hickory wants it.
#[derive(Clone)]
pub(super) struct Provider {
    dialer: Dialer,
    handle: TokioHandle,
}

impl Provider {
    pub(super) fn new(dialer: Dialer) -> Self {
        Self { dialer, handle: TokioHandle::default() }
    }
}

impl Dialer {
    fn udp(self, local: SocketAddr, server: SocketAddr) -> io::Result<Socket> {
        let socket = Socket::new(Domain::for_address(server), Type::DGRAM.nonblocking(), Some(Protocol::UDP))?;
        if let Some(mark) = self.mark {
            socket.set_mark(mark)?;
        }
        socket.bind(&local.into())?;
        Ok(socket)
    }

    async fn tcp(self, server: SocketAddr, local: Option<SocketAddr>) -> io::Result<TcpStream> {
        let socket = if server.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
        if let Some(mark) = self.mark {
            SockRef::from(&socket).set_mark(mark)?;
        }
        if let Some(local) = local {
            socket.bind(local)?;
        }
        socket.set_nodelay(true)?;
        socket.connect(server).await
    }
}

impl RuntimeProvider for Provider {
    type Handle = TokioHandle;
    type Timer = TokioTime;
    type Udp = Udp;
    type Tcp = AsyncIoTokioAsStd<TcpStream>;

    fn create_handle(&self) -> Self::Handle {
        self.handle.clone()
    }

    fn connect_tcp(
        &self,
        server_addr: SocketAddr,
        bind_addr: Option<SocketAddr>,
        timeout: Option<Duration>,
    ) -> Pin<Box<dyn Send + Future<Output = io::Result<Self::Tcp>>>> {
        let dialer = self.dialer;
        Box::pin(async move {
            let connect = dialer.tcp(server_addr, bind_addr);
            match tokio::time::timeout(timeout.unwrap_or(CONNECT_WAIT), connect).await {
                Ok(stream) => stream.map(AsyncIoTokioAsStd),
                Err(_) => Err(io::ErrorKind::TimedOut.into()),
            }
        })
    }

    fn bind_udp(
        &self,
        local_addr: SocketAddr,
        server_addr: SocketAddr,
    ) -> Pin<Box<dyn Send + Future<Output = io::Result<Self::Udp>>>> {
        let dialer = self.dialer;
        Box::pin(async move {
            let socket = dialer.udp(local_addr, server_addr)?;
            socket.connect(&server_addr.into())?;
            UdpSocket::from_std(socket.into()).map(Udp)
        })
    }

    fn quic_binder(&self) -> Option<&dyn QuicSocketBinder> {
        Some(self)
    }
}

impl QuicSocketBinder for Provider {
    fn bind_quic(&self, local: SocketAddr, server: SocketAddr) -> io::Result<Arc<dyn quinn::AsyncUdpSocket>> {
        // Not connected: QUIC may migrate, and quinn sends with an address each time.
        let socket = self.dialer.udp(local, server)?;
        quinn::TokioRuntime.wrap_udp_socket(socket.into())
    }
}

/// A connected UDP socket that hears of ICMP errors. tokio waits for readability alone, and a closed port makes a socket
/// erroneous, not readable (`datagram_poll` in net/core/datagram.c), so that it would look like silence.
pub(super) struct Udp(UdpSocket);

#[async_trait]
impl DnsUdpSocket for Udp {
    type Time = TokioTime;

    fn poll_recv_from(&self, cx: &mut Context<'_>, buf: &mut [u8]) -> Poll<io::Result<(usize, SocketAddr)>> {
        DnsUdpSocket::poll_recv_from(&self.0, cx, buf)
    }

    async fn recv_from(&self, buf: &mut [u8]) -> io::Result<(usize, SocketAddr)> {
        loop {
            let ready = self.0.ready(Interest::READABLE | Interest::ERROR).await?;
            if ready.is_error() {
                return Err(self.0.take_error()?.unwrap_or_else(|| io::ErrorKind::ConnectionRefused.into()));
            }
            match self.0.try_recv_from(buf) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                received => return received,
            }
        }
    }

    fn poll_send_to(&self, cx: &mut Context<'_>, buf: &[u8], target: SocketAddr) -> Poll<io::Result<usize>> {
        DnsUdpSocket::poll_send_to(&self.0, cx, buf, target)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::resolver::testing::{LOOPBACKS, closed};

    const MARK: u32 = 0x5100_0000;

    /// The mark, or the refusal that an ordinary user gets.
    fn assert_marked(socket: io::Result<u32>) {
        match socket {
            Ok(mark) => assert_eq!(mark, MARK),
            Err(error) => assert_eq!(error.kind(), io::ErrorKind::PermissionDenied),
        }
    }

    #[tokio::test]
    async fn every_socket_carries_the_mark_or_does_not_come_to_be() {
        let provider = Provider::new(Dialer { mark: Some(MARK) });
        for ip in LOOPBACKS {
            let local = SocketAddr::new(ip, 0);
            let listener = tokio::net::TcpListener::bind(local).await.expect("a free port");
            let server = listener.local_addr().expect("bound");
            let udp = provider.bind_udp(local, server).await;
            assert_marked(udp.and_then(|udp| SockRef::from(&udp.0).mark()));
            let tcp = provider.connect_tcp(server, None, None).await;
            assert_marked(tcp.and_then(|tcp| SockRef::from(&tcp.0).mark()));
            assert_marked(provider.dialer.udp(local, server).and_then(|quic| quic.mark()));
            let quic = provider.quic_binder().map(|binder| binder.bind_quic(local, server));
            assert!(quic.is_some_and(|quic| quic.is_ok() == provider.dialer.udp(local, server).is_ok()));
        }
    }

    #[tokio::test]
    async fn a_closed_port_is_heard_of_at_once() {
        let provider = Provider::new(Dialer::default());
        for ip in LOOPBACKS {
            let server = closed(ip).await;
            let socket = provider.bind_udp(SocketAddr::new(ip, 0), server).await.expect("a socket");
            socket.send_to(b"anyone?", server).await.expect("sent");
            let heard = tokio::time::timeout(Duration::from_secs(10), socket.recv_from(&mut [0; 16])).await;
            assert_eq!(heard.expect("no silence").map_err(|error| error.kind()), Err(io::ErrorKind::ConnectionRefused));
        }
    }
}
