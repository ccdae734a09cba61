"""The charts of tools/report, as inline SVG.

No chart is one big SVG: that would shrink its text on a phone. A chart is rows of HTML, and each lane of a row has an SVG of its own,
as wide as there is room, with horizontal positions in per cent and text in pixels. Lanes of one chart lie without gaps under each
other, so their grid lines meet. A lane belongs to a series by its class, by which CSS hides it. Nothing is said by colour alone: series
have markers, shares have hatches, and both have text.
"""
import html
import math

import assay_check
from report_data import SHARES, SHARE_NAMES, cut, digits, duration, percent, times

STEPS = ((1, 2, 5), (1, 1.5, 2, 3, 5, 7), (1, 1.1, 1.2, 1.3, 1.4, 1.6, 1.8, 2, 2.5, 3, 4, 5, 6, 7, 8))
LEAST_GAP = 0.085        # between the labels "20" and "50" of an axis, as a part of its length: 26 pixels on the smallest phone
TIME_GAP = 0.16          # between "200 ns" and "500 ns"
NAME_ROOM = 7.2          # pixels per character of a label in a segment, of the widest usual font
SMALLEST = 270           # width of a plot on the smallest phone
MARKERS = ("circle", "square", "diamond", "triangle", "ring", "frame")


def e(text):
    return html.escape(str(text), quote=True)


class Axis:
    """A logarithmic or linear axis: `at` gives the position in per cent, `ticks` are the labelled values."""

    def __init__(self, values, log=True, include=(), gap=LEAST_GAP):
        low, high = min([*values, *include]), max([*values, *include])
        self.log, self.gap = log, gap
        if log:
            if high < low * 1.5:
                low, high = low / 1.15, high * 1.15
            pad = (high / low) ** 0.04
            self.low, self.high = math.log(low / pad), math.log(high * pad)
        else:
            self.low, self.high = 0, high * 1.02
        self.ticks = self.choose(low, high, include)

    def at(self, v):
        return 100 * ((math.log(v) if self.log else v) - self.low) / (self.high - self.low)

    def choose(self, low, high, always):
        if not self.log:
            step = next(s for k in range(-3, 13) for s in (10.0 ** k, 2 * 10.0 ** k, 5 * 10.0 ** k) if high / s <= 5)
            return [i * step for i in range(int(high / step) + 1)]
        decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
        ticks = []
        for steps in ((1,), *STEPS):
            every = [s * 10.0 ** k for k in decades for s in steps if low * 0.999 <= s * 10.0 ** k <= high * 1.001]
            wide = self.thin(every, always)
            if len(wide) > len(ticks) and (len(ticks) < 4 or len(wide) == len(every)) and len(wide) <= 9:
                ticks = wide
        return ticks or [low]

    def thin(self, values, always):
        """Values whose labels have room; those of `always` stay."""
        kept = list(always)
        for v in values:
            if v not in kept and all(abs(self.at(v) - self.at(k)) >= 100 * self.gap for k in kept):
                kept.append(v)
        return sorted(kept)


def grid(axis, ident, reference=None):
    """Grid lines, defined once per chart and used by each lane."""
    lines = "".join(f'<line x1="{axis.at(t):.2f}%" x2="{axis.at(t):.2f}%" y1="0" y2="100%" class="{"ref" if t == reference else "grid"}"/>'
                    for t in axis.ticks)
    return f'<svg class="defs" width="1" height="1" aria-hidden="true"><defs><g id="{ident}">{lines}</g></defs></svg>'


def axis_row(axis, label, name, reference=None):
    text = "".join(f'<text x="{axis.at(t):.2f}%" y="13" text-anchor="middle"{" class=one" if t == reference else ""}>{e(label(t))}</text>'
                   for t in axis.ticks)
    return (f'<div class="row axis"><div class="name">{e(name)}</div><div class="lanes"><div class="lane">'
            f'<svg height="18" aria-hidden="true">{text}</svg>'
            '<span class="val"></span></div></div></div>')


def marker(index, x):
    """The marker of series number `index` around (x, 9); x is a length or a percentage."""
    inner = {
        "circle": '<circle r="4.6"/>', "square": '<rect x="-4.2" y="-4.2" width="8.4" height="8.4"/>',
        "diamond": '<rect x="-4" y="-4" width="8" height="8" transform="rotate(45)"/>', "triangle": '<path d="M0-5.2 5 4H-5z"/>',
        "ring": '<circle r="3.9" class="hollow"/>', "frame": '<rect x="-3.6" y="-3.6" width="7.2" height="7.2" class="hollow"/>',
    }[MARKERS[(index + index // 6) % 6]]      # with six colours: 36 pairs
    return f'<svg x="{x}" y="9" width="1" height="1" overflow="visible" class="mark">{inner}</svg>'


def number(series):
    return int(series.key[1:])


def legend_mark(series):
    return f'<svg class="key c{number(series) % 6}" width="14" height="18" aria-hidden="true">{marker(number(series), 7)}</svg>'


def lane(series, svg, value, tip, height=18, marked=False):
    """One series' line in a row. The tip is what the plot shows, in words: for the pointer and for who cannot see it."""
    return (f'<div class="lane {series.key}{"" if series.first else " off"} c{number(series) % 6}" title="{e(tip)}">'
            f'<svg height="{height}" role="img" aria-label="{e(tip)}">{svg}</svg>'
            f'<span class="val">{legend_mark(series) if marked else ""}{e(value)}</span></div>')


def row(name, lanes, ident="", unit="", css=""):
    """ident: the chart's grid lines, drawn behind all lanes."""
    note = f' <small>{e(unit)}</small>' if unit else ""
    back = f'<svg class="back" aria-hidden="true"><use href="#{ident}"/></svg>' if ident else ""
    return f'<div class="row{css}"><div class="name">{e(name)}{note}</div><div class="lanes">{back}{"".join(lanes)}</div></div>'


def dot_lane(series, axis, value, low, high, text, tip, start=None):
    x = lambda v: f"{axis.at(v):.2f}%"
    stem = f'<line x1="{x(start)}" x2="{x(value)}" y1="9" y2="9" class="stem"/>' if start else ""
    bar = "".join(f'<line x1="{x(a)}" x2="{x(b)}" y1="{p}" y2="{q}" class="bar"/>' for a, b, p,
                  q in ((low, high, 9, 9), (low, low, 4, 14), (high, high, 4, 14)))
    return lane(series, f'{stem}{bar}{marker(number(series), x(value))}', text, tip)


def empty_lane(series, why):
    return lane(series, "", "–", why)


def why_missing(series, workload_id):
    """Why a series has no ratio for a workload, in words."""
    w, native, result = series.results(workload_id)
    missing = (w or {}).get("missing", {})
    if not w:
        return f"{series.label}: not measured"
    if not result:
        return f"{series.label}: no result: {missing.get(series.mode['id'], 'not measured')}"
    if native:
        return f"{series.label}: natively it is the hypervisor that does it"
    return f"{series.label}: no native result: {missing.get(series.source.native_of(series.mode), 'not measured')}"


def ratio_axis(report):
    values = [v for x in report.series for i in report.rows for v in x.ratios(i) or ()]
    return Axis(values, include=(1,)) if values else None


def ratio_lane(series, workload_id, axis):
    found = series.ratios(workload_id)
    if not found:
        return empty_lane(series, why_missing(series, workload_id))
    ratio, low, high = found
    tip = f"{series.label}: {times(ratio)} native, middle half of the rounds {digits(low)} to {digits(high)}"
    return dot_lane(series, axis, ratio, low, high, times(ratio), tip, start=1)


def ratio_chart(report):
    """HTML of the ratio chart, or None if there is no ratio at all."""
    axis = ratio_axis(report)
    if not axis:
        return None
    of = "instructions" if all(s.counting for s in report.sources) else "time"
    out = [grid(axis, "g-ratio", 1), axis_row(axis, lambda t: f"{t:g}", f"{of} relative to native", 1)]
    for group, ids in report.groups.items():
        if not any(x.ratio(i) for x in report.series for i in ids):
            continue
        means = [f'<span class="{x.key}{"" if x.first else " off"}">{legend_mark(x) if len(report.series) > 1 else ""}{times(m)}</span>'
                 for x in report.series for m in [report.mean(x, group)[0]] if m]
        out.append(f'<h3>{e(group)} <span class="means">{" ".join(means)}</span></h3>')
        for i in ids:
            if any(x.ratio(i) for x in report.series):
                out.append(row(report.rows[i]["title"], [ratio_lane(x, i, axis) for x in report.series], "g-ratio"))
    return f'<div class="chart" id="ratio-chart">{"".join(out)}</div>'


# ---- stacked bars -----------------------------------------------------------------------------------------------------

VISIBLE = 0.02      # percent of a bar below which there is not a tenth of a pixel to draw


def segments(parts, total, room=SMALLEST):
    """Nested SVGs for [(class, value, name, its figure)]; each shows as much text as has room on the smallest phone."""
    out, x = [], 0.0
    for css, value, name, figure in parts:
        width = 100 * value / total
        pixels = width / 100 * room
        texts = [t for t in (f"{name} {figure}", figure) if len(t) * NAME_ROOM + 8 < pixels]
        text = f'<text x="50%" y="50%" dy=".36em" text-anchor="middle">{e(texts[0])}</text>' if texts else ""
        if width >= VISIBLE:
            out.append(f'<svg x="{x:.3f}%" width="{width:.3f}%" height="100%" class="seg {css}"><rect width="100%" height="100%"/>'
                       f'<rect width="100%" height="100%" class="hatch"/>{text}</svg>')
        x += width
    return "".join(out)


def share_parts(shares):
    return [(f"k-{k}", shares[k], SHARE_NAMES[k], percent(shares[k])) for k in SHARES]


def share_words(shares, least=0.005):
    order = sorted((k for k in SHARES if shares[k] >= least), key=lambda k: -shares[k])
    return ", ".join(f"{SHARE_NAMES[k]} {percent(shares[k])}" for k in order)


def small_bar(shares, room=130):
    return f'<svg class="small" height="14" role="img" aria-label="{e(share_words(shares))}">{segments(share_parts(shares), 1, 0)}</svg>'


def why_lane(series, workload_id, marked):
    shares, ratio = series.shares(workload_id), series.ratio(workload_id)
    if not shares:
        return lane(series, "", "–", f"{series.label}: no breakdown", 20, marked)
    tip = f"{series.label}: {share_words(shares)}"
    if ratio:
        tip += f"; of {times(ratio)} native time {times(ratio * shares['translated'])} in translated code"
    return lane(series, segments(share_parts(shares), 1), times(ratio) if ratio else "–", tip, 20, marked)


def has_shares(series, report):
    return any(b["mode"] == series.mode["id"] and "shares" in b for b in series.source.doc.get("breakdown", ()))


def why_chart(report):
    series = [x for x in report.series if has_shares(x, report)]
    if not series:
        return None
    out = []
    for group, ids in report.groups.items():
        rows = [row(report.rows[i]["title"], [why_lane(x, i, len(report.series) > 1) for x in series]) for i in ids
                if any(x.shares(i) for x in series)]
        out += [f"<h3>{e(group)}</h3>", *rows] if rows else []
    boots = list(dict.fromkeys(b["workload"] for s in report.sources for b in s.doc.get("breakdown", ())
                               if b["workload"].startswith("linux-")))
    rows = [row(i.partition("-")[2], [why_lane(x, i, len(report.series) > 1) for x in series]) for i in boots]
    out += ["<h3>Linux</h3>", *rows] if rows else []
    return f'<div class="chart bars" id="why-chart">{"".join(out)}</div>'


def share_legend(names=SHARE_NAMES):
    return "".join(f'<span><svg class="seg k-{k}" width="16" height="14" aria-hidden="true"><rect width="100%" height="100%"/>'
                   f'<rect width="100%" height="100%" class="hatch"/></svg> {e(names[k])}</span>' for k in SHARES)


# ---- Linux ------------------------------------------------------------------------------------------------------------

def linux_runs(report):
    """[(series, run)] of the boots of Linux."""
    return [(x, r) for x in report.series for r in x.source.doc.get("linux", {}).get("runs", ()) if r["mode"] == x.mode["id"]]


def ns(series, ticks):
    return ticks * 1e9 / series.source.machine["tsc_hz"]


def round_duration(t):
    """An axis' label: "2 µs", not "2.00 µs"."""
    figure, _, unit = duration(t).partition("\u202f") if t else ("0", "", "")
    return f"{float(figure):g}\u202f{unit}" if unit else figure


def phases_chart(report):
    """Boots as bars over time, or None."""
    runs = [(x, r) for x, r in linux_runs(report) if r["phases"]]
    if not runs:
        return None
    totals = {x.key: sum(ns(x, p["median"]) for p in r["phases"]) for x, r in runs}
    axis = Axis(totals.values(), log=False)
    order = list(dict.fromkeys(p["id"] for _, r in runs for p in r["phases"]))
    out = [grid(axis, "g-boot"), axis_row(axis, round_duration, "time since the kernel's entry")]
    for x, r in runs:
        parts = [(f"p{order.index(p['id']) % 6}", ns(x, p["median"]), cut(p["title"], 40), duration(ns(x, p["median"])))
                 for p in r["phases"]]
        tip = f"{x.label}: " + ", ".join(f"{name} {figure}" for _, _, name, figure in parts)
        bar = lane(x, segments(parts, axis.high), duration(totals[x.key]), tip, 26)
        out.append(row(x.label, [bar], "g-boot", css=f' {x.key}{"" if x.first else " off"}'))
    return f'<div class="chart bars" id="boot-chart">{"".join(out)}</div>'


def phase_legend(report):
    titles = {}
    for _, r in linux_runs(report):
        for p in r["phases"]:
            titles.setdefault(p["id"], p["title"])
    return "".join(f'<span><svg class="seg p{i % 6}" width="16" height="14" aria-hidden="true"><rect width="100%" height="100%"/>'
                   f'<rect width="100%" height="100%" class="hatch"/></svg> {e(cut(t, 80))}</span>' for i, t in enumerate(titles.values()))


def operation_lane(series, operations, ident, axis):
    o = operations.get(ident)
    if not o:
        return empty_lane(series, f"{series.label}: not measured")
    one, low, high = (ns(series, v) / o["n"] for v in (o["median"], min(o["ticks"]), max(o["ticks"])))
    return dot_lane(series, axis, one, low, high, duration(one), f"{series.label}: {duration(one)}, {duration(low)} to {duration(high)}")


def timed_lane(series, workload_id, axis):
    w, _, r = series.results(workload_id)
    if not r or series.source.counting:
        return empty_lane(series, why_missing(series, workload_id))
    low, one, high = (ns(series, v) / w["n"] for v in assay_check.quartiles(assay_check.kept(r)))
    return dot_lane(series, axis, one, low, high, duration(one), f"{series.label}: {duration(one)}, {duration(low)} to {duration(high)}")


def times_chart(report):
    """Times of the workloads that have no ratio in any series, or None."""
    timed = [x for x in report.series if not x.source.counting]
    ids = [i for i in report.rows if not any(x.ratio(i) for x in report.series) and any(x.results(i)[2] for x in timed)]
    values = [ns(x, v) / w["n"] for x in timed for i in ids for w, _, r in [x.results(i)] if r for v in assay_check.kept(r)]
    if not values:
        return None
    axis = Axis(values, gap=TIME_GAP)
    out = [grid(axis, "g-time"), axis_row(axis, round_duration, "time of one")]
    out += [row(report.rows[i]["title"], [timed_lane(x, i, axis) for x in report.series], "g-time",
                f"per {cut(report.rows[i]['unit'], 30)}") for i in ids]
    return f'<div class="chart" id="times-chart">{"".join(out)}</div>'


def operations_chart(report):
    runs = [(x, {o["id"]: o for o in r["operations"]}) for x, r in linux_runs(report) if r["operations"]]
    if not runs:
        return None
    values = [ns(x, v) / o["n"] for x, ops in runs for o in ops.values() for v in o["ticks"]]
    axis, names = Axis(values, gap=TIME_GAP), {}
    for _, ops in runs:
        for o in ops.values():
            names.setdefault(o["id"], o)
    out = [grid(axis, "g-op"), axis_row(axis, round_duration, "time of one")]
    out += [row(cut(o["title"], 80), [operation_lane(x, ops, i, axis) for x, ops in runs], "g-op", f"per {cut(o['unit'], 30)}") for i,
            o in names.items()]
    return f'<div class="chart" id="operations-chart">{"".join(out)}</div>'
