"""Sends a SYN and a datagram from raw sockets, as traceroute -T and mtr -u do, and tells in one line what came back.

raw.py send|whole|disguised|once ADDRESS [HELD...]: by sockets of TCP and of UDP, or with an IP header of its own; disguised: by a socket of
ICMP; once: by a socket for each packet, as nmap -6 does. A program `sleep` holds raw sockets of the protocols HELD meanwhile.
raw.py shared ADDRESS: as send, while a `sleep` that is nobody's child has the sockets, too, at other numbers.
raw.py beside ADDRESS: as whole, from the ports of sockets that a `sleep` has.
raw.py echo ADDRESS [HELD...]: an echo request instead, and says whether there was a reply.
raw.py become ADDRESS: as once, and becomes `sleep` right after it.
raw.py closed ADDRESS [LINK]: sockets that are closed after one datagram each, while `sleep` alone holds raw ones.
raw.py forged ADDRESS: a SYN with an IP header of its own of no version that there is.
"""

import ipaddress
import json
import os
import socket
import struct
import subprocess
import sys
import time

# How long an answer may take. No answer is one, too.
LIMIT_S = 4
TCP, UDP, WHOLE = socket.IPPROTO_TCP, socket.IPPROTO_UDP, socket.IPPROTO_RAW


def checksum(data):
    data += b"\0" * (len(data) % 2)
    total = sum(struct.unpack(f"!{len(data) // 2}H", data))
    total = (total & 0xFFFF) + (total >> 16)
    return ~((total & 0xFFFF) + (total >> 16)) & 0xFFFF


class Net:
    def __init__(self, address, link=None):
        self.remote, self.link = address, link
        self.domain = socket.AF_INET6 if ":" in address else socket.AF_INET
        with socket.socket(self.domain, socket.SOCK_DGRAM) as asked:
            asked.connect((address, 9))
            self.local = asked.getsockname()[0]
        self.icmp = socket.IPPROTO_ICMP if self.domain == socket.AF_INET else socket.IPPROTO_ICMPV6
        self.ends = [ipaddress.ip_address(end).packed for end in (self.local, self.remote)]

    def raw(self, protocol):
        made = socket.socket(self.domain, socket.SOCK_RAW, protocol)
        made.settimeout(LIMIT_S)
        return made

    def summed(self, protocol, data, at):
        """The segment or datagram with its checksum."""
        told = checksum(b"".join(self.ends) + struct.pack("!II", len(data), protocol) + data)
        return data[:at] + struct.pack("!H", told) + data[at + 2:]

    def syn(self, source, port):
        return self.summed(TCP, struct.pack("!HHIIBBHHH", source, port, 7, 0, 5 << 4, 2, 1024, 0, 0), 16)

    def datagram(self, source, port, data):
        return self.summed(UDP, struct.pack("!HHHH", source, port, 8 + len(data), 0) + data, 6)

    def whole(self, protocol, data, other_version=False):
        """The packet, IP header and all; the kernel fills in the length and the checksum of the IPv4 one."""
        if self.domain == socket.AF_INET:
            return struct.pack("!BBHHHBBH", 0x85 if other_version else 0x45, 0, 20 + len(data), 0, 0, 64, protocol, 0) + b"".join(self.ends) + data
        return struct.pack("!IHBB", 0 if other_version else 6 << 28, len(data), protocol, 64) + b"".join(self.ends) + data

    def heard(self, made, source):
        """The next of this raw socket that is for the port, without the IP header."""
        until = time.monotonic() + LIMIT_S
        while time.monotonic() < until:
            try:
                data = made.recv(2048)
            except TimeoutError:
                break
            data = data[(data[0] & 15) * 4:] if self.domain == socket.AF_INET else data
            if struct.unpack_from("!H", data, 2)[0] == source:
                return data
        return None

    def held(self, protocols):
        """A program that holds raw sockets, which are no other's."""
        made = [self.raw(protocol) for protocol in protocols]
        program = subprocess.Popen(["/usr/bin/sleep", "20"], pass_fds=[one.fileno() for one in made])
        for one in made:
            one.close()
        # exec of what holds them.
        time.sleep(0.1)
        return program

    def share(self, made, seconds):
        """A program gets copies of these sockets for so long, and is nobody's child."""
        def copy():
            for number, one in enumerate(made, 50):
                os.dup2(one.fileno(), number)
        subprocess.run(["setsid", "--fork", "sleep", seconds], preexec_fn=copy, close_fds=False, stdin=subprocess.DEVNULL,
                       stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=True)
        time.sleep(0.1)


SOURCES = {"send": 40001, "whole": 40003, "once": 40005, "become": 40007, "disguised": 40009, "shared": 40011, "beside": 40013}
# include/uapi/linux/in6.h
IPV6_HDRINCL = 36


def send(net, how):
    source = SOURCES[how]
    segment, datagram = net.syn(source, 80), net.datagram(source + 1, 7, b"raw!")
    if how in ("once", "become"):
        for protocol, data in ((TCP, segment), (UDP, datagram)):
            with net.raw(WHOLE) as made:
                made.sendto(net.whole(protocol, data), (net.remote, 0))
        if how == "become":
            os.execv("/usr/bin/sleep", ["sleep", "1.5"])
        time.sleep(1.5)
        return "sent"
    if how in ("whole", "disguised", "beside"):
        made = net.raw(net.icmp if how == "disguised" else WHOLE)
        if how == "beside":
            with socket.socket(net.domain, socket.SOCK_DGRAM) as owned:
                owned.bind(("", source + 1))
                net.share([owned], "2.5")
        if net.domain == socket.AF_INET:
            made.setsockopt(socket.IPPROTO_IP, socket.IP_HDRINCL, 1)
        else:
            made.setsockopt(socket.IPPROTO_IPV6, IPV6_HDRINCL, 1)
        for protocol, data in ((TCP, segment), (UDP, datagram)):
            made.sendto(net.whole(protocol, data), (net.remote, 0))
        # What carries it must have taken it before it ends with this program.
        time.sleep(1.5)
        return "sent"
    by_tcp, by_udp = net.raw(TCP), net.raw(UDP)
    if how == "shared":
        net.share([by_tcp, by_udp], "6")
    by_tcp.sendto(segment, (net.remote, 0))
    answer = net.heard(by_tcp, source)
    by_udp.sendto(datagram, (net.remote, 0))
    back = net.heard(by_udp, source + 1)
    flags = {0x12: "SYN ACK", 0x14: "RST ACK", 0x04: "RST"}
    return [flags.get(answer[13] & 0x3F) if answer else None, back[8:].decode() if back else None]


def closed(net):
    for count in range(100):
        with socket.socket(net.domain, socket.SOCK_DGRAM) as made:
            if net.link:
                made.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, net.link.encode())
            if count % 2:
                made.connect((net.remote, 7))
                made.send(b"gone")
            else:
                made.sendto(b"gone", (net.remote, 7))
    time.sleep(1.5)
    return "sent"


def echo(net):
    kind = 8 if net.domain == socket.AF_INET else 128
    head, data = struct.pack("!BBHHH", kind, 0, 0, 4711, 1), b"an echo?"
    made = net.raw(net.icmp)
    # The kernel sums up those of IPv6.
    total = checksum(head + data) if net.domain == socket.AF_INET else 0
    made.sendto(head[:2] + struct.pack("!H", total) + head[4:] + data, (net.remote, 0))
    until = time.monotonic() + LIMIT_S
    while time.monotonic() < until:
        try:
            back = made.recv(2048)
        except TimeoutError:
            break
        back = back[(back[0] & 15) * 4:] if net.domain == socket.AF_INET else back
        if back[0] == (0 if net.domain == socket.AF_INET else 129) and back[8:] == data:
            return "a reply"
    return "no reply"


def forged(net):
    try:
        net.raw(WHOLE).sendto(net.whole(TCP, net.syn(40005, 80), other_version=True), (net.remote, 0))
    except PermissionError:
        return "not permitted"
    time.sleep(1.5)
    return "sent"


def main():
    how, address, *more = sys.argv[1:]
    # Who closed a raw socket within a second may have sent what this one sends.
    time.sleep(1.2)
    net = Net(address, more[0] if how == "closed" and more else None)
    protocols = [TCP, UDP, WHOLE] if how == "closed" else [int(protocol) for protocol in more]
    beside = net.held(protocols) if protocols else None
    try:
        do = {"closed": closed, "forged": forged, "echo": echo}.get(how, lambda net: send(net, how))
        print(json.dumps(do(net)))
    finally:
        if beside:
            beside.kill()


main()
