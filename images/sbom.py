"""What an image is made of, as CycloneDX 1.6 in JSON, from what its packages say of themselves."""

import uuid
from email.message import Message
from email.parser import HeaderParser
from typing import Any
from urllib.parse import quote

from images.layout import Image

Object = dict[str, Any]

RECORDS = "var/lib/dpkg/status.d/"
METADATA = ".dist-info/METADATA"
DISTRIBUTION = "debian-12"


def sbom(image: Image, *, name: str, version: str) -> Object:
    """Return the document; the same for the same image."""
    debian = [_parsed(text) for text in image.texts(below=RECORDS).values()]
    python = [_parsed(text) for text in image.texts(ending=METADATA).values()]
    components = [*map(debian_component, debian), *map(python_component, python)]
    reference = f"pkg:oci/{name}@{quote(image.digest, safe='')}"
    return {
        "$schema": "http://cyclonedx.org/schema/bom-1.6.schema.json",
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "serialNumber": f"urn:uuid:{uuid.uuid5(uuid.NAMESPACE_URL, reference)}",
        "version": 1,
        "metadata": {
            "component": {
                "type": "container",
                "bom-ref": reference,
                "name": name,
                "version": version,
                "purl": reference,
            }
        },
        "components": sorted(components, key=lambda each: str(each["purl"])),
    }


def debian_component(fields: Message) -> Object:
    """Return a Debian package; its licences are in the image, in /usr/share/doc/*/copyright."""
    name, version = fields["Package"], fields["Version"]
    architecture = quote(fields["Architecture"])
    purl = f"pkg:deb/debian/{quote(name)}@{quote(version, safe='')}"
    return _component(name, version, f"{purl}?arch={architecture}&distro={DISTRIBUTION}")


def python_component(fields: Message) -> Object:
    """Return a Python distribution, with its licence where it gives an SPDX expression."""
    name, version = fields["Name"], fields["Version"]
    normal = name.lower().replace("_", "-").replace(".", "-")
    found = _component(name, version, f"pkg:pypi/{normal}@{quote(version, safe='')}")
    expression = fields["License-Expression"]
    return {**found, "licenses": [{"expression": expression}]} if expression else found


def _component(name: str, version: str, purl: str) -> Object:
    return {"type": "library", "bom-ref": purl, "name": name, "version": version, "purl": purl}


def _parsed(text: str) -> Message:
    return HeaderParser().parsestr(text, headersonly=True)
