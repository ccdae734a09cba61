#!/usr/bin/env python3
"""The command line: what is wrong is named, with the mend, and the exit code is 1. Rows: options, text that must appear."""
import os
import subprocess
import sys
import tempfile

from machine import BUILD, check, finish

CUPEL = os.environ.get("CUPEL", os.path.join(BUILD, "cupel"))
ROWS = [
    ([], "-kernel"),
    (["-frobnicate"], "-frobnicate"),
    (["disk.img"], "disk.img"),
    (["-kernel"], "needs a value"),
    (["-kernel", "/nonexistent"], "/nonexistent"),
    (["-kernel", "/dev"], "/dev"),
    (["-kernel", "K", "-initrd", "/nonexistent"], "/nonexistent"),
    (["-kernel", "K", "-m", "0"], "16M"),
    (["-kernel", "K", "-m", "lots"], "lots"),
    (["-kernel", "K", "-m", "-5"], "-5"),
    (["-kernel", "K", "-m", "99999999999T"], "16M"),
    (["-kernel", "K", "-m", "65537K"], "MiB"),
    (["-kernel", "K", "-smp", "65"], "-smp"),
    (["-kernel", "K", "-smp", "0"], "-smp"),
    (["-kernel", "K", "-accel", "kvm"], "tcg"),
    (["-kernel", "K", "-accel", "tcg,exit=never"], "poll"),
    (["-kernel", "K", "-accel", "tcg,chain=maybe"], "on or off"),
    (["-kernel", "K", "-accel", "tcg,mmu=hard"], "soft"),
    (["-kernel", "K", "-accel", "tcg,tb-size=0"], "tb-size"),
    (["-kernel", "K", "-accel", "tcg,tb-size=3"], "use 4 to 1024"),
    (["-kernel", "K", "-accel", "tcg,tb-size=4095K"], "use 4 to 1024"),
    (["-kernel", "K", "-accel", "tcg,tb-size=1025"], "use 4 to 1024"),
    (["-kernel", "K", "-accel", "tcg,speed=9"], "speed"),
    (["-kernel", "K", "-accel", "tcg,thread=both"], "single or multi"),
    (["-kernel", "K", "-icount", "auto"], "a number, 0 to 10"),
    (["-kernel", "K", "-icount", "shift=auto"], "a number, 0 to 10"),
    (["-kernel", "K", "-icount", "shift=11"], "0 to 10"),
    (["-kernel", "K", "-icount", "shift=x"], "0 to 10"),
    (["-kernel", "K", "-icount", "shift="], "0 to 10"),
    (["-kernel", "K", "-icount", "sleep=off"], "shift=N"),
    (["-kernel", "K", "-icount", "shift=1,sleep=maybe"], "on or off"),
    (["-kernel", "K", "-icount", "shift=1,align=on"], "align=off"),
    (["-kernel", "K", "-icount", "shift=1,rr=record,rrfile=x"], "recording"),
    (["-kernel", "K", "-icount", "shift=1,speed=2"], "'speed'"),
    (["-kernel", "K", "-icount", "shift=1", "-accel", "tcg,thread=multi"], "thread=single"),
    (["-kernel", "K", "-d", "icount"], "-icount"),
    (["-kernel", "K", "-seed", "lots"], "-seed"),
    (["-kernel", "K", "-rtc", "base=now"], "localtime"),
    (["-kernel", "K", "-rtc", "base=2026-02-29"], "2026-02-29"),
    (["-kernel", "K", "-rtc", "base=2026-01-31T24:00:00"], "2026-01-31T24:00:00"),
    (["-kernel", "K", "-rtc", "clock=rt"], "host or vm"),
    (["-kernel", "K", "-rtc", "drift=1"], "'drift'"),
    (["-kernel", "K", "-serial", "tcp:1"], "pty"),
    (["-kernel", "K", "-serial", "file:/nonexistent/x"], "/nonexistent/x"),
    (["-kernel", "K", "-d", "in_asm,all"], "'all'"),
    (["-kernel", "K", "-D", "/nonexistent/x"], "/nonexistent/x"),
    (["-kernel", "K", "-drive", "file=/nonexistent,if=virtio"], "/nonexistent"),
    (["-kernel", "K", "-drive", "file=/dev,if=virtio"], "/dev"),
    (["-kernel", "K", "-drive", "file=/dev/null,if=virtio"], "neither a file"),
    (["-kernel", "K", "-drive", "file=K,if=virtio"], "512"),
    (["-kernel", "K", "-drive", "file=EMPTY,if=virtio"], "truncate"),
    (["-kernel", "K", "-drive", "if=virtio"], "file=PATH"),
    (["-kernel", "K", "-drive", "file=K"], "if=virtio"),
    (["-kernel", "K", "-drive", "file=K,if=ide"], "if=virtio"),
    (["-kernel", "K", "-drive", "file=K,if=none"], "id=NAME"),
    (["-kernel", "K", "-drive", "file=K,if=none,id=a"], "drive=a"),
    (["-kernel", "K", "-drive", "file=K,if=virtio,format=qcow2"], "raw"),
    (["-kernel", "K", "-drive", "file=K,if=virtio,cache=often"], "writeback"),
    (["-kernel", "K", "-drive", "file=K,if=virtio,readonly=maybe"], "on or off"),
    (["-kernel", "K", "-drive", "file=K,if=virtio,size=3"], "'size'"),
    (["-kernel", "K", "-drive", "file=SECTOR,if=none,id=a", "-drive", "file=SECTOR,if=none,id=a"], "id=a"),
    (["-kernel", "K", "-drive", "file=SECTOR,if=virtio", "-drive", "file=SECTOR,if=virtio"], "in use"),
    (["-kernel", "K", "-device", "virtio-blk-pci"], "drive=ID"),
    (["-kernel", "K", "-device", "virtio-blk-pci,drive=b"], "id=b"),
    (["-kernel", "K", "-drive", "file=SECTOR,if=virtio,id=a", "-device", "virtio-blk-pci,drive=a"], "if=none"),
    (["-kernel", "K", "-drive", "file=SECTOR,if=none,id=a", "-device", "virtio-blk-pci,drive=a,num-queues=17"], "1 to 16"),
    (["-kernel", "K", "-drive", "file=SECTOR,if=none,id=a", "-device", "virtio-blk-pci,drive=a,irq=3"], "'irq'"),
    (["-kernel", "K", "-drive", "file=SECTOR,if=none,id=a", "-device", "virtio-blk-pci,drive=a,iothread=x"], "-object iothread,id=x"),
    (["-kernel", "K", "-object", "rng-random,id=x"], "iothread"),
    (["-kernel", "K", "-object", "iothread"], "id=NAME"),
    (["-kernel", "K", "-object", "iothread,id=a", "-object", "iothread,id=a"], "id=a"),
    (["-kernel", "K", "-device", "e1000"], "isa-debug-exit"),
    (["-kernel", "K", "-device", "isa-debug-exit,iobase=0x10000"], "port"),
    (["-kernel", "K", "-device", "isa-debug-exit,irq=3"], "irq"),
    (["-kernel", "K", "-device", "virtio-rng-pci,x=1"], "virtio-rng-pci"),
    (["-kernel", "K", "-device", "virtio-serial-pci"], "virtconsole"),
    (["-kernel", "K", "-debugcon", "file:/tmp/x"], "stdio"),
    (["-initrd", "K"], "-kernel"),
    (["-kernel", "K"], "K"),      # not a kernel at all
]

with tempfile.NamedTemporaryFile(suffix=".K") as f, tempfile.NamedTemporaryFile() as empty, tempfile.NamedTemporaryFile() as sector:
    sector.write(bytes(512))
    sector.flush()
    f.write(b"this is no kernel\n" * 500)
    f.flush()
    for args, text in ROWS:
        argv = [CUPEL] + [f.name if a == "K" else a.replace("file=K", f"file={f.name}").replace("EMPTY", empty.name).replace("SECTOR", sector.name)
                          for a in args]
        text = f.name if text == "K" else text
        try:
            p = subprocess.run(argv, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=20)
            check(" ".join(args), p.returncode == 1 and text in p.stderr, f"exit {p.returncode}: {p.stderr.strip()[:300]}")
        except subprocess.TimeoutExpired:
            check(" ".join(args), False, "did not end")
for args, text in ((["-version"], "cupel "), (["-help"], "-kernel"), (["--help"], "Ctrl-A x")):
    p = subprocess.run([CUPEL, *args], capture_output=True, text=True, timeout=20)
    check(args[0], p.returncode == 0 and text in p.stdout, p.stdout)
finish()
