"""What an administrator's settings ask of the leader."""

from kmm_cp.policy.daemonset import Wish
from kmm_cp.policy.module_status import Rules
from kmm_cp.settings import Settings


def rules_of(settings: Settings) -> Rules:
    """Return what an administrator has set for all Modules."""
    return Rules(
        tolerated_failures=settings.tolerated_failures,
        disconnected_seconds=settings.disconnected_seconds,
    )


def wish_of(settings: Settings) -> Wish | None:
    """Return the DaemonSet that an administrator wants of us; None if it is somebody else's."""
    if not settings.daemon_template:
        return None
    return Wish(
        name=settings.daemon_daemonset,
        namespace=settings.namespace,
        max_unavailable=settings.daemon_max_unavailable,
        template=settings.daemon_template,
        deployment=settings.deployment,
    )
