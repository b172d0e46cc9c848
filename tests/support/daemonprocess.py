"""kmm-daemon as a process of this machine, on a kernel of files and for a node without Modules."""

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from kmm_common.tls import TlsFiles
from kmm_sandbox.ports import KeptPorts
from kmm_sandbox.processes import Launcher, Process
from support.tmpkernel import TmpKernel

PROGRAM = "kmm_sandbox.simulated.daemon"
STOP_SECONDS = 20.0


@contextmanager
def running_daemon(
    directory: Path, *, server_port: int, files: TlsFiles, **changes: Any
) -> Iterator[tuple[Process, str]]:
    """Run it until the end of the block; yield the process and its `metrics_listen`."""
    with KeptPorts() as ports:
        listen = ports.address()
        settings = {
            "server": f"127.0.0.1:{server_port}",
            "server_name": "localhost",
            "tls": {"cert": str(files.cert), "key": str(files.key), "ca": str(files.ca)},
            "run_dir": str(directory / "run"),
            "state_dir": str(directory / "state"),
            "firmware_dir": str(directory / "firmware"),
            "metrics_listen": listen,
            "log_format": "json",
            **changes,
        }
        kernel = TmpKernel(directory / "kernel")
        config = directory / "daemon.json"
        config.write_text(json.dumps(settings))
        argv = [sys.executable, "-m", PROGRAM, str(kernel.root), "--config", str(config)]
        process = Launcher(logs=directory, leashed=True).start("kmm-daemon", argv)
        try:
            yield process, listen
            process.require_alive()
            assert process.stop(grace=STOP_SECONDS) == 0
        finally:
            process.kill()
