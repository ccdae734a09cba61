// vCPUs on cores. See machine_cores.h.
//
// One vCPU per core as long as there are cores (not more than the host has processors: where they are fewer we know better than the host
// whose turn it is, since a kick makes its vCPU the next); the rest are dealt out in a circle, and a core with several runs them in turns:
// until the vCPU halts, until SLICE_NS are over (a timer of the virtual clock, so that it is deterministic under icount, asks whoever runs
// on a shared core to yield), or until another vCPU of the core is kicked. A vCPU that does not run is parked (tcg/run/park.c), so nobody
// waits for it.
//
// Under icount whose turn it is must follow from what the guest executes, and from nothing else. So neither a kick that finds nothing to
// do nor a stop by the monitor is a turn; a stop is asked of whoever runs, since another's kick would end his turn; and the slice goes on
// over it.
//
// Standing still. Whoever ends with an event for the whole machine sets `hold`, asks every vCPU to yield (which, if it comes late, does no
// harm) and goes to its waiting place; so does each core as its vCPU comes out. Core 0 waits until the others are there. Releasing is a new
// generation, and a kick. Waiting is plat_idle under the BQL, so no kick is lost.
#include "kernel/machine_cores.h"

#include "devices/clock.h"
#include "kernel/base/log.h"
#include "kernel/plat.h"

enum { EVENTS = VCPU_EV_RESET | VCPU_EV_SHUTDOWN | VCPU_EV_STOP };
#define SLICE_NS 4000000ull

struct core_list { struct vcpu *cpu[VCPUS_MAX]; unsigned n, next; };

static struct {
    struct core_list core[VCPUS_MAX];
    unsigned n;
    bool shared;                  // some core has more than one
    struct timer slice;
    // ---- atomics ----
    u32 hold, holding, generation, events;
    // ---- BQL ----
    struct { void (*fn)(unsigned core, void *arg); void *arg; unsigned n; u32 number, done; } call;   // `number` counts calls
} cores;

// ---- one core ---------------------------------------------------------------------------------------------------------------

static bool held(void) { return __atomic_load_n(&cores.hold, __ATOMIC_SEQ_CST); }

// Who came out halted had nothing to do, unless it was asked to yield before it looked (irq_look). What came since was announced by a kick.
static bool wants_to_run(struct vcpu *v)
{
    return !v->halted || v->irq_look || __atomic_load_n(&v->exit_request, __ATOMIC_SEQ_CST);
}

// The place in the circle of the first, from k->next on, that wants to run; k->n: none.
static unsigned find_next(const struct core_list *k)
{
    for (unsigned n = 0; n < k->n; n++) {
        unsigned i = (k->next + n) % k->n;
        if (wants_to_run(k->cpu[i])) return i;
    }
    return k->n;
}

// One turn. Returns the events that ended it. It counts as one, so that it is the next one's turn, if another one wants the core or if
// anything was executed, and if it was not merely interrupted by what the whole machine has to do.
static u32 core_turn(struct core_list *k, unsigned i)
{
    struct vcpu *v = k->cpu[i];
    u64 before = v->n_exits;
    u32 ev = vcpu_run(v);
    bool over = ev & VCPU_EV_YIELD || (ev & VCPU_EV_HALT && v->n_exits != before);
    if (over) k->next = (i + 1) % k->n;
    else if (v->n_exits != before) k->next = i;
    return ev;
}

static void core_idle(struct core_list *k)
{
    bool wanted = held();
    bql_lock();
    for (unsigned n = 0; n < k->n; n++) wanted |= wants_to_run(k->cpu[n]);
    if (!wanted && !held()) vcpu_core_idle(k->cpu[0]);
    bql_unlock();
}

static void hold_all(u32 events)
{
    __atomic_or_fetch(&cores.events, events, __ATOMIC_SEQ_CST);
    if (__atomic_exchange_n(&cores.hold, 1, __ATOMIC_SEQ_CST)) return;
    for (unsigned k = 0; k < cores.n; k++)
        for (unsigned n = 0; n < cores.core[k].n; n++)
            if (k != plat_core_id()) vcpu_request_yield(cores.core[k].cpu[n]);
}

static void core_run(struct core_list *k)
{
    while (!held()) {
        unsigned i = find_next(k);
        u32 ev = i < k->n ? core_turn(k, i) : 0;
        if (i == k->n) core_idle(k);
        if (ev & EVENTS) hold_all(ev & EVENTS);
    }
}

// ---- all of them --------------------------------------------------------------------------------------------------------------

// BQL held, but not while the function runs.
static void answer_call(u32 *answered)
{
    if (*answered == cores.call.number) return;
    *answered = cores.call.number;
    if (plat_core_id() >= cores.call.n) return;
    bql_unlock();
    cores.call.fn(plat_core_id(), cores.call.arg);
    bql_lock();
    cores.call.done++;
    plat_core_kick(0);
}

static void other_core(void *arg)
{
    struct core_list *k = arg;
    u32 answered = 0;
    for (u32 generation = 0;; generation++) {
        __atomic_add_fetch(&cores.holding, 1, __ATOMIC_SEQ_CST);
        plat_core_kick(0);
        bql_lock();
        for (;;) {
            answer_call(&answered);
            if (__atomic_load_n(&cores.generation, __ATOMIC_SEQ_CST) != generation) break;
            if (cores.call.number == answered) plat_idle();
        }
        bql_unlock();
        core_run(k);
    }
}

static void wait_for_others(void)
{
    bql_lock();
    while (__atomic_load_n(&cores.holding, __ATOMIC_SEQ_CST) != cores.n - 1) plat_idle();
    bql_unlock();
}

unsigned cores_count_used(void) { return cores.n; }

bool cores_call(unsigned n, void (*fn)(unsigned core, void *arg), void *arg)
{
    if (n > cores.n) return false;
    bql_lock();
    cores.call.fn = fn;
    cores.call.arg = arg;
    cores.call.n = n;
    cores.call.done = 0;
    cores.call.number++;
    for (unsigned k = 1; k < n; k++) plat_core_kick(k);
    bql_unlock();
    fn(0, arg);
    bql_lock();
    while (cores.call.done != n - 1) plat_idle();
    bql_unlock();
    return true;
}

static void slice_over(void *opaque UNUSED)
{
    for (unsigned k = 0; k < cores.n; k++) {
        struct vcpu *v = cores.core[k].n > 1 ? vcpu_on_core(k) : NULL;
        if (v) vcpu_request_yield(v);
    }
    timer_mod_ns(&cores.slice, clock_ns(CLOCK_VIRTUAL_) + SLICE_NS);
}

void cores_start(struct vcpu **cpus, unsigned n, bool one_core)
{
    cores.hold = 1;
    cores.n = 1;
    while (!one_core && cores.n < n && cores.n < plat_core_count() && plat_core_start(cores.n, other_core, &cores.core[cores.n])) cores.n++;
    for (unsigned i = 0; i < n; i++) {
        struct core_list *k = &cores.core[i % cores.n];
        k->cpu[k->n++] = cpus[i];
    }
    for (unsigned i = 0; i < n; i++) {
        cpus[i]->core = i % cores.n;
        cpus[i]->shares_core = cores.core[i % cores.n].n > 1;
        cores.shared |= cpus[i]->shares_core;
    }
    for (unsigned i = 0; i < n; i++) cpus[i]->crowded = cores.shared;
    timer_init(&cores.slice, CLOCK_VIRTUAL_, slice_over, NULL);
    wait_for_others();
}

void cores_release(void)
{
    __atomic_store_n(&cores.events, 0, __ATOMIC_SEQ_CST);
    __atomic_store_n(&cores.holding, 0, __ATOMIC_SEQ_CST);
    __atomic_store_n(&cores.hold, 0, __ATOMIC_SEQ_CST);
    __atomic_add_fetch(&cores.generation, 1, __ATOMIC_SEQ_CST);
    for (unsigned k = 1; k < cores.n; k++) plat_core_kick(k);
    bql_lock();
    if (cores.shared && !timer_armed(&cores.slice)) timer_mod_ns(&cores.slice, clock_ns(CLOCK_VIRTUAL_) + SLICE_NS);
    bql_unlock();
}

u32 cores_run(void)
{
    core_run(&cores.core[0]);
    wait_for_others();
    return __atomic_load_n(&cores.events, __ATOMIC_SEQ_CST);
}
