"""Tells what socket calls say.

connect ADDRESS PORT   one TCP connect: {"said": ERRNO or "OK", "milliseconds": N}
datagram ADDRESS PORT  one UDP datagram and its answer: the same, "OK" where the answer is the datagram
hold ADDRESS           an echo conversation by TCP for 60 s: "talking", then the errno that ended it or "EOF"
halfclose ADDRESS S    half-close by us first (port 8007), then by the server first (8008); exits S seconds later
many ADDRESS COUNT     COUNT parallel echo conversations by asyncio: "OK COUNT"
serve ADDRESS PORT     a TCP echo server: "serving"
"""

import asyncio
import errno
import hashlib
import json
import os
import socket
import sys
import time

LIMIT_S = 4


def made(address, kind, limit_s=LIMIT_S):
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    made = socket.socket(family, kind)
    made.settimeout(limit_s)
    return made


def name_of(error):
    if isinstance(error, TimeoutError) and error.errno is None:
        return "silence"
    return errno.errorcode.get(error.errno, repr(error))


def told(attempt):
    start = time.monotonic()
    try:
        said = attempt() or "OK"
    except OSError as error:
        said = name_of(error)
    print(json.dumps({"said": said, "milliseconds": (time.monotonic() - start) * 1000}))


def connect(address, port):
    told(lambda: made(address, socket.SOCK_STREAM).connect((address, int(port))))


def datagram(address, port):
    def attempt():
        peer = made(address, socket.SOCK_DGRAM)
        peer.connect((address, int(port)))
        peer.send(b"ping")
        return None if peer.recv(100) == b"ping" else "another answer"

    told(attempt)


def hold(address):
    peer = made(address, socket.SOCK_STREAM)
    try:
        peer.connect((address, 7))
        for turn in range(1200):
            peer.sendall(b"%d\n" % turn)
            if not peer.recv(100):
                print("EOF", flush=True)
                return
            if turn == 0:
                # In one write, since several may share a pipe; print() may do two.
                os.write(1, b"talking\n")
            time.sleep(0.05)
        print("still talking", flush=True)
    except OSError as error:
        print(name_of(error), flush=True)


def halfclose(address, seconds):
    body = os.urandom(3 << 20)
    first = made(address, socket.SOCK_STREAM, 30)
    first.connect((address, 8007))
    first.sendall(body)
    first.shutdown(socket.SHUT_WR)
    answer = b"".join(iter(lambda: first.recv(1000), b"")).decode().strip()
    assert answer == f"{len(body)} {hashlib.sha256(body).hexdigest()}", answer

    second = made(address, socket.SOCK_STREAM, 30)
    second.connect((address, 8008))
    greeting = b"".join(iter(lambda: second.recv(1000), b""))
    assert greeting == b"bye\n", greeting
    second.sendall(body)
    second.shutdown(socket.SHUT_WR)
    time.sleep(int(seconds))
    print(len(body), hashlib.sha256(body).hexdigest())


def many(address, count):
    async def talk(number):
        reader, writer = await asyncio.open_connection(address, 7)
        for turn in range(5):
            line = b"%d of %d\n" % (turn, number)
            writer.write(line)
            assert await reader.readline() == line
        writer.write_eof()
        assert await reader.read() == b""
        writer.close()

    async def all_of_them():
        await asyncio.wait_for(asyncio.gather(*(talk(number) for number in range(int(count)))), 60)

    asyncio.run(all_of_them())
    print("OK", count)


def serve(address, port):
    async def echo(reader, writer):
        while data := await reader.read(1000):
            writer.write(data)
        writer.close()

    async def forever():
        server = await asyncio.start_server(echo, address, int(port))
        print("serving", flush=True)
        await server.serve_forever()

    asyncio.run(forever())


VERBS = {verb.__name__: verb for verb in (connect, datagram, hold, halfclose, many, serve)}
VERBS[sys.argv[1]](*sys.argv[2:])
