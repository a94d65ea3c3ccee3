"""Load generators: wrk, h2load and curl, each with what it found out."""

import concurrent.futures
import dataclasses
import hashlib
import http.client
import re
import socket
import ssl
import subprocess
import tempfile
import time
from pathlib import Path
from urllib.parse import urlsplit

from .content import MANIFEST
from .processes import TICKS, Failed, program, run

ACCEPT = f"Accept: {MANIFEST}"

LUA = """
done = function(summary)
    local errors = summary.errors
    local bad = errors.connect + errors.read + errors.write + errors.status
    print("SUM", summary.requests, summary.bytes, summary.duration / 1e6, bad)
end
"""


@dataclasses.dataclass
class Load:
    """What a generator did, and the server's CPU seconds meanwhile."""

    requests: int
    bytes: float
    seconds: float
    cpu: float

    def per_gb(self):
        """CPU s/GB, GB/s"""
        return self.cpu / (self.bytes / 1e9), self.bytes / 1e9 / self.seconds

    def per_100k(self):
        """CPU s/100 k requests, requests/s"""
        return self.cpu / (self.requests / 1e5), self.requests / self.seconds


class Cpu:
    """Counts a server's CPU time: `with Cpu(server) as used: …`, then `used.seconds`. It waits for `settle` seconds at
    the end, for work that a server does behind its answers."""

    def __init__(self, server, settle=0.0):
        self.server, self.settle = server, settle

    def __enter__(self):
        self.before = self.server.cpu()
        return self

    def __exit__(self, *_):
        time.sleep(self.settle)
        # A tick is the least that can be seen.
        self.seconds = max(self.server.cpu() - self.before, 1 / TICKS)


def wrk(server, url, connections, seconds, headers=(), lua=""):
    more = [word for header in headers for word in ("-H", header)]
    with tempfile.TemporaryDirectory(prefix="bench-wrk-") as folder:
        script = Path(folder) / "sum.lua"
        script.write_text(lua + LUA)
        threads = min(connections, 2)
        with Cpu(server) as used:
            out = run(
                *(program("wrk"), f"-t{threads}", f"-c{connections}", f"-d{seconds}s", "--timeout", "20s"),
                *("-s", script, *more, url),
                timeout=seconds + 60,
            )
    requests, size, took, bad = map(float, re.search(r"SUM\s+(.*)", out)[1].split())
    if bad or not size:
        raise Failed(f"{server.name}: {bad:.0f} of {requests:.0f} requests failed\n{out}")
    return Load(int(requests), size, took, used.seconds)


def h2load(server, url, *arguments, protocol="h2", seconds=None):
    """`arguments` without `seconds` must end by themselves (`-n`)."""
    timed = [f"--duration={seconds}"] if seconds else []
    kind = ["--h1"] if protocol == "http/1.1" else []
    with Cpu(server) as used:
        out = run(program("h2load"), *arguments, *timed, *kind, url, timeout=(seconds or 60) + 60)
    done, good, failed = map(int, re.search(r"requests: .* (\d+) done, (\d+) succeeded, (\d+) failed", out).groups())
    spoken = re.search(r"Application protocol: (.*)", out)
    if failed or good != done or not done or (url.startswith("https") and spoken[1] != protocol):
        raise Failed(f"{server.name}: {out}")
    size = int(re.search(r"traffic: .*\((\d+)\) total", out)[1])
    took = float(seconds) if seconds else h2load_seconds(out)
    return Load(done, size, took, used.seconds)


def h2load_seconds(out):
    value, unit = re.search(r"finished in ([\d.]+)(ms|us|s)", out).groups()
    return float(value) * {"s": 1, "ms": 1e-3, "us": 1e-6}[unit]


def new_connections(server, url, ca, tls, seconds, threads=4):
    """A full handshake with TLS `tls` for each request. wrk cannot: with `Connection: close` it resumes sessions."""
    where = urlsplit(url)
    trust = trusting(ca)
    trust.minimum_version = trust.maximum_version = tls
    request = f"GET {where.path} HTTP/1.1\r\nHost: {where.netloc}\r\n{ACCEPT}\r\nConnection: close\r\n\r\n".encode()
    until = time.monotonic() + seconds

    def client():
        requests = size = 0
        while time.monotonic() < until:
            plain = socket.create_connection((where.hostname, where.port), 20)
            with trust.wrap_socket(plain, server_hostname=where.hostname) as connection:
                connection.sendall(request)
                answer = b""
                while piece := connection.recv(1 << 16):
                    answer += piece
            if not answer.startswith(b"HTTP/1.1 200"):
                raise Failed(f"{server.name}: {answer[:200]!r}")
            requests += 1
            size += len(answer)
        return requests, size

    started = time.monotonic()
    with Cpu(server) as used, concurrent.futures.ThreadPoolExecutor(threads) as pool:
        counts = [one.result() for one in [pool.submit(client) for _ in range(threads)]]
    requests, sizes = map(sum, zip(*counts))
    return Load(requests, sizes, time.monotonic() - started, used.seconds)


@dataclasses.dataclass
class Download:
    seconds: float
    """From the start of the request to the first byte of the answer, without connecting and TLS."""
    first_byte: float


def curl(url, ca, *arguments, size=None, timeout=120):
    """One transfer. `size`: as many bytes must come."""
    form = "%{time_pretransfer} %{time_starttransfer} %{time_total} %{size_download}\n"
    command = ["curl", "--silent", "--show-error", "--fail", "--cacert", str(ca), "-o", "/dev/null", "-w", form]
    out = run(*command, *arguments, url, timeout=timeout)
    ready, first, total, received = map(float, out.split())
    if size is not None and received != size:
        raise Failed(f"{url}: {received:.0f} bytes instead of {size}")
    return Download(total, first - ready)


def in_background(url, ca, *arguments):
    """A curl that the caller ends."""
    command = ["curl", "--silent", "--cacert", str(ca), "-o", "/dev/null", *arguments, url]
    return subprocess.Popen(command, stdin=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def together(commands, timeout):
    """Runs commands at once; seconds until the last has ended."""
    started = time.monotonic()
    running = [subprocess.Popen(one, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE) for one in commands]
    try:
        for one in running:
            left = max(timeout - (time.monotonic() - started), 0.1)
            _, errors = one.communicate(timeout=left)
            if one.returncode != 0:
                raise Failed(f"{one.args}: {errors.decode()[-1000:]}")
    except subprocess.TimeoutExpired as late:
        raise Failed(f"{late.cmd}: not done after {timeout} s") from late
    finally:
        for one in running:
            if one.poll() is None:
                one.kill()
                one.wait()
    return time.monotonic() - started


def trusting(ca):
    """A TLS context for clients that trust the servers' certificate."""
    return ssl.create_default_context(cafile=str(ca))


def connect(url, ca):
    where = urlsplit(url)
    if where.scheme == "https":
        return http.client.HTTPSConnection(where.netloc, context=trusting(ca), timeout=60)
    return http.client.HTTPConnection(where.netloc, timeout=60)


def warm_up(server, ca, paths, digests, **headers):
    """Requests everything until it comes from the cache, and checks the bytes."""
    for name, path in paths.items():
        state = ""
        for attempt in range(3):
            client = connect(server.urls["https"], ca)
            client.request("GET", path, headers={"Accept": MANIFEST, **headers})
            answer = client.getresponse()
            known = hashlib.sha256()
            while piece := answer.read(1 << 20):
                known.update(piece)
            client.close()
            if "sha256:" + known.hexdigest() != digests[name]:
                raise Failed(f"{server.name} sent something else for {path}: {answer.status}")
            # docker-registry does not say where an answer comes from.
            state = answer.headers.get("Cache-Status") or answer.headers.get("X-Cache") or "hit"
            if attempt and "hit" in state.lower():
                break
            time.sleep(0.2)
        else:
            raise Failed(f"{server.name} does not cache {path}: {state}")
    # docker-registry's two listeners have a cache each.
    if "http" in server.urls and server.name == "docker-registry":
        for path in paths.values():
            client = connect(server.urls["http"], ca)
            client.request("GET", path, headers={"Accept": MANIFEST})
            client.getresponse().read()
            client.close()


def h2load_log(server, url, arguments, seconds, during):
    """A run of HTTP/1.1 with a log: [(start in s since the epoch, latency in s)], and what `during` returns, which
    is called meanwhile."""
    with tempfile.TemporaryDirectory(prefix="bench-log-") as folder:
        log = Path(folder) / "log"
        command = [program("h2load"), "--h1", *arguments, f"--duration={seconds}", f"--log-file={log}", url]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        try:
            result = during()
            out, errors = process.communicate(timeout=seconds + 60)
        finally:
            if process.poll() is None:
                process.kill()
                process.wait()
        if process.returncode != 0 or " 0 failed, 0 errored" not in out:
            raise Failed(f"{server.name}: {out}{errors}")
        rows = [line.split("\t") for line in log.read_text().splitlines()]
        return [(int(row[0]) / 1e6, int(row[2]) / 1e6) for row in rows], result
