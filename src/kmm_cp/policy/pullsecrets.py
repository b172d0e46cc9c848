"""What is told of a pull secret that the control plane may not read."""

import re

from kmm_common.api.names import Reason
from kmm_common.errors import TerminalError

ROLE = "kmm-pull-secrets"
"""ClusterRole of manifests/base/rbac.yaml; a RoleBinding in a namespace allows its Secrets."""
_USER = re.compile(r'User "(?P<user>[^"]+)"')
_SERVICE_ACCOUNT = "system:serviceaccount:"
_USUAL_SUBJECT = "--serviceaccount=kmm-operator-system:kmm-cp"


class SecretForbiddenError(TerminalError):
    """No RoleBinding lets the control plane read the Secrets of a namespace."""

    def __init__(self, namespace: str, name: str, *, refusal: str) -> None:
        """`refusal`: what the API server said, which names the user that it refused."""
        message = (
            f"KMM may not read Secret {namespace}/{name}; allow it: "
            f"{binding_command(namespace, refusal)}"
        )
        super().__init__(message, reason=Reason.IMAGE_UNAUTHORIZED)


def binding_command(namespace: str, refusal: str) -> str:
    """Return the command that lets the refused user read pull secrets in a namespace."""
    return (
        f"kubectl create rolebinding {ROLE} -n {namespace} --clusterrole={ROLE} {_subject(refusal)}"
    )


def _subject(refusal: str) -> str:
    found = _USER.search(refusal)
    if found is None:
        return _USUAL_SUBJECT
    user = found["user"]
    if user.startswith(_SERVICE_ACCOUNT):
        return f"--serviceaccount={user.removeprefix(_SERVICE_ACCOUNT)}"
    return f"--user={user}"
