// The results as JSON. docs/assay.md says what is where.
#include <string.h>

#include "assay/json.h"
#include "assay/run.h"
#include "kernel/base/bits.h"
#include "kernel/base/date.h"
#include "kernel/base/fmt.h"

static const char *utc_text(char *buf, size_t len, u64 seconds)
{
    struct date d = date_of((s64)seconds);
    fmt_snprintf(buf, len, "%04u-%02u-%02uT%02u:%02u:%02uZ", d.year, d.month, d.day, d.hour, d.minute, d.second);
    return buf;
}

static void put_machine(struct json *j, const struct assay *a)
{
    struct cpu_facts f;
    const struct assay_facts *pf = &a->p->facts;
    facts_cpu(&f);
    json_key(j, "machine");
    json_open(j, '{');
    json_put_string(j, "cpu", f.brand);
    json_put_string(j, "vendor", f.vendor);
    json_put_u64(j, "family", f.family);
    json_put_u64(j, "model", f.model);
    json_put_u64(j, "stepping", f.stepping);
    if (pf->microcode[0]) json_put_string(j, "microcode", pf->microcode);
    if (pf->firmware[0]) json_put_string(j, "firmware", pf->firmware);
    json_put_u64(j, "memory_mib", pf->memory / MIB);
    json_put_u64(j, "cores", a->cpus);
    json_put_u64(j, "tsc_hz", a->tsc_hz);
    json_put_bool(j, "tsc_invariant", f.tsc_invariant);
    if (f.hypervisor[0]) json_put_string(j, "hypervisor", f.hypervisor);
    json_put_bool(j, "counting", a->counting);
    json_close(j, '}');
}

static void put_head(struct json *j, const struct assay *a, bool complete)
{
    const struct assay_facts *f = &a->p->facts;
    char t[32];
    json_put_string(j, "schema", "cupel-assay/1");
    json_put_bool(j, "complete", complete);
    json_key(j, "cupel");
    json_open(j, '{');
    json_put_string(j, "version", f->version);
    json_put_string(j, "build", f->build);
    json_put_string(j, "platform", f->platform);
    json_close(j, '}');
    put_machine(j, a);
    json_put_string(j, "started_utc", utc_text(t, sizeof t, f->seconds_1970));
    json_put_milli(j, "seconds", muldiv64(__builtin_ia32_rdtsc() - a->started_tsc, 1000, a->tsc_hz));
    json_put_u64(j, "rounds", a->o->rounds);
    json_put_u64(j, "workload_ms", a->o->ms);
}

// A mode of which there is any result.
static bool mode_used(const struct assay *a, enum mode_id m)
{
    for (unsigned i = 0; i < a->n_workloads; i++)
        if (a->w[i].in[m].n) return true;
    return false;
}

static void put_modes(struct json *j, const struct assay *a)
{
    json_key(j, "modes");
    json_open(j, '[');
    for (unsigned m = 0; m < N_MODES; m++) {
        if (!mode_used(a, m)) continue;
        json_open(j, '{');
        json_put_string(j, "id", modes[m].id);
        json_put_string(j, "title", modes[m].title);
        if (modes[m].native) json_put_bool(j, "native", true);
        if (!modes[m].native) {
            json_put_string(j, "mmu", "soft");
            json_put_string(j, "exit", modes[m].exit_poll ? "poll" : "interrupt");
            json_put_bool(j, "chain", !modes[m].no_chain);
        }
        json_put_u64(j, "cpus", modes[m].all ? a->cpus : 1);
        json_close(j, '}');
    }
    json_close(j, ']');
    json_key(j, "counters");
    json_open(j, '[');
    for (unsigned i = 0; i < a->p->counters.n; i++) json_string(j, a->p->counters.name[i]);
    json_close(j, ']');
}

// Per round with a sample: one number.
static void put_samples(struct json *j, const struct series *s, const char *key, size_t at)
{
    json_key(j, key);
    json_open(j, '[');
    for (unsigned r = 0; r < ASSAY_ROUNDS_MAX; r++)
        if (s->round[r].have) json_u64(j, *(const u64 *)((const u8 *)&s->round[r] + at));
    json_close(j, ']');
}

static void put_disturbed(struct json *j, const struct series *s)
{
    unsigned k = 0;
    json_key(j, "disturbed");
    json_open(j, '[');
    for (unsigned r = 0; r < ASSAY_ROUNDS_MAX; r++) {
        if (!s->round[r].have) continue;
        if (s->round[r].disturbed) json_u64(j, k);
        k++;
    }
    json_close(j, ']');
}

static void put_ratio(struct json *j, const struct workload *w, enum mode_id m)
{
    struct ratio r = rounds_ratio(w, m);
    if (!r.median) return;
    json_put_milli(j, "ratio", r.median);
    json_put_milli(j, "ratio_low", r.low);
    json_put_milli(j, "ratio_high", r.high);
}

static void put_series(struct json *j, const struct workload *w, enum mode_id m)
{
    const struct series *s = &w->in[m];
    json_key(j, modes[m].id);
    json_open(j, '{');
    put_samples(j, s, "ticks", offsetof(struct sample, ticks));
    json_put_u64(j, "median", s->ticks.median);
    json_put_u64(j, "min", s->ticks.min);
    json_put_u64(j, "max", s->ticks.max);
    json_put_milli(j, "spread", stats_ratio(s->ticks.q3 - s->ticks.q1, s->ticks.median));
    if (w->test->latency) {
        put_samples(j, s, "latency_min", offsetof(struct sample, min));
        put_samples(j, s, "latency_max", offsetof(struct sample, max));
    }
    put_disturbed(j, s);
    put_ratio(j, w, m);
    json_close(j, '}');
}

static u64 checksum_of(const struct workload *w)
{
    for (unsigned m = 0; m < N_MODES; m++)
        if (w->in[m].n) return w->in[m].checksum;
    return 0;
}

static void put_workload(struct json *j, const struct workload *w)
{
    const struct assay_test *t = w->test;
    json_open(j, '{');
    json_put_string(j, "id", t->name);
    json_put_string(j, "title", t->title);
    json_put_string(j, "group", t->group);
    json_put_string(j, "unit", t->unit);
    json_put_u64(j, "n", w->n);
    json_put_bool(j, "latency", t->latency);
    json_put_hex(j, "checksum", checksum_of(w));
    json_key(j, "results");
    json_open(j, '{');
    for (unsigned m = 0; m < N_MODES; m++)
        if (w->in[m].n) put_series(j, w, m);
    json_close(j, '}');
    json_key(j, "missing");
    json_open(j, '{');
    for (unsigned m = 0; m < N_MODES; m++)
        if (!w->in[m].n && w->in[m].missing[0]) json_put_string(j, modes[m].id, w->in[m].missing);
    json_close(j, '}');
    json_close(j, '}');
}

static void put_workloads(struct json *j, const struct assay *a)
{
    json_key(j, "workloads");
    json_open(j, '[');
    for (unsigned i = 0; i < a->n_workloads; i++) put_workload(j, &a->w[i]);
    json_close(j, ']');
}

// ---- Linux -------------------------------------------------------------------------------------------------------------------------

// Samples of a mode over the rounds, their median, in an open object.
static void put_rounds(struct json *j, const u64 *v, unsigned n)
{
    json_key(j, "ticks");
    json_open(j, '[');
    for (unsigned i = 0; i < n; i++) json_u64(j, v[i]);
    json_close(j, ']');
    json_put_u64(j, "median", stats_of(v, n).median);
}

static void put_phases(struct json *j, const struct assay *a, enum mode_id m)
{
    json_key(j, "phases");
    json_open(j, '[');
    for (unsigned p = 0; p < LINUX_PHASES; p++) {
        u64 v[ASSAY_ROUNDS_MAX];
        unsigned n = 0;
        for (unsigned r = 0; r < ASSAY_ROUNDS_MAX; r++) {
            const struct linux_boot *b = &a->linux_boot[r][m];
            u64 before = p ? b->run.phase[p - 1] : b->started;
            if (b->have && before && b->run.phase[p] > before) v[n++] = b->run.phase[p] - before;
        }
        if (!n) continue;
        json_open(j, '{');
        json_put_string(j, "id", linux_phases[p].id);
        json_put_string(j, "title", linux_phases[p].title);
        put_rounds(j, v, n);
        json_close(j, '}');
    }
    json_close(j, ']');
}

static void put_operations(struct json *j, const struct assay *a, enum mode_id m)
{
    json_key(j, "operations");
    json_open(j, '[');
    for (unsigned p = 0; p < LINUX_OPS; p++) {
        u64 v[ASSAY_ROUNDS_MAX], units = 0;
        unsigned n = 0;
        for (unsigned r = 0; r < ASSAY_ROUNDS_MAX; r++) {
            const struct linux_boot *b = &a->linux_boot[r][m];
            if (!b->have || !b->run.op[p].n) continue;
            v[n++] = b->run.op[p].ticks;
            units = b->run.op[p].n;
        }
        if (!n) continue;
        json_open(j, '{');
        json_put_string(j, "id", linux_ops[p].id);
        json_put_string(j, "title", linux_ops[p].title);
        json_put_string(j, "unit", linux_ops[p].unit);
        json_put_u64(j, "n", units);
        put_rounds(j, v, n);
        json_close(j, '}');
    }
    json_close(j, ']');
}

static bool linux_used(const struct assay *a, enum mode_id m)
{
    for (unsigned r = 0; r < ASSAY_ROUNDS_MAX; r++)
        if (a->linux_boot[r][m].have) return true;
    return false;
}

static const char *linux_kernel(const struct assay *a)
{
    for (unsigned m = 0; m < N_MODES; m++)
        if (a->linux_boot[0][m].run.kernel[0]) return a->linux_boot[0][m].run.kernel;
    return "";
}

static void put_linux(struct json *j, const struct assay *a)
{
    if (!linux_used(a, MODE_SOFT)) return;
    json_key(j, "linux");
    json_open(j, '{');
    json_put_string(j, "kernel", linux_kernel(a));
    json_key(j, "runs");
    json_open(j, '[');
    for (unsigned m = 0; m < N_MODES; m++) {
        if (!linux_used(a, m)) continue;
        json_open(j, '{');
        json_put_string(j, "mode", modes[m].id);
        put_phases(j, a, m);
        put_operations(j, a, m);
        json_close(j, '}');
    }
    json_close(j, ']');
    json_close(j, '}');
}

static void put_warnings(struct json *j, const struct assay *a)
{
    char text[256];
    json_key(j, "warnings");
    json_open(j, '[');
    for (unsigned i = 0; rounds_warning(a, i, text, sizeof text); i++) json_string(j, text);
    json_close(j, ']');
}

u64 document_write(const struct assay *a, char *buf, u64 size, bool complete)
{
    struct json j;
    json_init(&j, buf, size);
    json_open(&j, '{');
    put_head(&j, a, complete);
    put_modes(&j, a);
    put_workloads(&j, a);
    breakdown_put(&j, a);
    put_linux(&j, a);
    put_warnings(&j, a);
    json_close(&j, '}');
    return j.len;
}
