"""Between messages and the daemon's values; raises MessageError for what is wrong."""

from kmm_common.oci.credentials import RegistryCredential
from kmm_common.wire import convert, versions
from kmm_common.wire.errors import MessageError
from kmm_common.wire.gen.kmm import v1 as pb
from kmm_daemon.values import Accepted, DesiredUpdate, Hello, StateReport, UpdateKind

_KINDS = {
    pb.UpdateKind.SNAPSHOT: UpdateKind.SNAPSHOT,
    pb.UpdateKind.UNCHANGED: UpdateKind.UNCHANGED,
    pb.UpdateKind.DIFF: UpdateKind.DIFF,
}


def watch_request(hello: Hello, *, instance: str, version: str) -> pb.WatchRequest:
    """Return what a session is opened with."""
    return pb.WatchRequest(
        protocol_version=versions.NEWEST,
        oldest_protocol_version=versions.OLDEST,
        instance=instance,
        boot_id=hello.boot_id,
        kernel_version=hello.kernel_version,
        daemon_version=version,
        uid=hello.uid,
        generation=hello.generation,
        content_hash=hello.content_hash,
        state=state_report(hello.state),
    )


def state_report(report: StateReport) -> pb.StateReport:
    """Return the whole truth of the node."""
    return pb.StateReport(
        sequence=report.sequence,
        uid=report.uid,
        observed_generation=report.observed_generation,
        modules=[convert.reported_to_message(module) for module in report.modules],
        accepted_uid=report.accepted_uid,
        accepted_generation=report.accepted_generation,
    )


def ack(accepted: Accepted) -> pb.ReportMessage:
    """Return the acknowledgement of a journaled update."""
    return pb.ReportMessage(ack=pb.Ack(uid=accepted.uid, generation=accepted.generation))


def desired_update(update: pb.Update) -> DesiredUpdate:
    """Return an update of the desired state."""
    kind = _KINDS.get(update.kind)
    if kind is None:
        raise MessageError(f"Update.kind {int(update.kind)} is not known")
    if not update.uid:
        raise MessageError("Update.uid is missing")
    upserts = tuple(convert.desired_from_message(one) for one in update.upserts)
    if len({module.ref for module in upserts}) != len(upserts):
        raise MessageError("Update names a Module twice")
    return DesiredUpdate(
        kind=kind,
        uid=update.uid,
        generation=update.generation,
        base_generation=update.base_generation,
        upserts=upserts,
        removals=tuple(convert.ref_from_message(one) for one in update.removals),
        content_hash=update.content_hash,
        partly_known=convert.partly_known(update),
    )


def credential(message: pb.RegistryCredential) -> RegistryCredential:
    """Return one credential of a pull secret."""
    return RegistryCredential(
        registry=message.registry,
        username=message.username,
        password=message.password,
        identity_token=message.identity_token,
    )
