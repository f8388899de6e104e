"""Who a UDP socket talks to: one port for all peers, connecting again, answers from others; hop limits and types of service each way."""

import socket
import struct

from kit import IP_RECVTOS, IP_RECVTTL, SCRIPT, behaviour, disconnect, said
from udp import FIXED, REUSE, answer, asked, seen, text


@behaviour("udp.two_peers.one_socket")
def _(net):
    """One socket, two peers: both see one source port, which is the socket's own."""
    made = net.udp()
    views = [seen(net, made, (address, SCRIPT)) for address in (net.server, net.other)]
    port = made.getsockname()[1]
    return [view["port"] == views[0]["port"] for view in views] + [views[0]["port"] == port]


@behaviour("udp.port.seen_by_peer")
def _(net):
    made = net.udp(net.server, SCRIPT)
    return seen(net, made)["port"] == made.getsockname()[1]


@behaviour("udp.port.fixed")
def _(net):
    made = net.udp()
    made.setsockopt(*REUSE)
    made.bind(("", FIXED[net.family]))
    return seen(net, made)["port"] - FIXED[net.family]


@behaviour("udp.port.again")
def _(net):
    """The same port by one socket after another."""
    told = []
    for _ in range(3):
        made = net.udp()
        made.setsockopt(*REUSE)
        made.bind(("", FIXED[net.family] + 10))
        made.connect((net.server, SCRIPT))
        made.send(b"hello")
        told.append(text(answer(made)))
        made.close()
    return told


@behaviour("udp.address.seen_by_peer")
def _(net):
    return net.place(seen(net, net.udp())["from"])


@behaviour("udp.name.peer", local=True)
def _(net):
    made = net.udp(net.server, SCRIPT)
    return [net.place(made.getpeername()[0]), *made.getpeername()[1:]]


@behaviour("udp.connect.again")
def _(net):
    made = net.udp(net.server, SCRIPT)
    made.send(b"one")
    told = [text(answer(made))]
    made.connect((net.other, SCRIPT))
    made.send(b"two")
    return [*told, text(answer(made)), net.place(made.getpeername()[0])]


@behaviour("udp.connect.undone", families="4")
def _(net):
    made = net.udp(net.server, SCRIPT)
    disconnect(made)
    told = [said(lambda: made.send(b"x")), said(made.getpeername)]
    made.sendto(b"hello", (net.other, SCRIPT))
    return [*told, text(answer(made))]


@behaviour("udp.connected.sendto_another", refused="EAGAIN")
def _(net):
    made = net.udp(net.server, SCRIPT)
    made.sendto(b"hello", (net.other, SCRIPT))
    return answer(made, 0.4)


@behaviour("udp.connected.answer_from_another")
def _(net):
    """A connected socket hears its peer alone."""
    made = net.udp(net.server, SCRIPT)
    asked(made, "other")
    return answer(made, 0.4)


@behaviour("udp.unconnected.answer_from_another")
def _(net):
    made = net.udp()
    made.sendto(b"other\n", (net.server, SCRIPT))
    made.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, struct.pack("ll", 1, 0))
    data, peer = made.recvfrom(100)
    return [data.decode(), net.place(peer[0]), peer[1]]


@behaviour("udp.unconnected.answer_from_another_port")
def _(net):
    made = net.udp()
    made.sendto(b"otherport\n", (net.server, SCRIPT))
    made.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, struct.pack("ll", 1, 0))
    data, peer = made.recvfrom(100)
    return [data.decode(), net.place(peer[0]), peer[1] == SCRIPT]


def details(net, made):
    """Asks for hop limit and type of service of what comes in; gives a function that receives them."""
    made.setsockopt(net.level, IP_RECVTTL if net.v4 else 51, 1)
    made.setsockopt(net.level, IP_RECVTOS if net.v4 else 66, 1)
    names = {2: "ttl", 1: "tos"} if net.v4 else {52: "ttl", 67: "tos"}

    def receive():
        data, control, _, _ = made.recvmsg(2000, 256)
        told = {names.get(kind, kind): struct.unpack("i", value[:4].ljust(4, b"\0"))[0] for _, kind, value in control}
        return [len(data), sorted(told.items())]

    return receive


@behaviour("udp.hop_limit.of_answers")
def _(net):
    made = net.udp(net.server, SCRIPT)
    receive = details(net, made)
    asked(made, "echo")
    return receive()


@behaviour("udp.hop_limit.of_answers.chosen")
def _(net):
    made = net.udp(net.server, SCRIPT)
    receive = details(net, made)
    asked(made, "ttl:77")
    return receive()


@behaviour("udp.service.of_answers")
def _(net):
    made = net.udp(net.server, SCRIPT)
    receive = details(net, made)
    told = []
    for value in (0x28, 0xB8, 1):
        asked(made, f"tos:{value}")
        told.append(receive())
    return told


@behaviour("udp.hop_limit.seen_by_peer")
def _(net):
    made = net.udp(net.server, SCRIPT)
    made.setsockopt(net.level, net.ttl_option, 44)
    return seen(net, made)["ttl"]


@behaviour("udp.hop_limit.changed")
def _(net):
    made = net.udp(net.server, SCRIPT)
    told = []
    for value in (64, 33, 200):
        made.setsockopt(net.level, net.ttl_option, value)
        told.append(seen(net, made)["ttl"])
    return told


@behaviour("udp.hop_limit.of_one_datagram")
def _(net):
    made = net.udp(net.server, SCRIPT)
    kind = (socket.IPPROTO_IP, socket.IP_TTL) if net.v4 else (socket.IPPROTO_IPV6, 52)
    made.sendmsg([b"seen\n"], [(*kind, struct.pack("i", 21))])
    return [text(answer(made)).split(",")[0], seen(net, made)["ttl"]]


@behaviour("udp.service.seen_by_peer")
def _(net):
    made = net.udp(net.server, SCRIPT)
    told = []
    for value in (0, 0x10, 0xB8, 2, 3, 0):
        made.setsockopt(net.level, net.tos_option, value)
        told.append(seen(net, made)["tos"])
    return told
