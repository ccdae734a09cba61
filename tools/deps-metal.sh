#!/bin/sh
# Installs what the bare-metal build and its tests need, from Debian's own archive. Run as root.
set -e
exec env DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends \
    gcc binutils make gnu-efi newlib-source xz-utils mtools dosfstools fdisk console-setup-linux qemu-system-x86 ovmf
