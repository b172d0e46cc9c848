"""An image as the next release has it: another digest, the same programs."""

import json
from dataclasses import replace

from kmm_sandbox.kmodimage import Image, digest_of


def relabelled(image: Image, label: str, value: str) -> Image:
    """Return an image with one label more."""
    manifest = json.loads(image.manifest)
    config = json.loads(image.blobs[manifest["config"]["digest"]])
    config.setdefault("config", {}).setdefault("Labels", {})[label] = value
    content = json.dumps(config).encode()
    manifest["config"] |= {"digest": digest_of(content), "size": len(content)}
    blobs = {**image.blobs, digest_of(content): content}
    return replace(image, manifest=json.dumps(manifest).encode(), blobs=blobs)
