#!/usr/bin/env python3
"""`make bench-blk`: virtio-blk with and without a data plane: Cupel hosted and QEMU's TCG, with the same kernel, program and disk, taking turns.

Usage: blk.py [--runs N] [--scale X] [--smp N] [--dir DIR] [--json FILE] [--no-peer] [--metal [--accel A]] [-- CUPEL OPTIONS]
The guest's program (tests/bench/blk.c) reads and writes 4 KiB at random places and 128 KiB in sequence, one operation at a time (depth 1) and
eight at once, past its page cache, on a scratch copy of a raw image of 64 MiB with cache=writeback. The image is in the host's memory (--dir,
/dev/shm if there is one): what is measured is the way through the emulator, not the host's disk.

With --metal the two kinds are Cupel on the bare machine, without and with a core for I/O: QEMU with a virtio disk and one core more than vCPUs, for
both kinds. QEMU runs all cores by turns in one thread there (see tests/boot/metal_test.py), and everything is translated twice, so the ratio says
what the longer way costs, and nothing of what a core of one's own gains; --accel kvm, where there is one, would. --scale 0.02 is enough.

Turns alternate, so that a machine that slows down slows all; medians of the runs are compared. The table: operations a second, how far the
runs are apart ((max - min) / median), and how many times QEMU's rate without an iothread that is.
Errors: contents that are not what the passes must have left on the disk, and a guest clock that goes another way than the host's, for the
figures would mean nothing.
"""
import argparse
import atexit
import json
import os
import re
import shutil
import statistics
import struct
import subprocess
import sys
import tempfile
import time

sys.path.insert(0, os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "boot"))
import machine  # noqa: E402

BLK = os.path.join(machine.BUILD, "bench", "blk")
BLOCK, BLOCKS = 4096, 16384
LINE = re.compile(r"blk (\w+) (\d+) (\d+) (\d+) (\d+) (\d+)\n")
PASSES = 16                        # that blk.c makes, half of them timed
KINDS = ("qemu", "qemu-io", "cupel", "cupel-io")
METAL_KINDS = ("metal", "metal-io")
METAL_CONF = r"""
timeout = 0
[bench]
kernel = \guest\vmlinuz
initrd = \guest\initrd
drive = virtio0
append = console=ttyS0 panic=-1
memory = 512M
smp = {smp}
num-queues = {smp}
iothread = {iothread}
"""
M64 = 2 ** 64 - 1


def block(number, stamp=0):
    return struct.pack("<QQ", number, stamp) + bytes(BLOCK - 24) + struct.pack("<Q", number)


def make_image(path):
    with open(path, "wb") as f:
        for n in range(BLOCKS):
            f.write(block(n))


def scatter(x):
    """As in blk.c."""
    x = (x + 1) * 0x9e3779b97f4a7c15 & M64
    x = (x ^ x >> 30) * 0xbf58476d1ce4e5b9 & M64
    x = (x ^ x >> 27) * 0x94d049bb133111eb & M64
    return x ^ x >> 31


def stamps(rows):
    """{block: stamp} after these passes."""
    out = {}
    for name, _, operations, size, stamp, _ in rows:
        places = BLOCKS * BLOCK // size
        for i in range(operations if name.endswith("write") else 0):
            first = (scatter(stamp << 32 | i) if name.startswith("rand") else i) % places * (size // BLOCK)
            out.update(dict.fromkeys(range(first, first + size // BLOCK), stamp))
    return out


def wrong_blocks(path, rows):
    want = stamps(rows)
    with open(path, "rb") as f:
        return [n for n in range(BLOCKS) if f.read(BLOCK) != block(n, want.get(n, 0))]


def make_stick(path, initrd, smp, iothread):
    """A boot image of Cupel's whose guest has the PC's virtio disk."""
    efi = os.path.join(machine.BUILD, "cupel.efi")
    if not os.path.exists(efi):
        sys.exit(f"no {efi}: run make metal")
    with tempfile.TemporaryDirectory() as tmp:
        guest, conf = os.path.join(tmp, "guest"), os.path.join(tmp, "cupel.conf")
        os.mkdir(guest)
        os.symlink(os.path.join(machine.GUEST, "vmlinuz"), os.path.join(guest, "vmlinuz"))
        os.symlink(initrd, os.path.join(guest, "initrd"))
        with open(conf, "w") as f:
            f.write(METAL_CONF.format(smp=smp, iothread=iothread))
        subprocess.run([os.path.join(machine.ROOT, "tools", "mkimg.sh"), path, efi, conf, guest], check=True, stdout=subprocess.DEVNULL)


def start_metal(kind, image, initrd, a):
    stick = os.path.join(os.path.dirname(image), f"{kind}.img")
    if not os.path.exists(stick):
        make_stick(stick, initrd, a.smp, int(kind.endswith("-io")))
    return machine.metal("-smp", str(a.smp + 1), "-drive", f"file={image},if=none,id=d0,format=raw,cache=writeback", "-device", "virtio-blk-pci,drive=d0",
                         image=stick, accel=a.accel, log=f"bench-blk-{kind}")


def start(kind, image, initrd, a):
    if kind in METAL_KINDS:
        return start_metal(kind, image, initrd, a)
    plane = kind.endswith("-io")
    args = ["-kernel", os.path.join(machine.GUEST, "vmlinuz"), "-initrd", initrd, "-append", "console=ttyS0 panic=-1", "-m", "512",
            "-smp", str(a.smp), "-nographic", "-no-reboot", *(("-object", "iothread,id=io0") if plane else ()),
            "-drive", f"file={image},if=none,id=d0,format=raw,cache=writeback",
            "-device", f"virtio-blk-pci,drive=d0,num-queues={a.smp}" + (",iothread=io0" if plane else "")]
    if kind.startswith("cupel"):
        return machine.hosted(*args, *a.options, log=f"bench-blk-{kind}")
    # Not machine.peer: of several -accel QEMU takes the first.
    return machine.Machine(["qemu-system-x86_64", "-accel", "tcg,thread=multi", "-cpu", "max", "-net", "none", *args],
                           log=machine.log_path(f"bench-blk-{kind}"))


def run(kind, image, initrd, a):
    """The passes of one boot: (name, depth, operations, bytes, stamp, ns); and a list of what is wrong with them."""
    m = start(kind, image, initrd, a)
    m.login(600)
    m.send(f"blk /dev/vda {a.scale}\n")
    m.expect("blk begin\n")
    begin, clock = m.at, time.monotonic()
    end = m.expect(r"blk end (\d+)\n|blk: .*\n", 900)
    clock = time.monotonic() - clock
    rows = [(f[0], *map(int, f[1:])) for f in LINE.findall(m.text[begin:m.at])]
    m.send("poweroff\n")
    m.wait(60)
    if not end.group(1) or len(rows) != PASSES:
        return rows, [f"{len(rows)} passes of {PASSES}: {end.group().strip()}"]
    guest, wrong = int(end.group(1)) / 1e9, []
    if abs(guest - clock) > 0.1 + 0.05 * clock:
        wrong.append(f"the guest's clock counts {guest:.2f} s in {clock:.2f} s")
    bad = wrong_blocks(image, rows)
    if bad:
        wrong.append(f"{len(bad)} blocks of the disk hold something else than what was written, the first is {bad[0]}")
    return rows, wrong


def table(rates, kinds):
    base = kinds[0]
    rows = list(dict.fromkeys((n, d) for n, d, _ in rates))
    med = {key: statistics.median(v) for key, v in rates.items()}
    print(f"{'operations/s':12} {'depth':>5}" + "".join(f" {k:>9} {'+-':>4}" + ("" if k == base else f" {'x':>5}") for k in kinds))
    for n, d in rows:
        line = f"{n:12} {d:5}"
        for k in kinds:
            v = rates.get((n, d, k))
            if not v:
                line += f" {'-':>9} {'':>4}" + ("" if k == base else f" {'':>5}")
                continue
            line += f" {med[n, d, k]:9.0f} {100 * (max(v) - min(v)) / med[n, d, k]:3.0f}%"
            if k != base:
                line += f" {med[n, d, k] / med[n, d, base]:5.2f}" if (n, d, base) in med else f" {'':>5}"
        print(line)
    print(f"x: times {base}; rand* is 4 KiB an operation, seq* 128 KiB (8000 a second are 1 GB/s)")
    return med


def main():
    ap = argparse.ArgumentParser()
    ap.add_argument("--runs", type=int, default=5)
    ap.add_argument("--scale", type=float, default=1, help="of the number of operations")
    ap.add_argument("--smp", type=int, default=1, help="vCPUs, and queues of the disk")
    ap.add_argument("--dir", default="/dev/shm" if os.access("/dev/shm", os.W_OK) else None, help="where the disk's image goes")
    ap.add_argument("--json")
    ap.add_argument("--no-peer", action="store_true")
    ap.add_argument("--metal", action="store_true", help="Cupel on the bare machine, with and without iothread, and nothing else")
    ap.add_argument("--accel", default="tcg,thread=single", help="of the QEMU that is the bare machine")
    ap.add_argument("options", nargs="*", help="further options of cupel")
    a = ap.parse_args()
    tmp = tempfile.mkdtemp(prefix="cupel-bench-blk-", dir=a.dir)
    atexit.register(shutil.rmtree, tmp, True)
    fresh, image = os.path.join(tmp, "fresh.img"), os.path.join(tmp, "disk.img")
    make_image(fresh)
    initrd = machine.initrd_with({"bin/blk": BLK})
    kinds = METAL_KINDS if a.metal else [k for k in KINDS if not (a.no_peer and k.startswith("qemu"))]
    rates, errors = {}, 0
    for turn in range(a.runs):
        for k in kinds:
            shutil.copy(fresh, image)
            rows, wrong = run(k, image, initrd, a)
            for w in wrong:
                print(f"{k}: {w}", file=sys.stderr)
            errors += len(wrong)
            for name, depth, operations, _, _, ns in rows if not wrong else ():
                if ns:
                    rates.setdefault((name, depth, k), []).append(operations * 1e9 / ns)
            print(f"turn {turn + 1}: {k} done", file=sys.stderr, flush=True)
    med = table(rates, kinds)
    if a.json:
        with open(a.json, "w") as f:
            json.dump({f"{n} {d} {k}": v for (n, d, k), v in med.items()}, f, indent=1)
    sys.exit(1 if errors else 0)


main()
