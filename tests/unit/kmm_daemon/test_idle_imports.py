"""What a daemon on every node of a fleet does not import, for it would pay for it all the time."""

import json
import subprocess
import sys
from pathlib import Path

_LOAD = """
import sys
from pathlib import Path
from kmm_daemon import cli, settings
settings.load(Path(sys.argv[1]), {"KMM_DAEMON_DRIFT_CHECK_SECONDS": "30.0"})
print(*(name for name in sys.argv[2:] if name in sys.modules))
"""
UNWANTED = (
    "aiohttp",
    "cryptography",
    "kubernetes_asyncio",
    "oras",
    "yaml",
    "kmm_common.scrapers",
    "kmm_common.sampling",
    "kmm_common.tasks",
)


def test_a_daemon_whose_settings_are_json_imports_nothing_that_it_does_not_need(
    tmp_path: Path,
) -> None:
    file = tmp_path / "daemon.json"
    tls = {"cert": "tls.crt", "key": "tls.key", "ca": "ca.crt"}
    file.write_text(json.dumps({"server": "kmm-cp:8443", "tls": tls}))
    argv = [sys.executable, "-c", _LOAD, str(file), *UNWANTED]
    assert subprocess.run(argv, check=True, capture_output=True, text=True).stdout.split() == []
