// Clocks, timer lists, 8254, HPET and RTC on a fake platform whose time the test steps.
// Links devices/clock.c, icount.c, pit.c, hpet.c, rtc.c.
#include "tests/unit/fake_chips.h"

#include <sched.h>

#include "devices/icount.h"
#include "kernel/base/date.h"

// ---- clocks ---------------------------------------------------------------------------------------------
static unsigned fired;
static void count_fire(void *opaque) { fired++; }

static void locked_mod(struct timer *t, u64 at) { bql_lock(); timer_mod_ns(t, at); bql_unlock(); }
static void locked_del(struct timer *t) { bql_lock(); timer_del(t); bql_unlock(); }
static u64 locked_deadline(void) { bql_lock(); u64 d = clock_deadline_ns(); bql_unlock(); return d; }

static void test_clock_pause(void)
{
    struct timer t;
    fake_start();
    u64 v0 = clock_ns(CLOCK_VIRTUAL_);
    fake_step(500);
    CHECK_EQ(clock_ns(CLOCK_VIRTUAL_) - v0, 500);
    timer_init(&t, CLOCK_VIRTUAL_, count_fire, NULL);
    CHECK(!timer_armed(&t));
    locked_mod(&t, v0 + 1500);
    CHECK(timer_armed(&t));
    CHECK_EQ(fake_armed, fake_time + 1000);
    CHECK_EQ(locked_deadline(), 1000);
    bql_lock();
    clock_pause_vm();
    bql_unlock();
    CHECK_EQ(fake_armed, UINT64_MAX);
    CHECK_EQ(locked_deadline(), UINT64_MAX);
    u64 stands = clock_ns(CLOCK_VIRTUAL_);
    fired = 0;
    fake_step(100000);
    CHECK_EQ(clock_ns(CLOCK_VIRTUAL_), stands);
    CHECK_EQ(clock_ns(CLOCK_VIRTUAL_RT_), stands);
    CHECK_EQ(clock_ns(CLOCK_REALTIME_), fake_time);
    CHECK_EQ(fired, 0);
    bql_lock();
    clock_resume_vm();
    bql_unlock();
    CHECK_EQ(clock_ns(CLOCK_VIRTUAL_), stands);
    fake_step(999);
    CHECK_EQ(fired, 0);
    fake_step(1);
    CHECK_EQ(fired, 1);
    CHECK(!timer_armed(&t));
    CHECK_EQ(fake_armed, UINT64_MAX);
    locked_mod(&t, 0);   // in the past: fires at once
    CHECK(fake_armed <= fake_time);
    fake_step(0);
    CHECK_EQ(fired, 2);
    locked_del(&t);
    locked_del(&t);
    locked_mod(&t, UINT64_MAX);
    CHECK(!timer_armed(&t));
}

static void test_clock_host_jump(void)
{
    struct timer t;
    fake_start();
    fired = 0;
    timer_init(&t, CLOCK_HOST_, count_fire, NULL);
    locked_mod(&t, plat_wall_ns() + 3600 * NS_PER_SEC);
    fake_step(NS_PER_SEC / 2);
    CHECK_EQ(fired, 0);
    fake_wall += 3600ll * 1000000000ll;   // stepped ahead: noticed within a second
    fake_step(NS_PER_SEC);
    CHECK_EQ(fired, 1);
    locked_mod(&t, plat_wall_ns() + NS_PER_SEC);
    fake_wall -= 10ll * 1000000000ll;     // and back: not early
    fake_step(10 * NS_PER_SEC);
    CHECK_EQ(fired, 1);
    fake_step(NS_PER_SEC);
    CHECK_EQ(fired, 2);
}

static struct timer ta, tb, tc;
static unsigned order[8], norder;
static void fire_a(void *o) { order[norder++] = 1; timer_del(&tb); timer_mod_ns(&ta, clock_ns(CLOCK_VIRTUAL_) + 100); }
static void fire_b(void *o) { order[norder++] = 2; }
static void fire_c(void *o) { order[norder++] = 3; timer_mod_ns(&tb, 0); }
static void fire_self_delete(void *o) { order[norder++] = 4; timer_del(&ta); clock_enable(CLOCK_VIRTUAL_, false); }

static void test_callbacks(void)
{
    fake_start();
    u64 now = clock_ns(CLOCK_VIRTUAL_);
    timer_init(&ta, CLOCK_VIRTUAL_, fire_a, NULL);
    timer_init(&tb, CLOCK_VIRTUAL_, fire_b, NULL);
    timer_init(&tc, CLOCK_VIRTUAL_, fire_c, NULL);
    locked_mod(&ta, now + 10);
    locked_mod(&tb, now + 10);   // equal deadline: after a, which deletes it
    locked_mod(&tc, now + 10);
    norder = 0;
    fake_late(20);
    fake_run_to(fake_time);      // c re-arms b in the past: by another interrupt
    CHECK_EQ(norder, 3);
    CHECK(order[0] == 1 && order[1] == 3 && order[2] == 2);
    CHECK(timer_armed(&ta) && !timer_armed(&tb));
    locked_del(&ta);
    timer_init(&ta, CLOCK_VIRTUAL_, fire_self_delete, NULL);
    now = clock_ns(CLOCK_VIRTUAL_);
    locked_mod(&ta, now + 5);
    locked_mod(&tb, now + 6);
    norder = 0;
    fake_late(50);
    fake_run_to(fake_time);      // a stops the clock: b, expired as well, stays
    CHECK(norder == 1 && order[0] == 4 && timer_armed(&tb));
    CHECK_EQ(fake_armed, UINT64_MAX);
    bql_lock();
    clock_enable(CLOCK_VIRTUAL_, true);
    bql_unlock();
    fake_step(1);
    CHECK(norder == 2 && order[1] == 2);
}

// A callback that lets go of the BQL on another core: clock_enable(off) waits for it.
static _Atomic bool cb_entered, cb_go, cb_left;
static void fire_slow(void *o)
{
    bql_unlock();
    cb_entered = true;
    while (!cb_go) sched_yield();
    bql_lock();
    cb_left = true;
}
static void *other_core(void *arg)
{
    fake_core = 1;
    bql_lock();
    clocks_run_expired();
    bql_unlock();
    return NULL;
}
static void *release_later(void *arg)
{
    struct timespec ts = {0, 20000000};
    nanosleep(&ts, NULL);
    cb_go = true;
    return NULL;
}
static void test_enable_waits(void)
{
    pthread_t a, b;
    struct timer t;
    fake_start();
    timer_init(&t, CLOCK_VIRTUAL_, fire_slow, NULL);
    locked_mod(&t, 0);
    pthread_create(&a, NULL, other_core, NULL);
    while (!cb_entered) sched_yield();
    pthread_create(&b, NULL, release_later, NULL);
    bql_lock();
    clock_enable(CLOCK_REALTIME_, false);   // another clock: does not wait
    CHECK(!cb_left);
    clock_enable(CLOCK_VIRTUAL_, false);
    CHECK(cb_left);
    bql_unlock();
    pthread_join(a, NULL);
    pthread_join(b, NULL);
}

// Random operations against a model that is an array of deadlines.
enum { MODEL_TIMERS = 24, MODEL_STEPS = 20000 };
static struct timer model_t[MODEL_TIMERS];
static u64 model_due[MODEL_TIMERS], model_fires;
static bool model_bad;
static u64 rng = 88172645463325252ull;
static u64 rnd(u64 n) { rng ^= rng << 13; rng ^= rng >> 7; rng ^= rng << 17; return rng % n; }
static void model_mod(unsigned i, u64 at) { model_due[i] = at; timer_mod_ns(&model_t[i], at); }
static void model_fire(void *opaque)
{
    unsigned i = (unsigned)(uintptr_t)opaque;
    u64 now = clock_ns(model_t[i].clock);
    if (model_due[i] > now || !bql_held() || timer_armed(&model_t[i])) model_bad = true;
    model_due[i] = UINT64_MAX;
    model_fires++;
    unsigned j = (unsigned)rnd(MODEL_TIMERS);
    switch (rnd(4)) {
    case 0: model_mod(i, now + 1 + rnd(500)); break;
    case 1: model_mod(j, clock_ns(model_t[j].clock) + rnd(500)); break;
    case 2: model_due[j] = UINT64_MAX; timer_del(&model_t[j]); break;
    default: break;
    }
}
static u64 model_deadline(bool paused)
{
    u64 best = UINT64_MAX;
    for (int i = 0; i < MODEL_TIMERS; i++) {
        enum clock_type c = model_t[i].clock;
        if (model_due[i] == UINT64_MAX || (paused && (c == CLOCK_VIRTUAL_ || c == CLOCK_VIRTUAL_RT_))) continue;
        u64 now = clock_ns(c);
        best = min_u64(best, model_due[i] > now ? model_due[i] - now : 0);
    }
    return best;
}
static void test_model(void)
{
    bool paused = false;
    unsigned wrong = 0;
    fake_start();
    for (unsigned i = 0; i < MODEL_TIMERS; i++) {
        timer_init(&model_t[i], i % CLOCK_COUNT_, model_fire, (void *)(uintptr_t)i);
        model_due[i] = UINT64_MAX;
    }
    for (unsigned n = 0; n < MODEL_STEPS; n++) {
        unsigned i = (unsigned)rnd(MODEL_TIMERS);
        bql_lock();
        switch (rnd(8)) {
        case 0: case 1: case 2: model_mod(i, clock_ns(model_t[i].clock) + rnd(2000)); break;
        case 3: model_due[i] = UINT64_MAX; timer_del(&model_t[i]); break;
        case 4:
            if (rnd(10) == 0) {
                paused = !paused;
                if (paused) clock_pause_vm();
                else clock_resume_vm();
            }
            break;
        default: break;
        }
        u64 want = model_deadline(paused), got = clock_deadline_ns();
        u64 arm = want == UINT64_MAX ? want : fake_time + min_u64(want, NS_PER_SEC);
        if (want != got || (fake_armed != arm && !(want == 0 && fake_armed <= fake_time))) wrong++;
        bql_unlock();
        if (rnd(2)) fake_step(rnd(300));
        for (int k = 0; k < MODEL_TIMERS; k++)
            if (model_due[k] != model_t[k].expire_ns) wrong++;
    }
    CHECK_EQ(wrong, 0);
    CHECK(!model_bad);
    CHECK(model_fires > 5000);
    for (int i = 0; i < MODEL_TIMERS; i++) locked_del(&model_t[i]);
    CHECK_EQ(fake_armed, UINT64_MAX);
}

// ---- 8254 -------------------------------------------------------------------------------------------------
static struct pit *pit;
static void pit_program(unsigned ch, u8 mode, u16 count, bool bcd)
{
    out8(0x43, (u8)(ch << 6 | 0x30 | mode << 1 | bcd));
    out8((u16)(0x40 + ch), (u8)count);
    out8((u16)(0x40 + ch), (u8)(count >> 8));
}
static u16 pit_count(unsigned ch)
{
    out8(0x43, (u8)(ch << 6));
    u8 lo = in8((u16)(0x40 + ch));
    return (u16)(lo | in8((u16)(0x40 + ch)) << 8);
}
static u8 pit_status(unsigned ch)
{
    out8(0x43, (u8)(0xe0 | 2 << ch));
    return in8((u16)(0x40 + ch));
}
// The first nanosecond of the n-th oscillator tick from now.
static u64 pit_now(void) { return muldiv64(clock_ns(CLOCK_VIRTUAL_), 1193182, NS_PER_SEC); }
static void pit_go(u64 tick)
{
    u64 ns = (u64)(((u128)tick * NS_PER_SEC + 1193181) / 1193182);
    fake_run_to(fake_time + ns - clock_ns(CLOCK_VIRTUAL_));
}

static void test_pit(void)
{
    fake_start();
    fake_phys.n = 0;
    pit = LOCKED(pit_new(&fake_phys, fake_irq(0)));
    fake_step(12345);

    // Counter and OUT after so many ticks from the load, per mode. Channel 2, gate high.
    static const struct { u8 mode; bool bcd; u16 count; u32 ticks; u16 value; bool out; } rows[] = {
        {0, false, 100, 0, 100, false}, {0, false, 100, 1, 99, false}, {0, false, 100, 99, 1, false}, {0, false, 100, 100, 0, true},
        {0, false, 100, 101, 0xffff, true}, {0, false, 0, 1, 0xffff, false}, {0, false, 0, 65536, 0, true},
        {0, true, 0x100, 1, 0x99, false}, {0, true, 0x100, 101, 0x9999, true}, {0, true, 0, 1, 0x9999, false},
        {2, false, 10, 0, 10, true}, {2, false, 10, 8, 2, true}, {2, false, 10, 9, 1, false}, {2, false, 10, 10, 10, true},
        {2, false, 10, 1009, 1, false}, {2, true, 0x20, 1, 0x19, true},
        {3, false, 10, 0, 10, true}, {3, false, 10, 1, 8, true}, {3, false, 10, 4, 2, true}, {3, false, 10, 5, 10, false},
        {3, false, 10, 9, 2, false}, {3, false, 10, 10, 10, true},
        {3, false, 5, 0, 4, true}, {3, false, 5, 2, 0, true}, {3, false, 5, 3, 4, false}, {3, false, 5, 4, 2, false}, {3, false, 5, 5, 4, true},
        {4, false, 50, 0, 50, true}, {4, false, 50, 49, 1, true}, {4, false, 50, 50, 0, false}, {4, false, 50, 51, 0xffff, true},
        {7, false, 10, 5, 10, false}, {6, false, 10, 9, 1, false},   // modes 6, 7 are 2, 3
    };
    out8(0x61, 1);
    for (unsigned i = 0; i < ARRAY_SIZE(rows); i++) {
        pit_program(2, rows[i].mode, rows[i].count, rows[i].bcd);
        pit_go(pit_now() + 1 + rows[i].ticks);
        u16 v = pit_count(2);
        bool out = in8(0x61) >> 5 & 1;
        if (v != rows[i].value || out != rows[i].out) printf("pit row %u: %#x %d\n", i, v, out);
        CHECK(v == rows[i].value && out == rows[i].out);
    }

    // Modes 1 and 5 wait for the gate.
    out8(0x61, 0);
    pit_program(2, 1, 20, false);
    fake_step(100000);
    CHECK(in8(0x61) & 0x20);
    CHECK(pit_status(2) & 0x40);
    out8(0x61, 1);
    u64 t0 = pit_now() + 1;
    pit_go(t0);
    CHECK(!(in8(0x61) & 0x20));
    pit_go(t0 + 19);
    CHECK(!(in8(0x61) & 0x20));
    out8(0x61, 0);
    out8(0x61, 1);                     // retriggered
    t0 = pit_now() + 1;
    pit_go(t0 + 19);
    CHECK(!(in8(0x61) & 0x20));
    pit_go(t0 + 20);
    CHECK(in8(0x61) & 0x20);
    out8(0x61, 0);
    pit_program(2, 5, 7, false);
    out8(0x61, 1);
    t0 = pit_now() + 1;
    pit_go(t0 + 6);
    CHECK(in8(0x61) & 0x20);
    pit_go(t0 + 7);
    CHECK(!(in8(0x61) & 0x20));
    pit_go(t0 + 8);
    CHECK(in8(0x61) & 0x20);

    // Mode 0, gate low holds the count; mode 2, gate low sets OUT and a rising gate reloads.
    out8(0x61, 1);
    pit_program(2, 0, 1000, false);
    pit_go(pit_now() + 1 + 300);
    out8(0x61, 0);
    CHECK_EQ(pit_count(2), 700);
    fake_step(5000000);
    CHECK_EQ(pit_count(2), 700);
    out8(0x61, 1);
    pit_go(pit_now() + 700);
    CHECK(in8(0x61) & 0x20);
    pit_program(2, 2, 10, false);
    pit_go(pit_now() + 1 + 9);
    CHECK(!(in8(0x61) & 0x20));
    out8(0x61, 0);
    CHECK(in8(0x61) & 0x20);
    out8(0x61, 1);
    pit_go(pit_now() + 1);
    CHECK_EQ(pit_count(2), 10);
    CHECK_EQ(in8(0x61) & 0xf, 1);

    // A new count in mode 2 waits for the end of the period.
    pit_program(2, 2, 100, false);
    t0 = pit_now() + 1;
    pit_go(t0 + 50);
    out8(0x42, 30);
    out8(0x42, 0);
    CHECK_EQ(pit_count(2), 50);
    CHECK(pit_status(2) & 0x40);
    pit_go(t0 + 99);
    CHECK_EQ(pit_count(2), 1);
    pit_go(t0 + 100);
    CHECK_EQ(pit_count(2), 30);
    CHECK(!(pit_status(2) & 0x40));
    pit_go(t0 + 131);
    CHECK_EQ(pit_count(2), 29);

    // Latches: the value stands until read, a second latch is ignored; read-back gives status first.
    pit_program(2, 0, 0x1234, false);
    pit_go(pit_now() + 1 + 4);
    out8(0x43, 0x80);
    pit_go(pit_now() + 100);
    out8(0x43, 0x80);
    CHECK_EQ(in8(0x42), 0x30);
    CHECK_EQ(in8(0x42), 0x12);
    out8(0x43, 0xc8);                  // count and status of channel 2
    CHECK_EQ(in8(0x42), 0x30);         // OUT low, RW 3, mode 0
    u8 lo = in8(0x42), hi = in8(0x42);
    CHECK_EQ(hi << 8 | lo, 0x1234 - 104);
    out8(0x43, 0x92);                  // LSB only, mode 1: gate is high already
    out8(0x43, 0xa0);                  // MSB only, mode 0
    out8(0x42, 2);
    pit_go(pit_now() + 1 + 1);
    CHECK_EQ(in8(0x42), 1);
    CHECK_EQ(in8(0x42), 1);
    bool r0 = in8(0x61) & 0x10;
    fake_step(15085);
    CHECK((bool)(in8(0x61) & 0x10) != r0);

    // Channel 0 drives the line. HZ=1000: no drift over 10 s, no lost edge.
    memset(fake_lines, 0, sizeof fake_lines);
    pit_program(0, 2, 1193, false);
    unsigned before = fake_lines[0].rises;
    t0 = pit_now() + 1;
    pit_go(t0 + 1193);
    CHECK_EQ(fake_lines[0].rises, before + 1);
    pit_go(t0 + 1193ull * 10000);
    CHECK_EQ(fake_lines[0].rises, before + 10000);
    pit_program(0, 0, 500, false);     // one-shot
    CHECK(!fake_lines[0].level);
    before = fake_lines[0].rises;
    t0 = pit_now() + 1;
    pit_go(t0 + 499);
    CHECK_EQ(fake_lines[0].rises, before);
    pit_go(t0 + 500);
    CHECK_EQ(fake_lines[0].rises, before + 1);
    fake_step(NS_PER_SEC);
    CHECK_EQ(fake_lines[0].rises, before + 1);
    pit_program(0, 3, 2000, false);
    before = fake_lines[0].rises;
    t0 = pit_now() + 1;
    pit_go(t0 + 2000ull * 7);
    CHECK_EQ(fake_lines[0].rises, before + 7);
    pit_program(0, 4, 2000, false);
    before = fake_lines[0].rises;
    fake_step(NS_PER_SEC);
    CHECK_EQ(fake_lines[0].rises, before + 1);
    pit_program(0, 2, 1, false);       // 1.2 MHz: bounded
    before = fake_lines[0].rises;
    fake_step(NS_PER_SEC / 100);
    CHECK(fake_lines[0].rises - before <= 1001);
    pit_program(0, 2, 1193, false);
    bql_lock();
    pit_set_irq0_enabled(pit, false);
    bql_unlock();
    before = fake_lines[0].rises;
    fake_step(NS_PER_SEC / 10);
    CHECK(fake_lines[0].rises == before && fake_armed == UINT64_MAX);
    bql_lock();
    pit_set_irq0_enabled(pit, true);
    bql_unlock();
    fake_step(NS_PER_SEC / 10);
    CHECK(fake_lines[0].rises >= before + 99);
    // Linux measures its TSC like this: mode 0, 50 ms, waits for bit 5.
    out8(0x61, 1);
    pit_program(2, 0, 59659, false);
    u64 n0 = fake_time;
    while (!(in8(0x61) & 0x20)) fake_step(1000);
    CHECK(fake_time - n0 >= 50000000 && fake_time - n0 < 50004000);
    bql_lock();
    pit_reset(pit);
    bql_unlock();
    CHECK_EQ(fake_armed, UINT64_MAX);
}

// ---- HPET ---------------------------------------------------------------------------------------------------
enum { H_CAP = 0, H_CFG = 0x10, H_STATUS = 0x20, H_COUNTER = 0xf0, H_T0 = 0x100, H_T1 = 0x120, H_T2 = 0x140 };
#define HP(r) (0xfed00000ull + (r))
static void test_hpet(void)
{
    static struct irq gsi[24];
    fake_start();
    fake_phys.n = 0;
    memset(fake_lines, 0, sizeof fake_lines);
    for (unsigned i = 0; i < 24; i++) gsi[i] = fake_irq(i);
    pit = LOCKED(pit_new(&fake_phys, fake_irq(0)));
    struct rtc *rtc = LOCKED(rtc_new(&fake_phys, fake_irq(8), GIB));
    struct hpet *h = LOCKED(hpet_new(&fake_phys, gsi, 24));
    hpet_set_legacy(h, pit, rtc, fake_irq(0), fake_irq(8));
    CHECK_EQ(ld32(HP(H_CAP)), 0x8086a201);
    CHECK_EQ(ld32(HP(4)), 10000000);
    CHECK_EQ(ld32(HP(H_T0 + 4)), 0xc00);
    CHECK_EQ(ld32(HP(H_T0)) & 0x8030, 0x30);
    CHECK_EQ(ld64(HP(H_COUNTER)), 0);
    fake_step(1000);
    CHECK_EQ(ld64(HP(H_COUNTER)), 0);
    st64(HP(H_COUNTER), 0xfffffff0);
    st32(HP(H_CFG), 1);
    fake_step(1000);
    CHECK_EQ(ld64(HP(H_COUNTER)), 0xfffffff0ull + 100);
    CHECK_EQ(ld32(HP(H_COUNTER + 4)), 1);
    st32(HP(H_CFG), 0);
    fake_step(1000);
    CHECK_EQ(ld32(HP(H_COUNTER)), 0xfffffff0u + 100);
    st64(HP(H_COUNTER), 0);
    st32(HP(H_CFG), 1);

    // One-shot, edge, route 10; it comes again only after the wrap of 64 bits.
    st32(HP(H_T2), 4 | 10 << 9);
    st64(HP(H_T2 + 8), 1000);
    u64 t0 = fake_time;
    fake_step(9999);
    CHECK_EQ(fake_lines[10].rises, 0);
    fake_step(1);
    CHECK_EQ(fake_lines[10].rises, 1);
    fake_step(100 * NS_PER_SEC);
    CHECK(fake_lines[10].rises == 1 && ld32(HP(H_STATUS)) == 0);
    // 32-bit: again after 2^32 ticks.
    st32(HP(H_T2), 4 | 10 << 9 | 0x100);
    u64 c = ld64(HP(H_COUNTER));
    st32(HP(H_T2 + 8), (u32)c + 50);
    fake_step(500);
    CHECK_EQ(fake_lines[10].rises, 2);
    fake_step((1ull << 32) * 10 - 1);
    CHECK_EQ(fake_lines[10].rises, 2);
    fake_step(1);
    CHECK_EQ(fake_lines[10].rises, 3);
    // A route that is not offered reads back as it was.
    st32(HP(H_T2), 4 | 5 << 9);
    CHECK_EQ(ld32(HP(H_T2)) >> 9 & 31, 10);
    st32(HP(H_T2), 0);

    // Periodic with VAL_SET, as Linux does: comparator, then period.
    memset(fake_lines, 0, sizeof fake_lines);
    st32(HP(H_T0), 4 | 8 | 0x40 | 0x100 | 11 << 9);
    c = ld64(HP(H_COUNTER));
    st32(HP(H_T0 + 8), (u32)c + 5000);
    st32(HP(H_T0 + 8), 100000);
    CHECK_EQ(ld32(HP(H_T0 + 8)), (u32)c + 5000);
    fake_step(50000);
    CHECK_EQ(fake_lines[11].rises, 1);
    CHECK_EQ(ld32(HP(H_T0 + 8)), (u32)c + 105000);
    fake_step(10 * NS_PER_SEC);
    CHECK_EQ(fake_lines[11].rises, 1 + 10000);
    fake_late(10500000);               // ten periods late: one interrupt, the phase stays
    u32 r0 = fake_lines[11].rises;
    st32(HP(H_STATUS), 0);
    CHECK_EQ(fake_lines[11].rises, r0 + 1);
    CHECK_EQ((ld32(HP(H_T0 + 8)) - ((u32)c + 5000)) % 100000, 0);
    fake_run_to(fake_time);
    CHECK_EQ(fake_lines[11].rises, r0 + 1);
    st32(HP(H_T0), 4 | 8 | 0x40 | 0x100 | 11 << 9);
    st32(HP(H_T0 + 8), (u32)ld64(HP(H_COUNTER)) + 10);
    st32(HP(H_T0 + 8), 1);             // 100 MHz: bounded
    r0 = fake_lines[11].rises;
    fake_step(NS_PER_SEC / 100);
    CHECK(fake_lines[11].rises - r0 <= 1001);
    st32(HP(H_T0), 0);

    // 64-bit periodic written in halves.
    st32(HP(H_T0), 8 | 0x40);
    st32(HP(H_T0 + 8), 0x11111111);
    st32(HP(H_T0 + 12), 0x7);
    CHECK_EQ(ld64(HP(H_T0 + 8)), 0x711111111ull);
    st32(HP(H_T0 + 8), 0x500);
    CHECK_EQ(ld64(HP(H_T0 + 8)), 0x711111111ull);
    st32(HP(H_T0), 0);

    // Level: status holds the line until it is cleared.
    memset(fake_lines, 0, sizeof fake_lines);
    st32(HP(H_T1), 4 | 2 | 10 << 9);
    st64(HP(H_T1 + 8), ld64(HP(H_COUNTER)) + 100);
    fake_step(1000);
    CHECK(fake_lines[10].level && ld32(HP(H_STATUS)) == 2);
    st32(HP(H_STATUS), 1);
    CHECK(fake_lines[10].level);
    st32(HP(H_STATUS), 2);
    CHECK(!fake_lines[10].level && ld32(HP(H_STATUS)) == 0);
    st64(HP(H_T1 + 8), ld64(HP(H_COUNTER)) + 100);
    fake_step(1000);
    CHECK(fake_lines[10].level);
    st32(HP(H_T1), 4 | 2 | 11 << 9);   // routed away while asserted
    CHECK(!fake_lines[10].level && fake_lines[11].level);
    st32(HP(H_CFG), 0);
    CHECK(!fake_lines[11].level);
    st32(HP(H_T1), 0);

    // Legacy replacement: IRQ0 and IRQ8; the PIT and the RTC are silent.
    memset(fake_lines, 0, sizeof fake_lines);
    pit_program(0, 2, 1193, false);
    unsigned before = fake_lines[0].rises;
    fake_step(NS_PER_SEC / 100);
    CHECK(fake_lines[0].rises > before);
    st32(HP(H_CFG), 3);
    before = fake_lines[0].rises;
    fake_step(NS_PER_SEC / 100);
    CHECK_EQ(fake_lines[0].rises, before);
    st32(HP(H_T0), 4);
    st64(HP(H_T0 + 8), ld64(HP(H_COUNTER)) + 10);
    st32(HP(H_T1), 4);
    st64(HP(H_T1 + 8), ld64(HP(H_COUNTER)) + 20);
    fake_step(200);
    CHECK(fake_lines[0].rises == before + 1 && fake_lines[8].rises == 1);
    st32(HP(H_CFG), 1);
    before = fake_lines[0].rises;
    fake_step(NS_PER_SEC / 100);
    CHECK(fake_lines[0].rises > before);
    bql_lock();                        // by DMA: the lock is held already
    fake_find(false, HP(0))->ops->write(h, H_CFG, 0, 4);
    CHECK_EQ(fake_find(false, HP(0))->ops->read(h, H_CFG, 4), 0);
    hpet_reset(h);
    pit_reset(pit);
    bql_unlock();
    CHECK_EQ(ld64(HP(H_COUNTER)), 0);
    CHECK(fake_time > t0);
}

// ---- RTC ------------------------------------------------------------------------------------------------------
static u8 rtc_rd(u8 r) { out8(0x70, r); return in8(0x71); }
static void rtc_wr(u8 r, u8 v) { out8(0x70, r); out8(0x71, v); }
static void rtc_to_fraction(u64 ns)   // of a wall second
{
    u64 f = plat_wall_ns() % NS_PER_SEC;
    fake_step((ns + NS_PER_SEC - f) % NS_PER_SEC);
}
static void rtc_set(u8 century, u8 y, u8 mo, u8 d, u8 h, u8 mi, u8 s)
{
    u8 b = rtc_rd(11);
    rtc_wr(11, b | 0x80);
    rtc_wr(0x32, century); rtc_wr(9, y); rtc_wr(8, mo); rtc_wr(7, d); rtc_wr(4, h); rtc_wr(2, mi); rtc_wr(0, s);
    rtc_wr(11, b);
}
static bool rtc_is(u8 century, u8 y, u8 mo, u8 d, u8 h, u8 mi, u8 s)
{
    return rtc_rd(0x32) == century && rtc_rd(9) == y && rtc_rd(8) == mo && rtc_rd(7) == d && rtc_rd(4) == h && rtc_rd(2) == mi && rtc_rd(0) == s;
}

static void test_rtc(void)
{
    fake_start();
    fake_phys.n = 0;
    memset(fake_lines, 0, sizeof fake_lines);
    fake_wall = 1700000000ll * 1000000000ll - (s64)fake_time;   // Tuesday 2023-11-14 22:13:20 UTC
    struct rtc *rtc = LOCKED(rtc_new(&fake_phys, fake_irq(8), 5 * GIB));
    CHECK(rtc_is(0x20, 0x23, 0x11, 0x14, 0x22, 0x13, 0x20));
    CHECK_EQ(rtc_rd(6), 3);
    CHECK_EQ(rtc_rd(13), 0x80);
    // Formats.
    rtc_wr(11, 6);
    CHECK(rtc_is(20, 23, 11, 14, 22, 13, 20));
    rtc_wr(11, 4);
    CHECK_EQ(rtc_rd(4), 0x80 | 10);
    rtc_wr(11, 0);
    CHECK_EQ(rtc_rd(4), 0x90);
    rtc_wr(11, 2);
    // Memory size: 5 GiB, hole at 3 GiB.
    CHECK(rtc_rd(0x15) == 0x80 && rtc_rd(0x16) == 2 && rtc_rd(0x17) == 0xff && rtc_rd(0x31) == 0xff);
    CHECK_EQ(rtc_rd(0x34) | rtc_rd(0x35) << 8, (3 * GIB - 16 * MIB) >> 16);
    CHECK_EQ(rtc_rd(0x5b) | rtc_rd(0x5c) << 8 | rtc_rd(0x5d) << 16, 2 * GIB >> 16);
    rtc_wr(0x40, 0xa5);
    CHECK_EQ(rtc_rd(0x40), 0xa5);
    out8(0x70, 0x8d);
    CHECK(rtc_nmi_masked(rtc) && in8(0x71) == 0x80);
    out8(0x70, 0x0d);
    CHECK(!rtc_nmi_masked(rtc));

    // UIP: the last 244 us of a second.
    rtc_to_fraction(NS_PER_SEC - 244001);
    CHECK(!(rtc_rd(10) & 0x80));
    fake_step(1);
    CHECK(rtc_rd(10) & 0x80);
    u8 sec = rtc_rd(0);
    fake_step(244000);
    CHECK(!(rtc_rd(10) & 0x80) && rtc_rd(0) != sec);
    rtc_wr(11, 0x82);
    rtc_to_fraction(NS_PER_SEC - 1000);
    CHECK(!(rtc_rd(10) & 0x80));
    rtc_wr(11, 2);

    // Setting and rolling over.
    static const struct { u8 set[7], next[7]; } roll[] = {
        {{0x20, 0x23, 0x12, 0x31, 0x23, 0x59, 0x59}, {0x20, 0x24, 1, 1, 0, 0, 0}},
        {{0x20, 0x24, 0x02, 0x28, 0x23, 0x59, 0x59}, {0x20, 0x24, 2, 0x29, 0, 0, 0}},
        {{0x19, 0x00, 0x02, 0x28, 0x23, 0x59, 0x59}, {0x19, 0x00, 3, 1, 0, 0, 0}},
        {{0x19, 0x99, 0x12, 0x31, 0x23, 0x59, 0x59}, {0x20, 0x00, 1, 1, 0, 0, 0}},
        {{0x99, 0x99, 0x12, 0x31, 0x00, 0x59, 0x59}, {0x99, 0x99, 0x12, 0x31, 1, 0, 0}},
    };
    for (unsigned i = 0; i < ARRAY_SIZE(roll); i++) {
        const u8 *a = roll[i].set, *b = roll[i].next;
        rtc_to_fraction(500000000);
        rtc_set(a[0], a[1], a[2], a[3], a[4], a[5], a[6]);
        CHECK(rtc_is(a[0], a[1], a[2], a[3], a[4], a[5], a[6]));
        fake_step(NS_PER_SEC);
        CHECK(rtc_is(b[0], b[1], b[2], b[3], b[4], b[5], b[6]));
    }
    rtc_set(0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff);   // garbage: any date, no crash
    rtc_rd(0);
    // SET stops the registers, the time goes on from what they hold.
    rtc_set(0x20, 0x24, 1, 1, 0x10, 0, 0);
    rtc_wr(11, 0x82);
    fake_step(5 * NS_PER_SEC);
    CHECK_EQ(rtc_rd(0), 0);
    rtc_wr(11, 2);
    CHECK_EQ(rtc_rd(0), 0);
    // Divider reset: the first update half a second after its end.
    rtc_wr(10, 0x76);
    rtc_wr(0, 0x30);
    rtc_to_fraction(123456789);
    rtc_wr(10, 0x26);
    fake_step(499999999);
    CHECK_EQ(rtc_rd(0), 0x30);
    fake_step(1);
    CHECK_EQ(rtc_rd(0), 0x31);
    rtc_wr(0, 0x45);                       // without SET
    CHECK_EQ(rtc_rd(0), 0x45);
    fake_step(NS_PER_SEC);
    CHECK_EQ(rtc_rd(0), 0x46);

    // Flags appear without enables, reading C clears them.
    rtc_rd(12);
    CHECK_EQ(rtc_rd(12) & 0xb0, 0);
    fake_step(NS_PER_SEC);
    CHECK_EQ(rtc_rd(12) & 0xf0, 0x50);     // PF and UF, no IRQF
    CHECK_EQ(rtc_rd(12), 0);
    CHECK_EQ(fake_armed, UINT64_MAX);      // nothing enabled, no timer
    // Update interrupt: every second, if C is read.
    rtc_wr(10, 0x20);
    rtc_wr(11, 0x12);
    unsigned rises = fake_lines[8].rises;
    for (int i = 0; i < 3; i++) {
        fake_step(NS_PER_SEC);
        CHECK_EQ(rtc_rd(12), 0x90);
        CHECK(!fake_lines[8].level);
    }
    CHECK_EQ(fake_lines[8].rises, rises + 3);
    fake_step(3 * NS_PER_SEC);
    CHECK(fake_lines[8].rises == rises + 4 && fake_lines[8].level);
    rtc_wr(11, 2);
    CHECK(!fake_lines[8].level);
    rtc_rd(12);
    // Alarm at a time, and with don't-care.
    rtc_set(0x20, 0x24, 1, 1, 0x10, 0x00, 0x00);
    rtc_wr(1, 0x05); rtc_wr(3, 0x01); rtc_wr(5, 0x10);
    rtc_wr(11, 0x22);
    rtc_rd(12);
    rises = fake_lines[8].rises;
    fake_step(64 * NS_PER_SEC);
    CHECK_EQ(fake_lines[8].rises, rises);
    fake_step(NS_PER_SEC);
    CHECK_EQ(fake_lines[8].rises, rises + 1);
    CHECK_EQ(rtc_rd(12) & 0xa0, 0xa0);
    fake_step(3600 * NS_PER_SEC);
    CHECK_EQ(fake_lines[8].rises, rises + 1);
    rtc_wr(5, 0xc0); rtc_wr(3, 0xff);      // every minute at :05
    rtc_rd(12);
    rises = fake_lines[8].rises;
    for (int i = 0; i < 5; i++) {
        fake_step(60 * NS_PER_SEC);
        CHECK(rtc_rd(12) & 0x20);
    }
    CHECK_EQ(fake_lines[8].rises, rises + 5);
    rtc_wr(1, 0x99);                       // no second 99: never
    rtc_rd(12);
    fake_step(200 * NS_PER_SEC);
    CHECK(!(rtc_rd(12) & 0x20));
    // Periodic at 1024 Hz and the fastest and slowest rates.
    static const struct { u8 rate; unsigned hz; } rates[] = {{6, 1024}, {3, 8192}, {15, 2}, {1, 256}, {2, 128}};
    for (unsigned i = 0; i < ARRAY_SIZE(rates); i++) {
        rtc_wr(11, 2);
        rtc_wr(10, 0x20 | rates[i].rate);
        rtc_rd(12);
        rtc_wr(11, 0x42);
        rtc_rd(12);
        rises = fake_lines[8].rises;
        for (unsigned n = 0; n < 2000; n++) {
            fake_step(NS_PER_SEC / 1000);
            while (fake_lines[8].level) rtc_rd(12);
        }
        unsigned want = rates[i].hz >= 1000 ? 2000 : rates[i].hz * 2, got = fake_lines[8].rises - rises;
        if (got + 2 < want || got > want + 2) printf("rate %u: %u, expected %u\n", rates[i].rate, got, want);
        CHECK(got + 2 >= want && got <= want + 2);
    }
    bql_lock();
    rtc_reset(rtc);
    bql_unlock();
    CHECK(!fake_lines[8].level && fake_armed == UINT64_MAX);
    CHECK_EQ(rtc_rd(0x40), 0xa5);
}

// ---- icount ---------------------------------------------------------------------------------------------
static u64 insns, idle_for;
static unsigned moves, idles;
static u64 insn_count(void) { return insns; }
static void count_move(void) { moves++; }
static void fire_again(void *o) { fired++; timer_mod_ns(&ta, clock_ns(CLOCK_VIRTUAL_) - 1); }

void plat_idle(void)
{
    idles++;
    bql_unlock();
    fake_step(idle_for);
    bql_lock();
}

static u64 locked_turn(void) { bql_lock(); u64 n = icount_turn_clock(); bql_unlock(); return n; }
static void locked_wait(void) { bql_lock(); icount_wait(); bql_unlock(); }

static void icount_fresh(unsigned shift, bool sleep)
{
    struct icount_config cfg = {.shift = shift, .sleep = sleep, .count = insn_count, .moved = count_move};
    fake_start();
    insns = moves = idles = fired = 0;
    bql_lock();
    icount_start(&cfg);
    bql_unlock();
}

static void test_icount_clock(void)
{
    icount_fresh(2, true);
    insns = 10;
    CHECK_EQ(clock_ns(CLOCK_VIRTUAL_), 40);
    u64 rt = clock_ns(CLOCK_VIRTUAL_RT_);
    fake_step(12345);
    CHECK_EQ(clock_ns(CLOCK_VIRTUAL_), 40);
    CHECK_EQ(clock_ns(CLOCK_VIRTUAL_RT_), rt + 12345);
    CHECK_EQ(locked_turn(), UINT64_MAX);
    timer_init(&ta, CLOCK_VIRTUAL_, count_fire, NULL);
    timer_init(&tb, CLOCK_VIRTUAL_, count_fire, NULL);
    locked_mod(&tb, 5000);
    locked_mod(&ta, 1041);
    CHECK_EQ(moves, 2);
    CHECK_EQ(fake_armed, UINT64_MAX);      // the physical timer has nothing to do with it
    locked_mod(&tb, 6000);                 // not the earliest
    CHECK_EQ(moves, 2);
    CHECK_EQ(locked_turn(), 251);          // 1001 ns at 4
    insns += 250;
    CHECK_EQ(locked_turn(), 1);
    fake_step(NS_PER_SEC);
    CHECK_EQ(fired, 0);
    insns += 1;
    CHECK_EQ(locked_turn(), (6000 - 261 * 4) / 4);
    CHECK_EQ(fired, 1);
    locked_del(&tb);
    CHECK_EQ(locked_turn(), UINT64_MAX);
    timer_init(&ta, CLOCK_VIRTUAL_, fire_again, NULL);
    locked_mod(&ta, 0);
    CHECK_EQ(locked_turn(), 1);            // once, and the guest makes a step
    CHECK_EQ(fired, 2);
    locked_del(&ta);
}

static void test_icount_wait(bool sleep)
{
    icount_fresh(0, sleep);
    insns = 100;
    timer_init(&ta, CLOCK_VIRTUAL_, count_fire, NULL);
    locked_mod(&ta, 1100);
    u64 start = fake_time;
    idle_for = 400;
    if (sleep) {                           // something else ends the sleep before its time
        locked_wait();
        CHECK(idles == 1 && fired == 0);
        CHECK_EQ(clock_ns(CLOCK_VIRTUAL_), 500);
    }
    idle_for = 700;                        // and now it is late
    locked_wait();
    CHECK_EQ(fired, 1);
    CHECK_EQ(clock_ns(CLOCK_VIRTUAL_), 1100);
    CHECK_EQ(icount_waited_ns(), 1000);
    CHECK_EQ(fake_time - start, sleep ? 1100 : 0);
    CHECK_EQ(idles, sleep ? 2 : 0);
    locked_wait();                         // nothing is due ever: an interrupt of the host ends it, and the clock stands
    CHECK_EQ(idles, sleep ? 3 : 1);
    CHECK_EQ(clock_ns(CLOCK_VIRTUAL_), 1100);
    CHECK_EQ(fake_armed, UINT64_MAX);
}

static void test_rtc_time(void)
{
    static const struct { const char *text; s64 sec; } dates[] = {
        {"1970-01-01", 0}, {"2000-01-01T00:00:00", 946684800}, {"2026-01-31T23:59:58", 1769903998}, {"2024-02-29", 1709164800},
        {"2023-02-29", -1}, {"1900-02-29", -1}, {"2026-13-01", -1}, {"2026-04-31", -1}, {"2026-01-01T24:00:00", -1},
        {"2026-01-01 00:00:00", -1},
        {"2026-1-1", -1}, {"2026-01-01T00:00", -1}, {"2026-01-01T00:00:00Z", -1}, {"", -1}, {"1969-12-31", -1}};
    for (unsigned i = 0; i < ARRAY_SIZE(dates); i++) {
        s64 sec = -1;
        bool ok = date_parse(dates[i].text, &sec);
        if (ok != (dates[i].sec >= 0) || (ok && sec != dates[i].sec)) printf("%s: %lld\n", dates[i].text, (long long)sec);
        CHECK(ok == (dates[i].sec >= 0) && (!ok || sec == dates[i].sec));
    }
    icount_fresh(0, false);
    fake_phys.n = 0;
    struct rtc *rtc = rtc_new(&fake_phys, fake_irq(8), GIB);
    bql_lock();
    rtc_set_time(rtc, true, 1769903998, 0);
    bql_unlock();
    fake_step(100 * NS_PER_SEC);
    CHECK(rtc_rd(0) == 0x58 && rtc_rd(2) == 0x59 && rtc_rd(4) == 0x23 && rtc_rd(7) == 0x31 && rtc_rd(8) == 1 && rtc_rd(9) == 0x26);
    insns = NS_PER_SEC + NS_PER_SEC / 2;
    CHECK_EQ(rtc_rd(0), 0x59);
    insns += NS_PER_SEC / 2;
    CHECK(rtc_rd(0) == 0 && rtc_rd(4) == 0 && rtc_rd(7) == 1 && rtc_rd(8) == 2);
    bql_lock();
    rtc_set_time(rtc, false, 1769903998, 900000000);
    bql_unlock();
    CHECK_EQ(rtc_rd(0), 0x58);
    fake_step(NS_PER_SEC / 10);
    CHECK_EQ(rtc_rd(0), 0x59);
}

int main(void)
{
    test_clock_pause();
    test_clock_host_jump();
    test_callbacks();
    test_enable_waits();
    test_model();
    test_pit();
    test_hpet();
    test_rtc();
    test_icount_clock();
    test_icount_wait(true);
    test_icount_wait(false);
    test_rtc_time();
    return test_result();
}
