#!/usr/bin/env python3
"""Cupel on the bare machine (QEMU + OVMF) boots the default guest into its shell. Translated twice, so the times are long."""
import sys
import time

from linux import check_clock, shell_checks
from machine import case, check, finish, metal, skip

QUICK = "quick" in sys.argv[1:]


def test_boot(machine="q35", full=True):
    m = metal(machine=machine, log=f"metal-{machine}")
    m.expect(r"(?i)cupel", 120)
    m.login(900)
    print(f"{machine}: prompt after {time.monotonic() - m.start:.0f} s", flush=True)
    if full:
        shell_checks(m)
        check_clock(m, time.monotonic)
    else:
        out, _ = m.shell("uname -a", 120)
        check(f"{machine}: uname", "Linux" in out, out)
    m.send("poweroff\n")
    check(f"{machine}: poweroff", m.wait(180) == 0, m.proc.returncode)


case(test_boot)
if QUICK:
    skip("machine pc", "quick run")
else:
    case(test_boot, "pc", False)
finish()
