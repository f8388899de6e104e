"""Runs CPython's own tests of sockets across the lab: what they bind is on the internet host, what connects to it starts here.

    abroad.py serve SOCKET                            on the internet host: hands out sockets that are made there
    abroad.py run SOCKET MODULE…                      on the laptop: a line a test: how it ended and its name

The tests speak with servers of their own on loopback. Here bind(2) exchanges a socket for one that the internet host made, and its
loopback address means LOOPBACK from then on, both ways; a program under test sees 127.0.0.1 and ::1 alone.
"""

import array
import faulthandler
import os
import socket
import sys
import threading
import unittest

ABROAD = {socket.AF_INET: "203.0.113.10", socket.AF_INET6: "2001:db8::10"}
HOME = {socket.AF_INET: "127.0.0.1", socket.AF_INET6: "::1"}
KEPT = [(socket.SOL_SOCKET, name) for name in (socket.SO_REUSEADDR, socket.SO_REUSEPORT, socket.SO_BROADCAST, socket.SO_KEEPALIVE)]
KEPT_6 = [(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY)]
# Known differences by design: protocols other than TCP, UDP and echo are refused, a server cannot call back to the TUN's address, and
# urgent data is carried in its place in the stream. VSOCK reaches no host of a lab.
LEFT_OUT = ("VSOCK", "UDPLITE", "test_makeport", "TestIPv6Environment.test_transfer", "test_handle_expt")
# No module takes longer than this.
LIMIT_S = 160


def serve(path):
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    listener.bind(path)
    listener.listen(64)
    print("serving", flush=True)
    while True:
        client, _ = listener.accept()
        threading.Thread(target=hand_out, args=(client,), daemon=True).start()


def hand_out(client):
    while words := client.recv(64).split():
        with socket.socket(*map(int, words)) as made:
            client.sendmsg([b"x"], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [made.fileno()]))])


class Abroad:
    """Exchanges sockets and translates addresses."""

    def __init__(self, path):
        self.lock, self.path, self.helper, self.pid = threading.Lock(), path, None, None
        # Ports of peers that a server saw, and where they are.
        self.peers = {}
        self.exchanged = 0

    def made(self, family, kind, protocol):
        with self.lock:
            if self.pid != os.getpid():
                self.helper, self.pid = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET), os.getpid()
                PLAIN["connect"](self.helper, self.path)
            self.helper.send(f"{int(family)} {int(kind)} {protocol}".encode())
            _, control, _, _ = PLAIN["recvmsg"](self.helper, 1, socket.CMSG_SPACE(4))
            self.exchanged += 1
            return int.from_bytes(control[0][2][:4], sys.byteorder)

    def exchange(self, one):
        made = self.made(one.family, one.type, one.proto)
        with socket.socket(fileno=made) as other:
            for level, option in KEPT + (KEPT_6 if one.family == socket.AF_INET6 else []):
                try:
                    other.setsockopt(level, option, one.getsockopt(level, option))
                except OSError:
                    pass
            os.set_blocking(other.fileno(), one.gettimeout() is None)
            os.dup2(other.fileno(), one.fileno(), os.get_inheritable(one.fileno()))

    def out(self, one, address):
        """The address that a call is to take."""
        if one.family not in ABROAD or not isinstance(address, tuple) or len(address) < 2:
            return address
        host, port, *rest = address
        if host in ("localhost", "", HOME[one.family], {socket.AF_INET: "0.0.0.0", socket.AF_INET6: "::"}[one.family]):
            host = self.peers.get((one.family, port), ABROAD[one.family])
        return (host, port, *rest)

    def back(self, one, address, of_peer=True):
        """The address that a call is to say."""
        if one.family not in ABROAD or not isinstance(address, tuple) or len(address) < 2:
            return address
        host, port, *rest = address
        if host in (ABROAD[one.family], *LAPTOP[one.family]):
            if of_peer and host in LAPTOP[one.family]:
                self.peers[one.family, port] = host
            host = HOME[one.family]
        elif host == f"::ffff:{ABROAD[socket.AF_INET]}":
            host = "::ffff:127.0.0.1"
        return (host, port, *rest)


# What the internet host sees the laptop as, and what the laptop calls itself under `up` (a known difference).
LAPTOP = {socket.AF_INET: ["10.9.0.2", "198.18.0.1"], socket.AF_INET6: ["fd09::2", "2001:2::1"]}
PLAIN = {
    name: getattr(socket.socket, name)
    for name in "bind connect connect_ex sendto sendmsg getsockname getpeername _accept recvfrom recvfrom_into recvmsg recvmsg_into".split()
}


def install(abroad):
    def bind(one, address):
        if one.family in ABROAD and isinstance(address, tuple) and len(address) >= 2:
            if address[0] in ("localhost", HOME[one.family]):
                abroad.exchange(one)
                abroad.peers.pop((one.family, address[1]), None)
                address = (ABROAD[one.family], *address[1:])
            elif address[0] in ("", "0.0.0.0", "::"):
                abroad.exchange(one)
        PLAIN["bind"](one, address)
        if one.family in ABROAD:
            abroad.peers.pop((one.family, PLAIN["getsockname"](one)[1]), None)

    def sendto(one, data, *rest):
        return PLAIN["sendto"](one, data, *rest[:-1], abroad.out(one, rest[-1])) if rest else PLAIN["sendto"](one, data)

    def sendmsg(one, *words):
        return PLAIN["sendmsg"](one, *words[:3], *(abroad.out(one, address) for address in words[3:4]), *words[4:])

    def last_translated(name):
        def call(one, *words, **named):
            *rest, address = PLAIN[name](one, *words, **named)
            return (*rest, abroad.back(one, address))

        return call

    patched = {
        "bind": bind,
        "connect": lambda one, address: PLAIN["connect"](one, abroad.out(one, address)),
        "connect_ex": lambda one, address: PLAIN["connect_ex"](one, abroad.out(one, address)),
        "sendto": sendto,
        "sendmsg": sendmsg,
        "getsockname": lambda one: abroad.back(one, PLAIN["getsockname"](one), of_peer=False),
        "getpeername": lambda one: abroad.back(one, PLAIN["getpeername"](one)),
    }
    patched |= {name: last_translated(name) for name in ("_accept", "recvfrom", "recvfrom_into", "recvmsg", "recvmsg_into")}
    for name, call in patched.items():
        setattr(socket.socket, name, call)


class Told(unittest.TestResult):
    """One line a test."""

    def startTest(self, test):
        super().startTest(test)
        self.ended = "passed"

    def stopTest(self, test):
        super().stopTest(test)
        print(self.ended, test.id(), file=OUT, flush=True)

    def addError(self, test, error):
        self.fell(test, error)

    def addFailure(self, test, error):
        self.fell(test, error)

    def addSubTest(self, test, subtest, error):
        if error:
            self.fell(test, error)

    def fell(self, test, error):
        self.ended = "failed"
        print(test.id(), self._exc_info_to_string(error, test) if isinstance(test, unittest.TestCase) else error[1], file=sys.stderr, flush=True)

    def addSkip(self, test, reason):
        self.ended = "skipped"

    def addExpectedFailure(self, test, error):
        self.ended = "failed-as-expected"


def kept(tests):
    for test in tests:
        if isinstance(test, unittest.TestSuite):
            yield unittest.TestSuite(kept(test))
        elif not any(words in test.id() for words in LEFT_OUT):
            yield test


def run(path, modules):
    abroad = Abroad(path)
    install(abroad)
    from test import support

    support.use_resources = ["network"]
    faulthandler.dump_traceback_later(LIMIT_S, exit=True)
    for module in modules:
        suite = unittest.TestSuite(kept(unittest.defaultTestLoader.loadTestsFromName(module)))
        suite(Told())
    print(f"{abroad.exchanged} sockets were made abroad", file=sys.stderr, flush=True)
    os._exit(0)


if __name__ == "__main__":
    verb, path, *modules = sys.argv[1:]
    OUT = os.fdopen(os.dup(1), "w")
    serve(path) if verb == "serve" else run(path, modules)
