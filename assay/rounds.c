// How much of each workload, how often, and what to think of the figures.
//
// Calibration. A workload's n is the same in every mode, or checksums and ratios would mean nothing. It is found by passes with growing
// n, until a job takes a measurable time, and is then scaled to options.ms natively (kernel tests of a run that has no ring 0 of its own:
// translated), but so that the default translated mode stays within SLOWEST times that. Each step's figure is the least of PROBES runs,
// so that neither translating for the first time nor a neighbour on the machine is taken for the workload.
//
// Warming up. Each measured job comes behind a short one of the same kind: caches are filled and code is translated, as in a program that
// has run for a while. Translation is measured where it is the subject: by the workloads that write code.
//
// Rounds. Each round runs all modes, beginning with another one each time, and each mode all workloads: whatever changes slowly on the
// machine (clock, temperature, neighbours) meets all modes alike. Ratios are taken within a round.
//
// Disturbance. Before each job and after the last, the payload's `clock` test runs: the same number of cycles always. If it takes longer
// or shorter than its usual time on either side of a job, the clock frequency has changed or somebody took the processor away, and the
// sample is marked; so is one in which the bare processor took an interrupt.
#include <string.h>

#include "assay/run.h"
#include "kernel/base/bits.h"
#include "kernel/base/fmt.h"
#include "kernel/base/log.h"
#include "kernel/plat.h"

enum { SLOWEST = 8, PROBE_SHARE = 8, PROBES = 3, GROWTH = 8, STEPS_MAX = 24, WARM_SHARE = 16 };
// The jobs of a workload; behind the last workload a clock more.
enum { WARM, CLOCK, WORK, PER_WORKLOAD, BATCH = (ASSAY_JOBS - CLOCK - 1) / PER_WORKLOAD };
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

// One step: a pass over some that are not done. False: it failed, and nothing is known of any.
static bool probe_pass(struct assay *a, enum mode_id mode, struct probe *p, const unsigned *which, unsigned n, u64 want)
{
    struct pass_job job[ASSAY_JOBS] = {{0}};
    struct pass_result r[ASSAY_JOBS];
    char err[96];
    for (unsigned i = 0; i < n * PROBES; i++) job[i] = (struct pass_job){a->w[which[i / PROBES]].index, p[which[i / PROBES]].n};
    bool ok = pass_run(a, mode, job, n * PROBES, r, err, sizeof err);
    if (!ok && n == 1) {
        struct series *s = &a->w[which[0]].in[mode];
        p[which[0]] = (struct probe){.done = true};
        fmt_snprintf(s->missing, sizeof s->missing, "%s", err);
    }
    if (!ok) return false;
    for (unsigned i = 0; i < n; i++) {
        struct probe *q = &p[which[i]];
        q->ticks = UINT64_MAX;
        for (unsigned k = 0; k < PROBES; k++) q->ticks = min_u64(q->ticks, r[i * PROBES + k].ticks);
        u64 more = n_round(a->w[which[i]].test, q->n * GROWTH);
        q->done = q->ticks * PROBE_SHARE >= want || more == q->n;
        if (!q->done) q->n = more;
    }
    return true;
}

// If one of them ends the pass, each alone: who fails then is left out, with the reason.
static void probe_some(struct assay *a, enum mode_id mode, struct probe *p, const unsigned *which, unsigned n, u64 want)
{
    if (!n || probe_pass(a, mode, p, which, n, want)) return;
    for (unsigned i = 0; n > 1 && i < n; i++) (void)probe_pass(a, mode, p, &which[i], 1, want);
}

static void probe_all(struct assay *a, enum mode_id mode, struct probe *p, u64 want)
{
    for (unsigned i = 0; i < a->n_workloads; i++) {
        p[i] = (struct probe){.n = n_round(a->w[i].test, 1)};
        p[i].done = a->w[i].in[mode].missing[0];
    }
    for (unsigned step = 0; step < STEPS_MAX; step++) {
        unsigned which[ASSAY_JOBS / PROBES], n = 0, open = 0;
        for (unsigned i = 0; i < a->n_workloads; i++) {
            if (p[i].done) continue;
            which[n++] = i;
            open++;
            if (n < ARRAY_SIZE(which)) continue;
            probe_some(a, mode, p, which, n, want);
            n = 0;
        }
        probe_some(a, mode, p, which, n, want);
        if (!open) return;
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
        if (m != mode && modes[m].all == modes[mode].all && w->in[m].round[0].have && w->in[m].checksum != r->checksum && w->test->kind == TEST_USER)
            fmt_snprintf(a->mismatch, sizeof a->mismatch, "%s: the checksum is %#llx in mode %s and %#llx in mode %s", w->test->name,
                         (unsigned long long)w->in[m].checksum, modes[m].id, (unsigned long long)r->checksum, modes[mode].id);
}

// The clocks' usual time is the median of this pass.
static unsigned clock_at(unsigned k) { return k * PER_WORKLOAD + CLOCK; }

static void clock_judge(struct assay *a, const struct pass_result *r, unsigned n, bool *bad)
{
    u64 v[ASSAY_JOBS];
    unsigned k = 0;
    for (unsigned i = clock_at(0); i < n; i = clock_at(k)) v[k++] = r[i].ticks;
    if (!k) return;
    u64 usual = stats_of(v, k).median;
    for (unsigned j = 0; j < k; j++) {
        unsigned i = clock_at(j);
        u64 ratio = stats_ratio(r[i].ticks, usual);
        bad[i] = ratio > 1000 + CLOCK_TOLERANCE || ratio < 1000 - CLOCK_TOLERANCE;
        a->clock_samples++;
        a->clock_disturbed += bad[i];
    }
}

// Workloads `which`, n of them, each between two clocks.
static bool batch_run(struct assay *a, enum mode_id mode, const unsigned *which, unsigned n)
{
    struct pass_job job[ASSAY_JOBS] = {{0}};
    struct pass_result r[ASSAY_JOBS];
    bool bad[ASSAY_JOBS] = {false};
    char err[96];
    if (!n) return true;
    for (unsigned i = 0; i < n; i++) {
        const struct workload *w = &a->w[which[i]];
        struct pass_job *j = job + i * PER_WORKLOAD;
        j[WARM] = (struct pass_job){w->index, n_round(w->test, w->n / WARM_SHARE)};
        j[CLOCK] = (struct pass_job){a->clock, a->clock_n};
        j[WORK] = (struct pass_job){w->index, w->n};
    }
    // Behind the last: its second clock, at the place where one would be.
    job[n * PER_WORKLOAD] = job[n * PER_WORKLOAD + CLOCK] = job[CLOCK];
    if (!pass_run(a, mode, job, n * PER_WORKLOAD + CLOCK + 1, r, err, sizeof err)) {
        struct series *s = &a->w[which[0]].in[mode];
        if (n == 1) fmt_snprintf(s->missing, sizeof s->missing, "%s", err);
        return false;
    }
    clock_judge(a, r, n * PER_WORKLOAD + CLOCK + 1, bad);
    for (unsigned i = 0; i < n; i++) {
        sample_put(a, &a->w[which[i]], mode, &r[i * PER_WORKLOAD + WORK]);
        a->w[which[i]].in[mode].round[a->round].disturbed |= bad[clock_at(i)] || bad[clock_at(i + 1)];
    }
    return true;
}

static void mode_run(struct assay *a, enum mode_id mode)
{
    unsigned which[BATCH], n, i = 0;
    while (i < a->n_workloads) {
        for (n = 0; i < a->n_workloads && n < BATCH; i++)
            if (!a->w[i].in[mode].missing[0]) which[n++] = i;
        if (batch_run(a, mode, which, n)) continue;
        // One of them ended the pass, or did not let it begin: each alone, and who fails then is left out from now on.
        for (unsigned k = 0; k < n; k++) (void)batch_run(a, mode, &which[k], 1);
    }
}

void rounds_one(struct assay *a)
{
    for (unsigned k = 0; k < N_MODES && !a->quit; k++) mode_run(a, (k + a->round) % N_MODES);
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
