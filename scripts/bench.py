#!/usr/bin/env python3
"""Roadstead beside nginx's proxy_cache and docker-registry's pull-through: what a warm answer costs.

All servers stand in front of the same docker-registry, hold the same blob and manifest, and show the same
certificate. They are measured one at a time, in turn, ROUNDS times; the table gives medians. CPU seconds
are user + system time of all processes of a server, from /proc. It prints the table and writes it into
docs/benchmarks.md. About four minutes; no network but loopback.

`bench.py large` measures a store of a million blobs instead: see large.py. Under two minutes.
"""

import contextlib
import datetime
import hashlib
import json
import os
import platform
import re
import shutil
import signal
import socket
import ssl
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path

sys.dont_write_bytecode = True
import large  # noqa: E402
import oci  # noqa: E402

REPOSITORY = Path(__file__).resolve().parent.parent
PAGE = REPOSITORY / "docs" / "benchmarks.md"
BEGIN, END = "<!-- bench:begin -->", "<!-- bench:end -->"
LARGE = "<!-- large:begin -->", "<!-- large:end -->"

ROUNDS = int(os.environ.get("BENCH_ROUNDS", "3"))
SECONDS = int(os.environ.get("BENCH_SECONDS", "4"))
BLOB_MIB = 256
MANIFEST_BYTES = 2048
# Nothing may take longer than this, all in all.
DEADLINE = time.monotonic() + 450

ACCEPT = f"Accept: {oci.MANIFEST}"
NAME = "bench/app"
TICKS = os.sysconf("SC_CLK_TCK")
TICK = 1 / TICKS


# ---- programs ----


def program(name):
    path = shutil.which(name, path=os.environ["PATH"] + ":/usr/sbin:/sbin")
    if not path:
        sys.exit(f"{name} is missing: scripts/real-parts.sh installs it")
    return path


def said(*command):
    """What a command prints, both streams."""
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    return done.stdout


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


class Server:
    """A program that listens on `port` of 127.0.0.1, and the processes it starts."""

    def __init__(self, name, folder, command, port, tls=True, quiet=False):
        self.name, self.port = name, port
        self.url = f"{'https' if tls else 'http'}://127.0.0.1:{port}"
        self.log = folder / "log"
        with self.log.open("w") as log:
            # A group of its own: that is how all its processes are found.
            self.process = subprocess.Popen(
                command,
                cwd=folder,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL if quiet else log,
                stderr=subprocess.DEVNULL if quiet else log,
                start_new_session=True,
            )
        until = time.monotonic() + 30
        while True:
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
                return
            if self.process.poll() is not None or time.monotonic() > until:
                sys.exit(f"{name} does not start:\n{self.log.read_text()[-2000:]}")
            time.sleep(0.05)

    def cpu(self):
        """CPU seconds used so far by every process of its group."""
        ticks = 0
        for stat in Path("/proc").glob("[0-9]*/stat"):
            with contextlib.suppress(OSError):
                # The name in parentheses may hold anything; the fields follow its end.
                fields = stat.read_text().rpartition(")")[2].split()
                if int(fields[2]) == self.process.pid:
                    ticks += int(fields[11]) + int(fields[12])
        return ticks / TICKS

    def stop(self):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGTERM)
        try:
            self.process.wait(5)
        except subprocess.TimeoutExpired:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()


# ---- the servers ----


def folder(root, name):
    path = root / name
    path.mkdir()
    # nginx drops root's rights in its workers.
    path.chmod(0o777)
    return path


def docker_registry(name, root, more, port, tls=None):
    here = folder(root, name)
    config = {
        "version": "0.1",
        "log": {"level": "error", "accesslog": {"disabled": True}},
        "storage": {
            "filesystem": {"rootdirectory": str(here / "data")},
            "cache": {"blobdescriptor": "inmemory"},
        },
        "http": {"addr": f"127.0.0.1:{port}", "secret": "bench"},
        **more,
    }
    if tls:
        config["http"]["tls"] = {"certificate": str(tls[0]), "key": str(tls[1])}
    (here / "config.yml").write_text(json.dumps(config))
    command = [program("docker-registry"), "serve", str(here / "config.yml")]
    return Server(name, here, command, port, tls is not None)


def roadstead(name, root, upstream, keys, access_log):
    here, port = folder(root, name), free_port()
    (here / "roadstead.yaml").write_text(
        f"keys: {keys}\n"
        f'listen: [{{address: "127.0.0.1:{port}"}}]\n'
        "admin: {address: off}\n"
        f'registries: [{{name: upstream, v2: "{upstream}"}}]\n'
        f"log: {{access: {'true' if access_log else 'false'}}}\n"
    )
    binary = os.environ.get("ROADSTEAD", REPOSITORY / "target/dist/roadstead")
    command = [binary, "serve", "-c", "roadstead.yaml"]
    return Server(name, here, command, port, quiet=access_log)


def nginx(root, upstream, tls):
    here, port = folder(root, "nginx"), free_port()
    (here / "nginx.conf").write_text(NGINX.format(here=here, port=port, upstream=upstream, tls=tls))
    command = [program("nginx"), "-e", "stderr", "-p", str(here), "-c", str(here / "nginx.conf")]
    return Server("nginx", here, command, port)


NGINX = """
daemon off;
worker_processes auto;
pid {here}/pid;
error_log stderr error;
events {{ worker_connections 1024; }}
http {{
    sendfile on;
    tcp_nopush on;
    access_log off;
    keepalive_requests 100000000;
    client_body_temp_path {here}/body;
    proxy_temp_path {here}/temporary;
    fastcgi_temp_path {here}/unused;
    uwsgi_temp_path {here}/unused;
    scgi_temp_path {here}/unused;
    proxy_cache_path {here}/cache keys_zone=cache:10m max_size=10g use_temp_path=off;
    server {{
        listen 127.0.0.1:{port} ssl http2;
        ssl_certificate {tls[0]};
        ssl_certificate_key {tls[1]};
        ssl_protocols TLSv1.2 TLSv1.3;
        location / {{
            proxy_pass {upstream};
            proxy_cache cache;
            proxy_cache_valid 200 1h;
            proxy_cache_lock on;
            proxy_cache_key $request_method$uri$http_accept;
            add_header X-Cache $upstream_cache_status;
        }}
    }}
}}
"""


# ---- measuring ----


def warm_up(server, trust, path, digest):
    """Asks twice, and checks what comes."""
    request = urllib.request.Request(server.url + path, headers={"Accept": oci.MANIFEST})
    for _ in range(2):
        with urllib.request.urlopen(request, context=trust, timeout=60) as answer:
            known = hashlib.sha256()
            while piece := answer.read(1 << 20):
                known.update(piece)
            if "sha256:" + known.hexdigest() != digest:
                sys.exit(f"{server.name} gave something else for {path}")
            state = answer.headers.get("Cache-Status") or answer.headers.get("X-Cache") or "hit"
    if "hit" not in state.lower():
        sys.exit(f"{server.name} does not cache {path}: {state}")


def measured(server, command):
    """Runs a load generator; (its output, CPU seconds of the server)."""
    if time.monotonic() > DEADLINE:
        sys.exit("the benchmark takes too long; it was given up")
    before = server.cpu()
    done = subprocess.run(command, capture_output=True, text=True, timeout=SECONDS + 30)
    used = server.cpu() - before
    if done.returncode != 0:
        sys.exit(f"{' '.join(command)}\n{done.stdout}{done.stderr}")
    return done.stdout, max(used, TICK)


LUA = """
done = function(summary)
    local errors = summary.errors
    local bad = errors.connect + errors.read + errors.write + errors.status
    print("SUM", summary.requests, summary.bytes, summary.duration / 1e6, bad)
end
"""


def wrk(server, root, connections, path, *more):
    """(requests, bytes, seconds, CPU seconds)"""
    threads = min(connections, 2)
    command = [
        *(program("wrk"), f"-t{threads}", f"-c{connections}", f"-d{SECONDS}s", "--timeout", "20s"),
        *("-s", str(root / "sum.lua"), *more, server.url + path),
    ]
    out, cpu = measured(server, command)
    requests, size, seconds, bad = map(float, re.search(r"SUM\s+(.*)", out)[1].split())
    if bad:
        sys.exit(f"{server.name}: {bad:.0f} requests failed\n{out}")
    return requests, size, seconds, cpu


def blob(connections):
    def measure(server, root, paths):
        _, size, seconds, cpu = wrk(server, root, connections, paths["blob"])
        return cpu / (size / 1e9), size / 1e9 / seconds

    return measure


def manifest_h1(server, root, paths):
    requests, _, seconds, cpu = wrk(server, root, 32, paths["manifest"], "-H", ACCEPT)
    return cpu / (requests / 1e5), requests / seconds


def manifest_h2(server, _, paths):
    command = [
        *(program("h2load"), "-t2", "-c8", "-m4", f"--duration={SECONDS}", "-H", ACCEPT),
        server.url + paths["manifest"],
    ]
    out, cpu = measured(server, command)
    counted = re.search(r"requests: .* (\d+) done, (\d+) succeeded, (\d+) failed", out)
    done, good, failed = map(int, counted.groups())
    if failed or good != done or "h2" not in re.search(r"Application protocol: (.*)", out)[1]:
        sys.exit(f"{server.name}: {out}")
    return cpu / (done / 1e5), done / SECONDS


# What is measured: title, the command as one would type it, units, how.
BLOB_UNITS = ("CPU s/GB", "GB/s")
MANIFEST_UNITS = ("CPU s/100 k", "requests/s")
MEASURES = [
    (
        f"{BLOB_MIB} MiB blob, h1, 1 connection",
        f"wrk -t1 -c1 -d{SECONDS}s $URL/v2/{NAME}/blobs/$DIGEST",
        BLOB_UNITS,
        blob(1),
    ),
    (
        f"{BLOB_MIB} MiB blob, h1, 16 connections",
        f"wrk -t2 -c16 -d{SECONDS}s $URL/v2/{NAME}/blobs/$DIGEST",
        BLOB_UNITS,
        blob(16),
    ),
    (
        "2 KB manifest, h1, 32 connections",
        f"wrk -t2 -c32 -d{SECONDS}s -H '{ACCEPT}' $URL/v2/{NAME}/manifests/$DIGEST",
        MANIFEST_UNITS,
        manifest_h1,
    ),
    (
        "2 KB manifest, h2, 8 connections of 4 streams",
        f"h2load -t2 -c8 -m4 --duration={SECONDS} -H '{ACCEPT}' $URL/v2/{NAME}/manifests/$DIGEST",
        MANIFEST_UNITS,
        manifest_h2,
    ),
]
OURS = ("roadstead", "roadstead, log on")


def run(root, stack):
    """{(measure, server): [(cost, speed) of each round]}"""

    def started(server):
        stack.callback(server.stop)
        return server

    (root / "sum.lua").write_text(LUA)
    upstream = started(docker_registry("upstream", root, {}, free_port()))
    layout = root / "images"
    made = oci.add_image(layout, "app", [BLOB_MIB], MANIFEST_BYTES)
    copy = [program("skopeo"), "--insecure-policy", "copy", "--quiet", "--preserve-digests"]
    target = f"docker://127.0.0.1:{upstream.port}/{NAME}:1"
    subprocess.run([*copy, "--dest-tls-verify=false", f"oci:{layout}:app", target], check=True)
    shutil.rmtree(layout)

    keys = root / "keys"
    ours = [started(roadstead("roadstead", root, upstream.url, keys, access_log=False))]
    ours.append(started(roadstead("roadstead, log on", root, upstream.url, keys, access_log=True)))
    tls = (keys / "leaf.pem", keys / "leaf.key")
    pull_through = {"proxy": {"remoteurl": upstream.url}}
    servers = [
        *ours,
        started(nginx(root, upstream.url, tls)),
        started(docker_registry("docker-registry", root, pull_through, free_port(), tls)),
    ]

    digests = {"blob": made["layers"][0]["digest"], "manifest": made["digest"]}
    paths = {kind: f"/v2/{NAME}/{kind}s/{digest}" for kind, digest in digests.items()}
    trust = ssl.create_default_context(cafile=str(keys / "ca.pem"))
    for server in servers:
        for kind, path in paths.items():
            warm_up(server, trust, path, digests[kind])
    # docker-registry writes what it pulled through behind its answers.
    time.sleep(2)

    figures = {}
    for number in range(ROUNDS):
        for title, _, units, measure in MEASURES:
            for server in servers:
                if server.name == "roadstead, log on" and units == BLOB_UNITS:
                    continue
                print(f"round {number + 1}/{ROUNDS}  {title}: {server.name}", file=sys.stderr)
                figures.setdefault((title, server.name), []).append(measure(server, root, paths))
    return figures


# ---- the page ----


def digits(value):
    return f"{value:,.0f}" if value >= 100 else f"{value:.1f}" if value >= 10 else f"{value:.2f}"


def table(figures):
    lines = []
    for title, command, (cost_unit, speed_unit), _ in MEASURES:
        names = [name for known, name in figures if known == title]
        middle = {
            name: tuple(map(statistics.median, zip(*figures[title, name]))) for name in names
        }
        lines += [
            f"**{title}**: `{command}`",
            "",
            f"| | {cost_unit} | lowest to highest | {speed_unit} | roadstead's cost is |",
            "|---|---:|---:|---:|---:|",
        ]
        for name in names:
            cost, speed = middle[name]
            costs = [one for one, _ in figures[title, name]]
            ratio = "" if name in OURS else f"{digits(middle['roadstead'][0] / cost)} of it"
            span = f"{digits(min(costs))} to {digits(max(costs))}"
            lines.append(f"| {name} | {digits(cost)} | {span} | {digits(speed)} | {ratio} |")
        lines.append("")
    return "\n".join(lines)


def version(*command):
    found = re.search(r"v?(\d+\.\d+[\w.+~-]*)", said(*command))
    return found[1] if found else "unknown"


def conditions():
    cpu = re.search(r"model name\s*: (.*)", Path("/proc/cpuinfo").read_text())
    cpu = cpu[1] if cpu else platform.machine()
    kernel = ".".join(platform.release().split(".")[:2])
    system = platform.freedesktop_os_release().get("PRETTY_NAME", "Linux")
    versions = ", ".join(
        [
            f"roadstead {version(os.environ.get('ROADSTEAD', REPOSITORY / 'target/dist/roadstead'), '--version')}",
            f"nginx {version(program('nginx'), '-v')}",
            f"docker-registry {version(program('docker-registry'), '--version')}",
            f"wrk {version(program('wrk'), '-v')}",
            f"h2load {version(program('h2load'), '--version')}",
        ]
    )
    return (
        f"{datetime.date.today()}, {os.cpu_count()} cores of {cpu}, {system}, Linux {kernel}; {versions}. "
        f"Written by `make bench`: {ROUNDS} rounds in turn, {SECONDS} s each, medians; client and server "
        "share the cores, so that speed says less than cost."
    )


NOTES = """\
Cost is user + system CPU time of all processes of a server. All speak TLS 1.3 with the same P-256
certificate, in front of the same docker-registry, and everything asked for is cached; manifests are asked
for by digest.

- **roadstead**: its defaults but for `listen`, `admin`, `registries` and `log: {access: false}`; **log on**
  has its access log, to /dev/null. The other two log no requests.
- **nginx**: `proxy_cache` in one file per blob, Debian's `sendfile on; tcp_nopush on`, `worker_processes
  auto`, `access_log off`, no limit of requests per connection.
- **docker-registry**: `proxy.remoteurl`, `blobdescriptor: inmemory`, log level error, no access log.
"""

INTRODUCTION = f"""\
# Benchmarks

What a warm answer costs, beside what one would use instead. Ratios from one run on one machine are what
counts; `make bench` makes this page on yours.

{BEGIN}
{END}
"""


def write(text, begin, end, introduction):
    """Puts a text where it was last time."""
    page = PAGE.read_text() if PAGE.exists() else INTRODUCTION
    if begin not in page:
        page += f"\n{introduction}\n\n{begin}\n{end}\n"
    before, rest = page.split(begin, 1)
    _, after = rest.split(end, 1)
    PAGE.write_text(f"{before}{begin}\n{text}{end}{after}")


def large_store():
    binary = os.environ.get("ROADSTEAD", REPOSITORY / "target/dist/roadstead")
    root = Path(tempfile.mkdtemp(prefix="bench-"))
    with contextlib.ExitStack() as stack:
        # Ten times faster than shutil.rmtree for a million files.
        stack.callback(subprocess.run, ["rm", "-rf", str(root)], check=False)
        text, problems = large.run(root, stack, binary, program("wrk"), free_port)
    text = f"{datetime.date.today()}, by `scripts/bench.py large`:\n\n{text}\n"
    print(text)
    write(text, *LARGE, "## A large store")
    if problems:
        sys.exit("too slow or too large: " + "; ".join(problems))


def main():
    load = os.getloadavg()[0]
    root = Path(tempfile.mkdtemp(prefix="bench-"))
    root.chmod(0o755)
    with contextlib.ExitStack() as stack:
        stack.callback(shutil.rmtree, root, ignore_errors=True)
        figures = run(root, stack)
    busy = f" The machine was busy with something else too (load {load:.1f}).\n" if load > 0.5 else "\n"
    text = f"{conditions()}{busy}\n{table(figures)}\n{NOTES}"
    print(text)
    write(text, BEGIN, END, "")


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    large_store() if sys.argv[1:] == ["large"] else main()
