"""Encoded parts of an Update: protobuf fields concatenate, so an Update is its parts joined."""

from collections.abc import Iterable

from kmm_common.desired import DesiredModule, ModuleRef
from kmm_common.wire import convert
from kmm_common.wire.codec import Pre
from kmm_common.wire.gen.kmm import v1 as pb


def upsert(module: DesiredModule) -> bytes:
    """Return an Update that holds one module and nothing else; the same for every node."""
    return bytes(pb.Update(upserts=[convert.desired_to_message(module)]))


def header(
    *,
    kind: pb.UpdateKind,
    session_id: str,
    protocol_version: int,
    uid: str,
    generation: int,
    base_generation: int,
    content_hash: bytes,
    removals: Iterable[ModuleRef],
) -> bytes:
    """Return an Update without its upserts."""
    return bytes(
        pb.Update(
            kind=kind,
            session_id=session_id,
            protocol_version=protocol_version,
            uid=uid,
            generation=generation,
            base_generation=base_generation,
            content_hash=content_hash,
            removals=[convert.ref_to_message(ref) for ref in removals],
        )
    )


def update(head: bytes, upserts: Iterable[bytes]) -> Pre:
    """Return a whole Update, encoded."""
    return Pre(b"".join((head, *upserts)))
