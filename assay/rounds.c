// How much of each workload, how often, and what to think of the figures.
//
// Calibration. A workload's n is the same in every mode, or checksums and ratios would mean nothing. It is found by passes with growing n, until
// a job takes a measurable time, and is then scaled to options.ms natively (kernel tests of a run that has no ring 0 of its own: translated),
// but so that the slowest translated mode stays within SLOWEST times that.
//
// Rounds. Each round runs all modes, beginning with another one each time, and each mode all workloads: whatever changes slowly on the machine
// (clock, temperature, neighbours) meets all modes alike. Ratios are taken within a round.
//
// Disturbance. Before each job and after the last, the payload's `clock` test runs: the same number of cycles always. If it takes longer or shorter than
// its usual time on either side of a job, the clock frequency has changed or somebody took the processor away, and the sample is marked;
// so is one in which the bare processor took an interrupt.
#include <string.h>

#include "assay/run.h"
#include "kernel/base/bits.h"
#include "kernel/base/fmt.h"
#include "kernel/base/log.h"
#include "kernel/plat.h"

enum { SLOWEST = 8, PROBE_SHARE = 8, GROWTH = 8, STEPS_MAX = 24, BATCH = (ASSAY_JOBS - 1) / 2 };
enum { CLOCK_TOLERANCE = 30 };    // thousandths

const struct mode modes[N_MODES] = {
    [MODE_NATIVE] = {.id = "native", .title = "native", .native = true},
    [MODE_SOFT] = {.id = "soft", .title = "translated"},
    [MODE_POLL] = {.id = "soft-poll", .title = "translated, exit=poll", .exit_poll = true},
    [MODE_UNCHAINED] = {.id = "soft-unchained", .title = "translated, chain=off", .no_chain = true},
    [MODE_NATIVE_ALL] = {.id = "native-all", .title = "native, all processors", .native = true, .all = true},
    [MODE_SOFT_ALL] = {.id = "soft-all", .title = "translated, all processors", .all = true},
};

// ---- calibration ---------------------------------------------------------------------------------------------------------------

struct probe { u64 n, ticks; bool done; };

static u64 n_round(const struct assay_test *t, u64 n)
{
    u64 unit = max_u64(t->n_unit, 1);
    if (t->n_max && n > t->n_max) n = t->n_max;
    return max_u64(n / unit * unit, unit);
}

// One step: a pass over all that are not done. A test that fails alone is left out of everything, with the reason.
static void probe_pass(struct assay *a, enum mode_id mode, struct probe *p, const unsigned *which, unsigned n, u64 want)
{
    struct pass_job job[ASSAY_JOBS];
    struct pass_result r[ASSAY_JOBS];
    char err[96];
    unsigned done;
    for (unsigned i = 0; i < n; i++) job[i] = (struct pass_job){a->w[which[i]].index, p[which[i]].n};
    bool ok = pass_run(a, mode, job, n, r, &done, err, sizeof err);
    for (unsigned i = 0; i < done; i++) {
        struct probe *q = &p[which[i]];
        const struct assay_test *t = a->w[which[i]].test;
        q->ticks = r[i].ticks;
        u64 more = n_round(t, q->n * GROWTH);
        q->done = r[i].ticks * PROBE_SHARE >= want || more == q->n;
        if (!q->done) q->n = more;
    }
    if (ok) return;
    p[which[done]].done = true;
    fmt_snprintf(a->w[which[done]].in[mode].missing, sizeof a->w[0].in[0].missing, "%s", err);
}

static void probe_all(struct assay *a, enum mode_id mode, struct probe *p, u64 want)
{
    for (unsigned i = 0; i < a->n_workloads; i++) {
        p[i] = (struct probe){.n = n_round(a->w[i].test, 1)};
        p[i].done = a->w[i].in[mode].missing[0];
    }
    for (unsigned step = 0; step < STEPS_MAX; step++) {
        unsigned which[ASSAY_JOBS], n = 0;
        for (unsigned i = 0; i < a->n_workloads && n < ASSAY_JOBS; i++)
            if (!p[i].done) which[n++] = i;
        if (!n) return;
        probe_pass(a, mode, p, which, n, want);
    }
}

static u64 n_for(const struct probe *p, u64 ticks) { return p->ticks ? (u64)((u128)p->n * ticks / p->ticks) : p->n; }

static void n_choose(struct assay *a, struct workload *w, const struct probe *native, const struct probe *soft, u64 want)
{
    bool has_native = native->ticks;
    u64 n = has_native ? n_for(native, want) : n_for(soft, want);
    if (has_native && soft->ticks) n = min_u64(n, n_for(soft, SLOWEST * want));
    w->n = n_round(w->test, n);
    if (w->index == a->clock) a->clock_n = n_round(w->test, w->n / 16);
}

static bool only_has(const char *only, const char *name)
{
    if (!only[0]) return true;
    for (const char *s = only; *s;) {
        size_t n = strcspn(s, "+");
        if (strlen(name) == n && !memcmp(s, name, n)) return true;
        s += n + (s[n] == '+');
    }
    return false;
}

// The guest's copy of the table stays in place only until the next pass; names and rows are the same then.
static bool workloads_find(struct assay *a, char *err, size_t errlen)
{
    const struct assay_test *t = pass_at(a->guest, a->guest->table);
    a->clock = ASSAY_TESTS;
    for (unsigned i = 0; i < a->guest->n_tests; i++) {
        bool clock = !strcmp(t[i].name, "clock");
        if (clock) a->clock = i;
        if (!clock && !only_has(a->o->only, t[i].name)) continue;
        struct workload *w = &a->w[a->n_workloads++];
        w->test = &a->tests[i];
        a->tests[i] = t[i];
        w->index = i;
        for (unsigned m = 0; m < N_MODES; m++) {
            const char *why = pass_missing(a, m, w->test);
            if (why) fmt_snprintf(w->in[m].missing, sizeof w->in[m].missing, "%s", why);
        }
    }
    if (a->clock < ASSAY_TESTS && a->n_workloads > 1) return true;
    fmt_snprintf(err, errlen, "assay: only=%s names no workload; there are:", a->o->only);
    for (unsigned i = 0; i < a->guest->n_tests; i++) {
        size_t len = strlen(err);
        fmt_snprintf(err + len, errlen - len, " %s", t[i].name);
    }
    return false;
}

bool rounds_calibrate(struct assay *a, char *err, size_t errlen)
{
    static struct probe native[ASSAY_TESTS], soft[ASSAY_TESTS];
    if (!pass_load(a, err, errlen) || !workloads_find(a, err, errlen)) return false;
    u64 want = muldiv64(a->tsc_hz, a->o->ms, 1000);
    if (a->native) probe_all(a, MODE_NATIVE, native, want);
    probe_all(a, MODE_SOFT, soft, want);
    for (unsigned i = 0; i < a->n_workloads; i++) n_choose(a, &a->w[i], &native[i], &soft[i], want);
    return true;
}

// ---- a round ------------------------------------------------------------------------------------------------------------------------

static void sample_put(struct assay *a, struct workload *w, enum mode_id mode, const struct pass_result *r)
{
    struct series *s = &w->in[mode];
    struct sample *x = &s->round[a->round];
    *x = (struct sample){.ticks = r->ticks, .min = r->min, .max = r->max, .have = true, .disturbed = modes[mode].native && r->events};
    a->events += modes[mode].native ? r->events : 0;
    s->checksum = r->checksum;
    for (unsigned m = 0; m < N_MODES && !a->mismatch[0]; m++)
        if (m != mode && w->in[m].round[0].have && w->in[m].checksum != r->checksum && w->test->kind == TEST_USER)
            fmt_snprintf(a->mismatch, sizeof a->mismatch, "%s: the checksum is %#llx in mode %s and %#llx in mode %s", w->test->name,
                         (unsigned long long)w->in[m].checksum, modes[m].id, (unsigned long long)r->checksum, modes[mode].id);
}

// `clock` jobs stand at the even places. Their usual time is the median of this pass.
static void clock_judge(struct assay *a, const struct pass_result *r, unsigned n, bool *bad)
{
    u64 v[ASSAY_JOBS];
    unsigned k = 0;
    for (unsigned i = 0; i < n; i += 2) v[k++] = r[i].ticks;
    u64 usual = stats_of(v, k).median;
    for (unsigned i = 0; i < n; i += 2) {
        u64 ratio = stats_ratio(r[i].ticks, usual);
        bad[i] = ratio > 1000 + CLOCK_TOLERANCE || ratio < 1000 - CLOCK_TOLERANCE;
        a->clock_samples++;
        a->clock_disturbed += bad[i];
    }
}

// Workloads `which`, n of them, each between two clocks.
static unsigned batch_run(struct assay *a, enum mode_id mode, const unsigned *which, unsigned n, char *err, size_t errlen)
{
    struct pass_job job[ASSAY_JOBS];
    struct pass_result r[ASSAY_JOBS];
    bool bad[ASSAY_JOBS] = {false};
    unsigned done;
    for (unsigned i = 0; i < n; i++) {
        job[2 * i] = (struct pass_job){a->clock, a->clock_n};
        job[2 * i + 1] = (struct pass_job){a->w[which[i]].index, a->w[which[i]].n};
    }
    job[2 * n] = job[0];
    (void)pass_run(a, mode, job, 2 * n + 1, r, &done, err, errlen);
    clock_judge(a, r, done, bad);
    unsigned whole = done / 2;                     // a workload that ran, and the clock before it
    for (unsigned i = 0; i < whole; i++) {
        sample_put(a, &a->w[which[i]], mode, &r[2 * i + 1]);
        a->w[which[i]].in[mode].round[a->round].disturbed |= bad[2 * i] || (2 * i + 2 < done && bad[2 * i + 2]);
    }
    return whole;
}

static void mode_run(struct assay *a, enum mode_id mode)
{
    unsigned which[BATCH], n = 0, i = 0;
    char err[96];
    while (i < a->n_workloads) {
        for (n = 0; i < a->n_workloads && n < BATCH; i++)
            if (!a->w[i].in[mode].missing[0]) which[n++] = i;
        for (unsigned from = 0; from < n;) {
            unsigned ran = batch_run(a, mode, which + from, n - from, err, sizeof err);
            from += ran;
            if (from == n) break;
            struct workload *w = &a->w[which[from++]];     // the one in which the pass ended: left out from now on
            fmt_snprintf(w->in[mode].missing, sizeof w->in[mode].missing, "%s", err);
        }
    }
}

void rounds_one(struct assay *a)
{
    for (unsigned k = 0; k < N_MODES; k++) mode_run(a, (k + a->round) % N_MODES);
}

// ---- after the last --------------------------------------------------------------------------------------------------------------

static void series_finish(struct series *s, unsigned rounds)
{
    u64 good[ASSAY_ROUNDS_MAX], all[ASSAY_ROUNDS_MAX];
    unsigned n = 0;
    for (unsigned r = 0; r < rounds; r++) {
        if (!s->round[r].have) continue;
        all[s->n++] = s->round[r].ticks;
        if (!s->round[r].disturbed) good[n++] = s->round[r].ticks;
    }
    s->n_disturbed = s->n - n;
    if (s->n) s->ticks = n * 2 > s->n ? stats_of(good, n) : stats_of(all, s->n);
}

void rounds_finish(struct assay *a)
{
    for (unsigned i = 0; i < a->n_workloads; i++)
        for (unsigned m = 0; m < N_MODES; m++) series_finish(&a->w[i].in[m], a->o->rounds);
}

struct ratio rounds_ratio(const struct workload *w, enum mode_id m)
{
    const struct series *t = &w->in[m], *n = &w->in[modes[m].all ? MODE_NATIVE_ALL : MODE_NATIVE];
    u64 v[ASSAY_ROUNDS_MAX];
    unsigned k = 0;
    if (modes[m].native || !t->n || !n->n) return (struct ratio){0};
    for (unsigned r = 0; r < ASSAY_ROUNDS_MAX; r++) {
        bool good = t->round[r].have && n->round[r].have && !t->round[r].disturbed && !n->round[r].disturbed;
        if (good) v[k++] = stats_ratio(t->round[r].ticks, n->round[r].ticks);
    }
    u64 median = stats_ratio(t->ticks.median, n->ticks.median);
    if (!k) return (struct ratio){median, median, median};
    struct stats s = stats_of(v, k);
    return (struct ratio){median, min_u64(s.q1, median), max_u64(s.q3, median)};
}

// ---- warnings --------------------------------------------------------------------------------------------------------------------

static bool warn_clock(const struct assay *a, char *text, size_t len)
{
    if (a->clock_disturbed * 20 <= a->clock_samples) return false;
    fmt_snprintf(text, len, "the clock frequency changed, or somebody else took the processor: %u of %u times a fixed piece of work took more than %u %% "
                 "longer or shorter than usual beside a sample", a->clock_disturbed, a->clock_samples, CLOCK_TOLERANCE / 10);
    return true;
}

static bool warn_events(const struct assay *a, char *text, size_t len)
{
    if (!a->events) return false;
    fmt_snprintf(text, len, "%llu interrupts came while the bare processor ran a workload", (unsigned long long)a->events);
    return true;
}

static bool warn_samples(const struct assay *a, char *text, size_t len)
{
    unsigned bad = 0, all = 0;
    for (unsigned i = 0; i < a->n_workloads; i++)
        for (unsigned m = 0; m < N_MODES; m++) {
            all += a->w[i].in[m].n > 0;
            bad += a->w[i].in[m].n_disturbed * 2 >= a->w[i].in[m].n && a->w[i].in[m].n;
        }
    if (!bad) return false;
    fmt_snprintf(text, len, "%u of %u medians are of disturbed samples too, as half of the rounds or more were disturbed; a quieter machine gives better ones",
                 bad, all);
    return true;
}

static bool warn_hypervisor(const struct assay *a, char *text, size_t len)
{
    struct cpu_facts f;
    facts_cpu(&f);
    if (!f.hypervisor[0] || a->counting) return false;
    fmt_snprintf(text, len, "this machine is itself a virtual one (%s): native figures are those of its virtual processor", f.hypervisor);
    return true;
}

static bool warn_tsc(const struct assay *a, char *text, size_t len)
{
    struct cpu_facts f;
    facts_cpu(&f);
    if (f.tsc_invariant || a->counting) return false;
    fmt_snprintf(text, len, "this processor does not promise that its TSC runs at a constant rate");
    return true;
}

bool rounds_warning(const struct assay *a, unsigned i, char *text, size_t len)
{
    static bool (*const all[])(const struct assay *, char *, size_t) = {warn_clock, warn_events, warn_samples, warn_hypervisor, warn_tsc};
    for (unsigned k = 0; k < ARRAY_SIZE(all); k++)
        if (all[k](a, text, len) && !i--) return true;
    return false;
}
