"""Runs a copy of bash from a file system in user space (FUSE) that does not say what its files are any more once that runs.

stuck.py DIR SCRIPT [nameless]: serves DIR/program and runs `DIR/program -c SCRIPT`. What it is asked about the program's file afterwards
stays without an answer, as of a network file system whose server is gone; with nameless so does the question for its name. What the
program reads of it comes. Says in one line whether the file of the running program can be looked at (it cannot, as long as nothing is wrong
with this script), and then what the script says.
"""

import ctypes
import errno
import os
import signal
import struct
import subprocess
import sys

LOOKUP, FORGET, GETATTR, OPEN, READ, RELEASE, FLUSH, INIT, INTERRUPT, BATCH_FORGET = 1, 2, 3, 14, 15, 18, 25, 26, 36, 42
ROOT, PROGRAM = 1, 2
# How long a look that gets no answer is waited for.
LIMIT_S = 1


class Server:
    def __init__(self, directory, nameless):
        self.fd, self.silent, self.nameless = os.open("/dev/fuse", os.O_RDWR), False, nameless
        with open("/bin/bash", "rb") as program:
            self.bytes = program.read()
        options = f"fd={self.fd},rootmode=40000,user_id=0,group_id=0,allow_other,default_permissions".encode()
        if ctypes.CDLL(None, use_errno=True).mount(b"stuck", directory.encode(), b"fuse", 0, options):
            raise OSError(ctypes.get_errno(), "mount")

    def fall_silent(self):
        self.silent = True

    def attributes(self, node):
        mode, size = (0o40755, 0) if node == ROOT else (0o100755, len(self.bytes))
        return struct.pack("<6Q10I", node, size, size // 512 + 1, 0, 0, 0, 0, 0, 0, mode, 1, 0, 0, 0, 4096, 0)

    def answer(self, operation, node, body):
        """None: none. A number: that error."""
        if operation == INIT:
            major, minor, ahead, _ = struct.unpack_from("<4I", body)
            return struct.pack("<4I2H2I2H2I24x", major, min(minor, 31), ahead, 0, 8, 8, 1 << 17, 1, 0, 0, 0, 0)
        if operation in (FORGET, BATCH_FORGET, INTERRUPT):
            return None
        if operation == LOOKUP:
            if node != ROOT or body.rstrip(b"\0") != b"program":
                return errno.ENOENT
            if self.nameless and self.silent:
                return None
            # What the file is is good for no time at all, and its name for a while, if it has one.
            return struct.pack("<4Q2I", PROGRAM, 0, 0 if self.nameless else 60, 0, 0, 0) + self.attributes(PROGRAM)
        if operation == GETATTR:
            silent = node == PROGRAM and self.silent
            return None if silent else struct.pack("<Q2I", 0, 0, 0) + self.attributes(node)
        if operation == OPEN:
            return struct.pack("<Q2I", 0, 2, 0)
        if operation == READ:
            _, offset, size = struct.unpack_from("<2QI", body)
            return self.bytes[offset:offset + size]
        return b"" if operation in (RELEASE, FLUSH) else errno.ENOSYS

    def serve(self):
        while True:
            try:
                asked = os.read(self.fd, 1 << 18)
            except OSError as error:
                if error.errno == errno.ENODEV:
                    return
                continue
            _, operation, unique, node = struct.unpack_from("<2I2Q", asked)
            said = self.answer(operation, node, asked[40:])
            if said is None:
                continue
            error, said = (-said, b"") if isinstance(said, int) else (0, said)
            os.write(self.fd, struct.pack("<IiQ", 16 + len(said), error, unique) + said)


def begin(directory, nameless):
    """A process of its own, since Python waits for what it executes. The one that begins it goes on when the files are there."""
    ready, told = os.pipe()
    server = os.fork()
    if server == 0:
        made = Server(directory, nameless)
        signal.signal(signal.SIGUSR1, lambda *_: made.fall_silent())
        os.write(told, b".")
        made.serve()
        os._exit(0)
    os.read(ready, 1)
    return server


def main():
    directory, script, *how = sys.argv[1:]
    server = begin(directory, how == ["nameless"])
    try:
        program = subprocess.Popen([f"{directory}/program", "-c", f"read go; {script}"], stdin=subprocess.PIPE)
        os.kill(server, signal.SIGUSR1)
        look = subprocess.Popen(["stat", "-L", f"/proc/{program.pid}/exe"], stdout=subprocess.DEVNULL)
        try:
            look.wait(LIMIT_S)
            print("it can be looked at", flush=True)
        except subprocess.TimeoutExpired:
            print("stuck", flush=True)
        look.kill()
        program.communicate(b"go\n")
    finally:
        os.kill(server, signal.SIGKILL)


main()
