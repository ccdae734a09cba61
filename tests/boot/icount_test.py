#!/usr/bin/env python3
"""-icount: exact and deterministic.

Exact: icount.S measures stretches of code of known length by its TSC; every row must be right to the instruction, for several shifts, and QEMU's
-icount must agree where it counts the same things (it counts each round of REP, the instruction that raises #UD or INT n besides its handler,
and arms a timer one instruction later).
Deterministic: boots of Debian's kernel that work, sleep and power off must agree in every byte of the console (time stamps included), in the
number of instructions, the virtual time and the hash of RAM: run by run, with the guest's idle time slept or skipped, with every engine, and on
a busy host. Several vCPUs (race.S, and Linux on two) take turns at the same instructions in every run, even if the monitor stops the
machine in between. On the bare machine the small guest gives the same as hosted. What must make a difference (shift, seed, the RTC's base) is seen to make one."""
import gzip
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time

from linux import BAD
from machine import BUILD, ROOT, SLOW, case, check, finish, guest_args, hosted, metal, skip

CUPEL = os.environ.get("CUPEL", os.path.join(BUILD, "cupel"))
KERNEL = os.path.join(BUILD, "tests", "icount.elf")
KERNEL_SMP = os.path.join(BUILD, "tests", "race.elf")
HERE = os.path.dirname(os.path.abspath(__file__))
EXIT = ["-device", "isa-debug-exit,iobase=0xf4,iosize=0x04"]
QEMU_DIFFERS = {"rep-movs", "rep-stos", "rep-cmps", "ud", "int", "timer", "timer-branches", "timer-strings", "timer-mmio", "hlt", "sti", "sti-mmio",
                "popf", "self-ipi", "mmio"}
AUTORUN = r"""#!/bin/sh
exec </dev/console >/dev/console 2>&1
date
i=0; while [ $i -lt 20 ]; do /bin/true || echo bad; i=$((i + 1)); done; echo done $i
seq 1 3000 | sort -rn | md5sum
for k in 1 2 3; do seq 1 ${k}000 | sort -r | md5sum & done; wait
awk 'BEGIN { x = 1; for (i = 0; i < 20; i++) x = (x + 2 / x) / 2; printf "%.12f\n", x }'
sleep 1
echo urandom $(head -c 16 /dev/urandom | md5sum)
echo hwrng $(head -c 16 /dev/hwrng | md5sum)
cat /proc/interrupts /proc/uptime
grep -E 'MHz|bogomips' /proc/cpuinfo
poweroff -f
"""


def run(argv, timeout, name):
    """(standard output, the line of -d icount, exit code)"""
    try:
        p = subprocess.run(argv, stdin=subprocess.DEVNULL, capture_output=True, timeout=timeout * SLOW)
    except subprocess.TimeoutExpired as e:
        check(name, False, f"did not end: {(e.stdout or b'')[-500:]!r}")
        return b"", "", None
    m = re.search(rb"^icount: .*$", p.stderr, re.M)
    return p.stdout, m.group(0).decode() if m else "", p.returncode


# ---- exact ----
def rows_of(out):
    rows = {}
    for m in re.finditer(rb"row (\S+) (\w{8}) (\w{8}) (\w{8})$", out.replace(b"\r", b""), re.M):
        rows[m.group(1).decode()] = tuple(int(x, 16) for x in m.groups()[1:])
    return rows


def small(shift, *args):
    return run([CUPEL, "-kernel", KERNEL, "-m", "64", "-nographic", "-no-reboot", *EXIT, "-icount", f"shift={shift}", "-d", "icount", *args], 60,
               f"shift={shift} {args}")


def test_exact():
    expected = len(re.findall(r"^\s+(?:END|CAUGHT)\s+[\w-]+,", open(os.path.join(HERE, "icount.S")).read(), re.M))
    for shift in (0, 3, 10):
        first = small(shift)
        rows = rows_of(first[0])
        check(f"shift={shift}: ran to its end", first[2] == 0x21 and len(rows) == expected, f"exit code {first[2]}, {len(rows)} of {expected} rows")
        for name, (insns, ns, measured) in rows.items():
            check(f"shift={shift}: {name}", measured == (insns << shift) + ns, f"{measured}, not {(insns << shift) + ns}")
        m = re.search(r"instructions=(\d+) virtual_ns=(\d+) waited_ns=(\d+) ram_fnv1a64=\w{16}", first[1])
        check(f"shift={shift}: report", m and int(m[2]) == (int(m[1]) << shift) + int(m[3]) and int(m[3]) > 0, first[1])
        for args in (["-accel", "tcg,exit=poll"], ["-accel", "tcg,chain=off"], ["-accel", "tcg,tb-size=4"], ["-icount", f"shift={shift},sleep=off"],
                     ["-d", "icount,profile"]):
            check(f"shift={shift} {args[1]}: the same", small(shift, *args) == first)
    return rows


# ---- several vCPUs ----
SLICE_NS = 4000000                               # kernel/machine_cores.c
PHASES = re.findall(r"^phases:(.*?)^phases_end", open(os.path.join(HERE, "race.S")).read(), re.M | re.S)[0].count(".long")


def smp(cpus, shift, accel="", *args):
    return run([CUPEL, "-kernel", KERNEL_SMP, "-append", f"cpus={cpus}", "-smp", str(cpus), "-m", "64", "-nographic", "-no-reboot", *EXIT,
                "-icount", f"shift={shift}", "-accel", f"tcg,thread=single{accel}", "-d", "icount", *args], 60, f"{cpus} vCPUs {shift} {accel} {args}")


def test_turns(cpus, shift):
    """A vCPU that reads its TSC without end misses the others' turns and nothing else; a turn ends at the first instruction at which SLICE_NS
    are over."""
    name = f"{cpus} vCPUs, shift={shift}"
    first = smp(cpus, shift)
    out = first[0].replace(b"\r", b"").decode()
    hashes = re.findall(r"^phase (\w+) (\w{8}) \w{8}$", out, re.M)
    check(f"{name}: ran to its end", first[2] == 0x21 and len(hashes) == PHASES, f"exit code {first[2]}: {out}")
    check(f"{name}: all mixed", len({h for _, h in hashes[1:]}) == PHASES - 1 and all(int(h, 16) for _, h in hashes[1:]), hashes)
    turns = [[int(x, 16) for x in m] for m in re.findall(r"^turn (\w{8}) (\w{8}) (\w{8}) (\w{8})$", out, re.M)]
    missed = (cpus - 1) * (-(-SLICE_NS >> shift) << shift) + (8 << shift)
    check(f"{name}: turns to the instruction", [t[0] for t in turns] == list(range(cpus)) and all(t[1] > 0 and t[2] == t[3] == missed for t in turns),
          f"{turns}, not {missed}")
    return first


def test_smp():
    for cpus in (2, 3):
        first = {shift: test_turns(cpus, shift) for shift in (0, 3, 10)}
        check(f"{cpus} vCPUs: the shift matters", len({x[0] for x in first.values()}) == 3)
        for accel, *args in ((",exit=poll",), (",chain=off",), (",tb-size=8",), (",exit=poll,chain=off",), ("", "-icount", "shift=3,sleep=off")):
            same(f"{cpus} vCPUs {accel} {args}", smp(cpus, 3, accel, *args), first[3])


def test_peer():
    if not shutil.which("qemu-system-x86_64"):
        skip("QEMU's -icount", "no qemu-system-x86_64")
        return
    out, _, _ = run(["qemu-system-x86_64", "-accel", "tcg", "-cpu", "max", "-net", "none", "-kernel", KERNEL, "-m", "64", "-nographic", "-no-reboot",
                     *EXIT, "-icount", "shift=0,sleep=off"], 60, "QEMU")
    rows, mine = rows_of(out), rows_of(small(0)[0])
    same = [n for n in mine if n not in QEMU_DIFFERS]
    check("QEMU: rows", len(same) > 10 and all(n in rows for n in same), f"{sorted(rows)}")
    for n in same:
        check(f"QEMU: {n}", n in rows and rows[n] == mine[n], f"{rows.get(n)} and here {mine[n]}")


# ---- deterministic ----
def overlay(directory):
    """The default guest's RAM disk and behind it an archive with /bin/autorun."""
    os.makedirs(os.path.join(directory, "root", "bin"))
    path = os.path.join(directory, "root", "bin", "autorun")
    with open(path, "w") as f:
        f.write(AUTORUN)
    os.chmod(path, 0o755)
    cpio = subprocess.run(["cpio", "-o", "-H", "newc", "-R", "0:0", "--reproducible", "--quiet"], input=b"bin\nbin/autorun\n",
                          cwd=os.path.join(directory, "root"), capture_output=True, check=True).stdout
    initrd = os.path.join(directory, "initrd")
    args = guest_args()
    with open(initrd, "wb") as f, open(args[3], "rb") as g:
        f.write(g.read() + gzip.compress(cpio, mtime=0))
    return [args[0], args[1], "-initrd", initrd, "-append", "console=ttyS0 panic=-1", "-m", "128", "-nographic", "-no-reboot"]


def linux(guest, *args):
    return run([CUPEL, *guest, "-device", "virtio-rng-pci", "-d", "icount", *args], 120, f"Linux {args}")


def busy(n):
    """n processes that keep the host's processors busy."""
    return [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(n)]


def end(processes):
    for p in processes:
        p.kill()
        p.wait()


def field(out, pattern):
    m = re.search(pattern.encode(), out.replace(b"\r", b""), re.M)
    return m.group(1).decode() if m else None


def test_deterministic():
    with tempfile.TemporaryDirectory(prefix="cupel-icount-") as tmp:
        guest = overlay(tmp)
        first = linux(guest, "-icount", "shift=3,sleep=off")
        out, line, code = first
        text = out.decode(errors="replace")
        check("Linux: powered off", code == 0 and "Power down" in text and "done 20" in text and "1.414213562373" in text, text[-800:])
        check("Linux: report", re.match(r"icount: instructions=\d{9,} ", line), line)
        bad = [x for x in text.splitlines() if x.startswith("[") and BAD.search(x)]
        check("Linux: log", not bad, "\n".join(bad[:5]))
        check("Linux: the TSC is 1 GHz", field(out, r"cpu MHz\s*: (1000\.\d+)"), field(out, r"(cpu MHz.*)"))
        check("Linux: the RTC's base", field(out, r"^(Sat Jan +1 00:00:\d\d UTC 2000)"), field(out, r"^(\w+ \w+ +\d+ .*\d{4})"))
        for args in ([], ["-icount", "shift=3,sleep=on"], ["-accel", "tcg,chain=off"], ["-accel", "tcg,exit=poll"], ["-accel", "tcg,tb-size=4"]):
            same(f"again {args}", linux(guest, "-icount", "shift=3,sleep=off", *args), first)
        spin = busy(3)
        try:
            same("busy host, with the profiler on", linux(guest, "-icount", "shift=3,sleep=on", "-d", "profile"), first)
        finally:
            end(spin)
        other = linux(guest, "-icount", "shift=4,sleep=off", "-seed", "1", "-rtc", "base=2026-01-31T23:59:58")
        check("another shift, seed and base: powered off", other[2] == 0, other[0][-500:])
        check("another shift: another count", other[1] != line, line)
        check("another base", (field(other[0], r"^(\w{3} \w{3} +\d+ )") or "") in ("Sat Jan 31 ", "Sun Feb  1 "), field(other[0], r"^(\w+ \w+ +\d+ .*)"))
        for name in ("urandom", "hwrng"):
            a, b = field(out, rf"^{name} (\w+)"), field(other[0], rf"^{name} (\w+)")
            check(f"another seed: {name}", a and b and a != b, f"{a} {b}")
        free = linux_free(guest)
        for name, pattern in (("sorted numbers", r"^done 20\n(\w{32})"), ("floating point", r"^(1\.41421\d+)")):
            check(f"as without icount: {name}", field(free, pattern) and field(free, pattern) == field(out, pattern), field(free, pattern))


def stopped(guest, *args):
    """A run that the monitor stops and lets go a few times: its line of -d icount."""
    m = hosted(*guest, "-device", "virtio-rng-pci", "-d", "icount", *args, log="stopped")
    m.expect("Linux version", 60)
    m.send("\x01c")
    m.expect(r"\(cupel\) ")
    for n in range(12):
        for command in ("stop\r", "cont\r"):
            m.send(command)
            m.expect(re.escape(command.strip()) + r"[^(]*\(cupel\) ")
        time.sleep(0.05 + n % 3 * 0.03)
    m.wait(120)
    return re.search(r"^icount: .*$", m.text, re.M).group(0)


def test_linux_smp():
    """Two vCPUs: the same schedule whatever the host does."""
    args = ("-smp", "2", "-icount", "shift=3,sleep=off", "-accel")
    with tempfile.TemporaryDirectory(prefix="cupel-icount-") as tmp:
        guest = overlay(tmp)
        first = linux(guest, *args, "tcg,thread=single")
        text = first[0].decode(errors="replace")
        check("Linux on 2 vCPUs: powered off", first[2] == 0 and all(x in text for x in ("Power down", "done 20", " 2 CPU,")), text[-800:])
        both = field(first[0], r"^LOC: +(\d{3,} +\d{3,})")
        check("Linux on 2 vCPUs: both worked", both, text[-2000:])
        bad = [x for x in text.splitlines() if x.startswith("[") and BAD.search(x)]
        check("Linux on 2 vCPUs: log", not bad, "\n".join(bad[:5]))
        spin = busy(2)
        try:
            same("Linux on 2 vCPUs, another engine, busy host", linux(guest, *args, "tcg,thread=single,tb-size=8,exit=poll"), first)
        finally:
            end(spin)
        line = stopped(guest, *args, "tcg,thread=single")
        check("Linux on 2 vCPUs, stopped now and then: count, time, RAM", line == first[1], f"{first[1]} and {line}")


def linux_free(guest):
    return run([CUPEL, *guest, "-device", "virtio-rng-pci"], 300, "Linux without icount")[0]


def same(name, got, first):
    a, b = first[0].splitlines(), got[0].splitlines()
    differs = next((f"line {i + 1}: {x!r} and {y!r}" for i, (x, y) in enumerate(zip(a, b)) if x != y), f"{len(a)} and {len(b)} lines")
    check(f"{name}: console", got[0] == first[0], differs)
    check(f"{name}: count, time, RAM", got[1] == first[1] and got[1], f"{first[1]} and {got[1]}")
    check(f"{name}: exit code", got[2] == first[2], got[2])


# ---- on the bare machine ----
CONF = r"""timeout = 0
[icount]
kernel = \guest\icount.elf
memory = 64M
icount = shift=3,sleep=off
seed = 5
rtc = base=2026-01-31T12:00:00,clock=vm
isa-debug-exit = 0xf4,4
"""


def test_metal():
    efi = os.path.join(BUILD, "cupel.efi")
    if not os.path.exists(efi) or not shutil.which("qemu-system-x86_64"):
        skip("the bare machine", "no cupel.efi or no qemu-system-x86_64")
        return
    with tempfile.TemporaryDirectory(prefix="cupel-icount-") as tmp:
        conf, guest, image = (os.path.join(tmp, n) for n in ("cupel.conf", "guest", "image"))
        os.mkdir(guest)
        shutil.copy(KERNEL, guest)
        with open(conf, "w") as f:
            f.write(CONF)
        subprocess.run([os.path.join(ROOT, "tools", "mkimg.sh"), image, efi, conf, guest], check=True, capture_output=True)
        m = metal(image=image, memory="512M", log="metal")
        line = m.expect(r"icount: (instructions=\d+ .*ram_fnv1a64=\w{16})", 180).group(1)
        m.wait(60)
        here = small(3)
        check("bare machine: rows", rows_of(m.text.encode()) == rows_of(here[0]), m.text[-2000:])
        check("bare machine: count, time, RAM as hosted", line in here[1], f"{line} and {here[1]}")


# ---- by hand ----
def test_monitor():
    m = hosted(*guest_args(), "-append", "console=ttyS0 panic=-1", "-nographic", "-no-reboot", "-icount", "shift=3", log="monitor")
    m.login()
    m.send("\x01c")
    m.expect(r"\(cupel\) ")
    counts = []
    for command in ("stop\r", "info icount\r", "info icount\r"):
        m.send(command)
        if command.startswith("info"):
            counts.append(m.expect(r"instructions=(\d+) virtual_ns=\d+ waited_ns=\d+ shift=3 sleep=on").group(1))
        m.expect(r"\(cupel\) ")
    check("stopped: nothing is executed", counts[0] == counts[1] and int(counts[0]) > 10 ** 8, counts)
    m.send("cont\r")
    m.expect(r"\(cupel\) ")
    m.send("\x01c")
    out, code = m.shell("sleep 1; echo back")
    check("typed under icount", code == 0 and "back" in out, out)
    m.send("poweroff\n")
    check("poweroff", m.wait(60) == 0, m.proc.returncode)


case(test_exact)
case(test_smp)
case(test_peer)
case(test_deterministic)
case(test_linux_smp)
case(test_monitor)
case(test_metal)
finish()
