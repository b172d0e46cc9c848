"""Between the values of kmm_common.desired and messages; what comes in is checked."""

from collections.abc import Iterable
from typing import TypeVar

import betterproto2
from betterproto2 import Message

from kmm_common.desired import (
    MESSAGE_BYTES,
    DesiredModule,
    Modprobe,
    ModprobeArgs,
    ModuleFailure,
    ModuleRef,
    ModuleState,
    RegistryTLS,
    ReportedModule,
    cut,
)
from kmm_common.wire.errors import MessageError
from kmm_common.wire.gen.kmm import v1 as pb

_T = TypeVar("_T")

TEXT_LENGTH = 1024
"""Bound of every name, uid, digest and hash that a daemon reports."""
_MILLISECONDS = 253_402_300_800_000
"""The year 10000: later than any time that can be written down."""

_STATE_TO_MESSAGE = {state: pb.ModuleReportState[state.name] for state in ModuleState}
_STATE_FROM_MESSAGE = {message: state for state, message in _STATE_TO_MESSAGE.items()}


def ref_to_message(ref: ModuleRef) -> pb.ModuleRef:
    return pb.ModuleRef(namespace=ref.namespace, name=ref.name)


def ref_from_message(message: pb.ModuleRef | None) -> ModuleRef:
    """Raises MessageError where namespace or name is missing."""
    if message is None or not (message.namespace and message.name):
        raise MessageError("ModuleRef needs namespace and name")
    return ModuleRef(message.namespace, message.name)


def desired_to_message(module: DesiredModule) -> pb.DesiredModule:
    return pb.DesiredModule(
        namespace=module.namespace,
        name=module.name,
        uid=module.uid,
        kernel_version=module.kernel_version,
        image=module.image,
        image_digest=module.image_digest,
        image_pull_policy=module.image_pull_policy,
        pull_secret=module.pull_secret,
        registry_tls=pb.RegistryTls(
            insecure=module.registry_tls.insecure,
            insecure_skip_tls_verify=module.registry_tls.insecure_skip_tls_verify,
        ),
        in_tree_modules_to_remove=list(module.in_tree_modules_to_remove),
        modprobe=_modprobe_to_message(module.modprobe),
        config_hash=module.config_hash,
        conflicts_with=module.conflicts_with,
        version=module.version,
        retry=module.retry,
    )


def desired_from_message(message: pb.DesiredModule) -> DesiredModule:
    """Raises MessageError where a part is missing."""
    about = f"DesiredModule {message.namespace}/{message.name}"
    if not (message.namespace and message.name):
        raise MessageError("DesiredModule needs namespace and name")
    tls = _present(message.registry_tls, f"{about}: registry_tls")
    return DesiredModule(
        namespace=message.namespace,
        name=message.name,
        uid=message.uid,
        kernel_version=message.kernel_version,
        image=message.image,
        image_digest=message.image_digest,
        image_pull_policy=message.image_pull_policy,
        pull_secret=message.pull_secret,
        registry_tls=RegistryTLS(
            insecure=tls.insecure, insecure_skip_tls_verify=tls.insecure_skip_tls_verify
        ),
        in_tree_modules_to_remove=tuple(message.in_tree_modules_to_remove),
        modprobe=_modprobe_from_message(_present(message.modprobe, f"{about}: modprobe"), about),
        config_hash=message.config_hash,
        conflicts_with=message.conflicts_with,
        version=message.version,
        retry=message.retry,
    )


def reported_to_message(module: ReportedModule) -> pb.ModuleReport:
    return pb.ModuleReport(
        namespace=module.namespace,
        name=module.name,
        uid=module.uid,
        state=_STATE_TO_MESSAGE[module.state],
        in_kernel=module.in_kernel,
        image_digest=module.image_digest,
        config_hash=module.config_hash,
        attempts=module.attempts,
        since_ms=module.since_ms,
        error=_failure_to_message(module.error),
        retrying=module.retrying,
        warning=module.warning,
    )


def reported_from_message(message: pb.ModuleReport) -> ReportedModule:
    """Bounds failure and warning. Raises MessageError for an unknown state or a missing name."""
    if not (message.namespace and message.name):
        raise MessageError("ModuleReport needs namespace and name")
    state = _STATE_FROM_MESSAGE.get(message.state)
    if state is None:
        about = f"ModuleReport {message.namespace}/{message.name}"
        raise MessageError(f"{about}: state {int(message.state)} is not known")
    _check_bounds(message)
    return ReportedModule(
        namespace=message.namespace,
        name=message.name,
        uid=message.uid,
        state=state,
        in_kernel=message.in_kernel,
        image_digest=message.image_digest,
        config_hash=message.config_hash,
        attempts=message.attempts,
        since_ms=message.since_ms,
        error=_failure_from_message(message.error),
        retrying=message.retrying,
        warning=cut(message.warning, MESSAGE_BYTES),
    )


def modules_from_messages(messages: Iterable[pb.ModuleReport]) -> tuple[ReportedModule, ...]:
    """Raises MessageError where a Module is reported twice."""
    modules = tuple(reported_from_message(message) for message in messages)
    if len({module.ref for module in modules}) != len(modules):
        raise MessageError("StateReport names a Module twice")
    return modules


def partly_known(message: Message) -> bool:
    """Tell whether a message, or a part of it, has fields of a later release."""
    if message._unknown_fields:
        return True
    known = message._betterproto.meta_by_field_name  # type: ignore[arg-type]
    values = (getattr(message, name) for name in known)
    parts = (each for value in values for each in (value if isinstance(value, list) else [value]))
    return any(isinstance(part, Message) and partly_known(part) for part in parts)


def only_member(message: Message, group: str) -> Message | None:
    """Return the member of a oneof that is set; None if it is one of a later release.

    Raises MessageError unless exactly one is.
    """
    # betterproto2 neither refuses a second member nor requires a first.
    fields = message._betterproto.oneof_field_by_group[group]  # type: ignore[arg-type]
    members = [getattr(message, field.name) for field in fields]
    chosen = [member for member in members if member is not None]
    if not chosen and message._unknown_fields:
        return None
    if len(chosen) != 1:
        names = ", ".join(sorted(field.name for field in fields))
        raise MessageError(f"{type(message).__name__} needs exactly one of {names}")
    return _message(chosen[0])


def _check_bounds(message: pb.ModuleReport) -> None:
    texts = [message.namespace, message.name, message.uid, message.image_digest]
    texts += [message.config_hash, message.error.reason if message.error else ""]
    if any(len(text) > TEXT_LENGTH for text in texts):
        raise MessageError(f"ModuleReport holds a text of more than {TEXT_LENGTH} characters")
    if not 0 <= message.since_ms < _MILLISECONDS:
        raise MessageError("ModuleReport.since_ms is not a time")


def _message(member: object) -> Message:
    if not isinstance(member, betterproto2.Message):
        raise MessageError("member of a oneof is not a message")
    return member


def _modprobe_to_message(modprobe: Modprobe) -> pb.Modprobe:
    return pb.Modprobe(
        module_name=modprobe.module_name,
        dir_name=modprobe.dir_name,
        parameters=list(modprobe.parameters),
        args=_args_to_message(modprobe.args),
        raw_args=_args_to_message(modprobe.raw_args),
        firmware_path=modprobe.firmware_path,
        modules_loading_order=list(modprobe.modules_loading_order),
    )


def _modprobe_from_message(message: pb.Modprobe, about: str) -> Modprobe:
    return Modprobe(
        module_name=message.module_name,
        dir_name=message.dir_name,
        parameters=tuple(message.parameters),
        args=_args_from_message(_present(message.args, f"{about}: modprobe.args")),
        raw_args=_args_from_message(_present(message.raw_args, f"{about}: modprobe.raw_args")),
        firmware_path=message.firmware_path,
        modules_loading_order=tuple(message.modules_loading_order),
    )


def _args_to_message(args: ModprobeArgs) -> pb.ModprobeArgs:
    return pb.ModprobeArgs(load_args=list(args.load), unload_args=list(args.unload))


def _args_from_message(message: pb.ModprobeArgs) -> ModprobeArgs:
    return ModprobeArgs(load=tuple(message.load_args), unload=tuple(message.unload_args))


def _failure_to_message(failure: ModuleFailure | None) -> pb.ModuleError | None:
    if failure is None:
        return None
    return pb.ModuleError(
        reason=failure.reason,
        message=failure.message,
        exit_code=failure.exit_code,
        kernel_log=list(failure.kernel_log),
    )


def _failure_from_message(message: pb.ModuleError | None) -> ModuleFailure | None:
    if message is None:
        return None
    return ModuleFailure(
        reason=message.reason,
        message=message.message,
        exit_code=message.exit_code,
        kernel_log=tuple(message.kernel_log),
    ).bounded()


def _present(part: _T | None, about: str) -> _T:
    if part is None:
        raise MessageError(f"{about} is missing")
    return part
