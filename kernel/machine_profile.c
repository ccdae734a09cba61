// The profiler's timer and its table. See machine_profile.h.
//
// The timer is on the realtime clock and fires about every millisecond, each time at another distance, or it would beat with the guest's
// own timers and always or never meet their handlers. A firing asks for a sample of the vCPU on its own core, which costs nothing more, and
// of one other, in turns: a kick takes a system call or an IPI, and with one a firing the core of the timer pays the same however many
// vCPUs there are. Samples weigh the time since the last one, so a vCPU that is asked less often counts as much.
//
// What a firing costs is measured, and the next one is at least SPACING times that away: less than 2 % on any machine, by construction.
//
// The first firings are close together: profile_calibrate, on vCPU 0, waits for them to measure what an interrupt costs. A busy host may
// not let it; it is asked again after a while.
#include "kernel/machine_profile.h"

#include "devices/clock.h"
#include "kernel/base/bits.h"
#include "kernel/base/fmt.h"
#include "kernel/plat.h"

#define ull unsigned long long
enum { SPACING = 100, SMOOTH = 16, CLOSE = 64, CLOSE_NS = 60000, RETRY = 256 };
#define PERIOD_NS     1000000ull
#define PERIOD_NS_MAX 50000000ull

static struct {
    struct vcpu **cpus;
    unsigned n;
    // ---- BQL ----
    struct timer timer;
    bool on;
    unsigned turn, close;         // vCPU that was kicked last; firings that are still to come soon
    u32 firings, calibrating;     // calibrating: asked for; vCPU 0 puts it back, atomically
    u64 rng, cost;                // ns of a firing, the median
    u64 tsc0, ns0;
} pr = {.rng = 0x9e3779b97f4a7c15ull};

// xorshift64: 0 .. n-1.
static u64 next_random(u64 n)
{
    pr.rng ^= pr.rng << 13;
    pr.rng ^= pr.rng >> 7;
    pr.rng ^= pr.rng << 17;
    return pr.rng % n;
}

static u64 to_ns(u64 ticks)
{
    u64 dt = __builtin_ia32_rdtsc() - pr.tsc0, dn = plat_time_ns() - pr.ns0;
    return dt ? muldiv64(ticks, dn, dt) : 0;
}

// Of this core's vCPU, and of the next other one that runs.
static void ask(void)
{
    struct vcpu *here = vcpu_current();
    if (here) (void)profile_ask(here);
    for (unsigned n = 1; n <= pr.n; n++) {
        struct vcpu *v = pr.cpus[(pr.turn + n) % pr.n];
        if (v == here || !profile_ask(v)) continue;
        pr.turn = v->index;
        return;
    }
}

static u64 next_distance(void)
{
    if (pr.close && pr.close-- && !profile_interrupt_cost(pr.cpus[0])) return CLOSE_NS;
    u64 period = min_u64(max_u64(PERIOD_NS, pr.cost * SPACING), PERIOD_NS_MAX);
    return period / 2 + next_random(period);
}

// The callback took so many ticks. The estimate goes up or down by a step each time, so it stays where half of them are above it: the host
// may have run something else in between, and a mean would follow that.
static void note_cost(u64 ticks)
{
    u64 known = profile_interrupt_cost(pr.cpus[0]) + profile_timer_cost(pr.cpus[0]);
    if (!known) return;
    u64 cost = to_ns(ticks + known);
    if (!pr.cost) pr.cost = cost;
    else if (cost > pr.cost) pr.cost += pr.cost / SMOOTH;
    else pr.cost -= pr.cost / SMOOTH;
}

static void calibrate(void)
{
    if (profile_interrupt_cost(pr.cpus[0]) || __atomic_exchange_n(&pr.calibrating, 1, __ATOMIC_SEQ_CST)) return;
    pr.close = CLOSE;
    cpu_run_async(pr.cpus[0], profile_calibrate, &pr.calibrating);
}

static void fire(void *opaque UNUSED)
{
    u64 begin = __builtin_ia32_rdtsc();
    ask();
    if (++pr.firings % RETRY == 0) calibrate();
    note_cost(__builtin_ia32_rdtsc() - begin);
    timer_mod_ns(&pr.timer, clock_ns(CLOCK_REALTIME_) + next_distance());
    profile_own(__builtin_ia32_rdtsc() - begin);
}

void profiler_init(struct vcpu **cpus, unsigned n)
{
    pr.cpus = cpus;
    pr.n = n;
    timer_init(&pr.timer, CLOCK_REALTIME_, fire, NULL);
}

static void switch_on(void)
{
    pr.tsc0 = __builtin_ia32_rdtsc();
    pr.ns0 = plat_time_ns();
    for (unsigned n = 0; n < pr.n; n++) profile_start(pr.cpus[n]);
    calibrate();
    timer_mod_ns(&pr.timer, clock_ns(CLOCK_REALTIME_) + CLOSE_NS);
}

void profiler_switch(bool on)
{
    pr.on = on;
    if (on) {
        switch_on();
        return;
    }
    timer_del(&pr.timer);
    for (unsigned n = 0; n < pr.n; n++) profile_stop(pr.cpus[n]);
}

// ---- the table ---------------------------------------------------------------------------------------------------------------------

// In the order of the table: from the guest's work to the host's.
static const u8 columns[PROF_N] = {PROF_CODE, PROF_BRIDGE, PROF_LOOP, PROF_TRANSLATE, PROF_SOFTMMU, PROF_HELPER, PROF_EXCEPTION, PROF_DEVICE,
                                   PROF_WAIT, PROF_IDLE, PROF_INTERRUPT, PROF_SELF};

static void row(const char *name, const struct profile *p, void (*out)(void *o, const char *s), void *o)
{
    char b[200];
    u64 samples = 0, total = p->total ? p->total : 1;
    int n = fmt_snprintf(b, sizeof b, "%4s", name);
    for (unsigned k = 0; k < PROF_N; k++) {
        u64 share = muldiv64(p->ticks[columns[k]], 10000, total);
        samples += p->samples[k];
        n += fmt_snprintf(b + n, sizeof b - (size_t)n, " %5llu.%02llu", (ull)(share / 100), (ull)(share % 100));
    }
    fmt_snprintf(b + n, sizeof b - (size_t)n, " %8llu %8llu\n", (ull)samples, (ull)(to_ns(p->total) / 1000000));
    out(o, b);
}

static void add(struct profile *sum, const struct profile *p)
{
    for (unsigned k = 0; k < PROF_N; k++) {
        sum->ticks[k] += p->ticks[k];
        sum->samples[k] += p->samples[k];
    }
    sum->total += p->total;
}

static void shares(void (*out)(void *o, const char *s), void *o)
{
    char b[200];
    struct profile p, all = {0};
    int n = fmt_snprintf(b, sizeof b, "vCPU");
    for (unsigned k = 0; k < PROF_N; k++) n += fmt_snprintf(b + n, sizeof b - (size_t)n, " %8s", profile_names[columns[k]]);
    fmt_snprintf(b + n, sizeof b - (size_t)n, "  samples       ms\n");
    out(o, b);
    for (unsigned i = 0; i < pr.n; i++) {
        profile_read(pr.cpus[i], &p);
        add(&all, &p);
        fmt_snprintf(b, sizeof b, "%u", i);
        row(b, &p, out, o);
    }
    if (pr.n > 1) row("all", &all, out, o);
}

static void counts(unsigned i, void (*out)(void *o, const char *s), void *o)
{
    char b[400];
    struct vcpu_counters c;
    profile_counters(pr.cpus[i], &c);
    fmt_snprintf(b, sizeof b,
                 "vCPU %u since its start: %llu exits (chain %llu, other page %llu, poll %llu, indirect %llu, loop %llu), %llu TBs of %llu bytes,\n"
                 "    %llu TLB misses, %llu flushes, %llu of a page, %llu helpers, %llu device accesses, %llu writes to code\n",
                 i, (ull)c.exits, (ull)c.exit_kind[0], (ull)c.exit_kind[1], (ull)c.exit_kind[2], (ull)c.exit_kind[3], (ull)c.exit_kind[4], (ull)c.tbs,
                 (ull)c.tb_bytes, (ull)c.tlb_misses, (ull)c.tlb_flushes, (ull)c.tlb_page_flushes, (ull)c.helpers, (ull)c.device_accesses,
                 (ull)c.code_writes);
    out(o, b);
}

void profiler_info(void (*out)(void *o, const char *s), void *o)
{
    char b[160];
    if (!pr.tsc0) {
        out(o, "nothing has been profiled yet (monitor: profile on; option: -d profile; key: profile = on)\n");
        return;
    }
    fmt_snprintf(b, sizeof b, "profile: %s, shares of time in %%; an interrupt costs %llu ticks besides its handler, a sample %llu ns in all\n",
                 pr.on ? "on" : "off", (ull)profile_interrupt_cost(pr.cpus[0]), (ull)pr.cost);
    out(o, b);
    shares(out, o);
    for (unsigned i = 0; i < pr.n; i++) counts(i, out, o);
}
