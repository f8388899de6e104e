"""Where a router's time goes during one row: user and kernel share and the first symbols, by perf."""

import contextlib
import re
import shutil
import signal
import subprocess

from ways import Failure

FIRST = 15
LINE = re.compile(r"^\s*([0-9.]+)%\s+(\S+)\s+\[([.k])\]\s+(.*?)\s*$")


@contextlib.contextmanager
def recorded(way, file):
    """perf on the router's processes during the block."""
    if not shutil.which("perf"):
        raise Failure("perf is not installed (Debian: linux-perf)")
    words = ["perf", "record", "-q", "-g", "-F", "997", "-o", file, "-p", ",".join(way.router_pids())]
    perf = subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    try:
        yield
    finally:
        perf.send_signal(signal.SIGINT)
        complaint = perf.communicate(timeout=60)[1]
    # perf ends by the signal that it was told to end with.
    if perf.returncode not in (0, -signal.SIGINT):
        raise Failure(f"perf: {complaint.strip()[-200:]}")


def summary(file):
    """Markdown lines from a recording."""
    words = ["perf", "report", "-i", file, "--stdio", "--no-children", "-g", "none", "--no-inline", "--sort", "comm,symbol"]
    told = subprocess.run(words, capture_output=True, text=True, timeout=120)
    symbols, shares = {}, {".": 0.0, "k": 0.0}
    for line in told.stdout.splitlines():
        match = LINE.match(line)
        if match:
            share, _, side, name = match.groups()
            shares[side] += float(share)
            symbols[(side, name)] = symbols.get((side, name), 0) + float(share)
    if not symbols:
        raise Failure(f"perf saw nothing: {told.stderr.strip()[-200:]}")
    total = sum(shares.values())
    found = [f"kernel {100 * shares['k'] / total:.0f} %, user {100 * shares['.'] / total:.0f} %", "", "| % | where | symbol |", "|---|---|---|"]
    for (side, name), share in sorted(symbols.items(), key=lambda item: -item[1])[:FIRST]:
        found.append(f"| {share:.1f} | {'kernel' if side == 'k' else 'user'} | {name} |")
    return "\n".join(found)


def show(way, test, work):
    """Runs a test once under perf and prints the summary."""
    file = f"{work}/perf-{way.name}.data"
    with recorded(way, file):
        figures = test.measure(way)
    print(f"\n## {test.name}, {way.name}\n")
    print(", ".join(f"{key} {value:.3g}" for key, value in figures.items() if isinstance(value, (int, float))) + "\n")
    print(summary(file))
