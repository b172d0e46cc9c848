#!/bin/sh
# First process of a node on this machine's own kernel, in mount, process and host name namespaces
# of its own: everything of the node ends with it. $1 is the node's directory, $2 its name, and what
# follows are its cgroups, one in each hierarchy.
set -eu
directory=$1 name=$2
shift 2

# Shared below here, as kubelet wants it, and with nobody outside.
mount --make-rprivate /
mount --make-rshared /
mount -t proc proc /proc
mount -t tmpfs -o mode=755 tmpfs /run
mkdir -p "$directory/var" "$directory/own"
# No overlay lies on another: in a container, which has one already, what is written is in memory.
if [ "$(stat -f -c %T "$directory")" = overlayfs ]; then
    mount -t tmpfs -o mode=755 tmpfs "$directory/var"
    mount -t tmpfs -o mode=755 tmpfs "$directory/own"
fi
for place in lib log; do
    mkdir -p "$directory/var/$place"
    mount --bind "$directory/var/$place" "/var/$place"
done
mkdir -p /var/log/pods
mount --bind "$directory/pod-logs" /var/log/pods

mkdir -p /var/lib/kubelet
cp -r "$directory/seccomp" /var/lib/kubelet/

# A node has a directory for its kernel's modules; what is made here is seen by the node alone.
modules=$(readlink -m /lib/modules)
if [ ! -d "$modules" ]; then
    mkdir -p "$directory/own/upper" "$directory/own/work"
    lower=$(dirname "$modules")
    mount -t overlay -o "lowerdir=$lower,upperdir=$directory/own/upper,workdir=$directory/own/work" overlay "$lower"
    mkdir -p "$modules"
fi

# A cgroup with this process is in use: no other sandbox takes it for a left one.
for cgroup; do
    echo $$ > "$cgroup/cgroup.procs"
done

# Kubelet sets these for the whole machine, unless they are so already: it reads and writes files.
mkdir /run/sysctl
for each in vm/overcommit_memory=1 vm/panic_on_oom=0 kernel/panic=10 kernel/panic_on_oops=1 \
    kernel/keys/root_maxkeys=1000000 kernel/keys/root_maxbytes=25000000; do
    file=/run/sysctl/$(echo "${each%=*}" | tr / _)
    echo "${each#*=}" > "$file"
    mount --bind "$file" "/proc/sys/${each%=*}"
done

hostname "$name"
touch "$directory/ready"
# Whoever waits here also waits for the orphans of the node.
while :; do
    sleep 1
done
