"""Measures the ways out of the lab's laptop one after the other and prints a table; started by scripts/bench.

Rule: the same commands in every way, medians of all runs, and a figure that could not be measured is shown as such.
"""

import argparse
import json
import pathlib
import statistics
import subprocess
import sys
import time

SERVER = "203.0.113.10"
PORT = "7000"
IDLE_FLOWS = 1000

ACCEPT_ALL = """name = "Fallback"
mode = "blacklist"
[scope]
internet = true
[flags]
peer_to_peer = true
"""


class Way:
    """How programs reach the server, and which process is the router."""

    def __init__(self, options, name):
        self.options, self.name = options, name
        profiles = pathlib.Path(options.work) / "profiles"
        profiles.mkdir(exist_ok=True)
        (profiles / "fallback.toml").write_text(ACCEPT_ALL)
        exec_words = [options.binary, "exec", "--profiles", str(profiles), "--"]
        self.prefix = {"pasta": [*"pasta --config-net --quiet --runas 0 --no-map-gw -t none -u none -T none -U none --".split()], "exec": exec_words}.get(name, [])
        self.router = {"pasta": ("pasta", "passt"), "exec": ("portreeve",), "up": ("portreeve",)}.get(name)
        if name == "up":
            # In the background, as a service: in the foreground it would print a line a flow.
            if self.plain([options.binary, "up", "--profiles", str(profiles)]).returncode != 0:
                sys.exit("bench: `portreeve up` fails")

    def host_words(self, host, words):
        return [self.options.lab, "run", self.options.name, host, *words]

    def plain(self, words):
        return subprocess.run(self.host_words("laptop", words), capture_output=True, text=True, timeout=60)

    def spawn_plain(self, words, **pipes):
        return subprocess.Popen(self.host_words("laptop", words), **pipes)

    def json(self, words, timeout=60):
        """Runs a command in this way; its JSON, or None."""
        try:
            done = subprocess.run(self.host_words("laptop", self.prefix + words), capture_output=True, text=True, timeout=timeout)
            return json.loads(done.stdout)
        except (subprocess.TimeoutExpired, json.JSONDecodeError) as error:
            print(f"bench: {self.name}: {' '.join(words)}: {error}", file=sys.stderr)
            return None

    def close(self):
        if self.name == "up":
            self.plain([self.options.binary, "down"])


def gigabits(way, streams, down):
    words = ["iperf3", "-c", SERVER, "-J", "-t", str(way.options.seconds), "-O", "1", "-C", "reno", "-P", str(streams)] + (["-R"] if down else [])
    told = way.json(words)
    end = (told or {}).get("end", {})
    return end["sum_received"]["bits_per_second"] / 1e9 if "sum_received" in end else None


def small(way, *words):
    told = way.json([f"{way.options.work}/traffic", words[0], SERVER, PORT, str(way.options.seconds), *words[1:]])
    if told and told["errors"]:
        print(f"bench: {way.name}: {words[0]}: {told['errors']} errors", file=sys.stderr)
    return told


def resident_mib(way):
    """Resident memory of the router's processes: those in the laptop's namespace that run its program."""
    total = 0
    listed = subprocess.run(["ip", "netns", "pids", f"laptop-{way.options.name}"], capture_output=True, text=True).stdout
    for pid in listed.split():
        try:
            status = pathlib.Path(f"/proc/{pid}/status").read_text()
            program = pathlib.Path(f"/proc/{pid}/exe").readlink().name
        except OSError:
            continue
        fields = dict(line.split(":", 1) for line in status.splitlines() if ":" in line)
        if program.startswith(way.router):
            total += int(fields.get("VmRSS", "0 kB").split()[0])
    return total / 1024 or None


def idle_mib(way, flows):
    """Resident memory of the router beside this many idle flows."""
    if not way.router:
        return None
    words = way.prefix + [f"{way.options.work}/traffic", "idle", SERVER, PORT, str(flows)]
    holder = way.spawn_plain(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    try:
        told = holder.stdout.readline()
        if not told or json.loads(told)["open"] != flows:
            print(f"bench: {way.name}: of {flows} flows: {told.strip() or 'none'}", file=sys.stderr)
            return None
        time.sleep(1)
        return resident_mib(way)
    finally:
        holder.stdin.close()
        holder.wait(timeout=30)


def measures():
    def part(key, *words):
        return lambda way: (small(way, *words) or {}).get(key)

    return {
        "TCP up, 1 stream, Gbit/s": lambda way: gigabits(way, 1, False),
        "TCP down, 1 stream, Gbit/s": lambda way: gigabits(way, 1, True),
        "TCP up, 8 streams, Gbit/s": lambda way: gigabits(way, 8, False),
        "TCP down, 8 streams, Gbit/s": lambda way: gigabits(way, 8, True),
        "connect + 1 byte + close, one at a time, p50 µs": part("p50_us", "connects", "1"),
        "the same, 64 at a time, per second": part("rate", "connects", "64"),
        "1-byte round trip, p50 µs": part("p50_us", "trips"),
        "1-byte round trip, p99 µs": part("p99_us", "trips"),
        "router's resident memory, no flows, MiB": lambda way: idle_mib(way, 0),
        f"router's resident memory, {IDLE_FLOWS} idle flows, MiB": lambda way: idle_mib(way, IDLE_FLOWS),
    }


def median(values):
    values = [value for value in values if value is not None]
    return statistics.median(values) if values else None


def shown(value):
    if value is None:
        return "–"
    return f"{value:.0f}" if value >= 100 else f"{value:.1f}"


def main():
    parser = argparse.ArgumentParser()
    for name in ("lab", "name", "work", "binary"):
        parser.add_argument(f"--{name}", required=True)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--seconds", type=int, default=3)
    parser.add_argument("--ways", default="direct,pasta,exec,up")
    options = parser.parse_args()
    names = options.ways.split(",")

    server_words = [options.lab, "run", options.name, "internet", f"{options.work}/traffic", "serve", PORT]
    server = subprocess.Popen(server_words, stdout=subprocess.PIPE, text=True)
    server.stdout.readline()
    columns = {}
    try:
        for name in names:
            way = Way(options, name)
            try:
                columns[name] = {what: median([measure(way) for _ in range(options.runs)]) for what, measure in measures().items()}
            finally:
                way.close()
    finally:
        server.kill()

    print(f"Medians of {options.runs} runs of {options.seconds} s; MTU 1500, reno, client, router and server on the same cores.\n")
    print("| measure | " + " | ".join(names) + " |")
    print("|---" * (len(names) + 1) + "|")
    for what in measures():
        print(f"| {what} | " + " | ".join(shown(columns[name][what]) for name in names) + " |")


main()
