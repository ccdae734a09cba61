// The virtual clock under icount: instructions << shift, plus the time that was waited through.
//
// Both parts follow from what the guest executes. Instructions are counted exactly (tcg/run/icount.c), and timers run when the loop is
// between two of them, at the first count at which the clock has reached the deadline. A guest that halts executes nothing, so its clock
// jumps to the next deadline: at once (sleep=off), or when as much real time has gone by (sleep=on). In the second case the host's timer
// ends the sleep, and whatever interrupts it before leaves the clock a little short of the deadline; but the guest sees none of that,
// unless what came was an interrupt for it (a key), which nothing can make deterministic. Otherwise it sleeps on, and runs again at
// exactly the deadline.
#include "devices/icount.h"

#include "devices/clock.h"
#include "devices/devices.h"
#include "kernel/base/bits.h"
#include "kernel/base/log.h"
#include "kernel/plat.h"

static struct {
    struct icount_config cfg;
    struct clock_source source;
    u64 waited;                            // ns; written with the BQL held while no vCPU runs
    struct timer wake;                     // CLOCK_REALTIME_: ends a sleep
} ic;

u64 icount_waited_ns(void) { return __atomic_load_n(&ic.waited, __ATOMIC_RELAXED); }
u64 icount_ns(void) { return (ic.cfg.count() << ic.cfg.shift) + icount_waited_ns(); }

static void woken(void *opaque UNUSED) {}  // the interrupt is all that is wanted

void icount_start(const struct icount_config *cfg)
{
    DEVICE_LOCKED();
    ic.cfg = *cfg;
    ic.waited = 0;
    ic.source = (struct clock_source){.ns = icount_ns, .moved = cfg->moved};
    timer_init(&ic.wake, CLOCK_REALTIME_, woken, NULL);
    clock_set_source(&ic.source);
}

static u64 run_due(void)
{
    if (clock_virtual_deadline() <= icount_ns()) clock_run_virtual();
    return clock_virtual_deadline();
}

// A timer that was armed in the past again gets its turn after one instruction, as it would after the next interrupt of a real timer.
u64 icount_turn_clock(void)
{
    DEVICE_LOCKED();
    u64 due = run_due(), now = icount_ns();
    if (due == UINT64_MAX) return UINT64_MAX;
    if (due <= now) return 1;
    return (due - now + (1ull << ic.cfg.shift) - 1) >> ic.cfg.shift;
}

static void wait_for(u64 ns)
{
    u64 start = plat_time_ns(), passed;
    timer_mod_ns(&ic.wake, start + ns);
    plat_idle();
    timer_del(&ic.wake);
    passed = plat_time_ns() - start;
    __atomic_store_n(&ic.waited, ic.waited + min_u64(passed, ns), __ATOMIC_RELAXED);
}

void icount_wait(void)
{
    DEVICE_LOCKED();
    u64 due = clock_virtual_deadline(), now = icount_ns();
    ASSERT(!plat_in_interrupt(), "waiting in interrupt context%s", "");
    if (due == UINT64_MAX) plat_idle();
    else if (due > now && ic.cfg.sleep) wait_for(due - now);
    else if (due > now) __atomic_store_n(&ic.waited, ic.waited + (due - now), __ATOMIC_RELAXED);
    (void)run_due();
}
