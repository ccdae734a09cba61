"""The page that tools/report writes: headline, charts, tables, method. One file without scripts, and nothing is loaded from anywhere;
the page forbids itself both, so that a hostile string in a results file could do nothing even if it were not escaped. The choice of
series is CSS.
"""
import os

from report_charts import (e, has_shares, legend_mark, operations_chart, phase_legend, phases_chart, ratio_chart, share_legend, small_bar,
                           times_chart, why_chart, why_missing)
from report_data import (SHARE_DOING, SHARE_MEANING, SHARE_NAMES, SHARES, cpu_name, cut, digits, group_words, hypervisor_name, listing,
                         percent, times, whole)

CSP = "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'"
HATCHES = """<svg class="defs" width="1" height="1" aria-hidden="true"><defs>
<pattern id="h-diagonal" width="6" height="6" patternUnits="userSpaceOnUse" patternTransform="rotate(45)">
  <path d="M0 0V6" class="h"/></pattern>
<pattern id="h-back" width="5" height="5" patternUnits="userSpaceOnUse" patternTransform="rotate(-45)">
  <path d="M0 0V5" class="h"/></pattern>
<pattern id="h-dots" width="5" height="5" patternUnits="userSpaceOnUse"><circle cx="2" cy="2" r="1" class="hd"/></pattern>
<pattern id="h-upright" width="5" height="5" patternUnits="userSpaceOnUse"><path d="M2 0V5" class="h"/></pattern>
<pattern id="h-level" width="5" height="5" patternUnits="userSpaceOnUse"><path d="M0 2H5" class="h"/></pattern>
</defs></svg>"""


def section(ident, title, *parts):
    return f'<section id="{ident}"><h2>{e(title)}</h2>{"".join(p for p in parts if p)}</section>'


def table(head, rows, css=""):
    cells = "".join(f"<th scope=col>{h}</th>" for h in head)
    return f'<div class="scroll {css}" tabindex="0"><table><thead><tr>{cells}</tr></thead><tbody>{"".join(rows)}</tbody></table></div>'


def tr(first, cells):
    return f"<tr><th scope=row>{first}</th>{''.join(f'<td>{c}</td>' for c in cells)}</tr>"


# ---- the top: what it costs, and why --------------------------------------------------------------------------------------

def facts(source):
    """One line: what was measured where and when."""
    under, cores, d = hypervisor_name(source.machine), source.machine["cores"], source.doc
    parts = [cpu_name(source.machine) + (f" under {under}" if under else ""), f"{cores} processors" if cores > 1 else "1 processor",
             f"Cupel {cut(source.cupel['version'] + ' ' + source.cupel['build'], 40)}",
             f"{d['rounds']} round" + ("" if d["rounds"] == 1 else "s")]
    return " · ".join(parts + [d["started_utc"][:10]] if "started_utc" in d else parts)


def lead(report):
    """One sentence, HTML: the subject's means."""
    x = report.subject
    means = [(g, report.mean(x, g)[0]) for g in report.groups]
    found = [(f"<b>{times(m)}</b>", f"on {e(group_words(g))}") for g, m in means if m]
    if not found:
        return "Nothing native was measured that the translated runs could be related to: there are times below, but no ratios."
    native = "executes {} the native instructions {}" if x.source.counting else "takes {} the native time {}"
    text = "Translated code " + listing([native.format(*found[0]), *map(" ".join, found[1:])])
    call = report.system_call()
    return text + (f"; a system call costs <b>{times(call[1])}</b>." if call else ".")


def why(report):
    """Where the time goes in the dearest group, and in the one that is most nearly translated code alone."""
    x = report.subject
    known = [(report.mean(x, g)[0], g, report.mean_shares(x, g)) for g in report.groups]
    known = sorted(k for k in known if k[0] and k[2])
    if not known:
        return ""
    ratio, group, shares = known[-1]
    cost = max((k for k in SHARES if k != "translated"), key=lambda k: shares[k])
    of = "count" if x.source.counting else "time"
    text = f"Why: most is lost on <b>{e(group_words(group))}</b>, where {percent(shares[cost])} of the {of} goes into {SHARE_DOING[cost]}."
    _, pure, best = max(known[:-1], key=lambda k: k[2]["translated"], default=known[-1])
    if pure != group:
        text += f" On <b>{e(group_words(pure))}</b> {percent(best['translated'])} is the translated code itself."
    return f'<p class="why">{text}</p>'


def card(report, group):
    mean, count, of = report.mean(report.subject, group)
    if not mean:
        return ""
    others = [f'<li><span>{legend_mark(x)} {e(x.label)}</span><b>{times(m)}</b></li>' for x in report.shown[1:]
              for m in [report.mean(x, group)[0]] if m]
    shares = report.mean_shares(report.subject, group)
    cost = max((k for k in SHARES if k != "translated"), key=lambda k: shares[k]) if shares else None
    words = f'<p>{percent(shares["translated"])} translated code, {percent(shares[cost])} {SHARE_NAMES[cost]}</p>' if shares else ""
    bar = small_bar(shares) + words if shares else ""
    note = "" if count == of else f" <small>{count} of {of} workloads</small>"
    return (f'<div class="card" data-group="{e(group)}"><h3>{e(group)}{note}</h3><div class="big">{times(mean)}</div>{bar}'
            f'{"<ul>" + "".join(others) + "</ul>" if others else ""}</div>')


def top(report):
    x = report.subject
    of = "instructions" if x.source.counting else "time"
    who = f'{legend_mark(x)} <b>{e(x.label)}</b> · ' if len(report.shown) > 1 else ""
    cards = "".join(card(report, g) for g in report.groups)
    note = f'<p class="note">Geometric means of the workloads\' ratios, {of} translated to {of} native: {times(1)} is as the bare '
    note += "processor does it. "
    note += "The bars show where the time goes.</p>" if 'class="small"' in cards else "</p>"
    banner = ""
    for s in report.sources:
        if s.counting:
            these = f"{e(s.label)}: these" if len(report.sources) > 1 else "These"
            banner += (f'<p class="banner">{these} are exact counts of executed instructions, not times: the machine ran with a clock '
                       "that counts them.</p>")
    cut_off = [s for s in report.sources if not s.doc["complete"]]
    banner += "".join(f'<p class="banner">{e(s.label)}: the run was cut off; its figures are incomplete.</p>' for s in cut_off)
    return (f'<header><h1>What translation costs on {e(cpu_name(x.source.machine))}</h1>'
            f'<p class="subject">{who}{e(facts(x.source))}</p>{banner}'
            f'<p class="lead">{lead(report)}</p>{why(report)}</header>'
            + (f'<div class="cards">{cards}</div>{note}' if cards else ""))


def matrix(report):
    """All series against all groups, for those who compare."""
    if len(report.series) < 2:
        return ""
    groups, rows = [g for g in report.groups if any(report.mean(x, g)[0] for x in report.series)], []
    for x in report.series if groups else ():
        cells = []
        for g in groups:
            mean, count, of = report.mean(x, g)
            cells.append("–" if not mean else times(mean) + ("" if count == of else f" <small>({count} of {of})</small>"))
        rows.append(tr(f"{legend_mark(x)} {e(x.label)}", cells))
    return section("compare", "Side by side", "<p>Geometric means of the ratios to native with as many processors.</p>",
                   table(["", *(e(g) for g in groups)], rows)) if rows else ""


def chooser(report):
    """Which series the charts show: check boxes that CSS looks at, so that no script is needed."""
    if len(report.series) < 2:
        return ""
    boxes = "".join(f'<label><input type="checkbox" id="t-{x.key}"{" checked" if x.first else ""}>{legend_mark(x)} {e(x.label)}</label>'
                    for x in report.series)
    return f'<fieldset class="chips"><legend>Shown in the charts</legend>{boxes}</fieldset>'


def chooser_css(report):
    hidden = "".join(f"body:not(:has(#t-{x.key}:checked)) .{x.key}{{display:none}}" for x in report.series)
    old = "@supports not selector(:has(*)){.off,.chips{display:none}}"      # a browser without :has shows the first modes
    return f"@supports selector(:has(*)){{{hidden}}}{old}" if len(report.series) > 1 else ""


def ratios(report):
    chart, without = ratio_chart(report), times_chart(report)
    timed = ("<h3>Without a native run</h3><p>How long one takes, where there is nothing to relate it to.</p>" + without) if without else ""
    if not chart:
        return section("ratios", "How long it takes", timed) if timed else ""
    left = [(i, x) for i in report.rows for x in report.shown if not x.ratio(i)]
    reasons = {}
    for i, x in left:
        reasons.setdefault(why_missing(x, i), []).append(report.rows[i]["title"])
    notes = "".join(f"<li>{e(cut(', '.join(titles), 300))}: {e(cut(reason, 200))}</li>" for reason, titles in reasons.items())
    return section("ratios", "How many times native",
                   "<p>Dot: the median. Bar: the middle half of the rounds; where the dot hides it, they agree. "
                   "Left of the line at 1 is faster than native.</p>", chart,
                   f"<details><summary>Without a ratio</summary><ul>{notes}</ul></details>" if notes else "", timed)


def breakdown(report):
    chart = why_chart(report)
    if not chart:
        return ""
    return section("why", "Why: where the time goes", f'<p class="legend">{share_legend()}</p>', chart,
                   "" if all(has_shares(x, report) for x in report.shown)
                   else "<p class=note>Only Cupel can be asked where its time goes.</p>")


def linux(report):
    boots, operations = phases_chart(report), operations_chart(report)
    if not boots and not operations:
        return ""
    kernels = {s.doc["linux"]["kernel"] for s in report.sources if "linux" in s.doc}
    return section("linux", "Linux in it", f"<p>Kernel {e(cut(', '.join(sorted(kernels)), 200))}.</p>",
                   f'<h3>The boot</h3><p class="legend">{phase_legend(report)}</p>{boots}' if boots else "",
                   f"<h3>Operations</h3><p>Dot: the median. Bar: the fastest and the slowest round.</p>{operations}" if operations else "")


# ---- tables ---------------------------------------------------------------------------------------------------------------

def figures_cells(x, workload_id):
    """The cells of one line of the big table, or None: this series does not have the workload."""
    w, native, r = x.results(workload_id)
    if not w:
        return None
    missing = w.get("missing", {})
    per = lambda q: x.source.time(q["median"] / w["n"]) if q else "–"
    reason = e(cut(missing.get(x.mode["id"], ""), 120)) if not r else e(cut(missing.get(x.source.native_of(x.mode), ""),
                                                                            120)) if not native else ""
    spread = " / ".join(percent(q["spread"]) if q else "–" for q in (native, r))
    rounds = " / ".join(str(len(q["ticks"])) if q else "–" for q in (native, r))
    disturbed = " / ".join(str(len(q.get("disturbed", ()))) if q else "–" for q in (native, r))
    event = f"{x.source.time(min(r['latency_min']))} to {x.source.time(max(r['latency_max']))}" if r and "latency_min" in r else ""
    ratios = x.ratios(workload_id)
    ratio, low_high = (times(ratios[0]), f"{digits(ratios[1])} to {digits(ratios[2])}") if ratios else ("–", "–")
    return [f"{whole(w['n'])} <small>{e(cut(w['unit'], 40))}</small>", whole(native["median"]) if native else "–", per(native),
            whole(r["median"]) if r else "–", per(r), ratio, low_high, spread, rounds, disturbed, event or reason]


def everything(report):
    head = ["workload", "", "n", "native ticks", "per unit", "translated ticks", "per unit", "ratio", "quartiles", "spread", "rounds",
            "disturbed", "one event, or why there is none"]
    rows = []
    for group, ids in report.groups.items():
        rows.append(f'<tr class="group"><th colspan="{len(head)}" scope="rowgroup">{e(group)}</th></tr>')
        for i in ids:
            for k, (x, cells) in enumerate((x, c) for x in report.series for c in [figures_cells(x, i)] if c):
                name = f'{e(cut(report.rows[i]["title"], 80))} <small>{e(i)}</small>' if not k else ""
                rows.append(tr(name, [e(x.label), *cells]))
    return section("figures", "All figures",
                   "<p>Medians; spread, rounds and disturbed rounds: native / translated. Spread is the distance of the "
                   "quartiles, relative to the median; disturbed rounds are in no other figure.</p>", table(head, rows, "tall"))


def counter_cell(native, translated, name):
    if name not in translated:
        return "–"
    if name not in native:
        return digits(translated[name])
    ratio = f" <small>{times(translated[name] / native[name])}</small>" if native[name] and translated[name] else ""
    return f"{digits(native[name])} → {digits(translated[name])}{ratio}"


def counters(report):
    names = list(dict.fromkeys(c for s in report.sources for c in s.doc.get("counters", ())))
    rows = []
    for i in report.rows if names else ():
        for x in report.shown:
            native, translated = (x.counted_events(i, m) for m in (x.source.native_of(x.mode), x.mode["id"]))
            if translated:
                rows.append(tr(e(cut(report.rows[i]["title"], 80)), [e(x.label), *(counter_cell(native, translated, c) for c in names)]))
    return section("counters", "What the processor counted", "<p>Host events per unit of work, native → translated.</p>",
                   table(["workload", "", *map(e, names)], rows, "tall")) if rows else ""


def machine_rows(s):
    m, d = s.machine, s.doc
    yes = lambda v: "yes" if v else "no"
    return {
        "processor": m["cpu"], "family, model, stepping": f"{m['vendor']} {m['family']}, {m['model']}, {m['stepping']}",
        "microcode": m.get("microcode", "–"),
        "hypervisor": hypervisor_name(m) or "none", "firmware": m.get("firmware", "–"), "processors": m["cores"],
        "memory": f"{whole(m['memory_mib'])} MiB",
        "TSC": f"{digits(m['tsc_hz'] / 1e6, 4)} MHz, " + ("counts instructions" if m["counting"] else "invariant" if m["tsc_invariant"]
                                                          else "not invariant"),
        "ran as": {"metal": "its own operating system", "hosted": "a Linux process",
                   "qemu": s.cupel.get("emulator", "QEMU")}[s.cupel["platform"]],
        "Cupel": f"{s.cupel['version']} {s.cupel['build']}", "started": d.get("started_utc", "–").replace("T", " ").replace("Z", " UTC"),
        "took": f"{digits(d['seconds'])} s" if "seconds" in d else "–", "rounds": d["rounds"], "complete": yes(d["complete"]),
        "file": os.path.basename(s.path),
    }


def machines(report):
    facts = [machine_rows(s) for s in report.sources]
    rows = [tr(e(name), [e(cut(str(f[name]), 200)) for f in facts]) for name in facts[0]]
    modes = "".join(f"<li>{e(s.label)}: " + e("; ".join(mode_words(m) for m in s.modes.values())) + "</li>" for s in report.sources)
    return section("machine", "Machine and versions", table(["", *(e(s.label) for s in report.sources)], rows, "facts"),
                   f"<h3>Modes</h3><ul>{modes}</ul>")


def mode_words(m):
    more = [f"{k}={m[k]}" for k in ("mmu", "exit") if k in m] + ([f"chain={'on' if m['chain'] else 'off'}"] if "chain" in m else [])
    return f"{cut(m['title'])} ({', '.join([m['id'], *more, str(m['cpus']) + (' processor' if m['cpus'] == 1 else ' processors')])})"


def warnings(report, between):
    items = [f"<li>{e(s.label) + ': ' if len(report.sources) > 1 else ''}{e(cut(text, 400))}</li>" for s, text in report.warnings()]
    items += [f"<li>{e(x)}</li>" for x in between]
    return section("warnings", "Warnings", f"<ul>{''.join(items)}</ul>") if items else ""


def method(report):
    counted = """<li>Where the clock counts instructions, <em>ticks</em> are executed instructions, exact and repeatable. They say how
much more there is to execute, and nothing about how long it takes.</li>""" if report.counted() else ""
    target = listing(list(dict.fromkeys(f"{s.doc['workload_ms']:g} ms" for s in report.sources if "workload_ms" in s.doc)) or ["a while"])
    shares = "".join(f"<dt>{e(SHARE_NAMES[k])}</dt><dd>{e(SHARE_MEANING[k])}</dd>" for k in SHARES)
    return section("method", "How it was measured", f"""<ul>
<li>The same machine code runs natively and translated, at the same addresses with the same data, and must give the same checksum; a
result whose checksum differs is not counted.</li>
<li>n is chosen so that a native run takes about {e(target)}, and is the same in all modes.</li>
<li>In each round all modes take their turn, so that a machine that slows down slows all. What is compared is medians of the rounds; a
ratio's bar are the quartiles of the ratios within one round. QEMU takes its turns apart: its samples are related to the native
median.</li>
<li>Time is the TSC's around the workload alone, read by the workload itself. Native runs have the processor for themselves only where
Cupel is the operating system; as a process it shares it with Linux. A round that the clock or an interrupt disturbed is left out, and
counted above.</li>
<li>Several processors: each runs the whole workload at the same time, the slowest counts, and native is with as many.</li>
<li>Means of ratios are geometric; each workload counts the same.</li>{counted}</ul>
<h3>Where time goes</h3><dl>{shares}</dl>""")


def page(report, between):
    """The whole page. between: problems between the files, to be shown as warnings."""
    with open(os.path.join(os.path.dirname(os.path.abspath(__file__)), "report.css"), encoding="utf-8") as f:
        css = f.read() + chooser_css(report)
    parts = [matrix(report), chooser(report), ratios(report), breakdown(report), linux(report), everything(report), counters(report),
             machines(report), warnings(report, between), method(report)]
    titles = {"compare": "Side by side", "ratios": "Ratios", "why": "Why", "linux": "Linux", "figures": "All figures",
              "counters": "Counters", "machine": "Machine", "warnings": "Warnings", "method": "Method"}
    body = "".join(parts)
    nav = "".join(f'<a href="#{i}">{t}</a>' for i, t in titles.items() if f'<section id="{i}">' in body)
    title = e(cut(f"What translation costs on {cpu_name(report.subject.source.machine)}", 100))
    return (f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><meta http-equiv="Content-Security-Policy" content="{CSP}">'
            f'<meta name="viewport" content="width=device-width, initial-scale=1"><meta name="color-scheme" content="light dark">'
            f'<title>{title}</title>'
            f'<style>{css}</style></head><body>{HATCHES}<main>{top(report)}<nav>{nav}</nav>{body}</main></body></html>\n')
