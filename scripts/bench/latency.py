"""How long small hits take at half load, with and without a fill that writes at full speed."""

import contextlib
import time

from . import load, servers
from .content import KIB, MIB, Tree
from .figures import Group, Measure, alternate, at_most
from .processes import Failed

CONNECTIONS = 8
FILL_MIB = 1024
SECONDS = 8
# What of a run is looked at before the fill starts, and what is left out first.
BEFORE, LEFT_OUT = 2.0, 0.5


@contextlib.contextmanager
def subjects(bench):
    """(names of the servers, `take`, requests per second by name). `take` gives a measure of one server, and its threads'
    time as {moment: {thread name: (running, waiting for a core)}}."""
    tree = Tree(bench.folder("latency"))
    size = FILL_MIB * MIB
    cold, small = tree.add("latency cold", size), tree.add("latency small", 2 * KIB)
    with servers.static_upstream(bench.root, tree.root) as registry:
        upstream, rates = registry.urls["http"], {}

        # Each server is new each time, since only then is the blob cold.
        def take(name):
            with servers.all_of(bench.root, upstream, bench.keys)[name]() as server:
                url = server.urls["https"] + small
                load.h2load(server, url, "-n2", protocol="http/1.1")
                if name not in rates:
                    full = load.h2load(server, url, f"-c{CONNECTIONS}", "-t2", protocol="http/1.1", seconds=3)
                    rates[name] = full.requests / full.seconds / 2
                return during_a_fill(bench, server, small, cold, size, rates[name])

        yield ("roadstead", "nginx"), take, rates


def run(bench):
    with subjects(bench) as (names, take, rates):
        measure = Measure(
            f"2 KiB blob, TLS, HTTP/1.1, {CONNECTIONS} connections at half of the full rate",
            f"h2load --h1 -c{CONNECTIONS} --rps=$RATE --duration={SECONDS} $URL$BLOB",
            ("p99 during a fill, ms", "p99 before, ms", "p50 during, ms", "p50 before, ms", "fill, GB/s"),
            lambda name: take(name)[0],
        )
        alternate(bench, [measure], {name: name for name in names})
    during, before, *_ = measure.medians("roadstead")
    rate = ", ".join(f"{name} {value:,.0f}" for name, value in rates.items())
    targets = [at_most("p99 of a small hit during a fill / before", during / before, 2.0)]
    notes = (
        f"Requests per second: {rate}. One client then asks for a cold blob of {FILL_MIB} MiB and reads slowly; requests "
        "count as during the fill until the whole of it is on disk.\n"
    )
    return Group("Latency during a fill", [measure], targets, notes)


def during_a_fill(bench, server, small, cold, size, rate):
    threads = {}

    def fill():
        """(when it started, when all is on disk), in seconds since the epoch"""
        stored_before = stored(server)
        time.sleep(LEFT_OUT)
        threads["before"] = server.threads()
        time.sleep(BEFORE)
        threads["start"] = server.threads()
        start = time.time()
        client = load.in_background(server.urls["https"] + cold, bench.ca, "--limit-rate", "4M")
        try:
            while stored(server) < stored_before + size:
                if time.time() > start + 60:
                    raise Failed(f"{server.name}: a fill is not done after 60 s")
                time.sleep(0.02)
            end = time.time()
            threads["end"] = server.threads()
            return start, end
        finally:
            client.kill()
            client.wait()

    # Each client has its own rate.
    arguments = [f"-c{CONNECTIONS}", "-t2", f"--rps={max(1, round(rate / CONNECTIONS))}"]
    rows, (start, end) = load.h2load_log(server, server.urls["https"] + small, arguments, SECONDS, fill)
    during = [took for at, took in rows if start <= at < end]
    before = [took for at, took in rows if start - BEFORE <= at < start - 0.05]
    if min(len(during), len(before)) < 100:
        raise Failed(f"{server.name}: only {len(before)} requests before the fill, {len(during)} during it")
    figures = [percentile(during, 99), percentile(before, 99), percentile(during, 50), percentile(before, 50)]
    return (*(seconds * 1e3 for seconds in figures), size / 1e9 / (end - start)), {**threads, "seconds": (BEFORE, end - start)}


def stored(server):
    """Bytes of the files in its folder."""
    total = 0
    for path in server.folder.rglob("*"):
        with contextlib.suppress(OSError):
            total += path.stat().st_size if path.is_file() else 0
    return total


def percentile(values, percent):
    ordered = sorted(values)
    return ordered[min(len(ordered) * percent // 100, len(ordered) - 1)]
