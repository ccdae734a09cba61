// Clocks and timers with a real second core: disabling a clock waits for callbacks that run elsewhere, timers are changed from both cores
// and from callbacks at once, clocks are read without a lock. Core 0 is a core with nothing to do but its interrupts; the tests run on
// core 1.
#include "tests/kick/rig.h"

#include <unistd.h>

#include "hosted/hosted.h"

#define LONG_NS (5 * NS_PER_SEC)
#define V(x) __atomic_load_n(&(x), __ATOMIC_SEQ_CST)

static void (*test_fn)(void), (*core0_fn)(void);
static u32 done;

static void core1(void *arg)
{
    (void)arg;
    test_fn();
    __atomic_store_n(&done, 1, __ATOMIC_SEQ_CST);
    for (;;) {
        plat_core_kick(0);
        rig_sleep_ns(1000000);
    }
}

static void two_cores(void (*test)(void), void (*meanwhile)(void))
{
    static const struct plat_events events = {.timer = clocks_run_expired};
    test_fn = test;
    core0_fn = meanwhile;
    core_init();
    time_init();
    clocks_init();
    plat_events_set(&events);
    bql_lock();
    clock_resume_vm();
    bql_unlock();
    if (!plat_core_start(1, core1, NULL)) panic("no second core");
    while (!V(done)) {
        if (core0_fn) core0_fn();
        bql_lock();
        if (!core0_fn && !V(done)) plat_idle();
        bql_unlock();
    }
}

// ---- disabling waits ----

static struct timer slow[2], other;
static u32 inside, fired, others;

// Lets go of the lock on its way, as a device does that waits for something.
static void slow_fire(void *opaque)
{
    struct timer *t = opaque;
    __atomic_store_n(&inside, 1, __ATOMIC_SEQ_CST);
    fired++;
    bql_unlock();
    rig_pause_ns(5000);
    bql_lock();
    __atomic_store_n(&inside, 0, __ATOMIC_SEQ_CST);
    timer_mod_ns(t, clock_ns(t->clock) + 10000);
}

// A callback may stop its own clock: that cannot wait for itself.
static void other_fire(void *opaque)
{
    others++;
    clock_enable(CLOCK_REALTIME_, false);
    timer_mod_ns(opaque, 0);
}

static void disable_waits(void)
{
    u32 waited = 0, wrong = 0, quiet = 0;
    bql_lock();
    for (int i = 0; i < 2; i++) {
        timer_init(&slow[i], CLOCK_VIRTUAL_, slow_fire, &slow[i]);
        timer_mod_ns(&slow[i], 0);
    }
    timer_init(&other, CLOCK_REALTIME_, other_fire, &other);
    timer_mod_ns(&other, 0);
    bql_unlock();
    u64 end = plat_time_ns() + 10 * LONG_NS;
    for (int n = 0; (n < 2000 || waited < 100) && plat_time_ns() < end; n++) {
        bql_lock();
        waited += V(inside);
        clock_enable(CLOCK_VIRTUAL_, false);
        u32 f = fired;
        if (V(inside)) wrong++;
        bql_unlock();
        rig_pause_ns(rig_random(20000));
        bql_lock();
        if (fired != f || V(inside)) wrong++;
        else quiet++;
        clock_enable(CLOCK_VIRTUAL_, true);
        clock_enable(CLOCK_REALTIME_, true);
        bql_unlock();
        rig_pause_ns(rig_random(30000));
    }
    printf("clock_enable: %u of %u calls found a callback running on the other core; %u callbacks, %u that stop their own clock\n", waited,
           quiet, fired, others);
    CHECK(wrong == 0);
    CHECK(waited >= 100);
    CHECK(others > 10);
    bql_lock();
    for (int i = 0; i < 2; i++) timer_del(&slow[i]);
    timer_del(&other);
    bql_unlock();
}

// ---- both cores and the callbacks change timers ----

enum { TIMERS = 16 };
static struct timer model[TIMERS];
static u64 due[TIMERS], model_fired, seed[2] = {88172645463325252ull, 1442695040888963407ull};   // BQL
static bool model_wrong;

static u64 model_random(u64 n)
{
    u64 *s = &seed[plat_core_id()];
    *s ^= *s << 13;
    *s ^= *s >> 7;
    *s ^= *s << 17;
    return *s % n;
}

static void model_mod(unsigned i)
{
    due[i] = clock_ns(model[i].clock) + model_random(100000);
    timer_mod_ns(&model[i], due[i]);
}

static void model_del(unsigned i)
{
    due[i] = UINT64_MAX;
    timer_del(&model[i]);
}

static void model_change(void)
{
    unsigned i = (unsigned)model_random(TIMERS);
    if (model_random(4)) model_mod(i);
    else model_del(i);
}

static void model_fire(void *opaque)
{
    unsigned i = (unsigned)(uintptr_t)opaque;
    bool early = model[i].clock != CLOCK_HOST_ && due[i] > clock_ns(model[i].clock);   // (the wall clock may be stepped)
    if (due[i] == UINT64_MAX || timer_armed(&model[i]) || early) model_wrong = true;
    if (!plat_in_interrupt() || plat_core_id() != 0) model_wrong = true;
    due[i] = UINT64_MAX;
    model_fired++;
    model_mod(i);
    model_change();
}

static void model_step(void)
{
    bql_lock();
    model_change();
    for (unsigned i = 0; i < TIMERS; i++) model_wrong |= due[i] != model[i].expire_ns;
    bql_unlock();
    rig_pause_ns(model_random(20000));
}

static void meanwhile(void)
{
    if (model[TIMERS - 1].fn) model_step();
}

static bool model_idle(void *arg)
{
    bool overdue = false;
    bql_lock();
    for (unsigned i = 0; i < TIMERS; i++) overdue |= due[i] != UINT64_MAX && due[i] + 1000000 < clock_ns(model[i].clock);
    bql_unlock();
    return !overdue;
}

static void changed_everywhere(void)
{
    bql_lock();
    for (unsigned i = 0; i < TIMERS; i++) {
        due[i] = UINT64_MAX;
        timer_init(&model[i], i % CLOCK_COUNT_, model_fire, (void *)(uintptr_t)i);
    }
    bql_unlock();
    u64 end = plat_time_ns() + 10 * LONG_NS;
    for (int n = 0; (n < 20000 || model_fired < 5000) && plat_time_ns() < end; n++) model_step();
    printf("timers changed from two cores and callbacks: %llu fired\n", (ull)model_fired);
    CHECK(!model_wrong);
    CHECK(model_fired >= 5000);
    CHECK(rig_wait(model_idle, NULL, LONG_NS));
    bql_lock();
    for (unsigned i = 0; i < TIMERS; i++) timer_del(&model[i]);
    bql_unlock();
}

// ---- reading takes no lock ----

static u64 reads, backwards, irq_last, irq_reads;
static struct timer reader;

static void read_here(void)
{
    static u64 last;
    u64 now = clock_ns(CLOCK_VIRTUAL_);
    if (now < last) __atomic_fetch_add(&backwards, 1, __ATOMIC_SEQ_CST);
    last = now;
    __atomic_fetch_add(&reads, 1, __ATOMIC_SEQ_CST);
}

static void core0_reads(void)
{
    for (int i = 0; i < 100; i++) read_here();
    // What core 0 runs besides takes the lock: not while the test holds it.
}

static void reader_fire(void *opaque)
{
    u64 now = clock_ns(CLOCK_VIRTUAL_);
    if (now < irq_last) __atomic_fetch_add(&backwards, 1, __ATOMIC_SEQ_CST);
    irq_last = now;
    irq_reads++;
    timer_mod_ns(&reader, clock_ns(CLOCK_REALTIME_) + 30000);
}

static bool many_reads(void *arg)
{
    return V(reads) > *(u64 *)arg + 50;
}

static void read_freely(void)
{
    bql_lock();
    timer_init(&reader, CLOCK_REALTIME_, reader_fire, NULL);
    timer_mod_ns(&reader, 0);
    bql_unlock();
    u32 moved = 0;
    u64 end = plat_time_ns() + 10 * LONG_NS;
    for (int n = 0; (n < 20000 || V(irq_reads) < 100) && plat_time_ns() < end; n++) {
        bql_lock();
        clock_pause_vm();
        u64 a = clock_ns(CLOCK_VIRTUAL_), real = clock_ns(CLOCK_REALTIME_);
        rig_pause_ns(rig_random(1000));
        moved += clock_ns(CLOCK_VIRTUAL_) != a || clock_ns(CLOCK_VIRTUAL_RT_) != a || clock_ns(CLOCK_REALTIME_) < real;
        clock_resume_vm();
        bql_unlock();
    }
    // Core 0 stands before its bql_lock at times; it reads 100 times in between.
    u32 free = 0;
    for (int n = 0; n < 100 && free < 5; n++) {
        rig_pause_ns(rig_random(2000));
        bql_lock();
        u64 before = V(reads);
        free += rig_wait(many_reads, &before, 200000000);
        bql_unlock();
    }
    printf("clock reads: %llu, %llu in interrupts; %u times many while the other core held the lock\n", (ull)reads,
           (ull)irq_reads, free);
    CHECK(backwards == 0);
    CHECK(moved == 0);
    CHECK(irq_reads >= 100);
    CHECK(free >= 5);
    bql_lock();
    timer_del(&reader);
    bql_unlock();
}

static void run_disable(void) { two_cores(disable_waits, NULL); }
static void run_changed(void) { two_cores(changed_everywhere, meanwhile); }
static void run_read(void) { two_cores(read_freely, core0_reads); }

int main(void)
{
    rig_fork("disabling a clock", run_disable);
    rig_fork("timers changed everywhere", run_changed);
    rig_fork("clocks read freely", run_read);
    return rig_result();
}
