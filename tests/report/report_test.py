#!/usr/bin/env python3
"""tools/report and tools/assay_check.py: good and bad files, the page's contents, and the page in a headless browser at two widths.

Usage: report_test.py [nobrowser]
What the browser is asked: is the console empty, did the page ask the network for anything, has every SVG a size, does anything stand
out of the window, does text lie on text. Each of these questions is first put to a page that is broken in just that way.
"""
import copy
import json
import math
import os
import random
import re
import shutil
import subprocess
import sys
import tempfile

HERE = os.path.dirname(os.path.abspath(__file__))
ROOT = os.path.dirname(os.path.dirname(HERE))
sys.path[:0] = [HERE, os.path.join(ROOT, "tests", "boot"), os.path.join(ROOT, "tools")]
import assay_check  # noqa: E402
import browser  # noqa: E402
import fixtures  # noqa: E402
import report_charts  # noqa: E402
import report_data  # noqa: E402
from machine import BUILD, case, check, finish, skip  # noqa: E402

PAYLOAD = os.path.join(BUILD, "assay", "payload.elf")
TMP = tempfile.mkdtemp(prefix="cupel-report-")
DEBIAN_PYTHON = "/usr/bin/python3"      # the one that python3-jsonschema is for
ALL = {"metal": fixtures.metal, "hosted": fixtures.hosted, "qemu": fixtures.qemu, "counting": fixtures.counting, "sparse": fixtures.sparse,
       "hostile": fixtures.hostile}


def path(name):
    return os.path.join(TMP, name)


def put(name, data):
    with open(path(name), "wb") as f:
        f.write(data if isinstance(data, bytes) else json.dumps(data).encode())
    return path(name)


def tool(name, *args):
    return subprocess.run([sys.executable, os.path.join(ROOT, "tools", name), *args], capture_output=True, text=True, cwd=TMP)


def page(name, *files):
    """Makes a page; returns its text."""
    p = tool("report", "-o", path(name), *files)
    check(f"{name}: made", p.returncode == 0, p.stderr)
    with open(path(name), encoding="utf-8") as f:
        return f.read()


# ---- the files --------------------------------------------------------------------------------------------------------

def test_good_files():
    for name, make in ALL.items():
        found = assay_check.problems(make())
        check(f"fixture {name} is good", not found, found[:3])
    p = tool("assay_check.py", *(put(f"{n}.json", f()) for n, f in ALL.items()))
    check("assay_check", p.returncode == 0 and "6 good, 0 bad" in p.stdout, p.stdout + p.stderr)
    check("placeholder passes the check", not assay_check.problems({"schema": "cupel-assay/1", "complete": False}))


def places(v, at=()):
    """All paths into a document."""
    yield at
    for k, x in v.items() if isinstance(v, dict) else enumerate(v) if isinstance(v, list) else ():
        yield from places(x, at + (k,))


def damage(doc, rnd, where):
    """A copy with something wrong (or, seldom, harmlessly changed) at a random place."""
    doc = copy.deepcopy(doc)
    at = rnd.choice(where)
    holder = doc
    for k in at[:-1]:
        holder = holder[k]
    kind = rnd.randrange(4)
    if kind == 0 and isinstance(holder, dict):
        del holder[at[-1]]
    elif kind == 1 and isinstance(holder, dict):
        holder["new key"] = 1
    else:
        holder[at[-1]] = rnd.choice([None, True, 0, -1, 1.5, 2.0, 10**9, "", "x", "0x1", "a b", [], {}, [1, 1], {"a": 1}])
    return doc


def test_schema_against_jsonschema():
    """Our reader of schemas must judge as python3-jsonschema does, on good and on damaged files; and the schema must be one."""
    rnd, small = random.Random(7), fixtures.metal(rounds=2)
    small["workloads"], small["breakdown"] = small["workloads"][:1] + small["workloads"][17:18], small["breakdown"][:1]
    docs = [small, fixtures.qemu(), fixtures.sparse(), {"schema": "cupel-assay/1", "complete": False},
            {"schema": "cupel-assay/1", "complete": True}]
    where = [p for p in places(small) if p]
    docs += [damage(small, rnd, where) for _ in range(400)]
    put("schema-docs.json", docs)
    script = ("import json, sys, jsonschema; s = json.load(open(sys.argv[1])); V = jsonschema.Draft202012Validator\n"
              "V.check_schema(s); v = V(s)\n"
              "print(json.dumps([v.is_valid(d) for d in json.load(open(sys.argv[2]))]))")
    p = subprocess.run([DEBIAN_PYTHON, "-c", script, assay_check.SCHEMA_FILE, path("schema-docs.json")], capture_output=True, text=True)
    check("jsonschema runs", p.returncode == 0, p.stderr[-500:])
    theirs = json.loads(p.stdout or "[]")
    ours = [not assay_check.schema_problems(d) for d in docs]
    odd = [i for i, (a, b) in enumerate(zip(ours, theirs)) if a != b]
    check("verdicts agree", len(theirs) == len(docs) and not odd, [(ours[i], assay_check.schema_problems(docs[i])) for i in odd[:2]])
    check("damage is found", ours[:4] == [True] * 4 and not ours[4] and 250 < ours.count(False) < 400, ours.count(False))


def w0(d):
    return d["workloads"][0]


def r0(d, mode="soft"):
    return w0(d)["results"][mode]


INVARIANTS = [      # what is done to a good file, and what the message must say
    ("median", lambda d: r0(d).update(median=r0(d)["median"] + 2), "workloads[0:alu].results.soft.median"),
    ("min", lambda d: r0(d).update(min=r0(d)["min"] - 1), "results.soft.min"),
    ("max", lambda d: r0(d).update(max=r0(d)["max"] + 1), "results.soft.max"),
    ("spread", lambda d: r0(d).update(spread=r0(d)["spread"] + 0.01), "results.soft.spread"),
    ("ratio", lambda d: r0(d).update(ratio=r0(d)["ratio"] * 1.002), "results.soft.ratio:"),
    ("ratio_low", lambda d: r0(d).update(ratio_low=r0(d)["ratio_low"] * 0.99), "results.soft.ratio_low"),
    ("no ratio", lambda d: r0(d).pop("ratio"), 'no key "ratio"'),
    ("native has a ratio", lambda d: r0(d, "native").update(ratio=1), "without a native result"),
    ("ratio to nothing", lambda d: (w0(d)["results"].pop("native"), w0(d)["missing"].update(native="no")), "without a native result"),
    ("a round less", lambda d: r0(d)["ticks"].append(5), "8 samples of 7 rounds"),
    ("disturbed round that is not", lambda d: r0(d).update(disturbed=[7]), "only samples 0 to 6"),
    ("disturbed, but counted", lambda d: r0(d).update(disturbed=[r0(d)["ticks"].index(r0(d)["max"])]), "results.soft.max"),
    ("counter unknown", lambda d: d["breakdown"][0]["counters"].update(misses=1), "breakdown[0]: counters need"),
    ("counters of nothing", lambda d: d["breakdown"][0].pop("n"), "breakdown[0]: counters need"),
    ("shares of nothing", lambda d: d["breakdown"][0].pop("ticks"), 'not "ticks" and "own_cost"'),
    ("latency of none", lambda d: r0(d).update(latency_min=[1] * 7, latency_max=[2] * 7), "no latency workload"),
    ("latency", lambda d: d["workloads"][17]["results"]["soft"]["latency_max"].__setitem__(3, 10), "not between its latency_min"),
    ("a latency less", lambda d: d["workloads"][17]["results"]["soft"]["latency_max"].pop(), "not between its latency_min"),
    ("no checksum", lambda d: w0(d).pop("checksum"), 'no "checksum"'),
    ("mode nowhere", lambda d: w0(d)["results"].pop("soft-poll"), "neither a result nor a reason"),
    ("mode twice", lambda d: w0(d)["missing"].update(soft="no"), "both has a result and is missing"),
    ("mode unknown", lambda d: w0(d)["results"].update(hard=r0(d)), "'hard' is not in"),
    ("modes alike", lambda d: d["modes"].append(dict(d["modes"][1])), "'soft' comes twice"),
    ("two natives", lambda d: d["modes"].append({**d["modes"][0], "id": "bare"}), "second native mode"),
    ("workloads alike", lambda d: d["workloads"].append(copy.deepcopy(w0(d))), "'alu' comes twice"),
    ("shares", lambda d: d["breakdown"][0]["shares"].update(idle=0.01), "the sum is 1.0100"),
    ("breakdown's mode", lambda d: d["breakdown"][0].update(mode="hard"), "breakdown[0]"),
    ("breakdown's vCPU", lambda d: d["breakdown"][0].update(vcpu=1), "vCPU 1 of a mode with 1"),
    ("breakdown's workload", lambda d: d["breakdown"][0].update(workload="nothing"), "'nothing' is not in"),
    ("breakdown twice", lambda d: d["breakdown"].append(d["breakdown"][0]), "as in an earlier entry"),
    ("linux's mode", lambda d: d["linux"]["runs"][1].update(mode="soft"), "comes twice"),
    ("phase's median", lambda d: d["linux"]["runs"][0]["phases"][0].update(median=1), "linux.runs[0].phases[0].median"),
    ("operation twice", lambda d: d["linux"]["runs"][0]["operations"].append(d["linux"]["runs"][0]["operations"][0]),
     "'getpid' comes twice"),
]


def test_invariants():
    good = fixtures.metal()
    for name, spoil, says in INVARIANTS:
        doc = copy.deepcopy(good)
        spoil(doc)
        found = [f"{at}: {text}" for at, text in assay_check.problems(doc)]
        check(f"invariant {name}", any(says in x for x in found), found[:3])
    other = fixtures.hosted()
    w0(other)["checksum"] = "0xbad"
    p = tool("assay_check.py", put("a.json", good), put("b.json", other))
    check("checksums between files", p.returncode == 1 and "alu (n = " in p.stdout and "0xbad" in p.stdout, p.stdout)
    text = page("cross.html", path("a.json"), path("b.json"))
    check("checksums between files, in the page", "one of the two computed wrong" in text)


UNREADABLE = [      # contents, what the message must say besides the file's name
    ("empty", b"", "wait until it says"), ("blanks", b" " * 4096, "wait until it says"), ("nuls", b"\0" * 4096, "wait until it says"),
    ("cut", json.dumps(fixtures.metal()).encode()[:5000], "copy it again, or repeat"), ("text", b"this is no JSON", "not what Cupel wrote"),
    ("binary", b"\x7fELF\xff\xfe", "not UTF-8"),
              ("nan", b'{"schema": "cupel-assay/1", "complete": false, "seconds": NaN}', "NaN is no JSON number"),
    ("double", b'{"schema": "cupel-assay/1", "complete": false, "complete": true}', "'complete' twice"),
              ("list", b"[1, 2]", "no assay.json"),
    ("deep", b"[" * 100000, "not what Cupel wrote"), ("old", b'{"schema": "cupel-assay/0", "complete": true}', "format 'cupel-assay/0'"),
    ("schema", b'{"schema": "cupel-assay/1", "complete": true}', "no key \"machine\""),
    ("placeholder", fixtures.on_stick({"schema": "cupel-assay/1", "complete": False}), "a placeholder without results"),
]


def test_unreadable():
    good = put("metal.json", fixtures.metal())
    for name, data, says in UNREADABLE:
        bad = put(name + ".bad", data)
        p = tool("report", "-o", path("never.html"), good, bad)
        check(f"{name}: refused, with its name and what to do", p.returncode == 1 and f"report: {bad}: " in p.stderr and says in p.stderr
              and "Traceback" not in p.stderr, p.stderr[-400:])
    p = tool("report", "-o", path("never.html"), path("absent.json"), TMP)
    check("absent file, directory", p.returncode == 1 and "absent.json: No such file" in p.stderr and f"{TMP}: Is a directory" in p.stderr,
          p.stderr)
    p = tool("report", "-o", path("no/such/dir.html"), good)
    check("output that cannot be", p.returncode == 1 and "dir.html: No such file" in p.stderr, p.stderr)
    native = fixtures.metal()
    native["modes"] = native["modes"][:1]
    for w in native["workloads"]:
        w["results"], w["missing"] = {"native": w["results"]["native"]}, {}
    native["breakdown"], native["linux"]["runs"] = [], []
    p = tool("report", "-o", path("never.html"), put("native.bad", native))
    check("only native", p.returncode == 1 and "only native modes" in p.stderr, p.stderr)
    check("nothing was written", not os.path.exists(path("never.html")))


def test_stick():
    """Blanks up to the file's size change nothing."""
    plain = page("plain.html", put("on-stick.json", fixtures.metal()))
    blank = page("blank.html", put("on-stick.json", fixtures.on_stick(fixtures.metal())))
    check("trailing blanks", plain == blank)


# ---- the contents -----------------------------------------------------------------------------------------------------

UNRELATED = {"port"}       # of the fixtures' workloads: their machine is virtual


def ratio_of(workload, mode):
    native, r = workload["results"].get("native"), workload["results"].get(mode)
    return r["median"] / native["median"] if native and r else None


def mean_of(doc, group, mode):
    left_out = set() if doc["machine"]["counting"] else UNRELATED
    logs = [math.log(r) for w in doc["workloads"] if w["group"] == group and w["id"] not in left_out for r in [ratio_of(w, mode)] if r]
    return math.exp(sum(logs) / len(logs)) if logs else None


def labels(*docs):
    return report_data.labels(list(docs), [f"dir/{i}.json" for i in range(len(docs))])


def test_labels():
    metal, hosted, qemu = fixtures.metal(), fixtures.hosted(), fixtures.qemu()
    check("platforms", labels(metal, hosted, qemu) == ["Cupel as OS", "Cupel hosted", "QEMU TCG"], labels(metal, hosted, qemu))
    newer, pc = copy.deepcopy(metal), copy.deepcopy(metal)
    newer["cupel"]["build"] = "bbbbbbb"
    pc["machine"]["cpu"] = "Intel(R) Core(TM) i5-8250U CPU @ 1.60GHz"
    del pc["machine"]["hypervisor"]
    check("versions", labels(metal, newer) == ["Cupel as OS, 0.1 a9c0ca1", "Cupel as OS, 0.1 bbbbbbb"], labels(metal, newer))
    check("machines", labels(metal, pc)[1] == "Cupel on bare metal" and labels(pc, pc | {"machine": {**pc["machine"], "cpu": "Ryzen"}})
          == ["Cupel on bare metal, Intel Core i5-8250U", "Cupel on bare metal, Ryzen"], labels(metal, pc))
    check("counts", labels(metal, fixtures.counting())[1] == "Cupel as OS (counts)", labels(metal, fixtures.counting()))
    check("nothing differs", labels(metal, metal) == ["Cupel as OS, 0.json #1", "Cupel as OS, 1.json #2"], labels(metal, metal))


def test_figures():
    rows = [(0.0004321, "<0.01"), (0.0512, "0.05"), (0.14, "0.14"), (0.906, "0.91"), (1, "1.00"), (1.0149, "1.01"), (9.996, "10.0"),
            (74.06, "74.1"),
            (112.4, "112"), (99999, "99999")]
    for value, text in rows:
        check(f"times({value})", report_data.times(value) == text + "\u202f×", report_data.times(value))
    for ns, text in ((0.0381, "0.0381 ns"), (999.9, "1.00 µs"), (61.4, "61.4 ns"), (2950, "2.95 µs"), (713e6, "713 ms"),
                     (2.27e9, "2.27 s")):
        check(f"duration({ns})", report_data.duration(ns).replace("\u202f", " ") == text, report_data.duration(ns))


def test_axes():
    """Axes of all sizes: a few labels, none upon another, 1 among them, everything inside."""
    rnd = random.Random(3)
    for _ in range(300):
        values = [math.exp(rnd.uniform(math.log(0.02), math.log(500))) ** rnd.choice([1, 0.3, 0.05]) for _ in range(rnd.randrange(1, 9))]
        axis = report_charts.Axis(values, include=(1,))
        at = [axis.at(t) for t in axis.ticks]
        gaps = [b - a for a, b in zip(at, at[1:])]
        ok = 1 in axis.ticks and len(at) >= 2 and (not gaps or min(gaps) >= 8.4) and all(-0.01 <= axis.at(v) <= 100.01
                                                                                         for v in (*values, *axis.ticks))
        if not ok:
            check("axis", False, (values, axis.ticks))
            return
    check("axis", True)


def test_contents():
    metal = fixtures.metal()
    text = page("metal.html", put("metal.json", metal))
    for w in metal["workloads"]:
        ratio = ratio_of(w, "soft")
        shown = report_data.times(ratio) in text or w["id"] in report_data.INTERCEPTED
        check(f"{w['id']} is there", report_charts.e(w["title"]) in text and shown, ratio)
    check("a missing mode's reason", "runs on one processor only" in text)
    check("self-contained", not re.search(r"<script|<link|<img|<iframe|@import|url\((?!#)|(?:src|href)\s*=\s*(?![\"']?#)", text))
    hostile = page("hostile.html", put("hostile.json", fixtures.hostile()))
    check("hostile text is escaped", "<script" not in hostile and "<img" not in hostile and "&lt;script&gt;" in hostile)
    counting = page("counting.html", put("counting.json", fixtures.counting()))
    check("counts are called counts", "exact counts of executed instructions, not times" in counting
          and "the native instructions" in counting
          and "instr.</td>" in counting and not re.search(r"\d\u202fns</td>", counting))
    sparse = page("sparse.html", put("sparse.json", fixtures.sparse()))
    check("cut off", "the run was cut off" in sparse)
    only = fixtures.hosted()
    for w in only["workloads"]:
        w["missing"]["native"] = "none"
        w["results"].pop("native", None)
        for r in w["results"].values():
            for key in ("ratio", "ratio_low", "ratio_high"):
                r.pop(key, None)
    check("without native", "but no ratios" in page("only.html", put("only.json", only)))
    bare = copy.deepcopy(metal)
    del bare["machine"]["hypervisor"]
    of_port = report_data.times(ratio_of(next(w for w in metal["workloads"] if w["id"] == "port"), "soft"))
    drawn = re.search('id="ratio-chart".*<section id="why"', text, re.S)[0], page("bare.html", put("bare.json", bare))
    check("the hypervisor's time is nobody's native time", "natively it is the hypervisor" in drawn[0] and f">{of_port}<" not in drawn[0]
          and f">{of_port}<" in drawn[1], of_port)
    page("three.html", path("metal.json"), put("hosted.json", fixtures.hosted()), put("qemu.json", fixtures.qemu()))


def test_real():
    """What build/cupel itself writes: as the format says, and fit for a page."""
    program = os.path.join(BUILD, "cupel")
    if not os.path.exists(program):
        skip("what cupel writes", f"no {program}: run make hosted")
        return
    options = f"rounds=3,linux=0,ms=1,only=alu+chase-l1,out={path('real.json')}"
    p = subprocess.run([program, "-assay", options], capture_output=True, text=True, timeout=120)
    check("cupel -assay", p.returncode == 0, p.stdout[-500:] + p.stderr[-500:])
    p = tool("assay_check.py", path("real.json"))
    check("what cupel writes is as it says", p.returncode == 0, p.stdout)
    page("real.html", path("real.json"))


def peers(file):
    program = os.path.join(ROOT, "tests", "bench", "assay_peers.py")
    argv = [sys.executable, program, "--rounds", "1", "--out", path("peers.json"), file]
    return subprocess.run(argv, capture_output=True, text=True, timeout=300)


def test_peers_refuse():
    """What assay_peers.py cannot use, it says so before it runs anything."""
    elsewhere = fixtures.metal()
    elsewhere["machine"]["model"] = 99
    for name, doc, says in (("placeholder", {"schema": "cupel-assay/1", "complete": False}, "incomplete"),
                            ("counts", fixtures.counting(), "counts of"), ("elsewhere", elsewhere, "another machine")):
        p = peers(put(name + ".json", doc))
        check(f"peers: {name}", p.returncode == 1 and f"{name}.json: " in p.stderr and says in p.stderr, p.stderr[-300:])
    p = peers(path("absent.json"))
    check("peers: absent", p.returncode == 1 and "absent.json: No such file" in p.stderr, p.stderr[-300:])


def test_peers():
    """QEMU beside what cupel wrote: the result keeps the format, and a wrong checksum is noticed."""
    if not shutil.which("qemu-system-x86_64") or not os.path.exists(path("real.json")) or not os.path.exists(PAYLOAD):
        skip("peers", f"needs qemu-system-x86_64, {BUILD}/cupel and {PAYLOAD}")
        return
    p = peers(path("real.json"))
    check("peers: runs", p.returncode == 0, p.stderr[-500:])
    if p.returncode:
        return
    made = assay_check.load(path("peers.json"))
    with open(path("real.json"), "rb") as f:
        real = json.load(f)
    check("peers: as the format says", not assay_check.problems(made), assay_check.problems(made)[:3])
    ran = {w["id"]: {*w["results"]} for w in made["workloads"]}
    check("peers: all workloads, both emulators", ran == {w["id"]: {"native", "qemu-tcg", "cupel"} for w in real["workloads"]}, ran)
    page("peers.html", path("real.json"), path("peers.json"))
    real["workloads"][-1]["checksum"] = "0xbad"
    p = peers(put("wrong.json", real))
    last = assay_check.load(path("peers.json"))["workloads"][-1]
    check("peers: a wrong checksum", p.returncode == 1 and "instead of 0xbad" in p.stderr and {*last["missing"]} == {"qemu-tcg", "cupel"},
          p.stderr)


# ---- in the browser ---------------------------------------------------------------------------------------------------

PROBE = """(() => {
  const seen = x => x.checkVisibility() && x.getClientRects().length;
  const name = x => (x.nodeName + '.' + (x.getAttribute('class') || '') + ' ' + (x.textContent || '').trim().slice(0, 40)).trim();
  const out = {svgs: 0, empty: [], outside: [], overlaps: [], cut: [], texts: 0, scripts: document.scripts.length,
               wide: document.documentElement.scrollWidth - innerWidth, ground: getComputedStyle(document.body).backgroundColor,
               lanes: [...document.querySelectorAll('#ratio-chart .row:not(.axis) .lane')].filter(seen).length};
  for (const x of document.querySelectorAll('svg')) {
    if (!seen(x)) continue;
    const r = x.getBoundingClientRect();
    out.svgs++;
    if (!x.classList.contains('mark') && (r.width <= 0 || r.height <= 0)) out.empty.push(name(x));
  }
  for (const x of document.querySelectorAll('main *')) {
    if (!seen(x) || x.closest('.scroll') && !x.matches('.scroll') || x.closest('defs')) continue;
    const r = x.getBoundingClientRect();
    if (r.width && (r.right > innerWidth + 0.5 || r.left < -0.5)) out.outside.push(name(x));
  }
  for (const part of document.querySelectorAll('.chart, .cards, header')) {
    const boxes = [], walk = document.createTreeWalker(part, NodeFilter.SHOW_TEXT);
    for (let t; t = walk.nextNode();) {
      if (!t.data.trim() || !seen(t.parentElement)) continue;
      const range = document.createRange();
      range.selectNodeContents(t);
      for (const r of range.getClientRects()) if (r.width > 1) boxes.push([r, t.data.trim(), t]);
      const seg = t.parentElement.closest('svg.seg'), r = range.getBoundingClientRect();
      const s = seg && seg.querySelector('rect').getBoundingClientRect();
      if (s && (r.left < s.left - 0.5 || r.right > s.right + 0.5)) out.cut.push(t.data);
    }
    out.texts += boxes.length;
    for (let i = 0; i < boxes.length; i++) for (let k = 0; k < i; k++) {
      const [a, b] = [boxes[i][0], boxes[k][0]];
      if (boxes[i][2] !== boxes[k][2] && Math.min(a.right, b.right) - Math.max(a.left, b.left) > 1
          && Math.min(a.bottom, b.bottom) - Math.max(a.top, b.top) > 3) out.overlaps.push(boxes[i][1] + ' | ' + boxes[k][1]);
    }
  }
  return JSON.stringify(out);
})()"""


def probe(b):
    return json.loads(b.evaluate(PROBE))


def is_sound(b, name):
    p = probe(b)
    check(f"{name}: no complaints", not b.complaints(), b.complaints())
    check(f"{name}: no requests", not b.requests(), b.requests())
    check(f"{name}: no scripts", p["scripts"] == 0)
    check(f"{name}: SVGs have sizes", p["svgs"] > 20 and not p["empty"], p["empty"][:5])
    check(f"{name}: nothing stands out", p["wide"] <= 0 and not p["outside"], (p["wide"], p["outside"][:5]))
    check(f"{name}: no text on text", p["texts"] > 30 and not p["overlaps"], p["overlaps"][:5])
    check(f"{name}: no cut labels", not p["cut"], p["cut"][:5])
    return p


def test_probes_see(b):
    """The questions asked of good pages, asked of bad ones."""
    with open(path("metal.html"), encoding="utf-8") as f:
        good = f.read()
    breakages = {
        "outside": ("</style>", ".card{min-width:2000px}</style>"),
        "overlaps": ("</style>", ".row .name{margin-left:300px;white-space:nowrap}</style>"),
        "empty": ("</style>", ".small{height:0}</style>"), "cut": ("</style>", ".seg text{font-size:60px}</style>"),
    }
    for key, (old, new) in breakages.items():
        put("broken.html", good.replace(old, new).encode())
        b.load(path("broken.html"))
        check(f"probe sees {key}", probe(b)[key], probe(b))
    put("broken.html", re.sub(r"<meta http-equiv[^>]*>", "",
                              good).replace("<main>", "<main><img src=http://127.0.0.1:9/x><script>console.log(1)</script>").encode())
    b.load(path("broken.html"))
    check("probe sees scripts, requests, complaints", probe(b)["scripts"] and b.requests() and b.complaints())


def test_pages(b):
    for name in ("metal", "three", "hostile", "counting", "sparse", "only", "real", "peers"):
        if name in ("real", "peers") and not os.path.exists(path(name + ".html")):
            continue
        grounds = set()
        for width in (1280, 390):
            b.load(path(name + ".html"), width, dark=width == 390)
            grounds.add(is_sound(b, f"{name} at {width}")["ground"])
        check(f"{name}: light and dark", len(grounds) == 2, grounds)
    b.load(path("three.html"), 390, dark=False)
    is_sound(b, "three at 390, light")


def test_headline(b):
    docs = {"metal": (fixtures.metal(), "soft"), "counting": (fixtures.counting(), "soft"), "three": (fixtures.metal(), "soft")}
    for name, (doc, mode) in docs.items():
        b.load(path(name + ".html"))
        shown = json.loads(b.evaluate("JSON.stringify([...document.querySelectorAll('.card')].map("
                                      "c => [c.dataset.group, c.querySelector('.big').innerText]))"))
        means = {g: mean_of(doc, g, mode) for g in dict.fromkeys(w["group"] for w in doc["workloads"])}
        check(f"{name}: a card per group", [g for g, _ in shown] == list(means), shown)
        lead = b.evaluate("document.querySelector('.lead').innerText")
        for group, text in shown:
            is_, should = float(text.split("\u202f")[0]), means[group]
            check(f"{name}: {group} in the card", abs(is_ / should - 1) < 0.0051, (is_, should))
            check(f"{name}: {group} in the headline", text in lead, (text, lead))
        call = ratio_of(next(w for w in doc["workloads"] if w["id"] == "syscall"), mode)
        check(f"{name}: a system call", f"a system call costs {call:.2f}" in lead, lead)
    peers = b.evaluate("document.querySelector('.card ul').innerText")
    for doc, mode in ((fixtures.hosted(), "soft"), (fixtures.qemu(), "qemu-tcg")):
        check("three: the others in the card", f"{mean_of(doc, 'integer', mode):.2f}" in peers, peers)


def test_choice(b):
    """The check boxes show and hide lanes, without a script."""
    b.load(path("three.html"))
    before = probe(b)["lanes"]
    b.evaluate("document.querySelector('#t-s4').click()")
    more = is_sound(b, "three with one series more")["lanes"]
    b.evaluate("for (const x of document.querySelectorAll('.chips input')) if (x.checked && x.id != 't-s0') x.click()")
    one = probe(b)["lanes"]
    check("choice", before == 3 * one and more == 4 * one and one == len(fixtures.WORKLOADS) - len(UNRELATED), (before, more, one))
    b.evaluate("for (const x of document.querySelectorAll('.chips input')) if (!x.checked) x.click()")
    check("choice of all", is_sound(b, "three with all series")["lanes"] == 8 * one)


def test_print(b):
    b.load(path("three.html"))
    b.call("Emulation.setEmulatedMedia", media="print")
    clipped = b.evaluate("[...document.querySelectorAll('.scroll')].filter(x => x.scrollHeight > x.clientHeight + 1).length")
    check("printed tables are whole", clipped == 0, clipped)
    pdf = b.pdf()
    check("prints", pdf.startswith(b"%PDF") and len(pdf) > 50000, len(pdf))


def in_browser():
    try:
        b = browser.Browser()
    except OSError as e:
        check("browser", False, f"{e}: run tools/deps.sh report")
        return
    try:
        for test in (test_probes_see, test_pages, test_headline, test_choice, test_print):
            case(test, b)
    finally:
        b.close()


try:
    for test in (test_good_files, test_schema_against_jsonschema, test_invariants, test_unreadable, test_stick, test_labels, test_figures,
                 test_axes,
                 test_contents, test_real, test_peers_refuse, test_peers):
        case(test)
    if "nobrowser" in sys.argv[1:]:
        skip("browser", "nobrowser")
    else:
        in_browser()
finally:
    shutil.rmtree(TMP, ignore_errors=True)
finish()
