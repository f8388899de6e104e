"""Echo by ping sockets and raw sockets, the hops of a path, other ICMP and other protocols."""

import socket
import struct
import time

from kit import CLOSED, behaviour, class_of, hashed, pattern, said
from udp import answer, answers
from udp_peers import details


def request(net, sequence=1, data=b"hello", ident=0):
    return struct.pack("!BBHHH", 8 if net.v4 else 128, 0, 0, ident, sequence) + data


def told_by(data):
    if not isinstance(data, bytes):
        return data
    kind, code, _, _, sequence = struct.unpack_from("!BBHHH", data)
    return [kind, code, sequence, *hashed(data[8:])]


def pinged(net, to=None, data=b"hello"):
    made = net.ping()
    made.sendto(request(net, data=data), (to or net.server, 0))
    return made


@behaviour("ping.answered")
def _(net):
    return told_by(answer(pinged(net)))


@behaviour("ping.answered.connected")
def _(net):
    made = net.ping()
    made.connect((net.server, 0))
    made.send(request(net))
    return told_by(answer(made))


@behaviour("ping.from")
def _(net):
    data, peer = pinged(net).recvfrom(100)
    return [len(data), net.place(peer[0]), peer[1]]


@behaviour("ping.identifier")
def _(net):
    """The identifier is the socket's port."""
    made = pinged(net)
    data = answer(made)
    return isinstance(data, bytes) and struct.unpack_from("!H", data, 4)[0] == made.getsockname()[1]


@behaviour("ping.identifier.bound")
def _(net):
    made = net.ping()
    made.bind(("", 4711 if net.v4 else 4712))
    made.sendto(request(net), (net.server, 0))
    data = answer(made)
    return isinstance(data, bytes) and struct.unpack_from("!H", data, 4)[0]


def register_sizes():
    for size in (0, 8, 56, 1452, 1472, 1473, 8000, 65000):

        @behaviour(f"ping.size.{size}")
        def _(net, size=size):
            return told_by(answer(pinged(net, data=pattern(size))))


register_sizes()


@behaviour("ping.sequence")
def _(net):
    made = net.ping()
    for sequence in (1, 2, 3, 65535, 0):
        made.sendto(request(net, sequence), (net.server, 0))
    return sorted(told_by(data)[2] for data in answers(made, 5))


@behaviour("ping.at_once")
def _(net):
    made = net.ping()
    for sequence in range(20):
        made.sendto(request(net, sequence), (net.server, 0))
    return sorted(told_by(data)[2] for data in answers(made, 20))


@behaviour("ping.round_trip")
def _(net):
    start = time.monotonic()
    answer(pinged(net))
    return class_of(time.monotonic() - start)


@behaviour("ping.hop_limit.of_answers")
def _(net):
    made = net.ping()
    receive = details(net, made)
    made.sendto(request(net), (net.server, 0))
    return receive()


@behaviour("ping.service")
def _(net):
    """The peer answers with the type of service that it was asked with."""
    made = net.ping()
    made.setsockopt(net.level, net.tos_option, 0x28)
    receive = details(net, made)
    made.sendto(request(net), (net.server, 0))
    return receive()


@behaviour("ping.hops")
def _(net):
    told = []
    for hops in (1, 2):
        made = net.ask_errors(net.ping())
        made.setsockopt(net.level, net.ttl_option, hops)
        made.sendto(request(net, data=pattern(56)), (net.server, 0))
        error = net.error_of(made, 0.4)
        told.append(error if error != "none" else told_by(answer(made, 0.4)))
    return told


@behaviour("ping.unreachable")
def _(net):
    made = net.ask_errors(net.ping())
    made.sendto(request(net), (net.unreachable, 0))
    return [net.error_of(made), said(lambda: made.recv(1, socket.MSG_DONTWAIT))]


@behaviour("ping.unreachable.connected")
def _(net):
    made = net.ping()
    made.connect((net.unreachable, 0))
    made.send(request(net))
    return answer(made, 0.4)


@behaviour("ping.silent")
def _(net):
    made = net.ask_errors(net.ping())
    made.sendto(request(net), (net.silent, 0))
    return answer(made, 0.4)


@behaviour("ping.two_peers")
def _(net):
    made = net.ping()
    told = []
    for address in (net.server, net.other):
        made.sendto(request(net), (address, 0))
        data, peer = made.recvfrom(100)
        told.append([told_by(data), net.place(peer[0])])
    return told


@behaviour("ping.not_a_request", local=True)
def _(net):
    return said(lambda: net.ping().sendto(struct.pack("!BBHHH", 0, 0, 0, 0, 0), (net.server, 0)))


@behaviour("ping.mtu.narrow_path", families="4")
def _(net):
    made = net.ask_errors(net.ping())
    made.setsockopt(socket.IPPROTO_IP, 10, 2)
    made.sendto(request(net, data=pattern(1400)), (net.narrow(5), 0))
    told = net.error_of(made, 0.5)
    return told if isinstance(told, str) else {key: told[key] for key in ("errno", "origin", "type", "code", "info", "from")}


def raw(net, protocol):
    return net.limited(socket.socket(net.domain, socket.SOCK_RAW, protocol))


def checksum(data):
    total = sum(struct.unpack(f"!{len(data) // 2}H", data))
    total = (total & 0xFFFF) + (total >> 16)
    return ~((total & 0xFFFF) + (total >> 16)) & 0xFFFF


def with_checksum(data):
    return data[:2] + struct.pack("!H", checksum(data)) + data[4:]


@behaviour("raw.echo")
def _(net):
    """A raw socket with an identifier of its own."""
    made = raw(net, socket.IPPROTO_ICMP if net.v4 else socket.IPPROTO_ICMPV6)
    if not net.v4:
        # ICMP6_FILTER: echo replies alone.
        made.setsockopt(socket.IPPROTO_ICMPV6, 1, struct.pack("8I", *[0xFFFFFFFF] * 4, 0xFFFFFFFD, *[0xFFFFFFFF] * 3))
    packet = request(net, 7, b"hello!", 0x5150)
    made.sendto(with_checksum(packet) if net.v4 else packet, (net.server, 0))
    until = time.monotonic() + 1.5
    while time.monotonic() < until:
        data = answer(made, 0.5)
        if not isinstance(data, bytes):
            return data
        body = data[(data[0] & 15) * 4:] if net.v4 else data
        if body[0] == (0 if net.v4 else 129) and struct.unpack_from("!H", body, 4)[0] == 0x5150:
            return [told_by(body), data[8] if net.v4 else None]
    return "nothing"


@behaviour("raw.protocol.unknown", local=True)
def _(net):
    """A protocol that the peer does not speak."""
    made = net.ask_errors(raw(net, 253))
    made.sendto(pattern(32), (net.server, 0))
    told = net.error_of(made)
    return told if isinstance(told, str) else {key: told[key] for key in ("errno", "origin", "type", "code", "from")}


@behaviour("raw.time_stamp_request", families="4", refused="nothing")
def _(net):
    made = raw(net, socket.IPPROTO_ICMP)
    made.sendto(with_checksum(struct.pack("!BBHHHIII", 13, 0, 0, 0x5151, 1, 0, 0, 0)), (net.server, 0))
    until = time.monotonic() + 0.5
    while time.monotonic() < until:
        data = answer(made, 0.5)
        if isinstance(data, bytes) and data[20] == 14:
            return [data[20], len(data)]
    return "nothing"


@behaviour("raw.tcp.hops")
def _(net):
    """traceroute -T: a SYN whose hop limit runs out."""
    made = net.ask_errors(net.tcp())
    made.setsockopt(net.level, net.ttl_option, 1)
    made.setblocking(False)
    said(lambda: made.connect((net.server, CLOSED)))
    told = net.error_of(made, 0.6)
    return told if isinstance(told, str) else {key: told[key] for key in ("errno", "origin", "type", "code", "from")}
