#!/usr/bin/python3
"""A tunnel between this namespace and another one: a TUN device in each, of the same name, and what is read of one is written to the other.

tunnel.py NAME NAMESPACE FILE [offload]

Prints "ready". Each packet that leaves the other namespace is a line in FILE: its protocol's number and its destination. With "offload" the
devices take what the kernel did not cut and left without a checksum, as a kernel's own tunnel does.
"""

import ctypes
import fcntl
import os
import select
import socket
import struct
import sys

TUNSETIFF, TUNSETOFFLOAD = 0x400454CA, 0x400454D0
TUN, NO_HEADER, VNET_HEADER = 0x1, 0x1000, 0x4000
CLONE_NEWNET = 0x40000000
VNET_HEADER_LEN = 10


def device(name, offload):
    tun = os.open("/dev/net/tun", os.O_RDWR)
    flags = TUN | NO_HEADER | (VNET_HEADER if offload else 0)
    fcntl.ioctl(tun, TUNSETIFF, struct.pack("16sH22x", name.encode(), flags))
    if offload:
        fcntl.ioctl(tun, TUNSETOFFLOAD, 0x7)
    return tun


def enter(namespace):
    libc = ctypes.CDLL(None, use_errno=True)
    with open(f"/run/netns/{namespace}") as there:
        if libc.setns(there.fileno(), CLONE_NEWNET) != 0:
            raise OSError(ctypes.get_errno(), "setns")


def described(packet):
    if packet[0] >> 4 == 4:
        return packet[9], socket.inet_ntop(socket.AF_INET, packet[16:20])
    return packet[6], socket.inet_ntop(socket.AF_INET6, packet[24:40])


def main():
    name, namespace, path = sys.argv[1:4]
    offload = sys.argv[4:] == ["offload"]
    here = device(name, offload)
    enter(namespace)
    there = device(name, offload)
    skipped = VNET_HEADER_LEN if offload else 0
    print("ready", flush=True)
    with open(path, "w", buffering=1) as seen:
        while True:
            for ready in select.select([here, there], [], [])[0]:
                packet = os.read(ready, 1 << 17)
                if ready == there:
                    print(*described(packet[skipped:]), file=seen)
                try:
                    os.write(there if ready == here else here, packet)
                except OSError:
                    pass  # The other device is down.


main()
