#!/usr/bin/env python3
"""Results on the disk that Cupel was booted from (`selftest = stick', kernel/stick.h): QEMU + OVMF boot an image from several kinds of
disk.

What counts as written is what a power failure at the last message leaves: powerloss.so records in QEMU which bytes reach the image,
and what flushes cover. Of that, the file has the contents, nothing outside of it has changed, and fsck finds nothing.
"""
import atexit
import concurrent.futures
import os
import random
import re
import shutil
import struct
import subprocess
import sys
import tempfile

from bochs import Bochs, missing, mkiso
from machine import BUILD, ROOT, Machine, case, check, finish, log_path, skip

TMP = tempfile.mkdtemp(prefix="cupel-stick-")
atexit.register(shutil.rmtree, TMP, True)
os.environ["PATH"] += ":/usr/sbin:/sbin"
CONF = "timeout = 0\n[stick]\nselftest = stick\n"
START, SIZE = 1 << 20, 1 << 20                # of the partition, of the file
WRITE, FLUSH = 1, 2                           # powerloss.c
MARK = b'{"schema": "cupel-assay/1", "complete": false}\n\n'


def image():
    conf, img = os.path.join(TMP, "cupel.conf"), os.path.join(TMP, "cupel.img")
    with open(conf, "w") as f:
        f.write(CONF)
    subprocess.run([os.path.join(ROOT, "tools", "mkimg.sh"), img, os.path.join(BUILD, "cupel.efi"), conf], check=True)
    return img


def text():
    """The long text of selftest_stick.c."""
    x, numbers = 1, []
    for _ in range(30000):
        x = (x * 1664525 + 1013904223) & 0xffffffff
        numbers.append(str(x))
    return ('{"schema": "cupel-assay/1", "complete": true, "pattern": [' + ",".join(numbers) + "]}").encode()


def record(path):
    """[(kind, offset, bytes or position that is safe, position of the entry)]"""
    with open(path, "rb") as f:
        raw = f.read()
    at, out = 0, []
    while at + 24 <= len(raw):
        kind, offset, length = struct.unpack_from("<QQQ", raw, at)
        body = raw[at + 24:at + 24 + length] if kind == WRITE else None
        out.append((kind, offset, body, at))
        at += 24 + (length if kind == WRITE else 0)
    return out


def safe_image(name, base, log):
    """What is on the disk for sure after the last flush, and whether anything came after it."""
    entries = record(log)
    safe = max((e[1] for e in entries if e[0] == FLUSH), default=0)
    late = [e for e in entries if e[0] != FLUSH and e[3] >= safe]
    img = os.path.join(TMP, f"{name}.safe")
    with open(base, "rb") as f, open(img, "wb") as g:
        shutil.copyfileobj(f, g)
    with open(img, "r+b") as g:
        for kind, offset, body, at in entries:
            if kind == WRITE and at < safe:
                g.seek(offset)
                g.write(body)
    return img, len(late), len(entries)


def order(base, log):
    """What happened to the image: m a write of the file's first sector, r one of others, F a flush."""
    with open(base, "rb") as f:
        first = f.read().index(MARK)
    return "".join("F" if e[0] == FLUSH else "m" if e[1] == first and len(e[2]) == 512 else "r" for e in record(log))


def boot(name, base, devices, drive="", machine="q35"):
    """The image as the only disk, through `devices'. Returns the machine and the record of what it wrote."""
    img, log, nvram = (os.path.join(TMP, name + e) for e in (".img", ".log", ".fd"))
    shutil.copy(base, img)
    shutil.copy("/usr/share/OVMF/OVMF_VARS_4M.fd", nvram)
    env = ["env", f"LD_PRELOAD={BUILD}/tests/powerloss.so", f"POWERLOSS_LOG={log}", f"POWERLOSS_FILE={img}"]
    m = Machine(env + ["qemu-system-x86_64", "-accel", "tcg", "-cpu", "max", "-machine", machine, "-m", "256M", "-nographic", "-net",
                       "none", "-no-reboot", "-drive", "if=pflash,format=raw,unit=0,readonly=on,file=/usr/share/OVMF/OVMF_CODE_4M.fd",
                       "-drive", f"if=pflash,format=raw,unit=1,snapshot=on,file={nvram}",
                       "-drive", f"if=none,id=stick,format=raw,file={img}{drive}", *devices], log=log_path(name))
    # OVMF does not wait for what is behind a hub, less still on a busy machine; its shell finds it after a while.
    for _ in range(20):
        if m.expect(r"on the bare machine|Shell> ", 120).group(0) != "Shell> ":
            break
        m.send("connect -r\r")
        m.expect(r"Shell> ", 120)
        m.send("map -r\r")
        m.expect(r"Shell> ", 120)
        m.send("FS0:\\EFI\\BOOT\\BOOTX64.EFI\r")
    return m, log


def outside_same(a, b):
    """Byte for byte but for the file, which is found by its contents' place in the fresh image."""
    with open(a, "rb") as f, open(b, "rb") as g:
        old, new = f.read(), g.read()
    at = old.index(MARK)
    assert old.count(MARK) == 1
    return old[:at] == new[:at] and old[at + SIZE:] == new[at + SIZE:] and len(old) == len(new), new[at:at + SIZE]


def judge(name, base, img):
    same, place = outside_same(base, img)
    check(f"{name}: nothing else changed", same)
    want = text()
    want += b"\n" * (SIZE - len(want))
    check(f"{name}: the file's sectors", place == want, place[:200])
    fat = os.path.join(TMP, f"{name}.fat")
    with open(img, "rb") as f, open(fat, "wb") as g:
        f.seek(START)
        g.write(f.read(os.path.getsize(img) - 2 * START))
    r = subprocess.run(["mcopy", "-i", fat, "::/assay.json", "-"], capture_output=True)
    check(f"{name}: what mtools reads", r.returncode == 0 and r.stdout == want, r.stderr)
    r = subprocess.run(["fsck.vfat", "-n", fat], capture_output=True, text=True)
    check(f"{name}: fsck.vfat", r.returncode == 0, r.stdout)
    os.remove(fat)


def test_written(name, base, devices, kill=False, says=(), **kw):
    m, log = boot(name, base, devices, **kw)
    done = m.expect(r"selftest stick: (\d+) passed, (\d+) failed\n|The machine has stopped", 240)
    if kill:
        m.kill()
    check(f"{name}: the selftest", done and done.group(0).startswith("selftest stick: 6 passed, 0 failed"), m.text[-3000:])
    for s in says:
        check(f"{name}: says {s!r}", s in m.text, m.text[-3000:])
    if not kill:
        check(f"{name}: power-off", m.wait(60) == 0, m.proc.returncode)
    img, late, n = safe_image(name, base, log)
    check(f"{name}: nothing is left unflushed", n > 10 and not late, f"{late} of {n}")
    # (QEMU flushes once more when it ends.)
    check(f"{name}: the order of writes and flushes", re.search(r"FmF+r+F+mF+$", order(base, log)), order(base, log))
    judge(name, base, img)
    os.remove(img)


def test_refused(name, base, devices, says, drive="", copies=0):
    """A disk that is not to be written: the message, and not a byte changed."""
    more = []
    for i in range(copies):
        img = os.path.join(TMP, f"{name}.copy{i}")
        shutil.copy(base, img)
        more += ["-drive", f"if=none,id=copy{i},format=raw,file={img}"]
    m, log = boot(name, base, more + devices, drive)
    m.expect(r"selftest stick: \d+ passed, \d+ failed\n|The machine has stopped", 240)
    check(f"{name}: says why", re.search(f"selftest stick: long text: FAILED: {says}\n", m.text), m.text[-3000:])
    m.kill()
    with open(base, "rb") as f, open(os.path.join(TMP, f"{name}.img"), "rb") as g:
        check(f"{name}: unchanged", f.read() == g.read())
    check(f"{name}: nothing written", not os.path.exists(log) or not [e for e in record(log) if e[0] == WRITE])


def fnv(data):
    h = 0xcbf29ce484222325
    for b in data:
        h = (h ^ b) * 0x100000001b3 & 0xffffffffffffffff
    return h


def usb_setup(tmp, name, count):
    """An ISO whose entry is `selftest = usb', and the contents of disks: ISO, [file], [bytes]."""
    conf, iso = os.path.join(tmp, f"{name}.conf"), os.path.join(tmp, f"{name}.iso")
    with open(conf, "w") as f:
        f.write("timeout = 0\n[usb]\nselftest = usb\n")
    data = [random.Random(n).randbytes(2 << 20) for n in range(count)]
    paths = [os.path.join(tmp, f"{name}{n}") for n in range(count)]
    for p, d in zip(paths, data):
        with open(p, "wb") as f:
            f.write(d)
    return mkiso(iso, conf), paths, data


def usb_judge(name, m, ports, data, same):
    """What `selftest = usb' says of the disk at each port."""
    m.expect(r"selftest usb: \d+ disks|Cupel ended|The machine has stopped", 120)
    for port, d in zip(ports, data):
        want = f"selftest usb: USB {port}: {len(d)} bytes, the first 1048576 have the checksum {fnv(d[:1 << 20]):016x}\n"
        check(f"{name}: {port}", want in m.text, m.text[-2500:])
        check(f"{name}: {port} after errors", not same or f"selftest usb: USB {port}: the same after errors: \n" in m.text, m.text[-2500:])
    m.kill()


def test_speeds(tmp):
    """Disks at super, high and full speed; after stalls, too."""
    iso, paths, data = usb_setup(tmp, "speeds", 3)
    places = ["port=1", "port=2", "port=3.2"]
    disks = [x for n, (p, where) in enumerate(zip(paths, places))
             for x in ("-drive", f"if=none,id=d{n},format=raw,file={p}", "-device", f"usb-storage,bus=x.0,drive=d{n},{where}")]
    m = Machine(["qemu-system-x86_64", "-accel", "tcg", "-cpu", "max", "-m", "128", "-nographic", "-net", "none", "-no-reboot", "-cdrom",
                 iso, "-device", "qemu-xhci,id=x", "-device", "usb-hub,bus=x.0,port=3", *disks], log=log_path("speeds"))
    usb_judge("speeds", m, ("00:03.0 port 1", "00:03.0 port 2", "00:03.0 port 7.2"), data, True)
    check("speeds: stalls", m.text.count("provoked: a stall, a stall, a stall") == 3, m.text[-2500:])


def test_bochs(tmp):
    """Another controller: contexts of 64 bytes, a super-speed disk and one at high speed with blocks of 4096 bytes. (Stalls on its OUT
    pipes count as success, and its disks never leave them, so what comes after errors is not looked at.)"""
    iso, paths, data = usb_setup(tmp, "bochs", 2)
    disks = (f'usb_xhci: enabled=1, port1=disk, options1="speed:super, path:{paths[0]}"\n'
             f'usb_xhci: port3=disk, options3="speed:high, sect_size:4096, path:{paths[1]}"\n')
    m = Bochs(tmp, "corei7_haswell_4770", iso, "usb", slots=", slot1=usb_xhci", extra=disks)
    usb_judge("bochs", m, ("00:02.0 port 1", "00:02.0 port 3"), data, False)
    check("bochs: contexts of 64 bytes", "contexts of 64 bytes" in m.text, m.text)
    check("bochs: blocks of 4096", "port 3: a disk, 2 MiB, blocks of 4096 bytes" in m.text, m.text[-2000:])
    with open(log_path("usb"), errors="replace") as f:
        complaints = [x for x in f if re.match(r"\d+e\[XHCI", x)]
    check("bochs: its model of the controller has no complaint", not complaints, complaints)


def test_bios(tmp):
    """GRUB on a legacy BIOS does not say from where it booted."""
    m = Machine(["qemu-system-x86_64", "-accel", "tcg", "-cpu", "max", "-m", "128", "-nographic", "-net", "none", "-no-reboot", "-cdrom",
                 mkiso(os.path.join(tmp, "stick.iso"), os.path.join(tmp, "cupel.conf"))], log=log_path("bios"))
    m.expect(r"selftest stick: \d+ passed, \d+ failed\n|The machine has stopped", 120)
    says = "long text: FAILED: the firmware does not say which partition Cupel was booted from"
    check("bios: says that results go to the serial line", says in m.text and "go to the serial line only" in m.text, m.text[-2000:])
    m.kill()


# name: (test, arguments)
ROWS = {
    "usb": (test_written, dict(devices=["-device", "qemu-xhci", "-device", "usb-storage,drive=stick,bootindex=0"])),
    # Full speed, behind a hub, beside a keyboard.
    "hub": (test_written, dict(devices=["-device", "nec-usb-xhci,id=x", "-device", "usb-hub,bus=x.0,port=2", "-device",
                                        "usb-kbd,bus=x.0,port=2.1", "-device",
                                        "usb-storage,bus=x.0,port=2.3,drive=stick,bootindex=0"], kill=True)),
    "virtio": (test_written, dict(devices=["-device", "virtio-blk-pci,drive=stick,bootindex=0"], kill=True)),
    "read-only": (test_refused, dict(devices=["-device", "qemu-xhci", "-device", "usb-storage,drive=stick,bootindex=0"],
                                     drive=",readonly=on", says=r".*WRITE\(10\): write-protected.*")),
    # Two sticks at high speed, on two controllers.
    "copies": (test_refused, dict(devices=["-device", "qemu-xhci,p3=0,id=a", "-device", "usb-storage,bus=a.0,drive=stick,bootindex=0",
                                           "-device", "qemu-xhci,p3=0,id=b", "-device", "usb-storage,bus=b.0,drive=copy0"], copies=1,
                                  says="2 USB disks are copies of each other.*")),
    "sata": (test_refused, dict(devices=["-device", "ide-hd,drive=stick,bootindex=0"],
                                says="the partition that Cupel was booted from is on none .*")),
}


OTHER = {"speeds": test_speeds, "bochs": test_bochs, "bios": test_bios}


def main():
    wanted = sys.argv[1:] or [*ROWS, *OTHER]
    if missing():
        skip("bochs, bios", f"not installed: {', '.join(missing())}")
        wanted = [n for n in wanted if n not in OTHER]
    base = image()
    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        list(pool.map(lambda n: case(OTHER[n], TMP) if n in OTHER else case(ROWS[n][0], n, base, **ROWS[n][1]), wanted))
    finish()


main()
