// Time and the hardware timer.
//
// Nanoseconds are the TSC since calibration times a fixed-point factor: one multiplication, any context, no lock, the same on all cores as
// the TSC is (tsc.c; it is invariant, told if not). The timer is one-shot and armed for the earliest of the users' deadlines; an
// interrupt that comes early (a deadline beyond the 32-bit counter's reach) finds nothing due and arms again.
//
// It is the boot core's, the others' stay masked: one place where timers run, as on a PC with one core. Another core that arms it notes
// the deadline, and if that is earlier than what the hardware is set for, sends the boot core the timer's own interrupt, which finds
// nothing due and sets the hardware. That is rare: emulated timers are mostly put off, and a deadline that was put off costs nothing
// until the old one comes. A timer of each core's own would save that interrupt and cost a lock around every list, and the interrupt to
// tell the vCPU that its device has acted.
//
// What an interrupt arms is GAP_NS away at least, or a handler that is late could be followed by itself for ever, and the guest would
// stand.
#include "kernel/hwtimer.h"

#include "kernel/base/log.h"
#include "kernel/calibrate.h"
#include "kernel/console.h"
#include "kernel/core.h"
#include "kernel/cpu.h"
#include "kernel/lapic.h"
#include "kernel/plat_events.h"
#include "kernel/traps.h"

enum { GAP_NS = 2000 };

static struct {
    u64 tsc0, tsc_hz, lapic_hz, ns_factor;   // ns = ticks * ns_factor >> 32
    u64 wall0_ns;                            // wall clock at tsc0
    bool ready, by_tsc;
    u32 home;                                // APIC id of the core that has the timer
    struct ticket_lock lock;                 // the innermost of all; guards the rest
    u64 deadline[HWTIMER_USERS];
    u64 set;                                 // what the hardware is set for, or earlier
    bool in_interrupt;                       // the hardware is set once, at the handler's end
} hwtimer = {.deadline = {UINT64_MAX, UINT64_MAX}, .set = UINT64_MAX};

void hwtimer_init(u64 wall_ns, u64 wall_tsc)
{
    struct calibration c;
    if (!calibrate(&c)) panic("no clock: this machine has no HPET, no ACPI PM timer, and CPUID does not say how fast the TSC runs");
    if (!(cpu_cpuid_if(0x80000007, 0).d & BIT(8))) log_warn("this processor's TSC is not invariant; time may drift when it changes speed");
    hwtimer.tsc_hz = c.tsc_hz;
    hwtimer.lapic_hz = c.lapic_hz;
    hwtimer.ns_factor = muldiv64(NS_PER_SEC, 1ull << 32, c.tsc_hz);
    hwtimer.tsc0 = cpu_rdtsc();
    hwtimer.wall0_ns = wall_ns + muldiv64(hwtimer.tsc0 - wall_tsc, NS_PER_SEC, c.tsc_hz);
    hwtimer.by_tsc = lapic_has_tsc_deadline();
    hwtimer.home = lapic_id();
    if (hwtimer.by_tsc) lapic_timer_deadline_mode();
    else ASSERT(hwtimer.lapic_hz, "the APIC timer does not count");
    log_info("timer: %s", hwtimer.by_tsc ? "TSC deadline" : "APIC countdown");
    hwtimer.ready = true;
}

bool hwtimer_ready(void) { return hwtimer.ready; }
u64 hwtimer_tsc_hz(void) { return hwtimer.tsc_hz; }
u64 hwtimer_now_ns(void) { return (u64)((u128)(cpu_rdtsc() - hwtimer.tsc0) * hwtimer.ns_factor >> 32); }
void hwtimer_wait_ns(u64 ns)
{
    for (u64 end = hwtimer_now_ns() + ns; hwtimer_now_ns() < end;) cpu_pause();
}

u64 hwtimer_wall_ns(void) { return hwtimer.wall0_ns + hwtimer_now_ns(); }

static u64 hwtimer_earliest(void)
{
    u64 at = UINT64_MAX;
    for (unsigned i = 0; i < HWTIMER_USERS; i++) at = min_u64(at, hwtimer.deadline[i]);
    return at;
}

// Sets the hardware for the earliest deadline, but none before `from`. Boot core, lock held.
static void hwtimer_program(u64 from)
{
    u64 at = max_u64(hwtimer_earliest(), from);
    hwtimer.set = at;
    if (hwtimer.by_tsc) {   // 2^60 ns are 36 years, and their ticks fit in 64 bits
        u64 tsc = at == UINT64_MAX ? 0 : hwtimer.tsc0 + (u64)(((u128)min_u64(at, BIT(60)) << 32) / hwtimer.ns_factor) + 1;
        lapic_timer_deadline(tsc);
        return;
    }
    if (at == UINT64_MAX) {
        lapic_timer_start(0, true);
        return;
    }
    u64 now = hwtimer_now_ns(), wait = at > now ? min_u64(at - now, NS_PER_SEC) : 0;   // a second at most: the counter has 32 bits
    hwtimer.set = now + wait;
    u64 count = muldiv64(wait, hwtimer.lapic_hz, NS_PER_SEC) + 1;
    lapic_timer_start((u32)min_u64(count, UINT32_MAX), false);
}

void hwtimer_arm(enum hwtimer_user u, u64 deadline_ns)
{
    u64 flags = ticket_lock_irq(&hwtimer.lock);
    bool changed = hwtimer.deadline[u] != deadline_ns;
    hwtimer.deadline[u] = deadline_ns;
    if (changed && !hwtimer.in_interrupt) {
        if (core_self()->id == 0) {
            hwtimer_program(0);
        } else if (deadline_ns < hwtimer.set) {
            hwtimer.set = deadline_ns;   // asked once
            lapic_send(hwtimer.home, VEC_TIMER);
        }
    }
    ticket_unlock_irq(&hwtimer.lock, flags);
}

void hwtimer_interrupt(void)
{
    u64 now = hwtimer_now_ns();
    bool due[HWTIMER_USERS];
    ticket_lock(&hwtimer.lock);
    for (unsigned i = 0; i < HWTIMER_USERS; i++)
        if ((due[i] = hwtimer.deadline[i] <= now)) hwtimer.deadline[i] = UINT64_MAX;
    hwtimer.in_interrupt = true;
    ticket_unlock(&hwtimer.lock);
    const struct plat_events *ev = plat_events_get();
    if (due[HWTIMER_MACHINE] && ev->timer) {
        bql_lock();
        ev->timer();
        bql_unlock();
    }
    if (due[HWTIMER_CONSOLE]) console_refresh();
    ticket_lock(&hwtimer.lock);
    hwtimer.in_interrupt = false;
    hwtimer_program(hwtimer_now_ns() + GAP_NS);
    ticket_unlock(&hwtimer.lock);
}
