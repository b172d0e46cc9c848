#!/bin/sh
# First process of a node: an overlay over the host's files, so that nothing the node writes
# reaches them, its own /run and /dev/shm, its address; then the agent takes over as PID 1.
# The NODE_* words come from the kernel command line. Every path here is the guest's.
set -eu
export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin LC_ALL=C HOME=/root
root=/run/root

mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t tmpfs -o mode=755 tmpfs /run
insmod "/usr/lib/uml/modules/$(uname -r)/kernel/fs/overlayfs/overlay.ko"
mkdir -p /run/upper /run/work $root
mount -t overlay -o lowerdir=/,upperdir=/run/upper,workdir=/run/work overlay $root

mount --rbind /dev $root/dev
mount -t proc proc $root/proc
mount -t sysfs sysfs $root/sys
mount -t cgroup2 cgroup2 $root/sys/fs/cgroup
mount -t tmpfs -o mode=755 tmpfs $root/run
mkdir -p $root/dev/pts $root/dev/shm $root/var/lib/kmm $root/var/lib/firmware "$root$NODE_DIR"
# A node's kernel has its modules in the usual place; the files of the host's own kernel are not its.
mkdir -p $root/lib/modules
mount --bind $root/usr/lib/uml/modules $root/lib/modules
mount -t devpts devpts $root/dev/pts
mount -t tmpfs -o mode=1777 tmpfs $root/dev/shm
mount -t hostfs -o "$NODE_DIR" none "$root$NODE_DIR"
# The node's disk: what outlives a reboot.
mkdir -p /run/disk
mount -t ext4 /dev/ubda /run/disk
mkdir -p /run/disk/kmm /run/disk/firmware
mount --bind /run/disk/kmm $root/var/lib/kmm
mount --bind /run/disk/firmware $root/var/lib/firmware

hostname "$NODE_NAME"
ip link set lo up
ip addr add "$NODE_IP/24" dev vec0
ip link set vec0 up
ip route add default via "$NODE_GATEWAY"
# As distributions set it: the kernel log is not for everybody.
echo 1 > /proc/sys/kernel/dmesg_restrict
# The power button (mconsole cad) becomes a SIGINT for PID 1.
echo 0 > /proc/sys/kernel/ctrl-alt-del
# The overlay becomes the root of the mount namespace, as on any machine: containers show its paths.
cd $root
pivot_root . mnt
exec chroot . /bin/sh -c 'umount -l /mnt && exec "$NODE_PYTHON" -I -S "$NODE_AGENT"'
