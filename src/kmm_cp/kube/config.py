"""Where the API server is and who we are: a kubeconfig, or a Pod's service account."""

import binascii
import contextlib
import os
import re
import ssl
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import yaml
from kubernetes_asyncio import client as k8s
from kubernetes_asyncio import config as k8s_config
from kubernetes_asyncio.config import kube_config

from kmm_common.errors import TerminalError

_UNUSABLE = (
    *(k8s_config.ConfigException, OSError, yaml.YAMLError),
    *(AssertionError, AttributeError, TypeError, ValueError),
)
"""The second line is what the library raises for a field that is missing or of another type."""

_ENTRY = re.compile(r"/\{.*\}", re.DOTALL)
"""How the library names an entry of clusters, contexts or users: all of it, with its secrets."""


@contextlib.asynccontextmanager
async def loaded(kubeconfig: Path | None) -> AsyncIterator[Any]:
    """Yield kubernetes_asyncio's Configuration, for the body to make its client of.

    Args:
        kubeconfig: a path, or several as $KUBECONFIG has them; None for a Pod's service account.

    Raises:
        TerminalError: there is none, or it is of no use; keys and certificates are read by the
            body only.
    """
    # Without a host of its own the library would send the credentials to http://localhost.
    configuration = k8s.Configuration(host="")
    try:
        await _load(configuration, kubeconfig)
        _require_url(configuration.host or "")
        yield configuration
    except _UNUSABLE as error:
        raise TerminalError(
            f"kubeconfig {kubeconfig or '(in cluster)'}: {_problem(error)}",
            reason="InvalidSettings",
        ) from error
    finally:
        # ssl loads keys from files only: those that were embedded have been written to some, which
        # the library would leave there until a clean exit.
        kube_config._cleanup_temp_files()


async def _load(configuration: Any, kubeconfig: Path | None) -> None:
    if kubeconfig is None:
        k8s_config.load_incluster_config(configuration)  # type: ignore[no-untyped-call]
        return
    _require_one_of(str(kubeconfig).split(os.pathsep))
    await k8s_config.load_kube_config(
        config_file=str(kubeconfig), client_configuration=configuration
    )


def _require_one_of(paths: list[str]) -> None:
    if not any(Path(path).expanduser().exists() for path in paths):
        raise FileNotFoundError("there is no such file")


def _require_url(server: str) -> None:
    if not server.startswith(("https://", "http://")):
        raise ValueError(f"the cluster's server is {server!r}, no URL such as https://host:6443")


def _problem(error: Exception) -> str:
    """Return what is wrong in words of the file's fields, never their values: some are secret."""
    match error:
        case ssl.SSLError():
            return (
                "certificate-authority, client-certificate or client-key (or its -data) is no PEM, "
                f"or key and certificate are no pair: {error}"
            )
        case binascii.Error():
            return f"a field whose name ends in -data is no base64: {error}"
        case UnicodeDecodeError():
            return "it is no text in UTF-8"
        case AssertionError() | AttributeError() | TypeError():
            told = f" ({error})" if str(error) else ""
            return (
                f"a field is missing or not of its type{told}; a cluster needs a server, a context "
                "its cluster and user, and clusters, contexts and users are lists"
            )
        case _:
            return _ENTRY.sub("", str(error)) or type(error).__name__
