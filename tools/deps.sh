#!/bin/sh
# Installs what the build and the tests need and is not there yet, from Debian's own archive. With nothing missing it takes a few
# milliseconds.
# Usage: tools/deps.sh [build|metal|test|report] ...   (default: all of them)
set -e

build="gcc make binutils libc6-dev libzydis-dev libzycore-dev"
metal="gnu-efi newlib-source xz-utils mtools dosfstools fdisk gdisk console-setup-linux"
guest="busybox-static cpio gzip xz-utils python3"
tests="qemu-system-x86 ovmf python3 mtools dosfstools clang clang-format acpica-tools gdb bochs bochsbios vgabios bochs-term grub-common grub-pc-bin xorriso e2fsprogs"
report="chromium fonts-dejavu-core python3 python3-jsonschema"

case "$*" in '') set -- build metal test report ;; esac
wanted=
for group; do
    case "$group" in
    build) wanted="$wanted $build $guest" ;;
    metal) wanted="$wanted $metal" ;;
    test) wanted="$wanted $tests" ;;
    report) wanted="$wanted $report" ;;
    *) echo "deps.sh: no group '$group'; there are build, metal, test, report" >&2; exit 1 ;;
    esac
done

# One at a time: make -j starts one per group, and dpkg has one lock. Who comes second finds less missing.
exec 9<"$0"
flock 9

have=$(dpkg-query -W -f '${Package} ${db:Status-Status}\n' 2>/dev/null | awk '$2 == "installed" { print $1 }')
missing=
for p in $(printf '%s\n' $wanted | sort -u); do
    printf '%s\n' "$have" | grep -qxF "$p" || missing="$missing $p"
done
[ -n "$missing" ] || exit 0

sudo=
if [ "$(id -u)" != 0 ]; then
    command -v sudo >/dev/null || { echo "deps.sh: missing:$missing; run as root, or install sudo" >&2; exit 1; }
    sudo=sudo
fi
echo "deps.sh: installing$missing" >&2
log=$(mktemp)
trap 'rm -f "$log"' EXIT
# The list of packages may be older than the archive: then once more after an update.
install() { $sudo env DEBIAN_FRONTEND=noninteractive apt-get install -y -q --no-install-recommends $missing >"$log" 2>&1; }
install || { $sudo apt-get update -q >"$log" 2>&1 && install; } || { cat "$log" >&2; exit 1; }
