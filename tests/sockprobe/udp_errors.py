"""What comes back instead of a datagram: ICMP errors and their error queue, path MTU, hops that time out; and who tells it to whom."""

import select
import socket
import struct
import time

from kit import CLOSED, IP_MTU, IP_MTU_DISCOVER, IPV6_MTU, IPV6_MTU_DISCOVER, REJECTIONS, SCRIPT, behaviour, pattern, said
from tcp_open import polled, so_error
from udp import answer, text


def rejected(net, port, address=None):
    """A connected socket that has sent to where an error comes back from."""
    made = net.udp(address or net.server, port)
    made.send(b"hello")
    time.sleep(0.15)
    return made


@behaviour("udp.refused.connected")
def _(net):
    made = rejected(net, CLOSED)
    return [said(lambda: made.recv(10)), said(lambda: made.recv(10, socket.MSG_DONTWAIT)), said(lambda: made.send(b"x"))]


@behaviour("udp.refused.connected.send_tells")
def _(net):
    made = rejected(net, CLOSED)
    told = [said(lambda: made.send(b"x"))]
    time.sleep(0.15)
    return [*told, said(lambda: made.send(b"x"))]


@behaviour("udp.refused.connected.so_error")
def _(net):
    made = rejected(net, CLOSED)
    return [polled(made, select.POLLIN | select.POLLOUT, 0), so_error(made), so_error(made), polled(made, select.POLLIN | select.POLLOUT, 0)]


@behaviour("udp.refused.unconnected", refused="EAGAIN")
def _(net):
    made = net.udp()
    made.sendto(b"hello", (net.server, CLOSED))
    return answer(made, 0.4)


@behaviour("udp.refused.again_and_again")
def _(net):
    told = []
    made = net.udp(net.server, CLOSED)
    for _ in range(4):
        told.append(said(lambda: made.send(b"x")))
        time.sleep(0.1)
        told.append(said(lambda: made.recv(1)))
    return told


@behaviour("udp.refused.then_another_peer")
def _(net):
    made = rejected(net, CLOSED)
    told = said(lambda: made.recv(1))
    made.connect((net.server, SCRIPT))
    made.send(b"hello")
    return [told, text(answer(made))]


@behaviour("udp.unreachable")
def _(net):
    return answer(rejected(net, SCRIPT, net.unreachable), 0.3)


@behaviour("udp.silent")
def _(net):
    made = net.udp(net.silent, SCRIPT)
    made.send(b"hello")
    return answer(made, 0.4)


def register_rejections():
    for name in sorted({name for names in REJECTIONS.values() for name in names}):
        families = "".join(family for family, names in REJECTIONS.items() if name in names)

        @behaviour(f"udp.rejected.{name}", families=families)
        def _(net, name=name):
            made = net.udp(net.server, net.rejecting(name))
            made.send(b"hello")
            told = answer(made, 0.4)
            net.ask_errors(made)
            made.send(b"hello")
            return [told, net.error_of(made)]


register_rejections()


@behaviour("udp.error_queue.refused")
def _(net):
    made = net.ask_errors(net.udp())
    made.sendto(pattern(300), (net.server, CLOSED))
    return [net.error_of(made), net.error_of(made, 0.1), said(lambda: made.recv(1, socket.MSG_DONTWAIT))]


@behaviour("udp.error_queue.error_first")
def _(net):
    """The pending error is told once by the next call; the queue keeps what it was."""
    made = net.ask_errors(net.udp())
    made.sendto(b"hello", (net.server, CLOSED))
    time.sleep(0.15)
    first = polled(made, select.POLLIN | select.POLLOUT, 0)
    told = [said(lambda: made.sendto(b"x", (net.server, SCRIPT))), said(lambda: made.sendto(b"x", (net.server, SCRIPT)))]
    return [first, told, text(answer(made)), net.error_of(made)]


@behaviour("udp.error_queue.two_peers")
def _(net):
    """Each error names the peer that it is about."""
    made = net.ask_errors(net.udp())
    told = []
    for address in (net.server, net.other):
        said(lambda: made.sendto(b"hello", (address, CLOSED)))
        told.append(net.error_of(made))
        so_error(made)
    return told


@behaviour("udp.error_queue.unreachable")
def _(net):
    made = net.ask_errors(net.udp())
    made.sendto(b"hello", (net.unreachable, SCRIPT))
    return net.error_of(made)


@behaviour("udp.error_queue.mapped", families="6")
def _(net):
    made = net.ask_errors(net.udp())
    made.setsockopt(socket.IPPROTO_IP, 11, 1)
    made.sendto(b"hello", ("::ffff:203.0.113.10", CLOSED))
    return net.error_of(made)


@behaviour("udp.hops")
def _(net):
    """What traceroute does: one hop after another, the errors tell who is there."""
    told = []
    for hops in (1, 2):
        made = net.ask_errors(net.udp())
        made.setsockopt(net.level, net.ttl_option, hops)
        made.sendto(pattern(32), (net.server, 33434 + hops))
        told.append(net.error_of(made))
    return told


@behaviour("udp.hops.connected")
def _(net):
    made = net.udp(net.server, SCRIPT)
    made.setsockopt(net.level, net.ttl_option, 1)
    made.send(b"hello")
    told = answer(made, 0.4)
    made.setsockopt(net.level, net.ttl_option, 64)
    made.send(b"hello")
    return [told, text(answer(made))]


def forbid_fragments(net, made, value=2):
    made.setsockopt(*((socket.IPPROTO_IP, IP_MTU_DISCOVER) if net.v4 else (socket.IPPROTO_IPV6, IPV6_MTU_DISCOVER)), value)
    return made


def path_mtu(net, made):
    return said(lambda: made.getsockopt(*((socket.IPPROTO_IP, IP_MTU) if net.v4 else (socket.IPPROTO_IPV6, IPV6_MTU))))


@behaviour("udp.mtu", local=True)
def _(net):
    return path_mtu(net, net.udp(net.server, SCRIPT))


@behaviour("udp.mtu.own_link", local=True)
def _(net):
    """Larger than the first link, and not to be cut."""
    made = net.ask_errors(forbid_fragments(net, net.udp(net.server, SCRIPT)))
    fits = 1472 if net.v4 else 1452
    return [said(lambda: made.send(bytes(fits + 1))), net.error_of(made, 0.2), said(lambda: made.send(bytes(9000)))]


@behaviour("udp.mtu.fits")
def _(net):
    made = forbid_fragments(net, net.udp(net.server, SCRIPT))
    fits = 1472 if net.v4 else 1452
    made.send(b"hash\n" + pattern(fits - 5))
    return text(answer(made))


@behaviour("udp.mtu.narrow_path")
def _(net):
    """A hop with a smaller MTU tells it, and the next send knows."""
    made = net.ask_errors(forbid_fragments(net, net.udp(net.narrow(2), SCRIPT)))
    first = said(lambda: made.send(b"hash\n" + pattern(1395)))
    told = net.error_of(made)
    pending = so_error(made)
    return [first, told, pending, path_mtu(net, made), said(lambda: made.send(pattern(1400))), said(lambda: made.send(b"hello"))]


@behaviour("udp.mtu.narrow_path.connected")
def _(net):
    made = forbid_fragments(net, net.udp(net.narrow(3), SCRIPT))
    first = said(lambda: made.send(b"hash\n" + pattern(1395)))
    return [first, answer(made, 0.3), path_mtu(net, made)]


@behaviour("udp.mtu.narrow_path.probe")
def _(net):
    """IP_PMTUDISC_PROBE: not to be cut, and sent in spite of what is known."""
    made = net.ask_errors(forbid_fragments(net, net.udp(net.narrow(4), SCRIPT), 3))
    told = []
    for size in (1200, 1395):
        said(lambda: made.send(b"hash\n" + pattern(size)))
        told.append([text(answer(made, 0.3)), net.error_of(made, 0.2)])
    return told


@behaviour("udp.many_refused")
def _(net):
    """Twenty sockets, each of which is told."""
    made = [rejected_later(net) for _ in range(20)]
    time.sleep(0.3)
    return sorted({str(said(lambda: one.recv(1, socket.MSG_DONTWAIT))) for one in made})


def rejected_later(net):
    made = net.udp(net.server, CLOSED)
    made.send(b"x")
    return made


@behaviour("udp.time_limit", local=True)
def _(net):
    made = net.udp()
    made.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, struct.pack("ll", 0, 200000))
    return said(lambda: made.recv(1))
