"""Both images, built once a run, or taken from the cache."""

from collections.abc import Mapping
from pathlib import Path

import pytest

from images import build
from kmm_sandbox.machine import install_missing
from kmm_sandbox.progress import Progress


@pytest.fixture(scope="session")
def builder() -> build.Builder:
    progress = Progress()
    install_missing(build.PROGRAMS, progress)
    return build.Builder(cache=build.image_cache(), progress=progress)


@pytest.fixture(scope="session")
def images(builder: build.Builder) -> Mapping[str, build.Built]:
    return {name: builder.build(name) for name in build.NAMES}


@pytest.fixture(params=build.NAMES)
def built(request: pytest.FixtureRequest, images: Mapping[str, build.Built]) -> build.Built:
    return images[request.param]


@pytest.fixture(scope="session")
def roots(
    images: Mapping[str, build.Built], tmp_path_factory: pytest.TempPathFactory
) -> Mapping[str, Path]:
    """The images' files, unpacked, by the images' names."""
    roots = {each.name: tmp_path_factory.mktemp(each.name) for each in images.values()}
    for each in images.values():
        each.image.unpack(roots[each.name])
        # Of pytest's directories, only their owner may go into.
        roots[each.name].chmod(0o755)
    return roots
