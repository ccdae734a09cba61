// Time-stamp counters that agree. Every core's clock is its TSC, and a guest's vCPUs on different cores read theirs, so none may be behind
// what another has read. Processors of this century reset their TSCs together, but firmwares have been known to spoil that, and cores that
// are plugged in come later.
//
// Measuring. The boot core asks, the other answers with a reading. Two inequalities per round - the answer was read after the question and
// before the next reading here - bound the difference from both sides; over some rounds they leave an interval as wide as the fastest
// exchange of two cache lines. Only a difference that does not contain zero is one. What is left after moving by the interval's middle is
// less than a message from core to core takes, so nobody can see time go back.
//
// Moving. IA32_TSC_ADJUST, where the processor has it, moves the counter by exactly what is added (SDM 3B 18.17.3). Without it the counter
// itself is written, which loses the ticks between reading and writing; how many shows in the next measurement, and the next attempt
// makes up for them in advance. A hypervisor may ignore either: then the difference stays, and is told by who wanted it gone.
#include "kernel/tsc.h"

#include "kernel/base/bits.h"
#include "kernel/core.h"
#include "kernel/cpu.h"

enum { ROUNDS = 32, ATTEMPTS = 4 };
enum { TSC_READ, TSC_MOVE, TSC_RELEASE };

// ---- on the other core ----

static void tsc_move_here(s64 by)
{
    if (cpu_cpuid_if(7, 0).b & BIT(1)) cpu_wrmsr(MSR_TSC_ADJUST, cpu_rdmsr(MSR_TSC_ADJUST) + (u64)by);
    else cpu_wrmsr(MSR_TSC, cpu_rdtsc() + (u64)by);
}

void tsc_follow(struct core *c)
{
    for (u32 what = TSC_READ; what != TSC_RELEASE;) {
        u32 ask;
        while ((ask = __atomic_load_n(&c->tsc_ask, __ATOMIC_ACQUIRE)) == c->tsc_answer) cpu_pause();
        what = c->tsc_what;
        if (what == TSC_MOVE) tsc_move_here(c->tsc_by);
        if (what == TSC_READ) c->tsc = cpu_rdtsc();
        __atomic_store_n(&c->tsc_answer, ask, __ATOMIC_RELEASE);
    }
}

// ---- on the boot core ----

static void tsc_ask(struct core *c, u32 what, s64 by)
{
    u32 ask = c->tsc_ask + 1;
    c->tsc_what = what;
    c->tsc_by = by;
    __atomic_store_n(&c->tsc_ask, ask, __ATOMIC_RELEASE);
    while (__atomic_load_n(&c->tsc_answer, __ATOMIC_ACQUIRE) != ask) cpu_pause();
}

// The difference is at least low and at most high.
struct interval { s64 low, high; };

static struct interval tsc_measure(struct core *c)
{
    struct interval d = {INT64_MIN, INT64_MAX};
    for (unsigned round = 0; round < ROUNDS; round++) {
        u64 t0 = cpu_rdtsc();
        tsc_ask(c, TSC_READ, 0);
        u64 t1 = cpu_rdtsc();
        s64 low = (s64)(c->tsc - t1), high = (s64)(c->tsc - t0);
        if (low > d.low) d.low = low;
        if (high < d.high) d.high = high;
    }
    return d;
}

static s64 proved(struct interval d) { return d.low > 0 ? d.low : d.high < 0 ? d.high : 0; }

s64 tsc_ahead(struct core *c) { return proved(tsc_measure(c)); }
void tsc_move(struct core *c, s64 by) { tsc_ask(c, TSC_MOVE, by); }
void tsc_release(struct core *c) { tsc_ask(c, TSC_RELEASE, 0); }

s64 tsc_align(struct core *c)
{
    struct interval d = tsc_measure(c);
    s64 lost = 0;
    for (unsigned n = 0; n < ATTEMPTS && proved(d); n++) {
        s64 middle = d.low + (d.high - d.low) / 2;
        if (n) lost -= middle;
        tsc_move(c, lost - middle);
        d = tsc_measure(c);
    }
    return proved(d);
}
