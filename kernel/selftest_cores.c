// `selftest = cores': the platform contract's promises about cores, by using all of them at once.
//
// Each core runs the same steps, between barriers. Most count what went wrong without stopping, and core 0 judges the counts when all are
// through.
//
//   locks    every core takes and releases the BQL around a counter that is not atomic
//   kicks    tokens: who holds one passes it to a random core (itself included) by an atomic word and a kick, and sleeps in
//            plat_idle when it has none. Once with a single token, so that one lost wake-up stops everything; once with many.
//            Now and then a TLB flush sends NMIs into it, which may hit between STI and HLT.
//   timer    every core arms the one timer, now early, now late, and sleeps until its callback, on core 0, kicks it
//   memory   pages, heap and code caches taken and given back
//   tsc      core 0 moves each other core's TSC away, ahead and behind, and lets it be aligned as at the start; then nobody may read a time
//            before what another has read. A machine whose TSCs stay where they are (QEMU's) does without the first half, and says so
//   unmap    one core holds the BQL and exchanges a page behind an address that all others have just read and that they, waiting for
//            the BQL with interrupts off, read again
//   lines    everybody writes to the log; the test outside sees whether lines are whole
//
// A watchdog in the timer looks every 20 s whether anything moved during the last 15: nothing here is a question of speed. It hardly ever
// fires, so it does not wake a core 0 that has lost its wake-up (with a countdown timer there is an interrupt every second; the other
// cores have none at all).
//
// Odd cores bind a vCPU, so that both meanings of GS base are used.
#include <stdlib.h>

#include "kernel/base/log.h"
#include "kernel/core.h"
#include "kernel/cores.h"
#include "kernel/cpu.h"
#include "kernel/hwtimer.h"
#include "kernel/plat.h"
#include "kernel/pmem.h"
#include "kernel/selftest.h"
#include "kernel/tsc.h"
#include "kernel/vmem.h"

enum { LOCK_ROUNDS = 3000, TSC_ROUNDS = 1000, HOPS = 10000, TIMER_ROUNDS = 40, MEMORY_ROUNDS = 2000, UNMAP_ROUNDS = 100, LINES = 20, BLOCKS = 4 };
#define WATCH_NS 20000000000ull
#define STALL_NS 15000000000ull

// What one core finds. Its own, but for inbox and interrupts; a cache line each would be faster and is not the point.
struct mine {
    void *vcpu[2];              // what GS base points to on odd cores
    unsigned id;
    u64 random;
    u32 inbox;                  // tokens; atomic
    u32 interrupts;             // callbacks of plat_events.interrupted; by the core itself
    u32 taken;                  // tokens that arrived
    u64 deadline, fired;        // timer step; BQL. UINT64_MAX: not armed; 0: not fired yet
    u32 wrong;                  // in the current step; atomic: handlers count too
};

static struct {
    struct mine *mine;
    unsigned cores;
    const char *step;           // for the watchdog
    u64 moved_ns;               // when somebody last got anywhere; atomic
    u32 arrived, generation;    // the barrier
    unsigned passed, failed;
    // locks
    u64 counter;
    u32 inside;
    // kicks
    u64 hops;
    u32 done;
    // timer
    u64 watch_ns;
    // tsc
    unsigned moved;
    u64 tsc, ns;
    // unmap
    u64 window, page[2], owned;
} st;

static void st_moved(void) { __atomic_store_n(&st.moved_ns, plat_time_ns(), __ATOMIC_RELAXED); }
static void st_wrong(struct mine *m) { __atomic_fetch_add(&m->wrong, 1, __ATOMIC_RELAXED); }
static void st_expect(struct mine *m, bool ok) { if (!ok) st_wrong(m); }

// xorshift64*
static u64 st_random(struct mine *m)
{
    m->random ^= m->random >> 12;
    m->random ^= m->random << 25;
    m->random ^= m->random >> 27;
    return m->random * 0x2545f4914f6cdd1dull >> 16;
}

static void st_check(const char *name, bool ok, u64 value)
{
    if (ok) {
        st.passed++;
        return;
    }
    st.failed++;
    log_error("selftest cores: %s (%llu)", name, (unsigned long long)value);
}

static NORETURN void st_finish(void)
{
    log_info("selftest cores: %u passed, %u failed", st.passed, st.failed);
    plat_exit(st.failed ? 1 : 0);
}

// All cores meet here.
static void st_barrier(void)
{
    u32 g = __atomic_load_n(&st.generation, __ATOMIC_ACQUIRE);
    if (__atomic_add_fetch(&st.arrived, 1, __ATOMIC_ACQ_REL) == st.cores) {
        __atomic_store_n(&st.arrived, 0, __ATOMIC_RELAXED);
        __atomic_store_n(&st.generation, g + 1, __ATOMIC_RELEASE);
        st_moved();
    } else {
        while (__atomic_load_n(&st.generation, __ATOMIC_ACQUIRE) == g) cpu_pause();
    }
}

// ---- callbacks ----

// BQL held.
static void st_arm(void)
{
    u64 at = st.watch_ns;
    for (unsigned i = 0; i < st.cores; i++) at = min_u64(at, st.mine[i].deadline);
    plat_timer_arm(at);
}

static void st_watch(u64 now)
{
    if (now < st.watch_ns) return;
    st.watch_ns = now + WATCH_NS;
    if (now - __atomic_load_n(&st.moved_ns, __ATOMIC_RELAXED) < STALL_NS) return;
    for (unsigned i = 0; i < st.cores; i++)
        log_error("core %u: %u tokens waiting, %u taken, %u interrupts", i, st.mine[i].inbox, st.mine[i].taken, st.mine[i].interrupts);
    st_check(st.step, false, 0);
    log_error("selftest cores: nothing moves any more in step `%s'", st.step);
    st_finish();
}

static void st_timer(void)
{
    u64 now = plat_time_ns();
    struct mine *here = &st.mine[plat_core_id()];
    st_expect(here, plat_core_id() == 0 && bql_held() && plat_in_interrupt());
    st_watch(now);
    for (unsigned i = 0; i < st.cores; i++) {
        struct mine *m = &st.mine[i];
        if (m->deadline > now) continue;
        m->deadline = UINT64_MAX;
        m->fired = now;
        plat_core_kick(i);
    }
    st_arm();
}

static u64 st_interrupted(u64 rip)
{
    struct mine *m = &st.mine[plat_core_id()];
    st_expect(m, plat_in_interrupt() && !bql_held());
    m->interrupts++;
    return rip;
}

// ---- steps, run by every core ----

static void step_locks(struct mine *m)
{
    for (unsigned i = 0; i < LOCK_ROUNDS; i++) {
        bql_lock();
        st_expect(m, bql_held() && st.inside == 0);
        st.inside = m->id + 1;
        u64 was = *(volatile u64 *)&st.counter;
        for (unsigned n = (unsigned)st_random(m) % 32; n; n--) cpu_pause();
        *(volatile u64 *)&st.counter = was + 1;
        st_expect(m, st.inside == m->id + 1);
        st.inside = 0;
        bql_unlock();
        st_expect(m, !bql_held());
        if (i % 64 == 0) st_moved();
    }
}

static void kicks_pass(struct mine *m)
{
    struct mine *to = &st.mine[st_random(m) % st.cores];
    __atomic_fetch_add(&to->inbox, 1, __ATOMIC_RELEASE);
    plat_core_kick(to->id);
}

static void step_kicks(struct mine *m)
{
    for (;;) {
        bql_lock();
        while (!__atomic_load_n(&m->inbox, __ATOMIC_ACQUIRE) && !__atomic_load_n(&st.done, __ATOMIC_ACQUIRE)) plat_idle();
        bql_unlock();
        if (__atomic_load_n(&st.done, __ATOMIC_ACQUIRE)) return;
        for (u32 n = __atomic_exchange_n(&m->inbox, 0, __ATOMIC_ACQUIRE); n; n--) {
            m->taken++;
            st_moved();
            if (st_random(m) % 8 == 0) cores_flush((u64)&st, PAGE_SIZE);
            if (__atomic_sub_fetch(&st.hops, 1, __ATOMIC_ACQ_REL)) {
                kicks_pass(m);
                continue;
            }
            __atomic_store_n(&st.done, 1, __ATOMIC_RELEASE);
            for (unsigned i = 0; i < st.cores; i++) plat_core_kick(i);
            return;
        }
    }
}

static void step_timer(struct mine *m)
{
    for (unsigned i = 0; i < TIMER_ROUNDS * (m->id ? 2 : 1); i++) {   // core 0 ends early: then nobody there sets it for the others
        bql_lock();
        u64 at = plat_time_ns() + st_random(m) % 3000000;
        m->fired = 0;
        m->deadline = at;
        st_arm();
        while (!*(volatile u64 *)&m->fired) plat_idle();
        st_expect(m, m->fired >= at);
        bql_unlock();
        st_moved();
    }
}

static bool memory_is(const u64 *p, u64 words, u64 value)
{
    for (u64 i = 0; i < words; i++)
        if (p[i] != value) return false;
    return true;
}

static void memory_fill(u64 *p, u64 words, u64 value)
{
    for (u64 i = 0; i < words; i++) p[i] = value;
}

static void step_memory(struct mine *m)
{
    struct { u64 *p, size, value; bool heap; } block[BLOCKS] = {{0}};
    for (unsigned i = 0; i < MEMORY_ROUNDS + BLOCKS; i++) {
        unsigned at = i % BLOCKS;
        if (block[at].p) {
            st_expect(m, memory_is(block[at].p, block[at].size / 8, block[at].value));
            if (block[at].heap) free(block[at].p);
            else plat_pages_free(block[at].p, block[at].size);
            block[at].p = NULL;
        }
        if (i >= MEMORY_ROUNDS) continue;
        bool heap = block[at].heap = st_random(m) % 2;
        u64 size = block[at].size = heap ? 64 + st_random(m) % 512 / 8 * 8 : (1 + st_random(m) % 2) * PAGE_SIZE;
        block[at].p = heap ? malloc(size) : plat_pages_alloc(size);
        st_expect(m, block[at].p != NULL);
        if (!block[at].p) continue;
        if (!heap) st_expect(m, memory_is(block[at].p, size / 8, 0));
        memory_fill(block[at].p, size / 8, block[at].value = st_random(m));
        st_moved();
    }
    u8 *rw, *rx;
    bool code = plat_code_alloc(PAGE_SIZE, &rw, &rx);
    st_expect(m, code);
    if (!code) return;
    *(volatile u64 *)rw = m->id + 1;
    st_barrier();
    st_expect(m, *(volatile u64 *)rx == m->id + 1);
}

// Core 0, c in tsc_follow. Nothing else may look at c's time meanwhile.
static void tsc_spoil(struct mine *m, struct core *c, s64 by)
{
    tsc_move(c, by);
    s64 is = tsc_ahead(c);
    if ((by < 0 ? -is : is) < (by < 0 ? -by : by) / 2) return;           // it cannot be moved
    st.moved++;
    st_expect(m, tsc_align(c) == 0);
}

static void tsc_move_others(struct mine *m)
{
    s64 step = (s64)hwtimer_tsc_hz() / 16;
    for (unsigned i = 1; i < st.cores; i++) {
        struct core *c = cores_get(i);
        tsc_spoil(m, c, step);
        tsc_spoil(m, c, -step);
        tsc_release(c);
    }
    log_info("selftest cores: TSCs of %u of %u cores could be moved", st.moved / 2, st.cores - 1);
    st_expect(m, st.moved == 0 || st.moved == 2 * (st.cores - 1));
}

static void step_tsc(struct mine *m)
{
    if (m->id == 0) tsc_move_others(m);
    else tsc_follow(core_self());
    st_barrier();
    for (unsigned i = 0; i < TSC_ROUNDS; i++) {
        bql_lock();
        u64 tsc = cpu_rdtsc(), ns = plat_time_ns();
        st_expect(m, tsc >= st.tsc && ns >= st.ns);
        st.tsc = tsc;
        st.ns = ns;
        bql_unlock();
    }
    st_moved();
}

// Two pages, which hold 0 and 1, take turns behind one address. The owner waits for nobody while it holds the BQL, which core 0's
// handlers need.
static void step_unmap(struct mine *m)
{
    volatile u64 *at = (volatile u64 *)st.window;
    for (u64 r = 0; r < UNMAP_ROUNDS; r++) {
        bool owner = r % st.cores == m->id;
        u64 flags = cpu_irq_save();
        st_expect(m, *at == r % 2);
        st_barrier();
        if (owner) {
            bql_lock();
            __atomic_store_n(&st.owned, r + 1, __ATOMIC_RELEASE);
            vmem_unmap(st.window, PAGE_SIZE);
            st_expect(m, !vmem_is_mapped(st.window) && vmem_map(st.window, st.page[(r + 1) % 2], PAGE_SIZE, VMEM_WRITE));
        } else {
            while (__atomic_load_n(&st.owned, __ATOMIC_ACQUIRE) != r + 1) cpu_pause();
            bql_lock();
        }
        st_expect(m, *at == (r + 1) % 2);
        bql_unlock();
        cpu_irq_restore(flags);
        st_barrier();
    }
}

static void step_lines(struct mine *m)
{
    for (unsigned i = 1; i <= LINES; i++) log_info("selftest line %u of %u by core %u", i, LINES, m->id);
}

// ---- all together ----

static void st_prepare_kicks(unsigned tokens)
{
    st.hops = HOPS;
    st.done = 0;
    for (unsigned i = 0; i < st.cores; i++) st.mine[i].inbox = 0;
    for (unsigned i = 0; i < tokens; i++) st.mine[i % st.cores].inbox++;
}

static void prepare_one_token(void) { st_prepare_kicks(1); }
static void prepare_tokens(void) { st_prepare_kicks(st.cores); }

static void prepare_unmap(void)
{
    st.window = vmem_window(PAGE_SIZE, PAGE_SIZE);
    for (u64 i = 0; i < 2; i++) {
        st.page[i] = pmem_alloc(PAGE_SIZE, PAGE_SIZE);
        ASSERT(st.page[i], "no memory");
        *(u64 *)pmem_virt(st.page[i]) = i;
    }
    ASSERT(vmem_map(st.window, st.page[0], PAGE_SIZE, VMEM_WRITE), "no memory");
}

static void judge_locks(void) { st_check("increments under the BQL got lost", st.counter == (u64)LOCK_ROUNDS * st.cores, st.counter); }

static void judge_kicks(void)
{
    u64 taken = 0, idle = 0;
    for (unsigned i = 0; i < st.cores; i++) {
        taken += st.mine[i].taken;
        idle += !st.mine[i].taken || !st.mine[i].interrupts;
        st.mine[i].taken = 0;
    }
    // Tokens that were in flight at the end took hops below 0.
    st_check("kicks: tokens got lost or doubled", taken >= HOPS && taken + st.hops == HOPS, taken);
    st_check("kicks: cores that no token reached", idle == 0, idle);
}

static const struct { const char *name; void (*prepare)(void); void (*run)(struct mine *m); void (*judge)(void); } st_steps[] = {
    {"locks", NULL, step_locks, judge_locks},
    {"kicks, one token", prepare_one_token, step_kicks, judge_kicks},
    {"kicks, many tokens", prepare_tokens, step_kicks, judge_kicks},
    {"timer", NULL, step_timer, NULL},
    {"memory", NULL, step_memory, NULL},
    {"tsc", NULL, step_tsc, NULL},
    {"unmap", prepare_unmap, step_unmap, NULL},
    {"lines", NULL, step_lines, NULL},
};

static void st_begin_step(unsigned i)
{
    st.step = st_steps[i].name;
    log_info("selftest cores, %llu ms: %s", (unsigned long long)plat_time_ns() / 1000000, st.step);
    if (st_steps[i].prepare) st_steps[i].prepare();
}

static void st_judge_step(unsigned i)
{
    if (st_steps[i].judge) st_steps[i].judge();
    for (unsigned c = 0; c < st.cores; c++) {
        st_check(st_steps[i].name, st.mine[c].wrong == 0, c);
        st.mine[c].wrong = 0;
    }
}

static void st_core(void *arg)
{
    struct mine *m = arg;
    u64 flags = cpu_irq_save();
    cpu_irq_restore(flags);
    if (m->id % 2) plat_bind_vcpu(m->vcpu);
    st_expect(m, (flags & RFLAGS_IF) && plat_core_id() == m->id && !plat_in_interrupt() && !bql_held());
    for (unsigned i = 0; i < ARRAY_SIZE(st_steps); i++) {
        if (m->id == 0) st_begin_step(i);
        st_barrier();
        st_steps[i].run(m);
        st_barrier();
        if (m->id == 0) st_judge_step(i);
    }
    st_barrier();
    if (m->id == st.cores - 1) st_finish();   // the end comes from a core that is not the first, where there is one
    for (;;) cpu_pause();
}

void selftest_cores(void)
{
    static const struct plat_events events = {.timer = st_timer, .interrupted = st_interrupted};
    st.cores = plat_core_count();
    st.mine = plat_pages_alloc(st.cores * sizeof(*st.mine));
    ASSERT(st.mine, "no memory");
    for (unsigned i = 0; i < st.cores; i++)
        st.mine[i] = (struct mine){.id = i, .random = 0x9e3779b97f4a7c15ull * (i + 1), .deadline = UINT64_MAX};
    st_moved();
    st.watch_ns = plat_time_ns() + WATCH_NS;
    plat_events_set(&events);
    bql_lock();
    st_arm();
    bql_unlock();
    st_check("core 0 can be started", !plat_core_start(0, st_core, NULL), 0);
    st_check("a core that is not there can be started", !plat_core_start(st.cores, st_core, NULL), st.cores);
    for (unsigned i = 1; i < st.cores; i++) {
        st_check("a core does not start", plat_core_start(i, st_core, &st.mine[i]), i);
        st_check("a core can be started twice", !plat_core_start(i, st_core, &st.mine[i]), i);
    }
    st_core(&st.mine[0]);
    cpu_halt_forever();
}
