"""The table: medians, what must be reached, and below it why figures are missing.

Rule: a cell is empty where a way has no such figure, and "–" where it failed.
"""

import statistics

import rows


class Results:
    """All figures of a run: by test and way, one dict for each run."""

    def __init__(self):
        self.runs, self.reasons = {}, []

    def add(self, test, way, figures):
        for reason in figures.pop("reasons", []):
            self.fail(test, way, reason)
        self.runs.setdefault(test, {}).setdefault(way, []).append(figures)

    def fail(self, test, way, reason):
        self.runs.setdefault(test, {}).setdefault(way, [])
        self.remark(f"{test}, {way}: {reason}")

    def remark(self, line):
        if line not in self.reasons:
            self.reasons.append(line)

    def median(self, way, test, key):
        values = [figures[key] for figures in self.runs.get(test, {}).get(way, []) if key in figures]
        return statistics.median(values) if values else None

    def remarks(self):
        """What the medians hide."""
        found = list(self.reasons)
        for test, ways in self.runs.items():
            for way, runs in ways.items():
                errors = sum(figures.get("errors", 0) for figures in runs)
                if errors:
                    found.append(f"{test}, {way}: {errors} attempts failed in {len(runs)} runs")
                if runs and all(figures.get("sender_is_the_limit") for figures in runs):
                    found.append(f"{test}, {way}: the sender was at its limit, the way may carry more")
        return found


def shown(value):
    if value is None:
        return "–"
    if value >= 1000:
        return f"{value:,.0f}".replace(",", " ")
    if value >= 100 or value == int(value):
        return f"{value:.0f}"
    return f"{value:.1f}" if value >= 10 else f"{value:.2f}"


def is_of_routers(key):
    return key in ("router_cpu", "router_us", "base_mib", "kib_per_flow", "idle_ticks")


def cell(results, line, way):
    known = results.runs[line.test]
    if way not in known or (way == "direct" and is_of_routers(line.key)):
        return ""
    return shown(results.median(way, line.test, line.key))


def verdict(results, line, ways):
    """The columns "must reach" and "reached"."""
    if not line.bar:
        return "", ""
    words, short, by_ratio, judged, bounds = [], [], [], [], []
    for way in ways:
        if way not in rows.OURS or way not in results.runs[line.test]:
            continue
        terms = line.bar.terms(line.key, line.test, way, results.median)
        text = ", ".join(f"{line.bar.sign} {shown(limit)}" + (f" ({what})" if what else "") for limit, what in terms)
        words.append((way, text))
        value = results.median(way, line.test, line.key)
        if terms:
            judged.append(way)
            if value is None or not all(line.bar.holds(value, limit) for limit, _ in terms):
                absolute = value is not None and line.bar.absolute is not None and line.bar.holds(value, line.bar.absolute)
                (by_ratio if absolute else short).append(way)
                bounds += [limit for limit, _ in terms]
    if not judged:
        return ("against a row that is not in this run" if words else ""), ""
    if len({text for _, text in words}) == 1:
        bar = words[0][1]
    else:
        bar = "; ".join(f"{way} {text}" for way, text in words)
    misses = [f"{word}: {', '.join(found)}" for word, found in (("short", short), ("short by the ratio alone", by_ratio)) if found]
    least = results.median("least", line.test, line.key)
    # Of the express lane this says nothing: the kernel carries that.
    if misses and least is not None and not all(line.bar.holds(least, limit) for limit in bounds):
        misses.append("least, too")
    return bar, "; ".join(misses) or "ok"


def table(results, ways):
    found = ["| measure | " + " | ".join(ways) + " | must reach | reached |", "|---" * (len(ways) + 3) + "|"]
    for line in rows.lines():
        if line.test in results.runs:
            cells = [cell(results, line, way) for way in ways]
            if any(cells):
                found.append(f"| {' | '.join([line.label, *cells, *verdict(results, line, ways)])} |")
    remarks = results.remarks()
    if remarks:
        found += ["", *(f"- {remark}" for remark in remarks)]
    return "\n".join(found)
