#!/usr/bin/env python3
"""Hosted: where the serial port can go (pty, null), the monitor's commands on a running guest, and what -d writes."""
import os
import re
import time

from machine import BUILD, PROMPT, Machine, Timeout, case, check, finish, guest_args, hosted, log_path, profile_adds_up, profile_rows

APPEND = ("-append", "console=ttyS0 panic=-1")
MONITOR = r"\(cupel\) "


class Pty(Machine):
    """The other end of a pseudo-terminal that the emulator has opened."""

    def __init__(self, path, log):
        self.text, self.at, self.tail = "", 0, b""
        self.fd = os.open(path, os.O_RDWR | os.O_NOCTTY)
        self.log = open(log_path(log), "wb")


def command(m, text):
    """One monitor command; its answer."""
    m.send(text + "\r")
    m.expect(re.escape(text) + r"\n")
    begin = m.at
    end = m.expect(MONITOR).start()
    return m.text[begin:end]


def test_pty():
    m = hosted(*guest_args(), *APPEND, "-no-reboot", "-serial", "pty", log="pty-monitor")
    tty = Pty(m.expect(r"serial port on (/dev/pts/\d+)", 30).group(1), "pty")
    m.expect(MONITOR, 30)
    tty.login()
    out, _ = tty.shell("echo $((6 * 7)); seq 1 5000")
    check("-serial pty", out.split() == ["42"] + [str(i) for i in range(1, 5001)], out[-200:])
    check("-serial pty: the terminal is the monitor", "Linux" not in m.text and "code cache" in command(m, "info jit"), m.text[-300:])
    tty.send("poweroff\n")
    check("-serial pty: poweroff", m.wait(60) == 0, m.proc.returncode)


def test_null():
    m = hosted(*guest_args(), *APPEND, "-no-reboot", "-serial", "null", log="null")
    m.expect(MONITOR, 30)
    def translated():
        return int(re.search(r"(\d+) TBs, \d+ flushes", command(m, "info jit")).group(1))
    end, before, now = time.monotonic() + 60, 0, 0
    while time.monotonic() < end and now < 20000:
        time.sleep(0.5)
        before, now = now, translated()
    check("-serial null: the guest runs", now >= 20000, now)
    check("-serial null: and says nothing", "Linux" not in m.text, m.text[-300:])
    m.send("quit\r")
    check("-serial null: quit", m.wait(10) == 0, m.proc.returncode)


def test_monitor():
    m = hosted(*guest_args(), *APPEND, "-nographic", log="monitor")
    m.login()
    m.send("while :; do cut -d ' ' -f 1 /proc/uptime; sleep 0.2; done\n")
    m.expect(r"\n([\d.]+)\n")
    m.send("\x01c")
    m.expect(MONITOR)
    command(m, "stop")
    time.sleep(0.5)
    m._read(0)
    quiet = len(m.text)
    rip = [re.search(r"(?i)rip[ =]+(\w+)", command(m, "info registers")).group(1) for _ in range(2)]
    begin = m.text[:quiet].rstrip().splitlines()
    for _ in range(6):
        m._read(0.5)
    ticks = re.findall(r"^\d+\.\d\d$", m.text[quiet:], re.M)
    check("stop: nothing runs", rip[0] == rip[1] and not ticks, f"{rip} {ticks}")
    last = float([x for x in begin if re.fullmatch(r"\d+\.\d\d", x)][-1])
    command(m, "cont")
    after = float(m.expect(r"\n(\d+\.\d\d)\n", 30).group(1))
    check("cont: the guest's clock stood still", last <= after < last + 1.5, f"{last} then {after}")
    jit = command(m, "info jit")
    check("info jit", all(x in jit for x in ("code cache", "translated", "exits")), jit)
    check("info profile before", "profile on" in command(m, "info profile"), m.text[-300:])
    check("profile maybe", "on (from zero) or off" in command(m, "profile maybe"), m.text[-300:])
    command(m, "profile on")
    time.sleep(1)
    on = profile_rows(command(m, "info profile")).get("0")
    command(m, "profile off")
    time.sleep(0.2)
    off = [profile_rows(command(m, "info profile")).get("0") for _ in range(2)]
    check("info profile: shares of all the time", profile_adds_up(on, 900) and on["idle"] > 10 and on["code"] > 0, on)
    check("profile off: stands still", profile_adds_up(off[0], 900) and off[0] == off[1] and off[0]["ms"] < on["ms"] + 500, f"{on} {off}")
    check("help", all(x in command(m, "help") for x in ("info", "stop", "cont", "system_reset", "quit")), m.text[-300:])
    check("info of nothing", "info registers" in command(m, "info"), m.text[-300:])
    for n in range(2):
        m.send("system_reset\r")
        m.expect(r"Linux version", 60)
        m.expect(PROMPT, 240)
        check(f"system_reset {n}", True)
    # A guest that is stopped can be reset and left as well.
    command(m, "stop")
    command(m, "system_reset")
    command(m, "cont")
    m.expect(r"Linux version", 60)
    m.expect(PROMPT, 240)
    check("system_reset while stopped", True)
    command(m, "stop")
    m.send("quit\r")
    check("quit while stopped", m.wait(10) == 0, m.proc.returncode)


def test_trace():
    path = log_path("trace")
    kernel = os.path.join(BUILD, "tests", "mb.elf")
    m = hosted("-kernel", kernel, "-append", "x", "-m", "64", "-nographic", "-device", "isa-debug-exit,iobase=0xf4,iosize=4",
               "-d", "int,in_asm,exec", "-D", path, log="trace-run")
    check("-d: the guest runs", m.wait(60) == 0x21, m.proc.returncode)
    with open(path) as f:
        text = f.read()
    check("-d in_asm", re.search(r"^IN:.*\n0x0*10000c:.*mov.*esp", text, re.M), text[:300])
    check("-d exec", len(re.findall(r"^Trace 0: .*0*10000c", text, re.M)) == 1 and len(re.findall(r"^Trace", text, re.M)) > 200, text[:300])
    m = hosted("-kernel", kernel, "-append", "x", "-m", "64", "-nographic", "-device", "isa-debug-exit,iobase=0xf4,iosize=4",
               "-d", "profile", "-D", path, log="trace-profile")
    m.wait(60)
    with open(path) as f:
        profile = profile_rows(f.read())
    check("-d profile", profile_adds_up(profile.get("0"), 0) and profile["0"]["idle"] < 100, profile)
    check("-d on the console", "IN:" not in m.text and "all well" in m.text, m.text[-300:])
    m = hosted(*guest_args(), *APPEND, "-nographic", "-d", "int", "-D", path, log="trace-int")
    m.expect(PROMPT, 600)
    m.send("\x01x")
    m.wait(10)
    with open(path) as f:
        text = f.read()
    check("-d int: page faults and interrupts", len(re.findall(r"^int 0e err=\d.* cr2=", text, re.M)) > 100 and "int ec" in text, text[:500])


for t in (test_pty, test_null, test_monitor, test_trace):
    case(t)
finish()
