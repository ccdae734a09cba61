#!/usr/bin/env python3
"""The assay's stock Linux guest: Debian's kernel with build/assay/linux-initrd boots in every engine, does all its operations, says so in lines that the
controller's reader understands, and powers off; the same program on the host's own kernel."""
import os
import re
import subprocess
import tempfile

from assay_linux import INITRD, OPS, Result, arguments
from machine import case, check, finish, hosted, log_path, peer


def check_ops(name, r, cpus, least=1):
    """All operations that so many processors can do, none besides, each with figures that can be true."""
    check(f"{name}: no error, no bad line", not r.error and not r.bad, f"{r.error!r}, {r.bad} bad")
    check(f"{name}: operations", set(r.ops) == {k for k, n in r.expected.items() if n <= cpus}, sorted(r.ops))
    for op, (_, grain, n, ticks) in r.ops.items():
        # A byte takes 1/256 of a tick or more, anything else 10; a second for a piece of work would be no figure but a fault.
        check(f"{name}: {op}", n >= max(least, grain) and n % grain == 0 and ticks > (n / 256 if grain >= 4096 else 10 * n) and ticks < 1e9 * n, f"{n} in {ticks}")


def guest(name, start, cpus=1, append=""):
    m = start(*arguments(append), *(("-smp", str(cpus)) if cpus > 1 else ()), log=name)
    check(f"{name}: power-off", m.wait(240) == 0, f"{m.proc.returncode}: {m.text[-800:]}")
    m.log.close()
    return Result(log_path(name))


def test_guest(name, start, cpus=1, append=""):
    r = guest(name, start, cpus, append)
    check(f"{name}: kernel", re.fullmatch(r"\d+\.\d+\.[\w.~+-]+", r.kernel), r.kernel)
    lines = list(r.phases.values())
    check(f"{name}: phases in order", 0 < lines[0] and all(a < b for a, b in zip(lines, lines[1:])), r.phases)
    check(f"{name}: init's TSC", r.init > 0, r.init)
    check_ops(name, r, cpus)


def hosted_with(*options):
    return lambda *args, log: hosted(*args, "-nographic", *options, log=log)


def test_error(append, pattern):
    r = guest("error", hosted_with(), append=append)
    check(f"{append}: refused", re.search(pattern, r.error) and not r.ops and not r.bad, f"{r.error!r} {r.ops}")
    check(f"{append}: not done", r.phases["done"] == 0, r.phases)


def here(*options):
    p = subprocess.run([OPS, *options], capture_output=True, text=True, timeout=240)
    with tempfile.NamedTemporaryFile("w", suffix=".log") as f:
        f.write(p.stdout)
        f.flush()
        return p, Result(f.name)


def test_here():
    p, r = here("--here")
    check("here: exit code", p.returncode == 0, p.stdout)
    check_ops("here", r, len(os.sched_getaffinity(0)))
    check("here: done after init", 0 < r.phases["init"] < r.phases["done"], r.phases)
    left = [d for d in ("/dev/shm", "/run", "/tmp") for n in os.listdir(d) if n.startswith("linux-ops.")]
    check("here: nothing left behind", not left, left)
    _, small = here("--here", "--only=getpid", "--scale=10")
    check("here: one operation, a tenth", set(small.ops) == {"getpid"} and small.ops["getpid"][2] * 10 == r.ops["getpid"][2], small.ops)
    for bad in ("--scale=0", "--scale=", "--scale=5x", "--scale=10001", "--only=nothing", "--only=", "--other"):
        p, r = here("--here", bad)
        check(f"here: {bad} refused", p.returncode == 1 and r.error and not r.ops and not r.bad, p.stdout)
    p, r = here()
    check("here: usage", p.returncode == 1 and "--here" in r.error, p.stdout)


def test_initrd():
    """One file, owned by root, of no date: nothing in it tells who packed it when; and small enough for firmware to load in no time."""
    with open(INITRD, "rb") as f:
        data = f.read()
    with open(OPS, "rb") as f:
        ops = f.read()
    field = lambda n: int(data[6 + 8 * n:14 + 8 * n], 16)    # noqa: E731  newc: magic, then thirteen numbers of eight hexadecimal digits
    check("initrd: newc", data[:6] == b"070701" and data[110:115] == b"init\0", data[:120])
    check("initrd: mode, owner, date, device", (field(1), field(2), field(3), field(5), field(7), field(8)) == (0o100755, 0, 0, 0, 0, 0), data[:110])
    check("initrd: the program, whole", ops in data and field(6) == len(ops), field(6))
    check("initrd: nothing else", data.count(b"070701") == 2 and b"TRAILER!!!" in data and len(data) <= 32768, len(data))


case(test_initrd)
case(test_here)
case(test_guest, "interrupt", hosted_with())
case(test_guest, "poll", hosted_with("-accel", "tcg,exit=poll"))
case(test_guest, "smp", hosted_with(), 2, "assay.scale=20")
case(test_error, "assay.scale=none", "scale")
case(test_error, "assay.only=none", "no such operation")
case(test_guest, "qemu", peer, 1, "assay.scale=20")
finish()
