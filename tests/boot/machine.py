"""A machine under test on a pseudo-terminal: start it, wait for text, type, see how it ends.

Three kinds, one class: hosted (build/cupel), metal (build/cupel.img under QEMU and OVMF) and peer (QEMU's own TCG with the same guest,
for comparisons). Only the standard library is used. A test script ends with `finish()`, which prints "N passed, N failed".
"""
import atexit
import os
import pty
import re
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import termios
import time

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
BUILD = os.path.join(ROOT, os.environ.get("B", "build"))
GUEST = os.path.join(BUILD, "guest")
PROMPT = "/ # "
ANSI = re.compile(rb"\x1b\[[0-9;?]*[A-Za-z]|\x1b[()][A-Z0-9]|\x1b[=>78]")
SLOW = float(os.environ.get("CUPEL_TEST_SLOW", "1"))     # multiplies every timeout


class Timeout(Exception):
    pass


class Machine:
    """A process on a pty. `text` is everything it printed; `expect` looks only behind what earlier calls consumed."""

    def __init__(self, argv, log=None):
        self.argv, self.text, self.at, self.tail = argv, "", 0, b""
        self.start = time.monotonic()
        master, slave = pty.openpty()
        attr = termios.tcgetattr(slave)
        attr[3] &= ~(termios.ECHO | termios.ICANON | termios.ISIG)
        termios.tcsetattr(slave, termios.TCSANOW, attr)
        self.proc = subprocess.Popen(argv, stdin=slave, stdout=slave, stderr=slave, start_new_session=True, close_fds=True)
        os.close(slave)
        self.fd = master
        self.log = open(log, "wb") if log else None
        atexit.register(self.kill)

    def _read(self, wait):
        ready, _, _ = select.select([self.fd], [], [], max(0, wait))
        if not ready:
            return True
        try:
            data = os.read(self.fd, 65536)
        except OSError:      # EIO: the other side is closed
            return False
        if not data:
            return False
        if self.log:
            self.log.write(data)
            self.log.flush()
        data = self.tail + data
        cut = data.rfind(b"\x1b")                # an escape sequence may be cut in two: its beginning waits for the rest
        cut = cut if cut >= 0 and len(data) - cut < 12 and not ANSI.match(data, cut) else len(data)
        self.tail = data[cut:]
        self.text += ANSI.sub(b"", data[:cut]).decode("utf-8", "replace").replace("\r", "")
        return True

    def expect(self, pattern, timeout=60):
        """Waits for a regular expression; returns its match and consumes up to its end."""
        rx = re.compile(pattern)
        end = time.monotonic() + timeout * SLOW
        alive = True
        while True:
            m = rx.search(self.text, self.at)
            if m:
                self.at = m.end()
                return m
            if not alive or time.monotonic() > end:
                why = "ended" if not alive else f"silent for {timeout * SLOW:.0f} s"
                raise Timeout(f"waiting for {pattern!r}: {why}; last output:\n{self.text[-1500:]}")
            alive = self._read(min(1, end - time.monotonic()))

    def send(self, text):
        os.write(self.fd, text.encode() if isinstance(text, str) else text)

    def login(self, timeout=240):
        """Waits for the first prompt and makes the console fit for shell(): no kernel messages in between, no line folding."""
        self.expect(PROMPT, timeout)
        self.send("dmesg -n 1; stty cols 2000; echo re''ady\n")      # (a kernel message may still come in the midst of the echo)
        self.expect(r"ready\s*\n", timeout)
        self.expect(PROMPT, timeout)

    def shell(self, command, timeout=60):
        """Runs a command in the guest's shell: (its output, its exit status)."""
        self.send(command + '; echo "<$?>"\n')
        self.expect(re.escape('; echo "<$?>"') + r"\n", timeout)     # the echo of what was typed
        begin = self.at
        m = self.expect(r"<(\d+)>\n", timeout)
        out = self.text[begin:m.start()]
        self.expect(re.escape(PROMPT), timeout)
        return out, int(m.group(1))

    def wait(self, timeout=30):
        """Waits for the process to end by itself; returns its exit code."""
        end = time.monotonic() + timeout * SLOW
        while self.proc.poll() is None:
            if time.monotonic() > end:
                raise Timeout(f"did not end within {timeout * SLOW:.0f} s; last output:\n{self.text[-800:]}")
            self._read(0.05)
        while self._read(0) and select.select([self.fd], [], [], 0)[0]:
            pass
        return self.proc.returncode

    def kill(self):
        if self.proc.poll() is None:
            os.killpg(self.proc.pid, signal.SIGKILL)
            self.proc.wait()


def guest_args(initrd="initrd"):
    """The default guest. initrd-tests is its RAM disk with the programs that tests run in it (/bin/remap)."""
    for name, goal in (("vmlinuz", "guest"), (initrd, "guest" if initrd == "initrd" else "test-quick")):
        if not os.path.exists(os.path.join(GUEST, name)):
            sys.exit(f"no {GUEST}/{name}: run make {goal}")
    return ["-kernel", os.path.join(GUEST, "vmlinuz"), "-initrd", os.path.join(GUEST, initrd)]


def initrd_with(files):
    """The default RAM disk with further programs, {name in the guest: file here}, laid over it: the kernel unpacks concatenated archives one
    after the other. Returns the file's name; it goes when the test ends."""
    tmp = tempfile.mkdtemp(prefix="cupel-initrd-")
    atexit.register(shutil.rmtree, tmp, True)
    root, names = os.path.join(tmp, "root"), []
    for name, path in files.items():
        os.makedirs(os.path.join(root, os.path.dirname(name)), exist_ok=True)
        shutil.copy(path, os.path.join(root, name))
        names += [d for d in (os.path.dirname(name),) if d and d not in names] + [name]
    extra = subprocess.run(["cpio", "-o", "-H", "newc", "-R", "0:0", "--quiet"], cwd=root, input="\n".join(names).encode() + b"\n",
                           capture_output=True, check=True).stdout
    out = os.path.join(tmp, "initrd")
    with open(os.path.join(GUEST, "initrd"), "rb") as f, open(out, "wb") as g:
        base = f.read()
        g.write(base + b"\0" * (-len(base) % 4) + extra)
    return out


def hosted(*args, log="hosted"):
    """build/cupel (or another binary: CUPEL=...) with the given options."""
    cupel = os.environ.get("CUPEL", os.path.join(BUILD, "cupel"))
    if not os.path.exists(cupel):
        sys.exit(f"no {cupel}: run make hosted")
    return Machine([cupel, *args], log=log_path(log))


def peer(*args, log="peer"):
    return Machine(["qemu-system-x86_64", "-accel", "tcg", "-cpu", "max", "-nographic", "-net", "none", *args], log=log_path(log))


def metal(*args, image=None, memory="1G", machine="q35", accel="tcg", log="metal"):
    """build/cupel.img booted by OVMF in QEMU, from a snapshot (the firmware may write to its boot disk)."""
    image = image or os.path.join(BUILD, "cupel.img")
    if not os.path.exists(image):
        sys.exit(f"no {image}: run make metal")
    tmp = tempfile.mkdtemp(prefix="cupel-metal-")
    atexit.register(shutil.rmtree, tmp, True)
    nvram = os.path.join(tmp, "vars.fd")
    shutil.copy("/usr/share/OVMF/OVMF_VARS_4M.fd", nvram)
    return Machine(["qemu-system-x86_64", "-accel", accel, "-cpu", "max", "-machine", machine, "-m", memory, "-nographic", "-net", "none",
                    "-no-reboot",
                    "-drive", "if=pflash,format=raw,unit=0,readonly=on,file=/usr/share/OVMF/OVMF_CODE_4M.fd",
                    "-drive", f"if=pflash,format=raw,unit=1,file={nvram}",
                    "-drive", f"if=none,id=stick,format=raw,snapshot=on,file={image}", "-device", "ide-hd,drive=stick,bootindex=0", *args],
                   log=log_path(log))


def log_path(name):
    d = os.path.join(BUILD, "tests", "log")
    os.makedirs(d, exist_ok=True)
    return os.path.join(d, f"{os.path.basename(sys.argv[0])}.{name}.log")


def profile_rows(text):
    """The last profiler table in text: {row (vCPU or all): {class: percent}}."""
    rows, names = {}, []
    for line in text.splitlines():
        words = line.split()
        if words[:1] == ["vCPU"] and words[-2:] == ["samples", "ms"]:
            rows, names = {}, words[1:]
        elif names and len(words) == len(names) + 1 and words[0] in [str(n) for n in range(64)] + ["all"]:
            rows[words[0]] = dict(zip(names, map(float, words[1:])))
    return rows


def profile_adds_up(row, milliseconds=1):
    return row is not None and abs(sum(v for k, v in row.items() if k not in ("samples", "ms")) - 100) < 0.2 and row["ms"] >= milliseconds


# ---- the score of a script ---------------------------------------------------------------------------------
class Score:
    passed = failed = skipped = 0


def check(name, ok, detail=""):
    if ok:
        Score.passed += 1
    else:
        Score.failed += 1
        print(f"FAIL {name}: {detail}", flush=True)


def skip(name, why):
    Score.skipped += 1
    print(f"SKIP {name}: {why}", flush=True)


def case(fn, *args, **kw):
    """Runs one test function; an exception in it is one failure, not the end."""
    try:
        fn(*args, **kw)
    except (Timeout, OSError) as e:
        check(fn.__name__, False, str(e))


def finish():
    print(f"{Score.passed} passed, {Score.failed} failed" + (f", {Score.skipped} skipped" if Score.skipped else ""), flush=True)
    sys.exit(1 if Score.failed else 0)
