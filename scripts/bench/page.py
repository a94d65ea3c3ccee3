"""docs/benchmarks.md: the machine, the targets, a table of each measure, and the figures."""

import datetime
import os
import platform
import re
import subprocess
from pathlib import Path

from . import plot, servers
from .figures import number
from .processes import REPOSITORY, find

PAGE = REPOSITORY / "docs" / "benchmarks.md"
FIGURES = REPOSITORY / "docs" / "figures"
INTRODUCTION = """\
# Benchmarks

What Roadstead costs beside nginx, docker-registry and Varnish. Ratios from one run on one machine are what counts;
`make bench` makes this page on yours, `make bench-quick` prints the warm part of it in three minutes. Why some targets are
missed is explained in [Where the time goes](profile.md).
"""


def version(*command):
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    found = re.search(r"v?(\d+\.\d+[\w.+~-]*)", done.stdout)
    return found[1] if found else "unknown"


def conditions(bench):
    cpu = re.search(r"model name\s*: (.*)", Path("/proc/cpuinfo").read_text())
    cpu = cpu[1] if cpu else platform.machine()
    kernel = ".".join(platform.release().split(".")[:2])
    system = platform.freedesktop_os_release().get("PRETTY_NAME", "Linux")
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / (1 << 30)
    versions = [f"roadstead {version(servers.roadstead_binary(), '--version')}"]
    flags = {"nginx": "-v", "varnishd": "-V", "wrk": "-v"}
    for name in ("nginx", "docker-registry", "varnishd", "hitch", "wrk", "h2load", "curl", "valgrind"):
        if find(name):
            versions.append(f"{name} {version(find(name), flags.get(name, '--version'))}")
    note = f" The machine was busy with something else too (load {bench.load_before:.1f})." if bench.load_before > 0.5 else ""
    return (
        f"{datetime.date.today()}, {os.cpu_count()} cores of {cpu}, {memory:.0f} GiB, {system}, Linux {kernel}; "
        f"{', '.join(versions)}. Rounds: {bench.rounds}, the servers in turn in each, {bench.seconds} s each where a "
        f"measure has no end of its own; medians.{note}\n"
    )


def targets(results):
    lines = ["| target | measured | met |", "|---|---:|---|"]
    for result in results:
        for target in result.targets:
            lines.append(f"| {target.text} | {target.measured} | {'yes' if target.met else '**no**'} |")
    met = sum(target.met for result in results for target in result.targets)
    return "\n".join([f"{met} of {len(lines) - 2} are met.", "", *lines, ""])


def table(measure):
    cost_unit, *units = measure.units
    heads = [cost_unit, "lowest to highest", *units, "Roadstead ÷ server"]
    lines = [
        f"**{measure.title}**: `{measure.command}`",
        "",
        f"| | {' | '.join(heads)} |",
        f"|---|{'---:|' * len(heads)}",
    ]
    for name, samples in measure.samples.items():
        cost, *others = measure.medians(name)
        if not cost:
            # A direct download, which has no server to count.
            lines.append(f"| {name} | | | {' | '.join(map(number, others))} | |")
            continue
        costs = [sample[0] for sample in samples]
        compared = not name.startswith("roadstead") and "roadstead" in measure.samples
        ratio = number(measure.ratio(name)) if compared else ""
        span = f"{number(min(costs))} to {number(max(costs))}"
        cells = [number(cost), span, *map(number, others), ratio]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join([*lines, ""])


def charts(results):
    """{file name: (title, SVG)}: what servers cost in the measures of one unit."""
    found = {}
    for unit, file in (("CPU s/GB", "cpu-per-gb.svg"), ("CPU s/100 k", "cpu-per-100k.svg")):
        bars = {}
        for measure in (one for result in results for one in result.measures if one.units[0] == unit):
            if measure.samples:
                costs = {name: measure.cost(name) for name in measure.samples}
                bars[measure.title] = {name: cost for name, cost in costs.items() if cost}
        if bars:
            found[file] = (unit, plot.bars(unit, bars))
    return found


def text(bench, results):
    parts = [conditions(bench), "## Targets\n", targets(results)]
    parts += [f"![{title} of every server](figures/{file})\n" for file, (title, _) in charts(results).items()]
    for result in results:
        parts += [f"## {result.heading}\n", *map(table, result.measures)]
        if result.notes:
            parts.append(result.notes)
    parts += ["## How it is measured\n", servers.NOTES]
    return "\n".join(parts)


def write(body, results):
    FIGURES.mkdir(exist_ok=True)
    for file, (_, svg) in charts(results).items():
        (FIGURES / file).write_text(svg)
    PAGE.write_text(f"{INTRODUCTION}\n{body}")
