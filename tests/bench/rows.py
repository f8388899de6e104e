"""What is measured, the lines of the table, and what Portreeve must reach.

Rule: a bar is a ratio to another figure of the same run where there is one, for machines differ; the issue's absolute figure
counts where there is not, and is told beside the ratio.
"""

import dataclasses
import typing

import measures

OURS = ("exec", "up", "express")
NO_PEERS = ("direct", *OURS)
# What tests/bench/least can carry, which does nothing but move bytes.
WITH_LEAST = ("direct", "pasta", "least", *OURS)


@dataclasses.dataclass(frozen=True)
class Test:
    name: str
    measure: typing.Callable
    ways: tuple = ("direct", "pasta", *OURS)
    # Starts the router anew for each run, where what an earlier run left would count.
    fresh: bool = False
    # A way that is compared with nothing needs one run only.
    peers_once: bool = False
    # Changes the lab around all runs.
    setting: typing.Callable | None = None


@dataclasses.dataclass(frozen=True)
class Bar:
    """A limit: the strictest of the terms that the run has figures for."""

    sign: str
    direct: float | None = None
    peer: float | None = None
    # (factor, test, words): against another test of the same way.
    same_way: tuple | None = None
    # What counts without `direct`, or where no ratio makes sense.
    absolute: float | None = None

    def terms(self, key, test, way, figure):
        """(limit, words) of each term; `figure(way, test, key)` gives a median or None."""
        found = []
        direct = figure("direct", test, key) if self.direct else None
        if direct:
            issue = f"; {self.absolute:g} where direct has {self.absolute / self.direct:.0f}" if self.absolute else ""
            found.append((self.direct * direct, f"{self.direct:.3g} × direct{issue}"))
        peer = figure("pasta", test, key) if self.peer else None
        if peer:
            found.append((self.peer * peer, f"{self.peer:.3g} × pasta"))
        other = figure(way, self.same_way[1], key) if self.same_way else None
        if other:
            found.append((self.same_way[0] * other, f"{self.same_way[0]:.3g} × {self.same_way[2]}"))
        if self.absolute is not None and (not self.direct or not direct):
            found.append((self.absolute, ""))
        return found

    def holds(self, value, limit):
        return value >= limit if self.sign == "≥" else value <= limit


@dataclasses.dataclass(frozen=True)
class Line:
    test: str
    key: str
    label: str
    bar: Bar | None = None


def at_least(direct=None, peer=None, absolute=None):
    return Bar("≥", direct=direct, peer=peer, absolute=absolute)


def scaled(sign, limit, direct):
    """The issue's limit, in proportion to what `direct` had when it was set."""
    return Bar(sign, direct=limit / direct, absolute=limit)


STREAMS = [("up", 1, 0.5, 1.2), ("down", 1, 0.6, 1.2), ("up", 8, 0.7, 1.0), ("down", 8, 0.5, 1.0)]


def stream_label(direction, streams, before=""):
    return f"{before}TCP {direction}, {streams} stream{'s' if streams > 1 else ''}"


def tests():
    def stream(direction, streams, family=4):
        return lambda way: measures.tcp(way, streams, direction == "down", family)

    def call(function, *words):
        return lambda way: function(way, *words)

    found = [Test(f"tcp-{direction}-{streams}", stream(direction, streams), ways=WITH_LEAST) for direction, streams, *_ in STREAMS]
    found += [
        Test("new-tcp-1", call(measures.new_flows, "tcp", 1), ways=WITH_LEAST),
        Test("new-tcp-64", call(measures.new_flows, "tcp", 64), ways=WITH_LEAST),
        Test("crowd-1", call(measures.crowded, 1)),
        Test("crowd-64", call(measures.crowded, 64)),
        Test("scan-1", measures.beside_scan),
        Test("trips-tcp", call(measures.trips, "tcp"), ways=WITH_LEAST),
        Test("trips-udp", call(measures.trips, "udp")),
        Test("udp-up", call(measures.rate, "up")),
        Test("udp-down", call(measures.rate, "down")),
        Test("super-up", call(measures.super_packets, "up")),
        Test("super-down", call(measures.super_packets, "down")),
        # pasta keeps a UDP flow for three minutes, and its descriptor.
        Test("new-udp-1", call(measures.new_flows, "udp", 1), ways=WITH_LEAST, fresh=True),
        Test("new-udp-64", call(measures.new_flows, "udp", 64), ways=WITH_LEAST, fresh=True),
        Test("idle", measures.idle, fresh=True, peers_once=True),
        Test("ports", measures.ports, ways=NO_PEERS, fresh=True, setting=measures.few_ports),
    ]
    found += [Test(f"ipv6-tcp-{direction}-{streams}", stream(direction, streams, 6), ways=NO_PEERS) for direction, streams, *_ in STREAMS]
    found += [
        Test("ipv6-new-tcp-1", call(measures.new_flows, "tcp", 1, 6), ways=NO_PEERS),
        Test("ipv6-new-tcp-64", call(measures.new_flows, "tcp", 64, 6), ways=NO_PEERS),
        Test("ipv6-trips-tcp", call(measures.trips, "tcp", 6), ways=NO_PEERS),
        Test("ipv6-udp-up", call(measures.rate, "up", 6), ways=NO_PEERS),
        Test("ipv6-udp-down", call(measures.rate, "down", 6), ways=NO_PEERS),
    ]
    found += [Test(f"plain-tcp-{direction}", stream(direction, 1), ways=NO_PEERS, setting=measures.plain_uplink) for direction in ("up", "down")]
    return found


def main_lines():
    """Lines that IPv6 has, too, in the same words."""
    found = []
    for direction, streams, direct, peer in STREAMS:
        test, label = f"tcp-{direction}-{streams}", stream_label(direction, streams)
        found += [
            Line(test, "gbps", f"{label}, Gbit/s", at_least(direct, peer)),
            Line(test, "router_cpu", f"{label}: router's CPU s/GB", Bar("≤", absolute=0.30)),
        ]
    return found + [
        Line("new-tcp-1", "p50_us", "connect + 1 byte + close, one at a time, p50 µs", scaled("≤", 160, 95)),
        Line("new-tcp-64", "rate", "the same, 64 at a time, per second", scaled("≥", 10_000, 19_800)),
        Line("trips-tcp", "p50_us", "1-byte round trip, TCP, p50 µs", scaled("≤", 95, 76)),
        Line("udp-up", "per_second", "UDP 1 400 B up, packets/s with < 1 % lost", scaled("≥", 150_000, 210_000)),
        Line("udp-down", "per_second", "UDP 1 400 B down, packets/s with < 1 % lost", scaled("≥", 150_000, 226_000)),
    ]


def ipv6_line(line):
    above = line.bar.sign == "≥"
    bar = Bar(line.bar.sign, same_way=(0.9 if above else 1.1, line.test, "IPv4"))
    return Line(f"ipv6-{line.test}", line.key, f"IPv6: {line.label}", bar)


def with_extras(line):
    """The line, and beside it what has no bar or one of its own."""
    extras = {
        ("new-tcp-1", "p50_us"): [
            Line("new-tcp-1", "p99_us", "the same, p99 µs"),
            Line("new-tcp-1", "router_us", "the same: router's CPU µs"),
        ],
        ("new-tcp-64", "rate"): [
            Line("new-tcp-64", "router_us", "the same: router's CPU µs a connection"),
            Line("crowd-1", "p50_us", "one at a time beside 200 processes with 5 000 sockets, p50 µs", Bar("≤", same_way=(1.1, "new-tcp-1", "without them"))),
            Line("scan-1", "succeed", "one at a time beside another program's scan, unpaced: share that succeeds", Bar("≥", absolute=0.999)),
            Line("scan-1", "p99_us", "the same, p99 µs", Bar("≤", same_way=(2, "new-tcp-1", "without it"))),
            Line("crowd-64", "rate", "64 at a time beside them, per second", Bar("≥", same_way=(0.9, "new-tcp-64", "without them"))),
        ],
        ("trips-tcp", "p50_us"): [
            Line("trips-tcp", "p99_us", "the same, p99 µs"),
            Line("trips-udp", "p50_us", "1-byte round trip, UDP, p50 µs", scaled("≤", 95, 76)),
        ],
    }
    if line.key == "router_cpu":
        return [line, Line(line.test, "machine_cpu", line.label.replace("router's", "machine's"))]
    return [line, *extras.get((line.test, line.key), [])]


def lines():
    main = main_lines()
    return [
        *(line for first in main for line in with_extras(first)),
        Line("super-up", "received_gbps", "UDP super-packets up, Gbit/s received", scaled("≥", 25, 65)),
        Line("super-up", "sent_gbps", "the same, sent"),
        Line("super-down", "received_gbps", "UDP super-packets down, Gbit/s received", scaled("≥", 25, 65)),
        Line("super-down", "sent_gbps", "the same, sent"),
        Line("new-udp-1", "p50_us", "new UDP flow, one at a time, p50 µs", scaled("≤", 130, 71)),
        Line("new-udp-64", "rate", "new UDP flows, 64 at a time, per second", scaled("≥", 25_000, 48_000)),
        Line("new-udp-64", "router_us", "the same: router's CPU µs a flow"),
        Line("idle", "open", "10 000 idle TCP flows: open", Bar("≥", absolute=10_000)),
        Line("idle", "base_mib", "router's resident memory before them, MiB"),
        Line("idle", "kib_per_flow", "router's resident memory for each of them, KiB", Bar("≤", absolute=4)),
        Line("idle", "idle_ticks", "router's CPU in 3 s of idling, ticks of 10 ms", Bar("≤", absolute=0)),
        Line("idle", "beside_up", "a stream up beside them, Gbit/s"),
        Line("idle", "share_up", "the same, share of it without them", Bar("≥", absolute=0.95)),
        Line("idle", "beside_down", "a stream down beside them, Gbit/s"),
        Line("idle", "share_down", "the same, share of it without them", Bar("≥", absolute=0.95)),
        Line("ports", "open", "connections to one address and port, 10 000 local ports", at_least(direct=0.9)),
        Line("plain-tcp-up", "gbps", "uplink without offload: TCP up, 1 stream, Gbit/s", at_least(direct=0.8)),
        Line("plain-tcp-down", "gbps", "uplink without offload: TCP down, 1 stream, Gbit/s", at_least(direct=0.8)),
        *(ipv6_line(line) for line in main),
    ]
