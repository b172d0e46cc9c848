"""The images hold what their programs need, run as their Pods say, and are the same every time."""

import json
import re
import stat
from collections.abc import Mapping
from email.parser import HeaderParser
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import pytest
import yaml
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator

from images import build, sbom
from support import inimage

pytestmark = pytest.mark.timeout(1800)
"""The first test waits until everything is downloaded and built."""

REPOSITORY = Path(__file__).resolve().parents[2]
MANIFESTS = REPOSITORY / "manifests/base"
INSTALL = REPOSITORY / "docs/how-to/install.md"
PYTHON = "/usr/bin/python3.11"
UNWANTED = re.compile(
    r"(^|/)(sh|dash|bash|busybox|apt|apt-get|dpkg|pip3?|gcc|cc|ld|as|perl|openssl|su|mount|ldconfig)$"
    r"|^var/(cache|lib/apt|log)/|^usr/share/(man|info|locale)/|/gconv/"
    r"|/(pip|setuptools|wheel|hatchling)(-[^/]*)?/|\.(whl|deb)$"
)
NOT_IMPORTED: Mapping[str, frozenset[str]] = {
    # cffi's, for who compiles with it; python-dateutil's, for systems without time zones; and
    # what kmm_cp.cli imports when it starts the control plane.
    "kmm-cp": frozenset({"pycparser", "tzdata", "uvloop"}),
    # And betterproto2's, which never imports it; the control plane's Kubernetes client does.
    "kmm-daemon": frozenset({"pycparser", "tzdata", "python-dateutil"}),
}
"""Distributions that no module imports when it is imported."""
IMPORT_ALL = """
import importlib, json, pkgutil, sys
for name in sys.argv[1:]:
    package = importlib.import_module(name)
    for module in pkgutil.walk_packages(package.__path__, f"{name}."):
        if not module.name.endswith(".__main__") and module.name not in {NOT_RUN}:
            importlib.import_module(module.name)
from importlib.metadata import packages_distributions
known = packages_distributions()
names = {name.partition(".")[0] for name in sys.modules}
print(json.dumps(sorted({each for name in names for each in known.get(name, ())})))
"""
NOT_RUN = {"kmm_common.wire.generate"}
"""What developers run."""
SECCOMP = """
import os
from kmm_daemon.images.forbid import forbid
forbid()
try:
    os.execv("/sbin/modprobe", ["modprobe", "--version"])
except PermissionError as error:
    print("refused:", error.strerror)
"""


TRUSTED = """
import ssl
from requests import Session
print(len(ssl.create_default_context().get_ca_certs()) > 100)
print(Session().merge_environment_settings("https://a.example", {}, None, True, None)["verify"])
"""


def names_of(built: build.Built) -> list[str]:
    return [member.name for member in built.image.members()]


def distributions(built: build.Built) -> set[str]:
    texts = built.image.texts(ending=sbom.METADATA).values()
    return {HeaderParser().parsestr(text)["Name"].lower().replace("_", "-") for text in texts}


def manifest(name: str) -> dict[str, Any]:
    """Return the spec of an image's Pod."""
    path = {"kmm-cp": "control-plane.yaml", "kmm-daemon": "daemon/podtemplate.yaml"}[name]
    first = next(yaml.safe_load_all((MANIFESTS / path).read_text()))
    spec: dict[str, Any] = first.get("template", first.get("spec", {}).get("template"))["spec"]
    return spec


# A minute of work each: the one that is on every node by every run, the other nightly.
@pytest.mark.parametrize("name", ["daemon", pytest.param("cp", marks=pytest.mark.nightly)])
def test_built_again_from_the_start_an_image_has_the_same_digest(
    builder: build.Builder, images: Mapping[str, build.Built], tmp_path: Path, name: str
) -> None:
    again = builder.build_anew(name, tmp_path / "again")
    assert again.image.digest == images[name].image.digest
    assert again.sbom.read_bytes() == images[name].sbom.read_bytes()


def test_what_was_built_is_not_built_again(builder: build.Builder, built: build.Built) -> None:
    before = built.archive.stat()
    assert builder.build(built.name.removeprefix("kmm-")) == built
    assert built.archive.stat().st_ino == before.st_ino


def test_image_has_nothing_that_installs_compiles_or_starts_programs(built: build.Built) -> None:
    files = [member.name for member in built.image.members() if not member.isdir()]
    assert len(files) > 1000
    assert [name for name in files if UNWANTED.search(name)] == []


def test_only_the_daemons_image_has_kmod(images: Mapping[str, build.Built]) -> None:
    kmod = {name: "usr/bin/kmod" in names_of(each) for name, each in images.items()}
    assert kmod == {"cp": False, "daemon": True}


def test_only_root_may_change_a_file_and_none_gives_rights(built: build.Built) -> None:
    members = [member for member in built.image.members() if not member.issym()]
    assert len(members) > 1000
    special = stat.S_ISUID | stat.S_ISGID | stat.S_IWGRP | stat.S_IWOTH
    wrong = {each.name for each in members if each.mode & special or each.uid or each.gid}
    assert wrong == {"tmp"}
    assert not any("SCHILY.xattr.security.capability" in each.pax_headers for each in members)
    assert all(each.isfile() or each.isdir() or each.islnk() for each in members)


def test_image_is_as_small_as_the_documentation_says(built: build.Built) -> None:
    (row,) = (line for line in INSTALL.read_text().splitlines() if f"| `{built.name}` |" in line)
    pulled, unpacked = (int(number) for number in re.findall(r"(\d+) MiB", row))
    assert built.image.compressed_bytes <= pulled * 2**20
    assert sum(member.size for member in built.image.members()) <= unpacked * 2**20


def test_image_says_what_it_is_and_starts_its_program_as_the_pods_user(built: build.Built) -> None:
    config = built.image.config["config"]
    labels = config["Labels"]
    assert labels["org.opencontainers.image.title"] == built.name
    assert labels["org.opencontainers.image.version"] == build.project_version()
    assert labels["org.opencontainers.image.licenses"] == "Apache-2.0"
    assert labels["org.opencontainers.image.description"]
    assert config["Entrypoint"] == [f"/usr/local/bin/{built.name}"]
    assert not config.get("Cmd")
    assert config["StopSignal"] == "SIGTERM"
    user = manifest(built.name)["securityContext"]
    assert config["User"] == f"{user['runAsUser']}:{user['runAsGroup']}"


def test_manifests_call_the_images_by_their_names(built: build.Built) -> None:
    (container,) = manifest(built.name)["containers"]
    assert container["image"] == built.name


def test_program_starts_on_a_read_only_root(built: build.Built, roots: Mapping[str, Path]) -> None:
    (entry,) = built.image.config["config"]["Entrypoint"]
    done = inimage.run(built.image, roots[built.name], [entry, "--version"])
    assert done.stdout == f"{built.name} {build.project_version()}\n", done.stderr
    refused = inimage.run(built.image, roots[built.name], [entry, "--config", "/etc/none.json"])
    assert refused.returncode == 2
    assert "/etc/none.json" in refused.stderr


def test_modprobe_of_the_image_runs(
    images: Mapping[str, build.Built], roots: Mapping[str, Path]
) -> None:
    built = images["daemon"]
    for program in ("modprobe", "rmmod", "depmod"):
        done = inimage.run(built.image, roots[built.name], [program, "--version"])
        assert "kmod version" in done.stdout, done.stderr


def test_image_worker_gives_up_system_calls_by_the_images_libseccomp(
    images: Mapping[str, build.Built], roots: Mapping[str, Path]
) -> None:
    built = images["daemon"]
    done = inimage.run(built.image, roots[built.name], [PYTHON, "-c", SECCOMP])
    assert done.stdout == "refused: Operation not permitted\n", done.stderr


def test_image_trusts_the_authorities_of_debian(
    built: build.Built, roots: Mapping[str, Path]
) -> None:
    done = inimage.run(built.image, roots[built.name], [PYTHON, "-c", TRUSTED])
    assert done.stdout.split() == ["True", "/etc/ssl/certs/ca-certificates.crt"], done.stderr


def test_image_has_the_distributions_that_its_program_imports_and_no_other(
    built: build.Built, roots: Mapping[str, Path]
) -> None:
    script = IMPORT_ALL.replace("{NOT_RUN}", repr(NOT_RUN))
    packages = ["kmm_common", built.name.replace("-", "_")]
    done = inimage.run(built.image, roots[built.name], [PYTHON, "-c", script, *packages])
    assert not done.returncode, done.stderr
    imported = {name.lower().replace("_", "-") for name in json.loads(done.stdout)}
    assert distributions(built) == imported | NOT_IMPORTED[built.name]
    assert not imported & NOT_IMPORTED[built.name]


def test_every_extension_of_python_finds_its_libraries(
    built: build.Built, roots: Mapping[str, Path]
) -> None:
    found = (roots[built.name] / "usr/lib/python3.11/lib-dynload").glob("*.so")
    extensions = sorted(path.name.partition(".")[0] for path in found)
    assert len(extensions) > 30
    script = "import importlib, sys\nfor name in sys.argv[1:]: importlib.import_module(name)"
    done = inimage.run(built.image, roots[built.name], [PYTHON, "-c", script, *extensions])
    assert not done.returncode, done.stderr


def test_image_has_the_sources_of_its_own_program_only(built: build.Built) -> None:
    ours = {name for path in names_of(built) for name in re.findall(r"/(kmm_[a-z]+)/", path)}
    assert ours == {"kmm_common", built.name.replace("-", "_")}


def test_every_module_has_bytecode_that_no_time_makes_stale(
    built: build.Built, roots: Mapping[str, Path]
) -> None:
    names = {*names_of(built)}
    sources = [Path(name) for name in names if name.endswith(".py") and "/python3.11/" in name]
    compiled = {str(path.parent / f"__pycache__/{path.stem}.cpython-311.pyc") for path in sources}
    assert len(compiled) > 1000
    assert compiled <= names
    # PEP 552: a hash of the source is in it (bit 0) and not compared (bit 1).
    flags = {(roots[built.name] / name).read_bytes()[4:8] for name in compiled}
    assert flags == {b"\x01\x00\x00\x00"}


def test_bill_of_materials_is_valid_and_lists_every_package(
    built: build.Built, roots: Mapping[str, Path]
) -> None:
    text = built.sbom.read_text()
    assert JsonStrictValidator(SchemaVersion.V1_6).validate_str(text) is None
    document = json.loads(text)
    listed = {
        (unquote(each["purl"].split("@")[0]), each["version"]) for each in document["components"]
    }
    records = (roots[built.name] / sbom.RECORDS).iterdir()
    stanzas = [HeaderParser().parsestr(record.read_text()) for record in records]
    debian = {(f"pkg:deb/debian/{each['Package']}", each["Version"]) for each in stanzas}
    found = (roots[built.name]).glob("usr/local/lib/python3.11/dist-packages/*.dist-info")
    versions = (path.name.removesuffix(".dist-info").rsplit("-", 1) for path in found)
    python = {(f"pkg:pypi/{name.lower().replace('_', '-')}", version) for name, version in versions}
    assert listed == debian | python
    assert {"pkg:deb/debian/libc6", "pkg:pypi/kmm"} <= {purl for purl, _ in listed}
    assert document["metadata"]["component"]["purl"].endswith(
        built.image.digest.replace(":", "%3A")
    )


def test_every_file_of_debian_is_of_a_package_that_is_listed(
    images: Mapping[str, build.Built], roots: Mapping[str, Path]
) -> None:
    for built in images.values():
        listed = {path.name for path in (roots[built.name] / sbom.RECORDS).iterdir()}
        copyrights = (roots[built.name] / "usr/share/doc").iterdir()
        assert {path.name for path in copyrights} == listed


@pytest.mark.parametrize("name", build.NAMES)
def test_locked_versions_are_those_that_are_tested(name: str) -> None:
    whole, image = (
        set(re.findall(r"^([\w.-]+==\S+)", (REPOSITORY / path).read_text(), re.MULTILINE))
        for path in ("requirements.lock", f"images/{name}.lock")
    )
    assert image
    assert image <= whole
