"""Programs that are measured: starting them, their CPU time and memory, ending them."""

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import time
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parent.parent.parent
TICKS = os.sysconf("SC_CLK_TCK")
START_SECONDS = 60


class Failed(Exception):
    """A measure could not be taken. The others still are."""


def find(name):
    """The path of a program, or None."""
    return shutil.which(name, path=os.environ.get("PATH", "") + ":/usr/sbin:/sbin")


def program(name):
    path = find(name)
    if not path:
        raise Failed(f"{name} is not installed; scripts/real-parts.sh installs it")
    return path


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def run(*command, timeout=60):
    """Runs a program to its end and returns its standard output."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=timeout)
    except subprocess.TimeoutExpired as late:
        raise Failed(f"{' '.join(map(str, command))}: not done after {timeout} s") from late
    if done.returncode != 0:
        raise Failed(f"{' '.join(map(str, command))}:\n{done.stdout[-2000:]}{done.stderr[-2000:]}")
    return done.stdout


def process_tree(roots):
    """The ids of these processes and of all that descend from them, with their CPU ticks."""
    parents, ticks = {}, {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            # The name in parentheses may contain anything; the fields follow its end.
            fields = stat.read_text().rpartition(")")[2].split()
            process = int(stat.parent.name)
            parents[process] = int(fields[1])
            ticks[process] = int(fields[11]) + int(fields[12])
    found = {}
    for process in parents:
        ancestor = process
        while ancestor and ancestor not in roots:
            ancestor = parents.get(ancestor)
        if ancestor:
            found[process] = ticks[process]
    return found


class Server:
    """One or more programs that together are one server, in a folder of their own.

    `urls` maps the schemes that it serves to their base URLs. Leaving the context ends it.
    """

    # Every server of this run.
    servers = []

    def __init__(self, name, parent, folder=None):
        Server.servers.append(self)
        self.name = name
        self.urls = {}
        self.processes = []
        self.folder = Path(parent) / (folder or f"{name}-{free_port()}")
        self.folder.mkdir()
        # nginx and varnish give up root's rights.
        self.folder.chmod(0o777)

    def start(self, command, *ports, log="log", seconds=START_SECONDS):
        """Starts a program and waits until it accepts connections on these ports."""
        path = self.folder / log if log else Path(os.devnull)
        with path.open("a") as output:
            process = subprocess.Popen(
                [str(part) for part in command],
                cwd=self.folder,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )
        self.processes.append(process)
        until = time.monotonic() + seconds
        for port in ports:
            while not accepts(port):
                if process.poll() is not None or time.monotonic() > until:
                    tail = path.read_text()[-2000:] if log else ""
                    self.stop()
                    raise Failed(f"{self.name} does not start:\n{tail}")
                time.sleep(0.02)
        return process

    def cpu(self):
        """User and system CPU seconds of all its processes so far."""
        return sum(process_tree({one.pid for one in self.processes}).values()) / TICKS

    def threads(self):
        """{thread name: (seconds that it ran, seconds that it could have run and waited for a core)}, those of one name
        together."""
        found = {}
        for process in process_tree({one.pid for one in self.processes}):
            for task in Path(f"/proc/{process}/task").glob("*"):
                # A thread may have ended.
                with contextlib.suppress(OSError):
                    running, waiting, _ = map(int, (task / "schedstat").read_text().split())
                    name = (task / "comm").read_text().strip()
                    before = found.get(name, (0.0, 0.0))
                    found[name] = (before[0] + running / 1e9, before[1] + waiting / 1e9)
        return found

    def memory(self):
        """Resident MiB of all its processes. File mappings, which they share, count once."""
        own, shared = 0, [0]
        for process in process_tree({one.pid for one in self.processes}):
            with contextlib.suppress(OSError):
                status = Path(f"/proc/{process}/status").read_text()
                size = dict(line.split(":", 1) for line in status.splitlines())
                kib = {key: int(size.get(key, "0 kB").split()[0]) for key in ("RssAnon", "RssFile", "RssShmem")}
                own += kib["RssAnon"]
                shared.append(kib["RssFile"] + kib["RssShmem"])
        return (own + max(shared)) / 1024

    def stop(self):
        for process in reversed(self.processes):
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGTERM)
            try:
                process.wait(5)
            except subprocess.TimeoutExpired:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
                process.wait()
        self.processes.clear()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.stop()
        # A cold server's store is not needed any more, and there are many of them.
        subprocess.run(["rm", "-rf", str(self.folder)], check=False)


def stop_all():
    """Ends what a failure, or the end of this program, has left running."""
    for server in Server.servers:
        server.stop()


def accepts(port):
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
        return True
    return False
