"""How TCP connections begin: connected, refused, rejected, unanswered; what names and ports both ends see."""

import ctypes
import errno
import select
import socket
import struct
import threading
import time

from kit import CLOSED, CLOSES, FAST_OPEN, REJECTIONS, RESETS, SCRIPT, TCP_FASTOPEN_CONNECT, TCP_USER_TIMEOUT
from kit import behaviour, disconnect, errno_name, events, recv_all, said, tcp_info, timed

POLL = [("IN", 1), ("PRI", 2), ("OUT", 4), ("ERR", 8), ("HUP", 16), ("RDHUP", 0x2000)]
REUSE = (socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
# Source ports of the behaviours, out of the way of the kernel's own choice by the families' and behaviours' difference.
FIXED = {"4": 20104, "6": 20106}


def begun(net, port, address=None, prepare=lambda made: None):
    """A non-blocking connect, and what it said."""
    made = net.tcp()
    prepare(made)
    made.setblocking(False)
    return made, said(lambda: made.connect((address or net.server, port)))


def so_error(made):
    number = made.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
    return errno.errorcode.get(number, number)


def polled(made, mask, wait_ms=2000):
    poll = select.poll()
    poll.register(made, mask)
    found = poll.poll(wait_ms)
    return events(found[0][1], POLL) if found else "nothing"


def rejected(attempt):
    """As timed(). On a wire without delay the error comes while connect(2) still holds the socket, and the kernel heeds only the next one, a
    second later (tcp_v4_err in net/ipv4/tcp_ipv4.c); on any other wire it is heeded at once."""
    answer, time_class = timed(attempt)
    return [answer, "in time" if time_class in ("now", "soon", "1 s", "2 s") else time_class]


@behaviour("tcp.connect.answered")
def _(net):
    return timed(lambda: net.dial(SCRIPT).close())


@behaviour("tcp.connect.refused")
def _(net):
    return timed(lambda: net.dial(CLOSED))


@behaviour("tcp.connect.refused.other_address")
def _(net):
    return timed(lambda: net.dial(CLOSED, net.other))


def register_rejections():
    for name in sorted({name for names in REJECTIONS.values() for name in names}):
        families = "".join(family for family, names in REJECTIONS.items() if name in names)

        @behaviour(f"tcp.connect.rejected.{name}", families=families)
        def _(net, name=name):
            return rejected(lambda: net.dial(net.rejecting(name)))


register_rejections()


@behaviour("tcp.connect.rejected.recverr")
def _(net):
    made = net.ask_errors(net.tcp())
    answer = rejected(lambda: net.dial(net.rejecting("admin-prohibited"), made=made))
    return [answer, net.error_of(made, 0.2)]


@behaviour("tcp.connect.unreachable")
def _(net):
    return rejected(lambda: net.dial(SCRIPT, net.unreachable))


@behaviour("tcp.connect.unreachable.then_answered")
def _(net):
    made = net.tcp()
    return [said(lambda: net.dial(SCRIPT, net.unreachable, made)), said(lambda: net.dial(SCRIPT, made=made) and None)]


@behaviour("tcp.connect.refused.then_answered")
def _(net):
    made = net.tcp()
    return [said(lambda: net.dial(CLOSED, made=made)), said(lambda: net.dial(SCRIPT, made=made) and None)]


@behaviour("tcp.connect.silent.one_retry", slow=True)
def _(net):
    made = net.tcp()
    made.setsockopt(socket.IPPROTO_TCP, socket.TCP_SYNCNT, 1)
    return timed(lambda: net.dial(SCRIPT, net.silent, made))


@behaviour("tcp.connect.silent.user_timeout", slow=True)
def _(net):
    made = net.tcp()
    made.setsockopt(socket.IPPROTO_TCP, TCP_USER_TIMEOUT, 1500)
    return timed(lambda: net.dial(SCRIPT, net.silent, made))


@behaviour("tcp.connect.silent.send_timeout")
def _(net):
    made = net.tcp()
    made.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, struct.pack("ll", 0, 400000))
    return [timed(lambda: net.dial(SCRIPT, net.silent, made)), said(lambda: net.dial(SCRIPT, net.silent, made))]


@behaviour("tcp.connect.silent.again_is_already")
def _(net):
    made, first = begun(net, SCRIPT, net.silent)
    time.sleep(0.05)
    return [first, said(lambda: net.dial(SCRIPT, net.silent, made)), polled(made, select.POLLOUT, 100), tcp_info(made, "state")]


@behaviour("tcp.connect.silent.closed")
def _(net):
    made, first = begun(net, SCRIPT, net.silent)
    port = made.getsockname()[1]
    made.close()
    again = net.tcp()
    again.bind(("", port))
    return [first, said(lambda: net.dial(SCRIPT, made=again) and None)]


@behaviour("tcp.connect.twice")
def _(net):
    made = net.dial(SCRIPT)
    return [said(lambda: net.dial(SCRIPT, made=made)), said(lambda: net.dial(SCRIPT, net.other, made))]


@behaviour("tcp.connect.nonblocking")
def _(net):
    made, first = begun(net, SCRIPT)
    then = [polled(made, select.POLLIN | select.POLLOUT), so_error(made), said(lambda: net.dial(SCRIPT, made=made) and None)]
    return [first, then, said(lambda: made.recv(1))]


@behaviour("tcp.connect.nonblocking.refused")
def _(net):
    made, first = begun(net, CLOSED)
    return [first, polled(made, select.POLLIN | select.POLLOUT | 0x2000), so_error(made), so_error(made), said(lambda: made.recv(1))]


@behaviour("tcp.connect.nonblocking.refused.connect_tells")
def _(net):
    made, first = begun(net, CLOSED)
    return [first, polled(made, select.POLLOUT), said(lambda: net.dial(CLOSED, made=made)), so_error(made)]


@behaviour("tcp.connect.nonblocking.unreachable")
def _(net):
    made, first = begun(net, SCRIPT, net.unreachable)
    time.sleep(1.4)
    return [first, polled(made, select.POLLIN | select.POLLOUT | 0x2000), so_error(made)]


@behaviour("tcp.connect.nonblocking.refused.send_tells")
def _(net):
    made, first = begun(net, CLOSED)
    return [first, polled(made, select.POLLOUT), said(lambda: made.send(b"x")), said(lambda: made.send(b"x"))]


@behaviour("tcp.connect.edges")
def _(net):
    """The order of edges that epoll tells over a connection's life."""
    epoll, made = select.epoll(), net.tcp()
    made.setblocking(False)
    told = []

    def edges(wait_s=1.0):
        found = epoll.poll(wait_s)
        told.append(events(found[0][1], POLL) if found else "nothing")

    epoll.register(made, select.EPOLLIN | select.EPOLLOUT | select.EPOLLRDHUP | select.EPOLLET)
    first = said(lambda: made.connect((net.server, SCRIPT)))
    time.sleep(0.1)
    edges()
    if "ERR" in told[0]:
        return [first, told, so_error(made)]
    net.tell(made, "recv:1 send:10 wait:150 fin recv:1 wait:100 close")
    made.send(b"x")
    time.sleep(0.1)
    edges()
    made.recv(100)
    time.sleep(0.15)
    edges()
    made.send(b"x")
    time.sleep(0.15)
    edges(0.3)
    made.shutdown(socket.SHUT_WR)
    time.sleep(0.05)
    edges(0.3)
    return [first, told]


@behaviour("tcp.connect.port_zero")
def _(net):
    return timed(lambda: net.dial(0))


@behaviour("tcp.connect.many_hosts.multicast", local=True)
def _(net):
    return timed(lambda: net.dial(SCRIPT, "224.0.0.1" if net.v4 else "ff02::1"))


@behaviour("tcp.connect.many_hosts.broadcast", families="4", local=True)
def _(net):
    return timed(lambda: net.dial(SCRIPT, "255.255.255.255"))


@behaviour("tcp.connect.many_hosts.wide_multicast", local=True)
def _(net):
    return timed(lambda: net.dial(SCRIPT, "239.1.2.3" if net.v4 else "ff0e::1:2:3"))


@behaviour("tcp.connect.loopback.refused", local=True)
def _(net):
    return timed(lambda: net.dial(CLOSED, "127.0.0.1" if net.v4 else "::1"))


@behaviour("tcp.connect.any_address.refused", local=True)
def _(net):
    return timed(lambda: net.dial(CLOSED, "0.0.0.0" if net.v4 else "::"))


@behaviour("tcp.connect.loopback.answered", local=True)
def _(net):
    listener = net.tcp()
    listener.bind(("127.0.0.1" if net.v4 else "::1", 0))
    listener.listen()
    made = net.dial(listener.getsockname()[1], listener.getsockname()[0])
    peer, _ = listener.accept()
    peer.sendall(b"hello")
    return made.recv(10).decode()


@behaviour("tcp.connect.own_address.answered", local=True)
def _(net):
    """A server of this host, asked under the address that the host uses."""
    own = net.udp(net.server, 9).getsockname()[0]
    listener = net.tcp()
    listener.bind(("", 0))
    listener.listen()
    made = net.dial(listener.getsockname()[1], own)
    peer, name = listener.accept()
    peer.sendall(b"hello")
    return [made.recv(10).decode(), name[0] == own]


@behaviour("tcp.connect.mapped", families="6")
def _(net):
    made = net.dial(SCRIPT, "::ffff:203.0.113.10")
    token = net.tell(made, "send:10")
    return [recv_all(made), made.getpeername()[:2], made.getsockname()[0].startswith("::ffff:"), net.report(token)]


@behaviour("tcp.connect.mapped.refused", families="6")
def _(net):
    return timed(lambda: net.dial(CLOSED, "::ffff:203.0.113.10"))


@behaviour("tcp.connect.mapped.unreachable", families="6")
def _(net):
    return rejected(lambda: net.dial(CLOSED, "::ffff:203.0.113.67"))


@behaviour("tcp.connect.mapped.v6only", families="6", local=True)
def _(net):
    made = net.tcp()
    made.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
    return timed(lambda: net.dial(SCRIPT, "::ffff:203.0.113.10", made))


@behaviour("tcp.connect.own_family_only", local=True)
def _(net):
    made = net.tcp()
    packed = struct.pack("=H", socket.AF_INET6 if net.v4 else socket.AF_UNIX) + bytes(26)
    return [ctypes.CDLL(None, use_errno=True).connect(made.fileno(), packed, 28), errno.errorcode.get(ctypes.get_errno())]


@behaviour("tcp.connect.then_disconnect")
def _(net):
    made, token = net.script("send:10 drain")
    made.recv(10)
    disconnected = said(lambda: disconnect(made))
    again = said(lambda: net.dial(SCRIPT, made=made) and None)
    return [disconnected, again, net.report(token)]


@behaviour("tcp.connect.parallel")
def _(net):
    """Forty at once."""
    answers = []

    def one(number):
        try:
            made, _ = net.script(f"send:{number}")
            answers.append(recv_all(made)[0] == number)
        except OSError as error:
            answers.append(errno_name(error))

    threads = [threading.Thread(target=one, args=[number]) for number in range(1, 41)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return [len(answers), sorted(set(answers), key=str)]


@behaviour("tcp.connect.one_after_another")
def _(net):
    return sorted({str(recv_all(net.script("send:3")[0])) for _ in range(30)})


@behaviour("tcp.connect.hop_limit.two")
def _(net):
    made = net.tcp()
    made.setsockopt(net.level, net.ttl_option, 2)
    return timed(lambda: net.dial(SCRIPT, made=made) and None)


@behaviour("tcp.connect.hop_limit.one")
def _(net):
    made = net.ask_errors(net.tcp())
    made.setsockopt(net.level, net.ttl_option, 1)
    return [rejected(lambda: net.dial(SCRIPT, made=made) and None), net.error_of(made, 0.1)]


@behaviour("tcp.connect.fast_open")
def _(net):
    made = net.tcp()
    line = f"{net.token()} send:5\n".encode()
    sent = said(lambda: made.sendto(line, socket.MSG_FASTOPEN, (net.server, SCRIPT)) == len(line))
    return [sent, recv_all(made)]


@behaviour("tcp.connect.fast_open.refused")
def _(net):
    made = net.tcp()
    return [said(lambda: made.sendto(b"x", socket.MSG_FASTOPEN, (net.server, CLOSED))), said(lambda: made.recv(1))]


@behaviour("tcp.connect.fast_open.deferred")
def _(net):
    made = net.tcp()
    made.setsockopt(socket.IPPROTO_TCP, TCP_FASTOPEN_CONNECT, 1)
    first = said(lambda: net.dial(SCRIPT, made=made) and None)
    return [first, said(lambda: net.tell(made, "send:5") and None), recv_all(made)]


@behaviour("tcp.connect.fast_open.data_in_syn")
def _(net):
    """Whether the second connection's SYN carries data that the server takes (TCPI_OPT_SYN_DATA)."""
    told = []
    for _ in range(2):
        made = net.tcp()
        made.sendto(f"{net.token()} send:5\n".encode(), socket.MSG_FASTOPEN, (net.server, FAST_OPEN))
        told.append([recv_all(made), bool(tcp_info(made, "options")[0] & 32)])
    return told


@behaviour("tcp.connect.multipath")
def _(net):
    made, _ = net.script("send:5", made=net.tcp(262))
    return recv_all(made)


@behaviour("tcp.accepted.then_closed")
def _(net):
    made = net.dial(CLOSES)
    return [recv_all(made), said(lambda: made.shutdown(socket.SHUT_WR))]


@behaviour("tcp.accepted.then_reset")
def _(net):
    made = net.dial(RESETS)
    time.sleep(0.15)
    return [recv_all(made), said(lambda: made.send(b"x"))]
