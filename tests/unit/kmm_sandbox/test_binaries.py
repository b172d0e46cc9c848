"""Which programs of which release of Kubernetes are built, and from what."""

from pathlib import Path

import pytest

from kmm_sandbox.binaries import (
    ASSETS,
    ETCD,
    KubernetesRelease,
    builds,
    find_binaries,
)
from kmm_sandbox.errors import SandboxError
from kmm_sandbox.gobuild import GOMODULES, pinned_version
from kmm_sandbox.goprograms import missing
from kmm_sandbox.progress import Progress

NEWEST, OLDEST = KubernetesRelease.NEWEST, KubernetesRelease.OLDEST


@pytest.mark.parametrize("release", KubernetesRelease)
def test_staging_modules_are_of_the_release_that_is_pinned(release: KubernetesRelease) -> None:
    lines = (release.module / "go.mod").read_text().splitlines()
    replaced = [line.split()[-1] for line in lines if line.startswith("replace ")]
    assert len(replaced) > 20
    assert set(replaced) == {f"v0.{release.version.removeprefix('v1.')}"}


def test_oldest_release_is_two_minors_behind_the_newest() -> None:
    first, last = (int(each.minor.removeprefix("1.")) for each in (OLDEST, NEWEST))
    assert last - first == 2


@pytest.mark.parametrize("release", KubernetesRelease)
def test_everything_that_is_missing_is_built_of_the_releases_module(
    release: KubernetesRelease, tmp_path: Path
) -> None:
    etcd, kubernetes = builds(missing(tmp_path, release.programs), release)
    assert (etcd.module, dict(etcd.packages)) == (GOMODULES / "etcd", {"etcd": ETCD})
    assert kubernetes.module == release.module
    assert {"etcd", *kubernetes.packages} == {*release.programs}
    assert f"gitVersion={release.version}" in kubernetes.ldflags


def test_what_is_there_is_not_built_again(tmp_path: Path) -> None:
    for name in ("etcd", "kube-apiserver"):
        (tmp_path / name).touch(mode=0o755)
    (job,) = builds(missing(tmp_path, OLDEST.programs), OLDEST)
    assert [*job.packages] == ["kube-controller-manager", "kubectl"]


def test_oldest_release_has_a_kubectl_of_its_own_since_the_newest_is_two_minors_away() -> None:
    assert "kubectl" in OLDEST.programs
    assert "kubectl" not in NEWEST.programs


def test_directory_of_the_environment_takes_the_place_of_the_newest_release_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given, cache = tmp_path / "given", tmp_path / "cache"
    etcd = pinned_version(ETCD, (GOMODULES / "etcd/go.mod").read_text())
    built = cache / f"kmm/kubernetes-{OLDEST.version}+etcd-{etcd}"
    for directory, release in ((given, NEWEST), (built, OLDEST)):
        directory.mkdir(parents=True)
        for name in release.programs:
            (directory / name).touch(mode=0o755)
    monkeypatch.setenv(ASSETS, str(given))
    monkeypatch.setenv("XDG_CACHE_HOME", str(cache))
    assert find_binaries(Progress()).apiserver == given / "kube-apiserver"
    assert find_binaries(Progress(), OLDEST).apiserver == built / "kube-apiserver"
    assert find_binaries(Progress(), OLDEST).kubectl == built / "kubectl"


def test_directory_of_the_environment_that_lacks_a_program_is_refused_by_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "etcd").touch(mode=0o755)
    monkeypatch.setenv(ASSETS, str(tmp_path))
    with pytest.raises(SandboxError, match="lacks kube-apiserver, kube-controller-manager: "):
        find_binaries(Progress())
