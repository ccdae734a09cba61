#!/usr/bin/env python3
"""The assay end to end: hosted with all its workloads and Linux, and on the bare machine (QEMU + OVMF) with the results taken off the stick, once by
time and once by counted instructions. Figures are not judged here, but where they must be: checksums, exact counts, what must be there or say why not."""
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


def path(name):
    return os.path.join(TMP.name, name)


def hosted(options, *more, seconds=120):
    return subprocess.run([CUPEL, "-assay", options, *more], capture_output=True, text=True, timeout=seconds * SLOW, stdin=subprocess.DEVNULL)


def load(name):
    r = subprocess.run([sys.executable, os.path.join(ROOT, "tools/assay_check.py"), path(name)], capture_output=True, text=True, timeout=60 * SLOW)
    check(r.returncode == 0, f"{name} is as docs/assay.md says: {r.stdout[-800:]}{r.stderr[-800:]}")
    with open(path(name), encoding="utf-8") as f:
        return json.load(f)


def whole(doc, kernel_native):
    """Every workload has a figure in every mode, or a reason that belongs there."""
    for w in doc["workloads"]:
        user = w["group"] in USER_GROUPS
        for mode in SINGLE:
            why = w["missing"].get(mode, "")
            excused = any(s in why for s in ("two processors", "AVX2", "PCID")) or (mode == "native" and not user and not kernel_native and "ring 0" in why)
            check((mode in w["results"]) != excused or (mode in w["results"] and not why), f"{w['id']} in {mode}: {why or 'no figure'}")
    ids = {w["id"] for w in doc["workloads"]}
    check(ids >= {"alu", "branchy", "calls", "icalls", "interp", "chase-l1", "chase-l2", "chase-mem", "read-mem", "write-mem", "movs-l1", "hash", "sort",
                  "double-lat", "sse-float", "avx2", "x87", "fresh", "syscall", "pagefault", "cr3", "timer", "port", "mmio", "ipi-self", "timer-hlt"},
          f"the workloads are there: {sorted(ids)}")


def breakdowns(doc):
    for b in doc["breakdown"]:
        if "shares" in b:
            check(abs(sum(b["shares"].values()) - 1) < 0.002, f"shares of {b['workload']} sum to {sum(b['shares'].values())}")
            check(b["own_cost"] < 0.05, f"the profiler took {b['own_cost']} of {b['workload']}")     # 2 % on a quiet machine
    share = {b["workload"]: b["shares"] for b in doc["breakdown"] if b["mode"] == "soft" and "shares" in b}
    return share


with case("hosted: every workload in every mode, two processors, Linux"):
    r = hosted(f"rounds=2,linux=1,ms=1,out={path('hosted.json')}", "-smp", "2", "-kernel", KERNEL, "-initrd", INITRD, seconds=400)
    check(r.returncode == 0 and "FAILED" not in r.stdout, f"code {r.returncode}: {r.stdout[-800:]}{r.stderr[-800:]}")
    check("mean" in r.stdout and "alu" in r.stdout, "the table is on the console")
    d = load("hosted.json")
    whole(d, kernel_native=False)
    two = d["machine"]["cores"] == 2
    if two:
        check(all("soft-all" in w["results"] for w in d["workloads"] if w["group"] in USER_GROUPS), "all processors at once")
        check(all("soft" in w["results"] for w in d["workloads"]), "tests of two processors too")
    share = breakdowns(d)
    check(share["alu"]["translated"] > 0.5 and share["fresh"]["translation"] > 0.3, f"alu {share['alu']}, fresh {share['fresh']}")
    check(share["timer-hlt"]["idle"] > 0.3 and share["write-mem"]["softmmu"] > 0.1, f"timer-hlt {share['timer-hlt']}, write-mem {share['write-mem']}")
    check(any(b["workload"] == "linux-boot" for b in d["breakdown"]), "Linux's boot is broken down")
    modes = {r["mode"]: r for r in d["linux"]["runs"]}
    check(set(modes) >= {"soft", "soft-poll", "soft-unchained"}, f"Linux ran in {sorted(modes)}")
    check(all(len(r["phases"]) == 6 and len(r["operations"]) >= 20 for r in modes.values()),
          f"phases and operations: { {m: (len(r['phases']), len(r['operations'])) for m, r in modes.items()} }")

with case("what cannot be is refused, with the mend"):
    for options, words in (("rounds=0", "rounds=1..32"), ("frobnicate=1", "out=FILE"), ("only=nothing", "there are: clock alu")):
        r = hosted(options)
        check(r.returncode == 1 and words in r.stdout + r.stderr, f"{options}: {r.returncode} {r.stdout[-300:]}{r.stderr[-300:]}")
    r = hosted(f"rounds=1,ms=1,only=alu,out={TMP.name}/no/such/folder.json")
    check(r.returncode == 1 and "cannot write" in r.stdout and "No such file" in r.stdout, f"no folder: {r.returncode} {r.stdout[-300:]}")
    with open(path("old.json"), "w") as f:
        f.write("precious")
    r = hosted(f"rounds=1,ms=1,only=nothing,out={path('old.json')}")
    check(r.returncode == 1 and open(path("old.json")).read() == "precious", "a run that fails leaves an older file alone")


def metal(name, options, *qemu, seconds):
    cmd = [os.path.join(ROOT, "tools/assay-metal.sh"), os.path.join(BUILD, "cupel.img"), path(name), options, *qemu]
    r = subprocess.run(cmd, capture_output=True, text=True, timeout=seconds * SLOW, stdin=subprocess.DEVNULL)
    check(r.returncode == 0, f"{options}: code {r.returncode} {r.stderr[-1500:]}")
    return load(name)


FEW = "alu+hash+chase-l1+sse-float+x87+fresh+syscall+pagefault+cr3+timer+timer-hlt+ipi-self+port+mmio"

with case("metal: natively in ring 0 and 3, translated, results on the stick"):
    d = metal("metal.json", f"rounds=2,linux=1,ms=1,only={FEW}", seconds=400)
    check(d["cupel"]["platform"] == "metal" and d["machine"]["firmware"].startswith("EDK II") and not d["machine"]["counting"], f"{d['machine']}")
    for w in d["workloads"]:
        check(all(m in w["results"] for m in SINGLE), f"{w['id']}: {w['missing']}")
    check([len(r["phases"]) for r in d["linux"]["runs"]] == [6, 6, 6], "Linux on metal")
    breakdowns(d)
    with open(path("hosted.json"), encoding="utf-8") as f:
        h = {w["id"]: w for w in json.load(f)["workloads"]}
    same = [w["id"] for w in d["workloads"] if w["n"] == h[w["id"]]["n"] and w["group"] in USER_GROUPS]
    for i in same:
        check({w["id"]: w for w in d["workloads"]}[i]["checksum"] == h[i]["checksum"], f"{i}: the same checksum as hosted")

with case("metal, instructions counted: exact figures, and two cores"):
    d = metal("count.json", "rounds=2,linux=0,ms=1,only=alu+hash+syscall+port", "-icount", "shift=0", seconds=300)
    check(d["machine"]["counting"], "it sees that the TSC counts instructions")
    by = {w["id"]: w for w in d["workloads"]}
    for i in ("alu", "hash"):
        check(len(set(by[i]["results"]["native"]["ticks"])) == 1, f"{i} natively takes the same count in each round: {by[i]['results']['native']['ticks']}")
    # 32 instructions and a loop's two, whose overhead is once per call.
    per = by["alu"]["results"]["native"]["median"] / by["alu"]["n"]
    check(33.9 < per < 34.2, f"alu natively: {per} instructions an iteration")
    check(1.0 <= by["alu"]["results"]["soft"]["ratio"] < 1.1, f"alu translated: {by['alu']['results']['soft']['ratio']}")
    check(by["syscall"]["results"]["soft"]["ratio"] > 2 and by["port"]["results"]["soft"]["ratio"] > 2, "what leaves translated code costs more")
    d = metal("two.json", "rounds=1,linux=0,ms=1,only=alu+contended+ipi+ipi-hlt", "-smp", "2", seconds=300)
    by = {w["id"]: w for w in d["workloads"]}
    check(d["machine"]["cores"] == 2 and all("soft" in w["results"] and "native" in w["results"] for w in d["workloads"]), f"{ {i: w['missing'] for i, w in by.items()} }")
    check("native-all" in by["alu"]["results"] and "soft-all" in by["contended"]["results"], "all processors at once")

finish()
