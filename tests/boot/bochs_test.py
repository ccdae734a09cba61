#!/usr/bin/env python3
"""Cupel on a PC with a legacy BIOS, loaded by GRUB's Multiboot2 from an ISO made here by tools/mkiso.sh.

The PC is Bochs, because it has what QEMU's TCG lacks: x2APIC and the TSC-deadline timer. QEMU runs the same image for what Bochs lacks:
ACPI power-off and a framebuffer that can be had without a window. The guests are small: mb.elf checks its loader, tick.elf sleeps through
40 timer interrupts, each of which is a deadline of the host's timer.
"""
import os
import re
import shutil
import tempfile

from bochs import IPS, Bochs, missing, mkiso
from machine import BUILD, Machine, case, check, finish, log_path, skip

CONF = r"""
timeout = 0
default = {default}
[tick]
kernel = \guest\tick.elf
memory = 16M
accel = tcg,tb-size=4M
isa-debug-exit = 0xf4,4
[checks; and $a (module)]
kernel = /guest/mb.elf
initrd = \guest\tick.elf
append = first second
memory = 16M
accel = tcg,tb-size=4M,exit=poll
isa-debug-exit = 0xf4
[disk]
kernel = \guest\tick.elf
drive = /guest/disk.img
memory = 16M
accel = tcg,tb-size=4M
isa-debug-exit = 0xf4,4
[nodisk]
kernel = \guest\tick.elf
drive = virtio2
memory = 16M
[bad]
kernel = \guest\tick.elf
memory = 3
"""

# Fails at once where Cupel gives up.
ENDED = r"the guest ended by isa-debug-exit, code \d+\n|Cupel ended with code"

tmp = tempfile.mkdtemp(prefix="cupel-bochs-")


def iso(default):
    """An ISO whose menu boots this entry at once."""
    guest = os.path.join(tmp, "guest")
    os.makedirs(guest, exist_ok=True)
    for name in ("tick.elf", "mb.elf"):
        shutil.copy(os.path.join(BUILD, "tests", name), guest)
    with open(os.path.join(guest, "disk.img"), "wb") as f:
        f.write(bytes(16384))
    conf, image = os.path.join(tmp, "cupel.conf"), os.path.join(tmp, f"{re.sub(r'[^a-z]', '', default)}.iso")
    with open(conf, "w", encoding="utf-8") as f:
        f.write(CONF.format(default=default))
    return mkiso(image, conf, guest)


def qemu(image, name, *args):
    return Machine(["qemu-system-x86_64", "-accel", "tcg", "-cpu", "max", "-m", "128", "-nographic", "-net", "none", "-no-reboot", *args,
                    "-cdrom", image], log=log_path(name))


# Processors with BMI2: (Bochs' name, what the local APIC is called, which timer is used, does CPUID claim a rate of its own)
MODELS = [("corei7_haswell_4770", "x2APIC, TSC deadline", "TSC deadline", False),
          ("corei7_skylake_x", "x2APIC, TSC deadline", "TSC deadline", True),      # leaf 0x16: 3500 MHz, which is not so here
          ("ryzen", "xAPIC", "APIC countdown", False)]


def test_bochs(image, model, apic, timer, claims):
    m = Bochs(tmp, model, image, model)
    m.expect(ENDED, 30)
    check(f"{model}: {apic}", f"local APIC: id 0, {apic}\n" in m.text, m.text)
    check(f"{model}: timer is {timer}", f"timer: {timer}\n" in m.text, m.text)
    check(f"{model}: both clocks measured", all(f"by the {c}\n" in m.text for c in ("HPET", "PM timer")), m.text)
    for what in ("TSC", "APIC timer"):
        rates = [int(x) for x in re.findall(rf"{what} (\d+) kHz(?=.* by the)", m.text)]
        check(f"{model}: rate of the {what}", len(rates) == 2 and all(abs(r * 1000 - IPS) < IPS / 200 for r in rates), rates)
    check(f"{model}: the clocks agree", "disagree" not in m.text, m.text)
    check(f"{model}: CPUID's rate is checked", ("no clock confirms; the measurement is used" in m.text) == claims, m.text)
    check(f"{model}: the guest is content", "isa-debug-exit, code 33\n" in m.text, m.text)
    check(f"{model}: 40 timer interrupts", "tick guest: 40 ticks\n" in m.text, m.text)
    m.kill()                                  # its BIOS has no _S5 package that could switch it off


def test_countdown(image):
    """The same image under QEMU, which also switches off."""
    m = qemu(image, "countdown")
    m.expect(ENDED, 30)
    check("qemu: xAPIC", re.search(r"local APIC: id 0, xAPIC\n", m.text), m.text[-1500:])
    check("qemu: countdown", "timer: APIC countdown\n" in m.text and "tick guest: 40 ticks\n" in m.text, m.text[-1500:])
    check("qemu: power-off", m.wait(30) == 0, m.proc.returncode)


def test_entries():
    """An entry by name, slashes, two modules, a framebuffer; and what is said when the configuration is wrong."""
    m = qemu(iso("checks; and $a (module)"), "checks", "-vga", "std")
    m.expect(ENDED, 30)
    check("entry with an odd name", "first second" in m.text and "all well" in m.text, m.text[-1500:])
    check("framebuffer", "screen: 1024x768" in m.text, m.text[-1500:])
    m.kill()
    m = qemu(iso("disk"), "disk")
    m.expect(ENDED, 30)
    check("a disk in memory", "disk.img: a disk of 16 KiB in memory" in m.text and "tick guest: 40 ticks\n" in m.text, m.text[-1500:])
    m.kill()
    m = qemu(iso("nodisk"), "nodisk")
    m.expect(r"drive: this PC has no virtio disk of number 2", 60)
    check("a disk that is not there", True)
    m.kill()
    m = qemu(iso("bad"), "bad")
    m.expect(r"error: cupel.conf:\d+: bad value for `memory'", 60)
    check("bad value", True)
    m.kill()


def main():
    if missing():
        skip("bochs", f"not installed: {', '.join(missing())}")
        return
    image = iso("tick")
    for model in MODELS:
        case(test_bochs, image, *model)
    case(test_countdown, image)
    case(test_entries)


try:
    main()
finally:
    shutil.rmtree(tmp, True)
finish()
