#!/usr/bin/env python3
"""House rules that a compiler does not know, and those that it does. Each finding is one line; the exit code says whether there was one.

Usage: tools/lint.py [--fast]     (--fast leaves out the compilers)
  - layering over the includes (DESIGN: the house);
  - every header opens with #pragma once (after its comment) and compiles alone, with gcc and clang;
  - every source compiles with clang too, with the build's warnings;
  - no include cycles; both machines are x86-64, so a name says guest or host;
  - every function by which somebody else reaches a device asserts who holds the big lock, or owns the device;
  - no mutable non-static global data in C sources; spaces, no trailing blanks, a newline at the end;
  - no comment above 140 columns, in scripts and makefiles neither; (report only) code above that, what clang-format would change;
  - a source opens with a comment that says what it is.
"""
import concurrent.futures
import os
import re
import shutil
import subprocess
import sys

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
CODE = ("assay", "boot", "kernel", "hosted", "tcg", "devices", "tests")
COLUMNS = 140
SCRIPTS = ("Makefile", "metal.mk", "linker.ld", ".ci", "assay", "tools", "tests")
COMMENT = re.compile(r"\s*(?://|#(?!\s*(?:define|include|if|error)))|.*[;,{}]\s+(?://|/\*)")   # a line that is one, or ends in one
WARN = ["-Wall", "-Wextra", "-Werror", "-Wshadow", "-Wmissing-prototypes", "-Wstrict-prototypes", "-Wno-unused-parameter"]
EFI = ["-isystem", "/usr/include/efi", "-isystem", "/usr/include/efi/x86_64", "-fshort-wchar", "-DGNU_EFI_USE_MS_ABI"]
NEWLIB = ["-isystem", "build/newlib/x86_64-elf/include", "-ffreestanding"]
INCLUDE = re.compile(r'^\s*#\s*include\s+([<"])([^>"]+)[>"]', re.M)
# A branch has a target; a machine is guest or host.
BANNED = re.compile(r"\btarget[ _-](?:machine|cpu|arch\w*|isa|code|system|memory|page|register|u?long|insn|instruction|os|ram)\w*|\bTARGET_\w+", re.I)
BASE = ("kernel/base/",)

# Who may include what: (directory, allowed prefixes, why). The first row that fits a file counts.
LAYERS = [
    ("devices/load", ("kernel/plat.h", "kernel/machine.h", *BASE, "devices/", "tcg/phys.h", "tcg/irq.h"), "the loaders take machine.h's struct blob"),
    ("devices/", ("kernel/plat.h", *BASE, "devices/", "tcg/phys.h", "tcg/irq.h"), "devices see the platform contract, tcg/phys.h and tcg/irq.h"),
    ("tcg/", ("kernel/plat.h", *BASE, "tcg/"), "tcg sees the platform contract and itself"),
    ("kernel/base/", BASE + ("kernel/plat.h",), "kernel/base are leaves"),
    ("kernel/multiboot.c", ("kernel/", "boot/config.h"), "the BIOS PC's loader reads the same cupel.conf as the UEFI one"),
    ("kernel/machine_cores", ("kernel/", "tcg/run/vcpu.h", "devices/clock.h"), ""),
    ("kernel/machine_profile", ("kernel/", "tcg/run/vcpu.h", "devices/clock.h"), ""),
    ("kernel/machine.c", ("kernel/", "tcg/", "devices/"), ""),
    ("kernel/", ("kernel/", "assay/assay.h", "assay/console.h", "tcg/run/vcpu.h", "devices/block.h", "boot/boot_info.h"), "kernel knows no guest and no device of it; machine.c does"),
    ("hosted/", ("hosted/", "assay/assay.h", "assay/console.h", "kernel/plat.h", "kernel/machine.h", *BASE, "tcg/run/vcpu.h", "devices/block.h"), "hosted knows no guest and no device of it; devices/block.h is a contract that it implements"),
    ("boot/", ("boot/", "kernel/boot_info.h", *BASE), "boot shares boot_info.h with kernel"),
    ("assay/guest/", ("assay/abi.h", "assay/guest/", *BASE), "the payload is a machine's kernel of its own; of the rest it sees assay/abi.h"),
    ("assay/linux/", (*BASE, "assay/linux"), "a program of the guest's, without a C library"),
    ("assay/linux_", (*BASE, "assay/linux_"), "read hosted, on metal and in tests"),
    ("assay/", ("assay/", "kernel/plat.h", "kernel/machine.h", "tcg/run/profile.h", *BASE), "the assay sees the platform contract and the machine"),
    ("tests/", ("",), ""),
]
# Inside tcg/: the layers below know nothing of a guest architecture.
GUEST_FREE = ("tcg/ir/", "tcg/run/", "tcg/host/", "tcg/phys.h", "tcg/irq.h")

problems = []
long_lines = []


def say(path, line, text):
    problems.append(f"{path}:{line}: {text}")


def files():
    for top in CODE:
        for d, _, names in os.walk(os.path.join(ROOT, top)):
            for n in sorted(names):
                if n.endswith((".c", ".h", ".S", ".def")):
                    yield os.path.relpath(os.path.join(d, n), ROOT)


def scripts():
    for top in SCRIPTS:
        path = os.path.join(ROOT, top)
        walk = [(ROOT, [], [top])] if os.path.isfile(path) else os.walk(path)
        for d, _, names in walk:
            for n in sorted(names):
                if n.endswith((".py", ".mk", ".sh", ".awk", ".ld")) or n in ("Makefile", "run", "report"):
                    yield os.path.relpath(os.path.join(d, n), ROOT)


def columns_check(path, text):
    for i, l in enumerate(text.split("\n"), 1):
        if len(l) <= COLUMNS:
            continue
        if COMMENT.match(l):
            say(path, i, f"a comment above {COLUMNS} columns: wrap it")
        elif not path.endswith(".def"):
            long_lines.append(f"{path}:{i}")


def strip_comments(text):
    """Comments and strings blanked, newlines kept."""
    blank = lambda m: re.sub(r"[^\n]", " ", m.group(0))
    return re.sub(r'//[^\n]*|/\*.*?\*/|"(?:\\.|[^"\\\n])*"|\'(?:\\.|[^\'\\\n])*\'', blank, text, flags=re.S)


def line_of(text, pos):
    return text.count("\n", 0, pos) + 1


def includes_check(path, text):
    found = []
    for m in INCLUDE.finditer(text):
        kind, name = m.groups()
        at = line_of(text, m.start())
        if name.startswith("efi") and not path.startswith("boot/"):
            say(path, at, f"only boot/ includes <{name}>")
        if kind == "<":
            if path.startswith(("devices/", "tcg/", "kernel/base/")) and name not in (
                    "stdint.h", "stdbool.h", "stddef.h", "stdarg.h", "string.h", "limits.h", "cpuid.h", "errno.h"):
                say(path, at, f"<{name}> is not for devices/, tcg/ and kernel/base/: they know no host system")
            continue
        found.append(name)
        if not os.path.exists(os.path.join(ROOT, name)):
            if not path.startswith("tests/"):     # tests include what is generated
                say(path, at, f'"{name}" does not exist; includes are written from the root')
            continue
        for prefix, allowed, why in LAYERS:
            if path.startswith(prefix):
                if not name.startswith(allowed):
                    say(path, at, f'may not include "{name}": {why}')
                break
        if path.startswith(GUEST_FREE) and name.startswith("tcg/guest/"):
            say(path, at, f'may not include "{name}": this layer serves every guest architecture')
    return found


def cycles_check(graph):
    state = {}

    def visit(n, trail):
        state[n] = 1
        for m in graph.get(n, ()):
            if state.get(m) == 1:
                say(n, 1, "include cycle: " + " -> ".join(trail[trail.index(m):] + [m] if m in trail else [n, m]))
            elif m not in state:
                visit(m, trail + [m])
        state[n] = 2

    for n in list(graph):
        if n not in state:
            visit(n, [n])


def text_check(path, text):
    for i, l in enumerate(text.split("\n"), 1):
        if l.rstrip() != l:
            say(path, i, "blanks at the end of the line")
        if "\t" in l and not path.endswith(".S"):
            say(path, i, "a tab")
    if text and not text.endswith("\n"):
        say(path, 1, "no newline at the end")
    if not re.match(r"\s*(//|/\*|#\s*[A-Z])", text):
        say(path, 1, "opens without a comment that says what it is")
    if path.endswith(".h") and "#pragma once" not in text:
        say(path, 1, "no #pragma once")
    code = strip_comments(text)
    for m in BANNED.finditer(text):
        say(path, line_of(text, m.start()), f"'{m.group(0)}': both machines are x86-64; say guest or host")
    for m in re.finditer(r"^(?!static|extern|const|typedef|struct \w+ \{|enum|union|#|return|goto|case)([A-Za-z_][\w ]*[\w*] \**)(\w+)(\[[^\]]*\])*\s*(=|;)",
                         code, re.M):
        if path.endswith(".c") and not path.startswith("tests/") and "const" not in m.group(1) and "(" not in m.group(0) and "typedef" not in m.group(1):
            say(path, line_of(text, m.start()), f"'{m.group(2)}' is a mutable global; make it static")


# Non-static functions of devices/ that assert neither the BQL nor ownership, and why they need not. Callbacks are asserted by those who
# call them: the dispatcher of accesses, clocks_run_expired, irq_set.
LOCK_FREE = [
    (r"\w+_(new|init)|vlapic_bus_add|pci_(bar|cap)_add|rtc_set_(cmos|memory)|hpet_set_legacy|lapic_set_(pic|tsc)|timer_init_named|clocks_init",
     "building and wiring, before the first vCPU runs; what they add to the memory map is asserted there"),
    (r"clock_ns|\w+_pin|\w+_enabled|\w+_running|\w+_driven|\w+_translates|rtc_nmi_masked|vlapic_of", "reads"),
    (r"lapic_deliver|lapic_msi", "posts to vCPUs: any context, no lock"),
    (r"pci_msix_notify|virtio_fail|virtio_blk_serve", "of a data plane too: a lock of its own, atomics, a queue that is its thread's"),
    (r"vlapic_\w+", "from lapic.c's entry points, which assert the owner"),
]
LOCK_FILES = re.compile(r"devices/(?!aml|acpi_tables|load)\w+\.c$")    # the others write tables and images into guest memory
FUNCTION = re.compile(r"^(?!static)[a-z][\w \*]*?\b(\w+)\([^;{]*\)\n\{\n(.*?)^\}", re.M | re.S)
ASSERTS_LOCK = re.compile(r"DEVICE_LOCKED\(\)|VIRTIO_LOCKED\(|ASSERT\(bql_held\(\)|LAPIC_OWNED\(|\bbql_lock\(\)")


def lock_check(path, text):
    if not LOCK_FILES.match(path):
        return
    for m in FUNCTION.finditer(text):
        name, body = m.groups()
        if not ASSERTS_LOCK.search(body) and not any(re.fullmatch(rx, name) for rx, _ in LOCK_FREE):
            say(path, line_of(text, m.start()), f"{name} changes a device, but does not assert who may: DEVICE_LOCKED()")


# ---- the compilers ------------------------------------------------------------------------------------------------------

def flags_for(path, alone):
    f = ["-std=gnu11", "-O1", "-I.", *WARN, "-fno-strict-aliasing", "-fsyntax-only"]
    if path.startswith("boot/") :
        f += EFI
    elif path.startswith("kernel/") and not path.startswith(("kernel/base/", "kernel/machine")):
        f += NEWLIB + ["-mno-red-zone"]
    if not path.startswith(("tests/", "assay/guest/fp_")):
        f += ["-mgeneral-regs-only"]
    if path.startswith("tests/insn/") or path.startswith("tests/ir/"):
        f += ["-Ibuild/tests/insn"]
    return f + (["-x", "c", "-Wno-unused-function"] if alone else [])


def compile_one(cc, path):
    header = path.endswith(".h")
    extra = ["-Wno-unknown-warning-option", "-Wno-unused-const-variable"] if cc == "clang" else []
    ident = ['-DCUPEL_VERSION="0"', '-DCUPEL_BUILD="lint"']
    if header:
        p = subprocess.run([cc, *flags_for(path, True), *extra, *ident, "-include", path, "-"], input=b"", cwd=ROOT, capture_output=True)
    else:
        p = subprocess.run([cc, *flags_for(path, False), *extra, *ident, path], cwd=ROOT, capture_output=True)
    if p.returncode == 0:
        return []
    lines = [l for l in p.stderr.decode(errors="replace").splitlines() if re.search(r"(error|warning):", l)]
    kind = "does not compile alone" if header else "does not compile"
    return [f"{path}:1: {kind} with {cc}: {l}" for l in lines[:3] or ["(no message)"]]


def compilers_check(paths):
    jobs = []
    for cc in ("gcc", "clang"):
        if not shutil.which(cc):
            print(f"lint: no {cc}: its checks are left out")
            continue
        for p in paths:
            if p.endswith(".h") or (p.endswith(".c") and cc == "clang"):
                if "build/newlib" in " ".join(flags_for(p, False)) and not os.path.isdir(os.path.join(ROOT, "build/newlib/x86_64-elf/include")):
                    continue
                if p.startswith("tests/insn/") and not os.path.exists(os.path.join(ROOT, "build/tests/insn/rows.inc")):
                    continue
                jobs.append((cc, p))
    with concurrent.futures.ThreadPoolExecutor(os.cpu_count() or 1) as pool:
        for found in pool.map(lambda j: compile_one(*j), jobs):
            problems.extend(found)


def format_report(paths):
    """clang-format decides nothing, it only counts: tables and short bodies are laid out by hand."""
    if not shutil.which("clang-format"):
        return
    c = [p for p in paths if p.endswith((".c", ".h"))]
    p = subprocess.run(["clang-format", "--dry-run", *c], cwd=ROOT, capture_output=True, text=True)
    n = p.stderr.count("warning:")
    print(f"lint: clang-format would change {n} places in {len(c)} files (report only)")


def main():
    paths = list(files())
    graph = {}
    for path in paths:
        with open(os.path.join(ROOT, path), encoding="utf-8") as f:
            text = f.read()
        graph[path] = includes_check(path, text)
        text_check(path, text)
        lock_check(path, text)
        columns_check(path, text)
    for path in scripts():
        with open(os.path.join(ROOT, path), encoding="utf-8") as f:
            columns_check(path, f.read())
    cycles_check(graph)
    if "--fast" not in sys.argv[1:]:
        compilers_check(paths)
        format_report(paths)
    if long_lines:
        print(f"lint: {len(long_lines)} lines of code above {COLUMNS} columns (report only)")
    for p in problems:
        print(p)
    print(f"{len(paths)} passed, 0 failed" if not problems else
          f"{len(paths) - len({p.split(':')[0] for p in problems})} passed, {len(problems)} failed")
    sys.exit(1 if problems else 0)


main()
