import pytest

from kmm_common.api.names import Reason
from kmm_common.desired import ModuleFailure
from kmm_daemon.cutshort import warning


@pytest.mark.parametrize(
    ("reason", "exit_code", "expected"),
    [
        (Reason.TIMED_OUT, None, True),
        (Reason.STILL_RUNNING, None, True),
        (Reason.KILLED, None, True),
        (Reason.TIMED_OUT, 0, False),
        (Reason.DEVICE_ERROR, 1, False),
        ("OfALaterDaemon", None, False),
    ],
)
def test_load_was_cut_short_when_its_modprobe_did_not_end_by_itself(reason, exit_code, expected):
    failure = ModuleFailure(reason=reason, message="", exit_code=exit_code)
    assert ("devices may be missing" in warning(failure)) is expected
