"""A directory of certificates as kubelet and cert-manager's CSI driver keep one.

Both write by Kubernetes' AtomicWriter: every version has a directory of its own, `..data` is a
symbolic link to the current one, and what users open (`tls.crt`) are links through `..data`. A new
version becomes visible by the rename of a new link over `..data`, in one step for all files; then
the old version is removed, so that whoever reads meanwhile may find a file gone.

Run as a program it publishes in the directory that it is given what stdin has: a JSON object of
texts by name of file.
"""

import json
import shutil
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path

from kmm_common.tls import TlsFiles
from kmm_sandbox.pki import Authority, Credential

CERT, KEY, CA = "tls.crt", "tls.key", "ca.crt"


def bundle(*authorities: Authority) -> bytes:
    """Return the certificates of several authorities, as a file of trust has them."""
    return b"".join(authority.credential.cert_pem for authority in authorities)


def contents(credential: Credential, trusted: bytes) -> dict[str, bytes]:
    """Return the files of a volume; `trusted` is PEM of what signs the other side."""
    return {CERT: credential.cert_pem, KEY: credential.key_pem, CA: trusted}


def files(directory: Path) -> TlsFiles:
    """Return what settings name; the same paths for ever."""
    return TlsFiles(cert=directory / CERT, key=directory / KEY, ca=directory / CA)


class CertificateVolume:
    """One mounted volume."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        directory.mkdir(parents=True, exist_ok=True)

    @property
    def files(self) -> TlsFiles:
        """What it has."""
        return files(self._directory)

    def publish(self, credential: Credential, trusted: bytes) -> None:
        """Replace all files at once."""
        self.replace(contents(credential, trusted))

    def replace(self, new: Mapping[str, bytes]) -> None:
        """Replace the files by name."""
        version = Path(tempfile.mkdtemp(prefix="..2026_01_01_00_00_00.", dir=self._directory))
        for name, content in new.items():
            (version / name).write_bytes(content)
            (version / name).chmod(0o440)
        version.chmod(0o750)
        self._show(version, new)

    def _show(self, version: Path, names: Mapping[str, bytes]) -> None:
        data, link = self._directory / "..data", self._directory / "..data_tmp"
        before = self._directory / data.readlink() if data.is_symlink() else None
        link.symlink_to(version.name)
        link.replace(data)
        for name in names:
            seen = self._directory / name
            if not seen.is_symlink():
                seen.symlink_to(f"..data/{name}")
        if before is not None:
            shutil.rmtree(before)


def main() -> None:
    """Publish what stdin has."""
    new = {name: text.encode() for name, text in json.load(sys.stdin).items()}
    CertificateVolume(Path(sys.argv[1])).replace(new)


if __name__ == "__main__":
    main()
