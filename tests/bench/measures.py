"""The measurements: each takes an open way and gives its figures by name. What cannot be measured raises Failure.

Rule: a figure comes from the run itself; CPU is read right around the command that moves the traffic.
"""

import contextlib
import json
import time

from ways import SERVER4, SERVER6, SILENT, Failure, machine_cpu

IDLE_FLOWS = 10_000
PORTS = 10_000
CROWD = ("200", "5000")


def server_of(family):
    return SERVER6 if family == 6 else SERVER4


class Spent:
    """CPU spent in a block, by the router and by the whole machine."""

    def __init__(self, way):
        self.way, self.router, self.machine = way, 0.0, 0.0

    def __enter__(self):
        self.start = self.way.router_cpu(), machine_cpu()
        return self

    def __exit__(self, kind, *_):
        if kind is None:
            self.router, self.machine = self.way.router_cpu() - self.start[0], machine_cpu() - self.start[1]


def tcp(way, streams, down, family=4):
    """iperf3, slow start included."""
    port = str(next(way.lab.ports))
    seconds = way.options.seconds
    words = ["iperf3", "-c", server_of(family), "-p", port, "-J", "-t", str(seconds), "-C", "reno", "-P", str(streams)]
    words += ["--connect-timeout", "3000"] + (["-R"] if down else [])
    # A server for each run: one that hangs must not spoil the next.
    with way.lab.server(["iperf3", "-s", "-1", "-p", port, "--forceflush"], "listening"):
        with Spent(way) as spent:
            told = json.loads(way.run(words, timeout=seconds + 12))
    if "sum_received" not in told.get("end", {}):
        raise Failure(f"iperf3: {told.get('error', 'no result')}")
    received = told["end"]["sum_received"]
    gigabytes = received["bytes"] / 1e9
    figures = {"gbps": received["bits_per_second"] / 1e9}
    if gigabytes:
        figures["machine_cpu"] = spent.machine / gigabytes
        if way.has_router:
            figures["router_cpu"] = spent.router / gigabytes
    return figures


def small(way, words, seconds):
    """One of the traffic program's loops of many small things."""
    with Spent(way) as spent:
        told = way.json(words, timeout=seconds + 15)
    if told["count"] == 0:
        raise Failure(f"{words[0]}: all {told['errors']} attempts failed")
    figures = {key: told[key] for key in ("count", "rate", "p50_us", "p99_us", "errors")}
    if way.has_router:
        figures["router_us"] = spent.router / told["count"] * 1e6
    return figures


def short(way):
    """Latencies and rates of small things settle in half the time of a stream."""
    return max(1, way.options.seconds / 2)


def new_flows(way, protocol, at_a_time, family=4):
    return small(way, ["new", protocol, server_of(family), way.port, str(short(way)), str(at_a_time)], short(way))


def trips(way, protocol, family=4):
    return small(way, ["trips", protocol, server_of(family), way.port, str(short(way))], short(way))


def crowded(way, at_a_time):
    """Beside many processes with many sockets, in the namespace of the program: the router sees them when it looks for an owner."""
    with way.held(["crowd", *CROWD]) as told:
        if told["processes"] != int(CROWD[0]):
            raise Failure(f"the crowd has only {told['processes']} processes")
        return new_flows(way, "tcp", at_a_time)


def beside_scan(way):
    """While another program begins connections to a silent host as fast as it can."""
    with way.held(["scan", SILENT], program="scanner"):
        figures = new_flows(way, "tcp", 1)
    figures["succeed"] = figures["rate"] and figures["count"] / (figures["count"] + figures["errors"])
    return figures


def rate(way, direction, family=4):
    told = way.json(["rate", direction, server_of(family), way.port, "1400"])
    if not told["per_second"]:
        raise Failure("no rate has less than 1 % loss")
    return told


def super_packets(way, direction):
    told = way.json(["super", direction, SERVER4, way.port, str(way.options.seconds)])
    if not told["received_gbps"]:
        raise Failure("no super-packet came through")
    return told


def tried(figures, key, measure):
    """Adds a part of a measurement; where it fails, the other parts stand."""
    try:
        figures[key] = measure()
    except Failure as failure:
        figures.setdefault("reasons", []).append(f"{key}: {failure}")


def idle(way):
    """Many idle flows: the router's memory and CPU for them, and another stream beside them and without them."""
    port = str(next(way.lab.ports))
    figures = {}
    streams = {"up": False, "down": True}
    base = way.router_kib()
    with way.lab.traffic_server(port), way.held(["hold", SERVER4, port, str(IDLE_FLOWS)]) as told:
        figures["open"] = told["open"]
        if told["open"] < IDLE_FLOWS:
            figures["reasons"] = [f"{told['open']} of {IDLE_FLOWS} opened: {told['cause']}"]
        # Memory is given back to the kernel once flows have rested; a look comes every five seconds.
        time.sleep(12)
        if way.has_router:
            figures["base_mib"] = base / 1024
            if told["open"]:
                figures["kib_per_flow"] = (way.router_kib() - base) / told["open"]
            ticks = way.router_ticks()
            time.sleep(3)
            figures["idle_ticks"] = way.router_ticks() - ticks
        for name, down in streams.items():
            tried(figures, f"beside_{name}", lambda down=down: tcp(way, 1, down)["gbps"])
    time.sleep(1)
    for name, down in streams.items():
        tried(figures, f"alone_{name}", lambda down=down: tcp(way, 1, down)["gbps"])
        if figures.get(f"alone_{name}") and f"beside_{name}" in figures:
            figures[f"share_{name}"] = figures[f"beside_{name}"] / figures[f"alone_{name}"]
    return figures


def ports(way):
    """How many connections to one address and port stand at a time."""
    port = str(next(way.lab.ports))
    with way.lab.traffic_server(port), way.held(["hold", SERVER4, port, str(PORTS)]) as told:
        figures = {"open": told["open"]}
        if told["open"] < PORTS:
            figures["reasons"] = [f"{told['open']} of {PORTS} opened: {told['cause']}"]
        return figures


@contextlib.contextmanager
def few_ports(lab):
    """A laptop with 10 000 local ports."""
    name = "net.ipv4.ip_local_port_range"
    before = lab.run("laptop", ["sysctl", "-n", name]).strip()
    lab.run("laptop", ["sysctl", "-qw", f"{name}=40000 {40_000 + PORTS - 1}"])
    try:
        yield
    finally:
        lab.run("laptop", ["sysctl", "-qw", f"{name}={before}"])


@contextlib.contextmanager
def plain_uplink(lab):
    """A laptop whose link neither cuts nor joins segments, at both ends."""
    ends = (("laptop", "eth0"), ("gateway", "lan0"))
    try:
        for host, device in ends:
            lab.run(host, ["ethtool", "-K", device, "tso", "off", "gso", "off", "gro", "off"])
        yield
    finally:
        for host, device in ends:
            lab.run(host, ["ethtool", "-K", device, "tso", "on", "gso", "on", "gro", "on"])
