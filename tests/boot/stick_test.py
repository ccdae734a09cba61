#!/usr/bin/env python3
"""Results on the disk that Cupel was booted from (`selftest = stick', kernel/stick.h): QEMU + OVMF boot an image from several kinds of
disk.

What counts as written is what a power failure at the last message leaves: powerloss.so records in QEMU which bytes reach the image,
and what flushes cover. Of that, the file has the contents, nothing outside of it has changed, and fsck finds nothing.
"""
import atexit
import concurrent.futures
import os
import shutil
import struct
import subprocess
import sys
import tempfile

from machine import BUILD, ROOT, Machine, case, check, finish, log_path

TMP = tempfile.mkdtemp(prefix="cupel-stick-")
atexit.register(shutil.rmtree, TMP, True)
os.environ["PATH"] += ":/usr/sbin:/sbin"
CONF = "timeout = 0\n[stick]\nselftest = stick\n"
START, SIZE = 1 << 20, 1 << 20                # of the partition, of the file
WRITE, FLUSH = 1, 2                           # powerloss.c


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
    return m, log


def outside_same(a, b):
    """Byte for byte but for the file, which is found by its contents' place in the fresh image."""
    with open(a, "rb") as f, open(b, "rb") as g:
        old, new = f.read(), g.read()
    mark = b'{"schema": "cupel-assay/1", "complete": false}\n\n'
    at = old.index(mark)
    assert old.count(mark) == 1
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
    judge(name, base, img)
    os.remove(img)


ROWS = {
    "virtio": dict(devices=["-device", "virtio-blk-pci,drive=stick,bootindex=0"], kill=True),
}


def main():
    base = image()
    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        list(pool.map(lambda row: case(test_written, row[0], base, **row[1]), [r for r in ROWS.items() if sys.argv[1:] in ([], [r[0]])]))
    finish()


main()
