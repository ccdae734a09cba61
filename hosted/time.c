// Time of the hosted platform: a nanosecond clock from the TSC, and one POSIX timer.
//
// The clock. plat_time_ns is called from helpers of translated code, with the guest's vector state live, and often: so no libc. Where the
// TSC is invariant (SDM 3B 18.17.1) it is measured once against CLOCK_MONOTONIC and converted with one multiplication. That also makes the
// guest's clocks (HPET, ACPI timer, PIT) agree with the guest's own TSC to the last digit, so a guest never calls its TSC unstable.
// Elsewhere: the system call.
//
// The timer is one-shot. `want` is what the emulator asked for, `armed` what the kernel knows. Guests move their deadline away far more
// often than they let it expire, so a later deadline leaves an earlier armed one alone: when that fires with nothing due, it is armed
// again. This turns most calls into two stores.
//
// A handler that armed the timer for a moment that is over by the time it returns would be followed by the next one at once, and if that
// goes on the guest does not execute a single instruction, however fast the host: so what a handler arms is GAP_NS away at least.
#define _GNU_SOURCE
#include <cpuid.h>
#include <signal.h>
#include <time.h>
#include <unistd.h>

#include "hosted/hosted.h"
#include "hosted/sys.h"
#include "kernel/base/log.h"

enum { FLUSH_NS = 3000000, CALIBRATE_NS = 20000000, GAP_NS = 5000 };

static u64 tsc_mult, tsc_base, ns_base;     // mult: nanoseconds per tick << 32; 0: no usable TSC
static int timer_id = -1;
static u64 want = UINT64_MAX, armed = UINT64_MAX, flush_at = UINT64_MAX;   // BQL

static u64 clock_read(int which)
{
    struct timespec ts = {0};
    sys_call(SYS_clock_gettime, which, (long)&ts, 0, 0);
    return (u64)ts.tv_sec * NS_PER_SEC + (u64)ts.tv_nsec;
}

static u64 tsc_read(void)
{
    u32 lo, hi;
    __asm__ volatile("lfence; rdtsc" : "=a"(lo), "=d"(hi));
    return (u64)hi << 32 | lo;
}

// A (tsc, ns) pair read as close together as a few tries allow.
static void pair_read(u64 *tsc, u64 *ns)
{
    u64 best = UINT64_MAX;
    for (int i = 0; i < 16; i++) {
        u64 t0 = tsc_read(), n = clock_read(CLOCK_MONOTONIC), t1 = tsc_read();
        if (t1 - t0 >= best) continue;
        best = t1 - t0;
        *tsc = t0 + best / 2;
        *ns = n;
    }
}

static void tsc_calibrate(void)
{
    unsigned a, b, c, d;
    if (!__get_cpuid(0x80000007, &a, &b, &c, &d) || !(d & 1u << 8)) return;
    u64 t0 = 0, n0 = 0, t1 = 0, n1 = 0;
    pair_read(&t0, &n0);
    struct timespec nap = {0, CALIBRATE_NS};
    sys_call(SYS_nanosleep, (long)&nap, 0, 0, 0);
    pair_read(&t1, &n1);
    if (t1 <= t0) return;
    tsc_base = t0;
    ns_base = n0;
    tsc_mult = (u64)(((u128)(n1 - n0) << 32) / (t1 - t0));
}

void time_init(void)
{
    tsc_calibrate();
    struct sigevent se = {.sigev_notify = SIGEV_THREAD_ID, .sigev_signo = SIGALRM};
    se._sigev_un._tid = core_self()->tid;
    long e = sys_call(SYS_timer_create, CLOCK_MONOTONIC, (long)&se, (long)&timer_id, 0);
    ASSERT(e == 0, "timer_create: %ld", e);
}

u64 plat_time_ns(void)
{
    if (!tsc_mult) return clock_read(CLOCK_MONOTONIC);
    // The difference is signed: another core's TSC may be a few ticks behind the base.
    s64 d = (s64)(tsc_read() - tsc_base);
    return d < 0 ? ns_base : ns_base + (u64)(((u128)(u64)d * tsc_mult) >> 32);
}

u64 plat_wall_ns(void) { return clock_read(CLOCK_REALTIME); }

// Relative, because the kernel's clock and ours drift apart by the error of the calibration. A deadline in the past is one nanosecond away.
static void timer_set(u64 deadline)
{
    struct core *c = core_self();
    u64 now = plat_time_ns(), d = deadline > now ? deadline - now : 1;
    if (c && c->in_irq && d < GAP_NS) d = GAP_NS;
    struct itimerspec it = {.it_value = {.tv_sec = (time_t)(d / NS_PER_SEC), .tv_nsec = (long)(d % NS_PER_SEC)}};
    armed = deadline;
    sys_call(SYS_timer_settime, timer_id, 0, (long)&it, 0);
}

static void timer_update(void)
{
    u64 next = want < flush_at ? want : flush_at;
    if (next < armed) timer_set(next);
}

// Due at once and not in the handler: no need of the kernel, the end of the BQL section finds the bit.
void plat_timer_arm(u64 deadline_ns)
{
    want = deadline_ns;
    struct core *c = core_self();
    if (deadline_ns != UINT64_MAX && c && c->id == 0 && !c->in_irq && deadline_ns <= plat_time_ns()) core_raise(IRQ_TIMER);
    else timer_update();
}

void time_want_flush(void)
{
    if (flush_at != UINT64_MAX) return;
    flush_at = plat_time_ns() + FLUSH_NS;
    timer_update();
}

void time_fired(void)
{
    u64 now = plat_time_ns();
    armed = UINT64_MAX;   // even if this was not the kernel's: one call too many is better than a deadline forgotten
    if (flush_at <= now) {
        flush_at = UINT64_MAX;
        output_flush();
    }
    if (want <= now) {
        want = UINT64_MAX;
        const struct plat_events *ev = core_events();
        if (ev->timer) ev->timer();
    }
    timer_update();
}
