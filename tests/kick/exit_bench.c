// exit=interrupt against exit=poll: what the check costs in size and speed, and how long an interrupt waits for a busy guest. Tables on
// standard output.
//
// Latency is measured from the call that posts the interrupt to the first instruction of the guest's handler, which is RDTSC: so it holds
// everything, the host's signal, leaving translated code, the local APIC, the guest's IDT and the first block of the handler. "From the
// core's own handler": posted by a timer's callback that interrupts the guest. "From another core": posted there, so it holds the host's
// way of waking or interrupting a thread. On a machine that is busy otherwise the maximum is the host's scheduler, not ours.
#include "tests/kick/rig.h"

#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "tcg/guest/x86/start.h"
#include "tcg/run/tcg.h"

enum { SAMPLES = 200000, WORKLOADS = 8, REPEATS = 200, SOURCES = 2 };
static const u8 workloads[WORKLOADS] = {K_DEC, K_MEM, K_CALL, K_CHAIN, K_CPUID, K_PORT, K_REP, K_HALT};
static const struct { const char *name; u32 iterations; } loops[BENCHES] = {
    {"dec, jnz", 2000000}, {"5 x alu, jnz", 1000000}, {"2 loads, store, jnz", 500000}, {"call, ret, jnz", 300000},
    {"8 x (inc, jmp), jnz", 100000}, {"branches either way", 1000000}};   // a millisecond: shorter than a turn of the host's scheduler

struct latency { u32 n; u64 median, p999, max; };
static struct result {
    u64 code_bytes, tbs, host_insns, guest_insns, ticks[BENCHES];
    struct latency lat[WORKLOADS][SOURCES];
    u64 pair, counting, kick, again, tsc_hz;
} *results;

static struct {
    const char *kernel;
    struct result *r;
    u64 *samples;
    u32 n;
    s64 to_host;                       // the guest's TSC + this = the host's
    // ---- BQL ----
    struct timer timer;
    u64 raised;
    u32 before;
    bool on;
    u64 rng;
} b = {.rng = 88172645463325252ull};

static u64 guest_tsc(u8 v) { return rig_page()->tsc[v] + (u64)b.to_host; }

static void sample(u64 from, u64 to)
{
    if (b.n < SAMPLES && to > from) b.samples[b.n++] = to - from;
}

static int cmp_u64(const void *a, const void *c)
{
    u64 x = *(const u64 *)a, y = *(const u64 *)c;
    return x < y ? -1 : x > y;
}

static void summarise(struct latency *l)
{
    qsort(b.samples, b.n, sizeof *b.samples, cmp_u64);
    l->n = b.n;
    if (!b.n) return;
    l->median = b.samples[b.n / 2];
    l->p999 = b.samples[(u64)b.n * 999 / 1000];
    l->max = b.samples[b.n - 1];
}

// ---- latency ----

static void raise_here(void *opaque)
{
    volatile struct kick_page *p = rig_page();
    if (b.raised && p->count[VEC_TICK] != b.before) sample(b.raised, guest_tsc(VEC_TICK));
    b.rng = b.rng * 6364136223846793005ull + 1442695040888963407ull;
    timer_mod_ns(&b.timer, clock_ns(CLOCK_REALTIME_) + 40000 + (b.rng >> 40) % 40000);
    b.before = p->count[VEC_TICK];
    b.raised = rig_tsc();
    vcpu_post_interrupt(rig_vcpu(), VEC_TICK, false);
}

static void from_own_handler(u64 ns)
{
    bql_lock();
    b.n = 0;
    b.raised = 0;
    timer_init(&b.timer, CLOCK_REALTIME_, raise_here, NULL);
    timer_mod_ns(&b.timer, clock_ns(CLOCK_REALTIME_));
    bql_unlock();
    rig_sleep_ns(ns);
    bql_lock();
    timer_del(&b.timer);
    bql_unlock();
}

static u32 seen_before;
static bool post_seen(void *arg) { return rig_page()->count[VEC_POST] != seen_before; }

static void from_other_core(u64 ns)
{
    b.n = 0;
    for (u64 end = plat_time_ns() + ns; plat_time_ns() < end;) {
        seen_before = rig_page()->count[VEC_POST];
        u64 from = rig_tsc();
        vcpu_post_interrupt(rig_vcpu(), VEC_POST, false);
        if (!rig_wait(post_seen, NULL, 5 * NS_PER_SEC)) rig_stall("an interrupt");
        sample(from, guest_tsc(VEC_POST));
        rig_pause_ns(20000 + rig_random(20000));
    }
}

static void latencies(u64 ns)
{
    volatile struct kick_page *p = rig_page();
    for (unsigned w = 0; w < WORKLOADS; w++) {
        p->mask = 1u << workloads[w];
        vcpu_post_interrupt(rig_vcpu(), VEC_POST + 1, false);      // out of what it did before
        rig_sleep_ns(20000000);
        from_own_handler(ns);
        summarise(&b.r->lat[w][0]);
        from_other_core(ns);
        summarise(&b.r->lat[w][1]);
    }
}

// ---- speed and size ----

static bool bench_done(void *arg) { return rig_page()->bench == 0; }

static void speeds(unsigned repeats)
{
    volatile struct kick_page *p = rig_page();
    p->mask = 1u << K_HALT;
    for (unsigned n = 0; n < BENCHES; n++) {
        b.r->ticks[n] = UINT64_MAX;
        for (unsigned i = 0; i < repeats; i++) {
            p->iterations = loops[n].iterations;
            p->bench = n + 1;
            vcpu_post_interrupt(rig_vcpu(), VEC_POST + 1, false);
            if (!rig_wait(bench_done, NULL, 60 * NS_PER_SEC)) rig_stall("a timed loop");
            b.r->ticks[n] = min_u64(b.r->ticks[n], p->ticks * 1000 / p->iterations);
        }
    }
}

static void size(void)
{
    const struct tcg *t = rig_vcpu()->tcg;
    const struct translator *tr = rig_vcpu()->tr;
    b.r->code_bytes = tr->used - t->first;
    b.r->tbs = tr->region->n_tbs;
    b.r->host_insns = tr->n_host_insns;
    b.r->guest_insns = tr->n_guest_insns;
}

static void lock_cost(void)
{
    enum { N = 1000000 };
    struct lockstat s = {0};
    u64 t0 = rig_tsc();
    for (int i = 0; i < N; i++) {
        bql_lock();
        bql_unlock();
    }
    u64 t1 = rig_tsc();
    for (int i = 0; i < N; i++) {
        lockstat_taken(&s, 0);
        lockstat_released(&s);
    }
    b.r->pair = (t1 - t0) * 10 / N;
    b.r->counting = (rig_tsc() - t1) * 10 / N;
}

static bool kick_seen(void *arg) { return !__atomic_load_n(&rig_vcpu()->exit_request, __ATOMIC_SEQ_CST); }

// A kick that interrupts, and one that finds it on its way.
static void kick_cost(void)
{
    rig_page()->mask = 1u << K_DEC;
    for (unsigned which = 0; which < 2; which++) {
        b.n = 0;
        for (unsigned n = 0; n < 2000; n++) {
            u64 t0 = rig_tsc();
            vcpu_kick(rig_vcpu());
            u64 t1 = rig_tsc();
            vcpu_kick(rig_vcpu());
            u64 t2 = rig_tsc();
            sample(which ? t1 : t0, which ? t2 : t1);
            if (!rig_wait(kick_seen, NULL, 5 * NS_PER_SEC)) rig_stall("a kick to be seen");
            rig_pause_ns(20000);
        }
        struct latency l;
        summarise(&l);
        *(which ? &b.r->again : &b.r->kick) = l.median;
    }
}

static void measure(void)
{
    bool quick = getenv("CUPEL_BENCH_QUICK");
    rig_page()->self = 1;
    rig_sleep_ns(300000000);
    size();
    rig_page()->self = 0;
    u64 t0 = rig_tsc(), n0 = plat_time_ns();
    b.to_host = (s64)(rig_tsc() - x86_vcpu_tsc(rig_vcpu()));
    speeds(quick ? 20 : REPEATS);
    latencies(quick ? 200000000 : 3 * NS_PER_SEC);
    lock_cost();
    kick_cost();
    b.r->tsc_hz = muldiv64(rig_tsc() - t0, NS_PER_SEC, plat_time_ns() - n0);
}

static void run(unsigned n)
{
    const struct rig_options o = {.exit_poll = n, .pin = true, .kernel = b.kernel};
    b.r = &results[n];
    b.samples = calloc(SAMPLES, sizeof *b.samples);
    CHECK(rig_run(&o, measure) == 0x21);
}
static void run_interrupt(void) { run(0); }
static void run_poll(void) { run(1); }

// ---- tables ----

// v with `digits` decimals (no floating point: REGSONLY); good until the fourth call after.
static const char *fixed(u64 v, unsigned digits)
{
    static char text[4][32];
    static unsigned next;
    char *s = text[next++ % 4];
    u64 unit = digits == 3 ? 1000 : digits == 2 ? 100 : 10;
    snprintf(s, sizeof text[0], "%llu.%0*llu", (ull)(v / unit), (int)digits, (ull)(v % unit));
    return s;
}

static void tables(void)
{
    const struct result *i = &results[0], *p = &results[1];
    printf("TSC %llu MHz. Times in TSC ticks.\n\n%-24s %12s %12s\n", (ull)(i->tsc_hz / 1000000), "", "interrupt", "poll");
#define ROW(name, a, c) printf("%-24s %12s %12s\n", name, fixed(a, 2), fixed(c, 2))
    ROW("blocks", i->tbs * 100, p->tbs * 100);
    ROW("code bytes per block", i->code_bytes * 100 / i->tbs, p->code_bytes * 100 / p->tbs);
    ROW("instructions per block", i->host_insns * 100 / i->tbs, p->host_insns * 100 / p->tbs);
    ROW("per guest instruction", i->host_insns * 100 / i->guest_insns, p->host_insns * 100 / p->guest_insns);
    printf("\n%-24s %12s %12s %12s\n", "ticks per iteration", "interrupt", "poll", "poll costs");
    for (unsigned n = 0; n < BENCHES; n++)
        printf("%-24s %12s %12s %10lld %%\n", loops[n].name, fixed(i->ticks[n], 3), fixed(p->ticks[n], 3),
               (long long)(p->ticks[n] * 100 / i->ticks[n]) - 100);
    static const char *const sources[SOURCES] = {"raised in the core's own handler", "raised on another core"};
    for (unsigned s = 0; s < SOURCES; s++) {
        printf("\nlatency, %s\n%-15s %45s %45s\n%-15s", sources[s], "", "exit=interrupt", "exit=poll", "guest busy with");
        for (unsigned m = 0; m < 2; m++) printf(" %10s %10s %10s %12s", "samples", "median", "99.9 %", "max");
        printf("\n");
        for (unsigned w = 0; w < WORKLOADS; w++) {
            printf("%-15s", kick_kinds[workloads[w]]);
            for (unsigned m = 0; m < 2; m++) {
                const struct latency *l = &results[m].lat[w][s];
                printf(" %10u %10llu %10llu %12llu", l->n, (ull)l->median, (ull)l->p999, (ull)l->max);
            }
            printf("\n");
        }
    }
    printf("\na kick from another core: %llu ticks; one more while it is on its way: %llu\n", (ull)i->kick, (ull)i->again);
    printf("the big lock, taken and released: %s ticks, of which %s for counting\n", fixed(i->pair, 1), fixed(i->counting, 1));
}

int main(int argc, char **argv)
{
    b.kernel = argc > 1 ? argv[1] : "build/tests/kick.elf";
    results = mmap(NULL, 2 * sizeof *results, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    rig_fork("exit=interrupt", run_interrupt);
    rig_fork("exit=poll", run_poll);
    if (results[0].tbs && results[1].tbs) tables();
    return rig_result();
}
