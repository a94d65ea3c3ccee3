"""A store of a million blobs beside one of ten thousand: how soon it serves, its memory, what a hit costs.

The blobs are empty files with valid names, which is all that the index sees of them; a thousand are real, and those
are requested, over plain HTTP so that the store's part counts.
"""

import contextlib
import hashlib
import json
import os
import re
import statistics
import sys
import time

from . import load, servers
from .figures import Group, at_most
from .processes import Failed, Server, free_port

SIZES = ((10_000, 2_000), (1_000_000, 200_000))
REAL, REAL_BYTES = 1000, 70 << 10
SECONDS = 3
SCAN_SECONDS = 120
REPOSITORY = "repositories/upstream.example/bench/app"

LUA = """
local paths, count = {{}}, 0
init = function()
    -- Only from here on wrk knows the Host.
    for line in io.lines("{names}") do
        count = count + 1
        paths[count] = wrk.format("GET", "/v2/bench/app/blobs/sha256:" .. line)
    end
end
request = function() return paths[math.random(count)] end
"""


def make(store, blobs, tags):
    """A store as roadstead would have left it."""
    shards = [store / "blobs/sha256" / f"{n:02x}" for n in range(256)]
    for shard in shards:
        shard.mkdir(parents=True)
    (store / "VERSION").write_text("1\n")
    links, manifests = store / REPOSITORY / "_blobs", store / REPOSITORY / "_manifests"
    links.mkdir(parents=True)
    manifests.mkdir()
    folders = [str(shard) for shard in shards]
    descriptors = [os.open(folder, os.O_RDONLY) for folder in folders]
    flags = os.O_CREAT | os.O_WRONLY
    for n in range(blobs - REAL):
        name = hashlib.sha256(b"%d" % n).hexdigest()
        os.close(os.open(name, flags, 0o644, dir_fd=descriptors[int(name[:2], 16)]))
    for descriptor in descriptors:
        os.close(descriptor)
    now = int(time.time())
    pointer = {"digest": "sha256:" + "0" * 64, "media_type": "application/json", "checked_at": now}
    record = json.dumps(pointer).encode()
    for folder in range(tags // 1000):
        tag_folder = store / f"repositories/upstream.example/team/app{folder}/_tags/full"
        tag_folder.mkdir(parents=True)
        descriptor = os.open(tag_folder, os.O_RDONLY)
        for n in range(1000):
            file = os.open(f"v{n}", flags, 0o644, dir_fd=descriptor)
            os.write(file, record)
            os.close(file)
        os.close(descriptor)
    names = []
    for n in range(REAL):
        content = hashlib.sha256(b"real %d" % n).digest() * (REAL_BYTES // 32)
        name = hashlib.sha256(content).hexdigest()
        (store / "blobs/sha256" / name[:2] / name).write_bytes(content)
        link = {"checked_at": now, "size": REAL_BYTES}
        (links / f"sha256-{name}").write_text(json.dumps(link))
        names.append(name)
    return names


class Gateway(Server):
    """Roadstead with such a store, and how long it took to serve and to know the store."""

    def __init__(self, parent, blobs, tags):
        super().__init__(f"{blobs:,} blobs", parent, str(blobs))
        names = make(self.folder / "store", blobs, tags)
        (self.folder / "names").write_text("\n".join(names) + "\n")
        self.lua = LUA.format(names=self.folder / "names")
        port = free_port()
        (self.folder / "roadstead.yaml").write_text(
            f'listen: [{{address: "127.0.0.1:{port}", tls: off}}]\nadmin: {{address: off}}\n'
            "store: {path: store, min_free: 0B}\nlog: {access: false}\n"
            'registries: [{name: upstream.example, v2: "http://127.0.0.1:9"}]\n'
        )
        started = time.monotonic()
        self.start([servers.roadstead_binary(), "serve", "-c", "roadstead.yaml"], port)
        self.urls = {"http": f"http://127.0.0.1:{port}"}
        self.ready = time.monotonic() - started
        while "the store is known" not in (self.folder / "log").read_text():
            if time.monotonic() > started + SCAN_SECONDS:
                raise Failed("the scan does not end")
            time.sleep(0.01)
        self.known = time.monotonic() - started

    def status(self, key):
        """In MiB."""
        with open(f"/proc/{self.processes[0].pid}/status") as status:
            return int(re.search(rf"{key}:\s+(\d+)", status.read())[1]) / 1024

    def hit(self, seconds=SECONDS):
        """Microseconds of CPU for one hit."""
        done = load.wrk(self, self.urls["http"], 8, seconds, lua=self.lua)
        return done.cpu / done.requests * 1e6


def run(bench):
    costs, gateways = [], []
    with contextlib.ExitStack() as stack:
        for blobs, tags in SIZES:
            print(f"making a store of {blobs:,} blobs and {tags:,} tags", file=sys.stderr)
            gateways.append(stack.enter_context(Gateway(bench.root, blobs, tags)))
            gateways[-1].hit(1)
            costs.append([])
        # In turn, so that what else the machine does falls on both.
        for number in range(bench.rounds):
            for at, gateway in enumerate(gateways):
                print(f"round {number + 1}/{bench.rounds}  {gateway.name}", file=sys.stderr)
                costs[at].append(gateway.hit())
        medians = [statistics.median(some) for some in costs]
        text = table(gateways, medians)
        most = gateways[1]
        targets = [
            at_most("A million blobs: ready", most.ready, 2.0, " s"),
            at_most("A million blobs: peak memory", most.status("VmHWM"), 450.0, " MiB"),
            at_most("A million blobs: CPU of a hit / among ten thousand", medians[1] / medians[0], 1.1),
        ]
    return Group("A large store", [], targets, text)


def table(gateways, costs):
    lines = [
        "| blobs | tags | ready after | known after | peak memory | memory | CPU of a hit |",
        "|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for (blobs, tags), gateway, cost in zip(SIZES, gateways, costs):
        peak, resident = gateway.status("VmHWM"), gateway.status("VmRSS")
        lines.append(
            f"| {blobs:,} | {tags:,} | {gateway.ready:.2f} s | {gateway.known:.2f} s | {peak:.0f} MiB "
            f"| {resident:.0f} MiB | {cost:.0f} µs |"
        )
    return "\n".join([*lines, ""])
