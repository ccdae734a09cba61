#!/usr/bin/env python3
"""A variant of the hosted program (tests/variants.mk) boots the default guest and does some work there.

Usage: variant_test.py PROGRAM [quick]      (quick: a short work, for a program that is slow)
"""
import os
import re
import subprocess
import sys
import time

os.environ["CUPEL"] = os.path.abspath(sys.argv[1])
os.environ.setdefault("CUPEL_TEST_SLOW", "4")

from linux import check_dmesg, check_remap, shell_checks                              # noqa: E402
from machine import BUILD, case, check, finish, guest_args, hosted, skip     # noqa: E402

NAME = os.path.basename(os.path.dirname(os.environ["CUPEL"]))
QUICK = "quick" in sys.argv[2:]
REPORT = re.compile(r".*(?:AddressSanitizer|runtime error:).*")


def boot(*args, log):
    m = hosted(*guest_args("initrd-tests"), "-append", "console=ttyS0 panic=-1", "-m", "256", "-nographic", "-no-reboot", *args,
               log=f"{NAME}.{log}")
    m.login()
    print(f"{log}: prompt after {time.monotonic() - m.start:.1f} s", flush=True)
    return m


def test_work():
    m = boot("-device", "virtio-rng-pci", log="work")
    if QUICK:
        out, _ = m.shell("seq 1 500 | sort -rn | awk '{ s += $1 } END { print s }'")
        check("pipes", "125250" in out, out)
        out, _ = m.shell("i=0; while [ $i -lt 10 ]; do /bin/true || echo bad; i=$((i + 1)); done; echo done $i")
        check("processes", "done 10" in out and "bad" not in out, out)
        check_dmesg(m)
    else:
        shell_checks(m)
    check_remap(m)
    m.send("poweroff\n")
    check("poweroff", m.wait(60) == 0, f"{m.proc.returncode}: {m.text[-3000:]}")
    check("no sanitizer's report", not REPORT.search(m.text), REPORT.findall(m.text)[:3])


def test_icount(guest, last, *options):
    """Wherever blocks end and however often they are made anew: the same instructions, time and RAM as in the normal program."""
    plain, kernel, name = os.path.join(BUILD, "cupel"), os.path.join(BUILD, "tests", guest), f"icount: {guest}"
    if not os.path.exists(plain) or not os.path.exists(kernel):
        skip(name, f"no {plain} or no {kernel}")
        return
    args = ["-kernel", kernel, "-m", "64", "-nographic", "-no-reboot", "-device", "isa-debug-exit,iobase=0xf4", "-icount", "shift=1,sleep=off",
            "-d", "icount", *options]
    mine, normal = (subprocess.run([x, *args], stdin=subprocess.DEVNULL, capture_output=True, timeout=240) for x in (os.environ["CUPEL"], plain))
    check(f"{name}: exit code", mine.returncode == normal.returncode == 0x21, f"{mine.returncode} {normal.returncode} {mine.stderr[-2000:]}")
    check(f"{name}: rows", mine.stdout == normal.stdout and last in mine.stdout, mine.stdout[-500:])
    line = [[x for x in p.stderr.splitlines() if x.startswith(b"icount: ")] for p in (mine, normal)]
    check(f"{name}: count, time, RAM", line[0] == line[1] and len(line[0]) == 1, line)


def test_race():
    """vCPUs on cores of their own that race for the same page of code, with the dice on."""
    kernel = os.path.join(BUILD, "tests", "race.elf")
    p = subprocess.run([os.environ["CUPEL"], "-kernel", kernel, "-append", "cpus=2", "-smp", "2", "-m", "64", "-nographic", "-no-reboot", "-device",
                        "isa-debug-exit,iobase=0xf4"], stdin=subprocess.DEVNULL, capture_output=True, timeout=240)
    check("race", p.returncode == 0x21 and not REPORT.search(p.stderr.decode()), f"{p.returncode} {p.stdout} {p.stderr[-2000:]}")


case(test_work)
case(test_icount, "icount.elf", b"row self-ipi")
case(test_icount, "race.elf", b"phase code", "-append", "cpus=3", "-smp", "3", "-accel", "tcg,thread=single")
case(test_race)
finish()
