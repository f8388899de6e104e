"""Measures the ways out of the lab's laptop one after the other and prints a table; started by scripts/bench.

Rule: the same commands in every way, each row with a router of its own, medians of all runs, and a figure that could not be
measured is shown as such.
"""

import argparse
import contextlib
import fnmatch
import json
import os
import subprocess
import sys
import time

import hotspots
import report
import rows
from ways import Failure, Lab, Way, machine_load

# More failures of one way in one row tell nothing new.
FAILURES = 2
# Others' work above this share spoils a row.
BUSY = 0.1


def chosen(pattern):
    """Tests by name, by shell pattern or by the beginning of the name; several with commas."""
    patterns = pattern.split(",")
    found = [test for test in rows.tests() if any(fnmatch.fnmatch(test.name, one) or fnmatch.fnmatch(test.name, f"{one}-*") for one in patterns)]
    if not found:
        sys.exit(f"bench: no row is called {pattern}; there are {', '.join(test.name for test in rows.tests())}")
    return found


@contextlib.contextmanager
def opened(way):
    try:
        way.open()
        yield way
    finally:
        way.close()


def runs_of(test, way, count, results):
    """Runs one test in one way."""
    left, failures = count, 0
    while left and failures < FAILURES:
        try:
            with opened(way):
                for _ in range(1 if test.fresh else left):
                    left -= 1
                    results.add(test.name, way.name, test.measure(way))
        except (Failure, subprocess.TimeoutExpired, OSError) as failure:
            failures += 1
            results.fail(test.name, way.name, str(failure))


def measure(lab, tests, ways, options, results):
    for test in tests:
        start, load = time.monotonic(), machine_load()
        if load > BUSY:
            results.remark(f"{test.name}: the machine was {100 * load:.0f} % busy with other things before it began")
        with test.setting(lab) if test.setting else contextlib.nullcontext():
            for way in ways:
                if way.name in test.ways:
                    once = test.peers_once and way.name not in rows.OURS and way.name != "direct"
                    runs_of(test, way, 1 if once else options.runs, results)
        print(f"bench: {test.name}: {time.monotonic() - start:.0f} s", file=sys.stderr, flush=True)


def profile(lab, tests, ways, options):
    for test in tests:
        with test.setting(lab) if test.setting else contextlib.nullcontext():
            for way in ways:
                if way.has_router and way.name in test.ways:
                    with opened(way):
                        hotspots.show(way, test, options.work)


def write_json(path, options, results, ways):
    medians = {test: {way: {} for way in ways} for test in results.runs}
    for line in rows.lines():
        for way in ways if line.test in medians else ():
            medians[line.test][way][line.key] = results.median(way, line.test, line.key)
    told = {"kernel": os.uname().release, "runs": options.runs, "seconds": options.seconds, "medians": medians}
    told |= {"all": results.runs, "remarks": results.remarks()}
    with open(path, "w", encoding="utf-8") as file:
        json.dump(told, file, indent=1)


def parsed():
    parser = argparse.ArgumentParser(prog="scripts/bench")
    for name in ("lab", "name", "work", "binary"):
        parser.add_argument(f"--{name}", required=True, help=argparse.SUPPRESS)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--seconds", type=int, default=2, help="of each stream; small things take half of it")
    parser.add_argument("--ways", default="direct,pasta,exec,up")
    parser.add_argument("--rows", default="*", metavar="PATTERN", help="names or shell patterns, with commas")
    parser.add_argument("--json", metavar="FILE", help="all figures")
    parser.add_argument("--profile", metavar="ROW", help="instead of a table: where the router's time goes during a row")
    return parser.parse_args()


def main():
    options = parsed()
    names = options.ways.split(",")
    lab = Lab(options)
    unknown = set(names) - {"direct", "pasta", "least", "exec", "up", "express"}
    if unknown:
        sys.exit(f"bench: the ways are direct, pasta, least, exec, up and express, not {', '.join(sorted(unknown))}")
    ways = [Way(lab, name) for name in names]
    results = report.Results()
    if options.profile:
        profile(lab, chosen(options.profile), ways, options)
        return
    measure(lab, chosen(options.rows), ways, options, results)
    print(f"Medians of {options.runs} runs of {options.seconds} s; MTU 1500, reno, client, router and server on the same {os.cpu_count()} cores.")
    print("The crowd of processes and sockets is in the namespace of the program; its sockets are TCP on loopback, past the router.\n")
    print(report.table(results, names))
    if options.json:
        write_json(options.json, options, results, names)


main()
