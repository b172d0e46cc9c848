"""What a service account token says of itself, unproved: reason enough to refuse it, no other.

Whoever reaches the port can make the control plane ask the API server only for the name and uid
of a daemon's pod that there is.
"""

import base64
import binascii
import json
from typing import Any

from kmm_common.errors import TerminalError
from kmm_common.tls import PodIdentity

AUDIENCE = "kmm.sigs.x-k8s.io"
_PARTS = 3
_MOUNT = (
    f"mount a projected serviceAccountToken volume of audience {AUDIENCE} in the daemon's Pod and"
    " set enrol.token to its file"
)


class TokenError(TerminalError):
    """A token that lets nobody in; the message has the remedy, and no word of the token."""

    def __init__(self, why: str, remedy: str = _MOUNT) -> None:
        super().__init__(f"token: {why}; {remedy}", reason="TokenRefused")


def claimed(token: str, *, now: float) -> PodIdentity:
    """Return the pod that a token names, if it can be of use at this Unix time. TokenError."""
    claims = _claims(token)
    audiences = claims.get("aud")
    if AUDIENCE not in (audiences if isinstance(audiences, list) else [audiences]):
        raise TokenError("is for another audience")
    expires = claims.get("exp")
    if not isinstance(expires, int | float) or expires <= now:
        remedy = "the kubelet renews it: read its file anew, or set the clocks of the machines"
        raise TokenError("has expired", remedy)
    bound = _mapping(claims.get("kubernetes.io"))
    account, pod = _mapping(bound.get("serviceaccount")), _mapping(bound.get("pod"))
    found = PodIdentity(
        namespace=str(bound.get("namespace", "")),
        service_account=str(account.get("name", "")),
        name=str(pod.get("name", "")),
        uid=str(pod.get("uid", "")),
    )
    if not (found.name and found.uid):
        raise TokenError("is bound to no Pod")
    return found


def _claims(token: str) -> dict[str, Any]:
    """Return the claims of a JWT (RFC 7519), whose signature is not looked at."""
    parts = token.split(".")
    if len(parts) != _PARTS:
        raise TokenError("is no service account token")
    padded = parts[1] + "=" * (-len(parts[1]) % 4)
    try:
        claims = json.loads(base64.b64decode(padded, altchars=b"-_", validate=True))
    # Deeply nested arrays are a RecursionError.
    except (binascii.Error, ValueError, RecursionError):
        # Without its cause, whose text may quote the token.
        raise TokenError("is no service account token") from None
    return _mapping(claims)


def _mapping(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}
