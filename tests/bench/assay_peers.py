#!/usr/bin/env python3
"""The assay's workloads in QEMU's TCG and in hosted Cupel, in turns, beside the native figures of an assay.json of the same machine.

Usage: assay_peers.py [--rounds N] [--out FILE] ASSAY.json     (default: build/assay-qemu.json)

The workloads are those of the given file with the same n, in the same payload (build/assay/payload.elf): both emulators boot it with
the jobs on its command line. What comes out has the same format (docs/assay.md, platform "qemu"): the given file's native samples,
QEMU's and Cupel's, each after a 16th of the work to warm up, as the assay itself does it. Turns alternate, so that a machine that
slows down slows both; that the native figures are from another time is what Cupel's are for: where they differ from the given file's,
the machine has changed.

A workload that an emulator cannot do is in "missing" with what the payload said; who hangs or dies is found by halving the jobs. A
wrong checksum is in "missing" too, and an error.
"""
import argparse
import json
import os
import re
import subprocess
import sys
import time

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
BUILD = os.path.join(ROOT, os.environ.get("B", "build"))
sys.path[:0] = [os.path.join(ROOT, "tools")]
import assay_check  # noqa: E402

PAYLOAD = os.path.join(BUILD, "assay", "payload.elf")
CUPEL = os.environ.get("CUPEL", os.path.join(BUILD, "cupel"))
QEMU = os.environ.get("QEMU", "qemu-system-x86_64")
WARM_SHARE, CHUNK, NEED_TWO, USER = 16, 24, 2, 0
LIMIT = 300 * float(os.environ.get("CUPEL_TEST_SLOW", "1"))
GUEST = ["-m", "256", "-smp", "2", "-nographic", "-no-reboot", "-serial", "null", "-debugcon", "stdio", "-device",
         "isa-debug-exit,iobase=0x501,iosize=2"]
ENGINES = {     # in the order of their turns
    "qemu-tcg": [QEMU, "-accel", "tcg", "-cpu", "max", "-net", "none", "-monitor", "none", "-vga", "none"],
    "cupel": [CUPEL],
}
TITLES = {"qemu-tcg": "QEMU TCG", "cupel": "Cupel hosted, in turns with QEMU"}
RESULT = re.compile(r"result (\d+) (\S+) (\d+) (\d+) 0x([0-9a-f]+) (\d+) (\d+) (\d+)")
TEST = re.compile(r"test (\S+) (\d+) (\d+) (\d+) (\d+) (\d+) ")


class Refused(Exception):
    """Why a pass gave no results."""


def boot(engine, append):
    """The payload's lines; raises Refused. Also: seconds that it took."""
    start = time.monotonic()
    try:
        p = subprocess.run([*ENGINES[engine], *GUEST, "-kernel", PAYLOAD, "-append", append], stdin=subprocess.DEVNULL, capture_output=True,
                           text=True, errors="replace", timeout=LIMIT)
    except FileNotFoundError:
        sys.exit(f"assay_peers: no {ENGINES[engine][0]}: run make hosted and tools/deps.sh test")
    except subprocess.TimeoutExpired:
        raise Refused(f"did not end within {LIMIT:.0f} s") from None
    lines = p.stdout.replace("\r", "").splitlines()
    if lines[-1:] != ["done"]:
        said = [x[6:] for x in lines if x.startswith("error ")] or (p.stderr.strip().splitlines() or lines)[-1:]
        raise Refused(said[0] if said else f"ended with {p.returncode} without a word")
    return lines, time.monotonic() - start


def table():
    """{test: (kind, needs, latency, n_unit)} from the payload itself."""
    try:
        lines, _ = boot("cupel", "list")
    except Refused as e:
        sys.exit(f"assay_peers: {PAYLOAD} does not list its tests: {e}")
    return {m[1]: tuple(map(int, m.group(2, 3, 4, 5))) for m in map(TEST.match, lines) if m}


class Runner:
    def __init__(self, doc, tests):
        self.tests, self.hz = tests, doc["machine"]["tsc_hz"]
        self.n = {w["id"]: w["n"] for w in doc["workloads"]}
        self.missing = {e: {} for e in ENGINES}      # engine: {workload: why}

    def jobs(self, ids, n_of):
        """For each workload a short run and the one that counts."""
        out = []
        for i in ids:
            _, needs, _, unit = self.tests[i]
            n = n_of(i, max(unit, 1))
            warm = max(n // WARM_SHARE // unit * unit, unit) if unit else n
            out += [f"{i}:{k}:{2 if needs & NEED_TWO else 1}" for k in (warm, n)]
        return "jobs=" + ",".join(out)

    def run(self, engine, ids, n_of):
        """{workload: (ticks, checksum, min, max)}. Who makes a pass fail is found by halving, and left out from now on."""
        ids = [i for i in ids if i not in self.missing[engine]]
        if not ids:
            return {}
        try:
            lines, took = boot(engine, self.jobs(ids, n_of))
        except Refused as e:
            if len(ids) == 1:
                self.missing[engine][ids[0]] = re.sub(r"^job \d+: ", "", str(e))[:200]
                return {}
            half = len(ids) // 2
            return {**self.run(engine, ids[:half], n_of), **self.run(engine, ids[half:], n_of)}
        return self.results(engine, ids, [m for m in map(RESULT.fullmatch, lines) if m], took)

    def results(self, engine, ids, matches, took):
        out = {}
        for m in matches:                           # of several processors the slowest; the checksum is the first's
            at, ticks = int(m[1]), int(m[4])
            if at % 2:
                i = ids[at // 2]
                out[i] = (max(ticks, out[i][0]), *out[i][1:]) if i in out else (ticks, int(m[5], 16), int(m[6]), int(m[7]))
        spent = sum(int(m[4]) for m in matches if m[3] == "0") / self.hz
        if set(out) != set(ids) or spent > took * 1.02:
            lacks = ", ".join(sorted(set(ids) - set(out)))
            clock = f"{spent:.2f} s by the guest's TSC within {took:.2f} s: it does not tick as the file says"
            sys.exit(f"assay_peers: {engine}: " + (f"no result of {lacks}" if lacks else clock))
        return out


def chunks(ids):
    return [ids[k:k + CHUNK] for k in range(0, len(ids), CHUNK)]


def measure(doc, tests, rounds):
    """(samples, why missing): {engine: {workload: [(ticks, checksum, min, max), ...]}}, {engine: {workload: why}}"""
    r, samples = Runner(doc, tests), {e: {} for e in ENGINES}
    ids = [w["id"] for w in doc["workloads"] if w["id"] in tests]
    for e in ENGINES:                               # who can do what, with as little work as possible
        for some in chunks(ids):
            r.run(e, some, lambda i, unit: unit)
    for turn in range(rounds):
        for some in chunks(ids):
            for e in ENGINES:
                for i, figures in r.run(e, some, lambda i, unit: r.n[i]).items():
                    samples[e].setdefault(i, []).append(figures)
        print(f"assay_peers: turn {turn + 1} of {rounds} done", file=sys.stderr, flush=True)
    return samples, r.missing


# ---- the document -----------------------------------------------------------------------------------------------------

def result(figures, native, latency):
    ticks = [f[0] for f in figures]
    first, median, third = assay_check.quartiles(ticks)
    out = {"ticks": ticks, "median": median, "min": min(ticks), "max": max(ticks), "spread": round((third - first) / median, 6),
           "disturbed": []}
    if latency:
        out["latency_min"], out["latency_max"] = [f[2] for f in figures], [f[3] for f in figures]
    if native:
        out.update(zip(("ratio", "ratio_low", "ratio_high"), (round(x, 6) for x in assay_check.ratios(out, native, True))))
    return out


def agreed(w, figures, kind):
    """None, or what is wrong with an engine's checksums. Kernel workloads of a translated guest need not do what native ones do."""
    sums = {f[1] for f in figures}
    if len(sums) > 1 or (kind == USER and sums != {int(w["checksum"], 16)}):
        return f"wrong checksum: {', '.join(f'0x{s:x}' for s in sorted(sums))} instead of {w['checksum']}"
    return None


def workload(w, test, samples, missing, native_mode):
    """(the workload with the engines' results, was everything right)"""
    out = {k: w[k] for k in ("id", "title", "group", "unit", "n", "latency", "checksum")}
    native = w["results"].get(native_mode)
    out["results"] = {"native": {k: v for k, v in native.items()}} if native else {}
    out["missing"] = {} if native else {"native": w.get("missing", {}).get(native_mode, "not measured")}
    right = True
    for e in ENGINES:
        figures = samples[e].get(w["id"])
        wrong = figures and agreed(w, figures, test[0])
        right = right and not wrong
        if figures and not wrong:
            out["results"][e] = result(figures, native, w["latency"])
        else:
            out["missing"][e] = wrong or missing[e].get(w["id"], "not measured")
    return out, right


def emulator():
    first = subprocess.run([QEMU, "--version"], capture_output=True, text=True, check=True).stdout.splitlines()[0]
    m = re.search(r"version (\S+)", first)
    return f"QEMU {m[1] if m else first}, " + " ".join(ENGINES["qemu-tcg"][1:5])


def drift(doc, workloads):
    """A warning if Cupel is not as fast as in the given file, or None."""
    mode = next((m["id"] for m in doc["modes"] if not m.get("native") and m["cpus"] == 1), None)
    then = {w["id"]: w["results"][mode]["median"] for w in doc["workloads"] if mode in w["results"]}
    pairs = [w["results"]["cupel"]["median"] / then[w["id"]] for w in workloads if "cupel" in w["results"] and w["id"] in then]
    if doc["cupel"]["platform"] != "hosted" or not pairs:
        return None
    middle = assay_check.quartiles(pairs)[1]
    return None if 0.9 < middle < 1.1 else ("the machine is not as it was: beside QEMU, Cupel took "
                                            f"{middle:.2f} times as long as in the given file (median of the workloads)")


def document(doc, tests, samples, missing, rounds, began):
    native_mode = next((m["id"] for m in doc["modes"] if m.get("native") and m["cpus"] == 1), "native")
    made = [workload(w, tests[w["id"]], samples, missing, native_mode) for w in doc["workloads"] if w["id"] in tests]
    workloads = [w for w, _ in made]
    modes = [{"id": "native", "title": "native", "native": True, "cpus": 1}] + [{"id": e, "title": TITLES[e], "cpus": 1} for e in ENGINES]
    modes[2].update(mmu="soft", exit="interrupt", chain=True)
    return {
        "schema": assay_check.FORMAT, "complete": True, "cupel": {**doc["cupel"], "platform": "qemu", "emulator": emulator()},
        "machine": doc["machine"], "started_utc": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(began)),
        "seconds": round(time.time() - began, 3), "rounds": max(rounds, doc["rounds"]), "workload_ms": doc["workload_ms"], "modes": modes,
        "counters": [], "workloads": workloads, "breakdown": [],
        "warnings": [x for x in [drift(doc, workloads)] if x] + ["native figures are copied from another run: " + doc["started_utc"]],
    }, all(right for _, right in made)


def this_machine():
    """vendor, family, model, stepping of this machine's processor."""
    with open("/proc/cpuinfo", encoding="utf-8", errors="replace") as f:
        facts = dict(re.split(r"\s*:\s*", x, maxsplit=1) for x in f.read().split("\n\n")[0].splitlines() if ":" in x)
    return facts["vendor_id"].strip(), *(int(facts[k]) for k in ("cpu family", "model", "stepping"))


def given(path):
    """The given file, or the end."""
    try:
        doc = assay_check.load(path)
    except assay_check.Unreadable as e:
        sys.exit(f"assay_peers: {e}")
    found = assay_check.problems(doc)
    if found or not doc["complete"]:
        sys.exit(f"assay_peers: {path}: " + (f"{found[0][0]}: {found[0][1]}" if found else "incomplete: let the assay run to its end"))
    m = doc["machine"]
    if m["counting"]:
        sys.exit(f"assay_peers: {path}: its figures are counts of instructions, and QEMU's will be times: take a file with times")
    there, here = (m["vendor"], m["family"], m["model"], m["stepping"]), this_machine()
    if there != here:
        sys.exit(f"assay_peers: {path}: of another machine ({' '.join(map(str, there))}; this is {' '.join(map(str, here))}): measure here")
    return doc


def main():
    ap = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    ap.add_argument("--rounds", type=int, default=3)
    ap.add_argument("--out", default=os.path.join(BUILD, "assay-qemu.json"))
    ap.add_argument("assay", metavar="ASSAY.json", help="results of this machine")
    a = ap.parse_args()
    if a.rounds < 1:
        sys.exit("assay_peers: --rounds: at least 1")
    doc, began = given(a.assay), time.time()
    tests = table()
    unknown = [w["id"] for w in doc["workloads"] if w["id"] not in tests]
    if unknown:
        print(f"assay_peers: {PAYLOAD} has no {', '.join(unknown)}: it is of another build than {a.assay}", file=sys.stderr)
    samples, missing = measure(doc, tests, a.rounds)
    out, right = document(doc, tests, samples, missing, a.rounds, began)
    found = assay_check.problems(out)
    if found:
        sys.exit("assay_peers: what it made is wrong: " + "; ".join(f"{at}: {text}" for at, text in found[:5]))
    with open(a.out, "w", encoding="utf-8") as f:
        json.dump(out, f, indent=1)
        f.write("\n")
    for w in out["workloads"]:
        for e in ENGINES:
            if e in w["missing"]:
                print(f"assay_peers: {w['id']}: {TITLES[e]}: {w['missing'][e]}", file=sys.stderr)
    print(f"assay_peers: the results are in {a.out}", file=sys.stderr)
    sys.exit(0 if right else 1)


main()
