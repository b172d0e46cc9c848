"""Links lead somewhere, pages are found, and what they show would be taken."""

import json
import os
import re
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

import kmm_cp.settings
import kmm_daemon.settings
from kmm_cli import main as kmm
from kmm_sandbox.binaries import find_kubectl
from kmm_sandbox.processes import run
from support.doccommands import Command, commands, kubectl_problem
from support.docpages import DOCS, ROOT, resources

PAGES = sorted([*ROOT.glob("*.md"), *DOCS.rglob("*.md"), *ROOT.glob(".github/**/*.md")])
INDEX = DOCS / "README.md"
CERTIFICATES = DOCS / "how-to/certificates.md"
KINDS = ("tutorial", "how-to", "reference", "explanation")
HELM_COMMANDS = ("install", "rollback", "template", "uninstall", "upgrade")
_LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
_LINK_TEXT = re.compile(r"\[([^\]]*)\]\([^)]*\)")
_CODE = re.compile(r"`[^`]+`")
_FENCED = re.compile(r"^( *)```.*?^\1```$", re.MULTILINE | re.DOTALL)
_YAML = re.compile(r"^( *)```yaml\n(.*?)^\1```$", re.MULTILINE | re.DOTALL)


def links(page: Path) -> Iterator[str]:
    """Yield what a page links to, but for what is on the network."""
    text = _CODE.sub("code", _FENCED.sub("", page.read_text()))
    yield from (each for each in _LINK.findall(text) if not re.match(r"https?://|mailto:", each))


def anchors(page: Path) -> set[str]:
    """Return the anchors of a page's headings, as forges make them."""
    heads = re.findall(r"^#+ (.*)$", _FENCED.sub("", page.read_text()), re.MULTILINE)
    texts = (_LINK_TEXT.sub(r"\1", head).lower() for head in heads)
    return {re.sub(r"[^\w\- ]", "", text).replace(" ", "-") for text in texts}


def target(page: Path, link: str) -> Path:
    path = link.partition("#")[0]
    return (page.parent / path).resolve() if path else page


def all_commands(program: str) -> list[Command]:
    return [one for page in PAGES for one in commands(page) if one.words[0] == program]


def blocks(page: Path) -> list[str]:
    """Return the YAML that a page shows."""
    return [textwrap.dedent(block) for _, block in _YAML.findall(page.read_text())]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_to_what_is_there(page: Path) -> None:
    for link in links(page):
        found, _, anchor = target(page, link), *link.partition("#")[1:]
        assert found.exists(), link
        assert not anchor or anchor in anchors(found), link


def test_every_page_is_reached_from_the_index() -> None:
    reached, todo = set[Path](), [INDEX]
    while todo:
        page = todo.pop()
        if page.suffix == ".md" and page not in reached and page.is_relative_to(DOCS):
            reached.add(page)
            todo += [target(page, link) for link in links(page)]
    assert set(DOCS.rglob("*.md")) - reached == set()


@pytest.mark.parametrize("kind", KINDS)
def test_index_names_every_page_of_a_kind(kind: str) -> None:
    assert set((DOCS / kind).glob("*.md")) - {target(INDEX, link) for link in links(INDEX)} == set()


def test_readme_leads_to_the_index() -> None:
    assert INDEX in {target(ROOT / "README.md", link) for link in links(ROOT / "README.md")}


def test_commands_of_kubectl_have_verbs_flags_and_resources_that_exist() -> None:
    found = [one for one in all_commands("kubectl") if one.words[1:2] != ("kmm",)]
    assert len(found) > 50
    known = resources()
    problems = {str(one): kubectl_problem(one, known) for one in found}
    assert {text: why for text, why in problems.items() if why} == {}


@pytest.mark.parametrize(
    "line",
    ["kubectl get modules --al", "kubectl gte modules", "kubectl get modulez -A", "kubectl -n x"],
)
def test_commands_that_kubectl_would_not_take_are_found(line: str) -> None:
    command = Command(page=INDEX, words=tuple(line.split()))
    assert kubectl_problem(command, resources())


def test_targets_of_make_exist() -> None:
    targets = set(re.findall(r"^([a-z0-9-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    targets |= {"unit", "api", "fault", "e2e"}
    named = {
        word
        for one in all_commands("make")
        for word in one.words[1:]
        if "=" not in word and not word.startswith("-")
    }
    assert named
    assert named <= targets


def test_commands_of_kmm_are_taken() -> None:
    plugged = [one.words[2:] for one in all_commands("kubectl") if one.words[1:2] == ("kmm",)]
    own = [one.words[1:] for one in all_commands("kmm")]
    assert plugged
    assert own
    for words in (*plugged, *own):
        kmm._parser().parse_args(words)


def test_commands_of_the_daemon_are_taken() -> None:
    found = [one.words[1:] for one in all_commands("kmm-daemon")]
    assert found
    assert {words[0] for words in found} == {"status"}


def test_commands_of_helm_name_the_chart_and_values_that_it_has() -> None:
    schema = json.loads((ROOT / "charts/kmm/values.schema.json").read_text())
    found = all_commands("helm")
    assert found
    for one in found:
        words = one.words[1:]
        assert words[0] in HELM_COMMANDS, one
        paths = [word for word in words if word.startswith("kmm/")]
        assert all((ROOT / path.removeprefix("kmm/")).is_dir() for path in paths), one
        options = [words[at + 1] for at, word in enumerate(words) if word == "--set"]
        options += [word.removeprefix("--set=") for word in words if word.startswith("--set=")]
        for option in (each for text in options for each in text.split(",")):
            _require(schema, option.partition("=")[0], one)


def _require(schema: dict[str, Any], path: str, command: Command) -> None:
    for name in path.split("."):
        assert name in schema["properties"], f"{command}: {path}"
        schema = schema["properties"][name]


@pytest.mark.parametrize("page", [page for page in PAGES if blocks(page)], ids=lambda p: p.name)
def test_yaml_that_is_shown_is_yaml(page: Path) -> None:
    for block in blocks(page):
        assert any(yaml.safe_load_all(block))


def kustomizations(page: Path) -> list[str]:
    return [block for block in blocks(page) if "kustomize.config.k8s.io" in block]


def next_authority() -> str:
    """Return the Certificate that is to follow the one of the manifests."""
    (block,) = [one for one in blocks(CERTIFICATES) if "kind: Certificate\n" in one]
    return block


def rendered(overlay: str, directory: Path) -> list[dict[str, Any]]:
    """Return the objects of an overlay that a page shows."""
    ours = os.path.relpath(ROOT / "manifests", directory.resolve())
    (directory / "kustomization.yaml").write_text(overlay.replace("kmm/manifests", ours))
    (directory / "ca.crt").write_text("both authorities\n")
    (directory / "next-authority.yaml").write_text(next_authority())
    return list(
        yaml.safe_load_all(run([str(find_kubectl()), "kustomize", str(directory)], limit=60))
    )


@pytest.mark.parametrize("page", [p for p in PAGES if kustomizations(p)], ids=lambda p: p.name)
def test_overlays_that_are_shown_are_rendered(page: Path, tmp_path: Path) -> None:
    for overlay in kustomizations(page):
        assert rendered(overlay, tmp_path)


def test_overlay_for_another_authority_has_both_sides_trust_the_bundle(tmp_path: Path) -> None:
    (overlay,) = kustomizations(CERTIFICATES)
    objects = {(one["kind"], one["metadata"]["name"]): one for one in rendered(overlay, tmp_path)}
    (bundle,) = objects["ConfigMap", "kmm-trust"]["data"]
    for program, owner, settings in (
        ("cp", objects["Deployment", "kmm-cp"]["spec"], kmm_cp.settings),
        ("daemon", objects["PodTemplate", "kmm-daemon"], kmm_daemon.settings),
    ):
        pod = owner["template"]["spec"]
        container = pod["containers"][0]
        variables = {one["name"]: one["value"] for one in container["env"] if "value" in one}
        (file,) = objects["ConfigMap", f"kmm-{program}"]["data"].values()
        (tmp_path / "settings").write_text(file)
        read = settings.load(tmp_path / "settings", variables)
        mounts = {one["name"]: one["mountPath"] for one in container["volumeMounts"]}
        assert str(read.tls.ca) == f"{mounts['trust']}/{bundle}"
        (volume,) = [one for one in pod["volumes"] if one["name"] == "trust"]
        assert volume["configMap"] == {"name": "kmm-trust"}


def test_patches_for_a_pull_secret_reach_the_pods_of_both_programs(tmp_path: Path) -> None:
    page = DOCS / "how-to/install.md"
    (overlay,) = [block for block in kustomizations(page) if "patches:" in block]
    (patches,) = [block for block in blocks(page) if "imagePullSecrets" in block]
    made = {(one["kind"], one["metadata"]["name"]): one for one in rendered(overlay, tmp_path)}
    with_secret = rendered(overlay + textwrap.indent(patches, "  "), tmp_path)
    (secret,) = {
        command.words[command.words.index("docker-registry") + 1]
        for command in commands(page)
        if "docker-registry" in command.words
    }
    changed = [one for one in with_secret if one not in made.values()]
    pods = {one["metadata"]["name"]: one.get("spec", one)["template"]["spec"] for one in changed}
    assert {name: pod["imagePullSecrets"] for name, pod in pods.items()} == {
        program: [{"name": secret}] for program in ("kmm-cp", "kmm-daemon")
    }


def patched(containing: str, directory: Path) -> dict[tuple[str, str], dict[str, Any]]:
    """Return the objects of the overlay of install.md with the patches that have a text in them."""
    page = DOCS / "how-to/install.md"
    (overlay,) = [block for block in kustomizations(page) if "patches:" in block]
    (patches,) = [block for block in blocks(page) if containing in block]
    objects = rendered(overlay + textwrap.indent(patches, "  "), directory)
    return {(one["kind"], one["metadata"]["name"]): one for one in objects}


def both_pods(objects: dict[tuple[str, str], dict[str, Any]]) -> list[dict[str, Any]]:
    owners = (objects["Deployment", "kmm-cp"]["spec"], objects["PodTemplate", "kmm-daemon"])
    return [owner["template"]["spec"] for owner in owners]


def test_patches_for_an_authority_of_registries_have_both_programs_read_what_is_mounted(
    tmp_path: Path,
) -> None:
    objects = patched("_REGISTRY_CA", tmp_path)
    (command,) = [
        command.words
        for command in commands(DOCS / "how-to/install.md")
        if "configmap" in command.words
    ]
    source, key = command[-2], command[-1].removeprefix("--from-file=").partition("=")[0]
    for name, settings, pod in zip(
        ("kmm-cp", "kmm-daemon"),
        (kmm_cp.settings, kmm_daemon.settings),
        both_pods(objects),
        strict=True,
    ):
        (file,) = objects["ConfigMap", name]["data"].values()
        (tmp_path / "settings").write_text(file)
        (container,) = pod["containers"]
        variables = {one["name"]: one["value"] for one in container["env"] if "value" in one}
        read = settings.load(tmp_path / "settings", variables)
        mounts = {one["name"]: one["mountPath"] for one in container["volumeMounts"]}
        (volume,) = [one for one in pod["volumes"] if one["name"] == "registry-ca"]
        assert volume["configMap"]["name"] == source
        (item,) = volume["configMap"]["items"]
        assert item["key"] == key
        assert str(read.registry_ca) == f"{mounts['registry-ca']}/{item['path']}"


def test_patches_for_a_proxy_reach_both_programs_and_open_its_port(tmp_path: Path) -> None:
    objects = patched("HTTPS_PROXY", tmp_path)
    (told,) = {
        tuple(one["value"] for one in pod["containers"][0]["env"] if "PROXY" in one["name"])
        for pod in both_pods(objects)
    }
    proxy, exceptions = told
    # Without it the API server would be asked through the proxy.
    assert exceptions.startswith("$(KUBERNETES_SERVICE_HOST),")
    ports = objects["NetworkPolicy", "kmm-cp-egress"]["spec"]["egress"][0]["ports"]
    assert {"port": int(proxy.rpartition(":")[2]), "protocol": "TCP"} in ports


def test_another_authority_is_as_the_first_and_the_issuer_signs_with_it(tmp_path: Path) -> None:
    (overlay,) = kustomizations(CERTIFICATES)
    (patch,) = [block for block in blocks(CERTIFICATES) if "kind: Issuer" in block]
    made = rendered(overlay + textwrap.indent(patch, "  "), tmp_path)
    objects = {(one["kind"], one["metadata"]["name"]): one for one in made}
    following = yaml.safe_load(next_authority())
    name = following["metadata"]["name"]
    first = objects["Certificate", "kmm-authority"]
    assert following["spec"] == {**first["spec"], "secretName": name}
    assert objects["Certificate", name] == following
    assert objects["Issuer", "kmm"]["spec"] == {"ca": {"secretName": name}}


def test_overlay_against_pruning_holds_the_definitions(tmp_path: Path) -> None:
    (overlay,) = kustomizations(DOCS / "how-to/gitops.md")
    objects = rendered(overlay, tmp_path)
    held = [one for one in objects if "annotations" in one["metadata"]]
    held = [one for one in held if "Prune=false,Delete=false" in str(one["metadata"])]
    definitions = [one for one in objects if one["kind"] == "CustomResourceDefinition"]
    assert len(definitions) == 2
    assert held == definitions
