from hypothesis import given
from hypothesis import strategies as st

from kmm_common.desired import DesiredModule, ModuleRef
from kmm_common.wire import convert, fragments
from kmm_common.wire.gen.kmm import v1 as pb
from support.desired import DESIRED


@given(st.lists(DESIRED, max_size=4))
def test_joined_fragments_are_the_whole_update(modules: list[DesiredModule]) -> None:
    head = fragments.header(
        kind=pb.UpdateKind.DIFF,
        session_id="s",
        protocol_version=1,
        uid="u",
        generation=7,
        base_generation=6,
        content_hash=b"hash",
        removals=[ModuleRef("a", "b")],
    )
    whole = pb.Update(
        kind=pb.UpdateKind.DIFF,
        session_id="s",
        protocol_version=1,
        uid="u",
        generation=7,
        base_generation=6,
        content_hash=b"hash",
        upserts=[convert.desired_to_message(module) for module in modules],
        removals=[pb.ModuleRef(namespace="a", name="b")],
    )
    joined = fragments.update(head, map(fragments.upsert, modules))
    assert pb.Update.parse(joined) == whole
