#!/usr/bin/python3
"""Sockets that are closed as soon as they have sent one datagram.

collect PORT                            takes datagrams of both families until one says "end"; tells all others, in order
send ADDRESS PORT COUNT                 sends COUNT, each from a socket of its own; half of these are connected
change ADDRESS PORT COUNT PROGRAM       the same from children that are PROGRAM a moment later; half of them leave their socket to execve(2)
hand_over ADDRESS PORT COUNT PYTHON     the same, and each port is taken soon or at once by another program, which sends too
again ADDRESS PORT COUNT                sends COUNT pairs: the second of each leaves from the port of the first, at once or soon
taking ADDRESS PORT                     that other program; closes every other socket at once
"""

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
    {"collect": collect, "send": send, "change": change, "hand_over": hand_over, "again": again, "taking": taking}[sys.argv[1]](*sys.argv[2:])
