"""Names and ports of TCP connections: what each end sees, fixed source ports and their use again, bound addresses, a listener."""

import socket
import struct
import time

from kit import SCRIPT, behaviour, recv_all, said
from tcp_open import FIXED, REUSE, begun


@behaviour("tcp.name.own")
def _(net):
    made = net.dial(SCRIPT)
    return [net.place(made.getsockname()[0]), made.getsockname()[0] == net.laptop]


@behaviour("tcp.name.peer")
def _(net):
    made = net.dial(SCRIPT)
    return [net.place(made.getpeername()[0]), *made.getpeername()[1:]]


@behaviour("tcp.name.while_connecting", refused=["EINPROGRESS", True, "ENOTCONN"])
def _(net):
    made, first = begun(net, SCRIPT, net.silent)
    return [first, made.getsockname()[1] != 0, said(made.getpeername)]


@behaviour("tcp.name.before", local=True)
def _(net):
    made = net.tcp()
    return [made.getsockname()[:2], said(made.getpeername)]


@behaviour("tcp.name.seen_by_peer")
def _(net):
    made, token = net.script("who")
    recv_all(made)
    return net.place(net.report(token)[0][1].removeprefix("::ffff:"))


@behaviour("tcp.port.seen_by_peer")
def _(net):
    made, token = net.script("who")
    port = made.getsockname()[1]
    recv_all(made)
    return net.report(token)[0][2] == port


@behaviour("tcp.port.fixed")
def _(net):
    made = net.tcp()
    made.setsockopt(*REUSE)
    made.bind(("", FIXED[net.family]))
    made, token = net.script("who", made=made)
    recv_all(made)
    return [made.getsockname()[1] == FIXED[net.family], net.report(token)[0][2] == FIXED[net.family]]


@behaviour("tcp.port.bound_alone")
def _(net):
    """Ports that let no other socket in: one out of the kernel's range, and one of its choice. The peer closes first, so that no TIME-WAIT stays."""
    kept = []
    for port in (FIXED[net.family] + 50, 0):
        made = net.tcp()
        made.bind(("", port))
        made, token = net.script("who", made=made)
        recv_all(made)
        kept.append(net.report(token)[0][2] == made.getsockname()[1])
    return kept


def bound(net, port):
    made = net.tcp()
    made.setsockopt(*REUSE)
    made.bind(("", port))
    return made


@behaviour("tcp.port.again.after_reset")
def _(net):
    told = []
    for _ in range(3):
        made = bound(net, FIXED[net.family] + 10)
        told.append(said(lambda: net.script("send:3 drain", made=made) and None))
        told.append(said(lambda: made.recv(10).hex()))
        made.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        made.close()
    return told


@behaviour("tcp.port.again.peer_closed_first")
def _(net):
    told = []
    for _ in range(3):
        made = bound(net, FIXED[net.family] + 20)
        told.append(said(lambda: net.script("send:3 close", made=made) and None))
        told.append(recv_all(made))
        made.close()
        time.sleep(0.05)
    return told


@behaviour("tcp.port.again.program_closed_first")
def _(net):
    """The first connection stays in TIME-WAIT here."""
    told = []
    for _ in range(2):
        made = bound(net, FIXED[net.family] + 30)
        told.append(said(lambda: net.script("drain", made=made) and None))
        made.close()
        time.sleep(0.1)
    return told


@behaviour("tcp.port.two_peers")
def _(net):
    """One source port to two servers at once."""
    both = []
    for address in (net.server, net.other):
        made = net.dial(SCRIPT, address, bound(net, FIXED[net.family] + 40))
        both.append((made, net.tell(made, "who")))
    return [net.report(token)[0][2] - FIXED[net.family] for _, token in both]


@behaviour("tcp.port.taken", local=True)
def _(net):
    listener = net.tcp()
    listener.bind(("", 0))
    listener.listen()
    return said(lambda: net.tcp().bind(("", listener.getsockname()[1])))


@behaviour("tcp.address.bound")
def _(net):
    own = net.dial(SCRIPT).getsockname()[0]
    made = net.tcp()
    made.bind((own, 0))
    made = net.dial(SCRIPT, made=made)
    return made.getsockname()[0] == own


@behaviour("tcp.address.bound.uplink")
def _(net):
    """Bound to the address that the host has without a router."""
    made = net.tcp()
    made.bind((net.laptop, 0))
    made, token = net.script("who", made=made)
    return [made.getsockname()[0] == net.laptop, net.place(net.report(token)[0][1].removeprefix("::ffff:"))]


@behaviour("tcp.address.foreign", local=True)
def _(net):
    return said(lambda: net.tcp().bind((net.server, 0)))


@behaviour("tcp.address.loopback", local=True)
def _(net):
    """A loopback address never reaches another host."""
    made = net.tcp()
    made.bind(("127.0.0.1" if net.v4 else "::1", 0))
    made.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, struct.pack("ll", 0, 500000))
    return said(lambda: net.dial(SCRIPT, made=made) and None)


@behaviour("inbound.from_outside")
def _(net):
    """A listener of the program is reached by the peer, and a socket by a datagram that nobody asked for."""
    listener, datagrams = net.tcp(), net.udp()
    for made in (listener, datagrams):
        made.bind(("", 0))
    listener.listen()
    _, token = net.script(f"dial:{listener.getsockname()[1]} throw:{datagrams.getsockname()[1]}")
    datagrams.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, struct.pack("ll", 0, 500000))
    return [net.report(token), said(lambda: datagrams.recv(100).decode())]
