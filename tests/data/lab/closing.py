#!/usr/bin/python3
"""Sockets that are closed as soon as they have sent one datagram.

collect PORT                            takes datagrams of both families until one says "end"; tells all others, in order
send ADDRESS PORT COUNT                 sends COUNT, each from a socket of its own; half of these are connected
change ADDRESS PORT COUNT PROGRAM       the same from children that are PROGRAM a moment later; half of them leave their socket to execve(2)
hand_over ADDRESS PORT COUNT PYTHON     the same, and each port is taken soon or at once by another program, which sends too
again ADDRESS PORT COUNT                sends COUNT pairs: the second of each leaves from the port of the first, at once or soon
taking ADDRESS PORT                     that other program; closes every other socket at once
leave ADDRESS PORT COUNT PYTHON         as hand_over, but the other program leaves each port without closing its socket; half of the first end
leaving ADDRESS PORT                    that other program
"""

import ctypes
import json
import os
import socket
import subprocess
import sys
import time

# What a sender waits before it ends: nobody can look at a program that is gone.
WAIT = 1.0
# Between two sockets of one port, in seconds: the flow of the first is not looked at yet, is open, is over.
PAUSES = [0, 0.001, 0.02, 0.15, 0.4]


def made(address):
    return socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET, socket.SOCK_DGRAM)


def said(text, address, port, connects, own_port=0):
    """A socket that has sent one datagram."""
    sender = made(address)
    if own_port:
        sender.bind(("", own_port))
    if connects:
        sender.connect((address, port))
        sender.send(text.encode())
    else:
        sender.sendto(text.encode(), (address, port))
    return sender


def collect(port):
    server = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
    server.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)
    server.bind(("::", int(port)))
    server.settimeout(60)
    print("collecting", flush=True)
    told = []
    while not told or told[-1] != "end":
        told.append(server.recv(2000).decode().strip())
    print(json.dumps(told[:-1]), flush=True)


def send(address, port, count):
    for number in range(int(count)):
        said(f"sent {number}", address, int(port), number % 2).close()
    time.sleep(WAIT)


def change(address, port, count, program):
    for number in range(int(count)):
        child = os.fork()
        if child == 0:
            word = "closed" if number % 2 else "left"
            sender = said(f"{word} {number}", address, int(port), True)
            if number % 2:
                sender.close()
            os.execv(program, [program, "0.2"])
        os.waitpid(child, 0)


def hand_over(address, port, count, python):
    words = [python, __file__, "taking", address, port]
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout.readline() == "ready\n"
        for number in range(int(count)):
            sender = said(f"first {number}", address, int(port), True)
            own = sender.getsockname()[1]
            sender.close()
            if number % 4 < 2:
                # The first one's flow is open by then.
                time.sleep(0.02)
            print(own, file=other.stdin, flush=True)
            assert other.stdout.readline() == "sent\n"
        other.stdin.close()
        time.sleep(WAIT)


def leave(address, port, count, python):
    words, sent = [python, __file__, "leaving", address, port], 0
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout.readline() == "ready\n"
        for number in range(int(count)):
            ours, theirs = os.pipe()
            child = os.fork() if number % 2 else 0
            if child == 0:
                sender = said(f"first {number}", address, int(port), True)
                os.write(theirs, str(sender.getsockname()[1]).encode())
                sender.close()
                if number % 2:
                    os._exit(0)
            own = int(os.read(ours, 16))
            if child:
                os.waitpid(child, 0)
            os.close(ours)
            os.close(theirs)
            # The first one's flow is open by then.
            time.sleep(0.02)
            print(own, file=other.stdin, flush=True)
            sent += other.stdout.readline() == "sent\n"
        other.stdin.close()
        assert sent > 0, "no port was free in time"
        time.sleep(WAIT)


def leaving(address, port):
    # IP_LOCAL_PORT_RANGE (include/uapi/linux/in.h): the kernel gives this port, and takes it back where the socket has no peer any more.
    option, libc = 51, ctypes.CDLL(None, use_errno=True)
    print("ready", flush=True)
    kept = []
    for number, own in enumerate(sys.stdin):
        sender = made(address)
        sender.setsockopt(socket.IPPROTO_IP, option, (int(own) << 16 | int(own)).to_bytes(4, sys.byteorder))
        # To another port of the same host every other time: that is another flow.
        to = (address, int(port) + number // 2 % 2)
        told = "taken"
        for _ in range(100):
            try:
                sender.sendto(f"second {number}".encode(), to)
                assert libc.connect(sender.fileno(), bytes(16), 16) == 0
                told = "sent"
                break
            except OSError:
                time.sleep(0.0002)
        kept.append(sender)
        print(told, flush=True)
    time.sleep(WAIT)


def again(address, port, count):
    for number in range(int(count)):
        connects = number // len(PAUSES) % 2
        first = said(f"first {number}", address, int(port), connects)
        own = first.getsockname()[1]
        first.close()
        time.sleep(PAUSES[number % len(PAUSES)])
        said(f"second {number}", address, int(port), connects, own).close()
    time.sleep(WAIT)


def taking(address, port):
    print("ready", flush=True)
    kept = None
    for number, own in enumerate(sys.stdin):
        kept = None
        try:
            kept = said(f"second {number}", address, int(port), True, int(own))
        except OSError:
            # The refusal of the one before.
            pass
        if number % 2:
            kept = None
        print("sent", flush=True)
    time.sleep(WAIT)


if __name__ == "__main__":
    verbs = [collect, send, change, hand_over, again, taking, leave, leaving]
    next(verb for verb in verbs if verb.__name__ == sys.argv[1])(*sys.argv[2:])
