"""Memory with many connections: slow readers of one blob, and idle ones."""

import asyncio
import contextlib
import resource
from urllib.parse import urlsplit

from . import load, servers
from .content import KIB, MANIFEST, Warm
from .figures import Group, Measure, alternate, at_most
from .processes import Failed

CONNECTIONS = 1000
# Handshakes at a time.
OPENING = 32
# A slow reader takes as much each second.
PIECE = 4 * KIB
READING_SECONDS = 4


def run(bench):
    allow_files(CONNECTIONS * 3)
    with contextlib.ExitStack() as stack:
        upstream = stack.enter_context(servers.docker_registry(bench.root, name="upstream")).urls["http"]
        warm = Warm(upstream, large_mib=1)
        starters = servers.all_of(bench.root, upstream, bench.keys)

        # Each server is new, so that it has only the memory that the measure makes it use.
        def slow(name):
            with starters[name]() as server:
                load.warm_up(server, bench.ca, {"medium": warm.paths["medium"]}, warm.digests)
                before = server.memory()
                after = with_clients(bench, server, warm.paths["medium"], slow_reader, READING_SECONDS)
                return after, before

        def idle(name):
            with starters[name]() as server:
                load.warm_up(server, bench.ca, {"manifest": warm.paths["manifest"]}, warm.digests)
                before = server.memory()
                after = with_clients(bench, server, warm.paths["manifest"], one_request, 1)
                return (after - before) * 1024 / CONNECTIONS, after

        measures = [
            Measure(
                f"{CONNECTIONS:,} slow readers of one 64 MiB blob, TLS, HTTP/1.1",
                f"{PIECE // KIB} KiB a second each",
                ("MiB resident", "MiB before"),
                slow,
            ),
            Measure(
                f"{CONNECTIONS:,} idle TLS connections after one request each",
                "GET of the 2 KiB manifest, then nothing",
                ("KiB each", "MiB resident"),
                idle,
            ),
        ]
        alternate(bench, measures, {name: name for name in starters})
    targets = [
        at_most(measures[0].title, measures[0].cost("roadstead"), 80.0, " MiB"),
        at_most(measures[1].title, measures[1].cost("roadstead"), 24.0, " KiB each"),
    ]
    return Group("Memory", measures, targets, "Varnish has the blob itself in memory, which the others have on disk.\n")


def allow_files(count):
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    if most != resource.RLIM_INFINITY and most < count:
        raise Failed(f"at most {most} open files are allowed, {count} are needed")
    resource.setrlimit(resource.RLIMIT_NOFILE, (count if most == resource.RLIM_INFINITY else most, most))


def with_clients(bench, server, path, client, seconds):
    """MiB of the server when all clients have had their first bytes and have gone on for some seconds."""

    async def all_clients():
        trust = load.trusting(bench.ca)
        gate = asyncio.Semaphore(OPENING)
        where = urlsplit(server.urls["https"])
        request = f"GET {path} HTTP/1.1\r\nHost: {where.netloc}\r\nAccept: {MANIFEST}\r\n\r\n".encode()

        async def open_one():
            # A small limit: what Python reads ahead is not what the client has asked for.
            async with gate, asyncio.timeout(60):
                reader, writer = await asyncio.open_connection(where.hostname, where.port, ssl=trust, limit=KIB)
                writer.write(request)
                if not (await reader.readline()).startswith(b"HTTP/1.1 200"):
                    raise Failed(f"{server.name} does not answer with 200")
            return reader, writer

        connections = await asyncio.gather(*(open_one() for _ in range(CONNECTIONS)))
        running = [asyncio.ensure_future(client(reader)) for reader, _ in connections]
        await asyncio.sleep(seconds)
        used = server.memory()
        broken = [one for one in running if one.done() and one.exception()]
        for one in running:
            one.cancel()
        for _, writer in connections:
            writer.transport.abort()
        await asyncio.sleep(0)
        if broken:
            raise Failed(f"{server.name}: {len(broken)} clients failed: {broken[0].exception()!r}")
        return used

    return asyncio.run(all_clients())


async def slow_reader(reader):
    while piece := await reader.read(PIECE):
        await asyncio.sleep(len(piece) / PIECE)
    raise Failed("the connection was closed")


async def one_request(reader):
    """Reads one answer to its end, by its length."""
    length = None
    while (line := await reader.readline()) not in (b"\r\n", b""):
        name, _, value = line.decode().partition(":")
        if name.lower() == "content-length":
            length = int(value)
    if length is None:
        raise Failed("an answer without Content-Length")
    await reader.readexactly(length)
    # Idle from here on.
    if await reader.read(1) == b"":
        raise Failed("the connection was closed")
