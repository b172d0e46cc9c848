import pytest

from kmm_common.oci.errors import InvalidImageError
from kmm_common.oci.manifest import Descriptor, Index
from kmm_common.oci.platform import Platform, platform_of_machine
from kmm_common.oci.selection import choose


def parsed(text: str) -> Platform:
    os_name, architecture, variant = (*text.split("/"), "")[:3]
    return Platform(os=os_name, architecture=architecture, variant=variant)


def index_of(*platforms: str) -> Index:
    return Index(
        manifests=tuple(
            Descriptor(media_type="m", digest=text, size=1, platform=parsed(text) if text else None)
            for text in platforms
        )
    )


CHOICES = {
    "the architecture": ("x86_64", ["linux/arm64", "linux/amd64"], "linux/amd64"),
    "not another system": ("x86_64", ["windows/amd64", "linux/amd64"], "linux/amd64"),
    "not attestations": ("x86_64", ["unknown/unknown", "", "linux/amd64"], "linux/amd64"),
    "no newer processor": ("x86_64", ["linux/amd64/v3", "linux/amd64"], "linux/amd64"),
    "the plain one by its variant": ("aarch64", ["linux/arm64/v8"], "linux/arm64/v8"),
    "not one that needs more": ("aarch64", ["linux/arm64/v9", "linux/arm64"], "linux/arm64"),
    "the best that runs": (
        "armv7l",
        ["linux/arm/v5", "linux/arm/v7", "linux/arm/v6"],
        "linux/arm/v7",
    ),
    "an older one": ("armv6l", ["linux/arm/v7", "linux/arm/v5"], "linux/arm/v5"),
    "the first of equals": ("s390x", ["linux/s390x", "linux/s390x/z"], "linux/s390x"),
    "a variant that is no number": ("x86_64", ["linux/amd64/v\u0661"], "linux/amd64/v\u0661"),
    "a machine we do not know": ("riscv64", ["linux/riscv64"], "linux/riscv64"),
}


@pytest.mark.parametrize(("machine", "offers", "chosen"), CHOICES.values(), ids=CHOICES)
def test_the_image_that_suits_best_is_chosen(machine, offers, chosen):
    assert choose(index_of(*offers), platform_of_machine(machine)).digest == chosen


@pytest.mark.parametrize("offers", [[], ["linux/arm64"], ["linux/amd64/v2"]])
def test_platforms_are_listed_when_none_suits(offers):
    with pytest.raises(InvalidImageError, match=f"only for: {offers[0] if offers else 'none'}"):
        choose(index_of(*offers), platform_of_machine("x86_64"))
