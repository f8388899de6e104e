"""Tells how sockets behave, one JSON line a behaviour: probe.py [--only ID/FAMILY,…]

{"id": …, "family": "4" or "6", "local": …, "expected_refusal": …, "result": what was seen, "seconds": …}

Behaviours run beside each other, the slow ones first; what is slow waits, and so costs nothing.
"""

import concurrent.futures
import faulthandler
import json
import sys
import time

import icmp
import resolving
import tcp_data
import tcp_end
import tcp_names
import tcp_open
import udp
import udp_errors
import udp_peers
from kit import BEHAVIOURS, Net, errno_name

ROOMS = [tcp_open, tcp_names, tcp_data, tcp_end, udp, udp_peers, udp_errors, icmp, resolving]
# server, other, silent, unreachable, the first of the narrow ones, laptop, gateway: as scripts/lab makes them, and tests/lab/transparency.
ADDRESSES = {
    "4": ["203.0.113.10", "203.0.113.11", "203.0.113.66", "203.0.113.67", "198.51.100.100", "10.9.0.2", "10.9.0.1"],
    "6": ["2001:db8::10", "2001:db8::11", "2001:db8::66", "2001:db8::67", "fd77::100", "fd09::2", "fd09::1"],
}
WORKERS = 6


def run(name, family):
    behaviour = BEHAVIOURS[name]
    start = time.monotonic()
    try:
        result = behaviour["body"](Net(family, ADDRESSES[family]))
    except OSError as error:
        result = "failed: " + errno_name(error)
    except (ValueError, TypeError, KeyError, IndexError) as error:
        result = f"failed: {error!r}"
    line = {"id": name, "family": family, "local": behaviour["local"], "expected_refusal": behaviour["refused"], "result": result}
    line["seconds"] = round(time.monotonic() - start, 3)
    return line


def main(words):
    faulthandler.dump_traceback_later(75, exit=True)
    chosen = [(name, family) for name, one in BEHAVIOURS.items() for family in one["families"]]
    if words[:1] == ["--only"]:
        wanted = words[1].split(",")
        chosen = [one for one in chosen if "/".join(one) in wanted or one[0] in wanted]
    slow = [one for one in chosen if BEHAVIOURS[one[0]]["slow"]]
    rest = [one for one in chosen if one not in slow]
    with concurrent.futures.ThreadPoolExecutor(len(slow) + 1) as waiting, concurrent.futures.ThreadPoolExecutor(WORKERS) as pool:
        done = [waiting.submit(run, *one) for one in slow] + [pool.submit(run, *one) for one in rest]
        for one in concurrent.futures.as_completed(done):
            print(json.dumps(one.result(), default=bytes.hex), flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
