"""Which mapping a kernel gets."""

import pytest

from kmm_common.errors import TerminalError
from kmm_cp.policy.mapping import mapping_for
from support.policy import module

KERNEL = "5.14.0-284.11.1.el9_2.x86_64"


@pytest.mark.parametrize(
    ("mappings", "kernel", "expected"),
    [
        ([{"literal": KERNEL}], KERNEL, 0),
        ([{"literal": KERNEL[:-1]}], KERNEL, None),
        ([{"literal": KERNEL.upper()}], KERNEL, None),
        ([{"literal": "5.15.0-1040-gke"}], "5.15.0-1040-gke+", 0),
        ([{"literal": "5.15.0-1040-gke+"}], "5.15.0-1040-gke+", None),
        ([{"regexp": r"^.*\.el9_2\.x86_64$"}], KERNEL, 0),
        ([{"regexp": "el9"}], KERNEL, 0),
        ([{"regexp": "^el9"}], KERNEL, None),
        ([{"regexp": r"5\.14\.\d+"}], KERNEL, 0),
        ([{"regexp": r"\pN+$"}], KERNEL, 0),
        ([{"regexp": r"gke$"}], "5.15.0-1040-gke+", 0),
        ([{"regexp": "nothing"}, {"literal": KERNEL}], KERNEL, 1),
        ([{"regexp": ".*"}, {"literal": KERNEL}], KERNEL, 0),
        ([{"literal": KERNEL}, {"regexp": ".*"}], KERNEL, 0),
        ([{"literal": "other"}, {"regexp": "other"}, {}], KERNEL, None),
    ],
)
def test_the_first_mapping_that_matches_is_taken(mappings, kernel, expected):
    match = mapping_for(module(mappings=mappings), kernel)
    assert (match.index if match else None) == expected
    if match:
        assert match.mapping == match.container.kernel_mappings[match.index]


@pytest.mark.parametrize("regexp", ["(", "(?=el9)", r"(a)\1", "[z-a]", "a{2000}"])
def test_an_expression_that_re2_does_not_take_is_refused_by_field(regexp, capfd):
    mappings = [{"literal": "other"}, {"regexp": regexp}]
    with pytest.raises(TerminalError, match=r"kernelMappings\[1\]\.regexp: ") as refused:
        mapping_for(module(mappings=mappings), KERNEL)
    assert refused.value.reason == "InvalidMapping"
    assert capfd.readouterr().err == ""


def test_a_mapping_that_matches_hides_an_invalid_one_behind_it():
    found = mapping_for(module(mappings=[{"literal": KERNEL}, {"regexp": "("}]), KERNEL)
    assert found is not None


def test_a_module_without_module_loader_matches_no_kernel():
    assert mapping_for(module(spec={"moduleLoader": None}), KERNEL) is None
