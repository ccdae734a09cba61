// Latencies of interrupts: from the moment at which they are due or sent to the handler's first instruction.
//
// The timer is set for a time that varies, so that nothing beats with it. IPIs between processors are measured there and back, through
// memory: the two TSCs need not agree. Checksums count interrupts; a lost one ends the pass.
#include "assay/guest/tests.h"

enum { WAIT_LEAST = 100000, WAIT_VARIES = 0xffff, PAUSE_BETWEEN = 20000 };   // TSC ticks
#define LOST (1ull << 34)                        // TSC ticks: some seconds

SETUP(timer_setup) { lapic_timer_prepare(this_cpu()); }

static NORETURN void lost(const char *what, u64 i) { pass_fail("%s %llu did not come", what, (unsigned long long)i); }

// Ring 3, busy until the number at `hits` is another; ends all the same where that never happens.
static u64 loop_busy(u64 hits, u64 old)
{
    for (u64 i = 0; i < LOST >> 2; i++)
        if (*(volatile u64 *)hits != old) break;
    return 0;
}

static void wait_busy(struct cpu *c, u64 old)
{
    struct timed t = {(u64)loop_busy, (u64)&c->hits, old, 0, 0, 0};
    ring3_run(&t, 0x202);
}

static void wait_halted(struct cpu *c, u64 old)
{
    while (*(volatile u64 *)&c->hits == old) halt();
}

static u64 timer(u64 n, void (*wait)(struct cpu *, u64))
{
    struct cpu *c = this_cpu();
    u64 seed = 77, sum = 0;
    for (u64 i = 0; i < n; i++) {
        u64 old = c->hits, due = lapic_timer_arm(c, WAIT_LEAST + (random_next(&seed) & WAIT_VARIES));
        wait(c, old);
        if (c->hits != old + 1) lost("the timer's interrupt", i);
        latency_add(c, c->tsc > due ? c->tsc - due : 0);    // below the calibration's error
        sum = mix(sum, c->hits - old);
    }
    lapic_timer_off(c);
    return sum;
}

TEST(test_timer) { return timer(n, wait_busy); }
TEST(test_timer_hlt) { return timer(n, wait_halted); }

TEST(test_ipi_self)
{
    struct cpu *c = this_cpu();
    u64 sum = 0;
    for (u64 i = 0; i < n; i++) {
        u64 old = c->hits, sent = rdtsc();
        lapic_send(c, 0, ICR_FIXED | ICR_SELF | VEC_IPI);
        irq_on();
        while (*(volatile u64 *)&c->hits == old)
            if (rdtsc() - sent > LOST) lost("an IPI to itself", i);
        irq_off();
        latency_add(c, c->tsc - sent);
        sum = mix(sum, c->hits - old);
    }
    return sum;
}

// ---- between two processors: 0 sends, 1 takes n of them. What it has had before is noted by its setup, before 0 begins. -----------
SETUP(ipi_setup)
{
    this_cpu()->hits = 0;
}

static u64 ipi_send(u64 n, u64 pause)
{
    const volatile u64 *there = &cpus[1].hits;
    struct cpu *c = this_cpu();
    u64 sum = 0;
    for (u64 i = 0; i < n; i++) {
        for (u64 t = rdtsc(); rdtsc() - t < pause;) relax();
        u64 sent = rdtsc();
        lapic_send(c, (u32)cpus[1].apic_id, ICR_FIXED | VEC_IPI);
        while (*there == i)
            if (pass_aborted() || rdtsc() - sent > LOST) lost("an IPI to the other processor", i);
        latency_add(c, rdtsc() - sent);
        sum = mix(sum, *there - i);
    }
    return sum;
}

static u64 ipi_take(u64 n, bool halted)
{
    struct cpu *c = this_cpu();
    while (*(volatile u64 *)&c->hits != n) {
        if (halted) {
            halt();
            continue;
        }
        irq_on();
        for (unsigned i = 0; i < 1000 && *(volatile u64 *)&c->hits != n; i++) relax();
        irq_off();
        if (pass_aborted()) lost("an IPI from the other processor", c->hits);
    }
    return mix(n, c->hits);
}

TEST(test_ipi) { return ctx->cpu ? ipi_take(n, false) : ipi_send(n, 0); }
TEST(test_ipi_hlt) { return ctx->cpu ? ipi_take(n, true) : ipi_send(n, PAUSE_BETWEEN); }
