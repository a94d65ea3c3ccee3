"""What is served: blobs and manifests that follow from their names alone, put where they are needed."""

import hashlib
import http.client
import json
import random
from urllib.parse import urlsplit

from .processes import Failed

MANIFEST = "application/vnd.oci.image.manifest.v1+json"
CONFIG = "application/vnd.oci.image.config.v1+json"
LAYER = "application/vnd.oci.image.layer.v1.tar"
NAME = "bench/app"
KIB, MIB = 1 << 10, 1 << 20


def blob(seed, size):
    """`size` random bytes, always the same for a seed."""
    # A block of a MiB again and again, each time with another number: much faster than as much randomness.
    block = random.Random(seed).randbytes(min(size, MIB))
    pieces, left, number = [], size, 0
    while left > 0:
        piece = number.to_bytes(8, "big") + block[8:] if size > 8 else block
        pieces.append(piece[:left])
        left -= len(pieces[-1])
        number += 1
    return b"".join(pieces)


def digest(content):
    return "sha256:" + hashlib.sha256(content).hexdigest()


def manifest(layers, size):
    """The bytes of an image manifest with these layers, [(digest, size)], filled up to `size` bytes."""
    described = [{"mediaType": LAYER, "digest": name, "size": length} for name, length in layers]
    image = {
        "schemaVersion": 2,
        "mediaType": MANIFEST,
        "config": {"mediaType": CONFIG, "digest": digest(b"{}"), "size": 2},
        "layers": described,
        "annotations": {"filling": ""},
    }
    image["annotations"]["filling"] = "." * (size - len(json.dumps(image)))
    return json.dumps(image).encode()


def blob_path(name):
    return f"/v2/{NAME}/blobs/{name}"


def manifest_path(reference):
    return f"/v2/{NAME}/manifests/{reference}"


class Pusher:
    """Pushes to a registry in plain HTTP."""

    def __init__(self, url):
        self.url = url

    def request(self, method, path, body, headers, expected):
        client = http.client.HTTPConnection(urlsplit(self.url).netloc, timeout=60)
        try:
            client.request(method, path, body, headers)
            answer = client.getresponse()
            text = answer.read()
        finally:
            client.close()
        if answer.status != expected:
            raise Failed(f"{method} {self.url}{path}: {answer.status} {text[:500]!r}")
        return answer

    def blob(self, content):
        """Returns the digest."""
        name = digest(content)
        opened = self.request("POST", f"/v2/{NAME}/blobs/uploads/", b"", {}, 202)
        location = urlsplit(opened.headers["Location"])
        path = f"{location.path}?{location.query}&digest={name}"
        self.request("PUT", path, content, {"Content-Type": "application/octet-stream"}, 201)
        return name

    def manifest(self, content, tag):
        """Returns the digest."""
        self.request("PUT", manifest_path(tag), content, {"Content-Type": MANIFEST}, 201)
        return digest(content)


class Warm:
    """An image of a 2 KiB manifest, tagged `1`, and the blobs of the warm measures, pushed to `registry`."""

    def __init__(self, registry, large_mib=256):
        pusher = Pusher(registry)
        sizes = {"large": large_mib * MIB, "medium": 64 * MIB, "small": 16 * KIB}
        pusher.blob(b"{}")
        self.digests = {name: pusher.blob(blob(name, size)) for name, size in sizes.items()}
        layers = [(self.digests[name], sizes[name]) for name in sizes]
        self.digests["manifest"] = pusher.manifest(manifest(layers, 2 * KIB), "1")
        self.paths = {name: blob_path(self.digests[name]) for name in sizes}
        self.paths["manifest"] = manifest_path(self.digests["manifest"])
        self.paths["tag"] = manifest_path("1")
        self.digests["tag"] = self.digests["manifest"]


class Tree:
    """A registry by files, for nginx to serve: /v2/bench/app/blobs/sha256:…"""

    def __init__(self, folder):
        self.root = folder
        self.blobs = folder / "v2" / NAME / "blobs"
        self.blobs.mkdir(parents=True)
        for path in (folder, *self.blobs.parents):
            if path.is_relative_to(folder):
                path.chmod(0o755)

    def add(self, seed, size):
        """Returns the URL path of a new blob."""
        content = blob(seed, size)
        name = digest(content)
        (self.blobs / name).write_bytes(content)
        return blob_path(name)
