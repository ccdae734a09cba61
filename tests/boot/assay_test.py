#!/usr/bin/env python3
"""The assay end to end: hosted with all its workloads and Linux, and on the bare machine (QEMU + OVMF) with the results taken off the stick, once by
time and once by counted instructions. Figures are judged only where they must be so: checksums, exact counts, what must be there or say why not."""
import json
import os
import subprocess
import sys
import tempfile

from machine import BUILD, ROOT, SLOW, case, check, finish

TMP = tempfile.TemporaryDirectory(prefix="cupel-assay-")
CUPEL = os.path.join(BUILD, "cupel")
KERNEL, INITRD = os.path.join(BUILD, "guest/vmlinuz"), os.path.join(BUILD, "assay/linux-initrd")
USER_GROUPS = ("integer", "system", "memory", "floating point", "code")
SINGLE = ("native", "soft", "soft-poll", "soft-unchained")
FEW = "alu+hash+chase-l1+sse-float+x87+fresh+syscall+pagefault+cr3+timer+timer-hlt+ipi-self+port+mmio"
ALL = {"alu", "branchy", "calls", "icalls", "interp", "chase-l1", "chase-l2", "chase-mem", "read-mem", "write-mem", "movs-l1", "hash", "sort", "double-lat",
       "sse-float", "avx2", "x87", "fresh", "syscall", "pagefault", "cr3", "timer", "port", "mmio", "ipi-self", "timer-hlt"}


def path(name):
    return os.path.join(TMP.name, name)


def run(cmd, seconds):
    return subprocess.run(cmd, capture_output=True, text=True, timeout=seconds * SLOW, stdin=subprocess.DEVNULL)


def hosted(options, *more, seconds=60):
    return run([CUPEL, "-assay", options, *more], seconds)


def metal(name, options, *qemu, seconds):
    r = run([os.path.join(ROOT, "tools/assay-metal.sh"), os.path.join(BUILD, "cupel.img"), path(name), options, *qemu], seconds)
    check(f"metal, {options}: ends well", r.returncode == 0, f"code {r.returncode} {r.stderr[-1500:]}")
    return load(name)


def load(name):
    """The document, after the checker of docs/assay.md has had its say."""
    r = run([sys.executable, os.path.join(ROOT, "tools/assay_check.py"), path(name)], 60)
    check(f"{name} is as docs/assay.md says", r.returncode == 0, r.stdout[-800:] + r.stderr[-800:])
    with open(path(name), encoding="utf-8") as f:
        doc = json.load(f)
    doc["by"] = {w["id"]: w for w in doc["workloads"]}
    return doc


def check_whole(doc):
    """Every workload has a figure in every mode, or a reason that belongs there."""
    for w in doc["workloads"]:
        for mode in SINGLE:
            why = w["missing"].get(mode, "")
            excuses = ["two processors", "AVX2", "PCID"] + (["ring 0"] if mode == "native" and w["group"] not in USER_GROUPS else [])
            ok = mode in w["results"] if not why else any(e in why for e in excuses)
            check(f"{w['id']} in mode {mode}", ok, why or "no figure")
    check("the workloads are there", ALL <= set(doc["by"]), sorted(ALL - set(doc["by"])))


def check_breakdown(doc):
    for b in doc["breakdown"]:
        if "shares" in b:
            check(f"{b['workload']}: the profiler's own cost", b["own_cost"] < 0.05, b["own_cost"])     # 2 % where nobody else has the processor
    return {b["workload"]: b["shares"] for b in doc["breakdown"] if b["mode"] == "soft" and "shares" in b}


def hosted_all():
    r = hosted(f"rounds=2,linux=1,ms=1,out={path('hosted.json')}", "-smp", "2", "-kernel", KERNEL, "-initrd", INITRD, seconds=300)
    check("hosted, all of it: ends well", r.returncode == 0 and "FAILED" not in r.stdout, f"code {r.returncode}: {r.stdout[-800:]}{r.stderr[-800:]}")
    check("the table is on the console", "mean" in r.stdout and "\nalu " in r.stdout, r.stdout[-800:])
    d = load("hosted.json")
    check_whole(d)
    if d["machine"]["cores"] == 2:
        check("all processors at once", all("soft-all" in w["results"] for w in d["workloads"] if w["group"] in USER_GROUPS))
        check("tests of two processors", all("soft" in d["by"][i]["results"] for i in ("ipi", "ipi-hlt")))
    share = check_breakdown(d)
    for name, kind, least in (("alu", "translated", 0.7), ("timer-hlt", "idle", 0.3), ("cpuid", "helpers", 0.2), ("movs-l1", "helpers", 0.3)):
        check(f"where {name}'s time goes", share[name][kind] > least, share[name])
    check("freshly written code is not all translated code", share["fresh"]["translated"] < 0.5, share["fresh"])
    check("Linux's boot is broken down", "linux-boot" in share)
    runs = {r["mode"]: r for r in d["linux"]["runs"]}
    check("Linux in each mode", set(runs) >= {"soft", "soft-poll"}, sorted(runs))
    check("phases and operations", all(len(r["phases"]) == 6 and len(r["operations"]) >= 20 for r in runs.values()),
          {m: (len(r["phases"]), len(r["operations"])) for m, r in runs.items()})


def refusals():
    for options, words in (("rounds=0", "rounds=1..32"), ("frobnicate=1", "out=FILE"), ("only=nothing", "there are: clock alu")):
        r = hosted(options)
        check(f"{options} is refused", r.returncode == 1 and words in r.stdout + r.stderr, f"{r.returncode} {r.stdout[-300:]}{r.stderr[-300:]}")
    r = hosted(f"rounds=1,ms=1,only=alu,out={TMP.name}/no/such/folder.json")
    check("results that cannot be kept", r.returncode == 1 and "cannot write" in r.stdout and "No such file" in r.stdout, f"{r.returncode} {r.stdout[-300:]}")
    with open(path("old.json"), "w", encoding="utf-8") as f:
        f.write("precious")
    r = hosted(f"rounds=1,ms=1,only=nothing,out={path('old.json')}")
    with open(path("old.json"), encoding="utf-8") as f:
        check("a run that fails leaves an older file alone", r.returncode == 1 and f.read() == "precious")


def metal_time():
    d = metal("metal.json", f"rounds=2,linux=1,ms=1,only={FEW}", seconds=200)
    m = d["machine"]
    check("who it is", d["cupel"]["platform"] == "metal" and m["firmware"].startswith("EDK II") and not m["counting"], m)
    for w in d["workloads"]:
        check(f"{w['id']}: natively and translated", all(mode in w["results"] for mode in SINGLE), w["missing"])
    check("Linux on metal", [len(r["phases"]) for r in d["linux"]["runs"]] == [6, 6])
    check_breakdown(d)


def metal_count():
    d = metal("count.json", "rounds=2,linux=0,ms=1,only=alu+hash+syscall+port", "-icount", "shift=0", seconds=150)
    check("it sees that the TSC counts instructions", d["machine"]["counting"])
    for i in ("alu", "hash"):
        ticks = d["by"][i]["results"]["native"]["ticks"]
        check(f"{i}: the same count in each round", len(set(ticks)) == 1, ticks)
    # 32 instructions and a loop's two; what is outside of the loop is once per call.
    per = d["by"]["alu"]["results"]["native"]["median"] / d["by"]["alu"]["n"]
    check("alu natively: instructions per iteration", 33.9 < per < 34.2, per)
    ratio = {i: w["results"]["soft"]["ratio"] for i, w in d["by"].items()}
    check("alu translated is the same instructions", 1.0 <= ratio["alu"] < 1.05, ratio)
    check("what leaves translated code costs more", ratio["syscall"] > 2 and ratio["port"] > 2, ratio)


def metal_two():
    d = metal("two.json", "rounds=1,linux=0,ms=1,only=alu+contended+ipi+ipi-hlt", "-smp", "2", seconds=200)
    check("two cores", d["machine"]["cores"] == 2, d["machine"])
    for w in d["workloads"]:
        check(f"{w['id']} on two cores", "native" in w["results"] and "soft" in w["results"], w["missing"])
    check("all processors at once", "native-all" in d["by"]["alu"]["results"] and "soft-all" in d["by"]["contended"]["results"])


for test in (hosted_all, refusals, metal_time, metal_count, metal_two):
    try:
        case(test)
    except (KeyError, subprocess.TimeoutExpired, ValueError) as e:      # a document without what was asked of it
        check(test.__name__, False, repr(e))
finish()
