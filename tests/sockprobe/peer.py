"""The peer of sockprobe, on the lab's internet host: peer.py ADDRESS…

TCP 9001 does what its client's first line says: "TOKEN OP OP…\\n", OP being a method of Script. 9005 does so with a small receive
buffer, 9008 with TCP Fast Open, 9090 behind a gateway that loses all but the first packets. 9002 closes what it accepts, 9003 resets it.
9006 tells what a script saw: a line "TOKEN\\n" gets its log as JSON, once it has ended.
UDP 9001 does what the first line of a datagram says: "OP:ARGUMENT\\n", OP being a method of Datagrams.
"""

import hashlib
import json
import select
import socket
import struct
import sys
import threading
import time

from kit import IP_RECVTOS, IP_RECVTTL, errno_name, hashed, options_of, pattern

LOGS = {}
CHANGED = threading.Condition()
LIMIT_S = 8


class Script:
    """One scripted TCP conversation. What it saw is its log."""

    def __init__(self, connection, log):
        self.connection, self.log = connection, log

    def send(self, count):
        self.connection.sendall(pattern(int(count)))

    def recv(self, count):
        data = b""
        while len(data) < int(count) and (more := self.connection.recv(int(count) - len(data))):
            data += more
        self.log.append(["recv", *hashed(data)])

    def drain(self):
        digest, count = hashlib.sha256(), 0
        try:
            while more := self.connection.recv(65536):
                digest.update(more)
                count += len(more)
            end = "EOF"
        except OSError as error:
            end = errno_name(error)
        self.log.append(["drain", count, digest.hexdigest()[:8], end])

    def echo(self):
        while more := self.connection.recv(65536):
            self.connection.sendall(more)

    def wait(self, milliseconds):
        time.sleep(int(milliseconds) / 1000)

    def fin(self):
        self.connection.shutdown(socket.SHUT_WR)

    def close(self):
        self.connection.close()

    def deaf(self):
        self.connection.shutdown(socket.SHUT_RD)

    def reset(self):
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.connection.close()

    def urgent(self):
        self.connection.send(b"!", socket.MSG_OOB)

    def take_urgent(self):
        poll = select.poll()
        poll.register(self.connection, select.POLLPRI)
        urgent = poll.poll(500)
        self.log.append(["urgent", self.connection.recv(1, socket.MSG_OOB).decode() if urgent else "none"])

    def who(self):
        self.log.append(["who", *self.connection.getpeername()[:2]])

    def dial(self, port):
        """Connects to the client's listener."""
        back = socket.socket(self.connection.family)
        back.settimeout(2)
        self.log.append(["dial", errno_name_of(lambda: back.connect((self.connection.getpeername()[0], int(port))))])
        back.close()

    def throw(self, port):
        """Sends the client a datagram that it has not asked for, from a port that it has not written to."""
        back = socket.socket(self.connection.family, socket.SOCK_DGRAM)
        back.sendto(b"unasked", (self.connection.getpeername()[0], int(port)))
        back.close()


def errno_name_of(attempt):
    try:
        attempt()
        return "OK"
    except OSError as error:
        return errno_name(error)


def run_script(connection):
    line = b""
    while not line.endswith(b"\n"):
        byte = connection.recv(1)
        if not byte:
            return
        line += byte
    token, *words = line.decode().split()
    log = []
    try:
        script = Script(connection, log)
        for word in words:
            name, _, argument = word.partition(":")
            getattr(script, name)(*([argument] if argument else []))
    except OSError as error:
        log.append(["broke", errno_name(error)])
    finally:
        connection.close()
        with CHANGED:
            LOGS[token] = log
            CHANGED.notify_all()


def run_report(connection):
    token = connection.makefile("rb").readline().decode().strip()
    with CHANGED:
        CHANGED.wait_for(lambda: token in LOGS, timeout=LIMIT_S)
        connection.sendall(json.dumps(LOGS.pop(token, "no log")).encode())


def run_close(connection):
    connection.close()


def run_reset(connection):
    Script(connection, []).reset()


def serve_tcp(port, body, prepare=lambda listener: None):
    listener = socket.create_server(("::", port), family=socket.AF_INET6, dualstack_ipv6=True, backlog=1024, reuse_port=False)
    prepare(listener)

    def one(connection):
        connection.settimeout(20)
        try:
            body(connection)
        except OSError:
            pass
        finally:
            connection.close()

    def all_of_them():
        while True:
            connection, _ = listener.accept()
            threading.Thread(target=one, args=[connection], daemon=True).start()

    threading.Thread(target=all_of_them, daemon=True).start()


class Datagrams:
    """Scripted datagrams of one address."""

    def __init__(self, address, others):
        self.address, self.others = address, others
        self.v4 = ":" not in address
        self.socket = self.bound(address, 9001)
        level, ttl, tos = options_of(self.v4)
        self.socket.setsockopt(level, IP_RECVTTL if self.v4 else 51, 1)
        self.socket.setsockopt(level, IP_RECVTOS if self.v4 else 66, 1)
        self.level, self.ttl_option, self.tos_option = level, ttl, tos

    def bound(self, address, port):
        made = socket.socket(socket.AF_INET if self.v4 else socket.AF_INET6, socket.SOCK_DGRAM)
        made.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4 << 20)
        made.bind((address, port))
        return made

    def serve(self):
        while True:
            data, control, _, peer = self.socket.recvmsg(70000, 256)
            facts = {kind: struct.unpack("i", value[:4].ljust(4, b"\0"))[0] for _, kind, value in control}
            word = data.split(b"\n", 1)[0].decode(errors="replace") if b"\n" in data[:80] else "echo"
            name, _, argument = word.partition(":")
            try:
                getattr(self, name)(data, peer, facts, argument)
            except OSError as error:
                print(word, error, file=sys.stderr, flush=True)

    def echo(self, data, peer, facts, argument):
        self.socket.sendto(data, peer)

    def size(self, data, peer, facts, argument):
        self.socket.sendto(pattern(int(argument)), peer)

    def hash(self, data, peer, facts, argument):
        self.socket.sendto(json.dumps(hashed(data)).encode(), peer)

    def seen(self, data, peer, facts, argument):
        ttl = facts.get(2 if self.v4 else 52)
        tos = facts.get(1 if self.v4 else 67)
        self.socket.sendto(json.dumps({"ttl": ttl, "tos": tos, "from": peer[0], "port": peer[1]}).encode(), peer)

    def ttl(self, data, peer, facts, argument):
        self.with_option(self.ttl_option, int(argument), peer)

    def tos(self, data, peer, facts, argument):
        self.with_option(self.tos_option, int(argument), peer)

    def with_option(self, option, value, peer):
        before = self.socket.getsockopt(self.level, option)
        self.socket.setsockopt(self.level, option, value)
        self.socket.sendto(b"so", peer)
        self.socket.setsockopt(self.level, option, before if option == self.tos_option else -1)

    def other(self, data, peer, facts, argument):
        """Answers from another address, port 9001."""
        self.others[self.address].socket.sendto(b"from another address", peer)

    def otherport(self, data, peer, facts, argument):
        reply = self.bound(self.address, 0)
        reply.sendto(b"from another port", peer)
        reply.close()

    def count(self, data, peer, facts, argument):
        for number in range(int(argument)):
            self.socket.sendto(b"%d" % number, peer)

    def log(self, data, peer, facts, argument):
        """Remembers under a token how much came; nothing is answered."""
        with CHANGED:
            LOGS[argument] = [*LOGS.get(argument, []), len(data)]
            CHANGED.notify_all()

    def nothing(self, data, peer, facts, argument):
        pass


def main(addresses):
    serve_tcp(9001, run_script)
    serve_tcp(9002, run_close)
    serve_tcp(9003, run_reset)
    serve_tcp(9005, run_script, lambda listener: listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096))
    serve_tcp(9006, run_report)
    serve_tcp(9008, run_script, lambda listener: listener.setsockopt(socket.IPPROTO_TCP, 23, 16))
    serve_tcp(9090, run_script)
    others = {}
    for address in addresses:
        others[address] = Datagrams(address, others)
    # The other address of the same family answers for each.
    served = list(others.values())
    for one in served:
        one.others = {one.address: next(other for other in served if other.v4 == one.v4 and other is not one)}
        threading.Thread(target=one.serve, daemon=True).start()
    print("serving", flush=True)
    threading.Event().wait()


if __name__ == "__main__":
    main(sys.argv[1:])
