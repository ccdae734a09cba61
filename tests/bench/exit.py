#!/usr/bin/env python3
"""exit=interrupt against exit=poll: the code that booting Linux leaves in the cache, then the tables of build/tests/exit_bench (tight loops, latencies).
Usage: tests/bench/exit.py [--quick]"""
import os
import re
import subprocess
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "boot"))
from machine import BUILD, guest_args, hosted    # noqa: E402

MODES = ("interrupt", "poll")


def boot(mode):
    """(TBs, code bytes, host instructions per guest instruction, seconds to the prompt) of one boot."""
    m = hosted(*guest_args(), "-append", "console=ttyS0 panic=-1", "-m", "512", "-nographic", "-no-reboot", "-accel", f"tcg,exit={mode}",
               log=f"bench-{mode}")
    m.expect("/ # ", 300)
    m.send("\x01c")
    m.expect(r"\(cupel\) ")
    m.send("info jit\r")
    cache = m.expect(r"code cache +(\d+)/\d+ KiB, (\d+) TBs, (\d+) flushes")
    insns = m.expect(r"translated +(\d+) TBs, (\d+) guest instructions, (\d+) host instructions")
    m.send("quit\r")
    m.wait(30)
    kib, tbs, flushes = map(int, cache.groups())
    made, guest, host = map(int, insns.groups())
    return {"blocks made": made, "code bytes per block": kib * 1024 / tbs, "host instructions per block": host / made,
            "per guest instruction": host / guest} if not flushes else {"blocks made": made, "per guest instruction": host / guest}


def main():
    got = [boot(mode) for mode in MODES]
    print(f"booting Linux to its shell {'':2} " + "".join(f"{x:>12}" for x in MODES))
    for name in got[0]:
        print(f"{name:28} " + "".join(f"{g.get(name, float('nan')):12.2f}" for g in got))
    print(flush=True)
    env = dict(os.environ, **({"CUPEL_BENCH_QUICK": "1"} if "--quick" in sys.argv[1:] else {}))
    sys.exit(subprocess.call([os.path.join(BUILD, "tests", "exit_bench"), os.path.join(BUILD, "tests", "kick.elf")], env=env))


main()
