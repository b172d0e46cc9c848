"""Between messages and the values of the serving side; raises MessageError for what is wrong."""

from kmm_common.wire import convert, versions
from kmm_common.wire.errors import MessageError
from kmm_common.wire.gen.kmm import v1 as pb
from kmm_cp.serving.values import Greeting, Journaled, Report


class ProtocolVersionError(MessageError):
    """The daemon speaks no version of the protocol that this server does."""


def greeting(request: pb.WatchRequest) -> Greeting:
    """Return what a daemon opens a session with. ProtocolVersionError names the versions served."""
    version = versions.common(request.protocol_version, request.oldest_protocol_version)
    if version is None:
        raise ProtocolVersionError(
            f"protocol version {request.protocol_version} is not served; this control plane needs"
            f" {versions.spoken()}: use a daemon of its release, or of the one before or after it"
        )
    for name in ("instance", "boot_id", "kernel_version"):
        _text(name, getattr(request, name), needed=True)
    _text("daemon_version", request.daemon_version)
    if request.state is None:
        raise MessageError("WatchRequest.state is missing")
    return Greeting(
        protocol_version=version,
        instance=request.instance,
        boot_id=request.boot_id,
        kernel_version=request.kernel_version,
        daemon_version=request.daemon_version,
        journaled=Journaled(
            uid=_text("uid", request.uid),
            generation=request.generation,
            content_hash=request.content_hash,
        ),
        report=report(request.state),
    )


def report(message: pb.StateReport) -> Report:
    """Return what a daemon says about its Modules."""
    for name in ("observed_generation", "accepted_generation"):
        if getattr(message, name) < 0:
            raise MessageError(f"StateReport.{name} is negative")
    return Report(
        sequence=message.sequence,
        uid=_text("uid", message.uid),
        observed_generation=message.observed_generation,
        modules=convert.modules_from_messages(message.modules),
        accepted_uid=_text("accepted_uid", message.accepted_uid),
        accepted_generation=message.accepted_generation,
    )


def _text(name: str, text: str, *, needed: bool = False) -> str:
    if needed and not text:
        raise MessageError(f"WatchRequest.{name} is missing")
    if len(text) > convert.TEXT_LENGTH:
        raise MessageError(f"{name} has more than {convert.TEXT_LENGTH} characters")
    return text
