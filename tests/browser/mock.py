#!/usr/bin/env python3
"""Serves the dashboard and the operator API over made-up data, so that the page can be built and tested alone.

    mock.py [PORT]        prints its address; port 0 (the default) lets the system choose
    mock.py --pull URL    acts as a client that pulls docker.io/library/node:22 through the mock at URL

It keeps the contract of src/admin/openapi.json, cross-site protection and the limit of listeners included.
"""

import base64
import json
import sys
import threading
import time
import urllib.request
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import islice
from pathlib import Path
from urllib.parse import parse_qsl, urlsplit

from model import MIB, YAML, Missing, Model

ADMIN = Path(__file__).resolve().parents[2] / "src" / "admin"
KINDS = {".html": "text/html; charset=utf-8", ".css": "text/css; charset=utf-8", ".js": "text/javascript; charset=utf-8"}
POLICY = ("default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; base-uri 'none'; "
          "form-action 'none'; frame-ancestors 'none'")
LISTENERS = 16
PATHS = json.loads((ADMIN / "openapi.json").read_text())["paths"]
GETS, POSTS = ({path.removeprefix("/api/v1/") for path, methods in PATHS.items() if method in methods} for method in ("get", "post"))
CONFIG = {"path": "conf/roadstead.yaml", "loaded_at": "2026-11-20T06:00:00Z", "yaml": YAML}

model = None
listeners = threading.BoundedSemaphore(LISTENERS)
connected = 0


class Refused(Exception):
    def __init__(self, status, code, detail, **headers):
        super().__init__(detail)
        self.status, self.code, self.headers = status, code, headers


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        self.answer(self.get)

    def do_POST(self):
        self.answer(self.post)

    def do_DELETE(self):
        self.answer(self.delete)

    def answer(self, act):
        url = urlsplit(self.path)
        self.query = dict(parse_qsl(url.query))
        try:
            if self.headers.get("Host", "").rsplit(":", 1)[0] not in ("127.0.0.1", "localhost"):
                raise Refused(421, "wrong-host", "the admin address answers to localhost only")
            if url.path == "/mock/pull" and act == self.post:
                model.pull("docker.io/library/node:22")
                return self.send(204, None, b"")
            if not url.path.startswith("/api/v1/"):
                return self.file(url.path)
            if self.headers.get("Sec-Fetch-Site", "none") not in ("none", "same-origin"):
                raise Refused(403, "cross-site-request", "another site asks")
            act(url.path.removeprefix("/api/v1/"))
        except Refused as error:
            body = {"type": "about:blank", "title": error.code.replace("-", " ").capitalize(), "status": error.status, "detail": str(error), "code": error.code}
            self.send(error.status, "application/problem+json", json.dumps(body).encode(), error.headers)
        except Missing as error:
            body = {"type": "about:blank", "title": "Not in the cache", "status": 404, "detail": str(error), "code": "not-found"}
            self.send(404, "application/problem+json", json.dumps(body).encode())
        except (BrokenPipeError, ConnectionResetError):
            self.close_connection = True

    def send(self, status, kind, body, headers=None):
        self.send_response(status)
        if kind:
            self.send_header("Content-Type", kind)
        if status != 204:
            self.send_header("Content-Length", str(len(body)))
        self.head(headers)
        self.wfile.write(body)

    def head(self, headers=None):
        fixed = {"Cache-Control": "no-store", "X-Content-Type-Options": "nosniff", "Content-Security-Policy": POLICY, "Referrer-Policy": "no-referrer"}
        for name, value in {**fixed, **(headers or {})}.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()

    def json(self, value, status=200):
        self.send(status, "application/json", json.dumps(value, ensure_ascii=False).encode())

    def file(self, path):
        file = ADMIN / "page" / ("index.html" if path == "/" else path.lstrip("/"))
        if self.command != "GET" or file.parent != ADMIN / "page" or not file.is_file():
            raise Refused(404, "not-found", "there is nothing here")
        self.send(200, KINDS[file.suffix], file.read_bytes())

    # Reading

    def get(self, path):
        q, given = self.query.get("q", ""), self.query.get
        if path not in GETS:
            raise Refused(404, "not-found", "there is nothing here") if path not in POSTS else Refused(405, "method-not-allowed", "use POST", Allow="POST")
        if path == "openapi.json":
            return self.send(200, "application/json", (ADMIN / "openapi.json").read_bytes())
        if path == "events":
            return self.events()
        if path == "repositories":
            rows = list(model.listed(given("registry"), q, given("sort", "name")))
            return self.page(rows, len(rows), pulls_since="2026-11-01T00:00:00Z")
        if path == "tags":
            rows = list(model.tags(given("registry"), given("repository"), q))
            return self.page(rows, len(rows))
        lists = {"registries": model.registries, "fills": model.fills, "pins": lambda: sorted(model.pins.values(), key=lambda pin: pin["image"]),
                 "errors": lambda: model.errors(given("kind"), q), "requests": lambda: [line for line in reversed(model.log) if model.matches(line, q, given("status"))]}
        if path in lists:
            rows = list(lists[path]())
            return self.page(rows, len(rows))
        if path == "eviction-queue":
            limit = int(self.query.get("limit", 50))
            return self.json({"items": list(islice(model.evictions(), limit)), "next": None, "total": 481_204})
        single = {"overview": lambda: model.overview(connected, LISTENERS), "traffic": lambda: model.series(given("window", "hour")),
                  "manifest": lambda: model.manifest(given("registry"), given("repository"), given("reference")),
                  "config": lambda: CONFIG}
        return self.json(single[path]())

    def page(self, rows, total, **extra):
        try:
            limit = int(self.query.get("limit", 50))
            start = int(base64.urlsafe_b64decode(self.query["after"])) if "after" in self.query else 0
        except ValueError as error:
            raise Refused(400, "invalid-parameter", str(error)) from error
        if not 1 <= limit <= 500:
            raise Refused(400, "invalid-parameter", f"limit={limit}: a number from 1 to 500 is expected")
        items = list(islice(rows, start, start + limit))
        more = start + limit < total
        self.json({"items": items, "next": base64.urlsafe_b64encode(str(start + limit).encode()).decode() if more else None, "total": total, **extra})

    def events(self):
        global connected
        if not listeners.acquire(blocking=False):
            raise Refused(503, "too-many-listeners", f"{LISTENERS} listeners are connected; poll /api/v1/overview instead", Retry_After="10")
        connected += 1
        try:
            self.close_connection = True
            self.send_response(200)
            self.send_header("Content-Type", "text/event-stream")
            self.head({"Connection": "close"})
            self.wfile.write(b"retry: 5000\n\n")
            topics = self.query.get("topics", "overview,fills").split(",")
            last = int(self.headers.get("Last-Event-ID", 0))
            for turn in range(1_000_000):
                if "overview" in topics and turn % 8 == 0:
                    self.event("overview", model.overview(connected, LISTENERS))
                if "fills" in topics and turn % 2 == 0:
                    fills = model.fills()
                    self.event("fills", {"items": fills, "total": len(fills)})
                if "errors" in topics and turn % 40 == 39:
                    self.event("errors", next(model.errors()))
                if turn % 3 == 0:
                    model.write_line()
                lines = [line for line in model.log if line["id"] > last and model.matches(line, self.query.get("q", ""), self.query.get("status"))]
                if "requests" in topics and (lines or turn == 0):
                    last = max([last, *(line["id"] for line in lines)])
                    self.event("requests", {"items": lines[-100:], "skipped": 0 if turn == 0 else max(0, len(lines) - 100)}, last)
                time.sleep(0.25)
        finally:
            connected -= 1
            listeners.release()

    def event(self, name, data, last=None):
        lines = ([f"id: {last}"] if last is not None else []) + [f"event: {name}", f"data: {json.dumps(data, ensure_ascii=False)}"]
        self.wfile.write(("\n".join(lines) + "\n\n").encode())
        self.wfile.flush()

    # Acting

    def protected(self):
        if self.headers.get("X-Roadstead-Request") != "1":
            raise Refused(403, "cross-site-request", "a request that changes something needs the header X-Roadstead-Request: 1")

    def post(self, path):
        length = int(self.headers.get("Content-Length", 0))
        if length > 4096:
            raise Refused(413, "body-too-large", "a body has at most 4096 bytes")
        body = self.rfile.read(length)
        if path not in POSTS:
            raise Refused(405, "method-not-allowed", "use GET", Allow="GET, HEAD")
        self.protected()
        if self.headers.get("Content-Type") != "application/json":
            raise Refused(415, "unsupported-media-type", "send application/json")
        asked = json.loads(body)
        if path == "verify":
            total = 66_500_000_000
            lines = [{"blobs": n, "blobs_total": 10, "bytes": n * total // 10, "bytes_total": total, "damaged": 0, "done": None} for n in range(10)]
            return self.lines([*lines, {**lines[9], "blobs": 10, "bytes": total, "done": {"damaged": [], "damaged_left_off": 0}}])
        if path == "warm":
            lines = [{"blobs": n, "blobs_total": 8, "bytes": n * 5 * MIB, "bytes_total": 40 * MIB, "fetched_bytes": n * 4 * MIB, "in_flight": [], "waits_because": None, "done": None} for n in range(8)]
            return self.lines([*lines, {**lines[7], "blobs": 8, "bytes": 40 * MIB, "done": {"error": None if "/" in asked["image"] else "manifest unknown"}}])
        if path == "pins":
            return self.json(model.pin(asked["image"], asked.get("note", "")))
        if path == "purge":
            if "/" not in asked["target"] and ":" not in asked["target"]:
                raise Refused(400, "invalid-body", f"{asked['target']} is no image, no digest and no registry")
            return self.json(model.purge(asked["target"], asked.get("dry_run", False)))
        return self.json({"explain": model.explain, "reload": lambda _: CONFIG}[path](asked))

    def lines(self, rows):
        self.close_connection = True
        self.send_response(200)
        self.send_header("Content-Type", "application/x-ndjson")
        self.head({"Connection": "close"})
        for row in rows:
            self.wfile.write(json.dumps(row).encode() + b"\n")
            self.wfile.flush()
            time.sleep(0.15)

    def delete(self, path):
        self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self.protected()
        if path != "pins":
            raise Refused(405, "method-not-allowed", "not with DELETE", Allow="GET, HEAD")
        if model.pins.pop(self.query.get("image"), None) is None:
            raise Missing(f"{self.query.get('image')} is not pinned")
        self.send(204, None, b"")

    def log_message(self, *_):
        pass


class Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 256

    def handle_error(self, *_):
        if not isinstance(sys.exc_info()[1], ConnectionError):
            super().handle_error(*_)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--pull"]:
        urllib.request.urlopen(urllib.request.Request(sys.argv[2] + "/mock/pull", method="POST"))
    else:
        model = Model()
        server = Server(("127.0.0.1", int(sys.argv[1]) if len(sys.argv) > 1 else 0), Handler)
        print(f"http://127.0.0.1:{server.server_port}", flush=True)
        server.serve_forever()
