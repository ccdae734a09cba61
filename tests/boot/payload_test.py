#!/usr/bin/env python3
"""The assay's payload (assay/guest/): every test of its table, in build/cupel (exit=interrupt, exit=poll, chain=off, icount), in QEMU's TCG
and, the ring-3 ones, on the bare processor in a process. The same job has the same checksum everywhere, another n has another one. Then
what the payload says when it cannot do as it is told."""
import collections
import os
import re
import shutil
import struct
import subprocess
import sys
import tempfile

from machine import BUILD, SLOW, check, finish, skip

ELF = os.path.join(BUILD, "assay", "payload.elf")
NATIVE = os.path.join(BUILD, "tests", "payload_native")
CUPEL = os.environ.get("CUPEL", os.path.join(BUILD, "cupel"))
QEMU = shutil.which("qemu-system-x86_64")
QEMU_ARGS = ["-accel", "tcg", "-net", "none", "-monitor", "none", "-vga", "none"]
USER, NEED_AVX2, NEED_TWO, NEED_APIC, NEED_PCID = 0, 1, 2, 4, 16
# How often, where 1000 is not right: what is slow is done less often, and streams have their unit for n.
TIMES = {"fresh": 300, "rewritten": 50, "timer": 5, "timer-hlt": 5, "ipi": 20, "ipi-hlt": 20, "ipi-self": 20, "movs-small": 3000}

Test = collections.namedtuple("Test", "name kind needs latency unit limit")


def guest(name, argv, append, elf=ELF, memory="256", expect=1):
    """Boots the payload; its lines on port 0xe9. expect: the exit code, (v << 1) | 1 for the v that it writes."""
    argv = argv + ["-kernel", elf, "-append", append, "-m", memory, "-nographic", "-no-reboot", "-serial", "null", "-debugcon", "stdio",
                   "-device", "isa-debug-exit,iobase=0x501,iosize=2"]
    try:
        p = subprocess.run(argv, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=120 * SLOW)
    except subprocess.TimeoutExpired as e:
        check(name, False, f"did not end: {append[:100]}: {e.stdout!r}")
        return []
    out = p.stdout.replace("\r", "")
    check(f"{name}: exit code {expect}", p.returncode == expect, f"{p.returncode}: {out[-300:]} {p.stderr[-300:]}")
    return out.splitlines()


def cupel(*args):
    return [CUPEL, "-smp", "2", *args]


def qemu(*args):
    return [QEMU, *QEMU_ARGS, "-cpu", "max", "-smp", "2", *args]


def read_results(lines):
    """{(test, its place among the jobs, processor): (ticks, checksum, min, max, events)}"""
    got = {}
    for line in lines:
        m = re.fullmatch(r"result (\d+) (\S+) (\d+) (\d+) 0x([0-9a-f]+) (\d+) (\d+) (\d+)", line)
        if m:
            got[m[2], int(m[1]), int(m[3])] = (int(m[4]), m[5], int(m[6]), int(m[7]), int(m[8]))
    return got


def table():
    tests = []
    for line in guest("list", cupel(), "list"):
        m = re.fullmatch(r"test (\S+) (\d+) (\d+) (\d+) (\d+) (\d+) ([^;]+);([^;]+);([^;]+)", line)
        if m:
            tests.append(Test(m[1], *map(int, m.group(2, 3, 4, 5, 6))))
    return tests


def jobs_for(t):
    """What one test is asked for: different n, the last time on two processors. Sums that are turned come round after 64 times."""
    n = TIMES.get(t.name, 1000)
    n = max(1, n // t.unit) * t.unit
    if t.needs & NEED_TWO:
        return [(n, 2), (n + t.unit, 2)]
    return [(n, 1), (n + t.unit, 1), (n + 2 * t.unit if t.latency else n + 64 * t.unit, 2)]


def jobs_of(tests):
    return [(t, n, cpus) for t in tests for n, cpus in jobs_for(t)]


def collect(lines, jobs):
    """{(test, n, cpus, cpu): figures}, of jobs that were numbered in this order."""
    got = read_results(lines)
    return {(t.name, n, cpus, c): got[t.name, i, c] for i, (t, n, cpus) in enumerate(jobs) for c in range(cpus) if (t.name, i, c) in got}


def chunks(jobs, size=64):
    return [jobs[i:i + size] for i in range(0, len(jobs), size)]


def run_guest(name, argv, tests, most=64, more=""):
    """In the order of `tests`, which is another one each time: no test may depend on what another has left in memory or registers."""
    all_ = {}
    for some in chunks([j for j in jobs_of(tests) if j[2] <= most]):
        lines = guest(name, argv, more + "jobs=" + ",".join(f"{t.name}:{n}:{cpus}" for t, n, cpus in some))
        got = collect(lines, some)
        check(f"{name}: says that it is done", lines[-1:] == ["done"], lines[-2:])
        check(f"{name}: a result for every job", len(got) == sum(cpus for _, _, cpus in some), f"{len(got)} results")
        all_.update(got)
    return all_


def run_native(tests):
    all_ = {}
    for some in chunks(jobs_of([t for t in tests if t.kind == USER])):
        argv = [NATIVE, ELF, *(f"{t.name}:{n}:{cpus}" for t, n, cpus in some)]
        p = subprocess.run(argv, capture_output=True, text=True, timeout=120 * SLOW)
        check("native: runs", p.returncode == 0, f"{p.returncode}: {p.stderr}")
        all_.update(collect(p.stdout.splitlines(), some))
    return all_


def check_same(name, got, reference):
    """Every job that both did."""
    differ = [f"{k}: {got[k][1]}, not {reference[k][1]}" for k in reference if k in got and got[k][1] != reference[k][1]]
    check(f"{name}: checksums", not differ, "; ".join(differ[:5]))
    check(f"{name}: has something to compare", got and not set(got) - set(reference), f"{len(got)}, {len(reference)}")


def check_figures(name, got, tests):
    """Checksums that tell one amount of work from another, times, latencies, and nobody's interrupts."""
    for t in tests:
        jobs = jobs_for(t)
        all_ = [got.get((t.name, n, cpus, 0)) for n, cpus in jobs]
        if None in all_:
            continue                             # missed above
        check(f"{name}: {t.name}: another n, another checksum", len({x[1] for x in all_}) == len(jobs), all_)
        check(f"{name}: {t.name}: took time", all(x[0] > 0 for x in all_), all_)
        if t.latency:
            a, n = all_[0], jobs[0][0]
            check(f"{name}: {t.name}: least, mean and most are in order", a[2] <= a[0] / n <= a[3] and a[3] > 0, a)
    check(f"{name}: no interrupts that nobody asked for", not any(v[4] for v in got.values()), {k: v for k, v in got.items() if v[4]})


# ---- the payload's refusals ------------------------------------------------------------------------------------------------------
def error_of(name, argv, append, pattern, **kw):
    lines = guest(name, argv, append, expect=3, **kw)
    check(f"{name}: says so", any(re.search(pattern, x) for x in lines if x.startswith("error ")), lines)


def test_errors():
    error_of("unknown test", cupel(), "jobs=alu:100,nosuch:100", "there is no test 'nosuch'")
    error_of("no jobs", cupel(), "something else", "neither \"jobs=")
    error_of("no n", cupel(), "jobs=alu", "job alu has no number of times")
    error_of("bad n", cupel(), "jobs=alu:x", "a number is wanted at 'x'")
    error_of("not a multiple", cupel(), "jobs=calls:128", "job 0: n is not a multiple")
    error_of("zero", cupel(), "jobs=alu:0", "job 0: n is not a multiple")
    error_of("above the limit", cupel(), "jobs=alu:1,timer:2000000", "job 1: n is above")
    error_of("too many processors", cupel(), "jobs=alu:1:65", "job 0: the number of processors")
    error_of("one processor where two must be", cupel(), "jobs=ipi:5", "job 0: the test wants two processors")
    error_of("too many jobs", cupel(), "jobs=" + ",".join(["alu:1"] * 65), "more than 64 jobs")
    error_of("little memory", cupel(), "jobs=alu:1", "128 MiB of memory, and the payload needs 144", memory="128")
    if QEMU:
        plain = [QEMU, *QEMU_ARGS, "-cpu", "qemu64"]
        error_of("no AVX2", plain, "jobs=avx2:10", "job 0: the test wants AVX2")
        error_of("no PCIDs", plain, "jobs=cr3-pcid:10", "cr3-pcid wants PCIDs")
        error_of("no x2APIC", plain, "x2apic jobs=alu:10", "x2APIC mode is wanted")
    p = subprocess.run([NATIVE, ELF, "syscall:10"], capture_output=True, text=True)
    check("a kernel's test in a process", p.returncode == 1 and "needs the payload's kernel" in p.stderr, p.stderr)


# ---- the image, changed ----------------------------------------------------------------------------------------------------------------
class Image:
    """payload.elf as bytes, addressed as it is linked; where its structures' fields are, the native program knows."""
    VIRT = 0x40000000

    def __init__(self):
        with open(ELF, "rb") as f:
            self.data = bytearray(f.read())
        phoff = struct.unpack_from("<I", self.data, 28)[0]
        self.offset = struct.unpack_from("<I", self.data, phoff + 4)[0]
        out = subprocess.run([NATIVE, "layout"], capture_output=True, text=True, check=True).stdout
        self.field = {name: int(at) for name, at in (line.split() for line in out.splitlines())}

    def get(self, address, fmt):
        return struct.unpack_from(fmt, self.data, address - self.VIRT + self.offset)[0]

    def put(self, address, fmt, *values):
        struct.pack_into(fmt, self.data, address - self.VIRT + self.offset, *values)

    def row(self, name):
        """The number of this test's row, and its address."""
        table, n = (self.get(self.VIRT + self.field[x], "<Q") for x in ("table", "n_tests"))
        for i in range(n):
            at = table + i * self.field["row.size"]
            if self.get(at + self.field["row.name"], "24s").rstrip(b"\0").decode() == name:
                return i, at
        raise KeyError(name)

    def fill_pass(self, jobs, cpus=0, apic_ids=()):
        self.put(self.VIRT + self.field["pass.n_jobs"], "<I", len(jobs))
        self.put(self.VIRT + self.field["pass.cpus"], "<I", cpus)
        self.put(self.VIRT + self.field["pass.apic_ids"], f"<{len(apic_ids)}I", *apic_ids)
        for i, (name, n, n_cpus) in enumerate(jobs):
            self.put(self.VIRT + self.field["pass.job"] + 16 * i, "<IIQ", self.row(name)[0], n_cpus, n)

    def break_test(self, name):
        """UD2 where the test begins."""
        self.put(self.get(self.row(name)[1] + self.field["row.run"], "<Q"), "<H", 0x0b0f)

    def save(self, directory, name):
        path = os.path.join(directory, name)
        with open(path, "wb") as f:
            f.write(self.data)
        return path


def test_images(engines):
    with tempfile.TemporaryDirectory(prefix="cupel-payload-") as d:
        good, short, bad = Image(), Image(), Image()
        good.fill_pass([("alu", 100, 1), ("contended", 100, 2), ("ipi", 5, 2)], 2, (0, 1))
        short.fill_pass([("alu", 100, 2)], 1, (0,))
        bad.break_test("alu")
        good, short, bad = (x.save(d, n) for x, n in ((good, "good.elf"), (short, "short.elf"), (bad, "bad.elf")))
        for name, argv in engines:
            lines = guest(f"{name}: a pass that is filled in", argv, "", elf=good)
            check(f"{name}: a pass that is filled in says nothing", not any(re.match("result|done|error", x) for x in lines), lines)
            guest(f"{name}: more processors than the pass has", argv, "", elf=short, expect=3)
            error_of(f"{name}: an exception", argv, "jobs=branchy:10,alu:10", "processor 0: exception 6 .* in ring 3", elf=bad)
            error_of(f"{name}: an exception on two processors", argv, "jobs=alu:10:2", "processor [01]: exception 6 .* in ring 3", elf=bad)


def main():
    tests = table()
    check("the table is there", len(tests) > 40 and len({t.name for t in tests}) == len(tests), tests)
    with open("/proc/cpuinfo", encoding="ascii", errors="replace") as f:
        flags = re.search(r"^flags.*", f.read(), re.M)[0].split()
    lacks = (0 if "avx2" in flags else NEED_AVX2) | (0 if "pcid" in flags else NEED_PCID)
    here = [t for t in tests if not t.needs & lacks]
    for t in tests:
        if t.needs & lacks:
            skip(t.name, "the processor lacks what it needs")
    engines = [("cupel", cupel())]
    first = run_guest("cupel", cupel(), here)
    check_figures("cupel", first, here)
    if not lacks & NEED_PCID:                    # the same work as without
        pcid, plain = ([first[t.name, n, cpus, 0][1] for n, cpus in jobs_for(t)] for t in here if t.name in ("cr3", "cr3-pcid"))
        check("cr3-pcid does what cr3 does", pcid == plain, (pcid, plain))
    check_same("native", run_native(here[::-1]), first)
    if QEMU:
        engines.append(("qemu", qemu()))
        there = [t for t in here if not t.needs & NEED_PCID]             # its TCG has none
        check_same("qemu", run_guest("qemu", qemu(), there[1::2] + there[::2]), first)
    else:
        skip("qemu", "no qemu-system-x86_64")
    for accel, order in (("exit=poll", here[7:] + here[:7]), ("chain=off", here[::-1])):
        check_same(accel, run_guest(accel, cupel("-accel", f"tcg,{accel}"), order), first)
    irqs = [t for t in here if t.needs & NEED_APIC]
    check_same("x2APIC", run_guest("x2APIC", cupel(), irqs, more="x2apic "), first)
    alone = [CUPEL, "-icount", "shift=3,sleep=off"]
    check_same("icount", run_guest("icount", alone, here, most=1), first)
    test_errors()
    test_images(engines)
    finish()


if not os.path.exists(ELF) or not os.path.exists(NATIVE):
    sys.exit(f"no {ELF} or {NATIVE}: run make test")
main()
