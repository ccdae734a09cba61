#!/usr/bin/env python3
"""The guest's disk on the bare machine (QEMU + OVMF): an image from the stick, in memory, and the host's own virtio disk (drive = in cupel.conf).

Each under the big lock and by a data plane, which has a core of its own. thread=single where there are several: Debian's QEMU 7.2 with a thread
per core loses changes of code, such as Cupel's chaining.
"""
import atexit
import hashlib
import os
import random
import re
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
drive = {drive}
append = console=ttyS0 panic=-1 {append}
memory = 256M
{keys}
"""
SINGLE = "tcg,thread=single"


def stick(data, disk_bytes=None, drive=r"\guest\disk.img", append="", keys=""):
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
        f.write(CONF.format(drive=drive, append=append, keys=keys))
    subprocess.run([os.path.join(ROOT, "tools", "mkimg.sh"), img, os.path.join(BUILD, "cupel.efi"), conf, guest], check=True)
    return img


def plane_says(m, plane, vcpus):
    """What Cupel says of the core that it gives to I/O."""
    if plane:
        check("core for I/O", m.expect(r"core (\d+) serves I/O; cores left for the vCPUs: (\d+)\n", 120).groups() == (str(vcpus), str(vcpus)), m.text)


def test_disk(plane=False):
    """In memory. With a data plane also without MSI-X, so that the I/O core's interrupts go by way of core 0."""
    data = random.Random(4).randbytes(1 << 20)
    image = stick(data, append="pci=nomsi", keys="iothread = 1") if plane else stick(data)
    m = metal(*(("-smp", "2") if plane else ()), image=image, accel=SINGLE if plane else "tcg", log="disk-plane" if plane else "disk")
    m.expect(r"disk.img: a disk of 8192 KiB in memory", 120)
    plane_says(m, plane, 1)
    m.login(900)
    out, code = m.shell("mkdir -p /mnt; mount -t ext4 /dev/vda /mnt; sha256sum /mnt/data", 120)
    check("what was on the stick", code == 0 and hashlib.sha256(data).hexdigest() in out, out)
    out, code = m.shell("cp /mnt/data /mnt/copy; sync; umount /mnt; echo 3 >/proc/sys/vm/drop_caches; mount -t ext4 /dev/vda /mnt;"
                        "sha256sum /mnt/copy; rm /mnt/data; fstrim -v /mnt; umount /mnt; cat /proc/interrupts", 180)
    check("written and read back", code == 0 and hashlib.sha256(data).hexdigest() in out and ("virtio0-req.0" in out) == (not plane), out)
    out, _ = m.shell("dmesg | grep -E 'error|vda'")
    check("no errors", "vda" in out and "error" not in out, out)
    m.send("poweroff\n")
    check("poweroff", m.wait(180) == 0, m.proc.returncode)


def test_no_image():
    m = metal(image=stick(b"", b"x" * 1000), log="bad")
    m.expect(r"drive: .*disk.img is no raw disk image", 120)
    m.kill()
    check("half a sector", True)


def test_few_cores():
    m = metal("-smp", "1", image=stick(b"", keys="iothread = 1"), log="fewcores")
    m.expect(r"\[disk\] iothread: .* this PC has 1 core, .*; leave iothread out .*, or use a PC with 2 cores\n", 120)
    m.kill()
    check("a core too few", True)


def test_host(plane=False):
    """The guest's requests end in the host's virtio disk: direct, several at once, flushed; QEMU killed after the last acknowledgement. With a
    data plane: two vCPUs with a queue each, on cores 0 and 1, and core 2 for I/O."""
    disk, src = os.path.join(TMP, "host.img"), os.path.join(TMP, "hostsrc")
    data = random.Random(5).randbytes(3 << 20)
    shutil.rmtree(src, True)
    os.mkdir(src)
    with open(os.path.join(src, "data"), "wb") as f:
        f.write(data)
    with open(disk, "wb") as f:
        f.truncate(64 << 20)
    subprocess.run(["mkfs.ext4", "-q", "-F", "-d", src, disk], check=True)
    m = metal("-drive", f"if=none,id=hd,format=raw,discard=unmap,file={disk}", "-device", "virtio-blk-pci,drive=hd",
              *(("-smp", "3") if plane else ()), accel=SINGLE if plane else "tcg",
              image=stick(b"", drive="virtio0", keys="iothread = 1\nsmp = 2" if plane else ""), log="host-plane" if plane else "host")
    m.expect(r"virtio0: the host's disk, 64 MiB", 120)
    plane_says(m, plane, 2)
    m.login(900)
    if plane:
        out, code = m.shell("cat /proc/interrupts; nproc; sed -n 3p /sys/block/vda/device/../resource", 60)
        check("a queue per vCPU", "virtio0-req.1" in out and re.search(r"^2$", out, re.M), out)
        check("notifications in a region of their own", re.search(r"^0x0*[1-9a-f]\w* 0x\w+ 0x\w+$", out, re.M), out)
    out, code = m.shell("mkdir -p /mnt; mount -t ext4 /dev/vda /mnt; sha256sum /mnt/data", 120)
    check("host: read", code == 0 and hashlib.sha256(data).hexdigest() in out, out)
    out, code = m.shell("for i in 1 2 3; do dd if=/mnt/data of=/mnt/c$i bs=64k 2>/dev/null & done; wait; rm /mnt/data; sync; fstrim -v /mnt;"
                        "echo 3 >/proc/sys/vm/drop_caches; sha256sum /mnt/c*; dmesg | grep -E 'error|vda'", 180)
    check("host: write", out.count(hashlib.sha256(data).hexdigest()) == 3 and "error" not in out, out)
    out, code = m.shell("for i in 1 2 3 4 5 6; do echo $i >>/mnt/log; sync /mnt/log; done; blkdiscard -h 2>&1 | head -n 1", 120)
    m.kill()
    p = subprocess.run(["e2fsck", "-fy", disk], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    check("host: e2fsck", p.returncode in (0, 1) and subprocess.run(["e2fsck", "-fn", disk], stdout=subprocess.DEVNULL).returncode == 0, p.stdout)
    log = subprocess.run(["debugfs", "-R", "cat /log", disk], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL).stdout
    copy = subprocess.run(["debugfs", "-R", "cat /c2", disk], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL).stdout
    check("host: acknowledged and there", log == b"1\n2\n3\n4\n5\n6\n" and copy == data, log)


def test_no_host_disk():
    m = metal(image=stick(b"", drive="virtio1"), log="nohost")
    m.expect(r"no virtio disk of number 1", 120)
    m.kill()
    check("a disk that is not there", True)


case(test_host)
case(test_host, plane=True)
case(test_no_host_disk)
case(test_disk)
case(test_disk, plane=True)
case(test_few_cores)
case(test_no_image)
finish()
