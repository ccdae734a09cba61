"""assay.json files for the tests of tools/report: made up, but realistic, and consistent by the rules of docs/assay.md.

The generator draws samples around a ratio per workload and computes medians, spreads and ratios by formulas of its own, so that they
check those of tools/assay_check.py. Everything follows from the seed.
"""
import json
import random

COUNTERS = ["instructions", "cycles", "branch-misses"]
SHARES = ["translated", "bridges", "translation", "softmmu", "helpers", "exceptions", "devices", "interrupts", "waiting", "idle", "loop",
          "profiler"]
HOSTILE = "</script><script>alert(1)</script><img src=http://127.0.0.1:9/x onerror=alert(2)>&amp;\"'"

# id, title, group, unit, native ticks per unit, user code?, latency?, ratio translated on metal, in QEMU's TCG, and what costs most besides
# "translated"
WORKLOADS = [
    ("alu", "straight-line integer", "integer", "iteration", 9.1, 1, 0, 1.01, 4.9, "loop"),
    ("branch", "unpredictable branches", "integer", "iteration", 17.3, 1, 0, 1.04, 3.6, "loop"),
    ("call", "calls and returns", "integer", "call", 5.2, 1, 0, 1.62, 6.9, "loop"),
    ("indirect", "indirect calls", "integer", "call", 6.6, 1, 0, 2.31, 9.8, "loop"),
    ("div", "64-bit division", "integer", "iteration", 18.0, 1, 0, 1.00, 2.9, "loop"),
    ("stream", "sequential reads", "memory", "byte", 0.11, 1, 0, 1.85, 8.4, "softmmu"),
    ("chase", "dependent loads, 4 MiB", "memory", "load", 38.0, 1, 0, 1.22, 1.9, "softmmu"),
    ("memcpy", "rep movsb, 64 KiB", "memory", "byte", 0.04, 1, 0, 1.31, 21.7, "softmmu"),
    ("tlbmiss", "a load in each of 8192 pages", "memory", "load", 21.5, 1, 0, 6.4, 11.9, "softmmu"),
    ("double", "scalar double", "floating point", "iteration", 12.2, 1, 0, 1.01, 22.4, "loop"),
    ("sse", "SSE2 vectors", "floating point", "iteration", 4.1, 1, 0, 1.08, 31.0, "loop"),
    ("x87", "x87 stack", "floating point", "iteration", 24.0, 1, 0, 1.03, 44.2, "loop"),
    ("fresh", "freshly written code", "code", "block", 610.0, 1, 0, 38.5, 74.1, "translation"),
    ("selfmod", "code that changes itself", "code", "change", 410.0, 1, 0, 55.2, 112.0, "translation"),
    ("syscall", "SYSCALL and SYSRET", "kernel", "call", 92.0, 0, 0, 3.9, 6.8, "helpers"),
    ("fault", "page fault and return", "kernel", "fault", 980.0, 0, 0, 2.7, 7.7, "softmmu"),
    ("cr3", "change of the address space", "kernel", "change", 240.0, 0, 0, 4.6, 31.0, "helpers"),
    ("ipi", "IPI to the other processor and back", "kernel", "round trip", 2600.0, 0, 1, 3.1, 9.3, "exceptions"),
    ("timer", "APIC timer's interrupt", "device", "interrupt", 1900.0, 0, 1, 5.8, 16.5, "exceptions"),
    ("port", "IN from a port", "device", "access", 2100.0, 0, 0, 0.14, 0.31, "devices"),
]
PHASES = [("decompress", "kernel decompressed", 210), ("early", "to the console", 90), ("drivers", "drivers", 340),
          ("init", "to the shell", 60)]
OPERATIONS = [("getpid", "getpid()", "call", 60), ("pipe", "pipe, there and back", "round trip", 2900),
              ("fork", "fork and wait", "process", 62000),
              ("mmap", "mmap, touch, munmap", "page", 700), ("open", "open and close", "call", 780)]


def at_place(sorted_samples, place):
    low = int(place)
    part = place - low
    high = min(low + 1, len(sorted_samples) - 1)
    return sorted_samples[low] * (1 - part) + sorted_samples[high] * part


def quartiles(samples):
    s = sorted(samples)
    return [at_place(s, (len(s) - 1) * q / 4) for q in (1, 2, 3)]


class Maker:
    def __init__(self, platform="metal", seed=1, rounds=7, counting=False, pmu=True, user_only=False):
        self.rnd, self.platform, self.rounds, self.counting, self.user_only = random.Random(seed), platform, rounds, counting, user_only
        self.counters = COUNTERS if pmu else []

    def samples(self, middle, noise):
        return [max(1, round(middle * (1 + abs(self.rnd.gauss(0, 0 if self.counting else noise))))) for _ in range(self.rounds)]

    def result(self, w, n, middle, noise, disturbed):
        ticks = self.samples(middle, noise)
        if disturbed:
            ticks[disturbed[0]] *= 3
        good = [t for i, t in enumerate(ticks) if i not in disturbed]
        first, median, third = quartiles(good)
        r = {"ticks": ticks, "median": median, "min": min(good), "max": max(good), "spread": round((third - first) / median, 4)}
        if disturbed:
            r["disturbed"] = disturbed
        if w[6]:
            r["latency_min"], r["latency_max"] = [int(t / n * 0.8) for t in ticks], [int(t / n * 2.5) for t in ticks]
        return r

    def relate(self, r, native):
        if self.platform == "qemu":
            of_rounds = [t / native["median"] for i, t in enumerate(r["ticks"]) if i not in r.get("disturbed", [])]
        else:
            bad = r.get("disturbed", []) + native.get("disturbed", [])
            of_rounds = [a / b for i, (a, b) in enumerate(zip(r["ticks"], native["ticks"])) if i not in bad]
        low, _, high = quartiles(of_rounds)
        ratio = r["median"] / native["median"]
        r.update(ratio=round(ratio, 3), ratio_low=round(min(low, ratio), 3), ratio_high=round(max(high, ratio), 3))

    def modes(self):
        out = [{"id": "native", "title": "native", "native": True, "cpus": 1}]
        if self.platform == "qemu":
            return out + [{"id": "qemu-tcg", "title": "QEMU TCG", "cpus": 1}]
        soft = {"mmu": "soft", "exit": "interrupt", "chain": True, "cpus": 1}
        out += [{"id": "soft", "title": "translated", **soft},
                {"id": "soft-poll", "title": "translated, exit=poll", **soft, "exit": "poll"},
                {"id": "soft-unchained", "title": "translated, chain=off", **soft, "chain": False}]
        if self.platform == "metal":
            out += [{"id": "native-all", "title": "native, 2 processors", "native": True, "cpus": 2},
                    {"id": "soft-all", "title": "translated, 2 processors", **soft, "cpus": 2}]
        return out

    def factor(self, w, mode):
        base = {"qemu": w[8], "hosted": w[7] * (1.12 if w[9] != "loop" else 1.005)}.get(self.platform, w[7])
        if mode == "soft-poll":
            return base * (1.25 if w[2] == "integer" else 1.03)
        return base * (3.4 if w[2] == "integer" else 1.6) if mode == "soft-unchained" else base * 1.04 if mode == "soft-all" else base

    def workload(self, w, modes):
        n = max(4, int(26e6 / w[4]))
        out = {"id": w[0], "title": w[1], "group": w[2], "unit": w[3], "n": n, "latency": bool(w[6]),
               "checksum": "0x%x" % abs(hash_of(w[0])),
               "results": {}, "missing": {}}
        for m in modes:
            if m.get("native") and self.user_only and not w[5]:
                out["missing"][m["id"]] = "needs ring 0, which a process does not have"
            elif m["cpus"] > 1 and w[2] in ("kernel", "device"):
                out["missing"][m["id"]] = "runs on one processor only"
            else:
                factor = 1 if m.get("native") else self.factor(w, m["id"])
                disturbed = [self.rounds // 2] if self.rnd.random() < 0.06 and not self.counting else []
                out["results"][m["id"]] = self.result(w, n, n * w[4] * factor, 0.004 if m.get("native") else 0.012, disturbed)
        for m in modes:
            native = out["results"].get("native-all" if m["cpus"] > 1 else "native")
            if not m.get("native") and native and m["id"] in out["results"]:
                self.relate(out["results"][m["id"]], native)
        return out

    def breakdown(self, workloads):
        out = []
        for w, made in zip(WORKLOADS, workloads):
            for m in ("soft", "soft-poll"):
                if m not in made["results"]:
                    continue
                costs = dict.fromkeys(SHARES, 0.0)
                costs["loop"], costs["interrupts"], costs["profiler"], costs["bridges"] = 0.006, 0.004, 0.004, 0.01
                costs[w[9]] += min(0.85, (w[7] - 1) / w[7] * 0.9 if w[7] >= 1 else 0.3)
                if w[2] == "kernel":
                    costs["softmmu"] += 0.07
                costs["translated"] = 1 - sum(costs.values())
                out.append(self.profile(m, w[0], int(made["results"][m]["median"]), costs))
                if self.counters and m == "soft":
                    out[-1].update(n=made["n"], counters=self.events(made["results"][m]["median"]))
                    out.append({"mode": "native", "workload": w[0], "vcpu": 0, "n": made["n"],
                                "counters": self.events(made["results"]["native"]["median"])})
        for vcpu in (0, 1) if self.platform == "metal" else ():
            costs = {**dict.fromkeys(SHARES, 0.02), "idle": 0.2 + 0.3 * vcpu, "translated": 0.6 - 0.3 * vcpu}
            out.append(self.profile("soft-all", "linux-boot", 3 * 10**9, costs))
            out[-1]["vcpu"] = vcpu
        return out

    def profile(self, mode, workload, ticks, costs):
        return {"mode": mode, "workload": workload, "vcpu": 0, "ticks": ticks, "samples": 900, "own_cost": costs["profiler"],
                "shares": {k: round(v, 6) for k, v in costs.items()}}

    def events(self, ticks):
        return {"instructions": round(ticks * 2.4), "cycles": round(ticks * 1.1), "branch-misses": round(ticks * 0.003)}

    def timed(self, ident, title, middle, more):
        ticks = self.samples(middle, 0.02)
        return {"id": ident, "title": title, **more, "ticks": ticks, "median": quartiles(ticks)[1]}

    def linux(self):
        speed = {"metal": 1, "hosted": 1.15, "qemu": 3.2}[self.platform]
        runs = []
        for mode, slower in (("qemu-tcg", 1),) if self.platform == "qemu" else (("soft", 1), ("soft-poll", 1.07)):
            f = speed * slower * 2.6e9
            runs.append({"mode": mode, "phases": [self.timed(i, t, ms * 1e-3 * f, {}) for i, t, ms in PHASES],
                         "operations": [self.timed(i, t, ns * 1e-9 * f * 1000, {"unit": u, "n": 1000}) for i, t, u, ns in OPERATIONS]})
        return {"kernel": "6.1.0-37-amd64", "runs": runs}

    def document(self):
        modes = self.modes()
        workloads = [self.workload(w, modes) for w in WORKLOADS]
        doc = {"schema": "cupel-assay/1", "complete": True,
               "cupel": {"version": "0.1", "build": "a9c0ca1", "platform": self.platform},
               "machine": {"cpu": "AMD EPYC 9B45 128-Core Processor", "vendor": "AuthenticAMD", "family": 26, "model": 2, "stepping": 1,
                           "microcode": "0xb002116", "firmware": "EDK II", "memory_mib": 1024, "cores": 2, "tsc_hz": 2600000000,
                           "tsc_invariant": True, "hypervisor": "KVMKVMKVM", "counting": self.counting},
               "started_utc": "2026-11-26T10:00:00Z", "seconds": 97.1, "rounds": self.rounds, "workload_ms": 10, "modes": modes,
               "counters": self.counters, "workloads": workloads,
               "breakdown": [] if self.platform == "qemu" else self.breakdown(workloads), "linux": self.linux(), "warnings": []}
        if self.platform == "qemu":
            doc["cupel"]["emulator"] = "QEMU 7.2.22, -accel tcg -cpu max"
        if self.counting:
            doc["warnings"].append("the clock counts instructions: QEMU runs with -icount")
        return doc


def hash_of(name):
    h = 0xcbf29ce484222325
    for c in name.encode():
        h = (h ^ c) * 0x100000001b3 % 2**64
    return h


def metal(**kw):
    return Maker("metal", **kw).document()


def hosted(**kw):
    return Maker("hosted", **{"seed": 2, "pmu": False, "user_only": True, **kw}).document()


def qemu(**kw):
    return Maker("qemu", **{"seed": 3, "pmu": False, "rounds": 3, **kw}).document()


def counting():
    return metal(seed=4, counting=True, pmu=False, rounds=2)


def sparse():
    """Cut off after a few workloads, with a mode that has no results at all."""
    doc = metal(seed=5)
    doc["complete"] = False
    doc["workloads"] = doc["workloads"][:6]
    for w in doc["workloads"]:
        del w["results"]["soft-unchained"]
    doc["breakdown"] = []
    del doc["linux"]
    return doc


def hostile():
    """Every free text tries to be markup, and is long."""
    doc = metal(seed=6)
    for w in doc["workloads"]:
        w["title"], w["unit"] = w["title"] + HOSTILE, HOSTILE
        w["missing"] = {k: HOSTILE for k in w["missing"]}
    for m in doc["modes"]:
        m["title"] += HOSTILE
    doc["machine"].update(cpu=HOSTILE + "X" * 300, firmware=HOSTILE, hypervisor=HOSTILE)
    doc["cupel"].update(version=HOSTILE, build="long" * 40)
    for run in doc["linux"]["runs"]:
        for x in run["phases"] + run["operations"]:
            x["title"] = HOSTILE
    doc["linux"]["kernel"], doc["warnings"] = HOSTILE, [HOSTILE, "word" * 200]
    return doc


def on_stick(doc, size=1 << 20):
    """The bytes as they lie on a stick: blanks up to the file's size."""
    return json.dumps(doc).encode().ljust(size)
