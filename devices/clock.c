// Clocks and timer lists over one physical timer.
//
// Each clock has a list of armed timers sorted by deadline; the physical timer is armed for the earliest head over all lists of
// clocks that tick. There is no lock of its own: everything that changes a list holds the BQL, which is asserted. Clocks are
// read without it; the only state behind a clock is the offset between virtual and platform time, under a seqlock.
//
// Expiry. clocks_run_expired() first moves what has expired from a clock's list to a list of its own, then takes from that one
// timer after the other. Two things follow. A callback may delete or re-arm any timer, itself and the not yet fired included:
// timers are only ever reached through list links, and an unfired one that is re-armed moves away. And a callback that re-arms
// its timer in the past does not spin here: it fires by the next physical interrupt, and the guest gets its turn in between.
//
// On one core a callback cannot be running while anybody else holds the BQL. Across cores it can, if it let go of the BQL
// for a while; clock_enable(off) therefore waits for the records in clk.runs.
//
// Under icount the virtual clock belongs to a clock_source. Its timers are not looked at here but by the vCPU's loop, between two
// instructions.
//
// Wall time may be stepped. A deadline of CLOCK_HOST_ is converted at most HOST_RECHECK_NS ahead, so that a step is noticed.
#include "devices/clock.h"

#include "devices/seqlock.h"
#include "kernel/base/bits.h"
#include "kernel/base/fmt.h"
#include "kernel/base/log.h"
#include "kernel/plat.h"

#define HOST_RECHECK_NS NS_PER_SEC

struct run { struct list link; enum clock_type clock; unsigned core; };   // a core is running this clock's callbacks

static struct {
    struct seqlock seq;                 // vm_*: written under the BQL
    bool vm_running;
    u64 vm_offset;                      // running: virtual = platform time + offset, modulo 2^64
    u64 vm_frozen;                      // paused: the virtual time it stands at
    // ---- BQL ----
    struct list timers[CLOCK_COUNT_];
    bool enabled[CLOCK_COUNT_];
    struct list runs;
    u64 armed;                          // what plat_timer_arm was told last; 0: unknown
    const struct clock_source *source;  // of CLOCK_VIRTUAL_, or NULL. Constant once vCPUs run
    u64 source_due;                     // the deadline that it heard of last
    unsigned running;                   // cores inside clocks_run_expired: it arms when it ends
    u64 fired[CLOCK_COUNT_], interrupts, armings;
} clk;

static bool clock_is_vm(enum clock_type c) { return c == CLOCK_VIRTUAL_ || c == CLOCK_VIRTUAL_RT_; }
static bool clock_ticks(enum clock_type c) { return clk.enabled[c] && (clk.vm_running || !clock_is_vm(c)); }
static bool from_source(enum clock_type c) { return c == CLOCK_VIRTUAL_ && clk.source; }
static struct timer *timer_of(struct list *l) { return CONTAINER_OF(l, struct timer, link); }
static struct timer *clock_head(enum clock_type c)
{
    return list_empty(&clk.timers[c]) ? NULL : timer_of(clk.timers[c].next);
}

void clocks_init(void)
{
    clk.vm_running = false;
    clk.vm_frozen = clk.vm_offset = 0;
    clk.armed = clk.running = 0;
    clk.source = NULL;
    clk.source_due = UINT64_MAX;
    list_init(&clk.runs);
    for (int c = 0; c < CLOCK_COUNT_; c++) {
        list_init(&clk.timers[c]);
        clk.enabled[c] = true;
    }
}

static u64 clock_vm_ns(void)
{
    u64 ns;
    u32 s;
    do {
        s = seqlock_read_begin(&clk.seq);
        ns = SEQ_GET(clk.vm_running) ? plat_time_ns() + SEQ_GET(clk.vm_offset) : SEQ_GET(clk.vm_frozen);
    } while (seqlock_read_retry(&clk.seq, s));
    return ns;
}

u64 clock_ns(enum clock_type c)
{
    switch (c) {
    case CLOCK_HOST_: return plat_wall_ns();
    case CLOCK_VIRTUAL_: return clk.source ? clk.source->ns() : clock_vm_ns();
    case CLOCK_VIRTUAL_RT_: return clock_vm_ns();
    default: return plat_time_ns();
    }
}

// Platform time at which clock c's earliest timer is due; UINT64_MAX none.
static u64 clock_due(enum clock_type c)
{
    struct timer *t = clock_head(c);
    if (!t || !clock_ticks(c) || from_source(c)) return UINT64_MAX;
    if (c == CLOCK_HOST_) {
        u64 now = plat_wall_ns();
        return plat_time_ns() + (t->expire_ns > now ? min_u64(t->expire_ns - now, HOST_RECHECK_NS) : 0);
    }
    if (!clock_is_vm(c)) return max_u64(t->expire_ns, 1);
    __int128 due = (__int128)t->expire_ns - (s64)clk.vm_offset;
    return due < 1 ? 1 : due >= UINT64_MAX ? UINT64_MAX - 1 : (u64)due;
}

void clock_set_source(const struct clock_source *s) { clk.source = s; }

u64 clock_virtual_deadline(void)
{
    ASSERT(bql_held(), "virtual deadline read without the BQL");
    struct timer *t = clock_head(CLOCK_VIRTUAL_);
    return t && clk.enabled[CLOCK_VIRTUAL_] ? t->expire_ns : UINT64_MAX;
}

static void clocks_arm(void)
{
    u64 due = UINT64_MAX;
    if (clk.running) return;
    if (clk.source && clock_virtual_deadline() != clk.source_due) {
        clk.source_due = clock_virtual_deadline();
        clk.source->moved();
    }
    for (int c = 0; c < CLOCK_COUNT_; c++) due = min_u64(due, clock_due(c));
    if (due == clk.armed) return;
    clk.armed = due;
    clk.armings++;
    plat_timer_arm(due);
}

u64 clock_deadline_ns(void)
{
    ASSERT(bql_held(), "timer deadline read without the BQL");
    u64 best = UINT64_MAX;
    for (int c = 0; c < CLOCK_COUNT_; c++) {
        struct timer *t = clock_head(c);
        if (!t || !clock_ticks(c)) continue;
        u64 now = clock_ns(c);
        best = min_u64(best, t->expire_ns > now ? t->expire_ns - now : 0);
    }
    return best;
}

void clock_pause_vm(void)
{
    ASSERT(bql_held(), "clock paused without the BQL");
    if (!clk.vm_running) return;
    seqlock_write_begin(&clk.seq);
    SEQ_SET(clk.vm_frozen, plat_time_ns() + clk.vm_offset);   // inside: nobody has read a later time
    SEQ_SET(clk.vm_running, false);
    seqlock_write_end(&clk.seq);
    clocks_arm();
}

void clock_resume_vm(void)
{
    ASSERT(bql_held(), "clock resumed without the BQL");
    if (clk.vm_running) return;
    seqlock_write_begin(&clk.seq);
    SEQ_SET(clk.vm_offset, clk.vm_frozen - plat_time_ns());
    SEQ_SET(clk.vm_running, true);
    seqlock_write_end(&clk.seq);
    clocks_arm();
}

static bool clock_runs_elsewhere(enum clock_type c)
{
    LIST_FOR(it, &clk.runs) {
        struct run *r = CONTAINER_OF(it, struct run, link);
        if (r->clock == c && r->core != plat_core_id()) return true;
    }
    return false;
}

void clock_enable(enum clock_type c, bool on)
{
    ASSERT(bql_held(), "clock %d switched without the BQL", c);
    clk.enabled[c] = on;
    while (!on && clock_runs_elsewhere(c)) {
        bql_unlock();
        __builtin_ia32_pause();
        bql_lock();
    }
    clocks_arm();
}

void timer_init_named(struct timer *t, enum clock_type c, void (*fn)(void *opaque), void *opaque, const char *name)
{
    *t = (struct timer){.clock = c, .expire_ns = UINT64_MAX, .fn = fn, .opaque = opaque, .name = name};
    list_init(&t->link);
}

// Behind all timers that are due no later: equal deadlines fire in the order of arming.
static void timer_insert(struct timer *t)
{
    struct list *at = &clk.timers[t->clock], *head = at;
    while (at->prev != head && timer_of(at->prev)->expire_ns > t->expire_ns) at = at->prev;
    list_add_before(at, &t->link);
}

void timer_mod_ns(struct timer *t, u64 expire_ns)
{
    ASSERT(bql_held(), "timer armed without the BQL");
    list_del(&t->link);
    t->expire_ns = expire_ns;
    if (expire_ns != UINT64_MAX) timer_insert(t);
    clocks_arm();
}

void timer_del(struct timer *t)
{
    ASSERT(bql_held(), "timer deleted without the BQL");
    if (!timer_armed(t)) return;
    list_del(&t->link);
    t->expire_ns = UINT64_MAX;
    clocks_arm();
}

static void timer_fire(struct timer *t)
{
    list_del(&t->link);
    if (!clock_ticks(t->clock)) {   // an earlier callback stopped this clock
        timer_insert(t);
        return;
    }
    t->expire_ns = UINT64_MAX;
    clk.fired[t->clock]++;
    t->fn(t->opaque);
    ASSERT(bql_held(), "a timer callback returned without the BQL");
}

static void clock_run_expired(enum clock_type c)
{
    struct run run = {.clock = c, .core = plat_core_id()};
    struct list due;
    u64 now = clock_ns(c);
    list_init(&due);
    for (struct timer *t; (t = clock_head(c)) && t->expire_ns <= now;) {
        list_del(&t->link);
        list_add_before(&due, &t->link);
    }
    list_add_before(&clk.runs, &run.link);
    while (!list_empty(&due)) timer_fire(timer_of(due.next));
    list_del(&run.link);
}

void clocks_run_expired(void)
{
    ASSERT(bql_held(), "timers run without the BQL");
    clk.interrupts++;
    clk.running++;
    for (int c = 0; c < CLOCK_COUNT_; c++)
        if (clock_ticks(c) && !from_source(c)) clock_run_expired(c);
    clk.running--;
    clk.armed = 0;   // the timer fired: whatever it was told is spent
    clocks_arm();
}

void clock_run_virtual(void)
{
    ASSERT(bql_held() && clk.source, "virtual timers run without the BQL or without a source");
    clk.running++;
    if (clock_ticks(CLOCK_VIRTUAL_)) clock_run_expired(CLOCK_VIRTUAL_);
    clk.running--;
    clocks_arm();
}

// ---- the monitor's view ----

static void timer_line(const struct timer *t, u64 now, void (*out)(void *o, const char *s), void *o)
{
    char b[120];
    bool late = t->expire_ns < now;
    u64 us = (late ? now - t->expire_ns : t->expire_ns - now) / 1000;
    fmt_snprintf(b, sizeof b, "    %s %llu.%06llu s  %s\n", late ? "late by" : "in", (unsigned long long)(us / 1000000),
                 (unsigned long long)(us % 1000000), t->name);
    out(o, b);
}

void clocks_info(void (*out)(void *o, const char *s), void *o)
{
    static const char *const names[] = {"realtime", "virtual", "host", "virtual-rt"};
    _Static_assert(ARRAY_SIZE(names) == CLOCK_COUNT_ && CLOCK_VIRTUAL_RT_ == 3, "enum clock_type");
    char b[160];
    ASSERT(bql_held(), "timers listed without the BQL");
    for (int c = 0; c < CLOCK_COUNT_; c++) {
        u64 now = clock_ns(c);
        const char *state = !clk.enabled[c] ? "disabled" : clock_ticks(c) ? "runs" : "paused";
        fmt_snprintf(b, sizeof b, "%-10s %llu.%09llu s, %s, %llu timers fired\n", names[c], (unsigned long long)(now / NS_PER_SEC),
                     (unsigned long long)(now % NS_PER_SEC), state, (unsigned long long)clk.fired[c]);
        out(o, b);
        LIST_FOR(it, &clk.timers[c]) timer_line(timer_of(it), now, out, o);
    }
    fmt_snprintf(b, sizeof b, "physical timer: armed %llu times, %llu interrupts ran timers\n", (unsigned long long)clk.armings,
                 (unsigned long long)clk.interrupts);
    out(o, b);
}
