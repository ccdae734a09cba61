#!/bin/sh
# Makes a bootable disk image without root and without loop devices: a GPT with one EFI system partition, whose file
# system is made and filled by mtools on its own and then put in its place.
#   mkimg.sh IMAGE EFI_APPLICATION CONFIG [GUEST_DIRECTORY]
# The root holds assay.json, 1 MiB in one piece: results are written into it in place (kernel/inplace.c).
# The partition has at least 256 MiB free beside its files. Written to a USB stick with dd, or by attaching it to a VM.
set -e
[ $# -ge 3 ] || { echo "usage: mkimg.sh IMAGE EFI_APPLICATION CONFIG [GUEST_DIRECTORY]" >&2; exit 2; }
img=$1 efi=$2 conf=$3 guest=$4
files_mb=$(du -Lcm "$efi" "$conf" ${guest:+"$guest"} | tail -n 1 | cut -f 1)
part_mb=$((files_mb + 300))
tmp=$img.tmp
export PATH="$PATH:/usr/sbin:/sbin"

trap 'rm -f "$tmp" "$tmp.fat" "$tmp.json"' EXIT
rm -f "$tmp" "$tmp.fat"
truncate -s "${part_mb}M" "$tmp.fat"
mkfs.vfat -F 32 -n CUPEL "$tmp.fat" >/dev/null
mmd -i "$tmp.fat" ::/EFI ::/EFI/BOOT
mcopy -i "$tmp.fat" "$efi" ::/EFI/BOOT/BOOTX64.EFI
mcopy -i "$tmp.fat" "$conf" ::/cupel.conf
# The first file that is copied to a fresh volume is in one piece. Spaces and newlines after JSON are nothing.
{ printf '{"schema": "cupel-assay/1", "complete": false}\n'; yes '' | head -c 1048576; } | head -c 1048576 >"$tmp.json"
mcopy -i "$tmp.fat" "$tmp.json" ::/assay.json
if [ -n "$guest" ] && [ -d "$guest" ]; then
    mmd -i "$tmp.fat" ::/guest
    for f in "$guest"/*; do
        if [ -f "$f" ]; then mcopy -i "$tmp.fat" "$f" ::/guest/; fi
    done
fi

# 1 MiB before the partition and 1 MiB after it, for the two copies of the table.
truncate -s $(((part_mb + 2) * 1024 * 1024)) "$tmp"
printf 'label: gpt\nstart=2048, size=%d, type=U, name="cupel"\n' $((part_mb * 2048)) | sfdisk -q "$tmp"
dd if="$tmp.fat" of="$tmp" bs=1M seek=1 conv=notrunc,sparse status=none
mv "$tmp" "$img"
