#!/usr/bin/env python3
"""`make bench-smp`: what a second vCPU brings: the same two processes on one vCPU and on two, under Cupel, QEMU's TCG and on the bare processor.

Usage: smp.py [--runs N] [--scale X] [--json FILE] [--no-peer] [-- CUPEL OPTIONS]
Turns alternate, so that a machine that slows down slows all; medians are compared. For each load: milliseconds with one vCPU and with two, and
their ratio; 2.0 is all that two cores can give. Native: on one of this machine's processors and on two. A checksum that differs is an error.
"""
import argparse
import json
import os
import re
import statistics
import subprocess
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "boot"))
import machine  # noqa: E402

PARALLEL = os.path.join(machine.BUILD, "bench", "parallel")
LOADS = (("compute", 100000), ("fork", 150), ("shell", 100), ("pipe", 8000))
LINE = re.compile(r"parallel (\w+) 2 ([\d.]+) (\d+)")


def commands(scale):
    return [f"{what} {max(1, int(amount * scale))} 2" for what, amount in LOADS]


def run_native(cpus, scale):
    allowed = sorted(os.sched_getaffinity(0))
    text = ""
    for c in commands(scale):
        text += subprocess.run([PARALLEL, *c.split()], capture_output=True, text=True, check=True,
                               preexec_fn=lambda: os.sched_setaffinity(0, allowed[:cpus])).stdout
    return text


def run_guest(kind, cpus, scale, initrd, options):
    args = ["-kernel", os.path.join(machine.GUEST, "vmlinuz"), "-initrd", initrd, "-append", "console=ttyS0 panic=-1", "-m", "512", "-no-reboot",
            "-smp", str(cpus)]
    if kind == "cupel":
        m = machine.hosted(*args, "-nographic", *options, log="bench-smp-cupel")
    else:
        m = machine.peer(*args, "-accel", "tcg,thread=multi", log="bench-smp-peer")
    m.login()
    text = ""
    for c in commands(scale):
        m.shell(f"parallel {c} >/dev/null", 600)          # once for the translations
        text += m.shell(f"parallel {c}", 600)[0]
    m.send("poweroff\n")
    m.wait(60)
    return text


def main():
    ap = argparse.ArgumentParser()
    ap.add_argument("--runs", type=int, default=3)
    ap.add_argument("--scale", type=float, default=1, help="of the amounts of work")
    ap.add_argument("--json")
    ap.add_argument("--no-peer", action="store_true")
    ap.add_argument("options", nargs="*", help="further options of cupel")
    a = ap.parse_args()
    kinds = ["native", "cupel"] + ([] if a.no_peer else ["qemu"])
    times, sums, wrong = {}, {}, 0
    initrd = machine.initrd_with({"bin/parallel": PARALLEL})
    for turn in range(a.runs):
        for k in kinds:
            for cpus in (1, 2):
                text = run_native(cpus, a.scale) if k == "native" else run_guest(k, cpus, a.scale, initrd, a.options)
                rows = LINE.findall(text)
                for what, ms, total in rows:
                    times.setdefault((what, k, cpus), []).append(float(ms))
                    if sums.setdefault(what, total) != total:
                        print(f"{k}, {cpus} vCPUs: {what} gives {total}, not {sums[what]}", file=sys.stderr)
                        wrong += 1
                if len(rows) != len(LOADS):
                    print(f"{k}, {cpus} vCPUs: {len(rows)} results of {len(LOADS)}: {text}", file=sys.stderr)
                    wrong += 1
            print(f"turn {turn + 1}: {k} done", file=sys.stderr, flush=True)
    med = {key: statistics.median(v) for key, v in times.items()}
    print(f"{'load':8}" + "".join(f" {k + ' 1':>11} {'2':>9} {'gain':>5}" for k in kinds) + ("   qemu/cupel 1     2" if "qemu" in kinds else ""))
    for what, _ in LOADS:
        line = f"{what:8}"
        for k in kinds:
            one, two = med.get((what, k, 1), 0), med.get((what, k, 2), 0)
            line += f" {one:11.1f} {two:9.1f} {one / two if two else 0:5.2f}"
        if "qemu" in kinds:
            line += "       " + " ".join(f"{med.get((what, 'qemu', n), 0) / (med.get((what, 'cupel', n), 0) or 1):5.2f}" for n in (1, 2))
        print(line)
    if a.json:
        with open(a.json, "w") as f:
            json.dump({f"{what} {k} {n}": v for (what, k, n), v in med.items()}, f, indent=1)
    sys.exit(1 if wrong else 0)


main()
