#!/usr/bin/env python3
"""`make bench-peers`: Cupel hosted, QEMU's TCG and the bare processor, with the same kernel, RAM disk and program, taking turns.

Usage: peers.py [--runs N] [--json FILE] [--no-peer] [-- CUPEL OPTIONS]
Turns alternate, so that a machine that slows down slows all; medians of the runs are compared. The table: native nanoseconds per call,
then how many times that the others take, and the time from start to the shell's prompt. A checksum that differs is an error.
"""
import argparse
import json
import os
import statistics
import subprocess
import sys
import time

sys.path.insert(0, os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "boot"))
import machine  # noqa: E402

BENCH = os.path.join(machine.BUILD, "bench", "bench")


def parse(text):
    rows = {}
    for line in text.splitlines():
        f = line.split()
        if len(f) == 4 and f[0] == "bench":
            rows[f[1]] = (int(f[2]), f[3])
    return rows


def run_guest(kind, initrd, span, options):
    args = ["-kernel", os.path.join(machine.GUEST, "vmlinuz"), "-initrd", initrd, "-append", "console=ttyS0 panic=-1", "-m", "512", "-no-reboot"]
    m = machine.hosted(*args, "-nographic", *options, log="bench-cupel") if kind == "cupel" else machine.peer(*args, log="bench-peer")
    m.login()
    prompt = time.monotonic() - m.start
    begin = m.at
    m.send(f"bench {span}\n")
    m.expect("bench end", 600)
    rows = parse(m.text[begin:m.at])
    m.send("poweroff\n")
    m.wait(60)
    return rows, prompt


def main():
    ap = argparse.ArgumentParser()
    ap.add_argument("--runs", type=int, default=3)
    ap.add_argument("--span", type=int, default=200, help="milliseconds per workload")
    ap.add_argument("--json")
    ap.add_argument("--no-peer", action="store_true")
    ap.add_argument("options", nargs="*", help="further options of cupel")
    a = ap.parse_args()
    kinds = ["native", "cupel"] + ([] if a.no_peer else ["qemu"])
    times, prompts, sums, wrong = {k: {} for k in kinds}, {k: [] for k in kinds}, {}, 0
    initrd = machine.initrd_with({"bin/bench": BENCH})
    for turn in range(a.runs):
        for k in kinds:
            if k == "native":
                rows = parse(subprocess.run([BENCH, str(a.span)], capture_output=True, text=True, check=True).stdout)
            else:
                rows, prompt = run_guest(k, initrd, a.span, a.options)
                prompts[k].append(prompt)
            for name, (ns, total) in rows.items():
                times[k].setdefault(name, []).append(ns)
                if sums.setdefault(name, total) != total:
                    print(f"{k}: {name} gives {total}, native {sums[name]}", file=sys.stderr)
                    wrong += 1
            print(f"turn {turn + 1}: {k} done", file=sys.stderr, flush=True)
    med = {k: {n: statistics.median(v) for n, v in times[k].items()} for k in kinds}
    others = kinds[1:]
    print(f"{'workload':10} {'native ns':>12} " + " ".join(f"{k + ' x':>9}" for k in others) + ("   qemu/cupel" if "qemu" in kinds else ""))
    for n in med["native"]:
        cells = [med[k].get(n, 0) / med["native"][n] for k in others]
        ratio = f"{cells[1] / cells[0]:12.2f}" if len(cells) == 2 and cells[0] else ""
        print(f"{n:10} {med['native'][n]:12.0f} " + " ".join(f"{c:9.2f}" for c in cells) + ratio)
    boots = [statistics.median(prompts[k]) for k in others]
    print(f"{'to prompt':10} {'':12} " + " ".join(f"{b:8.2f}s" for b in boots) + (f"{boots[1] / boots[0]:12.2f}" if len(boots) == 2 else ""))
    if a.json:
        with open(a.json, "w") as f:
            json.dump({"median_ns": med, "prompt_s": {k: statistics.median(v) for k, v in prompts.items() if v}}, f, indent=1)
    sys.exit(1 if wrong else 0)


main()
