#!/bin/sh
# The assay on a virtual bare PC: boots a copy of an image's assay entry with these options, unattended, and takes assay.json off the stick.
# Usage: tools/assay-metal.sh IMAGE OUT.json OPTIONS [QEMU options]
#   OPTIONS as in cupel.conf's key `assay', such as rounds=3,ms=2. With -icount shift=0 among QEMU's the figures are exact counts of
#   instructions.
set -e
[ $# -ge 3 ] || { echo "usage: assay-metal.sh IMAGE OUT.json OPTIONS [QEMU options]" >&2; exit 2; }
img=$1 out=$2 options=$3
shift 3
export PATH="$PATH:/usr/sbin:/sbin"
tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT
cp --sparse=always "$img" "$tmp/stick.img"
cp /usr/share/OVMF/OVMF_VARS_4M.fd "$tmp/vars"
printf 'timeout = 0\n[assay]\nassay = %s,poweroff=on\nkernel = \\guest\\vmlinuz\ninitrd = \\guest\\assay.img\nmemory = 256M\n' "$options" >"$tmp/cupel.conf"
# mkimg.sh puts the partition at 1 MiB.
mcopy -o -i "$tmp/stick.img@@1M" "$tmp/cupel.conf" ::/cupel.conf
qemu-system-x86_64 -accel tcg,thread=single -cpu max -machine q35 -m 1G -nographic -net none \
    -drive if=pflash,format=raw,unit=0,readonly=on,file=/usr/share/OVMF/OVMF_CODE_4M.fd -drive if=pflash,format=raw,unit=1,file="$tmp/vars" \
    -drive if=none,id=stick,format=raw,file="$tmp/stick.img" -device virtio-blk-pci,drive=stick,bootindex=0 "$@" </dev/null >"$tmp/log" ||
    { tail -n 30 "$tmp/log" >&2; exit 1; }
grep -aE '^(assay|warning|cupel: (warning|error))' "$tmp/log" | tr -d '\r' >&2 || true
mcopy -n -i "$tmp/stick.img@@1M" ::/assay.json "$tmp/assay.json"
grep -q '"complete": true' "$tmp/assay.json" || { echo "assay-metal.sh: the run did not come to its end:" >&2; tail -n 30 "$tmp/log" >&2; exit 1; }
mv "$tmp/assay.json" "$out"
