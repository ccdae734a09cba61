#!/usr/bin/env python3
"""`make bench-linux`: a stock Linux kernel's boot and operations: the host's own kernel, Cupel (both ways of leaving translated code) and QEMU's TCG, in turns.

Usage: linux_ops.py [--runs N] [--smp N] [--scale PERCENT] [--only OPERATION] [--json FILE] [--no-peer] [-- CUPEL OPTIONS]
Turns alternate, so that a machine that slows down slows all. The table: native nanoseconds per unit (the TSC's frequency is measured here), then how many times
that the others take, of the medians over the turns; `least` likewise of the quickest turns, which is the better figure on a busy
machine where processors have to wait for one another. Native is another kernel than the guest's: its version stands in the head.
Then the boot's phases in milliseconds, from the console as it arrives.
"""
import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time

sys.path.insert(0, os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "boot"))
import machine  # noqa: E402
from assay_linux import OPS, Result, arguments  # noqa: E402

KINDS = {"native": None, "cupel": (), "poll": ("-accel", "tcg,exit=poll"), "qemu": None}


def tsc_hz():
    """Ticks of `linux-ops --here`'s first line, which a second process prints a second later, against the clock."""
    def now():
        before = time.monotonic()
        out = subprocess.run([OPS, "--here", "--only=getpid", "--scale=1"], capture_output=True, text=True, check=True).stdout
        return int(out.split()[3]), (before + time.monotonic()) / 2
    (t0, s0), _, (t1, s1) = now(), time.sleep(2), now()
    return (t1 - t0) / (s1 - s0)


def run_native(options):
    out = subprocess.run([OPS, "--here", *(f"--{o}" for o in options)], capture_output=True, text=True)
    with tempfile.NamedTemporaryFile("w", suffix=".log") as f:
        f.write(out.stdout)
        f.flush()
        return Result(f.name), {}


def stamped(m):
    """The run to its end, and the second at which each line of the console was complete."""
    times, end = [], time.monotonic() + 600
    while m.proc.poll() is None and time.monotonic() < end:
        m._read(1)
        times += [time.monotonic() - m.start] * (m.text.count("\n") - len(times))
    m.wait(10)
    times += [time.monotonic() - m.start] * (m.text.count("\n") - len(times))
    m.log.close()
    return times


def run_guest(kind, smp, options, accel):
    args = arguments(" ".join(f"assay.{o}" for o in options)) + ["-smp", str(smp)]
    log = f"bench-linux-{kind}"
    m = machine.peer(*args, *(("-accel", "tcg,thread=multi") if smp > 1 else ()), log=log) if kind == "qemu" \
        else machine.hosted(*args, "-nographic", *accel, log=log)
    times = stamped(m)
    r = Result(machine.log_path(log))
    return r, {p: times[line - 1] * 1000 for p, line in r.phases.items() if 0 < line <= len(times)}


def operations(kinds, times, hz):
    print(f"{'operation':14} {'native ns':>10} " + " ".join(f"{k + ' x':>9} {'least':>7}" for k in kinds[1:]) + ("   qemu/cupel" if "qemu" in kinds else ""))
    for op in times["native"]:
        base = times["native"][op]
        cells, mid = [], {}
        for k in kinds[1:]:
            v = times[k].get(op)
            mid[k] = statistics.median(v) / statistics.median(base) if v else 0
            cells.append(f"{mid[k]:9.2f} {min(v) / min(base):7.2f}" if v else f"{'-':>9} {'-':>7}")
        last = f"{mid['qemu'] / mid['cupel']:12.2f}" if mid.get("qemu") and mid.get("cupel") else ""
        print(f"{op:14} {statistics.median(base) / hz * 1e9:10.2f} " + " ".join(cells) + last)


def boots(kinds, phases):
    print(f"\n{'phase ends at':14} " + " ".join(f"{k + ' ms':>10}" for k in kinds[1:]))
    for p in ("kernel", "memory", "cpus", "drivers", "init", "done"):
        print(f"{p:14} " + " ".join(f"{statistics.median(phases[k][p]):10.0f}" if phases[k].get(p) else f"{'-':>10}" for k in kinds[1:]))


def main():
    ap = argparse.ArgumentParser()
    ap.add_argument("--runs", type=int, default=5)
    ap.add_argument("--smp", type=int, default=1, help="vCPUs; with 2 the operations between processors come in")
    ap.add_argument("--scale", type=int, default=100)
    ap.add_argument("--only")
    ap.add_argument("--json")
    ap.add_argument("--no-peer", action="store_true")
    ap.add_argument("options", nargs="*", help="further options of cupel")
    a = ap.parse_args()
    kinds = [k for k in KINDS if not (k == "qemu" and a.no_peer)]
    options = [f"scale={a.scale}"] + ([f"only={a.only}"] if a.only else [])
    times, phases, wrong, kernel = {k: {} for k in kinds}, {k: {} for k in kinds}, 0, ""
    for turn in range(a.runs):
        for k in kinds:
            r, ends = run_native(options) if k == "native" else run_guest(k, a.smp, options, [*(KINDS[k] or ()), *a.options])
            kernel = r.kernel or kernel
            if r.error or r.bad or not r.phases["done"]:
                print(f"{k}: {r.error or 'no end'}, {r.bad} bad lines", file=sys.stderr)
                wrong += 1
            for op, (_, _, n, ticks) in r.ops.items():
                times[k].setdefault(op, []).append(ticks / n)
            for p, ms in ends.items():
                phases[k].setdefault(p, []).append(ms)
            print(f"turn {turn + 1}: {k} done", file=sys.stderr, flush=True)
    hz = tsc_hz()
    print(f"guest Linux {kernel}, {a.smp} vCPU; native Linux {platform.release()}; TSC {hz / 1e6:.0f} MHz; {a.runs} turns")
    operations(kinds, times, hz)
    boots(kinds, phases)
    if a.json:
        with open(a.json, "w") as f:
            json.dump({"tsc_hz": hz, "ticks_per_unit": times, "phase_ends_ms": phases}, f, indent=1)
    sys.exit(1 if wrong else 0)


main()
