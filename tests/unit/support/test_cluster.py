"""Which Kubernetes tests run against is one variable's to say."""

import pytest

from kmm_sandbox.binaries import KubernetesRelease
from kmm_sandbox.errors import SandboxError
from support.cluster import RELEASE, release


def test_newest_release_is_taken_where_nothing_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(RELEASE, raising=False)
    assert release() is KubernetesRelease.NEWEST


def test_release_that_is_none_is_refused_with_those_there_are(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv(RELEASE, "1.34")
    with pytest.raises(SandboxError, match=f"{RELEASE}=1.34: it is NEWEST or OLDEST, or not set"):
        release()
