"""Runs programs in an image's files as a Pod would: its user, its environment, a read-only root."""

import subprocess
from collections.abc import Sequence
from pathlib import Path

from images.layout import Image

LIMIT_SECONDS = 120
READ_ONLY = """
set -eu
mount --make-rprivate /
mount --bind "$1" "$1"
mount -o remount,bind,ro "$1"
root=$1 user=$2
shift 2
exec chroot --userspec="$user" --groups= "$root" "$@"
"""
"""A shell of this machine's: the images have none."""


def run(image: Image, root: Path, argv: Sequence[str]) -> "subprocess.CompletedProcess[str]":
    """Run a program below `root`, where the image was unpacked; PATH is the image's."""
    config = image.config["config"]
    environment = dict(each.split("=", 1) for each in config["Env"])
    enter = ["unshare", "--mount", "--pid", "--fork", "--kill-child", "--net"]
    shell = ["sh", "-c", READ_ONLY, "sh", str(root), config["User"]]
    return subprocess.run(
        [*enter, "setpriv", "--no-new-privs", *shell, *argv],
        env=environment,
        capture_output=True,
        text=True,
        timeout=LIMIT_SECONDS,
    )
