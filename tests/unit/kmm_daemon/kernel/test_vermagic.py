import pytest

from kmm_daemon.kernel.vermagic import excludes


@pytest.mark.parametrize(
    ("vermagic", "release", "expected"),
    [
        ("6.1.177 mod_unload", "6.1.176", True),
        ("6.1.176 SMP preempt mod_unload", "6.1.176", False),
        ("6.1.177 SMP mod_unload modversions", "6.1.176", False),
        ("6.1.177", "6.1.176", True),
        ("", "6.1.176", False),
        ("5.14.0+ mod_unload", "5.14.0+", False),
        ("5.14.0 mod_unload", "5.14.0+", True),
        ("5.14.0 mod_unload modversions", "5.14.0+", False),
    ],
)
def test_file_is_excluded_only_when_the_kernel_compares_its_release(vermagic, release, expected):
    """A last `+` counts: the kernel compares it too, whatever directory the image has."""
    assert excludes(vermagic, release) is expected
