// Time and the hardware timer.
//
// Nanoseconds are the TSC since calibration times a fixed-point factor: one multiplication, any context, no lock, the same on all cores as
// long as the TSC is (invariant TSC, told if absent). The timer is one-shot and armed for the earliest of the users' deadlines; an
// interrupt that comes early (a deadline beyond the 32-bit counter's reach) finds nothing due and arms again.
#include "kernel/timer.h"

#include "kernel/base/log.h"
#include "kernel/calibrate.h"
#include "kernel/console.h"
#include "kernel/cpu.h"
#include "kernel/lapic.h"
#include "kernel/plat_events.h"

static struct {
    u64 tsc0, tsc_hz, lapic_hz, ns_factor;   // ns = ticks * ns_factor >> 32
    u64 wall0_ns;                            // wall clock at tsc0
    u64 deadline[TIMER_USERS];
    bool ready, by_tsc, in_interrupt;        // in_interrupt: the hardware is set once, at the handler's end
} timer = {.deadline = {UINT64_MAX, UINT64_MAX}};

void timer_init(u64 wall_ns, u64 wall_tsc)
{
    struct calibration c;
    if (!calibrate(&c)) panic("no clock: this machine has no HPET, no ACPI PM timer, and CPUID does not say how fast the TSC runs");
    if (!(cpu_cpuid_if(0x80000007, 0).d & BIT(8))) log_warn("this processor's TSC is not invariant; time may drift when it changes speed");
    timer.tsc_hz = c.tsc_hz;
    timer.lapic_hz = c.lapic_hz;
    timer.ns_factor = muldiv64(NS_PER_SEC, 1ull << 32, c.tsc_hz);
    timer.tsc0 = cpu_rdtsc();
    timer.wall0_ns = wall_ns + muldiv64(timer.tsc0 - wall_tsc, NS_PER_SEC, c.tsc_hz);
    timer.by_tsc = lapic_has_tsc_deadline();
    if (timer.by_tsc) lapic_timer_deadline_mode();
    else ASSERT(timer.lapic_hz, "the APIC timer does not count");
    timer.ready = true;
}

bool timer_ready(void) { return timer.ready; }
u64 timer_tsc_hz(void) { return timer.tsc_hz; }
u64 timer_now_ns(void) { return (u64)((u128)(cpu_rdtsc() - timer.tsc0) * timer.ns_factor >> 32); }
u64 timer_wall_ns(void) { return timer.wall0_ns + timer_now_ns(); }

// Sets the hardware for the earliest deadline.
static void timer_program(void)
{
    u64 at = UINT64_MAX;
    for (unsigned i = 0; i < TIMER_USERS; i++) at = min_u64(at, timer.deadline[i]);
    if (timer.by_tsc) {   // 2^60 ns are 36 years, and their ticks fit in 64 bits
        u64 tsc = at == UINT64_MAX ? 0 : timer.tsc0 + (u64)(((u128)min_u64(at, BIT(60)) << 32) / timer.ns_factor) + 1;
        lapic_timer_deadline(tsc);
        return;
    }
    if (at == UINT64_MAX) {
        lapic_timer_start(0, true);
        return;
    }
    u64 now = timer_now_ns(), wait = at > now ? min_u64(at - now, NS_PER_SEC) : 0;   // a second at most: the counter has 32 bits
    u64 count = muldiv64(wait, timer.lapic_hz, NS_PER_SEC) + 1;
    lapic_timer_start((u32)min_u64(count, UINT32_MAX), false);
}

void timer_arm(enum timer_user u, u64 deadline_ns)
{
    if (timer.deadline[u] == deadline_ns) return;
    timer.deadline[u] = deadline_ns;
    if (!timer.in_interrupt) timer_program();
}

void timer_interrupt(void)
{
    u64 now = timer_now_ns();
    bool due[TIMER_USERS];
    for (unsigned i = 0; i < TIMER_USERS; i++)
        if ((due[i] = timer.deadline[i] <= now)) timer.deadline[i] = UINT64_MAX;
    timer.in_interrupt = true;
    const struct plat_events *ev = plat_events_get();
    if (due[TIMER_MACHINE] && ev->timer) {
        bql_lock();
        ev->timer();
        bql_unlock();
    }
    if (due[TIMER_CONSOLE]) console_refresh();
    timer.in_interrupt = false;
    timer_program();
}
