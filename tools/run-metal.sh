#!/bin/sh
# Boots an image on a virtual bare PC: QEMU's own TCG and OVMF, serial port on this terminal. Ctrl-A x leaves QEMU.
# Usage: tools/run-metal.sh IMAGE [QEMU options]     With DISPLAY set and GRAPHIC=1 the screen is shown, too.
set -e
img=$1
shift
code=/usr/share/OVMF/OVMF_CODE_4M.fd
vars=$(mktemp)
trap 'rm -f "$vars"' EXIT
cp /usr/share/OVMF/OVMF_VARS_4M.fd "$vars"
if [ -n "$GRAPHIC" ]; then screen="-serial mon:stdio"; else screen=-nographic; fi
echo "Booting $img in QEMU. Ctrl-A x leaves." >&2
qemu-system-x86_64 -accel tcg -cpu max -machine q35 -m 1G $screen -net none \
    -drive if=pflash,format=raw,unit=0,readonly=on,file=$code -drive if=pflash,format=raw,unit=1,file="$vars" \
    -drive if=none,id=stick,format=raw,file="$img",snapshot=on -device ide-hd,drive=stick,bootindex=0 "$@"
