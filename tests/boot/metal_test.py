#!/usr/bin/env python3
"""Cupel on the bare machine (QEMU + OVMF) boots the default guest into its shell. Translated twice, so the times are long."""
import os
import shutil
import subprocess
import sys
import tempfile
import time

from linux import check_clock, shell_checks
from machine import BUILD, case, check, finish, metal, profile_adds_up, profile_rows, skip

QUICK = "quick" in sys.argv[1:]


def test_boot():
    m = metal(log="metal")
    m.expect(r"(?i)cupel", 120)
    m.login(900)
    print(f"prompt after {time.monotonic() - m.start:.0f} s", flush=True)
    shell_checks(m)
    check_clock(m, time.monotonic)
    m.send("poweroff\n")
    check("poweroff", m.wait(180) == 0, m.proc.returncode)


def image_with(directory, conf):
    """build/cupel.img with another cupel.conf on its EFI system partition, which begins at 1 MiB."""
    image, path = os.path.join(directory, "cupel.img"), os.path.join(directory, "cupel.conf")
    shutil.copy(os.path.join(BUILD, "cupel.img"), image)
    with open(path, "w", encoding="utf-8") as f:
        f.write(conf)
    subprocess.run(["mcopy", "-o", "-i", f"{image}@@1M", path, "::/cupel.conf"], check=True)
    return image


def test_cores(vcpus, cores, machine="q35"):
    """Several vCPUs, each on a core of its own or in turns where there are fewer."""
    name = f"{machine}: {vcpus} vCPUs on {cores} cores"
    with tempfile.TemporaryDirectory(prefix="cupel-smp-") as tmp:
        image = image_with(tmp, "timeout = 0\n[linux]\nkernel = \\guest\\vmlinuz\ninitrd = \\guest\\initrd\n"
                                f"append = console=ttyS0\nmemory = 512M\nsmp = {vcpus}\nprofile = on\n")
        # QEMU before 8.1 may keep a translation of code that one of its vCPUs changed while another translated it; ours changes all the
        # time.
        m = metal("-smp", str(cores), image=image, machine=machine, accel="tcg,thread=single", log=f"metal-smp{vcpus}-{cores}")
        m.login(900)
        check(f"{name}: cores", f"cupel: {cores} cores\n" in m.text, m.text[:3000])
        print(f"{name}: prompt after {time.monotonic() - m.start:.0f} s", flush=True)
        out, _ = m.shell("nproc; cat /sys/devices/system/cpu/online; dmesg | grep 'smp: Brought up'", 120)
        check(f"{name}: all are up", out.split()[:2] == [str(vcpus), f"0-{vcpus - 1}"] and f"1 node, {vcpus} CPUs" in out, out)
        out, _ = m.shell("for i in 1 2 3 4 5 6; do (seq 1 2000 | sort -rn | md5sum) & done; wait; echo done", 300)
        check(f"{name}: processes beside each other", out.count("  -") == 6 and len(set(x for x in out.split() if len(x) == 32)) == 1, out)
        m.send("poweroff\n")
        check(f"{name}: poweroff", m.wait(180) == 0, m.proc.returncode)
        rows = profile_rows(m.text)
        check(f"{name}: the profiler's shares", all(profile_adds_up(rows.get(str(n)), 1000) and rows[str(n)]["samples"] > 100 and
                                                    rows[str(n)]["code"] > 1 and rows[str(n)]["profiler"] < 2 for n in range(vcpus)), rows)


case(test_boot)
case(test_cores, 4, 4)
if QUICK:
    skip("machine pc", "quick run")
else:
    case(test_cores, 4, 2, "pc")
finish()
