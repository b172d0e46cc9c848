#!/bin/sh
# Installs below /application: `install.sh LOCK` the wheels of a lock file, `install.sh SOURCES PROGRAM` this project with one program.
set -eu
here=$(dirname "$0")
pip() { /usr/bin/python3.11 -m pip --quiet "$@"; }
# Without --ignore-installed, what Debian's own pip came with would count as installed.
into_application() { pip install --no-deps --ignore-installed --root /application --find-links "$here/wheels" "$@"; }

if [ $# = 1 ]; then
    into_application --only-binary :all: --require-hashes -r "$1"
    exit
fi
pip install --only-binary :all: --require-hashes --find-links "$here/wheels" -r "$here/build.lock"
pip wheel --no-deps --no-build-isolation --wheel-dir /dist "$1"
# By its name: of a path pip would note where that was.
into_application --no-index --find-links /dist kmm
# Marks for debuggers: of one library alone, 20 MiB.
find /application -name '*.so*' -exec strip --strip-debug {} +
find /application/usr/local/bin -type f ! -name "$2" -delete
