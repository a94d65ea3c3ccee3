"""docs/profile.md: where the time goes that misses its target, from callgrind and perf in one run.

Each server does the work of a measure of docs/benchmarks.md once more, under a profiler. What a kind of work costs is its
share of the samples times the CPU time of that run.
"""

import contextlib
import sys

from . import callgrind, instructions, latency, load, pushes, sampling, servers
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


def push(bench):
    """{key: markdown} of a push, by version of HTTP."""
    tables = {}
    with pushes.subjects(bench) as (started, file, digest):
        for key, protocol in (("push_h1", "http1.1"), ("push_h2", "http2")):
            costs = {}
            for name, server in started.items():
                print(f"profile  {key}: {name}", file=sys.stderr)

                def one():
                    return pushes.push(bench, server, file, digest, protocol)[0]

                costs[name] = sampling.samples(server, one)
            tables[key] = table("s/GB", costs)
    return tables


def waiting(bench):
    """Markdown: what the threads that serve connections ran and waited for a core, before a fill and during it."""
    serving = {"roadstead": "serve", "nginx": "nginx"}
    lines = ["| threads that serve connections | run | wait for a core | p50 | p99 |", "|---|---:|---:|---:|---:|"]
    with latency.subjects(bench) as (names, take, _):
        for name in names:
            print(f"profile  latency: {name}", file=sys.stderr)
            (p99, p99_before, p50, p50_before, _), times = take(name)
            moments = [times[moment].get(serving[name], (0.0, 0.0)) for moment in ("before", "start", "end")]
            rows = (("before", p50_before, p99_before), ("during a fill", p50, p99))
            for (label, middle, high), old, new, seconds in zip(rows, moments, moments[1:], times["seconds"]):
                ran, waited = ((new[at] - old[at]) / seconds * 1e3 for at in (0, 1))
                cells = (f"{number(ran)} ms/s", f"{number(waited)} ms/s", f"{number(middle)} ms", f"{number(high)} ms")
                lines.append(f"| {name}, {label} | {' | '.join(cells)} |")
    return "\n".join(lines)


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
    tables = {**warm_answers(bench), "crates": by_crate(bench), "cold": cold_blob(bench), **push(bench), "waiting": waiting(bench)}
    PAGE.write_text(TEXT.format(conditions=conditions, **tables))


TEXT = """\
# Where the time goes

Profiles of the work in [Benchmarks](benchmarks.md), beside nginx: where the cost is that keeps a target from being met, and why
it stays. `make profile` writes this page in two minutes. CPU time is sampled by perf; each kind's share of the samples is
multiplied by the CPU time of the run. Debian's OpenSSL has no symbols, so nginx's encryption counts as the rest of its program.

{conditions}
## A manifest over HTTP/1.1

{manifest_h1}

Receiving a request and sending its response take one system call each, which is the least there can be, and the kernel's part
of the cost is the same for every server: sockets, the loopback device, switching to the client and back. Only what is left
for the program can differ. To cost three quarters of nginx in all, the program would have to do with less than half of
nginx's time, where TLS, the parser and the cache do with fewer instructions already ([Benchmarks](benchmarks.md#instructions)).

## A manifest over HTTP/2

{manifest_h2}

{crates}

What we do for a request costs the same in both versions of HTTP. The difference is HPACK, streams, windows and frames of the h2
crate, with the map of fields, the copies and the allocations that it makes. Another HTTP/2 would be a protocol of our own where
a well-kept crate exists (decision 51). Instructions are counted under valgrind, which hides the wider AES instructions of newer
processors.

## A blob over TLS

Over HTTP/1.1 with 16 connections:

{blob_h1}

Over HTTP/2:

{blob_h2}

Encryption, the copies between page cache, program and socket, and TCP are the work itself. aws-lc encrypts with AVX-512 where the
processor has it, which OpenSSL 3.0 does not: there the difference to nginx is large. On a processor without AVX-512 both use the
same instructions, and the rest is the kernel's. TLS in the kernel would save a copy, but many kernels are built without it.

## A blob over plain HTTP

{plain}

All of it is the kernel's sendfile for both servers, an eighth of what TLS costs. We read two bytes of each part before, which tells that
the page cache has it, so that no thread that serves connections waits for the disk, and limit what the kernel holds unsent, so
that a slow client is noticed: both are system calls that nginx does not make. What is left differs by hundredths of a second for
each gigabyte.

## A cold blob

{cold}

SHA-256 with the processor's instructions takes longer than any other part, and receiving, encrypting and sending cost what they
cost of a warm blob. nginx verifies nothing. A direct download over loopback copies memory, which takes less than the digest
alone; the last chunk is held back until the digest matches and the blob is committed, so a gateway that
verifies what it serves cannot come near it. The blob is hashed, written and synced while it arrives; what is waited for after its
last byte is one fsync.

The first byte goes from the thread of the fill to that of the connection, behind the making of a file. It comes some
milliseconds after that of a direct download, 2.5 to 5 in several runs, since each thread first waits for a core that client,
upstream and gateway share.

## A push

Over HTTP/1.1:

{push_h1}

Over HTTP/2:

{push_h2}

Decryption, copies and TCP cost what they cost nginx, whose decryption counts as the rest of its program. The rest goes into copies
in the program and wake-ups: rustls decrypts into a buffer of its own, and pieces are handed from the connection to the upstream
request, which has its own limits, timeouts and login. Pieces that wait together are sent by one call, which took a fifth off the
cost over HTTP/2. There its frames of 16 KiB are the sender's choice, and each is copied out of the buffer that it was received in.

## Small answers during a fill

{waiting}

Clients, the upstream, the fill and the connections share two cores. What a small answer waits for is a core: threads of
connections come before those of fills (decision 63), but not before the upstream's and the client's. Their waits triple, and
p99 with them; it stays below nginx's. Only a third core would change that.

## Slow upstreams

A fill begins with one connection, since a registry must not be asked for more than is of use. Each further one is opened after at
least a second and a half in which the rate is measured. With four connections at 8 MiB/s each, 1 GiB takes 35 s at best, 3.7
times as fast as one connection. Where a connection seems useless by chance, the fill goes on with three, and takes 45 s.
Therefore three seconds in turn must say so (decision 47).
"""
