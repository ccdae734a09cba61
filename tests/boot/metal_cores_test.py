#!/usr/bin/env python3
"""All cores of the bare machine: the entries `selftest = ...' of kernel/selftest.c on PCs with one and several.

QEMU + OVMF (xAPIC) boots an image made here; Bochs, from an ISO by GRUB's Multiboot2, has x2APIC and the TSC-deadline timer. The
simulators schedule several cores in different ways: QEMU as threads of its own, Bochs in turns of a few instructions.
"""
import os
import re
import shutil
import struct
import subprocess
import tempfile

from bochs import Bochs, missing, mkiso
from machine import BUILD, ROOT, Machine, Timeout, case, check, finish, log_path, metal, skip

CONF = """
timeout = 0
default = {test}
[{test}]
selftest = {test}
"""
DONE = r"selftest cores: (\d+) passed, (\d+) failed\n"
STUCK = r"|The machine has stopped"
LINES = 20

tmp = tempfile.mkdtemp(prefix="cupel-cores-")


def conf(test):
    path = os.path.join(tmp, f"{test}.conf")
    with open(path, "w", encoding="utf-8") as f:
        f.write(CONF.format(test=test))
    return path


def image(test):
    path = os.path.join(tmp, f"{test}.img")
    if not os.path.exists(path):
        subprocess.run([os.path.join(ROOT, "tools", "mkimg.sh"), path, os.path.join(BUILD, "cupel.efi"), conf(test)], check=True)
    return path


def judge(name, m, cores, warnings=False):
    """What `selftest = cores' said."""
    s = "" if cores == 1 else "s"
    check(f"{name}: {cores} core{s} found", f"cupel: {cores} core{s}\n" in m.text, m.text[-2000:])
    known = "this processor's TSC|the firmware does not say how|HPET and PM"      # of the simulators, or of a busy host
    check(f"{name}: no warning", warnings or not re.search(rf"warning: (?!{known})", m.text), m.text[-2000:])
    done = re.search(DONE, m.text)
    check(f"{name}: selftest", done and int(done.group(2)) == 0 and int(done.group(1)) >= 8 * cores, m.text[-2000:])
    for core in range(cores):
        got = re.findall(rf"^cupel: selftest line (\d+) of {LINES} by core {core}$", m.text, re.M)
        check(f"{name}: lines of core {core} whole and in order", got == [str(i + 1) for i in range(LINES)], got)


def test_cores(cores, *args, machine="q35"):
    name = f"{machine}, {cores} of {args[0] if args else cores}"
    m = metal("-smp", *(args or [str(cores)]), image=image("cores"), machine=machine, log=f"cores-{machine}-{cores}")
    m.expect(DONE + STUCK, 300)
    judge(name, m, cores)
    check(f"{name}: power-off", m.wait(60) == 0, m.proc.returncode)


def test_io(cores, planes):
    m = metal("-smp", str(cores), image=image("io"), log=f"io-{cores}")
    m.expect(r"selftest io: (passed|failed)\n" + STUCK, 300)
    wakers = cores - planes
    check(f"io, {cores} cores", f"selftest io: {2000 * wakers} wake-ups for {planes} cores by {wakers}, " in m.text and
          "selftest io: passed\n" in m.text, m.text[-2000:])
    check(f"io, {cores} cores: power-off by a core that serves", m.wait(60) == 0, m.proc.returncode)


def test_panic(test, says, cores=4):
    """The last core fails while the others write. Nothing of theirs comes after its first line."""
    m = metal("-smp", str(cores), image=image(test), log=test)
    m.expect(says, 120)
    begin = m.at
    m.expect(r"The machine has stopped\. Switch it off or reset it\.\n", 60)
    try:
        m.expect("there is no more", 2)
    except Timeout:
        pass
    noise = set(re.findall(r"noise of core (\d)", m.text[:begin]))
    check(f"{test}: the others were busy", noise == {str(i) for i in range(cores - 1)}, noise)
    check(f"{test}: the others are silent", "noise" not in m.text[begin:], m.text[begin:])
    check(f"{test}: names the core", f"on core {cores - 1}\n" in m.text[begin - 100:], m.text[begin - 100:])
    check(f"{test}: backtrace", "end_now" in m.text[begin:] or "end_recurse" in m.text[begin:], m.text[begin:])
    m.kill()


def test_reset():
    m = metal("-smp", "4", image=image("reset"), log="reset")
    m.expect(r"noise of core 2\n", 120)
    check("reset from a core that is not the first", m.wait(60) == 0, m.proc.returncode)      # -no-reboot: QEMU ends


def test_io_bochs():
    m = Bochs(tmp, "corei7_haswell_4770", mkiso(os.path.join(tmp, "io.iso"), conf("io")), "haswell-io", 3)
    m.expect(r"selftest io: (passed|failed)\n" + STUCK, 300)
    check("io by x2APIC", "selftest io: 4000 wake-ups for 1 cores by 2, " in m.text and "selftest io: passed\n" in m.text, m.text[-2000:])
    m.kill()


def test_bochs(model, apic, cores):
    m = Bochs(tmp, model, mkiso(os.path.join(tmp, "cores.iso"), conf("cores")), f"{model}-{cores}", cores)
    m.expect(DONE + STUCK, 300)
    check(f"{model}: {apic}", f"{apic}\n" in m.text, m.text)
    check(f"{model}: TSCs moved", f"TSCs of {cores - 1} of {cores - 1} cores could be moved\n" in m.text, m.text[-2000:])
    judge(model, m, cores)
    m.kill()                                  # its BIOS has no _S5 package that could switch it off


def madt():
    """A MADT as bad firmwares write them, for a PC with cores 0 and 1: the test of its reader, which otherwise sees good ones only."""
    def local(apic, flags):
        return struct.pack("<BBBBI", 0, 8, 0, apic, flags)

    def x2(apic, flags):
        return struct.pack("<BBHIII", 9, 16, 0, apic, flags, 0)

    entries = local(0, 1) + local(1, 1) + x2(1, 1)                        # twice the same
    entries += local(2, 0) + local(3, 2) + local(0xff, 1) + x2(0xffffffff, 1)     # absent, an empty socket, unused entries
    entries += local(77, 1) + x2(300, 1)                                   # there is nobody
    entries += struct.pack("<BBBBII", 1, 12, 0, 0, 0xfec00000, 0)          # the I/O APIC ...
    entries += struct.pack("<BBBBIH", 2, 10, 0, 0, 2, 0)                   # ... and the timer's way to it
    body = struct.pack("<4sIBB6s8sIIIII", b"APIC", 44 + len(entries), 3, 0, b"CUPEL ", b"BADMADT ", 1, 0, 0, 0xfee00000, 1) + entries
    return body[:9] + bytes([-sum(body) & 0xff]) + body[10:]


def madt_iso():
    """An ISO on which GRUB puts that MADT in the place of the firmware's."""
    tree, iso = os.path.join(tmp, "madt"), os.path.join(tmp, "madt.iso")
    os.makedirs(os.path.join(tree, "boot", "grub"))
    shutil.copy(os.path.join(BUILD, "boot", "kernel.elf"), os.path.join(tree, "cupel.elf"))
    shutil.copy(conf("cores"), os.path.join(tree, "cupel.conf"))
    with open(os.path.join(tree, "madt.bin"), "wb") as f:
        f.write(madt())
    with open(os.path.join(tree, "boot", "grub", "grub.cfg"), "w", encoding="utf-8") as f:
        f.write("insmod acpi\nacpi --exclude=APIC /madt.bin\nmultiboot2 /cupel.elf\nmodule2 /cupel.conf cupel.conf\nboot\n")
    subprocess.run(["grub-mkrescue", "-d", "/usr/lib/grub/i386-pc", "-o", iso, tree], check=True, capture_output=True)
    return iso


def test_madt():
    """Two cores and a list with errors: by xAPIC, where 300 cannot be named, and by x2APIC, where it does not answer."""
    def silent(apic):
        return f"warning: the core with APIC id {apic} did not start within 3 s"

    iso = madt_iso()
    m = Machine(["qemu-system-x86_64", "-accel", "tcg", "-cpu", "max", "-m", "128", "-smp", "2", "-nographic", "-net", "none", "-no-reboot",
                 "-cdrom", iso], log=log_path("madt"))
    m.expect(DONE + STUCK, 300)
    check("madt: ids listed", "ACPI: 4 cores" in m.text, m.text[-2000:])
    check("madt: xAPIC", "warning: APIC id 300 cannot be reached" in m.text and silent(77) in m.text and m.text.count("did not start") == 1,
          m.text[-2000:])
    judge("madt", m, 2, warnings=True)
    m.kill()
    m = Bochs(tmp, "corei7_haswell_4770", iso, "madt-bochs", 2)
    m.expect(DONE + STUCK, 300)
    check("madt: x2APIC", silent(77) in m.text and silent(300) in m.text and m.text.count("did not start") == 2, m.text)
    judge("madt, x2APIC", m, 2, warnings=True)
    m.kill()


def main():
    case(test_cores, 4)
    case(test_cores, 1)
    case(test_cores, 4, "4,sockets=2,cores=3,maxcpus=6", machine="pc")     # APIC ids 0, 1, 2, 4; two more are listed as absent
    case(test_io, 4, 2)
    case(test_io, 2, 1)
    case(test_panic, "panic", r"panic: selftest: this panic was asked for\n")
    case(test_panic, "overflow", r"fatal: #(DF double fault|PF page fault) .*\nstack overflow\n")
    case(test_reset)
    if missing():
        skip("bochs", f"not installed: {', '.join(missing())}")
        return
    case(test_bochs, "corei7_haswell_4770", "x2APIC, TSC deadline", 4)
    case(test_bochs, "ryzen", "xAPIC", 3)
    case(test_io_bochs)
    case(test_madt)


try:
    main()
finally:
    shutil.rmtree(tmp, True)
finish()
