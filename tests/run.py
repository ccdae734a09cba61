#!/usr/bin/env python3
"""Runs test programs and adds up their closing lines, "N passed, N failed[, N skipped]".

Usage: tests/run.py [--timeout SECONDS] COMMAND... [--jobs N COMMAND...]     (each COMMAND is one shell word list, e.g. "tests/boot/x.py quick")
Those behind --jobs run N at a time; those before it run alone, first of all.
A program that ends without such a line, with a signal or after the time limit counts as one failure. Output is shown for what failed;
everything is in build/tests/log/. The last line is the sum of all; the exit code is 1 if anything failed.
"""
import concurrent.futures
import os
import re
import shlex
import signal
import subprocess
import sys
import time

LINE = re.compile(r"(\d+) passed, (\d+) failed(?:, (\d+) skipped)?")


def run(command, limit, logdir):
    name = re.sub(r"[^\w.-]+", "_", command).strip("_")
    log = os.path.join(logdir, name + ".log")
    start = time.monotonic()
    with open(log, "wb") as f:
        p = subprocess.Popen(shlex.split(command), stdin=subprocess.DEVNULL, stdout=f, stderr=subprocess.STDOUT, start_new_session=True)
        try:
            code = p.wait(limit)
        except subprocess.TimeoutExpired:
            os.killpg(p.pid, signal.SIGKILL)
            p.wait()
            code = None
    took = time.monotonic() - start
    with open(log, errors="replace") as f:
        text = f.read()
    sums = LINE.findall(text)
    counts = [int(x or 0) for x in sums[-1]] if sums else [0, 0, 0]
    trouble = "no result within %d s" % limit if code is None else "" if sums or code else "no closing line"
    if code not in (0, None) and not counts[1]:
        trouble = f"ended with {code}"
    if trouble:
        counts[1] += 1
    return command, counts, trouble, took, text, log


def groups(args):
    """[(jobs, commands)], and the time limit."""
    found, limit = [(1, [])], 1800
    while args:
        if args[0] in ("--jobs", "--timeout") and len(args) > 1 and args[1].isdigit():
            if args[0] == "--jobs":
                found.append((int(args[1]), []))
            else:
                limit = int(args[1])
            args = args[2:]
        elif args[0].startswith("--"):
            sys.exit(f"{args[0]}: unknown; there are --jobs N and --timeout SECONDS")
        else:
            found[-1][1].append(args[0])
            args = args[1:]
    return found, limit


def report(done):
    command, counts, trouble, took, text, log = done
    bad = counts[1] > 0
    print(f"{'FAIL' if bad else 'ok  '} {command}: {counts[0]} passed, {counts[1]} failed, {counts[2]} skipped ({took:.1f} s)"
          + (f": {trouble}" if trouble else ""), flush=True)
    if bad:
        print("".join("     | " + x + "\n" for x in text.splitlines()[-40:]) + f"     (all of it: {log})", flush=True)
    for x in text.splitlines():
        if x.startswith("SKIP") and not bad:
            print("     " + x, flush=True)


def main():
    logdir = os.path.join(os.environ.get("B", "build"), "tests", "log")
    os.makedirs(logdir, exist_ok=True)
    total = [0, 0, 0]
    found, limit = groups(sys.argv[1:])
    for jobs, commands in found:
        with concurrent.futures.ThreadPoolExecutor(max(jobs, 1)) as pool:
            for done in concurrent.futures.as_completed([pool.submit(run, c, limit, logdir) for c in commands]):
                total = [a + b for a, b in zip(total, done.result()[1])]
                report(done.result())
    print(f"{total[0]} passed, {total[1]} failed, {total[2]} skipped", flush=True)
    sys.exit(1 if total[1] else 0)


main()
