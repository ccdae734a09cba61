#!/usr/bin/env python3
"""Several vCPUs: Linux boots on them, programs that need them to be right (tests/boot/smp/) run there, and the machine as a whole stands still,
goes on, is reset and ends.

The programs run on the bare processor first, which tells a wrong check from a wrong emulator. CUPEL_SMP_SECONDS=N makes each kind of stress
last about N seconds (default 3) and the counted ones as much longer; ROUNDS=N in the environment repeats all of it."""
import os
import re
import subprocess
import time

from linux import BAD, shell_checks
from machine import BUILD, GUEST, PROMPT, SLOW, case, check, finish, hosted, initrd_with

SMP = os.path.join(BUILD, "tests", "smp")
CUPEL = os.environ.get("CUPEL", os.path.join(BUILD, "cupel"))
SECONDS = float(os.environ.get("CUPEL_SMP_SECONDS", "3"))
ROUNDS = int(os.environ.get("ROUNDS", "1"))
MS = int(SECONDS * 1000)
APPEND = "console=ttyS0 panic=-1"
INITRD = initrd_with({"bin/smp": SMP})


def boot(cpus, accel, log, *args, append=APPEND):
    m = hosted("-kernel", os.path.join(GUEST, "vmlinuz"), "-initrd", INITRD, "-append", append, "-m", "512", "-nographic", "-smp", str(cpus),
               *(("-accel", f"tcg,{accel}") if accel else ()), *args, log=log)
    m.login()
    print(f"{log}: prompt after {time.monotonic() - m.start:.1f} s", flush=True)
    return m


def run(m, what, name):
    """One part of the guest program: (its output)."""
    start = time.monotonic()
    out, code = m.shell(f"smp {what}", 300 + 20 * SECONDS)
    check(f"{name}: smp {what}", code == 0 and "FAIL" not in out and " 0 failures" in out, out)
    print(f"{name}: smp {what}: {time.monotonic() - start:.1f} s\n  " + "\n  ".join(out.split("\n")[:-1]), flush=True)
    return out


def parts(m, name, scale, beside):
    """All parts. beside: the vCPUs have a core each. Where they have not, little is reordered."""
    ms = MS * scale
    out = run(m, f"litmus {int(ms * (2 if beside else 1))}", name)
    if beside and re.search(r"^SB +0 of", out, re.M):
        print(f"WARN {name}: stores were never overtaken by loads, which the processor allows", flush=True)
    run(m, f"atomics {int(SECONDS / 3 * scale * 20000)}", name)
    run(m, f"code {int(ms / 5)}", name)
    run(m, f"shootdown {int(ms / 5)}", name)
    run(m, f"stress {int(ms * 2)}", name)


def check_dmesg(m, name):
    # A host that has no time for a whole period of the RTC makes the guest note a lost interrupt of it: true, and no matter of processors.
    out, _ = m.shell("dmesg", 120)
    bad = [x for x in out.splitlines() if BAD.search(x)]
    check(f"{name}: dmesg", len(out) > 1000 and not bad, "\n".join(bad[:8]) or out[:200])


def end(m, name):
    check_dmesg(m, name)
    m.send("poweroff\n")
    check(f"{name}: poweroff", m.wait(60) == 0, f"{m.proc.returncode}: {m.text[-2000:]}")


def count(m, cpus, name):
    out, _ = m.shell("nproc; grep -c ^processor /proc/cpuinfo; cat /sys/devices/system/cpu/online")
    check(f"{name}: {cpus} processors", out.split()[:2] == [str(cpus)] * 2, out)


def test_native():
    for what in ("litmus 500", "atomics 5000", "code 100", "shootdown 100", "stress 500"):
        p = subprocess.run([SMP, *what.split()], capture_output=True, text=True, timeout=300)
        check(f"native: smp {what}", p.returncode == 0 and "FAIL" not in p.stdout, f"{p.returncode}: {p.stdout}{p.stderr}")


def test_race(cpus, accel=None):
    """race.S: vCPUs that race without an operating system, for the same code page among other things."""
    name = f"race, {cpus} vCPUs" + (f", {accel}" if accel else "")
    argv = [CUPEL, "-kernel", os.path.join(BUILD, "tests", "race.elf"), "-append", f"cpus={cpus}", "-smp", str(cpus), "-m", "64", "-nographic",
            "-no-reboot", "-device", "isa-debug-exit,iobase=0xf4,iosize=0x04", *(("-accel", f"tcg,{accel}") if accel else ())]
    try:
        p = subprocess.run(argv, stdin=subprocess.DEVNULL, capture_output=True, timeout=120 * SLOW)
        check(name, p.returncode == 0x21 and p.stdout.count(b"phase ") == 8, f"exit code {p.returncode}: {p.stdout}")
    except subprocess.TimeoutExpired as e:
        check(name, False, f"does not end: {e.stdout}")


def test_engine(cpus, accel, scale, whole=False):
    name = f"{cpus} vCPUs" + (f", {accel}" if accel else "")
    m = boot(cpus, accel, name.replace(", ", "-"), "-no-reboot")
    count(m, cpus, name)
    if whole:
        shell_checks(m)
    parts(m, name, scale, cpus <= len(os.sched_getaffinity(0)) and accel != "thread=single")
    end(m, name)


def test_processors(processors, told=None):
    """Four vCPUs where the host gives fewer processors: they take turns without being told. Where it does not tell (a quota, taskset later on),
    each has a thread of its own."""
    allowed = os.sched_getaffinity(0)
    name = f"{processors} processor{'s' if processors > 1 else ''}" + (f", told of {told}" if told else "")
    os.sched_setaffinity(0, set(sorted(allowed)[:processors]))
    if told:
        os.environ.update(LD_PRELOAD=os.path.join(BUILD, "tests", "processors.so"), PROCESSORS=str(told))
    try:
        m = boot(4, None, name.replace(", ", "-").replace(" ", "-"), "-no-reboot")
    finally:
        os.sched_setaffinity(0, allowed)
        os.environ.pop("LD_PRELOAD", None)
    m.send("\x01c")
    m.expect(r"\(cupel\) ")
    out = monitor(m, "info sync-profile")
    m.send("\x01c")
    check(f"{name}: {told or processors} threads run vCPUs", len(re.findall(r"^core \d+", out, re.M)) == (told or processors), out)
    count(m, 4, name)
    run(m, f"stress {MS // 5}", name)
    end(m, name)


def test_offline():
    """INIT and SIPI while the others run: processors leave and come back."""
    m = boot(3, None, "offline", "-no-reboot")
    for n in range(3):
        out, code = m.shell("for i in 1 2; do echo 0 >/sys/devices/system/cpu/cpu$i/online; done; nproc; "
                            "for i in 2 1; do echo 1 >/sys/devices/system/cpu/cpu$i/online; done; nproc")
        check(f"offline {n}", code == 0 and out.split() == ["1", "3"], out)
    end(m, "offline")


def monitor(m, command):
    """Types a monitor command; its output."""
    m.send(command + "\r")
    m.expect(re.escape(command) + r"\s*\n")
    begin = m.at
    m.expect(r"\(cupel\) ")
    return m.text[begin:m.at]


def test_whole():
    """The machine as a whole, while its processors work."""
    m = boot(4, None, "whole")
    m.send("smp stress 600000 >/dev/null &\n")
    m.expect(PROMPT)
    m.send("\x01c")
    m.expect(r"\(cupel\) ")
    out = monitor(m, "info registers")
    check("info registers shows all", all(f"CPU#{n}" in out for n in range(4)) and len(re.findall("RIP=", out)) == 4, out)
    m.send("\x01c")
    up = lambda: float(re.search(r"([\d.]+) ", m.shell("cat /proc/uptime")[0]).group(1))    # noqa: E731
    for n in range(5):
        before, t0 = up(), time.monotonic()
        m.send("\x01c")
        monitor(m, "stop")
        time.sleep(3 if n == 0 else 0.2)
        if n == 0:
            ticks = lambda: sum(int(x) for x in open(f"/proc/{m.proc.pid}/stat").read().rsplit(")", 1)[1].split()[11:13])    # noqa: E731
            a = ticks()
            time.sleep(1)
            check("stopped: nothing runs", ticks() - a < 20, f"{ticks() - a} ticks")
        monitor(m, "cont")
        m.send("\x01c")
        after, took = up(), time.monotonic() - t0
        stood = 4 if n == 0 else 0.2
        check(f"stop {n}: the guest's time stood still", after - before < took - stood + 1.2, f"guest {after - before:.2f} s, here {took:.2f} s")
    check_dmesg(m, "whole")
    m.send("reboot\n")
    m.login()
    count(m, 4, "after reboot under load")
    m.send("smp stress 600000 >/dev/null &\n")
    m.expect(PROMPT)
    m.send("\x01c")
    m.expect(r"\(cupel\) ")
    monitor(m, "system_reset")
    m.send("\x01c")
    m.login()
    count(m, 4, "after a reset from the monitor")
    m.send("smp stress 600000 >/dev/null &\n")
    m.expect(PROMPT)
    time.sleep(0.5)
    end(m, "under load")


for _ in range(ROUNDS):
    case(test_native)
    for accel in (None, None, "exit=poll", "chain=off", "thread=single"):
        case(test_race, 2, accel)
    case(test_race, 4)
    case(test_engine, 4, None, 0.6, whole=True)
    case(test_engine, 2, None, 0.6)
    case(test_engine, 2, "thread=single", 0.2)
    case(test_engine, 2, "exit=poll", 0.2)
    case(test_engine, 2, "chain=off", 0.1)
    case(test_engine, 2, "tb-size=4", 0.1)
    case(test_processors, 1)
    if len(os.sched_getaffinity(0)) > 2:         # else it is what test_engine(4) did
        case(test_processors, 2)
    case(test_processors, min(2, len(os.sched_getaffinity(0))), 4)
    case(test_offline)
    case(test_whole)
finish()
