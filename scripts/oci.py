#!/usr/bin/env python3
"""Adds an image of random bytes to an OCI layout: oci.py LAYOUT TAG MIB [MIB …]

Each number is a layer of that many MiB. The same arguments give the same image.
"""

import hashlib
import io
import json
import random
import sys
import tarfile
from pathlib import Path

MANIFEST = "application/vnd.oci.image.manifest.v1+json"
INDEX = "application/vnd.oci.image.index.v1+json"
CONFIG = "application/vnd.oci.image.config.v1+json"
LAYER = "application/vnd.oci.image.layer.v1.tar"


def blob(layout, media_type, content):
    """Writes a blob; returns its descriptor."""
    digest = hashlib.sha256(content).hexdigest()
    path = layout / "blobs" / "sha256" / digest
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return {"mediaType": media_type, "digest": f"sha256:{digest}", "size": len(content)}


def layer(seed, mib):
    """A tar with one file of random bytes."""
    source = random.Random(seed)
    content = b"".join(source.randbytes(1 << 20) for _ in range(mib))
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        entry = tarfile.TarInfo("payload")
        entry.size = len(content)
        tar.addfile(entry, io.BytesIO(content))
    return out.getvalue()


def add_image(layout, tag, layers, manifest_bytes=0):
    """Adds an image whose layers have these sizes in MiB; returns its manifest. A manifest shorter than
    `manifest_bytes` is padded to that size."""
    layers = [
        blob(layout, LAYER, layer(f"{tag} {number} {mib}", mib)) for number, mib in enumerate(layers)
    ]
    config = {
        "architecture": "amd64",
        "os": "linux",
        "config": {},
        "rootfs": {"type": "layers", "diff_ids": [one["digest"] for one in layers]},
    }
    manifest = {
        "schemaVersion": 2,
        "mediaType": MANIFEST,
        "config": blob(layout, CONFIG, json.dumps(config).encode()),
        "layers": layers,
        "annotations": {"filling": ""},
    }
    missing = manifest_bytes - len(json.dumps(manifest))
    manifest["annotations"]["filling"] = "." * max(missing, 0)
    described = blob(layout, MANIFEST, json.dumps(manifest).encode())

    index = layout / "index.json"
    known = json.loads(index.read_text())["manifests"] if index.exists() else []
    described["annotations"] = {"org.opencontainers.image.ref.name": tag}
    manifests = [*known, described]
    index.write_text(json.dumps({"schemaVersion": 2, "mediaType": INDEX, "manifests": manifests}))
    (layout / "oci-layout").write_text('{"imageLayoutVersion": "1.0.0"}')
    return {"digest": described["digest"], **manifest}


if __name__ == "__main__":
    if len(sys.argv) < 4:
        sys.exit(__doc__)
    add_image(Path(sys.argv[1]), sys.argv[2], [int(mib) for mib in sys.argv[3:]])
