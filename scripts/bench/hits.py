"""Warm answers: a manifest, a blob, a new connection for each request."""

import contextlib
import ssl

from . import load, servers
from .content import NAME, Warm
from .figures import Group, Measure, alternate, at_most

PER_GB = ("CPU s/GB", "GB/s")
PER_100K = ("CPU s/100 k", "requests/s")
BLOB, MANIFEST = f"$URL/v2/{NAME}/blobs/$DIGEST", f"$URL/v2/{NAME}/manifests/$DIGEST"


def measures(bench, paths):
    seconds = bench.seconds

    def manifest_h1(server):
        url = server.urls["https"] + paths["manifest"]
        return load.wrk(server, url, 32, seconds, [load.ACCEPT]).per_100k()

    def manifest_h2(server):
        url = server.urls["https"] + paths["manifest"]
        return load.h2load(server, url, "-t2", "-c8", "-m4", "-H", load.ACCEPT, seconds=seconds).per_100k()

    def blob_h1(connections, scheme="https"):
        def take(server):
            return load.wrk(server, server.urls[scheme] + paths["large"], connections, seconds).per_gb()

        return take

    def blob_h2(server):
        # A number of requests and not a time, so that no part of one is left uncounted.
        requests = max(4, 4 * seconds)
        return load.h2load(server, server.urls["https"] + paths["large"], "-c4", "-m1", f"-n{requests}").per_gb()

    def connections(version):
        def take(server):
            url = server.urls["https"] + paths["manifest"]
            return load.new_connections(server, url, bench.ca, version, seconds).per_100k()

        return take

    wrk = f"wrk -d{seconds}s"
    h2load = f"h2load --duration={seconds}"
    accept = f"-H '{load.ACCEPT}'"
    large = "256 MiB blob"
    return {
        "manifest h1": Measure(
            "2 KiB manifest, TLS, HTTP/1.1, 32 connections",
            f"{wrk} -t2 -c32 {accept} {MANIFEST}",
            PER_100K,
            manifest_h1,
        ),
        "manifest h2": Measure(
            "2 KiB manifest, TLS, HTTP/2, 8 connections of 4 streams",
            f"{h2load} -t2 -c8 -m4 {accept} {MANIFEST}",
            PER_100K,
            manifest_h2,
        ),
        "blob 1": Measure(f"{large}, TLS, HTTP/1.1, 1 connection", f"{wrk} -t1 -c1 {BLOB}", PER_GB, blob_h1(1)),
        "blob 16": Measure(f"{large}, TLS, HTTP/1.1, 16 connections", f"{wrk} -t2 -c16 {BLOB}", PER_GB, blob_h1(16)),
        "blob h2": Measure(
            f"{large}, TLS, HTTP/2, 4 connections", f"h2load -c4 -m1 -n{max(4, 4 * seconds)} {BLOB}", PER_GB, blob_h2
        ),
        "blob plain": Measure(
            f"{large}, plain HTTP, 16 connections", f"{wrk} -t2 -c16 {BLOB}", PER_GB, blob_h1(16, "http")
        ),
        **{
            f"connection {version}": Measure(
                f"2 KiB manifest, a new TLS {version} connection for each request",
                f"GET {MANIFEST} with Connection: close, from 4 threads",
                PER_100K,
                connections(tls),
            )
            for version, tls in (("1.3", ssl.TLSVersion.TLSv1_3), ("1.2", ssl.TLSVersion.TLSv1_2))
        },
    }


# What roadstead may cost, as a part of what nginx costs.
LIMITS = {
    "manifest h1": 0.75,
    "manifest h2": 0.85,
    "blob 1": 0.5,
    "blob 16": 0.6,
    "blob h2": 0.65,
    "blob plain": 0.9,
    "connection 1.3": 0.8,
    "connection 1.2": 0.8,
}
LOG_ON = "roadstead, log on"


def starters(bench, upstream):
    """{name: what starts the server}"""
    started = servers.all_of(bench.root, upstream, bench.keys)
    if bench.quick:
        return {name: started[name] for name in ("roadstead", "nginx")}

    def with_log():
        return servers.roadstead(bench.root, upstream, bench.keys, name="roadstead-log", access_log=True)

    return {"roadstead": started.pop("roadstead"), LOG_ON: with_log, **started}


def run(bench):
    with contextlib.ExitStack() as stack:
        enter = stack.enter_context
        upstream = enter(servers.docker_registry(bench.root, name="upstream")).urls["http"]
        warm = Warm(upstream)
        started = {name: enter(start()) for name, start in starters(bench, upstream).items()}
        paths = {name: warm.paths[name] for name in ("manifest", "large")}
        for server in started.values():
            load.warm_up(server, bench.ca, paths, warm.digests)
        table = measures(bench, warm.paths)
        without_log = tuple(name for name in started if name != LOG_ON)
        for name, measure in table.items():
            if not name.startswith("manifest"):
                measure.only = without_log
        alternate(bench, list(table.values()), started)
    targets = [
        at_most(f"{table[name].title}: CPU of roadstead / nginx", table[name].ratio(), limit)
        for name, limit in LIMITS.items()
    ]
    return Group("Warm answers", list(table.values()), targets, NOTES)


NOTES = """\
Manifests are requested by digest. New connections are full handshakes, without resumption.
"""
