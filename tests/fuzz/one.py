"""python -m fuzz.one TARGET SECONDS CORPUS FOUND: fuzz one target in this process with atheris."""

import sys

import atheris

with atheris.instrument_imports(include=["kmm_common", "kmm_cp", "kmm_daemon"]):
    from fuzz.targets import CORPUS, TARGETS


def main() -> None:
    name, seconds, corpus, found = sys.argv[1:]
    options = [
        f"-max_total_time={seconds}",
        f"-artifact_prefix={found}/",
        "-timeout=10",
        "-rss_limit_mb=2048",
        "-print_final_stats=1",
        # The corpus in the checkout is read only; what is new goes to the first directory.
        corpus,
        str(CORPUS / name),
    ]
    atheris.Setup([sys.argv[0], *options], TARGETS[name].run)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
