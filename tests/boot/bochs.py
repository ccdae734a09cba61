"""Bochs as a machine under test (machine.py), booting an ISO of tools/mkiso.sh by GRUB. It has what QEMU's TCG lacks: x2APIC and the
TSC-deadline timer. Debian builds it for several processors; they take turns of a few instructions.
"""
import os
import shutil
import subprocess

from machine import BUILD, ROOT, Machine, log_path

BIOS, VGABIOS = "/usr/share/bochs/BIOS-bochs-latest", "/usr/share/vgabios/vgabios.bin"
IPS = 50_000_000          # with sync=none Bochs' clocks are counts of instructions: its TSC runs at exactly this

RC = """
config_interface: textconfig
display_library: term
cpu: model={model}, count={cores}, ips={ips}, reset_on_triple_fault=0
memory: guest=128, host=128
romimage: file={bios}, options=fastboot
vgaromimage: file={vgabios}
vga: extension=none
pci: enabled=1, chipset=i440fx{slots}
ata0-master: type=cdrom, path={iso}, status=inserted
boot: cdrom
log: {log}
panic: action=fatal
error: action=report
info: action=report
debug: action=ignore
com1: enabled=1, mode=file, dev={serial}
sound: driver=dummy
speaker: enabled=0
clock: sync=none, time0=1000000000
{extra}"""


def missing():
    """Names of what is not installed."""
    names = [x for x in ("bochs", "grub-mkrescue", "xorriso", "mformat", "qemu-system-x86_64") if not shutil.which(x)]
    return names + [x for x in (BIOS, VGABIOS, "/usr/lib/grub/i386-pc/multiboot2.mod") if not os.path.exists(x)]


def mkiso(image, conf, guest=None):
    """An ISO with this cupel.conf."""
    tool, elf = os.path.join(ROOT, "tools", "mkiso.sh"), os.path.join(BUILD, "boot", "kernel.elf")
    subprocess.run([tool, image, elf, conf, *([guest] if guest else [])], check=True)
    return image


class Bochs(Machine):
    """Bochs on its pty (a terminal program); `text` is its serial port's file."""

    def __init__(self, tmp, model, image, name, cores=1, slots="", extra=""):
        self.serial, rc, go = (os.path.join(tmp, f"{name}.{x}") for x in ("serial", "rc", "go"))
        with open(rc, "w", encoding="utf-8") as f:
            f.write(RC.format(model=model, cores=cores, ips=IPS, bios=BIOS, vgabios=VGABIOS, iso=image, serial=self.serial,
                              log=log_path(name), slots=slots, extra=extra))
        with open(go, "w", encoding="utf-8") as f:
            f.write("continue\n")             # Debian's Bochs starts in its debugger
        os.environ["TERM"] = "xterm"
        super().__init__(["bochs", "-q", "-f", rc, "-rc", go])

    def _read(self, wait):
        alive = super()._read(wait)
        if os.path.exists(self.serial):
            with open(self.serial, encoding="utf-8", errors="replace") as f:
                self.text = f.read().replace("\r", "")
        return alive
