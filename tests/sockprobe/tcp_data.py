"""What TCP carries: sizes, hashes, flags of send and receive, small buffers, windows, urgent bytes, and what TCP_INFO tells of it."""

import array
import fcntl
import os
import select
import socket
import struct
import termios
import threading
import time

from kit import LOST, SMALL, TCP_USER_TIMEOUT, behaviour, hashed, pattern, recv_all, recv_exactly, said, tcp_info, timed

SIOCOUTQ, SIOCOUTQNSD, FIONREAD, SIOCATMARK = termios.TIOCOUTQ, 0x894B, termios.FIONREAD, 0x8905
MIB = 1 << 20


def asked(made, request):
    answer = array.array("i", [0])
    fcntl.ioctl(made, request, answer)
    return answer[0]


def sent_beside(made, data):
    """Sends on a thread of its own, so that both ways are busy."""
    thread = threading.Thread(target=lambda: said(lambda: made.sendall(data)))
    thread.start()
    return thread


def echoed(net, data, prepare=lambda made: None):
    made = net.tcp()
    prepare(made)
    made, _ = net.script("echo", made=made)
    thread = sent_beside(made, data)
    answer = hashed(recv_exactly(made, len(data)))
    thread.join()
    made.shutdown(socket.SHUT_WR)
    return [answer, recv_all(made)]


def register_sizes():
    for size in (1, 1447, 1448, 1449, 4096, 65483, 65535, 65536, 65537, 262144):

        @behaviour(f"tcp.echo.{size}")
        def _(net, size=size):
            return echoed(net, pattern(size))


register_sizes()


@behaviour("tcp.up.8_mib")
def _(net):
    made, token = net.script("drain")
    made.sendall(pattern(8 * MIB))
    made.shutdown(socket.SHUT_WR)
    return net.report(token)


@behaviour("tcp.down.8_mib")
def _(net):
    return recv_all(net.script(f"send:{8 * MIB}")[0])


@behaviour("tcp.both_ways.4_mib")
def _(net):
    return echoed(net, pattern(4 * MIB))


@behaviour("tcp.up.small_writes")
def _(net):
    made, token = net.script("drain")
    made.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    for byte in pattern(2000):
        made.send(bytes([byte]))
    made.close()
    return net.report(token)


@behaviour("tcp.up.corked")
def _(net):
    made, token = net.script("drain")
    made.setsockopt(socket.IPPROTO_TCP, socket.TCP_CORK, 1)
    for _ in range(50):
        made.send(pattern(100))
    made.setsockopt(socket.IPPROTO_TCP, socket.TCP_CORK, 0)
    made.close()
    return net.report(token)


@behaviour("tcp.up.more_to_come")
def _(net):
    made, token = net.script("drain")
    for _ in range(10):
        made.send(pattern(700), socket.MSG_MORE)
    made.close()
    return net.report(token)


@behaviour("tcp.up.vectors")
def _(net):
    made, token = net.script("drain")
    count = made.sendmsg([pattern(number) for number in range(200)])
    made.close()
    return [count, net.report(token)]


@behaviour("tcp.up.sendfile")
def _(net):
    made, token = net.script("drain")
    file = os.memfd_create("body")
    os.write(file, pattern(MIB))
    offset = 0
    while offset < MIB:
        offset += os.sendfile(made.fileno(), file, offset, MIB - offset)
    made.close()
    return [offset, net.report(token)]


@behaviour("tcp.splice.both_ways")
def _(net):
    made, _ = net.script("echo")
    (out, into), (back, sink) = os.pipe(), os.pipe()
    os.write(into, pattern(30000))
    sent = 0
    while sent < 30000:
        sent += os.splice(out, made.fileno(), 30000 - sent)
    received = b""
    while len(received) < 30000:
        received += os.read(back, os.splice(made.fileno(), sink, 30000))
    return [sent, hashed(received)]


@behaviour("tcp.up.zero_copy")
def _(net):
    made, token = net.script("drain")
    made.setsockopt(socket.SOL_SOCKET, 60, 1)
    said_by_send = [said(lambda: made.send(pattern(20000), 0x4000000)) for _ in range(2)]
    told = net.error_of(made, 1)
    made.close()
    return [said_by_send, [told["errno"], told["origin"]] if isinstance(told, dict) else told, net.report(token)]


@behaviour("tcp.receive.peek")
def _(net):
    made, _ = net.script("send:100")
    time.sleep(0.1)
    return [hashed(made.recv(60, socket.MSG_PEEK)), hashed(made.recv(100)), said(lambda: made.recv(1, socket.MSG_PEEK).hex())]


@behaviour("tcp.receive.wait_all")
def _(net):
    made, _ = net.script("send:5000 wait:100 send:5000 wait:100 send:5000")
    return [hashed(made.recv(15000, socket.MSG_WAITALL)), recv_all(made)]


@behaviour("tcp.receive.wait_all.cut_short")
def _(net):
    made, _ = net.script("send:5000 wait:100 send:500")
    return hashed(made.recv(15000, socket.MSG_WAITALL))


@behaviour("tcp.receive.discard")
def _(net):
    made, _ = net.script("send:5000")
    time.sleep(0.1)
    return [len(made.recv(3000, socket.MSG_TRUNC)), recv_all(made)[0]]


@behaviour("tcp.receive.nothing_yet")
def _(net):
    made, _ = net.script("wait:700")
    made.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, struct.pack("ll", 0, 300000))
    return [said(lambda: made.recv(1, socket.MSG_DONTWAIT)), timed(lambda: made.recv(1))]


@behaviour("tcp.receive.low_water")
def _(net):
    made, _ = net.script("send:10 wait:400 send:90")
    made.setsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT, 100)
    time.sleep(0.15)
    poll = select.poll()
    poll.register(made, select.POLLIN)
    early = len(poll.poll(0))
    return [early, len(poll.poll(2000)), asked(made, FIONREAD)]


@behaviour("tcp.receive.waiting_bytes")
def _(net):
    made, _ = net.script("send:12345 wait:300")
    time.sleep(0.15)
    return [asked(made, FIONREAD), len(made.recv(345)), asked(made, FIONREAD)]


@behaviour("tcp.send.queue_empties")
def _(net):
    made, token = net.script("drain")
    made.sendall(pattern(50000))
    time.sleep(0.25)
    before = [asked(made, SIOCOUTQ), asked(made, SIOCOUTQNSD)]
    made.close()
    return [before, net.report(token)]


@behaviour("tcp.send.queue_stays_while_peer_sleeps")
def _(net):
    made, token = net.script("wait:700 drain", SMALL)
    made.setblocking(False)
    sent = made.send(pattern(60000))
    time.sleep(0.3)
    waits = asked(made, SIOCOUTQ) > 0
    made.setblocking(True)
    made.shutdown(socket.SHUT_WR)
    return [waits, net.report(token)[0][1] == sent]


@behaviour("tcp.send.full_then_writable")
def _(net):
    """A peer that does not read stops the program; it goes on as soon as the peer reads."""
    made, token = net.script("wait:600 drain", SMALL)
    made.setblocking(False)
    sent, full = 0, None
    while full is None and sent < 64 * MIB:
        try:
            sent += made.send(pattern(65536))
        except BlockingIOError:
            if not select.select([], [made], [], 0.2)[1]:
                full = "full"
    made.setblocking(True)
    made.sendall(b"end")
    made.close()
    (_, count, _, end), = net.report(token)
    return [full, count == sent + 3, end]


@behaviour("tcp.window.closed_then_open")
def _(net):
    """The program does not read for a while; then all is there."""
    made = net.tcp()
    made.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    made, _ = net.script(f"send:{3 * MIB}", made=made)
    time.sleep(0.8)
    return recv_all(made)


@behaviour("tcp.window.peer_closed_then_open")
def _(net):
    made, token = net.script("wait:800 drain", SMALL)
    made.sendall(pattern(3 * MIB))
    made.shutdown(socket.SHUT_WR)
    return net.report(token)


@behaviour("tcp.buffer.small.both_ways")
def _(net):
    def prepare(made):
        made.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4608)
        made.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4608)

    return echoed(net, pattern(300000), prepare)


@behaviour("tcp.urgent.up")
def _(net):
    made, token = net.script("take_urgent drain")
    made.send(b"!", socket.MSG_OOB)
    made.sendall(b"after")
    made.close()
    return net.report(token)


@behaviour("tcp.urgent.down")
def _(net):
    made, _ = net.script("urgent wait:50 send:5")
    poll = select.poll()
    poll.register(made, select.POLLPRI)
    urgent = bool(poll.poll(500))
    taken = said(lambda: made.recv(1, socket.MSG_OOB).decode())
    return [urgent, taken, recv_all(made)]


@behaviour("tcp.urgent.none")
def _(net):
    made, _ = net.script("wait:300")
    return [said(lambda: made.recv(1, socket.MSG_OOB)), asked(made, SIOCATMARK)]


@behaviour("tcp.lost.keepalive", slow=True)
def _(net):
    """The peer is gone without a word; keepalive finds out."""
    made, _ = net.script("wait:9000", LOST)
    for option, value in ((socket.TCP_KEEPIDLE, 1), (socket.TCP_KEEPINTVL, 1), (socket.TCP_KEEPCNT, 2)):
        made.setsockopt(socket.IPPROTO_TCP, option, value)
    made.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, struct.pack("ll", 7, 0))
    made.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    return said(lambda: made.recv(1))


@behaviour("tcp.lost.user_timeout", slow=True)
def _(net):
    """The peer takes nothing more; the program's own limit ends it."""
    made, _ = net.script("wait:9000", LOST)
    made.setsockopt(socket.IPPROTO_TCP, TCP_USER_TIMEOUT, 1500)
    made.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, struct.pack("ll", 7, 0))
    for _ in range(8):
        made.send(b"x")
    return said(lambda: made.recv(1))


@behaviour("tcp.keepalive.of_a_living_peer", slow=True)
def _(net):
    made, _ = net.script("wait:3500 send:5")
    for option, value in ((socket.TCP_KEEPIDLE, 1), (socket.TCP_KEEPINTVL, 1), (socket.TCP_KEEPCNT, 2)):
        made.setsockopt(socket.IPPROTO_TCP, option, value)
    made.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    return recv_all(made)


@behaviour("tcp.info.established")
def _(net):
    made, _ = net.script("wait:300")
    state, options = tcp_info(made, "state", "options")
    return {"state": state, "timestamps": bool(options & 1), "sack": bool(options & 2), "wscale": bool(options & 4), "ecn": bool(options & 8)}


@behaviour("tcp.info.sizes")
def _(net):
    made, _ = net.script("wait:300")
    return tcp_info(made, "snd_mss", "advmss", "pmtu")


@behaviour("tcp.info.window_scale")
def _(net):
    made, _ = net.script("wait:300")
    (scales,) = tcp_info(made, "wscale")
    return {"peer's": scales & 15, "own": scales >> 4}


@behaviour("tcp.info.counts")
def _(net):
    made, _ = net.script("recv:1000 send:2000")
    before = tcp_info(made, "bytes_acked", "bytes_received")
    made.sendall(pattern(1000))
    recv_all(made)
    after = tcp_info(made, "bytes_acked", "bytes_received", "total_retrans")
    return [after[0] - before[0] >= 1000, after[1], after[2]]


@behaviour("tcp.info.round_trip")
def _(net):
    made, _ = net.script("wait:100")
    return 0 < tcp_info(made, "rtt")[0] < 200_000


@behaviour("tcp.info.states")
def _(net):
    made, _ = net.script("fin recv:1 wait:200 close")
    time.sleep(0.15)
    states = tcp_info(made, "state")
    made.sendall(b"x")
    made.shutdown(socket.SHUT_WR)
    time.sleep(0.1)
    return states + tcp_info(made, "state")


@behaviour("tcp.info.states.program_first")
def _(net):
    made, _ = net.script("drain wait:300 close")
    made.shutdown(socket.SHUT_WR)
    time.sleep(0.15)
    states = tcp_info(made, "state")
    time.sleep(0.4)
    return states + tcp_info(made, "state")


@behaviour("tcp.segment.default")
def _(net):
    return net.script("wait:100")[0].getsockopt(socket.IPPROTO_TCP, socket.TCP_MAXSEG)


@behaviour("tcp.segment.asked")
def _(net):
    made = net.tcp()
    made.setsockopt(socket.IPPROTO_TCP, socket.TCP_MAXSEG, 700)
    made, _ = net.script("echo", made=made)
    thread = sent_beside(made, pattern(100000))
    answer = hashed(recv_exactly(made, 100000))
    thread.join()
    return [answer, made.getsockopt(socket.IPPROTO_TCP, socket.TCP_MAXSEG), *tcp_info(made, "snd_mss", "rcv_mss")]


@behaviour("tcp.narrow_path")
def _(net):
    """A hop with a smaller MTU: the bytes arrive all the same."""
    made = net.dial(9001, net.narrow(0))
    token = net.tell(made, "drain")
    made.sendall(pattern(200000))
    made.shutdown(socket.SHUT_WR)
    return net.report(token)
