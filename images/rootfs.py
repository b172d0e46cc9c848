"""Makes an image's root directory of files of installed Debian packages; runs in the build stage.

The packages are those named and what they depend on. Of the files, documentation and the like stay
behind; of the packages, what only sets others up. Nothing of the application is looked at, but
bytecode is compiled for both, since the image's root is read-only.
"""

import argparse
import base64
import compileall
import csv
import hashlib
import os
import re
import shutil
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from py_compile import PycInvalidationMode

DPKG = Path("/var/lib/dpkg")
NOT_NEEDED = {
    "openssl": "ca-certificates hashes names of files with it; OpenSSL and Python read one file",
    "debconf": "asks questions when packages are installed",
    "dpkg": "installs packages",
    "libdb5.3": "for dbm.ndbm",
    "libncursesw6": "for curses",
    "libnsl2": "for nis",
    "libreadline8": "for whoever types at Python",
    "libsqlite3-0": "for sqlite3",
    "libtinfo6": "for curses and readline",
    "libtirpc3": "for nis, and needs Kerberos",
}
"""Packages that others depend on, and why an image does without."""
LEFT_OUT = re.compile(
    r"/usr/share/(man|info|locale|lintian|bug|bash-completion|menu|pixmaps|applications)/"
    r"|/usr/share/doc/[^/]+/(?!copyright$)"
    r"|/etc/(init\.d|cron\.|default/|modprobe\.d|depmod\.d|modules)"
    r"|/usr/share/initramfs-tools/|/lib/(systemd|modprobe\.d|depmod\.d)/|/usr/lib/(tmpfiles\.d|systemd)/"
    # Converters between character sets, for iconv(3); Python has its own.
    r"|.*/gconv/"
    # Of Python: what has no library here, its manual, a rewriter of Python 2.
    r"|.*/lib-dynload/(_curses|_curses_panel|_dbm|_sqlite3|nis|readline)\."
    r"|/usr/lib/python3\.\d+/(curses|lib2to3|pydoc_data|sqlite3)/"
    r"|/usr/share/(binfmts|python3)/"
    # One file has all of them.
    r"|/usr/sbin/update-ca-certificates|/usr/share/ca-certificates/"
    # Made anew.
    r"|.*/__pycache__/"
)
SYSTEM = ("etc/os-release", "usr/lib/os-release", "etc/debian_version")
"""By these, scanners for vulnerabilities know whose packages there are."""
MERGED = ("bin", "sbin", "lib", "lib64")
AUTHORITIES = "etc/ssl/certs/ca-certificates.crt"
USERS = "root:x:0:0:root:/:/usr/sbin/nologin\nkmm:x:65532:65532:kmm:/:/usr/sbin/nologin\n"
GROUPS = "root:x:0:\nkmm:x:65532:\n"
Stanza = Mapping[str, str]


def stanzas(status: str) -> dict[str, Stanza]:
    """Return the installed packages of dpkg's status file, by name; fields as they stand there."""
    found: dict[str, Stanza] = {}
    for block in status.strip().split("\n\n"):
        fields = dict(re.findall(r"^([\w-]+): ?(.*(?:\n[ \t].*)*)", block, re.MULTILINE))
        if fields.get("Status", "").endswith(" installed"):
            found[fields["Package"]] = fields
    return found


def closure(wanted: Iterable[str], installed: Mapping[str, Stanza]) -> list[str]:
    """Return the names of packages and all that they depend on, sorted. Raises SystemExit."""
    providers = {
        name: package
        for package, fields in installed.items()
        for name in _names(fields.get("Provides", ""))
    }
    found, rest = set[str](), list(wanted)
    while rest:
        name = rest.pop()
        package = name if name in installed else providers.get(name, "")
        if package in found or name in NOT_NEEDED or package in NOT_NEEDED:
            continue
        if not package:
            raise SystemExit(f"{name} is not installed in the base: install it there")
        found.add(package)
        rest += _dependencies(installed[package], {*installed, *providers})
    return sorted(found)


def _dependencies(fields: Stanza, known: Iterable[str]) -> Iterator[str]:
    for key in ("Pre-Depends", "Depends"):
        for alternatives in filter(None, fields.get(key, "").split(",")):
            names = [*_names(alternatives.replace("|", ","))]
            yield next((name for name in names if name in known), names[0])


def _names(relation: str) -> Iterator[str]:
    """Yield python3.11 of `python3.11:any (>= 3.11.2), `."""
    for each in filter(None, (part.strip() for part in relation.split(","))):
        yield re.split(r"[\s:(]", each)[0]


def files_of(package: str) -> list[Path]:
    """Return what a package installed and an image needs: files and links, no directories."""
    (listing,) = [
        path
        for path in (DPKG / "info").glob(f"{package}*.list")
        if path.stem.split(":")[0] == package
    ]
    paths = [Path(line) for line in listing.read_text().splitlines() if not LEFT_OUT.match(line)]
    return [path for path in paths if path.is_symlink() or path.is_file()]


def copy(path: Path, root: Path) -> None:
    """Copy a file or a link to its place below `root`, without bits that give its owner's rights.

    Where a directory on the way is a link (/lib), the file is where that leads to.
    """
    target = root / (path.parent.resolve() / path.name).relative_to("/")
    target.parent.mkdir(parents=True, exist_ok=True)
    if target.is_symlink() or target.exists():
        return
    shutil.copy2(path, target, follow_symlinks=False)
    if not target.is_symlink():
        target.chmod(target.stat().st_mode & 0o755)


def make(root: Path, packages: Mapping[str, Stanza]) -> None:
    """Write packages and what a system has besides them."""
    for name in MERGED:
        if Path("/", name).is_symlink():
            (root / "usr" / name).mkdir(parents=True, exist_ok=True)
            (root / name).symlink_to(f"usr/{name}")
    for name in SYSTEM:
        copy(Path("/", name), root)
    records = root / "var/lib/dpkg/status.d"
    records.mkdir(parents=True)
    for package, fields in packages.items():
        for path in files_of(package):
            copy(path, root)
        (records / package).write_text("".join(f"{key}: {fields[key]}\n" for key in fields))
    _write(root / AUTHORITIES, _authorities())
    (root / "usr/lib/ssl").mkdir(parents=True)
    (root / "usr/lib/ssl/cert.pem").symlink_to(f"/{AUTHORITIES}")
    _write(root / "etc/passwd", USERS)
    _write(root / "etc/group", GROUPS)
    _write(root / "etc/nsswitch.conf", "hosts: files dns\n")
    for name in ("dev", "proc", "run", "sys", "tmp"):
        (root / name).mkdir()
    (root / "tmp").chmod(0o1777)


def _authorities() -> str:
    certificates = sorted(Path("/usr/share/ca-certificates/mozilla").glob("*.crt"))
    return "".join(f"{path.read_text().strip()}\n" for path in certificates)


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def renew_records(application: Path) -> None:
    """Have the RECORD of each Python distribution list what is still there, as it is now."""
    for record in application.rglob("*.dist-info/RECORD"):
        place = record.parent.parent
        with record.open(newline="") as file:
            names = [row[0] for row in csv.reader(file) if (place / row[0]).is_file()]
        with record.open("w", newline="") as file:
            writer = csv.writer(file, lineterminator="\n")
            writer.writerows(_row(place, name, own=name.endswith("/RECORD")) for name in names)


def _row(place: Path, name: str, *, own: bool) -> tuple[str, str, str]:
    if own:
        return name, "", ""
    content = (place / name).read_bytes()
    digest = base64.urlsafe_b64encode(hashlib.sha256(content).digest()).rstrip(b"=").decode()
    return name, f"sha256={digest}", str(len(content))


def compile_all(tree: Path) -> None:
    """Compile all modules below a directory. Raises SystemExit.

    No times are in the bytecode, which is not compared with the source when it is loaded, and no
    marks under the faulty part of a line (-X no_debug_ranges), for which every node pays memory.
    """
    done = compileall.compile_dir(
        tree,
        maxlevels=50,
        quiet=1,
        stripdir=str(tree),
        prependdir="/",
        invalidation_mode=PycInvalidationMode.UNCHECKED_HASH,
    )
    if not done:
        raise SystemExit(f"{tree}: not all modules could be compiled")


def same_times(tree: Path, seconds: int) -> None:
    """Give everything below a directory one time."""
    for directory, names, files in os.walk(tree):
        for name in (*names, *files):
            os.utime(Path(directory, name), (seconds, seconds), follow_symlinks=False)
    os.utime(tree, (seconds, seconds))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--to", type=Path, required=True, help="directory to make")
    parser.add_argument("--application", type=Path, required=True, help="what is installed besides")
    parser.add_argument("packages", nargs="+")
    options = parser.parse_args()
    installed = stanzas((DPKG / "status").read_text())
    names = closure(options.packages, installed)
    make(options.to, {name: installed[name] for name in names})
    renew_records(options.application)
    for tree in (options.to, options.application):
        compile_all(tree)
        same_times(tree, int(os.environ.get("SOURCE_DATE_EPOCH", "0")))


if __name__ == "__main__":
    main()
