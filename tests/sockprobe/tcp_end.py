"""How TCP connections end: halves closed in either order, resets with and without unread data, what later calls say."""

import select
import socket
import struct
import time

from kit import SMALL, behaviour, pattern, recv_all, said, tcp_info, timed
from tcp_open import polled, so_error

ALL = select.POLLIN | select.POLLOUT | 0x2000
LINGER = (socket.SOL_SOCKET, socket.SO_LINGER)


def reset_now(made):
    made.setsockopt(*LINGER, struct.pack("ii", 1, 0))
    made.close()


@behaviour("tcp.half.program_first")
def _(net):
    """The program ends its half; the peer then sends."""
    made, token = net.script("drain send:50000")
    made.sendall(pattern(50000))
    made.shutdown(socket.SHUT_WR)
    return [recv_all(made), net.report(token)]


@behaviour("tcp.half.peer_first")
def _(net):
    made, token = net.script("send:50000 fin drain")
    first = recv_all(made)
    made.sendall(pattern(50000))
    made.shutdown(socket.SHUT_WR)
    return [first, net.report(token)]


@behaviour("tcp.half.program_first.idle", slow=True)
def _(net):
    made, token = net.script("drain wait:3000 send:10")
    made.shutdown(socket.SHUT_WR)
    return [recv_all(made), net.report(token)]


@behaviour("tcp.half.peer_first.idle", slow=True)
def _(net):
    made, token = net.script("fin drain")
    told = [recv_all(made)]
    time.sleep(3)
    made.sendall(pattern(10))
    made.close()
    return [told, net.report(token)]


@behaviour("tcp.half.both_at_once")
def _(net):
    made, token = net.script("recv:1 wait:100 fin drain")
    made.send(b"x")
    time.sleep(0.1)
    made.shutdown(socket.SHUT_WR)
    return [recv_all(made), net.report(token)]


@behaviour("tcp.half.program_first.write")
def _(net):
    made, _ = net.script("drain")
    made.shutdown(socket.SHUT_WR)
    return [said(lambda: made.send(b"x")), said(lambda: made.shutdown(socket.SHUT_WR)), polled(made, ALL, 0).replace("IN|", "")]


@behaviour("tcp.half.read_side")
def _(net):
    """SHUT_RD is a matter of this host alone: nothing is said to the peer."""
    made, token = net.script("wait:100 send:100 drain")
    made.shutdown(socket.SHUT_RD)
    early = said(lambda: made.recv(10).hex())
    time.sleep(0.25)
    late = said(lambda: len(made.recv(1000)))
    made.sendall(b"still")
    made.close()
    return [early, late, net.report(token)]


@behaviour("tcp.half.peers_read_side")
def _(net):
    made, token = net.script("deaf wait:200 send:10")
    made.sendall(pattern(100))
    return [recv_all(made), net.report(token)]


@behaviour("tcp.shutdown.both")
def _(net):
    made, token = net.script("drain")
    made.shutdown(socket.SHUT_RDWR)
    return [said(lambda: made.recv(1).hex()), said(lambda: made.send(b"x")), net.report(token)]


@behaviour("tcp.shutdown.after_end")
def _(net):
    made, _ = net.script("drain close")
    made.shutdown(socket.SHUT_WR)
    recv_all(made)
    time.sleep(0.1)
    return [said(lambda: made.shutdown(how)) for how in (socket.SHUT_WR, socket.SHUT_RD, socket.SHUT_RDWR)]


@behaviour("tcp.unconnected", local=True)
def _(net):
    made = net.tcp()
    calls = [lambda: made.send(b"x"), lambda: made.recv(1), lambda: made.shutdown(socket.SHUT_WR), made.getpeername]
    return [said(call) for call in calls] + [polled(net.tcp(), ALL, 0)]


@behaviour("tcp.close.program")
def _(net):
    made, token = net.script("drain")
    made.sendall(pattern(70000))
    made.close()
    return net.report(token)


@behaviour("tcp.close.program.unread")
def _(net):
    """Data that was not read when the program closes: the peer gets a reset."""
    made, token = net.script("send:1000 drain")
    time.sleep(0.15)
    made.close()
    return net.report(token)


@behaviour("tcp.close.peer")
def _(net):
    """The peer is gone altogether: the first write goes out, the next is told."""
    made, _ = net.script("send:10 close")
    told = [recv_all(made), said(lambda: made.send(b"x"))]
    time.sleep(0.15)
    return told + [polled(made, ALL, 0), said(lambda: made.send(b"x")), said(lambda: made.recv(1).hex()), so_error(made)]


@behaviour("tcp.close.peer.so_error")
def _(net):
    made, _ = net.script("close")
    told = [recv_all(made), said(lambda: made.send(b"x"))]
    time.sleep(0.15)
    return told + [so_error(made), so_error(made), tcp_info(made, "state")]


@behaviour("tcp.close.peer.unread")
def _(net):
    """The peer closes with our bytes unread, which resets."""
    made, _ = net.script("wait:150 close")
    made.sendall(pattern(1000))
    time.sleep(0.3)
    return [polled(made, ALL, 0), said(lambda: made.recv(1).hex()), said(lambda: made.recv(1).hex())]


@behaviour("tcp.linger.program")
def _(net):
    made, token = net.script("recv:100 drain")
    made.sendall(pattern(100))
    time.sleep(0.1)
    reset_now(made)
    return net.report(token)


@behaviour("tcp.linger.program.untaken")
def _(net):
    """What the peer had got before the reset, it may still read."""
    made, token = net.script("wait:200 drain")
    made.sendall(pattern(1000))
    time.sleep(0.1)
    reset_now(made)
    return net.report(token)


@behaviour("tcp.linger.program.half_closed")
def _(net):
    made, token = net.script("drain wait:150 send:10 wait:100 send:10")
    made.shutdown(socket.SHUT_WR)
    time.sleep(0.05)
    reset_now(made)
    return net.report(token)


@behaviour("tcp.linger.program.after_peers_end")
def _(net):
    made, token = net.script("fin drain")
    recv_all(made)
    reset_now(made)
    return net.report(token)


@behaviour("tcp.linger.waits")
def _(net):
    """close(2) with a linger time returns when the peer has all."""
    made, token = net.script("drain")
    made.setsockopt(*LINGER, struct.pack("ii", 1, 3))
    made.sendall(pattern(100000))
    return [timed(made.close), net.report(token)]


@behaviour("tcp.linger.runs_out")
def _(net):
    """close(2) waits for a peer that does not read."""
    made, token = net.script("wait:1600 drain", SMALL)
    made.setsockopt(*LINGER, struct.pack("ii", 1, 1))
    made.setblocking(False)
    sent = made.send(pattern(60000))
    made.setblocking(True)
    waited = timed(made.close)
    return [waited, net.report(token)[0][1] == sent]


@behaviour("tcp.reset.peer")
def _(net):
    made, _ = net.script("wait:50 reset")
    told = [said(lambda: made.recv(1).hex()), said(lambda: made.recv(1).hex()), said(lambda: made.send(b"x"))]
    return told + [said(lambda: made.shutdown(socket.SHUT_WR)), said(made.getpeername)]


@behaviour("tcp.reset.peer.write")
def _(net):
    made, _ = net.script("reset")
    time.sleep(0.15)
    return [said(lambda: made.send(b"x")), said(lambda: made.send(b"x")), said(lambda: made.recv(1).hex())]


@behaviour("tcp.reset.peer.so_error")
def _(net):
    made, _ = net.script("reset")
    time.sleep(0.15)
    return [polled(made, ALL, 0), so_error(made), so_error(made), polled(made, ALL, 0), said(lambda: made.recv(1).hex())]


@behaviour("tcp.reset.peer.unread")
def _(net):
    """What came before the reset can still be read."""
    made, _ = net.script("send:1000 wait:100 reset")
    time.sleep(0.3)
    return [polled(made, ALL, 0), recv_all(made), said(lambda: made.recv(1).hex())]


@behaviour("tcp.reset.peer.unread.at_once")
def _(net):
    """As before, without a pause between the last byte and the reset."""
    made, _ = net.script("send:1000 reset")
    time.sleep(0.2)
    return [recv_all(made)]


@behaviour("tcp.reset.peer.mid_stream")
def _(net):
    """A reset while the program sends."""
    made, _ = net.script("recv:100000 reset")
    told = said(lambda: [made.sendall(pattern(65536)) for _ in range(200)] and None)
    return [told, said(lambda: made.send(b"x")), said(lambda: made.recv(1).hex())]


@behaviour("tcp.reset.peer.while_reading")
def _(net):
    made, _ = net.script("send:300000 wait:300 reset")
    return recv_all(made)


@behaviour("tcp.reset.peer.after_half_close")
def _(net):
    made, _ = net.script("drain wait:100 reset")
    made.shutdown(socket.SHUT_WR)
    return [said(lambda: made.recv(1).hex()), said(lambda: made.recv(1).hex())]


@behaviour("tcp.reset.peer.after_its_end")
def _(net):
    made, _ = net.script("fin wait:150 reset")
    told = [recv_all(made)]
    time.sleep(0.3)
    return told + [polled(made, ALL, 0), so_error(made), said(lambda: made.send(b"x")), said(lambda: made.recv(1).hex())]


@behaviour("tcp.reset.peer.while_waiting")
def _(net):
    made, _ = net.script("wait:150 reset")
    return [timed(lambda: made.recv(1).hex()), polled(made, ALL, 0)]


@behaviour("tcp.reset.peer.edges")
def _(net):
    epoll = select.epoll()
    made, _ = net.script("wait:150 reset")
    made.setblocking(False)
    epoll.register(made, select.EPOLLIN | select.EPOLLRDHUP | select.EPOLLET)
    found = epoll.poll(2)
    return [found[0][1] if found else None, said(lambda: made.recv(1).hex())]


@behaviour("tcp.end.edges")
def _(net):
    """A FIN right behind data is one edge or two, and both are seen at the end."""
    epoll = select.epoll()
    made, _ = net.script("wait:100 send:10 fin wait:400")
    epoll.register(made, select.EPOLLIN | select.EPOLLRDHUP | select.EPOLLET)
    time.sleep(0.3)
    found = epoll.poll(1)
    return [found[0][1] if found else None, recv_all(made)]


@behaviour("tcp.end.large_then_closed")
def _(net):
    """The last bytes of a peer that closes at once all arrive."""
    made, _ = net.script("send:700000 close")
    time.sleep(0.2)
    return recv_all(made)


@behaviour("tcp.end.large_then_closed.slow_reader")
def _(net):
    made = net.tcp()
    made.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 8192)
    made, _ = net.script("send:200000 close", made=made)
    count = 0
    while data := made.recv(4096):
        count += len(data)
        if count < 100000:
            time.sleep(0.005)
    return count


@behaviour("tcp.end.program_exits_at_once")
def _(net):
    """The last bytes of a program that closes at once all arrive."""
    made, token = net.script("wait:100 drain")
    made.sendall(pattern(400000))
    made.close()
    return net.report(token)
