#!/usr/bin/env python3
"""The guest's disk on the bare machine (QEMU + OVMF): an image from the stick (drive = ... in cupel.conf), in memory."""
import atexit
import hashlib
import os
import random
import shutil
import subprocess
import tempfile

from machine import BUILD, GUEST, ROOT, case, check, finish, metal

TMP = tempfile.mkdtemp(prefix="cupel-blk-")
atexit.register(shutil.rmtree, TMP, True)
os.environ["PATH"] += ":/usr/sbin:/sbin"
CONF = r"""
timeout = 0
[disk]
kernel = \guest\vmlinuz
initrd = \guest\initrd
drive = \guest\disk.img
append = console=ttyS0 panic=-1
memory = 256M
"""


def stick(data, disk_bytes=None):
    """An image whose guest has a disk with an ext4 that holds `data`, or whatever bytes are given."""
    guest, src = os.path.join(TMP, "guest"), os.path.join(TMP, "src")
    for d in (guest, src):
        shutil.rmtree(d, True)
        os.mkdir(d)
    for n in ("vmlinuz", "initrd"):
        os.symlink(os.path.join(GUEST, n), os.path.join(guest, n))
    with open(os.path.join(src, "data"), "wb") as f:
        f.write(data)
    disk = os.path.join(guest, "disk.img")
    with open(disk, "wb") as f:
        f.truncate(8 << 20)
        if disk_bytes is not None:
            f.truncate(0)
            f.write(disk_bytes)
    if disk_bytes is None:
        subprocess.run(["mkfs.ext4", "-q", "-F", "-d", src, disk], check=True)
    conf, img = os.path.join(TMP, "cupel.conf"), os.path.join(TMP, "cupel.img")
    with open(conf, "w") as f:
        f.write(CONF)
    subprocess.run([os.path.join(ROOT, "tools", "mkimg.sh"), img, os.path.join(BUILD, "cupel.efi"), conf, guest], check=True)
    return img


def test_disk():
    data = random.Random(4).randbytes(1 << 20)
    m = metal(image=stick(data), log="disk")
    m.expect(r"disk.img: a disk of 8192 KiB in memory", 120)
    m.login(900)
    out, code = m.shell("mkdir -p /mnt; mount -t ext4 /dev/vda /mnt; sha256sum /mnt/data", 120)
    check("what was on the stick", code == 0 and hashlib.sha256(data).hexdigest() in out, out)
    out, code = m.shell("cp /mnt/data /mnt/copy; sync; umount /mnt; echo 3 >/proc/sys/vm/drop_caches; mount -t ext4 /dev/vda /mnt;"
                        "sha256sum /mnt/copy; rm /mnt/data; fstrim -v /mnt; umount /mnt; cat /proc/interrupts", 180)
    check("written and read back", code == 0 and hashlib.sha256(data).hexdigest() in out and "virtio0-req.0" in out, out)
    out, _ = m.shell("dmesg | grep -E 'error|vda'")
    check("no errors", "vda" in out and "error" not in out, out)
    m.send("poweroff\n")
    check("poweroff", m.wait(180) == 0, m.proc.returncode)


def test_no_image():
    m = metal(image=stick(b"", b"x" * 1000), log="bad")
    m.expect(r"drive: .*disk.img is no raw disk image", 120)
    m.kill()
    check("half a sector", True)


case(test_disk)
case(test_no_image)
finish()
