// The profiler: time that is measured, and time that is sampled.
//
// All of a vCPU's time from profile_start on is accounted for, in pieces: `stamp` is the TSC up to which it is. A piece that is known to
// be of one class is added to it directly: idle, not running (its core runs another vCPU), a handler of the host's interrupts - in which no
// sample can be taken - and waiting for the big lock, which the lock counts. Everything else is `pending` until a sample says what the vCPU
// was doing, and the sample gets all of it. So samples weigh time, whatever their distance, a kick that comes late makes no difference,
// and the classes always add up to the TSC. An idle vCPU is not disturbed: there is nothing to sample.
//
// A sample is taken by vcpu_interrupted, which runs last in every interrupt: a host address in a TB is translated code, one in the common
// code at the head of the cache is a bridge, and for all other addresses the vCPU says itself what it does, in `activity`. Under the big
// lock and in other sections without interrupts nothing comes; the interrupt is taken where they come on again, behind the lock's
// release, and the brackets of `activity` reach past that.
//
// Own cost: the callback and the sampling are measured where they run. What the processor or the host's kernel takes to deliver an
// interrupt and to return from it cannot be seen from inside; profile_calibrate sees it as the gap that an interrupt tears into a loop that
// reads the TSC, less the handler's own time. That much is taken off each interrupt's surroundings, and counts as the profiler's if
// a sample was due, else as the interrupt's. Likewise what a handler does around the callback: finding it, arming the timer again.
// What remains uncounted are the cache lines and branch predictions that an interrupt costs.
//
// Nothing here sets exit_request or touches a TB: a kick for a sample finds nothing to do for the vCPU, which goes on where it was.
#include "tcg/run/profile.h"

#include "kernel/plat.h"
#include "tcg/run/tcg.h"

const char *const profile_names[PROF_N] = {"loop", "code", "bridges", "transl", "softmmu", "helpers", "except", "devices", "waiting", "idle",
                                           "interr", "profiler"};
_Static_assert(PROF_N == 12, "profile_names");

enum { GAPS = 15, GAPS_MIN = 5, GAP_MAX = 1000000 };   // GAP_MAX: ticks; no interrupt takes that long
#define CALIBRATE_TICKS 20000000ull

static u64 read_tsc(void) { return __builtin_ia32_rdtsc(); }

static u64 core_waited(const struct vcpu *c)
{
    struct lockstat s;
    return plat_bql_stats(c->core, &s) ? s.waited : 0;
}

// Ticks since the stamp, which moves to now. Another core's TSC may be a little behind.
static u64 take(struct profiler *p, u64 now)
{
    u64 d = now > p->stamp ? now - p->stamp : 0;
    p->stamp += d;
    return d;
}

// Waiting for the big lock within the last d ticks of c's core goes to its class; returns the rest.
static u64 take_waiting(struct vcpu *c, u64 d)
{
    struct profiler *p = &c->prof;
    u64 is = core_waited(c), w = min_u64(is - p->bql_waited, d);
    p->bql_waited = is;
    p->p.ticks[PROF_WAIT] += w;
    return d - w;
}

static void put(struct vcpu *c, u64 d)
{
    struct profiler *p = &c->prof;
    if (p->state == PROF_RUNS) {
        p->pending += take_waiting(c, d);
        return;
    }
    p->p.ticks[p->state] += d;
    p->bql_waited = core_waited(c);
}

void profile_state(struct vcpu *c, enum profile_class k)
{
    struct profiler *p = &c->prof;
    bool irqs = spin_lock(&p->lock);
    if (p->on) {
        put(c, take(p, read_tsc()));
        __atomic_store_n(&p->due, false, __ATOMIC_RELAXED);
    }
    __atomic_store_n(&p->state, (u8)k, __ATOMIC_RELAXED);
    spin_unlock(&p->lock, irqs);
}

// ---- interrupts ---------------------------------------------------------------------------------------------------------------

void profile_interrupt_begin(void)
{
    struct vcpu *c = vcpu_current();
    if (!c || !__atomic_load_n(&c->prof.on, __ATOMIC_RELAXED)) return;
    struct profiler *p = &c->prof;
    bool irqs = spin_lock(&p->lock);
    u64 d = take(p, read_tsc());
    p->overhead = min_u64(d, c->tcg->interrupt_cost);
    put(c, d - p->overhead);
    p->own = 0;
    p->in_interrupt = true;
    spin_unlock(&p->lock, irqs);
}

void profile_own(u64 ticks)
{
    struct vcpu *c = vcpu_current();
    if (c) c->prof.own += ticks;
}

static void sample(struct profiler *p, enum profile_class k)
{
    p->p.samples[k]++;
    p->p.ticks[k] += p->pending;
    p->pending = 0;
    __atomic_store_n(&p->due, false, __ATOMIC_RELAXED);
}

void profile_interrupt_end(struct vcpu *c, enum profile_class k)
{
    struct profiler *p = &c->prof;
    if (!p->in_interrupt) return;
    bool irqs = spin_lock(&p->lock);
    u64 d = p->handler = take(p, read_tsc());
    bool due = __atomic_load_n(&p->due, __ATOMIC_SEQ_CST) && p->state == PROF_RUNS;
    p->own = min_u64(p->own, d);
    u64 around = p->own ? min_u64(d - p->own, profile_timer_cost(c)) : 0;
    p->p.ticks[p->own || due ? PROF_SELF : PROF_INTERRUPT] += p->overhead;
    p->p.ticks[PROF_SELF] += p->own + around;
    p->p.ticks[PROF_INTERRUPT] += take_waiting(c, d - p->own - around);
    if (due) sample(p, k);
    p->in_interrupt = false;
    __atomic_store_n(&p->n_interrupts, p->n_interrupts + 1, __ATOMIC_RELAXED);
    p->p.ticks[PROF_SELF] += take(p, read_tsc());
    spin_unlock(&p->lock, irqs);
}

bool profile_ask(struct vcpu *c)
{
    struct profiler *p = &c->prof;
    if (!__atomic_load_n(&p->on, __ATOMIC_RELAXED) || __atomic_load_n(&p->state, __ATOMIC_RELAXED) != PROF_RUNS) return false;
    __atomic_store_n(&p->due, true, __ATOMIC_SEQ_CST);
    if (c->core != plat_core_id()) plat_core_kick(c->core);
    return true;
}

// ---- on, off, reading ------------------------------------------------------------------------------------------------------------

void profile_start(struct vcpu *c)
{
    struct profiler *p = &c->prof;
    bool irqs = spin_lock(&p->lock);
    p->p = (struct profile){0};
    p->start = p->stamp = read_tsc();
    p->pending = 0;
    p->bql_waited = core_waited(c);
    p->in_interrupt = false;
    __atomic_store_n(&p->due, false, __ATOMIC_RELAXED);
    __atomic_store_n(&p->on, true, __ATOMIC_RELEASE);
    spin_unlock(&p->lock, irqs);
}

// What c does at the moment, seen from anywhere.
static enum profile_class guess(const struct vcpu *c)
{
    const struct profiler *p = &c->prof;
    if (p->state != PROF_RUNS) return p->state;
    return p->activity == PROF_HELPER ? PROF_CODE : p->activity;    // which says helper while TBs run, too
}

// Everything up to now into *to, which is p->p or a copy of it.
static void settle(const struct vcpu *c, struct profile *to, u64 now)
{
    const struct profiler *p = &c->prof;
    u64 d = p->on && now > p->stamp ? now - p->stamp : 0;
    to->ticks[guess(c)] += p->pending;
    if (p->in_interrupt) to->ticks[PROF_INTERRUPT] += p->overhead;
    to->ticks[p->in_interrupt ? PROF_INTERRUPT : guess(c)] += d;
    to->total = p->stamp + d - p->start;
}

void profile_stop(struct vcpu *c)
{
    struct profiler *p = &c->prof;
    bool irqs = spin_lock(&p->lock);
    u64 now = read_tsc();
    if (p->on) {
        settle(c, &p->p, now);
        take(p, now);
        p->pending = 0;
        p->in_interrupt = false;
    }
    __atomic_store_n(&p->on, false, __ATOMIC_RELEASE);
    spin_unlock(&p->lock, irqs);
}

void profile_read(struct vcpu *c, struct profile *p)
{
    bool irqs = spin_lock(&c->prof.lock);
    *p = c->prof.p;
    settle(c, p, read_tsc());
    spin_unlock(&c->prof.lock, irqs);
}

void profile_counters(const struct vcpu *c, struct vcpu_counters *n)
{
    *n = (struct vcpu_counters){.exits = c->n_exits, .tbs = c->n_translated_tb, .tb_bytes = c->n_translated_bytes, .tb_insns = c->tr->n_guest_insns,
                                .tb_ticks = c->tr->ticks, .tlb_misses = c->n_tlb_miss, .tlb_flushes = c->n_flush,
                                .tlb_page_flushes = c->n_flush_page, .helpers = c->n_helper, .device_accesses = c->n_mmio,
                                .code_writes = c->n_smc};
    for (unsigned k = 0; k < ARRAY_SIZE(n->exit_kind); k++) n->exit_kind[k] = c->n_exit_kind[k];
}

// ---- what an interrupt costs -------------------------------------------------------------------------------------------------------

u64 profile_interrupt_cost(const struct vcpu *c) { return __atomic_load_n(&c->tcg->interrupt_cost, __ATOMIC_RELAXED); }
u64 profile_timer_cost(const struct vcpu *c) { return __atomic_load_n(&c->tcg->timer_cost, __ATOMIC_RELAXED); }

static void insert(u64 *v, unsigned n, u64 x)
{
    for (; n && v[n - 1] > x; n--) v[n] = v[n - 1];
    v[n] = x;
}

// Gaps between two looks at the TSC that an interrupt tore, less its handler, and the handlers' time around the timer's callback; in order.
// An interrupt that comes between reading the count and the next look leaves no gap that could be seen, and does not count.
struct gaps { u64 gap[GAPS], around[GAPS]; unsigned n; };

static void look_for_gaps(struct profiler *p, struct gaps *g)
{
    u64 begin = read_tsc(), last = begin, t;
    u32 seen = __atomic_load_n(&p->n_interrupts, __ATOMIC_RELAXED), is;
    for (; g->n < GAPS && (t = read_tsc()) - begin < CALIBRATE_TICKS; last = t, seen = is) {
        if (t - last > GAP_MAX) begin += t - last;              // the host ran something else
        is = __atomic_load_n(&p->n_interrupts, __ATOMIC_RELAXED);
        u64 d = is == seen ? 0 : read_tsc() - t;
        if (is != seen + 1 || d <= p->handler || d > GAP_MAX || !p->own) continue;
        insert(g->around, g->n, p->handler - p->own);
        insert(g->gap, g->n++, d - p->handler);
    }
}

void profile_calibrate(struct vcpu *c, void *asked)
{
    struct gaps g = {.n = 0};
    u8 was = profile_enter(&c->prof, PROF_SELF);
    look_for_gaps(&c->prof, &g);
    if (g.n >= GAPS_MIN) {
        __atomic_store_n(&c->tcg->timer_cost, g.around[g.n / 2], __ATOMIC_RELAXED);
        __atomic_store_n(&c->tcg->interrupt_cost, g.gap[g.n / 2], __ATOMIC_RELAXED);
    }
    profile_leave(&c->prof, was);
    __atomic_store_n((u32 *)asked, 0, __ATOMIC_SEQ_CST);
}
