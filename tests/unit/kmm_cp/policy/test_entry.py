"""What a Module means on one kernel."""

import pytest

from kmm_common.api.names import PULL_SECRET_ANNOTATION, RETRY_ANNOTATION
from kmm_common.desired import DesiredModule, Modprobe, ModprobeArgs, RegistryTLS, config_hash
from kmm_common.errors import TerminalError
from kmm_cp.policy.entry import Entries, entry_for, with_digest
from kmm_cp.policy.mapping import Match, mapping_for
from support.policy import DIGEST, KERNEL, OTHER_DIGEST, module


def matched(kmod, kernel=KERNEL) -> Match:
    found = mapping_for(kmod, kernel)
    assert found is not None
    return found


def made(kmod, kernel=KERNEL):
    return entry_for(kmod, matched(kmod, kernel), kernel)


def imaged(image):
    return module(mappings=[{"regexp": ".*", "containerImage": image}])


def test_a_small_module_gets_the_defaults():
    assert made(module()) == DesiredModule(
        namespace="default",
        name="simple",
        uid="uid-simple",
        kernel_version=KERNEL,
        image="registry.example/kmod:1",
        image_pull_policy="IfNotPresent",
        modprobe=Modprobe(module_name="simple", dir_name="/opt"),
    )


def test_every_field_reaches_the_entry():
    kmod = module(
        spec={"imageRepoSecret": {"name": "pull"}},
        mappings=[
            {
                "literal": KERNEL,
                "containerImage": "registry.example/kmod:1",
                "registryTLS": {"insecure": True},
                "inTreeModulesToRemove": ["old"],
            }
        ],
        container={
            "imagePullPolicy": "Always",
            "version": "2.0",
            "modprobe": {
                "moduleName": "a",
                "dirName": "/kmods",
                "parameters": ["x=1", "y=2"],
                "args": {"load": ["-v"], "unload": ["-rv"]},
                "rawArgs": {"load": ["a"], "unload": ["-r", "a"]},
                "firmwarePath": "/firmware",
                "modulesLoadingOrder": ["a", "b"],
            },
        },
    )
    assert made(kmod) == DesiredModule(
        namespace="default",
        name="simple",
        uid="uid-simple",
        kernel_version=KERNEL,
        image="registry.example/kmod:1",
        image_pull_policy="Always",
        pull_secret="pull",
        registry_tls=RegistryTLS(insecure=True),
        in_tree_modules_to_remove=("old",),
        modprobe=Modprobe(
            module_name="a",
            dir_name="/kmods",
            parameters=("x=1", "y=2"),
            args=ModprobeArgs(load=("-v",), unload=("-rv",)),
            raw_args=ModprobeArgs(load=("a",), unload=("-r", "a")),
            firmware_path="/firmware",
            modules_loading_order=("a", "b"),
        ),
        version="2.0",
    )


@pytest.mark.parametrize(
    ("template", "expected"),
    [
        ("r.example/k:${KERNEL_FULL_VERSION}", f"r.example/k:{KERNEL}"),
        ("r.example/k:$KERNEL_XYZ", "r.example/k:6.1.0"),
        ("r.example/$MOD_NAMESPACE/$MOD_NAME:1", "r.example/default/simple:1"),
        ("r.example/k:1", "r.example/k:1"),
    ],
)
def test_variables_of_kernel_and_module_are_replaced_in_the_image(template, expected):
    assert made(imaged(template)).image == expected


def test_a_trailing_plus_stays_in_the_kernel_and_goes_from_the_image():
    entry = made(imaged("r.example/k:$KERNEL_FULL_VERSION"), "5.15.0-gke+")
    assert (entry.kernel_version, entry.image) == ("5.15.0-gke+", "r.example/k:5.15.0-gke")


@pytest.mark.parametrize(
    ("image", "told"),
    [
        ("r.example/k:${V", "not closed"),
        ("r.example/k:$TYPO", "r.example/k:"),
        ("", "image"),
        ("r.example/UPPER:1", "lower-case"),
    ],
)
def test_an_image_that_does_not_work_out_is_refused_by_field(image, told):
    kmod = imaged(image)
    with pytest.raises(TerminalError, match=r"spec\.moduleLoader\.container.*containerImage") as e:
        made(kmod)
    assert told in str(e.value)
    assert e.value.reason == "InvalidTemplate"


def test_the_digest_completes_the_entry_with_its_hash():
    plain = made(module())
    entry = with_digest(plain, DIGEST)
    assert entry.image_digest == DIGEST
    assert entry.config_hash == config_hash(entry) != with_digest(plain, OTHER_DIGEST).config_hash
    assert with_digest(plain, "").config_hash == config_hash(plain)


def test_entries_are_made_once_for_each_kernel():
    kmod = module()
    entries, match = Entries(kmod), matched(kmod)
    assert entries.at(match, KERNEL) is entries.at(match, KERNEL)
    assert entries.at(match, "6.1.1") != entries.at(match, KERNEL)


def test_entries_give_the_error_of_a_kernel_as_a_value():
    kmod = imaged("${")
    error = Entries(kmod).at(matched(kmod), KERNEL)
    assert isinstance(error, TerminalError)


@pytest.mark.parametrize("value", ["", "2026-01-01T00:00:00Z", "x" * 10_000])
def test_a_retry_changes_the_entry_and_nothing_that_reaches_the_kernel(value):
    before = with_digest(made(module()), DIGEST)
    asked = module(metadata={"annotations": {RETRY_ANNOTATION: value}})
    after = with_digest(made(asked), DIGEST)
    assert before.retry == ""
    assert len(after.retry) == 16
    assert after.config_hash == before.config_hash
    again = module(metadata={"annotations": {RETRY_ANNOTATION: f"{value}2"}})
    assert made(again).retry not in ("", after.retry)


def test_a_version_of_the_pull_secret_is_a_retry_apart_from_one_that_is_asked_for():
    versions, asked = {PULL_SECRET_ANNOTATION: "7"}, {RETRY_ANNOTATION: "7"}
    tokens = {
        made(module(metadata={"annotations": annotations})).retry
        for annotations in (versions, asked, {**versions, **asked}, {PULL_SECRET_ANNOTATION: "8"})
    }
    assert len(tokens - {""}) == 4
