"""User instructions of a warm answer, counted by callgrind: the same on a busy machine as on an idle one.

A server runs under valgrind with counting off. Requests on one TLS connection warm it up; counting is on for
REQUESTS more, and the counts are dumped. The committed file has what Roadstead took when it was last recorded.
"""

import contextlib
import json
import os
import re
import sys
import time

from . import load, processes, servers
from .content import MANIFEST, Warm
from .figures import Group, Target, at_most, number
from .processes import REPOSITORY, Failed, find, program

RECORDED = REPOSITORY / "docs" / "instructions.json"
REQUESTS = 1000
WARM_UP = 50
# By how much a count may differ from the recorded one.
TOLERANCE = 0.05
MOST = 45_000
# What a case may cost, as a part of the plain manifest by digest.
LIMITS = {"by a fresh tag": 1.1, "with a bearer token": 1.15, "with Basic": 1.25, "HTTP/2": 1.3}
BY_DIGEST = "by digest"
RECORDED_CASES = (BY_DIGEST, "by a fresh tag", "HEAD", "16 KiB blob")


class Counted:
    """A server under callgrind."""

    def __init__(self, server):
        self.server = server
        self.dumps = 0

    def control(self, *arguments):
        processes.run("callgrind_control", *arguments, str(self.server.processes[0].pid), timeout=60)

    @contextlib.contextmanager
    def counting(self):
        self.control("-i", "on")
        yield
        self.control("-i", "off")

    def dump(self):
        """The instructions since the last dump."""
        self.control("-d")
        self.dumps += 1
        path = self.server.folder / f"callgrind.{self.dumps}"
        until = time.monotonic() + 60
        while time.monotonic() < until:
            found = re.search(r"^totals: (\d+)", path.read_text() if path.exists() else "", re.MULTILINE)
            if found:
                return int(found[1])
            time.sleep(0.05)
        raise Failed(f"callgrind wrote no {path}")


def valgrind(folder):
    """The command that runs a server under callgrind; its dumps go to `folder`."""
    out = f"--callgrind-out-file={folder}/callgrind"
    return [program("valgrind"), "--quiet", "--tool=callgrind", "--instr-atstart=no", out]


def on_one_connection(counted, ca, method, path, headers):
    """Instructions of a request of HTTP/1.1."""
    client = load.connect(counted.server.urls["https"], ca)
    client.connect()
    connection = client.sock

    def request():
        client.request(method, path, headers=headers)
        answer = client.getresponse()
        answer.read()
        if answer.status != 200 or client.sock is not connection:
            raise Failed(f"{counted.server.name}: {method} {path}: {answer.status}, or the connection was closed")

    for _ in range(WARM_UP):
        request()
    with counted.counting():
        for _ in range(REQUESTS):
            request()
    client.close()
    return counted.dump() / REQUESTS


def with_h2load(counted, path):
    """Instructions of a request of HTTP/2. Its connection is made while counting is on, so a run of one request
    is subtracted."""
    url = counted.server.urls["https"] + path

    def count(requests):
        with counted.counting():
            load.h2load(counted.server, url, "-c1", "-m1", f"-n{requests}", "-H", load.ACCEPT)
        return counted.dump()

    load.h2load(counted.server, url, "-c1", "-m1", f"-n{WARM_UP}", "-H", load.ACCEPT)
    return (count(REQUESTS + WARM_UP) - count(WARM_UP)) / REQUESTS


def http1(path, method="GET", **headers):
    return lambda counted, ca, warm: on_one_connection(
        counted, ca, method, warm.paths[path], {"Accept": MANIFEST, **headers}
    )


# {name: what counts it}, of a server that any client may pull from
CASES = {
    BY_DIGEST: http1("manifest"),
    "by a fresh tag": http1("tag"),
    "HTTP/2": lambda counted, ca, warm: with_h2load(counted, warm.paths["manifest"]),
    "HEAD": http1("manifest", method="HEAD"),
    "16 KiB blob": http1("small"),
}


def login_cases(token):
    """The same of one that asks for a login. They count beside `CASES`, without a login."""
    return {
        "with a bearer token": http1("manifest", Authorization=f"Bearer {token}"),
        "with Basic": http1("manifest", Authorization=servers.basic()),
    }


def token_from(server, ca):
    client = load.connect(server.urls["https"], ca)
    scope = "repository:bench/app:pull"
    client.request("GET", f"/token?service=roadstead&scope={scope}", headers={"Authorization": servers.basic()})
    answer = client.getresponse()
    body = answer.read()
    client.close()
    if answer.status != 200:
        raise Failed(f"no token: {answer.status} {body[:200]!r}")
    return json.loads(body)["token"]


class Counts(dict):
    """{case: {server: instructions of a request}}"""

    def take(self, bench, warm, server, cases, **headers):
        paths = {kind: warm.paths[kind] for kind in ("manifest", "tag", "small")}
        load.warm_up(server, bench.ca, paths, warm.digests, **headers)
        counted = Counted(server)
        for case, take in cases.items():
            bench.check_time()
            print(f"instructions  {case}: {server.name}", file=sys.stderr)
            self.setdefault(case, {})[server.name] = round(take(counted, bench.ca, warm))


@contextlib.contextmanager
def registry(bench):
    """A registry, and what is in it."""
    with servers.docker_registry(bench.root, name="upstream") as server:
        upstream = server.urls["http"]
        yield upstream, Warm(upstream, large_mib=1)


def count_all(bench):
    counts = Counts()
    with registry(bench) as (upstream, warm):
        for start in (servers.roadstead, servers.nginx):
            with start(bench.root, upstream, bench.keys, under=valgrind) as server:
                counts.take(bench, warm, server, CASES)
        with servers.roadstead(bench.root, upstream, bench.keys, actions=("pull",), under=valgrind) as server:
            cases = login_cases(token_from(server, bench.ca))
            counts.take(bench, warm, server, cases, Authorization=servers.basic())
    return counts


def table(counts):
    lines = [
        "| 2 KiB manifest, TLS | roadstead | of it by digest | nginx | roadstead / nginx |",
        "|---|---:|---:|---:|---:|",
    ]
    plain = counts[BY_DIGEST]["roadstead"]
    for case, count_of in counts.items():
        ours, nginx = count_of["roadstead"], count_of.get("nginx")
        ratio = number(ours / nginx) if nginx else ""
        theirs = f"{nginx:,}" if nginx else ""
        lines.append(f"| {case} | {ours:,} | {number(ours / plain)} | {theirs} | {ratio} |")
    return "\n".join(lines)


def run(bench):
    counts = count_all(bench)
    ours, nginx = counts[BY_DIGEST]["roadstead"], counts[BY_DIGEST]["nginx"]
    targets = [
        Target(f"User instructions of a manifest by digest ≤ {MOST:,}", f"{ours:,}", ours <= MOST),
        Target(f"The same, below nginx's {nginx:,}", f"{ours:,}", ours < nginx),
    ]
    targets += [
        at_most(f"Manifest {case}: instructions / by digest", counts[case]["roadstead"] / ours, limit)
        for case, limit in LIMITS.items()
    ]
    return Group("Instructions", [], targets, f"{table(counts)}\n\n{NOTES}")


NOTES = f"""\
User instructions of one request on a warm TLS 1.3 connection, counted by callgrind over {REQUESTS:,} requests; nginx
runs as one process without a master. Logins are not compared: nginx checks a password each time.
"""


def check(bench):
    """Compares with the recorded counts, or records them with ROADSTEAD_WRITE=1. Returns what differs."""
    found = Counts()
    with (
        registry(bench) as (upstream, warm),
        servers.roadstead(bench.root, upstream, bench.keys, under=valgrind) as server,
    ):
        found.take(bench, warm, server, {case: CASES[case] for case in RECORDED_CASES})
    counts = {case: count["roadstead"] for case, count in found.items()}
    for case, instructions in counts.items():
        print(f"{case}: {instructions:,} instructions")
    if os.environ.get("ROADSTEAD_WRITE") == "1":
        RECORDED.write_text(json.dumps(counts, indent=2) + "\n")
        return []
    if not RECORDED.exists():
        return [f"{RECORDED.name} is missing: ROADSTEAD_WRITE=1 records it"]
    recorded = json.loads(RECORDED.read_text())
    problems = []
    for case, instructions in counts.items():
        before = recorded.get(case, 0)
        if abs(instructions - before) > TOLERANCE * before:
            problems.append(f"{case}: {instructions:,} instructions, recorded are {before:,}")
    return problems


def missing():
    """The programs that `check` needs and that are not installed."""
    return [name for name in ("valgrind", "callgrind_control", "docker-registry") if not find(name)]
