#!/bin/sh
# Makes the default guest: Debian's cloud kernel and a RAM disk with busybox that comes up in a shell on whatever console is in use.
# Usage: tools/guest.sh [DIR]   (default build/guest) -> DIR/vmlinuz, DIR/initrd
# Nothing is installed: the kernel's package is downloaded and unpacked into DIR. Of its modules, those for virtio devices come along
# (DIR/modules); the RAM disk has them, and its /init loads them where such a device is on the bus.
set -e
dir=${1:-build/guest}
meta=linux-image-cloud-amd64
modules='virtio virtio_ring virtio_pci virtio_pci_modern_dev virtio_pci_legacy_dev virtio-rng virtio_console virtio_blk'
mkdir -p "$dir"
dir=$(cd "$dir" && pwd)
here=$(cd "$(dirname "$0")" && pwd)
for tool in busybox cpio gzip dpkg-deb; do
    command -v $tool >/dev/null || { "$here/deps.sh" build; break; }
done

# ---- the kernel ----
real_package() { apt-cache depends --important $meta 2>/dev/null | sed -n 's/^ *Depends: \(linux-image-[0-9].*\)/\1/p' | head -n 1; }
fetch_kernel() (
    cd "$dir"
    rm -rf pkg ./*.deb
    apt-get download -q "$1" >/dev/null 2>&1 || exit 1
    dpkg-deb -x ./*.deb pkg
    cp pkg/boot/vmlinuz-* vmlinuz.new
    chmod 644 vmlinuz.new
    rm -rf modules modules.new
    version=$(basename pkg/boot/vmlinuz-* | sed 's/^vmlinuz-//')
    mkdir -p "modules.new/$version"
    for m in $modules; do
        ko=$(find pkg -name "$m.ko" | head -n 1)
        [ -z "$ko" ] || cp "$ko" "modules.new/$version/"      # what is missing is built in
    done
    rm -rf pkg ./*.deb
    mv modules.new modules
    mv vmlinuz.new vmlinuz
    echo "$1" >vmlinuz.package
    echo $modules >modules.list
)
update_lists() {
    if [ "$(id -u)" = 0 ]; then apt-get update -q >/dev/null; else sudo apt-get update -q >/dev/null; fi
}
if [ ! -s "$dir/vmlinuz" ] || [ ! -d "$dir/modules" ] || [ "$(cat "$dir/modules.list" 2>/dev/null)" != "$(echo $modules)" ]; then
    pkg=$(real_package)
    [ -n "$pkg" ] || { update_lists; pkg=$(real_package); }
    [ -n "$pkg" ] || { echo "guest.sh: the archive has no $meta (is this Debian?)" >&2; exit 1; }
    echo "guest.sh: downloading $pkg" >&2
    fetch_kernel "$pkg" || { update_lists; fetch_kernel "$(real_package)"; } || { echo "guest.sh: cannot download $pkg" >&2; exit 1; }
fi

# ---- the RAM disk ----
tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT
root=$tmp/root
mkdir -p "$root/bin" "$root/sbin" "$root/proc" "$root/sys" "$root/dev" "$root/etc" "$root/tmp" "$root/root"
cp "$(command -v busybox)" "$root/bin/busybox"
for a in $("$root/bin/busybox" --list); do
    [ "$a" = busybox ] || ln -s busybox "$root/bin/$a"
done
ln -s ../bin/busybox "$root/sbin/poweroff"
ln -s ../bin/busybox "$root/sbin/reboot"
# modprobe's tables: dependencies, and which module a device of the bus wants.
mkdir -p "$root/lib/modules"
cp -R "$dir/modules/." "$root/lib/modules/"
for v in "$root"/lib/modules/*; do
    busybox depmod -b "$root" "$(basename "$v")"
done
# Further files for the RAM disk (test and benchmark programs): GUEST_EXTRA names a directory that is laid over it.
[ -z "$GUEST_EXTRA" ] || cp -R "$GUEST_EXTRA/." "$root/"
echo 'root:x:0:0:root:/root:/bin/sh' >"$root/etc/passwd"
cat >"$root/init" <<'INIT'
#!/bin/sh
# Process 1 of the guest: file systems, a greeting, and a shell with job control on the console in use, again and again.
export PATH=/bin:/sbin HOME=/root TERM=linux PS1='\w # '
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t devtmpfs dev /dev 2>/dev/null
mkdir -p /dev/pts
mount -t devpts devpts /dev/pts 2>/dev/null
mount -t tmpfs tmp /tmp
# Drivers: whatever the devices on the buses ask for and the RAM disk has. A virtio device's own bus appears with the first round.
# `modules=no` on the kernel's command line leaves that to the user.
for bus in $(grep -qw modules=no /proc/cmdline || echo pci virtio); do
    for alias in /sys/bus/$bus/devices/*/modalias; do
        [ ! -e "$alias" ] || modprobe -q "$(cat "$alias")" 2>/dev/null
    done
done
# With console=hvc0 the kernel had no console to start this script on; now there is one.
if (: >/dev/console) 2>/dev/null; then exec </dev/console >/dev/console 2>&1; fi
# Without an init that takes signals, poweroff, reboot and halt have to do it themselves.
echo "alias poweroff='poweroff -f' reboot='reboot -f' halt='halt -f'" >/etc/profile
export ENV=/etc/profile
hostname cupel
# cupel.tty=NAME on the kernel's command line: the shell's terminal, if it is not the kernel's console.
tty=$(sed -n 's/.*cupel\.tty=\([a-zA-Z0-9]*\).*/\1/p' /proc/cmdline)
[ -z "$tty" ] || exec </dev/$tty >/dev/$tty 2>&1
cd /
echo
echo "Linux $(uname -r) on $(uname -m), $(nproc) CPU, $(awk '/MemTotal/ { print int($2 / 1024) }' /proc/meminfo) MiB, up $(cut -d ' ' -f 1 /proc/uptime) s"
echo "Welcome to Cupel's guest. 'poweroff' ends it."
echo
[ ! -x /bin/autorun ] || /bin/autorun
while :; do
    if [ -n "$tty" ]; then setsid -c sh; else setsid cttyhack sh; fi
done
INIT
chmod 755 "$root/init"
# Some kernels open no console before /dev is mounted: the nodes they look for. mknod needs root; without it cpio's own archive has none,
# and the kernel's built-in rootfs provides /dev/console.
if [ "$(id -u)" = 0 ]; then
    mknod -m 600 "$root/dev/console" c 5 1 2>/dev/null || :
    mknod -m 666 "$root/dev/null" c 1 3 2>/dev/null || :
fi
(cd "$root" && find . | LC_ALL=C sort | cpio -o -H newc -R 0:0 --reproducible 2>/dev/null | gzip -n -6) >"$dir/initrd.new"
mv "$dir/initrd.new" "$dir/initrd"
