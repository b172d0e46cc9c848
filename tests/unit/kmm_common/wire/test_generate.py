from kmm_common.wire import generate


def test_committed_code_is_what_the_protos_say() -> None:
    assert generate.outdated() == []
