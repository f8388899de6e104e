"""What UDP carries: sizes and fragments, connected and unconnected sockets, other peers, types of service and hop limits."""

import array
import fcntl
import itertools
import json
import select
import socket
import struct
import termios
import time

from kit import SCRIPT, behaviour, hashed, pattern, said

REUSE = (socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
FIXED = {"4": 20304, "6": 20306}


def asked(made, word, padding=0):
    """Sends a command over a connected socket."""
    made.send(f"{word}\n".encode().ljust(padding, b"."))


def answer(made, limit_s=1.0):
    """The next datagram, or the error that came in its place."""
    made.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, struct.pack("ll", int(limit_s), int(limit_s % 1 * 1e6)))
    return said(lambda: made.recv(70000))


def answers(made, count):
    """The next datagrams, up to the first that does not come."""
    return list(itertools.takewhile(lambda data: isinstance(data, bytes), (answer(made) for _ in range(count))))


def text(data):
    return data.decode() if isinstance(data, bytes) else data


def seen(net, made, to=None):
    """What the peer sees of a datagram."""
    made.sendto(b"seen\n", to or (net.server, SCRIPT))
    return json.loads(made.recv(1000))


@behaviour("udp.echo.connected")
def _(net):
    made = net.udp(net.server, SCRIPT)
    made.send(b"hello")
    return text(answer(made))


@behaviour("udp.echo.unconnected")
def _(net):
    made = net.udp()
    made.sendto(b"hello", (net.server, SCRIPT))
    data, peer = made.recvfrom(100)
    return [data.decode(), net.place(peer[0]), peer[1:]]


def register_sizes():
    for size in (0, 1, 512, 1400, 1452, 1453, 1472, 1473, 2945, 8000, 20000, 65507):

        @behaviour(f"udp.echo.{size}")
        def _(net, size=size):
            made = net.udp(net.server, SCRIPT)
            made.send(pattern(size))
            data = answer(made)
            return hashed(data) if isinstance(data, bytes) else data

    for size in (1400, 1473, 8000, 65507):

        @behaviour(f"udp.up.{size}")
        def _(net, size=size):
            made = net.udp(net.server, SCRIPT)
            made.send(b"hash\n" + pattern(size - 5))
            return text(answer(made))

        @behaviour(f"udp.down.{size}")
        def _(net, size=size):
            made = net.udp(net.server, SCRIPT)
            asked(made, f"size:{size}")
            data = answer(made)
            return hashed(data) if isinstance(data, bytes) else data


register_sizes()


@behaviour("udp.too_large", local=True)
def _(net):
    made = net.udp(net.server, SCRIPT)
    return [said(lambda: made.send(bytes(65508 if net.v4 else 65528))), said(lambda: made.send(bytes(70000)))]


@behaviour("udp.truncated")
def _(net):
    made = net.udp(net.server, SCRIPT)
    made.send(pattern(1000))
    data, _, flags, _ = made.recvmsg(100)
    return [len(data), bool(flags & socket.MSG_TRUNC)]


@behaviour("udp.truncated.true_length")
def _(net):
    made = net.udp(net.server, SCRIPT)
    made.send(pattern(1000))
    return [made.recv_into(bytearray(10), 10, socket.MSG_TRUNC | socket.MSG_PEEK), len(made.recv(2000))]


@behaviour("udp.waiting_bytes")
def _(net):
    made = net.udp(net.server, SCRIPT)
    made.send(pattern(777))
    select.select([made], [], [], 1)
    told = array.array("i", [0])
    fcntl.ioctl(made, termios.FIONREAD, told)
    return told[0]


@behaviour("udp.order")
def _(net):
    made = net.udp(net.server, SCRIPT)
    for number in range(100):
        said(lambda: made.send(b"%d" % number))
    return answers(made, 100) == [b"%d" % number for number in range(100)]


@behaviour("udp.many_answers")
def _(net):
    made = net.udp(net.server, SCRIPT)
    asked(made, "count:60")
    return answers(made, 60) == [b"%d" % number for number in range(60)]


@behaviour("udp.corked")
def _(net):
    made = net.udp(net.server, SCRIPT)
    made.send(b"one ", socket.MSG_MORE)
    made.send(b"datagram")
    return text(answer(made))


@behaviour("udp.segmented")
def _(net):
    """UDP_SEGMENT: one send, many datagrams."""
    made = net.udp(net.server, SCRIPT)
    made.setsockopt(socket.IPPROTO_UDP, 103, 1000)
    made.send(pattern(9500))
    return [len(data) for data in answers(made, 10)]


@behaviour("udp.merged")
def _(net):
    """UDP_GRO: whether datagrams come merged is the kernel's choice; all bytes come."""
    made = net.udp(net.server, SCRIPT)
    made.setsockopt(socket.IPPROTO_UDP, 104, 1)
    made.setsockopt(socket.IPPROTO_UDP, 103, 1000)
    made.send(pattern(20000))
    count = 0
    while count < 20000 and isinstance(data := answer(made, 0.5), bytes):
        count += len(data)
    return count


@behaviour("udp.without_checksum", families="4")
def _(net):
    made = net.udp(net.server, SCRIPT)
    made.setsockopt(socket.SOL_SOCKET, 11, 1)
    made.send(b"hello")
    return text(answer(made))


@behaviour("udp.with_ip_options", families="4")
def _(net):
    made = net.udp(net.server, SCRIPT)
    made.setsockopt(socket.IPPROTO_IP, socket.IP_OPTIONS, b"\1\1\1\1")
    made.send(b"hello")
    return text(answer(made))


@behaviour("udp.with_destination_options", families="6")
def _(net):
    made = net.udp(net.server, SCRIPT)
    made.setsockopt(socket.IPPROTO_IPV6, 59, b"\0\0\1\4\0\0\0\0")
    made.send(b"hello")
    return text(answer(made))


@behaviour("udp.with_flow_label", families="6")
def _(net):
    made = net.udp()
    made.setsockopt(socket.IPPROTO_IPV6, 70, 1)
    made.sendto(b"hello", (net.server, SCRIPT, 0, 0))
    return text(answer(made))


@behaviour("udp.mapped", families="6")
def _(net):
    made = net.udp()
    made.sendto(b"hello", ("::ffff:203.0.113.10", SCRIPT))
    data, peer = made.recvfrom(100)
    return [data.decode(), peer[:2]]


@behaviour("udp.mapped.connected", families="6")
def _(net):
    made = net.udp("::ffff:203.0.113.10", SCRIPT)
    made.send(b"hello")
    return [text(answer(made)), made.getpeername()[:2]]


@behaviour("udp.last_before_close")
def _(net):
    """What a program sent last arrives, however soon it ends."""
    token = net.token()
    made = net.udp(net.server, SCRIPT)
    asked(made, f"log:{token}", 100)
    made.close()
    time.sleep(0.2)
    return net.report(token)


@behaviour("udp.last_before_close.after_idleness", slow=True)
def _(net):
    token = net.token()
    made = net.udp(net.server, SCRIPT)
    made.send(b"hello")
    told = text(answer(made))
    time.sleep(1.5)
    asked(made, f"log:{token}", 100)
    made.close()
    time.sleep(0.2)
    return [told, net.report(token)]


@behaviour("udp.idle_then_on", slow=True)
def _(net):
    made = net.udp(net.server, SCRIPT)
    told = []
    for _ in range(3):
        made.send(b"hello")
        told.append(text(answer(made)))
        time.sleep(1.2)
    return told


@behaviour("udp.packet_info")
def _(net):
    made = net.udp(net.server, SCRIPT)
    made.setsockopt(net.level, 8 if net.v4 else 49, 1)
    asked(made, "echo")
    _, control, _, _ = made.recvmsg(2000, 256)
    value = control[0][2]
    family, at = (socket.AF_INET, value[8:12]) if net.v4 else (socket.AF_INET6, value[:16])
    return [len(control), socket.inet_ntop(family, at) == made.getsockname()[0]]


@behaviour("udp.time_stamp")
def _(net):
    made = net.udp(net.server, SCRIPT)
    made.setsockopt(socket.SOL_SOCKET, 35, 1)
    asked(made, "echo")
    _, control, _, _ = made.recvmsg(2000, 256)
    seconds, _ = struct.unpack_from("ll", control[0][2])
    return abs(seconds - time.time()) < 5


@behaviour("udp.port_zero", local=True)
def _(net):
    made = net.udp()
    return [said(lambda: made.sendto(b"x", (net.server, 0))), said(lambda: made.connect((net.server, 0)))]


@behaviour("udp.unconnected.send", local=True)
def _(net):
    return [said(lambda: net.udp().send(b"x")), said(lambda: net.udp().recv(1, socket.MSG_DONTWAIT)), said(net.udp().getpeername)]


@behaviour("udp.broadcast.not_allowed", families="4", local=True)
def _(net):
    return said(lambda: net.udp().sendto(b"x", ("255.255.255.255", 9)))


@behaviour("udp.broadcast", families="4", refused=1)
def _(net):
    made = net.udp()
    made.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
    return said(lambda: made.sendto(b"x", ("255.255.255.255", 9)))


@behaviour("udp.multicast", refused=[1, "EAGAIN"])
def _(net):
    made = net.udp()
    sent = said(lambda: made.sendto(b"x", ("239.1.2.3" if net.v4 else "ff05::1:3", 9)))
    return [sent, said(lambda: made.recv(1, socket.MSG_DONTWAIT))]


@behaviour("udp.multicast.joined", local=True)
def _(net):
    made = net.udp()
    group = socket.inet_pton(net.domain, "239.1.2.3" if net.v4 else "ff05::1:3")
    request = group + bytes(4)
    return said(lambda: made.setsockopt(net.level, socket.IP_ADD_MEMBERSHIP if net.v4 else socket.IPV6_JOIN_GROUP, request))


@behaviour("udp.loopback", local=True)
def _(net):
    listener = net.udp()
    listener.bind(("127.0.0.1" if net.v4 else "::1", 0))
    made = net.udp(*listener.getsockname()[:2])
    made.send(b"hello")
    return text(answer(listener))


@behaviour("udp.narrow_path")
def _(net):
    """A hop with a smaller MTU: larger datagrams arrive in fragments, as long as they may be cut."""
    made = net.udp(net.narrow(1), SCRIPT)
    if net.v4:
        made.setsockopt(socket.IPPROTO_IP, 10, 0)
    told = []
    for _ in range(3):
        made.send(b"hash\n" + pattern(1395))
        told.append(text(answer(made, 0.4)))
    return told
