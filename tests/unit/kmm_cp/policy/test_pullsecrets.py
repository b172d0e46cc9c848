import pytest

from kmm_common.api.names import Reason
from kmm_cp.policy.pullsecrets import SecretForbiddenError

REFUSAL = 'secrets "pull" is forbidden: User "{}" cannot get resource "secrets" in API group ""'


@pytest.mark.parametrize(
    ("refusal", "subject"),
    [
        (REFUSAL.format("system:serviceaccount:kmm:cp"), "--serviceaccount=kmm:cp"),
        (REFUSAL.format("ann"), "--user=ann"),
        ("Unauthorized", "--serviceaccount=kmm-operator-system:kmm-cp"),
    ],
    ids=["service account", "user", "unknown"],
)
def test_what_is_forbidden_is_told_with_the_command_that_allows_it(refusal, subject):
    error = SecretForbiddenError("team", "pull", refusal=refusal)
    role = "kmm-pull-secrets"
    command = f"kubectl create rolebinding {role} -n team --clusterrole={role} {subject}"
    assert str(error) == f"KMM may not read Secret team/pull; allow it: {command}"
    assert error.reason == Reason.IMAGE_UNAUTHORIZED
