#!/usr/bin/env python3
"""virtio-blk with Linux's own driver and ext4: data both ways, discard, read-only, several queues and disks; and what a guest was told is
written is still there after the emulator was killed in the midst of it.

Usage: blk_test.py [quick]     CUPEL_KILLS=N: that many kills (15)     CUPEL_KILL_SEED=N: the same moments again
"""
import atexit
import fcntl
import hashlib
import os
import random
import re
import shutil
import struct
import subprocess
import sys
import tempfile
import time

from linux import check_dmesg
from machine import BUILD, SLOW, case, check, finish, guest_args, hosted, skip

QUICK = "quick" in sys.argv[1:]
KILLS = int(os.environ.get("CUPEL_KILLS", "3" if QUICK else "15"))
SEED = int(os.environ.get("CUPEL_KILL_SEED", str(random.randrange(10 ** 6))))
TMP = tempfile.mkdtemp(prefix="cupel-blk-")
atexit.register(shutil.rmtree, TMP, True)
POWERLOSS = os.path.join(BUILD, "tests", "powerloss.so")
os.environ["PATH"] += ":/usr/sbin:/sbin"


def tool(*argv):
    p = subprocess.run(argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace")
    return p.returncode, p.stdout


def image(name, mib, mkfs=None):
    path = os.path.join(TMP, name)
    with open(path, "wb") as f:
        f.truncate(mib << 20)
    if mkfs is not None:
        code, out = tool("mkfs.ext4", "-q", "-F", *mkfs, path)
        if code:
            raise OSError(f"mkfs.ext4: {out}")
    return path


def boot(*args, log):
    m = hosted(*guest_args(), "-append", "console=ttyS0 panic=-1", "-m", "256", "-nographic", "-no-reboot", *args, log=log)
    m.login()
    m.shell("mkdir -p /mnt")
    return m


def end(m, what):
    m.send("poweroff\n")
    check(f"{what}: poweroff", m.wait(60) == 0, m.proc.returncode)


def fsck_clean(what, path):
    code, out = tool("e2fsck", "-fn", path)
    check(f"{what}: e2fsck -fn", code == 0, out)


def dump(path, directory):
    """The file system's files on the host, by name."""
    to = tempfile.mkdtemp(dir=TMP)
    tool("debugfs", "-R", f"rdump {directory} {to}", path)
    found = {}
    for d, _, names in os.walk(to):
        for n in names:
            with open(os.path.join(d, n), "rb") as f:
                found[os.path.relpath(os.path.join(d, n), to)] = f.read()
    shutil.rmtree(to)
    return found


def sha(data):
    return hashlib.sha256(data).hexdigest()


def test_files(options, device, log):
    """Files of the host read in the guest and the other way round."""
    src = tempfile.mkdtemp(dir=TMP)
    rng = random.Random(log)
    files = {f"f{i}": rng.randbytes(rng.randrange(1, 3 << 20)) for i in range(8)}
    for name, data in files.items():
        with open(os.path.join(src, name), "wb") as f:
            f.write(data)
    path = image(f"{log}.img", 96, ["-d", src])
    m = boot("-drive", f"file={path},format=raw,{options}", *device, log=log)
    m.shell("mount -t ext4 /dev/vda /mnt")
    out, _ = m.shell("sha256sum /mnt/f*", 120)
    check(f"{log}: read", all(sha(d) in out for d in files.values()), out)
    out, code = m.shell("for i in 1 2 3 4; do dd if=/dev/urandom of=/mnt/g$i bs=37k count=50 conv=fsync 2>/dev/null & done; wait;"
                        "cp /mnt/f0 /mnt/f0.copy; rm /mnt/f1; sync; echo 3 >/proc/sys/vm/drop_caches; sha256sum /mnt/g* /mnt/f0.copy", 180)
    sums = dict(reversed(x.split()) for x in out.splitlines() if len(x.split()) == 2)
    check(f"{log}: write", code == 0 and len(sums) == 5 and sums["/mnt/f0.copy"] == sha(files["f0"]), out)
    # Programs from the disk, whose pages come and go: code that DMA replaces is translated anew.
    out, code = m.shell("cp /bin/busybox /mnt/busybox1; { cat /bin/busybox; echo; } >/mnt/busybox2; chmod +x /mnt/busybox2; sync; i=0; while [ $i -lt 12 ]; do"
                        " echo 3 >/proc/sys/vm/drop_caches; dd if=/mnt/g1 of=/dev/null bs=1M 2>/dev/null; /mnt/busybox1 echo one $i; /mnt/busybox2 echo two $i;"
                        " i=$((i + 1)); done", 120)
    check(f"{log}: programs", code == 0 and all(f"{w} {i}" in out for w in ("one", "two") for i in range(12)), out)
    out, _ = m.shell("fstrim -v /mnt; umount /mnt; cat /sys/block/vda/queue/write_cache /sys/block/vda/serial; ls -d /sys/block/vda/mq/*")
    check(f"{log}: fstrim", re.search(r"(\d+) bytes", out) and int(re.search(r"(\d+) bytes", out).group(1)) > 1 << 20, out)
    check_dmesg(m)
    end(m, log)
    fsck_clean(log, path)
    found = dump(path, "/")
    check(f"{log}: on the host", all(sha(found.get(n[5:], b"")) == s for n, s in sums.items()), f"{sorted(found)} {sums}")
    check(f"{log}: untouched files", all(found.get(n) == d for n, d in files.items() if n != "f1") and "f1" not in found, sorted(found))
    return out


def test_queues():
    out = test_files("if=none,id=d0", ("-device", "virtio-blk-pci,drive=d0,num-queues=4,serial=cupel-0815"), "queues")
    check("queues: serial number", "cupel-0815" in out and "write back" in out, out)


def test_through():
    out = test_files("if=virtio,cache=writethrough", (), "through")
    check("writethrough", "write through" in out, out)


def test_direct():
    path = image("probe.img", 1)
    try:
        os.close(os.open(path, os.O_RDONLY | os.O_DIRECT))
    except OSError:
        return skip("cache=none", f"the file system of {TMP} has no O_DIRECT")
    test_files("if=virtio,cache=none", (), "direct")


def test_raw():
    """Whole disks without a file system: discard frees host space, zeroes read back, a read-only disk stays as it is."""
    a, b = image("raw.img", 32), image("ro.img", 4)
    data = random.Random(1).randbytes(4 << 20)
    with open(b, "r+b") as f:
        f.write(data)
    m = boot("-drive", f"file={a},if=virtio", "-drive", f"file={b},if=virtio,readonly=on", log="raw")
    out, _ = m.shell("cat /sys/block/vd?/size /sys/block/vd?/ro; sha256sum /dev/vdb")
    check("raw: sizes, read-only", out.split()[:4] == ["65536", "8192", "0", "1"] and sha(data) in out, out)
    out, code = m.shell("dd if=/dev/zero of=/dev/vdb bs=512 count=1 conv=fsync")
    check("raw: no write to it", code != 0, out)
    m.shell("tr '\\0' x </dev/zero | dd of=/dev/vda bs=1M iflag=fullblock count=32 conv=fsync 2>/dev/null", 120)
    before = os.stat(a).st_blocks
    out, code = m.shell("blkdiscard -o 1048576 -l 16777216 /dev/vda; sync; dd if=/dev/vda bs=1M skip=1 count=16 2>/dev/null | tr -d '\\0' | wc -c")
    check("raw: discard", code == 0 and out.strip() == "0" and os.stat(a).st_blocks <= before - 16 * 2048, f"{out} {before} {os.stat(a).st_blocks}")
    # 4 KiB at odd places by O_DIRECT, then the disk's end and beyond.
    out, code = m.shell("for i in 3 5 7; do echo place$i | dd of=/dev/vda bs=4096 seek=$((8000 + i)) conv=sync oflag=direct 2>/dev/null; done;"
                        "dd if=/dev/vda bs=512 skip=65535 2>/dev/null | tr -d x | wc -c; dd if=/dev/vda bs=512 skip=65536 2>/dev/null | wc -c")
    check("raw: its end", out.split() == ["0", "0"], out)
    check_dmesg(m)
    end(m, "raw")
    with open(a, "rb") as f:
        image_a = f.read()
    check("raw: contents", all(image_a[(8000 + i) * 4096:][:8] == b"place%d\n\0" % i for i in (3, 5, 7)) and image_a[:1 << 20] == b"x" * (1 << 20))
    with open(b, "rb") as f:
        check("raw: read-only unchanged", f.read() == data)


def test_reset(*args, log="reset"):
    """The machine restarts while the disk is busy: nothing of the old driver's reaches the new kernel's memory."""
    path = image(f"{log}.img", 64, [])
    m = hosted(*guest_args(), "-append", "console=ttyS0 panic=-1", "-m", "256", "-nographic",
               "-drive", f"file={path}," + ("if=none,id=d0" if args else "if=virtio"), *args, log=log)
    for i in range(3):
        m.login()
        out, code = m.shell("mkdir -p /mnt; mount -t ext4 /dev/vda /mnt; echo 3 >/proc/sys/vm/drop_caches; ls /mnt/a* 2>/dev/null; "
                            f"for k in 1 2 3; do dd if=/dev/zero of=/mnt/a{i}.$k bs=1M count=16 2>/dev/null & done;"
                            "sleep 0.2; sha256sum /dev/vda >/dev/null & sleep 0.2")
        m.send("reboot\n")
    m.login()
    check_dmesg(m)
    end(m, log)
    time.sleep(0.6)        # Linux takes the RTC's second plus a half: a mount of just now may lie in the future
    code, out = tool("e2fsck", "-fy", path)
    check(f"{log}: e2fsck", code in (0, 1), out)


def test_errors():
    """A disk is one process's; and the host's error is the guest's I/O error, not the emulator's end."""
    path = image("lock.img", 4)
    with open(path, "r+b") as f:
        fcntl.lockf(f, fcntl.LOCK_EX)
        m = hosted(*guest_args(), "-drive", f"file={path},if=virtio", log="lock")
        code = m.wait(20)
        check("locked by another", code == 1 and path in m.text and "in use" in m.text, m.text)
    m = boot("-drive", f"file={path},if=virtio", log="errors")
    n = hosted(*guest_args(), "-drive", f"file={path},if=virtio,readonly=on", log="lock2")
    check("locked by Cupel", n.wait(20) == 1 and "in use" in n.text, n.text)
    os.truncate(path, 2 << 20)                          # somebody pulls half of the file away
    out, code = m.shell("dd if=/dev/vda of=/dev/null bs=1M skip=3 count=1")
    check("reading what is gone", code != 0 and "I/O error" in out, out)
    out, code = m.shell("dd if=/dev/vda of=/dev/null bs=1M count=2; echo alive", 30)
    check("and what is not", "alive" in out and "2+0 records in" in out, out)
    end(m, "errors")


# ---- killed at any moment ------------------------------------------------------------------------------------------------------
WRITERS = 3
# A writer has a log, appended to and synced line by line, and five files, each replaced by a new one again and again: written, synced,
# moved into place, directory synced. What is printed has happened.
WRITER = """w() { d=/mnt/w$1; mkdir -p $d; i=$2; while :; do
n=$((i % 5)); seq $i $((i + i % 7 * 400)) >$d/t; sync $d/t; mv $d/t $d/f$n; sync $d; echo "ack $1 $i."; 
echo "$i of $1" >>$d/log; sync $d/log; echo "log $1 $i."; i=$((i + 1)); done; }"""
# Orphans: what the journal says was being deleted, or truncated.
ALLOWED = re.compile(r"^e2fsck |: recovering journal|^(Clearing|Truncating) orphaned inode|^Pass [1-5]|^Setting (free|filetype|dirty)|FILE SYSTEM WAS MODIFIED"
                     r"|^Free (blocks|inodes) count wrong|files \(.*blocks$|^Fix\? yes|^Journal checksum|^\s*$")


def content(i):
    return "".join(f"{x}\n" for x in range(i, i + i % 7 * 400 + 1)).encode()


def kill_round(path, args, k, rng, first, seen):
    """One life: boot, write, be killed. first: where counting goes on. seen: what was acknowledged, over all lives."""
    m = hosted(*guest_args(), "-append", "console=ttyS0 panic=-1 loglevel=1", "-m", "256", "-nographic", "-drive", f"file={path},{args[0]}", *args[1:],
               log="kill")
    m.login()
    out, code = m.shell("mkdir -p /mnt; mount -t ext4 -o commit=1 /dev/vda /mnt && stty -echo")
    check(f"kill {k}: mounted", code == 0, out)
    m.send(WRITER.replace("\n", " ") + "\n")
    noise = "while :; do dd if=/dev/urandom of=/mnt/noise bs=16k count=20 2>/dev/null; sync -d /mnt/noise; done &"
    m.send(" ".join(f"w {w} {first} &" for w in range(WRITERS)) + noise + "\n")
    m.expect(r"log \d \d+\.", 60)
    until = time.monotonic() + rng.uniform(0, 2.5) * SLOW
    while time.monotonic() < until:
        m._read(until - time.monotonic())
    m.kill()
    while m._read(0.2):
        pass
    for kind, w, i in re.findall(r"(ack|log) (\d) (\d+)\.", m.text):
        if kind == "ack":
            seen["file", int(w), int(i) % 5] = int(i)
        else:
            seen["log", int(w)].append(int(i))
    return len(re.findall(r"(ack|log) \d \d+\.", m.text))


def verify(k, path, seen):
    time.sleep(0.6)        # Linux takes the RTC's second plus a half: a mount of just now may lie in the future
    code, out = tool("e2fsck", "-fy", path)
    odd = [x for x in out.splitlines() if not ALLOWED.search(x)]
    check(f"kill {k}: e2fsck finds nothing but a journal", code in (0, 1) and not odd, f"{odd} in:\n{out}")
    fsck_clean(f"kill {k}", path)
    found = {}
    for w in range(WRITERS):
        found.update(dump(path, f"/w{w}"))
    for key, want in seen.items():
        if key[0] == "log":
            # A line that was not synced may be zeroes: ext4 orders the file's new size after the data of new blocks only.
            lines = found.get(f"w{key[1]}/log", b"").replace(b"\0", b"").decode(errors="replace").splitlines()
            have = [int(x.split()[0]) for x in lines if re.fullmatch(rf"\d+ of {key[1]}", x)]
            check(f"kill {k}: log of writer {key[1]}", set(want) <= set(have) and len(have) == len(lines), 
                  f"missing {sorted(set(want) - set(have))[:5]}, odd {[x for x in lines if not re.fullmatch(r'[0-9]+ of [0-9]', x)][:5]}")
        else:
            data = found.get(f"w{key[1]}/f{key[2]}", b"")
            number = re.match(rb"\d+", data)
            i = int(number.group()) if number else -1
            check(f"kill {k}: file {key[1:]}", i >= want and i % 5 == key[2] and data == content(i), f"acknowledged {want}, there is {i} ({len(data)} bytes)")
            seen[key] = max(want, i)


def next_first(first, seen):
    return max([first, *(i for key, i in seen.items() if key[0] == "file"), *(i for w in range(WRITERS) for i in seen["log", w])]) + 10


def test_kill(args=("if=virtio",), kills=KILLS, log="kill"):
    rng = random.Random(SEED)
    path = image(f"{log}.img", 64, [])
    seen = {("log", w): [] for w in range(WRITERS)}
    acks, first = 0, 1
    for k in range(kills):
        acks += kill_round(path, args, k, rng, first, seen)
        verify(k, path, seen)
        first = next_first(first, seen)
    check("kills: something was written", acks >= 5 * kills, acks)
    print(f"{log}: {kills} kills, {acks} acknowledged writes (CUPEL_KILL_SEED={SEED})", flush=True)


# ---- power failure ------------------------------------------------------------------------------------------------------------
def play_back(base, record, rng):
    """The image after a power failure: all that a flush covers, and of what came later any blocks at all (tests/boot/powerloss.c). A block
    is 4 KiB, which the disk says it writes at once: ext4 trusts the block of 1 KiB that commits a transaction not to be torn."""
    with open(record, "rb") as f:
        log = f.read()
    entries, at, safe, flushes = [], 0, 0, 0
    while at + 24 <= len(log):
        kind, offset, length = struct.unpack_from("<QQQ", log, at)
        size = 24 + (length if kind == 1 else 0)
        if at + size > len(log):
            break                                        # killed while it wrote this down
        entries.append((at, kind, offset, length))
        if kind == 2:
            safe, flushes = max(safe, offset), flushes + 1
        at += size
    lost = 0
    with open(base, "r+b") as f:
        for at, kind, offset, length in entries:
            data = log[at + 24:at + 24 + length] if kind == 1 else bytes(length if kind == 3 else 0)
            k = 0
            while k < len(data):
                n = 4096 - (offset + k) % 4096
                begin, k = k, k + n
                if at >= safe and rng.random() < 0.5:
                    lost += 1
                    continue
                f.seek(offset + begin)
                f.write(data[begin:k])
    return flushes, lost


def test_power(args=("if=virtio",), rounds=(KILLS + 2) // 3, log="power"):
    """As test_kill, but what no flush covered may be gone: a device that forgets flushes fails here."""
    with open(os.environ.get("CUPEL", os.path.join(BUILD, "cupel")), "rb") as f:
        if b"__asan_init" in f.read():
            return skip(log, "a sanitizer's run-time wants to be loaded before anything else")
    rng = random.Random(SEED)
    path, safe, record = image(f"{log}.img", 64, []), os.path.join(TMP, f"{log}.safe"), os.path.join(TMP, f"{log}.record")
    seen = {("log", w): [] for w in range(WRITERS)}
    acks = flushes = lost = 0
    first = 1
    for k in range(rounds):
        shutil.copy(path, safe)
        open(record, "wb").close()
        os.environ.update(LD_PRELOAD=POWERLOSS, POWERLOSS_LOG=record)
        try:
            acks += kill_round(path, args, k, rng, first, seen)
        finally:
            del os.environ["LD_PRELOAD"]
        n, gone = play_back(safe, record, rng)
        flushes, lost = flushes + n, lost + gone
        shutil.copy(safe, path)
        verify(k, path, seen)
        first = next_first(first, seen)
    check(f"{log}: something was written, and lost", acks >= 5 * rounds and flushes >= acks / 4 and lost > 0, f"{acks} {flushes} {lost}")
    print(f"{log}: {rounds} failures, {acks} acknowledged writes, {flushes} flushes, {lost} blocks lost (CUPEL_KILL_SEED={SEED})", flush=True)


PLANE = ("-object", "iothread,id=io0", "-device", "virtio-blk-pci,drive=d0,num-queues=2,iothread=io0")


def test_plane():
    """The data plane: the same by an I/O thread without the big lock."""
    test_files("if=none,id=d0", PLANE, "plane")
    test_reset(*PLANE, log="plane-reset")
    test_kill(("if=none,id=d0", *PLANE), (KILLS + 1) // 2, "plane-kill")
    test_power(("if=none,id=d0", *PLANE), (KILLS + 2) // 3, "plane-power")


def test_plane_intx():
    """A driver without MSI-X gets its interrupts by way of core 0."""
    path = image("intx.img", 16, [])
    m = hosted(*guest_args(), "-append", "console=ttyS0 panic=-1 pci=nomsi", "-m", "256", "-nographic", "-no-reboot",
               "-drive", f"file={path},if=none,id=d0", *PLANE, log="intx")
    m.login()
    out, code = m.shell("mkdir -p /mnt; mount -t ext4 /dev/vda /mnt; dd if=/dev/urandom of=/mnt/x bs=64k count=64 conv=fsync; sha256sum /mnt/x;"
                        "echo 3 >/proc/sys/vm/drop_caches; sha256sum /mnt/x; umount /mnt; cat /proc/interrupts", 120)
    sums = re.findall(r"[0-9a-f]{64}", out)
    check("plane without MSI-X", code == 0 and len(sums) == 2 and sums[0] == sums[1] and re.search(r"IO-APIC.*virtio0", out), out)
    check_dmesg(m)
    end(m, "intx")
    fsck_clean("intx", path)


def bars_elsewhere(m, device):
    """The first 40 bytes of a function's configuration space, with its BARs where they are and at a free place, for a shell's printf."""
    out, _ = m.shell("cat /sys/bus/pci/devices/*/resource")
    ends = [int(x, 16) for x in re.findall(r"^0x\w+ 0x(\w+) 0x\w+$", out, re.M)]
    free = (max(e for e in ends if e < 0xfec00000) | 0xffffff) + 1
    out, _ = m.shell(f"hexdump -v -n 40 -e '1/1 \"%02x\"' {device}/config")
    head = bytearray.fromhex(re.search(r"[0-9a-f]{80}", out).group())
    head[4:6] = (0x0006).to_bytes(2, "little")                     # memory and DMA on
    other, at = bytearray(head), 0x10
    while at < 0x28:
        bar = int.from_bytes(head[at:at + 4], "little")
        if bar & ~0xf and not bar & 1:
            other[at:at + 4] = (free | bar & 0xf).to_bytes(4, "little")
            free += 1 << 20
        at += 8 if bar & 6 == 4 else 4
    check("plane, BARs on the move: there is one to move", head != other and free < 0xfec00000, head.hex())
    return ["".join(f"\\x{b:02x}" for b in x) for x in (head, other, head[:4] + b"\0\0" + head[6:])]


def test_plane_remap():
    """The memory map changes under the I/O thread's hands: another function's BARs move, vanish and come back while the disk is busy."""
    data = random.Random(7).randbytes(6 << 20)
    src = tempfile.mkdtemp(dir=TMP)
    with open(os.path.join(src, "data"), "wb") as f:
        f.write(data)
    path = image("remap.img", 96, ["-d", src])
    m = boot("-smp", "2", "-device", "virtio-rng-pci", "-drive", f"file={path},if=none,id=d0,format=raw", *PLANE, log="plane-remap")
    out, _ = m.shell("for d in /sys/bus/pci/devices/*; do [ $(cat $d/device) = 0x1044 ] && echo $d && basename $d >/sys/bus/pci/drivers/virtio-pci/unbind; done")
    device = re.search(r"/sys/bus/pci/devices/\S+", out).group()
    here, there, nowhere = bars_elsewhere(m, device)
    m.shell("mount -t ext4 /dev/vda /mnt; { i=0; while [ $i -lt 12 ]; do cp /mnt/data /mnt/copy$((i % 3)); sync; echo 3 >/proc/sys/vm/drop_caches;"
            " sha256sum /mnt/copy$((i % 3)); i=$((i + 1)); done >/tmp/sums; touch /tmp/done; } & true")
    out, code = m.shell(f"n=0; while [ ! -e /tmp/done ]; do printf '{there}' >{device}/config; printf '{nowhere}' >{device}/config;"
                        f" printf '{here}' >{device}/config; n=$((n + 1)); done; echo moves $n; cat /tmp/sums", 240)
    moves = int(re.search(r"moves (\d+)", out).group(1))
    check("plane, BARs on the move: data", out.count(sha(data)) == 12, out)
    check("plane, BARs on the move: they moved", moves > 300, moves)
    print(f"plane, BARs on the move: {moves} rounds", flush=True)
    out, _ = m.shell(f"umount /mnt; basename {device} >/sys/bus/pci/drivers/virtio-pci/bind; head -c 64 /dev/hwrng | wc -c")
    check("plane, BARs on the move: the device still works", "64" in out.split(), out)
    check_dmesg(m)
    end(m, "plane-remap")
    fsck_clean("plane-remap", path)


for t in (test_queues, test_raw, test_errors, test_kill) if QUICK else (
        test_queues, test_through, test_direct, test_raw, test_reset, test_errors, test_kill, test_power, test_plane, test_plane_intx, test_plane_remap):
    case(t)
finish()
