#!/usr/bin/python3
"""Two programs that send from one UDP port of this host to one peer.

share ADDRESS PORT PYTHON [PAUSE]
                            has another program send from the port of each of its sockets, in every way that the kernel allows; says itself
                            before that and after it, or nothing at all; with a PAUSE in seconds between them, the other one keeps its sockets
also                        that other program: binds or sends as each line says
"""

import json
import socket
import struct
import subprocess
import sys
import time

# How the two sockets come to one port. The first two need no consent of the first one's.
WAYS = ["loopback", "group", "earlier", "later"]
# Until datagrams that were sent have been looked at.
PAUSE = 0.1
GROUPS = {socket.AF_INET: "239.255.17.17", socket.AF_INET6: "ff05::1717"}
LOOPBACKS = {socket.AF_INET: "127.0.0.1", socket.AF_INET6: "::1"}


def made(family, shared):
    sock = socket.socket(family, socket.SOCK_DGRAM)
    if shared:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    return sock


def from_address(family, own):
    """What says the source address of one datagram."""
    packed = socket.inet_pton(family, own)
    if family == socket.AF_INET:
        return [(socket.IPPROTO_IP, 8, struct.pack("=I4s4s", 0, packed, bytes(4)))]
    return [(socket.IPPROTO_IPV6, socket.IPV6_PKTINFO, packed + struct.pack("=I", 0))]


class Other:
    """The other program."""

    def __init__(self, python):
        words = [python, __file__, "also"]
        self.child = subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        assert self.child.stdout.readline() == "ready\n"

    def told(self, **words):
        print(json.dumps(words), file=self.child.stdin, flush=True)
        said = self.child.stdout.readline().strip()
        assert said == "done", (words, said)

    def end(self):
        self.child.stdin.close()
        self.child.wait()


def own_address(family, peer):
    with socket.socket(family, socket.SOCK_DGRAM) as probe:
        probe.connect(peer)
        return probe.getsockname()[0]


def again(mine, text, peer):
    for _ in range(2):
        try:
            mine.sendto(text.encode(), peer)
            return
        except OSError:
            # The kernel gives what became of the other one's datagram to the socket that would hear an answer.
            pass


def share(address, port, python, pause=None):
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    peer = (address, int(port))
    own, other = own_address(family, peer), Other(python)
    for number in range(len(WAYS) * (2 if pause else 4)):
        how, speaks, closes = WAYS[number % len(WAYS)], number % 8 < 4, number >= 8
        mine = made(family, how in ("earlier", "later"))
        words = {"how": how, "own": own, "peer": peer, "closes": closes, "text": f"other {how} {speaks} {closes}"}
        if how == "earlier":
            # Of two that are alike the kernel's tables name the one that was bound last.
            words["port"] = 20_000 + number
            other.told(bind=True, **words)
            mine.bind(("", words["port"]))
        if how in ("loopback", "group"):
            mine.connect(peer)
        if how == "later":
            mine.bind((own, 0))
        words["port"] = mine.getsockname()[1]
        if speaks:
            mine.sendto(f"mine {how} {closes}".encode(), peer)
            time.sleep(float(pause or PAUSE))
        if how != "earlier":
            other.told(bind=True, **words)
        other.told(send=True, **words)
        time.sleep(PAUSE)
        if speaks:
            again(mine, f"again {how} {closes}", peer)
            time.sleep(PAUSE)
        mine.close()
    other.end()


def also():
    print("ready", flush=True)
    sock = None
    for line in sys.stdin:
        words = json.loads(line)
        family = socket.AF_INET6 if ":" in words["own"] else socket.AF_INET
        how, peer = words["how"], tuple(words["peer"])
        if words.get("bind"):
            sock = made(family, how in ("earlier", "later"))
            sock.bind(({"loopback": LOOPBACKS, "group": GROUPS}.get(how, {}).get(family, ""), words["port"]))
        if words.get("send"):
            named = from_address(family, words["own"]) if how in ("loopback", "group") else []
            sock.sendmsg([words["text"].encode()], named, 0, peer)
            if words["closes"]:
                sock.close()
        print("done", flush=True)


{"share": share, "also": also}[sys.argv[1]](*sys.argv[2:])
