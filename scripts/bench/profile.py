"""docs/profile.md: where the time goes that misses its target, from callgrind and perf in one run.

Each server does the work of a measure of docs/benchmarks.md once more, under a profiler. What a kind of work costs is its
share of the samples times the CPU time of that run.
"""

import contextlib
import sys

from . import callgrind, instructions, load, sampling, servers
from .content import MIB, Tree, Warm
from .figures import number
from .processes import REPOSITORY, find

PAGE = REPOSITORY / "docs" / "profile.md"
SERVERS = ("roadstead", "nginx")
# Kinds that cost less than this part of a table's first column are put together.
LEAST = 0.02


def by_crate(bench):
    """Markdown: instructions of a manifest over HTTP/1.1 and HTTP/2, by crate."""
    cases = (instructions.BY_DIGEST, "HTTP/2")
    found = {}
    with instructions.registry(bench) as (upstream, warm):
        start = servers.roadstead(bench.root, upstream, bench.keys, under=instructions.valgrind)
        with start as server:
            paths = {name: warm.paths[name] for name in ("manifest", "tag", "small")}
            load.warm_up(server, bench.ca, paths, warm.digests)
            counted = instructions.Counted(server)
            for case in cases:
                print(f"profile  instructions, {case}", file=sys.stderr)
                before = counted.dumps
                instructions.CASES[case](counted, bench.ca, warm)
                dumps = [callgrind.functions(server.folder / f"callgrind.{at + 1}") for at in range(before, counted.dumps)]
                # That of HTTP/2 is the difference of two runs.
                costs = dumps[-2] if len(dumps) > 1 else dumps[0]
                if len(dumps) > 1:
                    costs.subtract(dumps[-1])
                found[case] = callgrind.by_group(costs)
    lines = ["| user instructions of one request | HTTP/1.1 | HTTP/2 |", "|---|---:|---:|"]
    columns = [found[case] for case in cases]
    for label in [*callgrind.GROUPS, callgrind.REST]:
        cells = [round(column[label] / instructions.REQUESTS, -2) for column in columns]
        if any(cells):
            lines.append(f"| {label} | {' | '.join(f'{cell:,.0f}' if cell else '' for cell in cells)} |")
    totals = [column.total() / instructions.REQUESTS for column in columns]
    lines.append(f"| all | {' | '.join(f'{total:,.0f}' for total in totals)} |")
    return "\n".join(lines)


def warm_answers(bench):
    """{key: markdown} of warm answers, beside nginx."""
    tables = {}
    with contextlib.ExitStack() as stack:
        enter = stack.enter_context
        upstream = enter(servers.docker_registry(bench.root, name="upstream")).urls["http"]
        warm = Warm(upstream)
        starters = servers.all_of(bench.root, upstream, bench.keys)
        started = {name: enter(starters[name]()) for name in SERVERS}
        paths = {name: warm.paths[name] for name in ("manifest", "large")}
        for server in started.values():
            load.warm_up(server, bench.ca, paths, warm.digests)
        manifest, large = paths["manifest"], paths["large"]
        seconds = bench.seconds

        def per_request(done):
            return done.cpu / done.requests * 1e6

        def per_gb(done):
            return done.cpu / (done.bytes / 1e9)

        def wrk(path, connections, measure, scheme="https", headers=()):
            return lambda server: measure(load.wrk(server, server.urls[scheme] + path, connections, seconds, headers))

        def h2load(path, measure, *arguments, **more):
            return lambda server: measure(load.h2load(server, server.urls["https"] + path, *arguments, **more))

        accept = ("-H", load.ACCEPT)
        works = {
            "manifest_h1": ("µs a request", wrk(manifest, 32, per_request, headers=[load.ACCEPT])),
            "manifest_h2": ("µs a request", h2load(manifest, per_request, "-t2", "-c8", "-m4", *accept, seconds=seconds)),
            "blob_h1": ("s/GB", wrk(large, 16, per_gb)),
            "blob_h2": ("s/GB", h2load(large, per_gb, "-c4", "-m1", f"-n{4 * seconds}")),
            "plain": ("s/GB", wrk(large, 16, per_gb, scheme="http")),
        }
        for key, (unit, work) in works.items():
            costs = {}
            for name, server in started.items():
                print(f"profile  {key}: {name}", file=sys.stderr)
                costs[name] = sampling.samples(server, lambda: work(server))
            tables[key] = table(unit, costs)
    return tables


def cold_blob(bench):
    size = 256 * MIB
    costs = {}
    with contextlib.ExitStack() as stack:
        tree = Tree(bench.folder("profile"))
        path = tree.add("profile", size)
        upstream = stack.enter_context(servers.static_upstream(bench.root, tree.root)).urls["http"]
        for name in SERVERS:
            print(f"profile  a cold blob: {name}", file=sys.stderr)
            with servers.all_of(bench.root, upstream, bench.keys)[name]() as server:

                def download():
                    with load.Cpu(server, settle=0.5) as used:
                        load.curl(server.urls["https"] + path, bench.ca, "--http1.1", size=size)
                    return used.seconds / (size / 1e9)

                costs[name] = sampling.samples(server, download)
    return table("s/GB", costs)


def table(unit, costs):
    """{server: (cost, {kind: share})}"""
    heads = " | ".join(costs)
    lines = [f"| CPU, {unit} | {heads} |", f"|---|{'---:|' * len(costs)}"]
    labels = [label for label, *_ in sampling.KINDS] + [sampling.REST]
    small = dict.fromkeys(costs, 0.0)
    for label in labels:
        cells = {name: cost * shares.get(label, 0.0) for name, (cost, shares) in costs.items()}
        if all(cell < LEAST * costs[name][0] for name, cell in cells.items()):
            small = {name: small[name] + cell for name, cell in cells.items()}
            continue
        lines.append(f"| {label} | {' | '.join(number(cell) for cell in cells.values())} |")
    lines.append(f"| all that is below a fiftieth | {' | '.join(number(cell) for cell in small.values())} |")
    lines.append(f"| all | {' | '.join(number(cost) for cost, _ in costs.values())} |")
    return "\n".join(lines)


def missing():
    """The programs that it needs and that are not installed."""
    return [name for name in ("perf", "valgrind", "wrk", "h2load", "nginx", "docker-registry") if not find(name)]


def write(bench, conditions):
    tables = {**warm_answers(bench), "crates": by_crate(bench), "cold": cold_blob(bench)}
    PAGE.write_text(TEXT.format(conditions=conditions, **tables))


TEXT = """\
# Where the time goes

{conditions}
{crates}

{manifest_h1}

{manifest_h2}

{blob_h1}

{blob_h2}

{plain}

{cold}
"""
