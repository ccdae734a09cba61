#!/usr/bin/env python3
"""virtio over PCI with Linux's own drivers: random numbers, the console in both directions, MSI-X and INTx, unbinding, a reset."""
import re

from linux import check_dmesg, shell_checks
from machine import PROMPT, case, check, finish, guest_args, hosted

DEVICES = ("-device", "virtio-rng-pci", "-device", "virtio-serial-pci", "-device", "virtconsole")


def boot(*args, append, log):
    m = hosted(*guest_args(), "-append", f"{append} panic=-1", "-m", "256", "-nographic", *DEVICES, *args, log=log)
    m.login()
    return m


def interrupts(m):
    """Name of each line of /proc/interrupts -> (count, kind)."""
    out, _ = m.shell("cat /proc/interrupts")
    rows = [x.split() for x in out.splitlines()[1:]]
    return {r[-1]: (int(r[1]), r[2]) for r in rows if len(r) > 3 and r[1].isdigit()}


def check_bus(m):
    out, _ = m.shell("cat /sys/bus/virtio/devices/*/device; cat /sys/bus/pci/devices/*/uevent")
    check("bus: host bridge", "PCI_ID=8086:29C0" in out, out)
    check("bus: entropy", "PCI_ID=1AF4:1044" in out and "0x0004" in out, out)
    check("bus: console", "PCI_ID=1AF4:1043" in out and "0x0003" in out, out)
    check("bus: drivers", out.count("DRIVER=virtio-pci") == 2, out)
    out, _ = m.shell("cat /proc/iomem")
    check("bus: BARs", out.count("virtio-pci-modern") == 2, out)


def check_rng(m):
    out, _ = m.shell("cat /sys/class/misc/hw_random/rng_current")
    check("rng: current", "virtio_rng" in out, out)
    out, code = m.shell("dd if=/dev/hwrng of=/tmp/r bs=4096 count=64 iflag=fullblock 2>/dev/null; wc -c </tmp/r; gzip -c /tmp/r | wc -c", 120)
    sizes = [int(x) for x in re.findall(r"^\d+$", out, re.M)]
    check("rng: cannot be compressed", code == 0 and len(sizes) == 2 and sizes[0] == 64 * 4096 and sizes[1] > sizes[0], out)
    out, _ = m.shell("od -An -v -tx8 -w8 /tmp/r | sort | uniq -d | wc -l", 120)
    check("rng: no words twice", out.strip() == "0", out)


def check_console(m):
    out, _ = m.shell("tty; cat /sys/class/tty/console/active")
    check("console: it is the shell's", "/dev/hvc0" in out and "hvc0" in out.split("\n")[1], out)
    # More input in one piece than the device, or the driver's buffers, hold: nothing may be lost or change places.
    lines = [f"{i:06d} " + "abcdefgh" * 5 for i in range(200)]
    m.send("stty -echo; cat >/tmp/in; stty echo\n")
    m.expect("stty echo\\s*\n")
    for x in lines:
        m.send(x + "\n")
    m.send("\x04")
    m.expect(re.escape(PROMPT))
    out, _ = m.shell("wc -l </tmp/in; sort -u /tmp/in | cmp - /tmp/in && tail -n 1 /tmp/in")
    check("console: 10 KB in", re.search(r"^200$", out, re.M) and lines[-1] in out, out[-200:])
    out, _ = m.shell("seq 1 20000", 120)
    check("console: 100 KB out", out.split() == [str(i) for i in range(1, 20001)], out[-200:])


def check_msix(m):
    before = interrupts(m)
    names = ("virtio0-input", "virtio1-input", "virtio1-output")
    check("MSI-X: vectors", all("MSI" in before.get(n, (0, ""))[1] for n in names), before)
    m.shell("dd if=/dev/hwrng of=/dev/null bs=64 count=20")
    after = interrupts(m)
    for n in names:
        check(f"MSI-X: {n} counts", after.get(n, (0,))[0] > before.get(n, (0,))[0], f"{before.get(n)} {after.get(n)}")


def test_console():
    m = boot("-no-reboot", append="console=ttyS0 console=hvc0", log="hvc0")
    check_bus(m)
    check_rng(m)
    check_console(m)
    check_msix(m)
    shell_checks(m)
    m.send("poweroff\n")
    check("poweroff", m.wait(60) == 0, m.proc.returncode)


def test_intx():
    """Without MSI the devices share the bus's interrupt wires."""
    m = boot("-no-reboot", append="console=ttyS0 console=hvc0 pci=nomsi", log="intx")
    check_rng(m)
    out, _ = m.shell("cat /proc/interrupts")
    check("INTx", re.search(r"IO-APIC +1[7-9]-fasteoi +virtio", out) and "MSI" not in out, out)
    check_dmesg(m)
    m.send("poweroff\n")
    check("poweroff without MSI", m.wait(60) == 0, m.proc.returncode)


COME = "modprobe virtio_pci; modprobe virtio_rng; modprobe virtio_console"
GO = "rmmod virtio_console virtio_rng virtio_pci"


def test_driver_comes_and_goes():
    """The shell is on the serial port: the drivers of both devices can go and come again, and so can the whole machine. While the
    console has a driver the keyboard is its, so each command ends without one."""
    m = boot(append="console=ttyS0 modules=no", log="rebind")
    for i in range(3):
        out, code = m.shell(f"{COME}; ls /dev/hvc0; cat /sys/class/misc/hw_random/rng_current; dd if=/dev/hwrng bs=1 count=1000 2>/dev/null | wc -c;"
                            f"echo through hvc0 >/dev/hvc0; {GO}")
        check(f"{i}: drivers come", code == 0 and all(x in out for x in ("/dev/hvc0", "virtio_rng", "1000", "through hvc0")), out)
        out, code = m.shell("ls /sys/bus/virtio/devices | wc -l; cat /proc/interrupts | grep -c virtio")
        check(f"{i}: drivers go", "0" in out.split() and code == 1, out)
    out, _ = m.shell(f"{COME}; cd /sys/bus/pci/devices; echo 1 >0000:00:01.0/remove; echo 1 >0000:00:02.0/remove; ls; cd /;"
                     f"echo 1 >/sys/bus/pci/rescan; sleep 1; ls /dev/hvc0 /sys/bus/pci/devices; {GO}")
    check("removed and found again", "/dev/hvc0" in out and out.count("0000:00:00.0") == 2 and out.count("0000:00:02.0") == 1, out)
    check_dmesg(m)
    m.send("reboot\n")
    m.login()
    out, _ = m.shell(f"{COME}; cat /sys/class/misc/hw_random/rng_current; {GO}")
    check("after a reset", "virtio_rng" in out, out)
    m.shell(f"dmesg -n 1; {COME}; setsid sh -c 'exec sh </dev/hvc0 >/dev/hvc0 2>&1' & sleep 1")
    m.send("echo hvc0 answers $((6 * 7))\n")
    check("a shell on hvc0 besides", m.expect("hvc0 answers 42"))
    m.send("poweroff -f\n")
    check("poweroff from there", m.wait(60) == 0, m.proc.returncode)


for t in (test_console, test_intx, test_driver_comes_and_goes):
    case(t)
finish()
