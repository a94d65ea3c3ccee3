"""Cold blobs: from a fast upstream, over a line that limits each connection, and by several clients at once."""

import contextlib
import shutil
import sys
import time

from . import load, servers
from .content import MIB, Pusher, Tree, blob, blob_path
from .figures import Group, Measure, alternate, at_least, at_most
from .processes import REPOSITORY, Failed, Server, free_port

LARGE_MIB = 256
# A blob for connections of so many MiB/s; how many rounds wait for theirs together, if the disk has room; who stores it.
SLOW_MIB, PER_CONNECTION, TOGETHER, STORING = 1024, 8, 3, ("roadstead", "nginx")
# Item 8: blobs of a MiB, clients, and what the upstream gives all together, in Mbit/s.
BLOBS, CLIENTS, PARALLEL, LINE_MBIT = 64, 4, 3, 400
DIRECT = "direct"


def run(bench):
    """A large blob from a fast upstream. Each server is new each time, since only then is it cold."""
    size = LARGE_MIB * MIB
    with contextlib.ExitStack() as stack:
        tree = Tree(bench.folder("fast"))
        path = tree.add("fast", size)
        upstream = stack.enter_context(servers.static_upstream(bench.root, tree.root)).urls["http"]
        starters = servers.all_of(bench.root, upstream, bench.keys)

        def take(subject):
            if subject == DIRECT:
                done = load.curl(upstream + path, bench.ca, size=size)
                return 0.0, done.seconds, done.first_byte * 1e3
            with starters[subject]() as server, load.Cpu(server, settle=0.5) as used:
                done = load.curl(server.urls["https"] + path, bench.ca, "--http1.1", size=size)
            return used.seconds / (size / 1e9), done.seconds, done.first_byte * 1e3

        measure = Measure(
            f"{LARGE_MIB} MiB blob, cold, TLS, HTTP/1.1, from an nginx with files",
            "curl --http1.1 $URL$BLOB",
            ("CPU s/GB", "s", "first byte, ms"),
            take,
        )
        alternate(bench, [measure], {name: name for name in (DIRECT, *starters)})
    ours, direct = measure.medians("roadstead"), measure.medians(DIRECT)
    targets = [
        at_most("Cold blob over TLS: CPU", ours[0], 1.8, " s/GB"),
        at_most("Cold blob over TLS: wall / direct plain download", ours[1] / direct[1], 2.5),
        at_most("Cold blob over TLS: first byte after that of a direct download", ours[2] - direct[2], 3.0, " ms"),
    ]
    return Group("A cold blob", [measure], targets, "Seconds include connecting and TLS, the first byte does not.\n")


def run_lines(bench):
    per_connection = limited_connections(bench)
    shared, targets = shared_line(bench)
    ours = [
        at_least(
            f"{SLOW_MIB} MiB, {PER_CONNECTION} MiB/s per connection, {name}: direct / roadstead",
            measure.ratio("roadstead", DIRECT),
            3.0,
        )
        for name, measure in per_connection.items()
    ]
    return Group("Slow upstreams", [*per_connection.values(), shared], [*ours, *targets], NOTES)


NOTES = f"""\
Where each connection is limited, up to {TOGETHER} rounds run at the same time, since nothing but the line is busy. The shared
line gives {LINE_MBIT} Mbit/s to all connections together; each client asks for {PARALLEL} blobs at a time.
"""


def limited_connections(bench):
    """{upstream: measure}. The clients of all servers run at once; what is measured is waiting."""
    size = SLOW_MIB * MIB
    measures = {}
    with contextlib.ExitStack() as stack:
        enter = stack.enter_context
        tree = Tree(bench.folder("limited"))
        paths = {"files": tree.add("limited", size)}
        registry = enter(servers.docker_registry(bench.root, name="registry")).urls["http"]
        paths["docker-registry"] = blob_path(Pusher(registry).blob(blob("limited", size)))
        rate = f"{PER_CONNECTION}m"
        upstreams = {
            "files": enter(servers.static_upstream(bench.root, tree.root, rate)).urls["http"],
            "docker-registry": enter(servers.static_upstream(bench.root, tree.root, rate, registry)).urls["http"],
        }
        for kind in upstreams:
            measures[kind] = Measure(
                f"{SLOW_MIB} MiB blob, cold, upstream ({kind}) with {PER_CONNECTION} MiB/s per connection",
                "curl $URL$BLOB",
                ("s",),
                take=None,
            )
        together = rounds_that_fit(bench.root, size * len(upstreams) * len(STORING))
        for first in range(0, bench.rounds, together):
            bench.check_time()
            rounds = range(first, min(first + together, bench.rounds))
            print(f"round {rounds[-1] + 1}/{bench.rounds}  limited connections", file=sys.stderr)
            with contextlib.ExitStack() as round_stack:
                downloads = {}
                for kind, upstream in upstreams.items():
                    for number in rounds:
                        downloads[kind, DIRECT, number] = upstream + paths[kind]
                        for name in STORING:
                            starter = servers.all_of(bench.root, upstream, bench.keys)[name]
                            server = round_stack.enter_context(starter())
                            downloads[kind, name, number] = server.urls["https"] + paths[kind]
                for (kind, name, _), seconds in at_once(bench, downloads).items():
                    measures[kind].samples.setdefault(name, []).append((seconds,))
    return measures


def rounds_that_fit(folder, stored):
    """How many rounds that store so many bytes each run together, with a tenth of the disk's room to spare."""
    room = shutil.disk_usage(folder).free * 9 // 10
    if room < stored:
        raise Failed(f"{folder} has room for {room >> 30} GiB, and a round stores {stored >> 30} GiB")
    return min(TOGETHER, room // stored)


def at_once(bench, downloads):
    """Downloads {key: URL} together; {key: seconds}."""
    started = time.monotonic()
    running = {key: load.in_background(url, bench.ca, "--fail") for key, url in downloads.items()}
    ended = {}
    try:
        while len(ended) < len(running):
            for key, process in running.items():
                if key not in ended and process.poll() is not None:
                    ended[key] = time.monotonic() - started
                    if process.returncode != 0:
                        raise Failed(f"{key}: curl ended with {process.returncode}")
            if time.monotonic() > started + 300:
                raise Failed("a download over a limited connection is not done after 300 s")
            time.sleep(0.01)
    finally:
        for process in running.values():
            if process.poll() is None:
                process.kill()
            process.wait()
    return ended


class Line(Server):
    """scripts/line.py before an upstream."""

    def __init__(self, parent, upstream, mbit):
        super().__init__("line", parent)
        script = REPOSITORY / "scripts" / "line.py"
        self.start([sys.executable, script, upstream.removeprefix("http://"), mbit])
        until = time.monotonic() + 10
        log = self.folder / "log"
        while not log.read_text().endswith("\n"):
            if time.monotonic() > until:
                raise Failed("line.py does not start")
            time.sleep(0.02)
        self.urls = {"http": f"http://127.0.0.1:{log.read_text().split()[1]}"}


def shared_line(bench):
    """Several clients that want the same blobs: (measure, targets)."""
    with contextlib.ExitStack() as stack:
        enter = stack.enter_context
        tree = Tree(bench.folder("shared"))
        paths = [tree.add(f"shared {number}", MIB) for number in range(BLOBS)]
        static = enter(servers.static_upstream(bench.root, tree.root)).urls["http"]
        upstream = enter(Line(bench.root, static, LINE_MBIT)).urls["http"]
        starters = servers.all_of(bench.root, upstream, bench.keys)
        one = "direct, 1 client"

        def clients(base, count):
            listed = bench.root / "shared" / f"urls-{free_port()}"
            listed.write_text("".join(f'url = "{base}{path}"\noutput = /dev/null\n' for path in paths))
            command = ["curl", "--silent", "--fail", "--cacert", str(bench.ca)]
            command += ["--parallel", "--parallel-max", str(PARALLEL), "--config", str(listed)]
            return load.together([command] * count, 120)

        def take(subject):
            if subject in (DIRECT, one):
                return (clients(upstream, CLIENTS if subject == DIRECT else 1),)
            with starters[subject]() as server:
                return (clients(server.urls["https"], CLIENTS),)

        measure = Measure(
            f"{CLIENTS} clients pull the same {BLOBS} blobs of 1 MiB, cold",
            f"curl --parallel --parallel-max {PARALLEL} …, {CLIENTS} times at once",
            ("s",),
            take,
        )
        alternate(bench, [measure], {name: name for name in (DIRECT, one, "roadstead", "nginx", "varnish")})
    text = f"{BLOBS} cold blobs, {CLIENTS} clients: wall / direct"
    return measure, [at_most(text, measure.ratio(DIRECT), 1.1)]
