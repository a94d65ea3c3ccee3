"""A store of a million blobs beside one of ten thousand: how soon it serves, its memory, what a hit costs.

`bench.py large` runs it. The blobs are empty files with right names, which is all that the index sees of
them; a thousand are real, and they are what is asked for, over plain HTTP so that the store's part counts.
"""

import contextlib
import hashlib
import json
import os
import re
import signal
import socket
import statistics
import subprocess
import sys
import time

SIZES = ((10_000, 2_000), (1_000_000, 200_000))
REAL, REAL_BYTES = 1000, 70 << 10
ROUNDS, SECONDS = 3, 3
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
done = function(summary)
    local errors = summary.errors
    print("SUM", summary.requests, errors.connect + errors.read + errors.write + errors.status)
end
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


class Gateway:
    def __init__(self, here, binary, port):
        self.log = here / "log"
        (here / "roadstead.yaml").write_text(
            f'listen: [{{address: "127.0.0.1:{port}", tls: off}}]\nadmin: {{address: off}}\n'
            "store: {path: store, min_free: 0B}\nlog: {access: false}\n"
            'registries: [{name: upstream.example, v2: "http://127.0.0.1:9"}]\n'
        )
        started = time.monotonic()
        with self.log.open("w") as log:
            self.process = subprocess.Popen(
                [str(binary), "serve", "-c", "roadstead.yaml"],
                cwd=here,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        while True:
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
                break
            if self.process.poll() is not None or time.monotonic() > started + 60:
                sys.exit(self.log.read_text()[-2000:])
            time.sleep(0.002)
        self.ready = time.monotonic() - started
        while "the store is known" not in self.log.read_text():
            if time.monotonic() > started + 60:
                sys.exit("the scan does not end")
            time.sleep(0.01)
        self.known = time.monotonic() - started

    def memory(self, key):
        """In MiB."""
        with open(f"/proc/{self.process.pid}/status") as status:
            return int(re.search(rf"{key}:\s+(\d+)", status.read())[1]) / 1024

    def cpu(self):
        with open(f"/proc/{self.process.pid}/stat") as stat:
            fields = stat.read().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def stop(self):
        self.process.send_signal(signal.SIGTERM)
        try:
            self.process.wait(5)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


def hit(gateway, wrk, script, port):
    """Microseconds of CPU for one hit."""
    before = gateway.cpu()
    command = [wrk, "-t2", "-c8", f"-d{SECONDS}s", "-s", str(script), f"http://127.0.0.1:{port}"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=SECONDS + 30)
    found = re.search(r"SUM\s+(\d+)\s+(\d+)", done.stdout)
    if not found or int(found[2]):
        sys.exit(f"{done.stdout}{done.stderr}")
    return (gateway.cpu() - before) / int(found[1]) * 1e6


def run(root, stack, binary, wrk, free_port):
    """The table, in Markdown."""
    started, figures, gateways = [], [], []
    for blobs, tags in SIZES:
        here = root / str(blobs)
        here.mkdir()
        print(f"making a store of {blobs:,} blobs and {tags:,} tags", file=sys.stderr)
        names = make(here / "store", blobs, tags)
        (here / "names").write_text("\n".join(names) + "\n")
        (here / "hit.lua").write_text(LUA.format(names=here / "names"))
        port = free_port()
        gateway = Gateway(here, binary, port)
        stack.callback(gateway.stop)
        gateways.append((gateway, here / "hit.lua", port))
        hit(*gateways[-1][:1], wrk, *gateways[-1][1:])
        started.append((gateway.ready, gateway.known))
        figures.append([])
    # In turn, so that what else the machine does falls on both.
    for number in range(ROUNDS):
        for at, (gateway, script, port) in enumerate(gateways):
            print(f"round {number + 1}/{ROUNDS}  {SIZES[at][0]:,} blobs", file=sys.stderr)
            figures[at].append(hit(gateway, wrk, script, port))
    lines = [
        "| blobs | tags | ready after | known after | peak memory | memory | CPU of a hit |",
        "|---:|---:|---:|---:|---:|---:|---:|",
    ]
    costs = [statistics.median(some) for some in figures]
    for at, (blobs, tags) in enumerate(SIZES):
        gateway = gateways[at][0]
        ready, known = started[at]
        peak, resident = gateway.memory("VmHWM"), gateway.memory("VmRSS")
        lines.append(
            f"| {blobs:,} | {tags:,} | {ready:.2f} s | {known:.2f} s | {peak:.0f} MiB "
            f"| {resident:.0f} MiB | {costs[at]:.0f} µs |"
        )
    ratio = costs[1] / costs[0]
    lines += ["", f"A hit among a million costs {ratio:.2f} of what it costs among ten thousand."]
    problems = []
    if started[1][0] >= 2:
        problems.append("ready only after 2 s")
    if gateways[1][0].memory("VmHWM") >= 450:
        problems.append("450 MiB or more")
    if ratio > 1.1:
        problems.append("a hit costs more than 1.1 times as much")
    return "\n".join(lines), problems
