#!/usr/bin/env python3
"""Multiboot kernels hosted: serial output, isa-debug-exit, the loader's promises (mb.S); modes, privilege levels and page tables that change in the
midst of code (smap.S, switch.S). QEMU is the reference where it is installed, but not for
switch.S: an interrupt that IRET lets in, its TCG sometimes takes an instruction late."""
import os
import shutil
import subprocess
import sys

from machine import BUILD, check, finish, skip

KERNEL, SMAP, SWITCH = (os.path.join(BUILD, "tests", f"{name}.elf") for name in ("mb", "smap", "switch"))
CUPEL = os.environ.get("CUPEL", os.path.join(BUILD, "cupel"))
ARGS = ["-append", "first second", "-m", "64", "-nographic", "-no-reboot", "-device", "isa-debug-exit,iobase=0xf4,iosize=0x04"]


def run(name, argv, pattern="first second", kernel=KERNEL):
    try:
        p = subprocess.run(argv + ARGS + ["-kernel", kernel], stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60)
    except subprocess.TimeoutExpired as e:
        check(name, False, f"did not end: {e.stdout!r}")
        return
    check(f"{name}: exit code", p.returncode == 0x21, f"{p.returncode}: {p.stdout[-300:]} {p.stderr[-300:]}")
    check(f"{name}: output", kernel != KERNEL or "hello" in p.stdout and "all well" in p.stdout and pattern in p.stdout, p.stdout[-300:])


if shutil.which("qemu-system-x86_64"):
    run("reference", ["qemu-system-x86_64", "-accel", "tcg", "-net", "none"])
    run("reference, smap", ["qemu-system-x86_64", "-accel", "tcg", "-cpu", "max", "-net", "none"], kernel=SMAP)
else:
    skip("reference", "no qemu-system-x86_64")
run("debugcon", [CUPEL, "-debugcon", "stdio"], "over debugcon")
for accel in ("tcg", "tcg,exit=poll", "tcg,chain=off", "tcg,tb-size=4"):
    run(accel, [CUPEL, "-accel", accel])
    run(f"{accel}, smap", [CUPEL, "-accel", accel], kernel=SMAP)
    run(f"{accel}, switch", [CUPEL, "-accel", accel], kernel=SWITCH)
run("icount, switch", [CUPEL, "-icount", "shift=0"], kernel=SWITCH)
finish()
