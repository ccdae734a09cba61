#!/usr/bin/env python3
"""Cupel as a Linux process boots the default guest: shell, keys, monitor, power-off, engines, exit codes.

Usage: hosted_test.py [quick]"""
import os
import subprocess
import sys
import threading
import time

from linux import check_clock, check_remap, shell_checks
from machine import BUILD, PROMPT, case, check, finish, guest_args, hosted, log_path, skip

APPEND = "console=ttyS0 panic=-1"
QUICK = "quick" in sys.argv[1:]


def boot(*args, log, append=APPEND):
    m = hosted(*guest_args("initrd-tests"), "-append", append, "-m", "512", "-nographic", "-no-reboot", *args, log=log)
    m.login()
    return m


def test_shell():
    m = boot(log="shell")
    print(f"prompt after {time.monotonic() - m.start:.1f} s", flush=True)
    shell_checks(m)
    check_remap(m)
    check_clock(m, time.monotonic)
    m.send("poweroff\n")
    check("poweroff", m.wait(60) == 0, m.proc.returncode)


def test_keys():
    m = boot(log="keys")
    m.send("\x01h")
    m.expect("Ctrl-A x")
    m.send("\x01c")
    m.expect(r"\(cupel\) ")
    m.send("info registers\r")
    check("info registers", m.expect(r"RIP=\w+|rip[ =]\w+"))
    m.expect(r"\(cupel\) ")
    m.send("info jit\r")
    m.expect(r"(?s)info jit\n.*?\n\(cupel\) ")
    m.send("info timers\r")
    out = m.expect(r"(?s)info timers\n(.*?)\n\(cupel\) ").group(1)
    check("info timers", all(f"\n{c} " in "\n" + out for c in ("realtime", "virtual", "host", "virtual-rt")) and "_expired" in out, out)
    m.send("info sync-profile\r")
    taken = m.expect(r"core 0 +(\d+) +\d+ +\d+ +(\d+)")
    check("info sync-profile", int(taken.group(1)) > 1000 and int(taken.group(2)) > 0, taken.group(0))
    m.expect(r"\(cupel\) ")
    m.send("nonsense\r")
    m.expect("unknown command: 'nonsense'")
    m.send("stop\r")
    m.expect(r"\(cupel\) ")
    m.send("cont\r")
    m.expect(r"\(cupel\) ")
    m.send("\x01c")
    m.send("\n")
    m.expect(PROMPT)
    out, code = m.shell("echo back")
    check("back from the monitor", "back" in out, out)
    # Ctrl-A Ctrl-A arrives as one Ctrl-A; Ctrl-C ends a foreground process.
    m.send("sleep 1000\n")
    m.expect("sleep 1000\n")
    time.sleep(1)
    m.send("\x03")
    m.expect(PROMPT)
    m.send("cat >/tmp/k; od -An -tx1 /tmp/k\n")
    m.expect("/tmp/k\n")
    time.sleep(1)      # the shell changes the terminal's mode, and Linux' 8250 driver empties the FIFO at that
    m.send("x\x01\x01y\n\x04")
    m.expect("78 01 79 0a")
    check("Ctrl-A Ctrl-A", True)
    m.expect(PROMPT)
    m.send("\x01x")
    check("Ctrl-A x", m.wait(10) == 0, m.proc.returncode)


def test_reset():
    m = boot(log="reset")
    m.send("reboot\n")
    check("-no-reboot", m.wait(60) == 0, m.proc.returncode)
    m = hosted(*guest_args(), "-append", APPEND, "-nographic", log="reset2")
    m.expect(PROMPT, 240)
    m.send("reboot\n")
    m.expect("Welcome", 240)
    m.expect(PROMPT, 60)
    m.send("\x01x")
    check("reset boots again", m.wait(10) == 0, m.proc.returncode)


def test_engines():
    for accel in ("tcg,exit=poll", "tcg,chain=off", "tcg,tb-size=4"):
        m = boot("-accel", accel, log=accel)
        shell_checks(m)
        check_remap(m)
        m.send("poweroff\n")
        check(f"poweroff with {accel}", m.wait(60) == 0, m.proc.returncode)


def test_serial_file():
    path = log_path("serial-out")
    m = hosted(*guest_args(), "-append", APPEND, "-nographic", "-no-reboot", "-serial", f"file:{path}", log="serial-file")
    m.expect(r"\(cupel\) ", 30)
    end = time.monotonic() + 240
    while time.monotonic() < end:
        m._read(0.5)
        with open(path, errors="replace") as f:
            if "Welcome" in f.read():
                break
    check("-serial file", time.monotonic() < end, "no greeting in the file")
    m.send("quit\r")
    check("monitor quit", m.wait(10) == 0, m.proc.returncode)


def test_pipe():
    """No terminal at all: input from a pipe, output into one. Typed once the shell is there: Linux drops what its UART got before."""
    cupel = os.environ.get("CUPEL", os.path.join(BUILD, "cupel"))
    p = subprocess.Popen([cupel, *guest_args(), "-append", APPEND, "-no-reboot"], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    timer = threading.Timer(240, p.kill)
    timer.start()
    out = b""
    while PROMPT.encode() not in out:
        piece = os.read(p.stdout.fileno(), 65536)
        if not piece:
            break
        out += piece
    time.sleep(1)
    try:
        rest, _ = p.communicate(b"echo sum $((40 + 2))\npoweroff\n", timeout=60)
        check("pipe", b"sum 42" in rest and p.returncode == 0, f"{p.returncode} {rest[-300:]!r}")
    except (subprocess.TimeoutExpired, BrokenPipeError) as e:
        p.kill()
        check("pipe", False, str(e))
    timer.cancel()


case(test_shell)
case(test_keys)
if QUICK:
    skip("reset, engines, serial file, pipe", "quick run")
else:
    for t in (test_reset, test_engines, test_serial_file, test_pipe):
        case(t)
finish()
