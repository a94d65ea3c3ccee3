"""The servers that are compared: Roadstead, nginx, Debian's docker-registry, and Varnish behind Hitch.

Each function starts one in front of `upstream`, the URL of a registry, with the certificate in `keys`.
"""

import base64
import hashlib
import json
import os
from pathlib import Path

from . import nginx as nginx_conf
from .processes import REPOSITORY, Failed, Server, free_port, program

USER, PASSWORD = "bench", "bench-password"

NOTES = """\
All servers stand in front of the same upstream and show the same P-256 certificate. TLS is 1.3 with the client's first
choice of ciphers, which is AES-GCM, unless a measure says otherwise. Nothing but loopback is used, and clients, servers
and upstream share the cores: cost says more than speed. Cost is user and system CPU time of all processes of a server,
from /proc. Ratios to a server are medians of the rounds' own ratios.

- **roadstead**: its defaults but for `keys`, `listen`, `admin`, `store.min_free`, `registries` and `log: {access: false}`;
  **log on** writes its access log, to /dev/null. The others log no requests.
- **nginx**: the strongest that we could make by its documents: `proxy_cache` without a temporary path, a worker for
  each core and bound to it, `reuseport`, `open_file_cache`, `sendfile`, `tcp_nopush`, `output_buffers` and HTTP/2 chunks
  of the sizes that cost least (128 and 16 KiB), a shared session cache, unlimited requests per connection, connections
  to the upstream that stay open. `aio threads` costs more for what is in the page cache.
- **docker-registry**: `proxy.remoteurl`, `blobdescriptor: inmemory`, log level error, no access log.
- **varnish**: the whole cache in memory (`malloc`), TLS by Hitch with a worker for each core, which speaks the PROXY
  protocol to Varnish over loopback; the cost is that of both.
"""


def roadstead_binary():
    binary = Path(os.environ.get("ROADSTEAD", REPOSITORY / "target/dist/roadstead"))
    if not binary.exists():
        raise Failed(f"{binary} is not built: scripts/build.sh --profile dist")
    return binary


def write_htpasswd(path):
    """One user, whose password is cheap to check."""
    hashed = base64.b64encode(hashlib.sha1(PASSWORD.encode()).digest()).decode()
    path.write_text(f"{USER}:{{SHA}}{hashed}\n")


def basic():
    """The Authorization header of the user of `write_htpasswd`."""
    return "Basic " + base64.b64encode(f"{USER}:{PASSWORD}".encode()).decode()


def roadstead(parent, upstream, keys, name="roadstead", access_log=False, actions=(), under=None):
    """`actions`: what `USER` may do, with a login; without any any client may pull, by default. `under(folder)`: a
    command that runs it, such as valgrind."""
    server = Server(name, parent)
    https, http = free_port(), free_port()
    configuration = (
        f"keys: {keys}\n"
        f'listen: [{{address: "127.0.0.1:{https}"}}, {{address: "127.0.0.1:{http}", tls: off}}]\n'
        "admin: {address: off}\n"
        "store: {path: store, min_free: off}\n"
        f'registries: [{{name: upstream, v2: "{upstream}", push: {json.dumps("push" in actions)}}}]\n'
        f"log: {{access: {json.dumps(access_log)}}}\n"
    )
    if actions:
        write_htpasswd(server.folder / "htpasswd")
        configuration += (
            "access:\n"
            "  htpasswd: htpasswd\n"
            f'  rules: [{{users: [{USER}], repositories: ["upstream/**"], actions: [{", ".join(actions)}]}}]\n'
        )
    (server.folder / "roadstead.yaml").write_text(configuration)
    command = [*(under(server.folder) if under else ()), roadstead_binary(), "serve", "-c", "roadstead.yaml"]
    server.start(command, https, http, log=None if access_log else "log")
    server.urls = {"https": f"https://127.0.0.1:{https}", "http": f"http://127.0.0.1:{http}"}
    return server


def certificate(keys):
    """The files of the certificate that Roadstead made in `keys`: (chain, key)."""
    return keys / "leaf.pem", keys / "leaf.key"


def nginx(parent, upstream, keys, push=False, under=None):
    """`under`: as for `roadstead`; there is one process then."""
    server = Server("nginx", parent)
    https, http = free_port(), free_port()
    text = nginx_conf.proxy(server.folder, (https, http), upstream, certificate(keys), push, alone=bool(under))
    start_nginx(server, text, https, http, under=under)
    server.urls = {"https": f"https://127.0.0.1:{https}", "http": f"http://127.0.0.1:{http}"}
    return server


def start_nginx(server, text, *ports, under=None):
    conf = server.folder / "nginx.conf"
    conf.write_text(text)
    prefix = under(server.folder) if under else ()
    server.start([*prefix, program("nginx"), "-e", "stderr", "-p", server.folder, "-c", conf], *ports)


def static_upstream(parent, tree, per_connection=None, proxied=None):
    """An nginx that is a registry by files: `tree` has them by their URL paths. `per_connection`: nginx's
    limit_rate. `proxied`: a registry that it fetches from instead."""
    server = Server("static", parent)
    port = free_port()
    start_nginx(server, nginx_conf.static(server.folder, port, tree, per_connection, proxied), port)
    server.urls = {"http": f"http://127.0.0.1:{port}"}
    return server


def docker_registry(parent, remote=None, keys=None, name="docker-registry"):
    """As an upstream, or with `remote` as its pull-through cache: over TLS with `keys`, and in plain HTTP."""
    server = Server(name, parent)
    schemes = ["https", "http"] if keys else ["http"]
    for scheme in schemes:
        port = free_port()
        config = {
            "version": "0.1",
            "log": {"level": "error", "accesslog": {"disabled": True}},
            "storage": {
                "filesystem": {"rootdirectory": str(server.folder / f"data-{scheme}"), "maxthreads": 100},
                "cache": {"blobdescriptor": "inmemory"},
            },
            "http": {"addr": f"127.0.0.1:{port}", "secret": "bench", "relativeurls": True},
        }
        if remote:
            config["proxy"] = {"remoteurl": remote}
        if scheme == "https":
            chain, key = certificate(keys)
            config["http"]["tls"] = {"certificate": str(chain), "key": str(key)}
        path = server.folder / f"{scheme}.yml"
        path.write_text(json.dumps(config))
        server.start([program("docker-registry"), "serve", path], port)
        server.urls[scheme] = f"{scheme}://127.0.0.1:{port}"
    return server


VCL = """\
vcl 4.1;
backend default {{ .host = "127.0.0.1"; .port = "{port}"; }}
sub vcl_hash {{ hash_data(req.url); hash_data(req.http.Accept); return (lookup); }}
sub vcl_recv {{ if (req.method == "GET" || req.method == "HEAD") {{ return (hash); }} }}
sub vcl_backend_response {{ set beresp.ttl = 1h; set beresp.do_stream = true; return (deliver); }}
sub vcl_deliver {{ if (obj.hits > 0) {{ set resp.http.X-Cache = "HIT"; }} else {{ set resp.http.X-Cache = "MISS"; }} }}
"""

HITCH = """\
frontend = "[127.0.0.1]:{https}"
backend = "[127.0.0.1]:{proxied}"
pem-file = "{pem}"
write-proxy-v2 = on
alpn-protos = "h2, http/1.1"
tls-protos = TLSv1.2 TLSv1.3
prefer-server-ciphers = off
workers = {workers}
backlog = 1024
daemon = off
{user}
"""


def varnish(parent, upstream, keys):
    server = Server("varnish", parent)
    https, proxied, http = free_port(), free_port(), free_port()
    (server.folder / "cache.vcl").write_text(VCL.format(port=upstream.rpartition(":")[2]))
    listeners = ["-a", f"127.0.0.1:{proxied},PROXY", "-a", f"127.0.0.1:{http}"]
    command = [
        *(program("varnishd"), "-F", "-j", "none", "-n", server.folder / "work", *listeners),
        *("-f", server.folder / "cache.vcl", "-s", "malloc,3g", "-T", "none"),
        *("-p", "feature=+http2", "-p", "h2_initial_window_size=1048576", "-p", "thread_pool_min=600"),
        # Each slow reader has a thread.
        *("-p", "thread_pool_max=1500", "-p", "thread_queue_limit=1000", "-p", "timeout_idle=600"),
    ]
    server.start(command, proxied, http)
    pem = server.folder / "hitch.pem"
    pem.write_text("".join(path.read_text() for path in reversed(certificate(keys))))
    user = 'user = "nobody"\ngroup = "nogroup"' if os.geteuid() == 0 else ""
    conf = server.folder / "hitch.conf"
    conf.write_text(HITCH.format(https=https, proxied=proxied, pem=pem, workers=os.cpu_count(), user=user))
    server.start([program("hitch"), f"--config={conf}"], https, log="hitch.log")
    server.urls = {"https": f"https://127.0.0.1:{https}", "http": f"http://127.0.0.1:{http}"}
    return server


def all_of(parent, upstream, keys):
    """Starters of the servers by name, for measures that need each of them new."""
    return {
        "roadstead": lambda: roadstead(parent, upstream, keys),
        "nginx": lambda: nginx(parent, upstream, keys),
        "docker-registry": lambda: docker_registry(parent, upstream, keys),
        "varnish": lambda: varnish(parent, upstream, keys),
    }
