"""A directory of certificates as kubelet and cert-manager's CSI driver keep one.

Both write by Kubernetes' AtomicWriter: every version has a directory of its own, `..data` is a
symbolic link to the current one, and what users open (`tls.crt`) are links through `..data`. A new
version becomes visible by the rename of a new link over `..data`, in one step for all files; then
the old version is removed, so that whoever reads meanwhile may find a file gone.
"""

import shutil
from pathlib import Path

from kmm_common.tls import TlsFiles
from kmm_sandbox.pki import Authority, Credential

FILES = ("tls.crt", "tls.key", "ca.crt")


def bundle(*authorities: Authority) -> bytes:
    """Return the certificates of several authorities, as a file of trust has them."""
    return b"".join(authority.credential.cert_pem for authority in authorities)


class CertificateVolume:
    """One mounted volume: certificate, key, and what the other side must be signed by."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._number = 0
        directory.mkdir(parents=True)

    @property
    def files(self) -> TlsFiles:
        """What settings name; the same paths for ever."""
        cert, key, ca = (self._directory / name for name in FILES)
        return TlsFiles(cert=cert, key=key, ca=ca)

    def publish(self, credential: Credential, trusted: bytes) -> None:
        """Replace all files at once; `trusted` is PEM."""
        self._number += 1
        version = self._directory / f"..2026_01_01_00_00_00.{self._number:09d}"
        version.mkdir(mode=0o750)
        contents = (credential.cert_pem, credential.key_pem, trusted)
        for name, content in zip(FILES, contents, strict=True):
            (version / name).write_bytes(content)
            (version / name).chmod(0o440)
        self._show(version)

    def _show(self, version: Path) -> None:
        data, new = self._directory / "..data", self._directory / "..data_tmp"
        before = self._directory / data.readlink() if data.is_symlink() else None
        new.symlink_to(version.name)
        new.replace(data)
        for name in FILES:
            link = self._directory / name
            if not link.is_symlink():
                link.symlink_to(f"..data/{name}")
        if before is not None:
            shutil.rmtree(before)
