// Where translated time goes: each workload once more, longer, with the profiler on (tcg/run/profile.h), and a boot of Linux. These runs'
// times are not used otherwise. Processor counters, where there are any, are read around the same runs, and around native ones of the
// same length.
#include "assay/json.h"
#include "assay/run.h"
#include "kernel/base/bits.h"
#include "kernel/base/fmt.h"
#include "kernel/plat.h"
#include "tcg/run/profile.h"

enum { BREAKDOWN_MS = 250 };

static const char *const class_names[PROF_N] = {
    [PROF_LOOP] = "loop", [PROF_CODE] = "translated", [PROF_BRIDGE] = "bridges", [PROF_TRANSLATE] = "translation", [PROF_SOFTMMU] = "softmmu",
    [PROF_HELPER] = "helpers", [PROF_EXCEPTION] = "exceptions", [PROF_DEVICE] = "devices", [PROF_WAIT] = "waiting", [PROF_IDLE] = "idle",
    [PROF_INTERRUPT] = "interrupts", [PROF_SELF] = "profiler",
};

static void counters_read(const struct assay *a, u64 *v)
{
    for (unsigned i = 0; i < ASSAY_COUNTERS; i++) v[i] = 0;
    if (a->p->counters.n) a->p->counters.read(v);
}

static void profile_switch(bool on)
{
    bql_lock();
    machine_profile(on);
    bql_unlock();
}

static struct breakdown *breakdown_new(struct assay *a, const char *what, enum mode_id mode, unsigned vcpu)
{
    if (a->n_breakdowns == ARRAY_SIZE(a->breakdown)) return NULL;
    struct breakdown *b = &a->breakdown[a->n_breakdowns++];
    *b = (struct breakdown){.what = what, .mode = mode, .vcpu = vcpu};
    return b;
}

// What is not sampled yet counts provisionally, for what the vCPU just does: it may belong to another class later, so a class can shrink
// a little.
static void profile_put(struct breakdown *b, const struct profile *from, const struct profile *to)
{
    for (unsigned k = 0; k < PROF_N; k++) {
        b->ticks[k] = to->ticks[k] > from->ticks[k] ? to->ticks[k] - from->ticks[k] : 0;
        b->total += b->ticks[k];
        b->samples += to->samples[k] - from->samples[k];
    }
}

static void profile_take(struct assay *a, const char *what, enum mode_id mode, unsigned vcpus)
{
    static const struct profile zero;
    for (unsigned v = 0; v < vcpus; v++) {
        struct profile p;
        struct vcpu_counters n;
        if (!machine_profile_read(v, &p, &n) || !p.total) continue;
        struct breakdown *b = breakdown_new(a, what, mode, v);
        if (!b) return;
        profile_put(b, &zero, &p);
    }
}

// vCPU 0's profile, and the counters, at the last job's beginning and end: the payload's start and its warm-up are left out.
struct watched { const struct assay *a; struct profile p[2]; u64 counters[2][ASSAY_COUNTERS]; };

static void watch_job(void *arg, bool end)
{
    struct watched *w = arg;
    struct vcpu_counters n;
    if (!machine_profile_read(0, &w->p[end], &n)) w->p[end] = (struct profile){0};
    counters_read(w->a, w->counters[end]);
}

// As long as BREAKDOWN_MS translated, where the workload can be so long. A run of that length is never too short to see the payload's
// start beside it.
static u64 long_n(const struct assay *a, const struct workload *w)
{
    u64 want = muldiv64(a->tsc_hz, BREAKDOWN_MS, 1000), have = w->in[MODE_SOFT].ticks.median;
    u64 ms = min_u64(a->o->ms, 10), n = have ? (u64)((u128)w->n * want * ms / 10 / have) : w->n, unit = max_u64(w->test->n_unit, 1);
    if (w->test->n_max) n = min_u64(n, w->test->n_max);
    return max_u64(n / unit * unit, w->n);
}

static void translated_break(struct assay *a, const struct workload *w)
{
    static struct watched seen;
    struct pass_job job[2] = {{w->index, w->n}, {w->index, long_n(a, w)}};
    struct pass_result r[2];
    char err[96];
    seen = (struct watched){.a = a};
    profile_switch(true);
    pass_watch(watch_job, &seen);
    bool ok = pass_run(a, MODE_SOFT, job, 2, r, err, sizeof err);
    pass_watch(NULL, NULL);
    profile_switch(false);
    if (!ok) assay_say(a, "assay: %s: no breakdown: %s", w->test->name, err);
    struct breakdown *b = ok && seen.p[1].total > seen.p[0].total ? breakdown_new(a, w->test->name, MODE_SOFT, 0) : NULL;
    if (!b) return;
    profile_put(b, &seen.p[0], &seen.p[1]);
    b->n = job[1].n;
    for (unsigned i = 0; i < ASSAY_COUNTERS; i++) b->counters[i] = seen.counters[1][i] - seen.counters[0][i];
}

// The counters of the whole pass, of which the workload is nearly all.
static void native_break(struct assay *a, const struct workload *w)
{
    struct pass_job job = {w->index, long_n(a, w)};
    struct pass_result r;
    u64 before[ASSAY_COUNTERS], after[ASSAY_COUNTERS];
    char err[96];
    counters_read(a, before);
    bool ok = pass_run(a, MODE_NATIVE, &job, 1, &r, err, sizeof err);
    counters_read(a, after);
    struct breakdown *b = ok ? breakdown_new(a, w->test->name, MODE_NATIVE, 0) : NULL;
    if (!b) return;
    b->n = job.n;
    for (unsigned i = 0; i < ASSAY_COUNTERS; i++) b->counters[i] = after[i] - before[i];
}

static void linux_break(struct assay *a, enum mode_id mode)
{
    profile_switch(true);
    linux_boot_once(a, mode);
    profile_take(a, "linux-boot", mode, modes[mode].all ? a->cpus : 1);
    profile_switch(false);
}

void breakdown_all(struct assay *a)
{
    assay_say(a, "assay: where the time goes");
    for (unsigned i = 0; i < a->n_workloads && !a->quit; i++) {
        const struct workload *w = &a->w[i];
        if (w->in[MODE_SOFT].n) translated_break(a, w);
        if (a->p->counters.n && w->in[MODE_NATIVE].n) native_break(a, w);
    }
    if (a->g->kernel.data && a->o->linux_rounds && !a->quit) linux_break(a, MODE_SOFT);
    if (a->g->kernel.data && a->o->linux_rounds && !a->quit && a->cpus > 1) linux_break(a, MODE_SOFT_ALL);
}

static void put_counters(struct json *j, const struct assay *a, const struct breakdown *b)
{
    if (!a->p->counters.n || !b->n) return;
    json_put_u64(j, "n", b->n);
    json_key(j, "counters");
    json_open(j, '{');
    for (unsigned i = 0; i < a->p->counters.n; i++) json_put_u64(j, a->p->counters.name[i], b->counters[i]);
    json_close(j, '}');
}

static void put_one(struct json *j, const struct assay *a, const struct breakdown *b)
{
    json_open(j, '{');
    json_put_string(j, "mode", modes[b->mode].id);
    json_put_string(j, "workload", b->what);
    json_put_u64(j, "vcpu", b->vcpu);
    put_counters(j, a, b);
    if (b->total) {
        json_put_u64(j, "ticks", b->total);
        json_put_u64(j, "samples", b->samples);
        json_put_milli(j, "own_cost", stats_ratio(b->ticks[PROF_SELF], b->total));
        json_key(j, "shares");
        json_open(j, '{');
        for (unsigned k = 0; k < PROF_N; k++) json_put_micro(j, class_names[k], (u64)((u128)b->ticks[k] * 1000000 / b->total));
        json_close(j, '}');
    }
    json_close(j, '}');
}

void breakdown_put(struct json *j, const struct assay *a)
{
    json_key(j, "breakdown");
    json_open(j, '[');
    for (unsigned i = 0; i < a->n_breakdowns; i++) put_one(j, a, &a->breakdown[i]);
    json_close(j, ']');
}
