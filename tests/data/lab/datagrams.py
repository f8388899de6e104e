"""Tells what datagram sockets say, one JSON value a line.

sizes ADDRESS           echoes of datagrams from 1 to 65507 bytes: the sizes that came back unharmed
together ADDRESS        2500 bytes by UDP_SEGMENT as datagrams of 1000: the sizes that came back
narrow ADDRESS          1400 bytes that must not be fragmented, three times: what each said, then the path MTU
wide ADDRESS            1400 bytes that may be fragmented, three times: what each said
expires ADDRESS         a datagram of hop limit 1: the ICMP error's origin, type, code, sender and quote
ports ADDRESS OTHER     one socket to two peers (serve): whether they saw one port
stranger ADDRESS        a datagram whose answer comes from another address (serve): that address
serve ADDRESS OTHER     answers on port 9010 of both with the port seen; "other…" is answered by the other one. Says "serving"
stream ADDRESS [OTHER]  sends from the last of these to whoever asks on port 9011 of the first until it is refused. Says "streaming",
                        and why it stopped
leave ADDRESS           asks for that stream and closes its socket when it has heard of it. Says "left", and stays
join GROUP [LINK]       answers on port 9010 what is sent to the group, by LINK or by the one that the kernel finds. Says "joined", and
                        then who sent
tell GROUP LINK         sends to the group, port 9010, by this link
"""

import json
import os
import select
import socket
import struct
import sys
import time

IP_MTU_DISCOVER, IP_MTU, IP_RECVERR = 10, 14, 11
IPV6_MTU_DISCOVER, IPV6_MTU, IPV6_RECVERR = 23, 24, 25
PMTUDISC_DO, UDP_SEGMENT = 2, 103
PATTERN = bytes(range(256)) * 256


def made(address, limit_s=20):
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    peer = socket.socket(family, socket.SOCK_DGRAM)
    peer.settimeout(limit_s)
    return peer


def connected(address, port):
    peer = made(address)
    peer.connect((address, port))
    return peer


def set_option(peer, v4, v6, value):
    if peer.family == socket.AF_INET:
        peer.setsockopt(socket.IPPROTO_IP, v4, value)
    else:
        peer.setsockopt(socket.IPPROTO_IPV6, v6, value)


def said(attempt):
    try:
        return attempt()
    except TimeoutError:
        return "silence"
    except OSError as error:
        return os.strerror(error.errno)


def sizes(address):
    peer = connected(address, 7)

    def echoed(size):
        peer.send(PATTERN[:size])
        return peer.recv(65536) == PATTERN[:size]

    return [size for size in (1, 1400, 1472, 1473, 9000, 65507) if said(lambda: echoed(size)) is True]


def together(address):
    peer = connected(address, 7)
    peer.sendmsg([PATTERN[:2500]], [(socket.IPPROTO_UDP, UDP_SEGMENT, struct.pack("H", 1000))])
    return [len(peer.recv(65536)) for _ in range(3)]


def echoes(peer):
    def echoed():
        peer.send(PATTERN[:1400])
        return len(peer.recv(65536))

    return [said(echoed) for _ in range(3)]


def narrow(address):
    peer = connected(address, 7)
    set_option(peer, IP_MTU_DISCOVER, IPV6_MTU_DISCOVER, PMTUDISC_DO)
    told = echoes(peer)
    v4 = peer.family == socket.AF_INET
    level, name = (socket.IPPROTO_IP, IP_MTU) if v4 else (socket.IPPROTO_IPV6, IPV6_MTU)
    return told + [peer.getsockopt(level, name)]


def wide(address):
    return echoes(connected(address, 7))


def expires(address):
    peer = connected(address, 33434)
    set_option(peer, IP_RECVERR, IPV6_RECVERR, 1)
    set_option(peer, socket.IP_TTL, socket.IPV6_UNICAST_HOPS, 1)
    peer.send(b"what was sent")
    waiting = select.poll()
    waiting.register(peer, 0)
    waiting.poll(20000)
    quoted, control, _, _ = peer.recvmsg(100, 300, socket.MSG_ERRQUEUE)
    error = control[0][2]
    _, origin, kind, code = struct.unpack("IBBB", error[:7])
    sender = error[20:24] if peer.family == socket.AF_INET else error[24:40]
    return [origin, kind, code, socket.inet_ntop(peer.family, sender), quoted.decode()]


def asked(peer, word, address):
    peer.sendto(word, (address, 9010))
    return peer.recvfrom(100)


def ports(address, other):
    peer = made(address)
    return asked(peer, b"port", address)[0] == asked(peer, b"port", other)[0]


def stranger(address):
    # Silence is an answer, too.
    peer = made(address, 4)
    return said(lambda: asked(peer, b"other", address)[1][0])


def serve(*addresses):
    one, other = [made(address) for address in addresses]
    for peer, address in zip((one, other), addresses):
        peer.settimeout(None)
        peer.bind((address, 9010))
    print("serving", flush=True)
    while True:
        for peer in select.select([one, other], [], [])[0]:
            word, sender = peer.recvfrom(100)
            answers = peer if not word.startswith(b"other") else other if peer is one else one
            answers.sendto(b"%d" % sender[1], sender)


def stream(*addresses):
    asked, peer = made(addresses[0]), made(addresses[-1])
    asked.bind((addresses[0], 9011))
    print("streaming", flush=True)
    sender = asked.recvfrom(100)[1]
    asked.close()
    peer.bind((addresses[-1], 9011))
    peer.connect(sender)

    def sent():
        until = time.monotonic() + 20
        while time.monotonic() < until:
            peer.send(PATTERN[:100])
            time.sleep(0.02)
        return "nobody said anything"

    return said(sent)


def leave(address):
    with made(address) as peer:
        peer.sendto(b"begin", (address, 9011))
        for _ in range(3):
            peer.recv(100)
    print("left", flush=True)
    time.sleep(60)


def join(group, link=None):
    peer = made(group)
    peer.settimeout(None)
    peer.bind(("", 9010))
    index = socket.if_nametoindex(link) if link else 0
    wanted = socket.inet_pton(peer.family, group)
    any_address = bytes(4) if peer.family == socket.AF_INET else b""
    set_option(peer, socket.IP_ADD_MEMBERSHIP, socket.IPV6_JOIN_GROUP, wanted + any_address + struct.pack("i", index))
    print("joined", flush=True)
    while True:
        sender = peer.recvfrom(100)[1]
        print(sender[0].partition("%")[0], flush=True)
        peer.sendto(b"%d" % sender[1], sender)


def tell(group, link):
    peer = made(group)
    index = struct.pack("i", socket.if_nametoindex(link))
    v4 = peer.family == socket.AF_INET
    set_option(peer, socket.IP_MULTICAST_IF, socket.IPV6_MULTICAST_IF, bytes(8) + index if v4 else index)
    peer.sendto(b"word", (group, 9010))


verb, *words = sys.argv[1:]
print(json.dumps(globals()[verb](*words)))
