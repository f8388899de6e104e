"""Where a router's time goes during one row: user and kernel share, system calls and the first symbols, by perf.

Rule: it says where time went, not how fast it was: the sampling itself slows the router. Without a hardware counter (in most
virtual machines) time with interrupts off is charged to where they are let in again, such as _raw_spin_unlock_irqrestore.
"""

import contextlib
import re
import shutil
import signal
import subprocess

from ways import Failure

FIRST = 15
LINE = re.compile(r"^\s*([0-9.]+)%\s+(?:[0-9.]+%\s+)?\[([.k])\]\s+(.*?)(?:\s+-)*\s*$")
# The outermost function may be gone by a tail call, so the inner ones count for it.
SYSTEM_CALL = re.compile(r"^(?:__x64_sys_|__do_sys_|__sys_|ksys_|do_(?=readv$|writev$))(\w+)$")


@contextlib.contextmanager
def recorded(way, file):
    """perf on the router's processes during the block."""
    if not shutil.which("perf"):
        raise Failure("perf is not installed (Debian: linux-perf)")
    words = ["perf", "record", "-q", "-g", "-F", "499", "-o", file, "-p", ",".join(way.router_pids())]
    perf = subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    try:
        yield
    finally:
        perf.send_signal(signal.SIGINT)
        complaint = perf.communicate(timeout=60)[1]
    # perf ends by the signal that it was told to end with.
    if perf.returncode not in (0, -signal.SIGINT):
        raise Failure(f"perf: {complaint.strip()[-200:]}")


def shares(file, *options):
    """[(share in percent, "." of user or "k" of kernel, symbol)], the greatest first."""
    words = ["perf", "report", "-i", file, "--stdio", "-g", "none", "--no-inline", "--sort", "symbol", *options]
    told = subprocess.run(words, capture_output=True, text=True, timeout=120)
    found = [(float(match[1]), match[2], match[3]) for match in map(LINE.match, told.stdout.splitlines()) if match]
    if not found:
        raise Failure(f"perf saw nothing: {told.stderr.strip()[-200:]}")
    return sorted(found, reverse=True)


def table(title, found):
    return ["", f"| % | where | {title} |", "|---|---|---|"] + [
        f"| {share:.1f} | {'kernel' if side == 'k' else 'user'} | {name} |" for share, side, name in found[:FIRST]
    ]


def summary(file):
    """Markdown lines from a recording."""
    alone = shares(file, "--no-children")
    with_callees = shares(file, "--children")
    total = sum(share for share, _, _ in alone)
    kernel = sum(share for share, side, _ in alone if side == "k")
    calls = {}
    for share, side, symbol in with_callees:
        match = SYSTEM_CALL.match(symbol)
        if match and side == "k":
            calls[match[1]] = max(share, calls.get(match[1], 0))
    calls = sorted(((share, "k", name) for name, share in calls.items()), reverse=True)
    found = [f"kernel {100 * kernel / total:.0f} %, user {100 * (total - kernel) / total:.0f} %"]
    found += table("system call, with all below it", calls)
    found += table("symbol, by itself", alone)
    return "\n".join(found)


def show(way, test, work):
    """Runs a test once under perf and prints the summary."""
    file = f"{work}/perf-{way.name}.data"
    with recorded(way, file):
        figures = test.measure(way)
    print(f"\n## {test.name}, {way.name}\n")
    print(", ".join(f"{key} {value:.3g}" for key, value in figures.items() if isinstance(value, (int, float))) + "\n")
    print(summary(file), flush=True)
