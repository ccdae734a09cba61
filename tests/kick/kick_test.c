// No wake-up is lost. Interrupts come from a second core and from timers at random moments around "look for pending, enter translated
// code, leave, halt", in each way of leaving translated code, chained and not. Whatever is posted must be delivered; five seconds without
// are a stall, and the end, with a dump. The profiler comes and goes: its kicks find nothing to do, and must neither hide others nor
// make up for them. An interrupt that is lost is made up for by the next one that comes, so half of the time there
// is none: the second core posts one, or arms one timer, and waits.
//
// CUPEL_KICKS=N: N kicks and expiries in all (make stress-kicks: 10 million); otherwise about 20 seconds.
#define _GNU_SOURCE
#include "tests/kick/rig.h"

#include <stdlib.h>
#include <string.h>

#include "tcg/run/tcg.h"

#define STALL_NS (5 * NS_PER_SEC)
enum { MODES = 4, QUICK_S = 5, N_ASYNC = 16 };

static struct {
    const char *kernel;
    u64 goal;                          // kicks and expiries of one mode; 0: go by time
    u64 kicks, samples, posts_seen;
    // ---- BQL ----
    struct tick { struct timer t; u64 at; u32 before; bool waits; } ticks[N_TICK];
    u64 expiries, last_expiry, rng;
    bool wrong_context, quiet;
    // ---- atomic ----
    u32 async_queued, async_done;
} k = {.rng = 0x9e3779b97f4a7c15ull};

// ---- timers, on the vCPU's core in interrupt context ----

static u64 tick_random(u64 n)          // not rig_random: another core
{
    k.rng ^= k.rng << 13;
    k.rng ^= k.rng >> 7;
    k.rng ^= k.rng << 17;
    return k.rng % n;
}

static void async_work(struct vcpu *c, void *arg)
{
    if (!cpu_is_self(c) || plat_in_interrupt() || bql_held()) k.wrong_context = true;
    __atomic_fetch_add((u32 *)arg, 1, __ATOMIC_SEQ_CST);
}

static void queue_async(void)
{
    if (__atomic_load_n(&k.async_queued, __ATOMIC_SEQ_CST) - __atomic_load_n(&k.async_done, __ATOMIC_SEQ_CST) >= N_ASYNC) return;
    __atomic_fetch_add(&k.async_queued, 1, __ATOMIC_SEQ_CST);
    cpu_run_async(rig_vcpu(), async_work, &k.async_done);
}

static void tick_arm(struct tick *t)
{
    static const u64 spans[] = {1, 20000, 200000, 1000000};   // more would leave the guest no time for anything but its handlers
    timer_mod_ns(&t->t, clock_ns(t->t.clock) + tick_random(spans[tick_random(4)]));
}

static void tick_fire(void *opaque)
{
    struct tick *t = opaque;
    u8 v = (u8)(VEC_TICK + (t - k.ticks));
    if (!plat_in_interrupt() || !bql_held() || cpu_is_self(rig_vcpu())) k.wrong_context = true;
    k.expiries++;
    k.last_expiry = plat_time_ns();
    if (!t->waits || rig_page()->count[v] != t->before) {
        t->before = rig_page()->count[v];
        t->at = k.last_expiry;
        t->waits = true;
    }
    vcpu_post_interrupt(rig_vcpu(), v, false);
    tick_arm(t);
    struct tick *other = &k.ticks[tick_random(N_TICK)];
    switch (tick_random(16)) {
    case 0: tick_arm(other); break;
    case 1:
        timer_del(&other->t);
        tick_arm(other);
        break;
    case 2: queue_async(); break;
    default: break;
    }
}

static void ticks_start(void)
{
    bql_lock();
    k.quiet = false;
    k.last_expiry = plat_time_ns();
    for (int i = 0; i < N_TICK; i++) tick_arm(&k.ticks[i]);
    bql_unlock();
}

static void ticks_stop(void)
{
    bql_lock();
    k.quiet = true;
    for (int i = 0; i < N_TICK; i++) timer_del(&k.ticks[i].t);
    bql_unlock();
}

static bool tick_waits(int i) { return k.ticks[i].waits && rig_page()->count[VEC_TICK + i] == k.ticks[i].before; }

static void ticks_look(void)
{
    bql_lock();
    u64 now = plat_time_ns();
    bool late = !k.quiet && now - k.last_expiry > STALL_NS, lost = false;
    for (int i = 0; i < N_TICK; i++) lost |= tick_waits(i) && now - k.ticks[i].at > STALL_NS;
    bql_unlock();
    if (late) rig_stall("a timer to expire");
    if (lost) rig_stall("an interrupt that a timer posted");
}

static bool ticks_seen(void *arg)
{
    bool all = true;
    for (int i = 0; i < N_TICK; i++) all &= !tick_waits(i);
    return all;
}

// ---- the second core ----

static u32 before[N_POST];

static void post(unsigned n)
{
    k.kicks++;
    vcpu_post_interrupt(rig_vcpu(), (u8)(VEC_POST + n), false);
}

static bool post_seen(void *arg)
{
    unsigned n = (unsigned)(uintptr_t)arg;
    return rig_page()->count[VEC_POST + n] != before[n];
}

static void await(unsigned n)
{
    if (!rig_wait(post_seen, (void *)(uintptr_t)n, STALL_NS)) rig_stall("an interrupt from another core");
    k.posts_seen++;
}

static void note(unsigned n) { before[n] = rig_page()->count[VEC_POST + n]; }

static void one(void)
{
    unsigned n = (unsigned)rig_random(N_POST);
    note(n);
    post(n);
    await(n);
}

// Many, all at once or with gaps in which the guest gets somewhere else: those that find a kick on its way cost nothing.
static void burst(void)
{
    bool used[N_POST] = {0};
    u64 gap = rig_random(2) ? 1 : rig_random(3000) + 1;
    for (unsigned i = (unsigned)rig_random(400) + 1; i; i--) {
        if (gap > 1) rig_pause_ns(rig_random(gap));
        unsigned n = (unsigned)rig_random(N_POST);
        if (!used[n]) note(n);
        used[n] = true;
        post(n);
    }
    for (unsigned n = 0; n < N_POST; n++)
        if (used[n]) await(n);
}

static void bare_kicks(void)
{
    for (unsigned i = (unsigned)rig_random(64) + 1; i; i--, k.kicks++)
        if (rig_random(2)) vcpu_kick(rig_vcpu());
        else k.samples += profile_ask(rig_vcpu());
}

static void two(void)
{
    unsigned a = (unsigned)rig_random(N_POST), b = (a + 1) % N_POST;
    note(a);
    note(b);
    post(a);
    rig_pause_ns(rig_random(3000));
    post(b);
    await(a);
    await(b);
}

// One timer, and nothing else that could make up for it.
static struct timer single;
static void single_fire(void *opaque)
{
    k.expiries++;
    vcpu_post_interrupt(rig_vcpu(), VEC_POST, false);
}

static void one_timer(void)
{
    note(0);
    bql_lock();
    timer_mod_ns(&single, clock_ns(CLOCK_REALTIME_) + rig_random(30000));
    bql_unlock();
    await(0);
}

// The vCPU leaves for nothing and enters again; the second interrupt is meant to meet it just there, on its way into a loop that calls no
// helper, which would look.
static struct timer echo;
static bool echoed;
static void echo_fire(void *opaque)
{
    k.expiries++;
    if (echoed) vcpu_post_interrupt(rig_vcpu(), VEC_POST, false);
    else timer_mod_ns(&echo, clock_ns(CLOCK_REALTIME_) + 4000 + tick_random(6000));
    if (!echoed) vcpu_kick(rig_vcpu());
    echoed = true;
}

static void at_entry_by_timer(void)
{
    note(0);
    bql_lock();
    echoed = false;
    timer_mod_ns(&echo, clock_ns(CLOCK_REALTIME_));
    bql_unlock();
    await(0);
}

static void at_entry(void)
{
    note(0);
    k.kicks++;
    vcpu_kick(rig_vcpu());
    rig_pause_ns(rig_random(6000));
    post(0);
    await(0);
}

static bool async_seen(void *arg)
{
    return __atomic_load_n(&k.async_done, __ATOMIC_SEQ_CST) == __atomic_load_n(&k.async_queued, __ATOMIC_SEQ_CST);
}

static void step(void)
{
    static const u64 gaps[] = {1, 200, 2000, 20000};
    switch (rig_random(12)) {
    case 0: burst(); break;
    case 1: bare_kicks(); break;
    case 2: two(); break;
    case 3:
        queue_async();
        k.kicks++;
        break;
    case 4:
    case 5: one_timer(); break;
    case 6: at_entry(); break;
    case 7: at_entry_by_timer(); break;
    default: one();
    }
    rig_pause_ns(rig_random(gaps[rig_random(4)]));
    if (rig_random(64) == 0) {
        static const u32 masks[] = {(1u << KINDS) - 1, 1 << K_SPIN | 1 << K_SELF | 1 << K_CALL | 1 << K_DEC | 1 << K_CHAIN | 1 << K_MEM};
        u64 which = rig_random(4);
        rig_page()->mask = which < 2 ? masks[which] : 1u << rig_random(KINDS);
        rig_page()->self = rig_random(4) == 0;
        bql_lock();
        machine_profile(rig_random(4) != 0);
        bql_unlock();
        ticks_look();
        if (k.quiet) ticks_start();
        else ticks_stop();
    }
}

static void say(u64 ns)
{
    volatile struct kick_page *p = rig_page();
    struct lockstat s[2] = {0};
    u64 delivered = 0;
    for (int i = 0; i < 256; i++) delivered += p->count[i];
    if (!plat_bql_stats(0, &s[0]) || !plat_bql_stats(1, &s[1])) rig_stall("a core's figures");
    printf("exit=%s chain=%s: %llu kicks (%llu for samples) and %llu expiries in %llu ms; %llu interrupts delivered, %u rounds of the guest; "
           "BQL taken %llu + %llu times, waited for %llu + %llu times\n",
           rig_options()->exit_poll ? "poll" : "interrupt", rig_options()->no_chain ? "off" : "on", (ull)k.kicks, (ull)k.samples, (ull)k.expiries,
           (ull)(ns / 1000000), (ull)delivered, p->rounds, (ull)s[0].taken, (ull)s[1].taken, (ull)s[0].contended, (ull)s[1].contended);
}

// Blocks that look at exit_request: their code has `cmp dword gs:[exit_request], 0`.
static u32 polling_blocks(u32 *all)
{
    const struct tcg *t = rig_vcpu()->tcg;
    const u32 field = offsetof(struct vcpu, exit_request);
    const u8 look[] = {0x65, 0x83, 0x3c, 0x25, (u8)field, (u8)(field >> 8), (u8)(field >> 16), (u8)(field >> 24), 0};
    u32 found = 0;
    *all = 0;
    for (u32 r = 0; r < t->n_regions; r++)
        for (u32 n = 0; n < t->regions[r].n_tbs; n++, ++*all)
            found += memmem(t->regions[r].order[n]->code, t->regions[r].order[n]->code_size, look, sizeof look) != NULL;
    return found;
}

static void stress(void)
{
    u64 start = plat_time_ns();
    bql_lock();
    timer_init(&single, CLOCK_REALTIME_, single_fire, NULL);
    timer_init(&echo, CLOCK_REALTIME_, echo_fire, NULL);
    for (int i = 0; i < N_TICK; i++) timer_init(&k.ticks[i].t, i % CLOCK_COUNT_, tick_fire, &k.ticks[i]);
    bql_unlock();
    ticks_start();
    for (bool more = true; more; step())
        more = k.goal ? k.kicks + __atomic_load_n(&k.expiries, __ATOMIC_RELAXED) < k.goal : plat_time_ns() - start < QUICK_S * NS_PER_SEC;
    ticks_stop();
    if (!rig_wait(ticks_seen, NULL, STALL_NS)) rig_stall("an interrupt that a timer posted");
    if (!rig_wait(async_seen, NULL, STALL_NS)) rig_stall("queued work to be done");
    say(plat_time_ns() - start);
    CHECK(k.posts_seen > 100 && k.expiries > 100);
    CHECK(!k.wrong_context);
    CHECK(k.samples > 100);
    CHECK(rig_page()->rounds > 100);
    CHECK(rig_page()->errors == 0);
    u32 all, polling = polling_blocks(&all);
    CHECK(all > 20 && polling == (rig_options()->exit_poll ? all : 0));
}

static void mode(bool poll, bool plain)
{
    const struct rig_options o = {.exit_poll = poll, .no_chain = plain, .pin = true, .kernel = k.kernel};
    CHECK(rig_run(&o, stress) == 0x21);
}
static void mode_interrupt(void) { mode(false, false); }
static void mode_poll(void) { mode(true, false); }
static void mode_interrupt_plain(void) { mode(false, true); }
static void mode_poll_plain(void) { mode(true, true); }

int main(int argc, char **argv)
{
    const char *n = getenv("CUPEL_KICKS");
    k.kernel = argc > 1 ? argv[1] : "build/tests/kick.elf";
    if (n) k.goal = strtoull(n, NULL, 0) / MODES + 1;
    rig_fork("exit=interrupt", mode_interrupt);
    rig_fork("exit=poll", mode_poll);
    rig_fork("exit=interrupt,chain=off", mode_interrupt_plain);
    rig_fork("exit=poll,chain=off", mode_poll_plain);
    return rig_result();
}
