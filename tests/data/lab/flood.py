"""Floods, and what stands beside them.

begin ADDRESS COUNT    begins COUNT connections to ports 1 to COUNT at once; a JSON line of how they stand after three seconds, on a
                       busy machine once some are refused, then keeps what waits until it is killed
keep ADDRESS COUNT     opens COUNT connections to the echo server, one after another; a JSON line, then keeps them until it is killed
steady ADDRESS COUNT   COUNT times one after another: connect, one byte there and back, close; a JSON line with errors and latencies
witness ADDRESS PORT   accepts one connection: "serving", then the time at which it ended
killed ADDRESS PORT    a child connects and is killed without a word: the time at which it was
"""

import collections
import errno
import json
import os
import resource
import select
import signal
import socket
import sys
import time


def made(address):
    made = socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET)
    made.settimeout(10)
    return made


def more_descriptors():
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


def begin(address, count):
    more_descriptors()
    poll, waiting, said = select.epoll(), {}, collections.Counter()
    for port in range(1, int(count) + 1):
        one = made(address)
        one.setblocking(False)
        error = one.connect_ex((address, port))
        if error == errno.EINPROGRESS:
            waiting[one.fileno()] = one
            poll.register(one, select.EPOLLOUT)
        else:
            said[errno.errorcode[error]] += 1
    end = time.monotonic() + 3
    while time.monotonic() < end or "ECONNREFUSED" not in said and time.monotonic() < end + 27:
        for fd, _ in poll.poll(0.1):
            poll.unregister(fd)
            error = waiting.pop(fd).getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
            said[errno.errorcode.get(error, "OK")] += 1
    print(json.dumps({"waiting": len(waiting), "said": said}), flush=True)
    signal.pause()


def keep(address, count):
    more_descriptors()
    kept, said = [], collections.Counter()
    for _ in range(int(count)):
        one = made(address)
        try:
            one.connect((address, 7))
            kept.append(one)
        except OSError as error:
            said[errno.errorcode.get(error.errno, repr(error))] += 1
    print(json.dumps({"kept": len(kept), "said": said}), flush=True)
    signal.pause()


def steady(address, count):
    times, said = [], collections.Counter()
    for _ in range(int(count)):
        start = time.monotonic()
        try:
            with made(address) as one:
                one.connect((address, 7))
                one.sendall(b"x")
                assert one.recv(1) == b"x"
            times.append((time.monotonic() - start) * 1000)
        except OSError as error:
            said[errno.errorcode.get(error.errno, repr(error))] += 1
    times.sort()
    at = lambda part: round(times[int(len(times) * part)], 2) if times else None
    print(json.dumps({"ok": len(times), "said": said, "p50_ms": at(0.5), "p99_ms": at(0.99)}), flush=True)


def witness(address, port):
    listener = made(address)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.bind((address, int(port)))
    listener.listen()
    print("serving", flush=True)
    listener.settimeout(30)
    peer, _ = listener.accept()
    peer.settimeout(30)
    try:
        while peer.recv(100):
            pass
    except ConnectionResetError:
        pass
    print(time.time(), flush=True)


def killed(address, port):
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        peer = made(address)
        peer.connect((address, int(port)))
        peer.sendall(b"alive")
        os.write(writer, b"!")
        signal.pause()
    os.close(writer)
    os.read(reader, 1)
    time.sleep(1)
    os.kill(child, signal.SIGKILL)
    print(time.time(), flush=True)
    # In an enclosure the end of the first program is the end of everything; this is about the end of one among others.
    time.sleep(5)


# Nothing of this outlives its test.
signal.alarm(75)
VERBS = {verb.__name__: verb for verb in (begin, keep, steady, witness, killed)}
VERBS[sys.argv[1]](*sys.argv[2:])
