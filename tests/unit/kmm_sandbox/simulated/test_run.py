"""What is said of simulated nodes."""

from kmm_sandbox.simulated.run import ASKED, notice


def test_notice_says_what_is_not_real_why_and_how_to_have_it_real() -> None:
    first, why, real = notice("nodes need root")
    assert first.startswith("SIMULATED NODES: no kernel is touched")
    assert why.endswith("nodes need root")
    assert "NODES=process" in real


def test_notice_of_a_machine_that_can_have_real_kernels_says_that_they_were_not_asked_for() -> None:
    assert notice("")[1].endswith(ASKED)
