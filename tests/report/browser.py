"""A headless Chromium for tests: loads a page at a given width, in light or dark, and tells what came of it.

It is driven by its DevTools protocol over a pair of pipes (--remote-debugging-pipe: descriptors 3 and 4, messages are JSON ended by a
NUL), so that neither a driver program nor a port is needed. The profile is a directory of its own, and what a browser does on the
network by itself is off.
"""
import base64
import fcntl
import json
import os
import pathlib
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import time

PROGRAM = os.environ.get("CHROMIUM", "chromium")
FLAGS = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
         "--disable-component-update",
         "--disable-sync", "--disable-default-apps", "--disable-extensions", "--disable-dev-shm-usage", "--hide-scrollbars",
         "--force-color-profile=srgb",
         "--proxy-server=127.0.0.1:9", "--remote-debugging-pipe"]
# The browser's ends of the pipes have to be 3 and 4, which may be anything here: a new process moves them.
MOVE = "import os, sys; os.dup2(int(sys.argv[1]), 3); os.dup2(int(sys.argv[2]), 4); os.execvp(sys.argv[3], sys.argv[3:])"
PATIENCE = 60 * float(os.environ.get("CUPEL_TEST_SLOW", "1"))


def high_pipe():
    """A pipe whose ends are above 9, out of the way of 3 and 4."""
    ends = os.pipe()
    moved = [fcntl.fcntl(f, fcntl.F_DUPFD_CLOEXEC, 10) for f in ends]
    for f in ends:
        os.close(f)
    return moved


class Browser:
    def __init__(self):
        self.profile = tempfile.mkdtemp(prefix="cupel-chromium-")
        its_in, self.out = high_pipe()
        self.inp, its_out = high_pipe()
        self.proc = subprocess.Popen([sys.executable, "-c", MOVE, str(its_in), str(its_out), PROGRAM, *FLAGS,
                                      f"--user-data-dir={self.profile}", "about:blank"],
                                     pass_fds=(its_in, its_out), stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
                                     stderr=subprocess.DEVNULL,
                                     start_new_session=True)
        os.close(its_in)
        os.close(its_out)
        self.buffer, self.number, self.events, self.session = b"", 0, [], None
        page = self.call("Target.createTarget", url="about:blank")["targetId"]
        self.session = self.call("Target.attachToTarget", targetId=page, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.call(domain + ".enable")

    def message(self, end):
        while b"\0" not in self.buffer:
            ready = select.select([self.inp], [], [], max(0, end - time.monotonic()))[0]
            data = os.read(self.inp, 1 << 20) if ready else b""
            if not data:
                raise OSError(f"{PROGRAM} " + ("ended" if ready else "does not answer"))
            self.buffer += data
        text, _, self.buffer = self.buffer.partition(b"\0")
        return json.loads(text)

    def call(self, method, **params):
        self.number += 1
        to = {"sessionId": self.session} if self.session else {}
        os.write(self.out, json.dumps({"id": self.number, "method": method, "params": params, **to}).encode() + b"\0")
        end = time.monotonic() + PATIENCE
        while True:
            m = self.message(end)
            if m.get("id") == self.number:
                if "error" in m:
                    raise OSError(f"{method}: {m['error']}")
                return m["result"]
            self.events.append(m)

    def wait(self, method):
        end = time.monotonic() + PATIENCE
        while not any(m.get("method") == method for m in self.events):
            self.events.append(self.message(end))

    def load(self, path, width=1280, height=900, dark=False):
        """Loads a file; afterwards `complaints` and `requests` are about it."""
        if not os.path.exists(path):
            raise OSError(f"{path} is not there")
        self.call("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=False)
        self.call("Emulation.setEmulatedMedia", media="screen",
                  features=[{"name": "prefers-color-scheme", "value": "dark" if dark else "light"}])
        self.events = []
        self.url = pathlib.Path(path).resolve().as_uri()
        self.call("Page.navigate", url=self.url)
        self.wait("Page.loadEventFired")

    def complaints(self):
        """What the console would show: messages, exceptions, violations of the page's own policy."""
        return [json.dumps(m["params"])[:300] for m in self.events
                if m.get("method") in ("Runtime.consoleAPICalled", "Runtime.exceptionThrown", "Log.entryAdded",
                                       "Page.javascriptDialogOpening")]

    def requests(self):
        """URLs that the page asked for, besides itself."""
        urls = [m["params"]["request"]["url"] for m in self.events if m.get("method") == "Network.requestWillBeSent"]
        return [u[:200] for u in urls if u != self.url]

    def evaluate(self, expression):
        r = self.call("Runtime.evaluate", expression=expression, returnByValue=True)
        if "exceptionDetails" in r:
            raise OSError(f"the test's own script: {r['exceptionDetails']}")
        return r["result"].get("value")

    def screenshot(self, path, whole=True):
        with open(path, "wb") as f:
            f.write(base64.b64decode(self.call("Page.captureScreenshot", captureBeyondViewport=whole, format="png")["data"]))

    def pdf(self):
        """The printed page's bytes."""
        return base64.b64decode(self.call("Page.printToPDF", printBackground=False, preferCSSPageSize=True)["data"])

    def close(self):
        try:
            os.killpg(self.proc.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
        self.proc.wait()
        os.close(self.out)
        os.close(self.inp)
        shutil.rmtree(self.profile, ignore_errors=True)
