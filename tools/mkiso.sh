#!/bin/sh
# Makes a bootable ISO for PCs with a legacy BIOS: GRUB, the kernel's ELF, cupel.conf and the guest's files. Works from a CD and, written
# with dd, from a stick. GRUB's menu is made from cupel.conf: one entry per section, its files as modules under the names they have there.
#   mkiso.sh IMAGE KERNEL_ELF CONFIG [GUEST_DIRECTORY]
set -e
[ $# -ge 3 ] || { echo "usage: mkiso.sh IMAGE KERNEL_ELF CONFIG [GUEST_DIRECTORY]" >&2; exit 2; }
img=$1 elf=$2 conf=$3 guest=$4
tree=$(mktemp -d)
trap 'rm -rf "$tree"' EXIT
mkdir -p "$tree/boot/grub"
cp "$elf" "$tree/cupel.elf"
cp "$conf" "$tree/cupel.conf"
if [ -n "$guest" ] && [ -d "$guest" ]; then
    mkdir "$tree/guest"
    for f in "$guest"/*; do
        if [ -f "$f" ]; then cp "$f" "$tree/guest/"; fi
    done
fi

awk '
function trim(s) { gsub(/^[ \t]+|[ \t\r]+$/, "", s); return s }
function module(path, slashes) {
    slashes = path
    gsub(/\\/, "/", slashes)
    if (slashes !~ /^\//) slashes = "/" slashes
    printf "    module2 \047%s\047 \047%s\047\n", slashes, slashes
}
function close_entry() { if (open) print "    boot\n}" }
{ line = trim($0) }
line ~ /^(#|;|$)/ { next }
line ~ /^\[.*\]$/ {
    close_entry()
    open = 1
    count++
    name = substr(line, 2, length(line) - 2)
    if (name == wanted) chosen = count - 1
    gsub(/\047/, "", name)
    printf "menuentry \047%s\047 {\n    multiboot2 /cupel.elf %d\n    module2 /cupel.conf cupel.conf\n", name, count
    next
}
{ key = trim(substr(line, 1, index(line, "=") - 1)); value = trim(substr(line, index(line, "=") + 1)) }
!open && key == "timeout" { print "set timeout=" (value == "never" ? -1 : value) }
!open && key == "default" { wanted = value }
open && (key == "kernel" || key == "initrd" || (key == "drive" && value !~ /^virtio[0-3]$/)) { module(value) }
END {
    close_entry()
    print "set default=" chosen + 0
}
' "$conf" >"$tree/entries"
{
    echo 'insmod all_video'
    echo 'serial --unit=0 --speed=115200'
    echo 'terminal_input console serial'
    echo 'terminal_output console serial'
    cat "$tree/entries"
} >"$tree/boot/grub/grub.cfg"
rm "$tree/entries"
log=$tree.log
grub-mkrescue -d /usr/lib/grub/i386-pc -o "$img.tmp" "$tree" >"$log" 2>&1 || { cat "$log" >&2; rm -f "$log"; exit 1; }
rm -f "$log"
mv "$img.tmp" "$img"
