#!/bin/sh
# Build the test modules for the installed User-Mode Linux kernel, from the exact source package
# that the kernel was built from, and put them under prebuilt/<kernel>/.
# Needs Debian with user-mode-linux, gcc, make, flex, bison, bc, libelf-dev, libssl-dev; 1.5 GB of disk.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
work=${KMM_MODULE_BUILD_DIR:-$here/build}
kernel=$(linux.uml --version)
built_using=$(dpkg-query -W -f '${Built-Using}' user-mode-linux)
version=$(echo "$built_using" | sed -n 's/.*linux (= \([^)]*\)).*/\1/p')
series=$(echo "$kernel" | cut -d. -f1,2)

mkdir -p "$work/kernel"
cd "$work"
if [ ! -e kernel/Module.ready ]; then
    [ -e "linux-source-${series}_${version}_all.deb" ] ||
        apt-get download "linux-source-$series=$version"
    dpkg -x "linux-source-${series}_${version}_all.deb" package
    tar xf "package/usr/src/linux-source-$series.tar.xz"
    zcat /usr/share/doc/user-mode-linux/config.gz > kernel/.config
    make -s -C "linux-source-$series" ARCH=um O="$work/kernel" olddefconfig < /dev/null
    make -s -C "linux-source-$series" ARCH=um O="$work/kernel" -j2 modules_prepare < /dev/null
    touch kernel/Module.ready
fi

compile() { # source directory, target directory
    rm -rf scratch
    mkdir -p scratch/in "$2"
    cp "$1"/* scratch/in/
    cp "$here/kmt_core.h" scratch/
    # Symbols of the kernel itself are unknown here (no Module.symvers): they resolve at load.
    make -s ARCH=um -C kernel M="$work/scratch/in" KBUILD_MODPOST_WARN=1 modules
    for module in scratch/in/*.ko; do
        strip --strip-debug -o "$2/${module##*/}" "$module"
    done
}

target=$here/prebuilt/$kernel
compile "$here/v1" "$target/v1"
compile "$here/v2" "$target/v2"
python3 "$here/describe.py" "$target" > "$target/modules.json"
