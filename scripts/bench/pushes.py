"""A push of one large blob in a single PUT, through Roadstead and through nginx, to the same docker-registry."""

import contextlib
import re
from urllib.parse import urlsplit

from . import content, load, servers
from .figures import Group, Measure, alternate, at_most
from .processes import Failed
from .processes import run as output_of

SIZE_MIB = 1024


def push(bench, server, file, digest, protocol):
    """(CPU s/GB, seconds)"""
    login = ["--user", f"{servers.USER}:{servers.PASSWORD}"] if server.name == "roadstead" else []
    common = ["curl", "--silent", "--show-error", "--fail", f"--{protocol}", "--cacert", str(bench.ca), *login]
    # Both requests are part of a push.
    with load.Cpu(server, settle=0.2) as used:
        opened = output_of(
            *(*common, "-X", "POST", "-o", "/dev/null", "-D", "-"),
            f"{server.urls['https']}/v2/{content.NAME}/blobs/uploads/",
        )
        location = re.search(r"(?im)^location: (\S+)", opened)
        if not location:
            raise Failed(f"{server.name}: no Location in {opened}")
        where = urlsplit(location[1])
        url = f"{server.urls['https']}{where.path}?{where.query}&digest={digest}"
        form = "%{http_code} %{http_version} %{time_total}"
        kind = "Content-Type: application/octet-stream"
        out = output_of(*common, "-H", kind, "-T", str(file), "-w", form, url, timeout=120)
    status, version, seconds = out.split()[-3:]
    if status != "201" or version != {"http1.1": "1.1", "http2": "2"}[protocol]:
        raise Failed(f"{server.name}: status {status}, HTTP/{version}")
    return used.seconds / (SIZE_MIB * content.MIB / 1e9), float(seconds)


@contextlib.contextmanager
def subjects(bench):
    """({name: server}, file, its digest): an upstream, both in front of it, and what is pushed."""
    with contextlib.ExitStack() as stack:
        enter = stack.enter_context
        upstream = enter(servers.docker_registry(bench.root, name="upstream")).urls["http"]
        started = {
            "roadstead": enter(servers.roadstead(bench.root, upstream, bench.keys, actions=("pull", "push"))),
            "nginx": enter(servers.nginx(bench.root, upstream, bench.keys, push=True)),
        }
        body = content.blob("push", SIZE_MIB * content.MIB)
        digest = content.digest(body)
        file = bench.root / "push"
        file.write_bytes(body)
        del body
        stack.callback(file.unlink)
        yield started, file, digest


def run(bench):
    with subjects(bench) as (started, file, digest):

        def measure(protocol, title):
            def take(server):
                return push(bench, server, file, digest, protocol)

            return Measure(
                f"Push of {SIZE_MIB} MiB in one PUT, TLS, {title}",
                f"curl --{protocol} -T $FILE $URL$LOCATION",
                ("CPU s/GB", "s"),
                take,
            )

        measures = [measure("http1.1", "HTTP/1.1"), measure("http2", "HTTP/2")]
        alternate(bench, measures, started)
    targets = [at_most(f"{one.title}: CPU of roadstead / nginx", one.ratio(), 1.0) for one in measures]
    return Group("Pushes", measures, targets, "nginx has `proxy_request_buffering off`.\n")
