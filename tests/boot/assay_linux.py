"""The assay's stock Linux guest for tests and benchmarks: its arguments, and what its console says, read by assay/linux_phases.c itself."""
import os
import re
import subprocess

from machine import BUILD, GUEST, ROOT

OPS = os.path.join(BUILD, "assay", "linux-ops")
INITRD = os.path.join(BUILD, "assay", "linux-initrd")
READER = os.path.join(BUILD, "tests", "linux_phases_test")
with open(os.path.join(ROOT, "assay", "linux_phases.h")) as header:
    APPEND = re.search(r'#define LINUX_APPEND "(.*)"', header.read()).group(1)


def arguments(append=""):
    return ["-kernel", os.path.join(GUEST, "vmlinuz"), "-initrd", INITRD, "-append", f"{APPEND} {append}".strip(), "-m", "256", "-no-reboot"]


class Result:
    """kernel, error, bad, init; phases {id: line}, ops {id: (cpus, grain, n, ticks)}: what has come, in the tables' order."""

    def __init__(self, log):
        out = subprocess.run([READER, log], capture_output=True, text=True, check=True).stdout
        word = lambda key: re.search(rf"^{key} ?(.*)$", out, re.M).group(1)    # noqa: E731
        self.kernel, self.error, self.bad, self.init = word("kernel"), word("error"), int(word("bad")), int(word("init"))
        self.phases = {k: int(v) for k, v in re.findall(r"^phase (\w+) (\d+)$", out, re.M)}
        rows = re.findall(r"^op (\w+) (\d+) (\d+) (\d+) (\d+)$", out, re.M)
        self.expected = {k: int(cpus) for k, cpus, *_ in rows}
        self.ops = {k: tuple(map(int, v)) for k, *v in rows if int(v[2])}
