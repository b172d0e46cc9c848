#!/bin/sh
# On a node with a kernel of its own, once a boot, by the agent: everything that kubelet needs, then
# containerd and kubelet. $1 is the node's directory, $2 the number of the boot, and what follows is
# kubelet's command line. Every path here is the guest's.
set -eu
directory=$1 boot=$2
shift 2

mount --make-rshared /
mkdir -p /dev/mqueue
mount -t mqueue mqueue /dev/mqueue
for controller in cpu memory pids io; do
    echo "+$controller" > /sys/fs/cgroup/cgroup.subtree_control
done
modprobe -a veth bridge
# Kubelet does not start without a clock speed, which this kernel does not tell.
sed 's/^bogomips.*/cpu MHz\t\t: 1000.000\nphysical id\t: 0\ncore id\t\t: 0\n&/' /proc/cpuinfo > /run/cpuinfo
mount --bind /run/cpuinfo /proc/cpuinfo
# The node's disk: images and Pods outlive a power cut.
mkdir -p /run/disk
mount -t ext4 /dev/ubda /run/disk
for place in lib/kubelet lib/containerd lib/cni log; do
    mkdir -p "/run/disk/$place" "/var/$place"
    mount --bind "/run/disk/$place" "/var/$place"
done
# What containers log is read on the host, also when this kernel has ended.
mkdir -p /var/log/pods
mount --bind "$directory/pod-logs" /var/log/pods

cp -r "$directory/seccomp" /var/lib/kubelet/

setsid containerd --config "$directory/containerd.toml" > "$directory/containerd.$boot.log" 2>&1 < /dev/null &
until ctr version > /dev/null 2>&1; do
    # It ends at once if its settings are wrong.
    kill -0 $! || exit 1
    sleep 0.2
done
for archive in "$directory"/images/*.tar; do
    given=/run/disk/given-$(basename "$archive")
    if [ ! -e "$given" ]; then
        ctr --namespace=k8s.io images import "$archive"
        # After a power cut there would be half of it, and a note that there is all.
        sync
        touch "$given"
    fi
done

log=$directory/kubelet.$boot.log
setsid "$@" > "$log" 2>&1 < /dev/null &
# Until it has a session of its own, the agent ends it with this script.
until [ -s "$log" ]; do
    kill -0 $! || exit 1
    sleep 0.2
done
