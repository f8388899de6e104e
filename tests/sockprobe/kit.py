"""What the behaviours of sockprobe are written with: the register, the names of errors, sockets with time limits, the scripted peer."""

import ctypes
import errno
import hashlib
import itertools
import json
import os
import socket
import struct
import time

IP_RECVERR, IPV6_RECVERR = 11, 25
IP_RECVTTL, IP_RECVTOS = 12, 13
IP_MTU_DISCOVER, IP_MTU, IPV6_MTU_DISCOVER, IPV6_MTU = 10, 14, 23, 24
TCP_USER_TIMEOUT, TCP_FASTOPEN_CONNECT = 18, 30
SCRIPT, CLOSES, RESETS, SMALL, REPORT, FAST_OPEN, LOST = 9001, 9002, 9003, 9005, 9006, 9008, 9090
CLOSED = 81
# No call waits longer than this.
LIMIT_S = 4
# Where the gateway answers with an ICMP error: the port is 9100 + the place in this list.
REJECTIONS = {
    "4": ["net-unreachable", "host-unreachable", "prot-unreachable", "port-unreachable", "net-prohibited", "host-prohibited", "admin-prohibited"],
    "6": ["no-route", "admin-prohibited", "addr-unreachable", "port-unreachable", "policy-fail", "reject-route"],
}
BEHAVIOURS = {}
TOKENS = itertools.count()


def behaviour(name, families="46", local=False, slow=False, refused=None):
    """Registers a behaviour. `local`: nothing of it reaches the network. `slow`: it waits for seconds, so it begins first. `refused`: what
    it says where its profile refuses everything, if that is not the protocol's usual refusal."""

    def register(body):
        assert name not in BEHAVIOURS, name
        BEHAVIOURS[name] = {"body": body, "families": families, "local": local, "slow": slow, "refused": refused}
        return body

    return register


def errno_name(error):
    if error.errno is None:
        return "TIMEOUT" if isinstance(error, TimeoutError) else repr(error)
    return errno.errorcode.get(error.errno, str(error.errno)).replace("EWOULDBLOCK", "EAGAIN")


def said(attempt):
    """What a call says: its value, "OK" for none, or the name of its error."""
    try:
        value = attempt()
    except OSError as error:
        return errno_name(error)
    return "OK" if value is None else value


def class_of(seconds):
    for limit, name in ((0.25, "now"), (0.9, "soon"), (1.7, "1 s"), (2.7, "2 s"), (3.7, "3 s")):
        if seconds < limit:
            return name
    return "timeout"


def timed(attempt):
    """What a call says, and after how long."""
    start = time.monotonic()
    return [said(attempt), class_of(time.monotonic() - start)]


def pattern(count):
    period = bytes(number * 7 % 251 for number in range(251))
    return (period * (count // 251 + 1))[:count]


def hashed(data):
    return [len(data), hashlib.sha256(data).hexdigest()[:8]]


def options_of(v4):
    """Level, hop limit and type of service of a family (ip(7), ipv6(7))."""
    return (socket.IPPROTO_IP, socket.IP_TTL, socket.IP_TOS) if v4 else (socket.IPPROTO_IPV6, socket.IPV6_UNICAST_HOPS, 67)


def recv_all(peer, limit=1 << 30):
    """Reads to the end: how much, its hash, and how it ended."""
    digest, count = hashlib.sha256(), 0
    while count < limit:
        try:
            data = peer.recv(65536)
        except OSError as error:
            return [count, digest.hexdigest()[:8], errno_name(error)]
        if not data:
            return [count, digest.hexdigest()[:8], "EOF"]
        digest.update(data)
        count += len(data)
    return [count, digest.hexdigest()[:8], "more"]


def recv_exactly(peer, count):
    data = b""
    while len(data) < count and (more := peer.recv(count - len(data))):
        data += more
    return data


def disconnect(peer):
    """connect(2) with AF_UNSPEC, which Python does not offer."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.connect(peer.fileno(), struct.pack("H14x", socket.AF_UNSPEC), 16) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


class Net:
    """One family's view of the lab."""

    def __init__(self, family, addresses):
        self.family = family
        self.v4 = family == "4"
        self.domain = socket.AF_INET if self.v4 else socket.AF_INET6
        self.level, self.ttl_option, self.tos_option = options_of(self.v4)
        self.own = (addresses[5], "198.18.0.1", "2001:2::1")
        self.server, self.other, self.silent, self.unreachable, self.first_narrow, self.laptop, self.gateway = addresses

    def narrow(self, number):
        """A host behind a hop with an MTU of 1300. Each behaviour has one of its own, since the kernel remembers a path's MTU."""
        assert number < 8
        return f"{self.first_narrow[:-1]}{number}"

    def limited(self, made, limit_s=LIMIT_S):
        for option in (socket.SO_RCVTIMEO, socket.SO_SNDTIMEO):
            made.setsockopt(socket.SOL_SOCKET, option, struct.pack("ll", limit_s, 0))
        return made

    def tcp(self, protocol=0):
        return self.limited(socket.socket(self.domain, socket.SOCK_STREAM, protocol))

    def udp(self, *to):
        made = self.limited(socket.socket(self.domain, socket.SOCK_DGRAM), 1)
        if to:
            made.connect(to)
        return made

    def ping(self):
        protocol = socket.IPPROTO_ICMP if self.v4 else socket.IPPROTO_ICMPV6
        return self.limited(socket.socket(self.domain, socket.SOCK_DGRAM, protocol), 1)

    def dial(self, port, address=None, made=None):
        made = made or self.tcp()
        made.connect((address or self.server, port))
        return made

    def script(self, ops, port=SCRIPT, made=None):
        """A connection whose peer does `ops`, and the token of its log."""
        made = self.dial(port, made=made)
        return made, self.tell(made, ops)

    def tell(self, made, ops):
        token = self.token()
        made.sendall(f"{token} {ops}\n".encode())
        return token

    def token(self):
        return f"{os.getpid()}-{self.family}-{next(TOKENS)}"

    def report(self, token):
        """What the peer saw."""
        with self.dial(REPORT) as asking:
            asking.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, struct.pack("ll", 9, 0))
            asking.sendall(token.encode() + b"\n")
            return json.loads(b"".join(iter(lambda: asking.recv(65536), b"")))

    def rejecting(self, name):
        return 9100 + REJECTIONS[self.family].index(name)

    def ask_errors(self, made):
        made.setsockopt(self.level, IP_RECVERR if self.v4 else IPV6_RECVERR, 1)
        return made

    def place(self, address):
        """Who an address is."""
        if address.startswith(self.first_narrow[:-1]):
            return "narrow"
        names = {self.server: "server", self.other: "other", self.unreachable: "unreachable", self.silent: "silent", self.gateway: "gateway"}
        return names.get(address, "self" if address in self.own else address)

    def error_of(self, made, wait_s=1.0):
        """The next error of the error queue (ip(7), IP_RECVERR), or "none"."""
        until = time.monotonic() + wait_s
        while True:
            try:
                data, control, flags, to = made.recvmsg(70000, 512, socket.MSG_ERRQUEUE | socket.MSG_DONTWAIT)
                break
            except BlockingIOError:
                if time.monotonic() > until:
                    return "none"
                time.sleep(0.01)
        for level, kind, value in control:
            if (level, kind) not in ((socket.IPPROTO_IP, IP_RECVERR), (socket.IPPROTO_IPV6, IPV6_RECVERR)):
                continue
            number, origin, type_, code, info, extra = struct.unpack_from("=IBBBxII", value)
            told = {"errno": errno.errorcode.get(number, number), "origin": origin, "type": type_, "code": code, "info": info}
            told["extra"], told["from"], told["data"] = extra, self.place(self.offender(value[16:])), len(data)
            told["to"] = [self.place(to[0]), to[1]] if to else None
            return told
        return "no extended error"

    def offender(self, value):
        family = struct.unpack_from("=H", value)[0] if len(value) >= 2 else 0
        if family == socket.AF_INET:
            return socket.inet_ntop(family, value[4:8])
        if family == socket.AF_INET6:
            return socket.inet_ntop(family, value[8:24])
        return "nobody"


# Fields of struct tcp_info (include/uapi/linux/tcp.h): offset and format.
INFO = {
    "state": (0, "B"), "options": (5, "B"), "wscale": (6, "B"), "snd_mss": (16, "I"), "rcv_mss": (20, "I"), "unacked": (24, "I"),
    "pmtu": (60, "I"), "rtt": (68, "I"), "advmss": (84, "I"), "total_retrans": (100, "I"), "bytes_acked": (120, "Q"),
    "bytes_received": (128, "Q"), "segs_out": (136, "I"), "segs_in": (140, "I"),
}


def tcp_info(made, *names):
    data = made.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 240)
    return [struct.unpack_from("=" + INFO[name][1], data, INFO[name][0])[0] for name in names]


def events(mask, names):
    return "|".join(name for name, bit in names if mask & bit)
