"""The gateway that the mock shows: 1,000 repositories, some with names that hurt, fills that progress, a log.

Everything is a function of the time since start, of a seed, and of what was purged and pinned.
"""

import hashlib
import itertools
import threading
import time
import zlib
from datetime import datetime, timedelta, timezone

INDEX = "application/vnd.oci.image.index.v1+json"
MANIFEST = "application/vnd.oci.image.manifest.v1+json"
CONFIG = "application/vnd.oci.image.config.v1+json"
LAYER = "application/vnd.oci.image.layer.v1.tar+gzip"
MIB = 1 << 20
REPOSITORIES = 1_000

SCRIPT = "<script>window.broken=1</script>"
SPECIAL = [
    ("docker.io", "library/alpine"), ("docker.io", "library/postgres"), ("docker.io", "library/node"),
    ("docker.io", "library/golang"), ("docker.io", "grafana/grafana"), ("ghcr.io", "cloudnative-pg/postgresql"),
    ("quay.io", "prometheus/prometheus"), ("registry.k8s.io", "kube-apiserver"), ("hosted", "team/bestellübersicht"),
    ("hosted", "größenprüfung/straße-öl-äpfel"), ("hosted", "team/" + "very-long-name-of-a-component/" * 7 + "end"),
    ("hosted", "w" * 255), ("hosted", SCRIPT), ("hosted", '"><img src=x onerror="window.broken=1">'),
    ("hosted", "javascript:window.broken=1"), ("hosted", "team/\u202egnp.exe"), ("hosted", "{{7*7}}'\"`&amp;</td></table>"),
]
REGISTRIES = ["docker.io", "ghcr.io", "quay.io", "registry.k8s.io", "hosted"]
PLATFORMS = ["linux/amd64", "linux/arm64", "linux/arm/v7", None]


def digest(*parts):
    return "sha256:" + hashlib.sha256("/".join(map(str, parts)).encode()).hexdigest()


def number(top, *parts):
    """The same number below `top` for the same parts."""
    return zlib.crc32("/".join(map(str, parts)).encode()) % top


def at(ago=0.0, now=None):
    moment = datetime.fromtimestamp(now or time.time(), timezone.utc) - timedelta(seconds=ago)
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def question(registry, repository, tag, user, address):
    """What `/api/v1/explain` is asked about the same pull."""
    asked = {"image": f"{registry}/{repository}:{tag}", "from": address, "ask": False}
    return asked if user in (None, "anonymous") else {**asked, "as": user}


GATES = {
    "banned/tool": {"mode": "enforce", "decision": "denied", "rule": "deny", "because": 'Denied by the gate rule deny: quay.io/banned/tool:1 matches "banned/**"'},
    "team/moving": {"mode": "enforce", "decision": "held-back", "rule": "min_age", "because": "quay.io/team/moving:latest moved less than 3d ago: its target of before is served"},
}


class Missing(Exception):
    """It is not in the cache."""


class Model:
    def __init__(self):
        self.lock = threading.RLock()
        self.started = time.time()
        self.purged, self.pins, self.pulls = set(), {}, []
        self.repositories = sorted(self._repositories(), key=lambda row: (row["registry"], row["repository"]))
        self.orders = {
            "name": self.repositories,
            "pulls": sorted(self.repositories, key=lambda row: -row["pulls"]),
            "size": sorted(self.repositories, key=lambda row: -row["cached_bytes"]),
            "recent": sorted(self.repositories, key=lambda row: row["_ago"]),
        }
        self.pin("docker.io/library/alpine:3.20", "base of every build – nicht löschen")
        self.log, self.ids = [], itertools.count(1)
        for _ in range(300):
            self.write_line()

    def _repositories(self):
        for index in range(REPOSITORIES):
            if index < len(SPECIAL):
                registry, name = SPECIAL[index]
            else:
                registry, name = REGISTRIES[index % 5], f"project-{index % 977:03}/service-{index:06}"
            known = index < 8
            pulls = 4000 - index * 390 + number(90, index) if known else number(400, "pulls", index)
            yield {"registry": registry, "repository": name, "tags": 1 + number(40, index), "manifests": 1 + number(90, index),
                   "cached_bytes": (9 - index) * 1700 * MIB if known else 1 + number(900 * MIB, "size", index), "pulls": pulls,
                   "last_used_at": at(number(30 * 86400, "used", index)), "pinned": False, "_ago": number(30 * 86400, "used", index)}

    # Repositories

    def listed(self, registry=None, q="", sort="name"):
        words = q.lower().split()
        for row in self.orders[sort]:
            name = f"{row['registry']}/{row['repository']}"
            if name in self.purged or (registry and row["registry"] != registry):
                continue
            if all(word in name.lower() for word in words):
                pinned = any(image.startswith((name + ":", name + "@")) for image in self.pins)
                yield {key: value for key, value in row.items() if key[0] != "_"} | {"pinned": pinned}

    def find(self, registry, repository):
        name = f"{registry}/{repository}"
        for row in self.repositories:
            if (row["registry"], row["repository"]) == (registry, repository) and name not in self.purged:
                return name, row
        raise Missing(f"{name} is not in the cache")

    def tags(self, registry, repository, q=""):
        name, row = self.find(registry, repository)
        named = ["latest", "3.20", "3.19", "17", "17-alpine"] + [f"v{n // 10}.{n % 10}.{number(9, n)}" for n in range(row["tags"])]
        for tag in sorted(set(named)):
            if f"{name}:{tag}" in self.purged or q.lower() not in tag:
                continue
            age = number(900, name, tag)
            yield {"tag": tag, "digest": digest(name, tag), "media_type": INDEX, "checked_at": at(age), "fresh_until": at(age - 600),
                   "state": "fresh" if age < 600 else "stale", "last_used_at": at(number(86400 * 9, name, tag)), "pinned": f"{name}:{tag}" in self.pins}

    def manifest(self, registry, repository, reference):
        name, _ = self.find(registry, repository)
        tags = [tag for tag in self.tags(registry, repository) if reference in (tag["tag"], tag["digest"])]
        if not tags:
            raise Missing(f"{name}:{reference} is not in the cache")
        tag = tags[0]
        separator = "@" if ":" in reference else ":"
        image = f"{name}{separator}{reference}"
        host = "gateway.example:5000"
        commands = [("docker", f"docker pull {host}/{image}", None), ("podman", f"podman pull {host}/{image}", None),
                    ("skopeo", f"skopeo copy docker://{host}/{image} dir:image", None),
                    ("containerd", f"ctr image pull --hosts-dir /etc/containerd/certs.d {image}", f"needs /etc/containerd/certs.d/{registry}/hosts.toml"),
                    ("crane", f"crane pull {host}/{image} image.tar", None)]
        return {"registry": registry, "repository": repository, "reference": reference, "digest": tag["digest"], "media_type": INDEX, "artifact_type": None,
                "size_bytes": 9218, "checked_at": tag["checked_at"], "last_used_at": tag["last_used_at"], "subject": None, "pinned": image in self.pins,
                "tags": [tag["tag"]], "annotations": {"org.opencontainers.image.authors": "Jörg Müßiggang <jörg@example.org>", "html": SCRIPT},
                "images": [self.image(name, reference, platform) for platform in PLATFORMS], "images_total": 4,
                "pull_commands": [dict(zip(("client", "command", "note"), command)) for command in commands]}

    def image(self, name, reference, platform):
        here = platform == "linux/amd64"
        part = {"linux/arm64": "partial", "linux/arm/v7": "missing"}.get(platform, "present")
        layers = [self.blob(name, reference, platform, index, part if index > 1 else "present") for index in range(5)]
        config = {**self.blob(name, reference, platform, "config", "present"), "media_type": CONFIG, "size_bytes": 4710, "cached_bytes": 4710}
        if part == "missing":
            config, layers = None, []
        whole = [config, *layers] if config else []
        return {"digest": digest(name, reference, platform), "media_type": MANIFEST, "size_bytes": 1022 if here else 1101, "platform": platform,
                "artifact_type": None if platform else "application/vnd.in-toto+json", "state": "missing" if part == "missing" else "present", "linked": part != "missing", "config": config, "layers": layers,
                "total_bytes": sum(blob["size_bytes"] for blob in whole) if whole and "library/node" not in name else None, "cached_bytes": sum(blob["cached_bytes"] for blob in whole)}

    @staticmethod
    def blob(name, reference, platform, index, state):
        size = 1 + number(90 * MIB, name, index)
        return {"digest": digest(name, reference, platform, index), "media_type": LAYER, "size_bytes": size, "state": state, "linked": index != 4,
                "cached_bytes": {"present": size, "partial": size // 3}.get(state, 0), "last_used_at": at(number(86400, name, index))}

    # Actions

    def pin(self, image, note):
        self.pins[image] = {"image": image, "pinned_at": at(), "note": note, "total_bytes": 61 * MIB, "cached_bytes": 61 * MIB}
        return self.pins[image]

    def purge(self, target, dry_run):
        if not dry_run:
            with self.lock:
                self.purged.add(target)
                self.pins.pop(target, None)
        return {"dry_run": dry_run, "tags": 1, "manifests": 5, "blobs": 12, "other_records": 0, "files": 14, "freed_bytes": 312 * MIB, "shared_files": 3,
                "names": [target], "names_left_off": 17}

    def pull(self, image):
        """A pull by a client: a fill of 40 MiB that takes about ten seconds."""
        registry, _, rest = image.partition("/")
        repository, _, tag = rest.rpartition(":")
        self.pulls.append((registry, repository, tag, time.time()))

    # What moves

    def fills(self):
        with self.lock:
            self.pulls = [pull for pull in self.pulls if time.time() - pull[3] < 12]
            own = [self._fill(*pull[:3], time.time() - pull[3], 40 * MIB, 4 * MIB, 2) for pull in self.pulls]
        now = time.time() - self.started
        running = [self._fill("docker.io", "library/postgres", "17", now % 45 + 1, 108 * MIB, 2.6 * MIB, 6),
                   self._fill("ghcr.io", "cloudnative-pg/postgresql", "16", (now + 20) % 80 + 1, 412 * MIB, 5.3 * MIB, 1),
                   {**self._fill("hosted", "team/" + "very-long-name-of-a-component/" * 7 + "end", "1", 3, None, 0.9 * MIB, 0), "resumed_from_bytes": 3 * MIB},
                   {**self._fill("hosted", "größenprüfung/straße-öl-äpfel", "neu", 4, 7 * MIB, 0, 1), "phase": "waiting", "fetched_bytes": 0,
                    "bytes_per_second": 0, "remaining_seconds": None}]
        return own + running

    @staticmethod
    def _fill(registry, repository, tag, age, size, speed, readers):
        fetched = int(age * speed) if size is None else min(size, int(age * speed))
        phase = "verifying" if fetched == size else "streaming"
        return {"id": digest(registry, repository, "fill", tag), "kind": "blob", "digest": digest(registry, repository, "fill", tag), "registry": registry, "repository": repository,
                "phase": phase, "size_bytes": size, "fetched_bytes": fetched, "resumed_from_bytes": 0, "bytes_per_second": int(speed),
                "remaining_seconds": None if size is None or not speed else round((size - fetched) / speed, 1), "started_at": at(age),
                "readers_total": readers, "readers": [{"client": f"10.0.0.{21 + n}", "user": ["jürgen", None][n % 2]} for n in range(readers)]}

    def traffic(self, window, factor):
        requests = 1 + int(2.2 * window * factor) + number(5, int(time.time() / 2), window)
        hits = int(requests * 0.942)
        served = int(requests * 5.1 * MIB)
        fetched = int(served * 0.066)
        return {"window_seconds": window, "requests": requests, "hits": hits, "misses": requests - hits, "coalesced": (requests - hits) // 4,
                "hit_ratio": round(hits / requests, 4), "served_bytes": served, "fetched_bytes": fetched, "saved_bytes": served - fetched}

    def series(self, window):
        step, steps = (60, 60) if window == "hour" else (900, 96)
        now = time.time()
        end = now // step * step + step
        points = []
        for index in range(steps):
            if 30 <= index < 33:  # the gateway did not run
                continue
            key = int(end) // step - steps + index
            wave = 1.2 + abs((key % 24) - 12) / 12 + number(100, key) / 90
            requests = int(wave * step * 1.1)
            served = int(requests * 4.4 * MIB)
            fetched = int(served * (0.03 + number(100, key, "f") / 600)) + (served * 2 if index == 44 else 0)
            points.append({"at": at(now - (end - (steps - index) * step), now), "requests": requests, "hits": int(requests * (0.9 + number(9, key) / 100)),
                           "served_bytes": served, "fetched_bytes": fetched, "errors": number(3, key), "denials": number(2, key)})
        return {"window": window, "step_seconds": step, "from": at(now - end + steps * step, now), "to": at(now - end, now), "points": points}

    def overview(self, listeners, limit):
        up = int(time.time() - self.started) + 100_000
        store = {"used_bytes": 66_500_000_000 + int(time.time() - self.started) * 3 * MIB, "max_bytes": 100 << 30, "free_bytes": 210 << 30, "min_free_bytes": 25 << 30, "blobs": 481_204,
                 "partial_bytes": 50 * MIB, "record_bytes": 840 * MIB, "quarantine_bytes": 0, "pinned_bytes": 1229 * MIB, "evicted_blobs": 1200, "evicted_bytes": 41 << 30,
                 "writable": True, "scanning": False}
        pulls = {"requests": 70_000, "hits": 65_000, "misses": 5_000, "coalesced": 700, "served_bytes": 812_000_000_000, "fetched_bytes": 52_000_000_000}
        return {"at": at(), "version": "0.1.0", "started_at": at(up), "ready": True, "not_ready_because": None, "draining": False,
                "traffic": {"now": self.traffic(10, 1.4), "hour": self.traffic(3600, 1), "day": self.traffic(86400, 0.6)},
                "blobs": pulls, "manifests": pulls, "store": store, "fills_in_flight": len(self.fills()), "fills_limit": 64, "fills_resumed": 7, "verify_failures_upstream": 1, "verify_failures_disk": 0,
                "stale_served": {"unavailable": 12}, "bucket": None, "event_listeners": listeners, "event_listeners_limit": limit}

    def registries(self):
        quiet = {"state": "closed", "retry_at": None, "pause_seconds": None}
        failing = {"state": "open", "retry_at": at(-17), "pause_seconds": 30.0}
        hub = {"limit": 100, "remaining": 76, "window_seconds": 21600, "source": "203.0.113.7", "observed_at": at(30), "retry_at": None}
        rows = [("docker.io", "healthy", quiet, hub, 0.082, 0.31, None), ("ghcr.io", "limited", quiet, {**hub, "limit": 5000, "remaining": 12, "retry_at": at(-44)}, 0.041, 0.12, None),
                ("quay.io", "failing", failing, None, 0.4, 9.8, "no response headers within 10 s: Verbindung zurückgesetzt"),
                ("registry.k8s.io", "idle", quiet, None, None, None, None), ("hosted", "healthy", quiet, None, 0.003, 0.009, None)]
        accounts = lambda name, limit: ([{"name": None, "refused": False, "rate_limit": limit}] if name != "ghcr.io" else
            [{"name": "ci-1", "refused": False, "rate_limit": {**limit, "limit": 2500}}, {"name": "ci-2", "refused": True, "rate_limit": None}])
        for name, health, breaker, limit, p50, p95, failure in rows:
            latency = None if p50 is None else {"window_seconds": 300, "samples": 41, "p50_seconds": p50, "p95_seconds": p95}
            yield {"name": name, "aliases": [], "v2_url": f"https://{name}", "v1_url": None, "hosts": [], "default": name == "docker.io", "push": name == "hosted", "cache": True,
                   "bridge": False, "visibility": "rules" if name == "hosted" else "public", "health": health, "breaker": breaker, "rate_limit": limit, "latency": latency, "accounts": accounts(name, limit),
                   "requests": 0 if health == "idle" else 5210, "failures": 41 if failure else 0, "last_failure": failure and {"at": at(9), "message": failure},
                   "fills_in_flight": 1 if name == "docker.io" else 0, "fills_limit": 32}

    def evictions(self):
        for index in range(481_204):
            yield {"digest": digest("go", index), "kind": "layer", "size_bytes": 1 + number(200 * MIB, index), "last_used_at": at(29 * 86400 - index * 700)}

    def errors(self, kind=None, q=""):
        long = "team/" + "very-long-name-of-a-component/" * 7
        rows = [("denial", 403, "DENIED", "jürgen", "hosted", "team/bestellübersicht", "push", "no rule allows jürgen to push hosted/team/bestellübersicht", 6),
                ("error", 503, "UNAVAILABLE", None, "quay.io", "prometheus/prometheus", "pull", "the circuit breaker of quay.io is open: no response headers within 10 s", 44),
                ("denial", 401, "UNAUTHORIZED", "bäcker", None, None, "login", "wrong password, ninth attempt within a minute", 9),
                ("error", 502, "UNKNOWN", None, "hosted", SCRIPT, "pull", f"digest mismatch: expected {digest(1)}, received {digest(2)}", 1),
                ("denial", 403, "DENIED", None, "quay.io", "banned/tool", "pull", 'denied by the gate rule deny: quay.io/banned/tool:latest matches "banned/**"', 3),
                ("denial", 429, "TOOMANYREQUESTS", None, "ghcr.io", "cloudnative-pg/postgresql", "pull", "the registry limits requests until 14:12:31", 2)]
        for index in range(400):
            what, status, code, user, registry, repository, action, why, times = rows[index % 6]
            row = {"id": 900 - index, "kind": what, "first_at": at(index * 95 + 61), "last_at": at(index * 95 + 12), "count": times, "status": status, "code": code, "client": f"10.0.0.{index % 250}",
                   "user": None if why.startswith("wrong") else user, "refused_user": user if why.startswith("wrong") else None, "registry": registry, "repository": repository if index % 7 else (repository and long + "end"), "reference": None, "action": action, "reason": why, "explain": question(registry, repository, "latest", user, f"10.0.0.{index % 250}") if action == "pull" else None}
            if (kind in (None, "", what)) and all(word in str(row).lower() for word in q.lower().split()):
                yield row

    def write_line(self):
        index = next(self.ids)
        registry, repository = SPECIAL[number(len(SPECIAL), index)]
        status = [200, 200, 200, 206, 304, 404, 401, 503][number(8, "s", index)]
        content = number(3, index)
        path = f"/v2/{repository}/" + (f"blobs/{digest(index)}" if content else "manifests/latest")
        cache = ["hit; ttl=412", "hit", "fwd=uri-miss; stored", "fwd=stale; detail=revalidated"][number(4, "c", index)]
        line = {"id": index, "at": at(), "client": f"10.0.0.{number(40, index)}:{50000 + index % 9000}", "user": ["anonymous", "jürgen", "ci-runner"][number(3, index)], "method": "GET",
                "path": path[:512], "registry": registry, "repository": repository, "status": status, "sent_bytes": number(70 * MIB, index) if status < 300 else 120,
                "duration_seconds": number(4000, index) / 1000, "cache_status": cache, "upstream": None}
        line["explain"] = None if content else question(registry, repository, "latest", line["user"], line["client"].rsplit(":", 1)[0])
        self.log = [*self.log[-9999:], line]

    @staticmethod
    def matches(line, q, status):
        if status and not (str(line["status"]) == status or str(line["status"])[0] + "xx" == status):
            return False
        text = " ".join(str(line[key]) for key in ("client", "user", "method", "path", "registry", "status", "cache_status")).lower()
        return all(word in text for word in q.lower().split())

    def explain(self, asked):
        name = asked["image"]
        registry, _, rest = name.partition("/")
        repository, _, reference = rest.rpartition(":")
        try:
            found = self.manifest(registry, repository, reference)
        except Missing:
            found = None
        allowed = asked.get("as") != "bäcker"
        own = {"decision": "allowed" if allowed else "denied", "status": 200 if allowed else 403,
               "because": "rule 2, in line 31, allows it" if allowed else "no rule allows bäcker to pull this"}
        url = f"https://{registry}/v2/{repository}/"
        requests = [("HEAD", f"{url}manifests/{reference}", False, None, "it was confirmed 21 min ago"),
                    ("GET", f"{url}blobs/{digest(name, 'linux/arm64', 3)}", False, 61 * MIB, "a part of it is stored, and the rest is fetched")]
        requests = [dict(zip(("method", "url", "counted", "size_bytes", "because"), one), certain=True) for one in requests]
        return {"image": name, "asked_upstream": asked.get("ask", False), "listener": {"address": ":443", "url": "https://registry.example.com"},
                "request": {"method": "GET", "host": "registry.example.com", "target": f"/v2/{repository}/manifests/{reference}"},
                "client": {"user_agent": "containerd/v2.1.4", "api": "v2", "accept_class": "full", "because": "it is in no table of old clients; it reads indexes",
                           "address": asked.get("from"), "reachable": True, "requests_in_flight": 3, "requests_limit": 512},
                "route": {"registry": registry, "repository": repository, "reference": reference, "by": "prefix", "cached": True, "because": f"the name begins with a name of {registry}"},
                "access": {**own, "user": asked.get("as"), "rule": '{users: ["*"], repositories: ["**"], actions: [pull]}' if allowed else None, "rule_line": 31 if allowed else None,
                           "anonymous": {"decision": "challenged", "status": 401, "because": "anonymous clients are asked to log in"},
                           "unknown_user": {"decision": "challenged", "status": 401, "because": "the login fails"}},
                "gate": GATES.get(repository) if registry == "quay.io" else None,
                "tag": {"state": "stale" if found else "absent", "accept_class": "full", "digest": found and found["digest"], "age_seconds": 1312 if found else None,
                        "fresh_until": at(700) if found else None, "ttl_seconds": 600, "because": "it was confirmed 21 min ago (tag_ttl 10 min): the registry is asked"} if allowed else None,
                "manifest": {"digest": found["digest"], "state": "present", "linked": True, "images": found["images"][:2], "images_total": 4} if found and allowed else None,
                "v1_image": None,
                "upstream": {"requests": requests if allowed else [], "incomplete": False, "rate_limit_cost": 0, "rate_limit_remaining": 76, "rate_limit": None, "breaker": None,
                             "fetch_bytes": 61 * MIB, "failures": [], "said": None},
                "answer": {"status": own["status"], "cache_status": "fwd=stale; detail=revalidated" if allowed else "refused",
                           "because": "if the registry confirms it; else what it has now is fetched" if allowed else "it is denied before anything is looked up"}}


YAML = """keys: var/keys  # default
listen:
  - address: ":443"
    tls: auto  # default
    read_only: false  # default
admin:
  address: "127.0.0.1:5002"  # default
  metrics: ":9090"
store:
  path: /srv/größter-speicher
  max_size: 100GiB  # default
  tag_ttl: 10m  # default
registries:
  - name: docker.io
    credentials: {username: jürgen, password: "********"}
    tag_ttl: 10m  # default
limits: {header_bytes: 64KiB, connections: 10000, fills: 64}  # default
"""
