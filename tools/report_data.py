"""What tools/report knows: files become sources, their translated modes series, and workloads with the same id rows that all files share.

A source's label is made of what distinguishes it from the other files; a series' label adds the mode where that is not the source's
first. The first source's first translated mode with one processor is the subject: headline, numbers and the order of everything are
its.
"""
import math
import os
import re

import assay_check

SHARES = ("translated", "bridges", "translation", "softmmu", "helpers", "exceptions", "devices", "interrupts", "waiting", "idle", "loop",
          "profiler")
SHARE_NAMES = {**{k: k for k in SHARES}, "translated": "translated code", "translation": "translating", "softmmu": "softmmu misses",
               "interrupts": "host's interrupts", "loop": "execution loop"}
SHARE_DOING = {**SHARE_NAMES, "interrupts": "the host's interrupts", "loop": "the execution loop", "idle": "idling", "bridges":
               "the bridges between translated code and C", "profiler": "measuring this"}
SHARE_MEANING = {
    "translated": "the guest's instructions as host code, with the softmmu's inline lookups in them",
    "translation": "decoding, optimising, emitting; finding and dropping translations",
    "bridges": "the ways from translated code to C functions and back",
    "softmmu": "lookups that missed: walking page tables, filling the TLB, accesses that cross pages or hit written code",
    "helpers": "C functions for instructions that are not translated", "exceptions": "delivering exceptions and interrupts to the guest",
    "devices": "accesses to emulated devices", "interrupts": "the host's: timers, input, kicks from other processors",
    "waiting": "for other vCPUs, the big lock, a core", "idle": "the guest waits in HLT",
    "loop": "between translations: looking up what comes next, chaining", "profiler": "the cost of finding this out",
}
GROUP_WORDS = {"integer": "integer code", "system": "locked and special instructions", "memory": "memory accesses", "code": "freshly written code", "kernel": "kernel work",
               "device": "devices"}
# Workloads that a hypervisor serves where they run natively: CPUID causes VM exits always (SDM 3C 25.1.2), ports and memory-mapped
# devices are emulated. What a virtual machine's "native" takes for them is the hypervisor's time, and a ratio to that would say nothing.
INTERCEPTED = {"cpuid", "port", "mmio", "mmio-write", "lapic"}
HYPERVISORS = {"KVMKVMKVM": "KVM", "TCGTCGTCGTCG": "QEMU TCG", "VMwareVMware": "VMware", "Microsoft Hv": "Hyper-V", "XenVMMXenVMM": "Xen",
               "VBoxVBoxVBox": "VirtualBox", "bhyve bhyve ": "bhyve", "ACRNACRNACRN": "ACRN"}


# ---- figures as text --------------------------------------------------------------------------------------------------

def digits(x, n=3):
    """A number with n significant digits, without an exponent."""
    if x == 0:
        return "0"
    after = max(0, n - 1 - math.floor(math.log10(abs(x)) + 1e-9))
    text = f"{x:.{after}f}"
    if float(text) != 0 and after and math.floor(math.log10(abs(float(text))) + 1e-9) > math.floor(math.log10(abs(x)) + 1e-9):
        text = f"{x:.{after - 1}f}"      # 9.996 became 10.00
    return text


def times(x):
    """A ratio: three significant digits, but at most two decimals."""
    return ("<0.01" if x < 0.01 else f"{x:.2f}" if x < 1 else digits(x)) + "\u202f×"


def whole(x):
    """An integer with narrow blanks between thousands."""
    return f"{round(x):,}".replace(",", "\u202f")


def duration(ns):
    for unit, size in (("s", 1e9), ("ms", 1e6), ("µs", 1e3)):
        if ns >= size * 0.9995:
            return f"{digits(ns / size)}\u202f{unit}"
    return f"{digits(ns)}\u202fns"


def percent(part):
    return f"{part * 100:.0f}\u202f%" if part >= 0.0995 else f"{part * 100:.1f}\u202f%"


def listing(items):
    return items[0] if len(items) == 1 else ", ".join(items[:-1]) + " and " + items[-1]


def cut(text, most=60):
    return text if len(text) <= most else text[:most - 1] + "…"


def geomean(values):
    return math.exp(sum(map(math.log, values)) / len(values))


# ---- sources ----------------------------------------------------------------------------------------------------------

def cpu_name(machine):
    """The brand string without what says nothing."""
    text = re.sub(r"\((R|TM|r|tm)\)|@.*$|\bCPU\b|\bProcessor\b|\b\d+-Core\b|with Radeon.*$", " ", machine["cpu"])
    return cut(" ".join(text.split()) or machine["cpu"])


def hypervisor_name(machine):
    name = machine.get("hypervisor")
    return HYPERVISORS.get(name, name) and cut(HYPERVISORS.get(name, name), 30)


def platform_name(doc):
    if doc["cupel"]["platform"] == "qemu":
        return "QEMU TCG"
    name = "Cupel hosted" if doc["cupel"]["platform"] == "hosted" else \
        "Cupel as OS" if "hypervisor" in doc["machine"] else "Cupel on bare metal"
    return name + (" (counts)" if doc["machine"]["counting"] else "")      # never to be taken for times


DISTINCTIONS = (        # in this order, as far as they tell files apart
    platform_name,
    lambda d: cpu_name(d["machine"]),
    lambda d: f"in {hypervisor_name(d['machine'])}" if "hypervisor" in d["machine"] else "no hypervisor",
    lambda d: cut(f"{d['cupel']['version']} {d['cupel']['build']}", 30),
    lambda d: cut(d["cupel"].get("emulator", ""), 40),
    lambda d: cut("microcode " + d["machine"].get("microcode", "unknown")),
    lambda d: cut(d["machine"].get("firmware", "no firmware"), 30),
    lambda d: f"{d['machine']['cores']} cores",
    lambda d: f"{d['machine']['memory_mib']} MiB",
    lambda d: d.get("started_utc", "no date").replace("T", " ").rstrip("Z"),
)


def labels(docs, paths):
    """A label per file: the platform, then only what tells the files apart."""
    parts = [[platform_name(d)] for d in docs]
    for of in DISTINCTIONS[1:]:
        named = [p + [of(d)] for p, d in zip(parts, docs)]
        if len({tuple(p) for p in named}) > len({tuple(p) for p in parts}):
            parts = named
    names = [", ".join(p) for p in parts]
    for i, name in enumerate(names):
        same = [k for k, n in enumerate(names) if n == name]
        if len(same) > 1:
            for number, k in enumerate(same, 1):
                names[k] = f"{name}, {cut(os.path.basename(paths[k]), 30)} #{number}"
    return names


def group_words(group):
    """A group's name in a sentence."""
    return GROUP_WORDS.get(group, cut(group, 40))


class Source:
    def __init__(self, index, path, doc):
        self.index, self.path, self.doc, self.label = index, path, doc, ""
        self.machine, self.cupel = doc["machine"], doc["cupel"]
        self.counting = self.machine["counting"]
        self.modes = {m["id"]: m for m in doc.get("modes", ())}
        self.translated = [m for m in self.modes.values() if not m.get("native")]
        self.workloads = {w["id"]: w for w in doc.get("workloads", ())}

    def first_mode(self):
        return next((m for m in self.translated if m["cpus"] == 1), None) or (self.translated or [None])[0]

    def native_of(self, mode):
        return next((m["id"] for m in self.modes.values() if m.get("native") and m["cpus"] == mode["cpus"]), None)

    def time(self, ticks):
        """Ticks as text: nanoseconds, or what was counted."""
        return f"{digits(ticks)} instr." if self.counting else duration(ticks * 1e9 / self.machine["tsc_hz"])


class Series:
    def __init__(self, source, mode, alone):
        first = mode is source.first_mode()
        title = cut(mode["title"], 60)
        if not alone and not first and title.startswith(source.first_mode()["title"] + ", "):
            title = title[len(source.first_mode()["title"]) + 2:]      # "translated, polling" beside "translated"
        self.source, self.mode, self.first, self.key = source, mode, first, ""
        plain = alone or source.cupel["platform"] == "qemu"      # (whose other mode is no mode of QEMU)
        self.label = source.label if first and not alone else title if plain else f"{source.label}, {title}"

    def results(self, workload_id):
        """(workload, native result or None, result or None) of this series."""
        w = self.source.workloads.get(workload_id)
        if not w:
            return None, None, None
        return w, w["results"].get(self.source.native_of(self.mode)), w["results"].get(self.mode["id"])

    def ratios(self, workload_id):
        """(ratio, lower, upper quartile) or None. From the samples: the file has three decimals."""
        _, native, r = self.results(workload_id)
        if not native or not r or self.intercepted(workload_id):
            return None
        return assay_check.ratios(r, native, self.source.cupel["platform"] == "qemu")

    def intercepted(self, workload_id):
        """Is the native figure that of a hypervisor?"""
        return "hypervisor" in self.source.machine and not self.source.counting and workload_id in INTERCEPTED

    def ratio(self, workload_id):
        found = self.ratios(workload_id)
        return found and found[0]

    def shares(self, workload_id):
        """How its time divides, over all its vCPUs by their ticks; None: not measured."""
        parts = [b for b in self.source.doc.get("breakdown", ()) if b["mode"] == self.mode["id"] and b["workload"] == workload_id
                 and "shares" in b]
        total = sum(b["ticks"] for b in parts)
        return {k: sum(b["shares"][k] * b["ticks"] for b in parts) / total for k in SHARES} if parts else None

    def counted_events(self, workload_id, mode_id):
        """{counter: events per unit of work} in a mode of this series' source."""
        b = next((b for b in self.source.doc.get("breakdown", ())
                  if (b["mode"], b["workload"]) == (mode_id, workload_id) and "counters" in b), None)
        return {k: v / b["n"] for k, v in b["counters"].items()} if b else {}


class Report:
    def __init__(self, files):
        """files: [(path, checked document)]"""
        self.sources = [Source(i, p, d) for i, (p, d) in enumerate(files)]
        for s, name in zip(self.sources, labels([d for _, d in files], [p for p, _ in files])):
            s.label = name
        alone = len(self.sources) == 1
        every = [Series(s, m, alone) for s in self.sources for m in s.translated]
        self.series = sorted(every, key=lambda x: not x.first)       # stable: the first modes get the clearest colours
        for i, x in enumerate(self.series):
            x.key = f"s{i}"
        self.shown = [x for x in self.series if x.first]
        self.subject = self.series[0] if self.series else None
        self.rows, self.groups = {}, {}
        for s in self.sources:
            for w in s.doc.get("workloads", ()):
                if w["id"] not in self.rows:
                    self.rows[w["id"]] = w
                    self.groups.setdefault(w["group"], []).append(w["id"])

    def mean(self, series, group):
        """(geometric mean of a group's ratios or None, how many there are, of how many)"""
        ids = [i for i in self.groups[group] if not series.intercepted(i)]
        found = [r for r in map(series.ratio, ids) if r]
        return (geomean(found) if found else None), len(found), len(ids)

    def mean_shares(self, series, group):
        """The breakdowns' mean: each workload counts the same."""
        found = [s for s in map(series.shares, self.groups[group]) if s]
        return {k: sum(s[k] for s in found) / len(found) for k in SHARES} if found else None

    def system_call(self):
        """(title, ratio) of the workload that is a system call, or None."""
        for i, w in self.rows.items():
            if re.search(r"syscall|sysenter|getpid", i) and self.subject.ratio(i):
                return w["title"], self.subject.ratio(i)
        return None

    def counted(self):
        return any(s.counting for s in self.sources)

    def warnings(self):
        """[(source or None, text)]"""
        out = []
        for s in self.sources:
            if not s.doc["complete"]:
                out.append((s, "The run was cut off: only what it had measured until then is here."))
            if not s.machine["tsc_invariant"] and not s.counting:
                out.append((s, "The TSC is not invariant: ticks may not be of the same length all the time."))
            out += [(s, w) for w in s.doc.get("warnings", ())]
        return out
