// The table on the console: a line per workload, ratios to native, and what they come to.
#include <string.h>

#include "assay/run.h"
#include "kernel/base/bits.h"
#include "kernel/base/fmt.h"

enum { COLUMN = 10 };

static const enum mode_id columns[] = {MODE_SOFT, MODE_POLL, MODE_UNCHAINED, MODE_SOFT_ALL};
static const char *const heads[] = {"default", "poll", "unchained", "all cores"};

// "1.42", "153": three digits, as many as mean something.
static void ratio_text(char *buf, size_t len, u64 milli)
{
    if (!milli) fmt_snprintf(buf, len, "-");
    else if (milli < 10000) fmt_snprintf(buf, len, "%llu.%02llu", (unsigned long long)(milli + 5) / 1000, (unsigned long long)(milli + 5) % 1000 / 10);
    else if (milli < 100000) fmt_snprintf(buf, len, "%llu.%llu", (unsigned long long)(milli + 50) / 1000, (unsigned long long)(milli + 50) % 1000 / 100);
    else fmt_snprintf(buf, len, "%llu", (unsigned long long)(milli + 500) / 1000);
}

// Time of one unit, or ticks where the TSC counts instructions.
static void unit_text(const struct assay *a, char *buf, size_t len, const struct workload *w, const struct series *s)
{
    if (!s->n) {
        fmt_snprintf(buf, len, "-");
        return;
    }
    u64 milli = a->counting ? muldiv64(s->ticks.median, 1000, w->n) : muldiv64(s->ticks.median, 1000 * NS_PER_SEC, a->tsc_hz) / w->n;
    char t[16];
    ratio_text(t, sizeof t, max_u64(milli, 1));
    fmt_snprintf(buf, len, "%s", t);
}

static void line_print(const struct assay *a, const struct workload *w)
{
    char line[160], cell[24];
    unit_text(a, cell, sizeof cell, w, &w->in[MODE_NATIVE]);
    size_t at = (size_t)fmt_snprintf(line, sizeof line, "%-14s %-12.12s %9s", w->test->name, w->test->unit, cell);
    unit_text(a, cell, sizeof cell, w, &w->in[MODE_SOFT]);
    at += (size_t)fmt_snprintf(line + at, sizeof line - at, " %9s  ", cell);
    for (unsigned c = 0; c < ARRAY_SIZE(columns); c++) {
        struct ratio r = rounds_ratio(w, columns[c]);
        ratio_text(cell, sizeof cell, r.median);
        at += (size_t)fmt_snprintf(line + at, sizeof line - at, "%*s", COLUMN, cell);
    }
    assay_say(a, "%s", line);
}

static void mean_print(const struct assay *a, const char *group)
{
    char line[160], cell[24];
    size_t at = (size_t)fmt_snprintf(line, sizeof line, "%-14s %-12s %9s %9s  ", group, "mean", "", "");
    bool any = false;
    for (unsigned c = 0; c < ARRAY_SIZE(columns); c++) {
        u64 v[ASSAY_TESTS];
        unsigned n = 0;
        for (unsigned i = 0; i < a->n_workloads; i++) {
            u64 r = rounds_ratio(&a->w[i], columns[c]).median;
            if (r && a->w[i].index != a->clock && !strcmp(a->w[i].test->group, group)) v[n++] = r;
        }
        any |= n;
        ratio_text(cell, sizeof cell, stats_geomean(v, n));
        at += (size_t)fmt_snprintf(line + at, sizeof line - at, "%*s", COLUMN, cell);
    }
    if (any) assay_say(a, "%s", line);
}

void table_print(const struct assay *a)
{
    struct cpu_facts f;
    char line[160];
    facts_cpu(&f);
    const char *unit = a->counting ? "instr" : "ns";
    assay_say(a, "Cupel %s (%s) on %s, %u cores, %s", a->p->facts.version, a->p->facts.build, f.brand[0] ? f.brand : f.vendor, a->cpus, a->p->facts.platform);
    if (a->counting) assay_say(a, "The time stamp counter counts instructions here: figures are exact counts, not times.");
    size_t at = (size_t)fmt_snprintf(line, sizeof line, "%-14s %-12s %6s %2s %6s %2s  ", "", "", "native", unit, "transl", unit);
    for (unsigned c = 0; c < ARRAY_SIZE(columns); c++) at += (size_t)fmt_snprintf(line + at, sizeof line - at, "%*s", COLUMN, heads[c]);
    assay_say(a, "%s   (times native)", line);
    const char *group = NULL;
    for (unsigned i = 0; i < a->n_workloads; i++) {
        const struct workload *w = &a->w[i];
        if (group && strcmp(group, w->test->group)) mean_print(a, group);
        group = w->test->group;
        line_print(a, w);
    }
    if (group) mean_print(a, group);
    for (unsigned i = 0; rounds_warning(a, i, line, sizeof line); i++) assay_say(a, "warning: %s", line);
}
