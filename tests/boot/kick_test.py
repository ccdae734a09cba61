#!/usr/bin/env python3
"""No wake-up is lost on the bare machine either: the guest kick.S interrupts itself, by its local APIC's timer and by IPIs, in the midst of everything a
vCPU can be doing, in each way of leaving translated code. Under QEMU, from a GRUB ISO; the hosted counterpart with a second core is tests/kick/."""
import os
import shutil
import subprocess
import tempfile

from machine import BUILD, ROOT, Machine, case, check, finish, log_path, profile_adds_up, profile_rows, skip

ROUNDS = 20000
MODES = ("interrupt", "poll", "interrupt,chain=off", "poll,chain=off")
ENTRY = r"""
[{mode}]
kernel = \guest\kick.elf
append = rounds={rounds}
memory = 32M
accel = tcg,tb-size=4M,exit={mode}
profile = on
isa-debug-exit = 0xf4,4
"""

tmp = tempfile.mkdtemp(prefix="cupel-kick-")


def iso(default):
    guest = os.path.join(tmp, "guest")
    os.makedirs(guest, exist_ok=True)
    shutil.copy(os.path.join(BUILD, "tests", "kick.elf"), guest)
    conf, image = os.path.join(tmp, "cupel.conf"), os.path.join(tmp, f"{MODES.index(default)}.iso")
    with open(conf, "w", encoding="utf-8") as f:
        f.write(f"timeout = 0\ndefault = {default}\n" + "".join(ENTRY.format(mode=m, rounds=ROUNDS) for m in MODES))
    subprocess.run([os.path.join(ROOT, "tools", "mkiso.sh"), image, os.path.join(BUILD, "boot", "kernel.elf"), conf, guest], check=True)
    return image


def test_mode(mode):
    m = Machine(["qemu-system-x86_64", "-accel", "tcg", "-cpu", "max", "-m", "128", "-nographic", "-net", "none", "-no-reboot", "-cdrom", iso(mode)],
                log=log_path(mode))
    m.expect("kick guest: ready", 60)
    m.expect(r"the guest ended by isa-debug-exit, code \d+\n|Cupel ended with code|panic", 120)
    check(f"{mode}: {ROUNDS} rounds", "kick guest: all rounds done\n" in m.text and "isa-debug-exit, code 33\n" in m.text, m.text[-1500:])
    row = profile_rows(m.text).get("0")
    check(f"{mode}: the profiler's shares", profile_adds_up(row, 100) and row["samples"] > 20 and row["profiler"] < 2 and row["devices"] > 1, row)
    m.kill()


missing = [x for x in ("grub-mkrescue", "xorriso", "mformat", "qemu-system-x86_64") if not shutil.which(x)]
if missing:
    skip("kicks on metal", f"not installed: {', '.join(missing)}")
else:
    try:
        for mode in MODES:
            case(test_mode, mode)
    finally:
        shutil.rmtree(tmp, True)
finish()
