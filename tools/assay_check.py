#!/usr/bin/env python3
"""Checks assay.json files: the schema in docs/assay.schema.json, then what a schema cannot say.

Usage: tools/assay_check.py FILE...      each problem is one line, "FILE: place: what is wrong"; the exit code is 1 if there was one

tools/report uses the same functions: `load` reads a file and raises Unreadable with a message for the user, `problems` lists what is
wrong with its contents, `cross_problems` what is wrong between files. A measurement is believed only if its figures follow from its
samples: medians, quartiles and ratios are computed again here, by the definitions in docs/assay.md.

The schema is interpreted by the function `against`, which knows the keywords that this schema uses and raises an error for any other; the
test compares its verdicts with python3-jsonschema's. So the report needs nothing but Python.
"""
import json
import os
import re
import statistics
import sys

SCHEMA_FILE = os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "docs", "assay.schema.json")
FORMAT = "cupel-assay/1"
TYPES = {"object": dict, "array": list, "string": str, "boolean": bool}
ANNOTATIONS = {"$schema", "$id", "$defs", "title", "description", "then"}      # "then" is looked at together with "if"
WRITERS = "boot the entry 'assay' of Cupel's stick, or run build/cupel -assay"


class Unreadable(Exception):
    """What is wrong with a file and what to do about it; begins with the file's name."""


# ---- reading ----------------------------------------------------------------------------------------------------------

def no_constant(name):
    raise ValueError(f"{name} is no JSON number")


def no_doubles(pairs):
    d = dict(pairs)
    if len(d) != len(pairs):
        names = [k for k, _ in pairs]
        raise ValueError("the key %r twice in one object" % next(k for k in names if names.count(k) > 1))
    return d


def parse(path, data):
    """bytes -> the object. Blanks and NUL bytes behind it are what fills the file on a stick."""
    text = data.rstrip(b"\0 \t\r\n")
    if not text:
        raise Unreadable(f"{path}: empty: no results were written; {WRITERS}, and wait until it says that it has written the file")
    try:
        doc = json.loads(text.decode("utf-8-sig"), parse_constant=no_constant, object_pairs_hook=no_doubles)
    except UnicodeDecodeError as e:
        raise Unreadable(f"{path}: byte {e.start} is not UTF-8: this is not an assay.json, or it is damaged; copy it again") from None
    except json.JSONDecodeError as e:
        cut = e.pos >= len(e.doc.rstrip()) or e.msg.startswith("Unterminated")
        mend = "it ends too early: copy it again, or repeat the run" if cut else f"this is not what Cupel wrote; {WRITERS}"
        raise Unreadable(f"{path}: line {e.lineno} column {e.colno}: {e.msg}: {mend}") from None
    except (ValueError, RecursionError) as e:
        raise Unreadable(f"{path}: {e}: this is not what Cupel wrote; {WRITERS}") from None
    if not isinstance(doc, dict) or "schema" not in doc:
        raise Unreadable(f"{path}: no assay.json: a JSON object with \"schema\": \"{FORMAT}\" is expected; {WRITERS}")
    if doc["schema"] != FORMAT:
        raise Unreadable(f"{path}: format {doc['schema']!r}, and this program reads {FORMAT!r}: use the tools/ of the Cupel that wrote it, "
                         "or measure again")
    return doc


def load(path):
    try:
        with open(path, "rb") as f:
            return parse(path, f.read())
    except OSError as e:
        raise Unreadable(f"{path}: {e.strerror}") from None


# ---- the schema -------------------------------------------------------------------------------------------------------

def is_type(v, name):
    if name in ("number", "integer"):
        if isinstance(v, bool) or not isinstance(v, (int, float)):
            return False
        return name == "number" or isinstance(v, int) or v.is_integer()
    return isinstance(v, TYPES[name])


def same(a, b):
    return type(a) is type(b) and a == b


BOUNDS = {      # keyword: (what it is for, does the value keep it, its name in a message)
    "minimum": (float, lambda v, b: v >= b, "at least"), "maximum": (float, lambda v, b: v <= b, "at most"),
    "exclusiveMinimum": (float, lambda v, b: v > b, "above"),
    "minLength": (str, lambda v, b: len(v) >= b, "a length of at least"),
          "maxLength": (str, lambda v, b: len(v) <= b, "a length of at most"),
    "minItems": (list, lambda v, b: len(v) >= b, "a length of at least"),
          "maxItems": (list, lambda v, b: len(v) <= b, "a length of at most"),
}


def brief(v):
    text = json.dumps(v)
    return text if len(text) <= 60 else text[:57] + "..."


def check_bounds(v, schema, at, found):
    for key, (kind, keeps, name) in BOUNDS.items():
        if key in schema and (is_type(v, "number") if kind is float else isinstance(v, kind)) and not keeps(v, schema[key]):
            found.append((at, f"{brief(v)} where {name} {schema[key]} is expected"))
    if "pattern" in schema and isinstance(v, str) and not re.search(schema["pattern"], v):
        found.append((at, f"{brief(v)} does not look like {schema['pattern']}"))
    if schema.get("uniqueItems") and isinstance(v, list) and any(same(x, y) for i, x in enumerate(v) for y in v[:i]):
        found.append((at, "the same item twice"))


def check_members(v, schema, root, at, found):
    properties, more = schema.get("properties", {}), schema.get("additionalProperties", True)
    for key in schema.get("required", ()):
        if key not in v:
            found.append((at, f"no key \"{key}\""))
    for key, item in v.items():
        place = f"{at}.{key}" if at else key
        if key in properties:
            against(item, properties[key], root, place, found)
        elif more is False:
            found.append((at, f"unknown key {brief(key)}"))
        elif more is not True:
            against(item, more, root, place, found)


KNOWN = ANNOTATIONS | set(BOUNDS) | {"$ref", "type", "const", "enum", "pattern", "uniqueItems", "properties", "required",
                                     "additionalProperties",
                                     "items", "if"}


def against(v, schema, root, at, found):
    """Appends (place, problem) to found for each way in which v does not keep the schema."""
    if set(schema) - KNOWN:
        raise NotImplementedError(f"keywords {set(schema) - KNOWN} in {SCHEMA_FILE}")
    if "$ref" in schema:
        against(v, root["$defs"][schema["$ref"].rpartition("/")[2]], root, at, found)
    if "type" in schema and not is_type(v, schema["type"]):
        found.append((at, f"{brief(v)} where {'an' if schema['type'][0] in 'aeio' else 'a'} {schema['type']} is expected"))
        return
    if "const" in schema and not same(v, schema["const"]):
        found.append((at, f"{brief(v)} where {brief(schema['const'])} is expected"))
    if "enum" in schema and not any(same(v, x) for x in schema["enum"]):
        found.append((at, f"{brief(v)} is none of {', '.join(map(brief, schema['enum']))}"))
    check_bounds(v, schema, at, found)
    if isinstance(v, dict):
        check_members(v, schema, root, at, found)
    if isinstance(v, list) and "items" in schema:
        for i, item in enumerate(v):
            against(item, schema["items"], root, f"{at}[{i}]", found)
    if "if" in schema:
        no = []
        against(v, schema["if"], root, at, no)
        if not no:
            against(v, schema["then"], root, at, found)


def schema_problems(doc):
    with open(SCHEMA_FILE, encoding="utf-8") as f:
        schema = json.load(f)
    found = []
    against(doc, schema, schema, "", found)
    return found


# ---- what a schema cannot say -----------------------------------------------------------------------------------------

def quartiles(samples):
    """(first quartile, median, third) as docs/assay.md defines them."""
    s = sorted(samples)
    if len(s) == 1:
        return s[0], s[0], s[0]
    return tuple(statistics.quantiles(s, n=4, method="inclusive"))


def kept(result):
    """The samples that count: those that nothing disturbed, or all if half of them were disturbed."""
    good = [t for i, t in enumerate(result["ticks"]) if i not in result.get("disturbed", ())]
    return good if 2 * len(good) > len(result["ticks"]) else result["ticks"]


def ratios(result, native, emulated):
    """(ratio, ratio_low, ratio_high) as they follow from the samples."""
    ratio = quartiles(kept(result))[1] / quartiles(kept(native))[1]
    if emulated:
        of_rounds = [t / quartiles(kept(native))[1] for t in kept(result)]
    else:
        bad = {*result.get("disturbed", ()), *native.get("disturbed", ())}
        of_rounds = [a / b for i, (a, b) in enumerate(zip(result["ticks"], native["ticks"])) if i not in bad]
    low, _, high = quartiles(of_rounds or [ratio])
    return ratio, min(low, ratio), max(high, ratio)


def differs(is_, should, part, slack=0):
    return abs(is_ - should) > part * abs(should) + slack


def check_result(r, w, doc, at, found):
    ticks, keeps = r["ticks"], kept(r)
    say = lambda text, place="": found.append((at + place, text))
    if len(ticks) > doc["rounds"]:
        say(f"{len(ticks)} samples of {doc['rounds']} rounds", ".ticks")
    if any(i >= len(ticks) for i in r.get("disturbed", ())):
        return say(f"{r['disturbed']}: there are only samples 0 to {len(ticks) - 1}", ".disturbed")
    first, median, third = quartiles(keeps)
    for key, should, slack in (("median", median, 0.51), ("min", min(keeps), 0), ("max", max(keeps), 0)):
        if differs(r[key], should, 1e-9, slack):
            say(f"{r[key]}, but the samples give {should:g}", "." + key)
    if differs(r["spread"], (third - first) / median, 0, 0.0011 + 1 / median):
        say(f"{r['spread']}, but the samples give {(third - first) / median:.4f}", ".spread")
    if w["latency"] != ("latency_min" in r and "latency_max" in r):
        say("needs latency_min and latency_max" if w["latency"] else "has latency_min or latency_max, and is no latency workload")
    elif w["latency"]:
        rounds = list(zip(r["latency_min"], ticks, r["latency_max"]))
        if not len(r["latency_min"]) == len(ticks) == len(r["latency_max"]) or not all(a <= t / w["n"] <= b for a, t, b in rounds):
            say("a round's average is not between its latency_min and latency_max", ".ticks")


def check_ratio(r, native, mode, emulated, at, found):
    names = ("ratio", "ratio_low", "ratio_high")
    has = [k for k in names if k in r]
    if mode.get("native") or not native:
        if has:
            found.append((at, f"has {has[0]} without a native result to relate to"))
        return
    for key, should in zip(names, ratios(r, native, emulated)):
        if key not in r:
            found.append((at, f"no key \"{key}\", though there is a native result"))
        elif differs(r[key], should, 1e-5, 0.0006 if key == "ratio" else 0.0021):      # (quartiles of rounded ratios)
            found.append((f"{at}.{key}", f"{r[key]}, but the samples give {should:.4f}"))


def check_workload(w, doc, modes, natives, at, found):
    results, missing = w["results"], w.get("missing", {})
    for m in {*results} - set(modes):
        found.append((at, f"mode {m!r} is not in \"modes\""))
    for m in {*results} & {*missing}:
        found.append((at, f"mode {m!r} both has a result and is missing"))
    if doc["complete"]:
        for m in set(modes) - {*results, *missing}:
            found.append((at, f"mode {m!r} has neither a result nor a reason in \"missing\""))
    if results and "checksum" not in w:
        found.append((at, "results, but no \"checksum\""))
    known = {m: r for m, r in results.items() if m in modes}
    for m, r in known.items():
        check_result(r, w, doc, f"{at}.results.{m}", found)
    for m, r in known.items():
        native = known.get(natives.get(modes[m]["cpus"]))
        check_ratio(r, native, modes[m], doc["cupel"]["platform"] == "qemu", f"{at}.results.{m}", found)


def check_breakdown(doc, modes, found):
    ids, seen = {w["id"] for w in doc.get("workloads", ())}, set()
    for i, b in enumerate(doc.get("breakdown", ())):
        at, key = f"breakdown[{i}]", (b["mode"], b["workload"], b["vcpu"])
        if b["mode"] not in modes:
            found.append((at, f"mode {b['mode']!r} is not in \"modes\""))
        elif b["vcpu"] >= modes[b["mode"]]["cpus"]:
            found.append((at, f"vCPU {b['vcpu']} of a mode with {modes[b['mode']]['cpus']}"))
        if b["workload"] not in ids and not b["workload"].startswith("linux-"):
            found.append((at, f"workload {b['workload']!r} is not in \"workloads\""))
        if key in seen:
            found.append((at, "mode, workload and vCPU as in an earlier entry"))
        seen.add(key)
        if {*b.get("counters", ())} - {*doc.get("counters", ())} or ("counters" in b) != ("n" in b):
            found.append((at, "counters need \"n\", and names that are in the list \"counters\""))
        if "shares" not in b:
            continue
        if not {"ticks", "own_cost"} <= {*b}:
            found.append((at, "shares, but not \"ticks\" and \"own_cost\""))
        if differs(sum(b["shares"].values()), 1, 2e-3 + 1e-9):
            found.append((f"{at}.shares", f"the sum is {sum(b['shares'].values()):.4f} instead of 1"))


def check_linux(doc, modes, found):
    runs = doc.get("linux", {}).get("runs", [])
    for i, run in enumerate(runs):
        at = f"linux.runs[{i}]"
        if run["mode"] not in modes or run["mode"] in [r["mode"] for r in runs[:i]]:
            found.append((at, f"mode {run['mode']!r} is not in \"modes\", or comes twice"))
        for part in ("phases", "operations"):
            names = [x["id"] for x in run[part]]
            for k, x in enumerate(run[part]):
                if names.index(x["id"]) != k:
                    found.append((f"{at}.{part}[{k}]", f"{x['id']!r} comes twice"))
                if differs(x["median"], quartiles(x["ticks"])[1], 1e-9, 0.51):
                    found.append((f"{at}.{part}[{k}].median", f"{x['median']}, but the samples give {quartiles(x['ticks'])[1]:g}"))


def invariant_problems(doc):
    found, modes, natives = [], {}, {}
    for i, m in enumerate(doc.get("modes", ())):
        if m["id"] in modes:
            found.append((f"modes[{i}]", f"{m['id']!r} comes twice"))
        if m.get("native") and m["cpus"] in natives:
            found.append((f"modes[{i}]", f"a second native mode with cpus = {m['cpus']}"))
        modes[m["id"]] = m
        if m.get("native"):
            natives[m["cpus"]] = m["id"]
    ids = [w["id"] for w in doc.get("workloads", ())]
    for i, w in enumerate(doc.get("workloads", ())):
        if ids.index(w["id"]) != i:
            found.append((f"workloads[{i}]", f"{w['id']!r} comes twice"))
        check_workload(w, doc, modes, natives, f"workloads[{i}:{w['id']}]", found)
    check_breakdown(doc, modes, found)
    check_linux(doc, modes, found)
    return found


def problems(doc):
    """[(place, what is wrong)]; empty for a good file. A placeholder is a good file."""
    found = schema_problems(doc)
    if not found and not is_placeholder(doc):
        found = [("", f"no key \"{key}\"") for key in ("cupel", "machine", "rounds") if key not in doc] or invariant_problems(doc)
    return found


def is_placeholder(doc):
    """No results at all: what lies on a stick before the first run."""
    return not doc["complete"] and not any(w["results"] for w in doc.get("workloads", ()) if isinstance(w, dict) and w.get("results"))


def cross_problems(docs):
    """[what is wrong between files]; docs: [(name, doc)], each good in itself. Somebody computed wrong if the checksums differ."""
    first, found = {}, []
    for name, doc in docs:
        for w in doc.get("workloads", ()):
            if "checksum" in w:
                other, total = first.setdefault((w["id"], w["n"]), (name, w["checksum"]))
                if int(total, 16) != int(w["checksum"], 16):
                    found.append(f"{w['id']} (n = {w['n']}) has the checksum {total} in {other} and {w['checksum']} in {name}: "
                                 "one of the two computed wrong, or they ran different programs")
    return found


def main():
    if len(sys.argv) < 2 or sys.argv[1].startswith("-"):
        sys.exit(__doc__.split("\n\n")[1])
    docs, bad = [], 0
    for path in sys.argv[1:]:
        try:
            doc = load(path)
            found = [f"{path}: {at + ': ' if at else ''}{text}" for at, text in problems(doc)]
        except Unreadable as e:
            found = [str(e)]
        if found:
            bad += 1
            print("\n".join(found))
        else:
            docs.append((path, doc))
    between = cross_problems(docs)
    print("".join(x + "\n" for x in between) + f"{len(sys.argv) - 1 - bad} good, {bad} bad")
    sys.exit(1 if bad or between else 0)


if __name__ == "__main__":
    main()
