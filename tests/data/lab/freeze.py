"""Holds one thread of a process still until this program ends: freeze.py PID NUMBER, the NUMBERth of its threads called "packets".

Says "held" then. Its end, in whatever way, lets the thread go on (ptrace(2), PTRACE_SEIZE).
"""

import ctypes
import os
import sys
import time

SEIZE, INTERRUPT = 0x4206, 0x4207
WALL = 0x40000000

libc = ctypes.CDLL(None, use_errno=True)
libc.ptrace.argtypes = [ctypes.c_long] * 4
libc.ptrace.restype = ctypes.c_long


def ptrace(request, thread):
    if libc.ptrace(request, thread, 0, 0) == -1:
        raise OSError(ctypes.get_errno(), f"ptrace {request:#x} of {thread}")


def comm(thread):
    with open(f"/proc/{thread}/comm") as file:
        return file.read().strip()


pid, number = int(sys.argv[1]), int(sys.argv[2])
threads = [thread for thread in sorted(map(int, os.listdir(f"/proc/{pid}/task"))) if comm(thread) == "packets"]
thread = threads[number]
ptrace(SEIZE, thread)
ptrace(INTERRUPT, thread)
os.waitpid(thread, WALL)
print("held", flush=True)
time.sleep(80)
