// The profiler tells the truth about guests that spend their time in known ways, in both ways of leaving translated code, with one vCPU,
// two, and two on one core; its shares make up all of the time; and its own cost, which it measures, stays under 2 %.
//
// A host that is busy with something else may take the processor away in the midst of a handler, whose time is measured and not sampled:
// a measurement that is off is made again, a few times.
#define _GNU_SOURCE
#include "tests/kick/rig.h"

#include "tcg/run/tcg.h"

enum { RUN_MS = 120, TRIES = 6, ITERATIONS = 500000, TURNS = 7 };
enum ap { AP_NONE, AP_LOOPS, AP_HALTS };
enum { A_LOT = 95 };              // percent

static const char *kernel;

struct seen { struct profile p; struct vcpu_counters n; };

// ---- one measurement ------------------------------------------------------------------------------------------------------------

// In hundredths of a percent: there is no floating point here.
static u64 share(const struct seen *s, u32 classes)
{
    u64 sum = 0;
    for (unsigned k = 0; k < PROF_N; k++) sum += classes >> k & 1 ? s->p.ticks[k] : 0;
    return s->p.total ? muldiv64(sum, 10000, s->p.total) : 0;
}

static void profile(bool on)
{
    bql_lock();
    machine_profile(on);
    bql_unlock();
}

// All of the time is some class's, and it is as long as it was: between the two calls it ran, outside of them it did not.
static void check_sum(const struct seen *s, u64 least, u64 most)
{
    u64 sum = 0;
    for (unsigned k = 0; k < PROF_N; k++) sum += s->p.ticks[k];
    CHECK(sum == s->p.total);
    CHECK(s->p.total >= least && s->p.total <= most);
}

static void measure(struct seen *s, unsigned vcpus, void (*meanwhile)(void))
{
    u64 t0 = rig_tsc();
    profile(true);
    u64 t1 = rig_tsc();
    meanwhile();
    struct seen before[2];
    for (unsigned n = 0; n < vcpus; n++) CHECK(machine_profile_read(n, &before[n].p, &before[n].n));
    u64 t2 = rig_tsc();
    profile(false);
    u64 t3 = rig_tsc();
    for (unsigned n = 0; n < vcpus; n++) {
        CHECK(machine_profile_read(n, &s[n].p, &s[n].n));
        CHECK(before[n].p.total <= s[n].p.total);
        check_sum(&before[n], 0, t2 - t0);
        check_sum(&s[n], t2 - t1, t3 - t0);
    }
}

static void pass(void) { rig_sleep_ns(RUN_MS * 1000000ull); }

static void print(const char *what, const struct seen *s)
{
    u64 samples = 0;
    for (unsigned k = 0; k < PROF_N; k++) samples += s->p.samples[k];
    printf("%-14s", what);
    for (unsigned k = 0; k < PROF_N; k++)
        if (share(s, 1u << k) >= 5) printf(" %s %llu.%02llu", profile_names[k], (ull)share(s, 1u << k) / 100, (ull)share(s, 1u << k) % 100);
    printf(" (%llu samples)\n", (ull)samples);
}

// ---- what the guest does ------------------------------------------------------------------------------------------------------------

static void guest_does(unsigned kind)
{
    rig_page()->mask = 1u << kind;
    for (u32 n = 0; n < 2; n++) {                       // the second comes when the round that saw the mask has begun
        u32 rounds = rig_page()->rounds;
        vcpu_post_interrupt(rig_vcpu(), VEC_POST, false);
        for (unsigned ms = 0; rig_page()->rounds == rounds && ms < 5000; ms++) rig_sleep_ns(1000000);
    }
    if (rig_page()->kind != kind) rig_stall("the guest to do what it is told");
}

static void others_do(enum ap what)
{
    rig_page()->ap = what;
    for (unsigned ms = 0; rig_page()->ap && ms < 5000; ms++) {
        vcpu_post_interrupt(rig_vcpu(), VEC_POST, false);
        rig_sleep_ns(1000000);
    }
    if (rig_page()->ap) rig_stall("the guest to start its other processor");
    rig_sleep_ns(20000000);
}

#define K(name) (1u << PROF_##name)

// vCPU n spends at least `most` percent of its time in `classes`.
struct expected { const char *name; unsigned kind; u32 classes; unsigned most; u32 some; unsigned least; };

static bool cheap(const struct seen *s) { return share(s, K(SELF)) < 200; }
static bool at_least(const struct seen *s, u32 classes, unsigned percent) { return share(s, classes) >= percent * 100; }

static const struct expected one[] = {
    {"spin", K_SPIN, K(CODE), A_LOT, 0, 0},
    {"counted loop", K_DEC, K(CODE), A_LOT, 0, 0},
    {"short blocks", K_CHAIN, K(CODE), A_LOT, 0, 0},
    {"halt", K_HALT, K(IDLE), 90, 0, 0},
    {"written code", K_SMC, K(TRANSLATE) | K(SOFTMMU) | K(LOOP), 80, K(TRANSLATE), 50},
    {"port", K_PORT, K(DEVICE) | K(HELPER) | K(BRIDGE) | K(LOOP) | K(EXCEPTION), 90, K(DEVICE) | K(HELPER), 40},
    {"cpuid", K_CPUID, K(HELPER) | K(BRIDGE) | K(CODE) | K(LOOP) | K(EXCEPTION), 90, K(HELPER) | K(BRIDGE), 25},   // on by the jump cache
    {"rep movsb", K_REP, K(HELPER) | K(BRIDGE) | K(SOFTMMU), 80, K(HELPER), 60},
    {"apic+hpet", K_MMIO, K(DEVICE) | K(SOFTMMU) | K(BRIDGE), 80, K(DEVICE), 20},
    {"TLB misses", K_MISS, K(SOFTMMU) | K(BRIDGE), 80, K(SOFTMMU), 60},
};

static bool as_expected(const struct seen *s, const struct expected *e)
{
    return at_least(s, e->classes, e->most) && at_least(s, e->some, e->least) && cheap(s);
}

static void expect_one(const struct expected *e)
{
    struct seen s;
    bool ok = false;
    guest_does(e->kind);
    for (unsigned n = 0; n < TRIES && !ok; n++) {
        measure(&s, 1, pass);
        ok = as_expected(&s, e);
        if (ok || n == TRIES - 1) print(e->name, &s);
    }
    rig_check(ok, __FILE__, __LINE__, e->name);
}

// Halted a quarter of the time, or as near to that as the host lets us. How long it was, the guest's own clock tells, by the moments of
// its interrupts: time is what counts, whatever the number of samples.
static u64 guest_slept;

static u64 guest_switch(unsigned kind, unsigned vec)
{
    u32 was = rig_page()->count[vec];
    rig_page()->mask = 1u << kind;
    vcpu_post_interrupt(rig_vcpu(), (u8)vec, false);
    while (rig_page()->count[vec] == was) rig_sleep_ns(100000);
    return rig_page()->tsc[vec];
}

static void duty(void)
{
    guest_slept = 0;
    for (unsigned n = 0; n < 6; n++) {
        u64 from = guest_switch(K_HALT, VEC_POST + 1);
        rig_sleep_ns(5000000);
        guest_slept += guest_switch(K_SPIN, VEC_POST + 2) - from;
        rig_sleep_ns(15000000);
    }
}

static void expect_duty(void)
{
    struct seen s;
    bool ok = false;
    for (unsigned n = 0; n < TRIES && !ok; n++) {
        measure(&s, 1, duty);
        u64 slept = muldiv64(guest_slept, 10000, s.p.total), seen = share(&s, K(IDLE)), all = share(&s, K(IDLE) | K(INTERRUPT) | K(SELF));
        ok = seen <= slept && slept <= all + 200 && slept > 1500 && at_least(&s, K(CODE), 50);
        if (ok || n == TRIES - 1) {
            print("duty", &s);
            printf("               the guest says it slept %llu.%02llu\n", (ull)slept / 100, (ull)slept % 100);
        }
    }
    CHECK(ok);
}

// What was counted stands still while it is off, and counts are there.
static void expect_off(void)
{
    struct seen a, b;
    profile(true);
    pass();
    profile(false);
    CHECK(machine_profile_read(0, &a.p, &a.n));
    pass();
    CHECK(machine_profile_read(0, &b.p, &b.n));
    CHECK(a.p.total == b.p.total && share(&a, ~0u) == share(&b, ~0u));
    CHECK(b.n.helpers > 1000 && b.n.tbs > 20 && b.n.tb_bytes > b.n.tbs && b.n.exits > 20 && b.n.tlb_misses > 1000 && b.n.code_writes > 100);
    CHECK(!machine_profile_read(1, &a.p, &a.n));
}

// What the guest sees of it: a loop that looks at the clock all the time adds up the gaps that interrupts tear. That is the profiler's
// whole cost, measured from outside, and what it says of itself must not be much less. (It may be more: an interrupt that comes while the
// host runs something else is part of a gap too long to be counted. In hundredths of a percent of the loop's time; the median of some
// turns.)
static u64 timed_loop(void)
{
    rig_page()->iterations = ITERATIONS;
    rig_page()->bench = BENCH_GAPS;
    vcpu_post_interrupt(rig_vcpu(), VEC_POST, false);
    while (rig_page()->bench) rig_sleep_ns(1000000);
    return muldiv64(rig_page()->gaps, 10000, rig_page()->ticks);
}

static void sort(u64 *v, unsigned n)
{
    for (unsigned i = 1; i < n; i++)
        for (unsigned k = i; k && v[k - 1] > v[k]; k--) {
            u64 x = v[k];
            v[k] = v[k - 1];
            v[k - 1] = x;
        }
}

static bool seen_from_outside(bool last)
{
    struct seen s;
    u64 gaps[2][TURNS], self[TURNS];
    for (unsigned n = 0; n < TURNS; n++) {
        profile(false);
        gaps[0][n] = timed_loop();
        profile(true);
        gaps[1][n] = timed_loop();
        CHECK(machine_profile_read(0, &s.p, &s.n));
        self[n] = share(&s, K(SELF));
    }
    profile(false);
    sort(gaps[0], TURNS);
    sort(gaps[1], TURNS);
    sort(self, TURNS);
    u64 off = gaps[0][TURNS / 2], on = gaps[1][TURNS / 2], says = self[TURNS / 2];
    bool ok = on < off + 200 && says < 200 && on <= off + 2 * says + 20;
    if (ok || last)
        printf("interruptions take %llu.%02llu %% of a loop without the profiler and %llu.%02llu with it, which says that it takes %llu.%02llu;\n"
               "    an interrupt costs %llu ticks, and %llu around the timer's callback\n", (ull)off / 100, (ull)off % 100, (ull)on / 100,
               (ull)on % 100, (ull)says / 100, (ull)says % 100, (ull)profile_interrupt_cost(rig_vcpu()), (ull)profile_timer_cost(rig_vcpu()));
    return ok;
}

static void expect_cost(void)
{
    bool ok = false;
    for (unsigned n = 0; n < TRIES && !ok; n++) ok = seen_from_outside(n == TRIES - 1);
    CHECK(ok);
}

static void test_one(void)
{
    for (unsigned n = 0; n < ARRAY_SIZE(one); n++) expect_one(&one[n]);
    expect_duty();
    expect_off();
    expect_cost();
}

// ---- two vCPUs ------------------------------------------------------------------------------------------------------------------------

static const struct { const char *name; unsigned kind; enum ap ap; u32 classes[2]; unsigned most[2], single[2]; } two[] = {
    {"loop, loop", K_SPIN, AP_LOOPS, {K(CODE), K(CODE)}, {A_LOT, A_LOT}, {30, 30}},
    {"halt, loop", K_HALT, AP_LOOPS, {K(IDLE), K(CODE)}, {90, A_LOT}, {90, 90}},
    {"loop, halt", K_SPIN, AP_HALTS, {K(CODE), K(IDLE)}, {A_LOT, 90}, {90, 90}},
};

static void expect_two(unsigned i)
{
    struct seen s[2];
    bool ok = false, single = rig_options()->single;
    for (unsigned n = 0; n < TRIES && !ok; n++) {
        measure(s, 2, pass);
        ok = true;
        for (unsigned v = 0; v < 2; v++) ok &= at_least(&s[v], two[i].classes[v], (single ? two[i].single : two[i].most)[v]) && cheap(&s[v]);
        // Where two loop on one core, each waits for the other half of the time.
        for (unsigned v = 0; single && i == 0 && v < 2; v++) ok &= at_least(&s[v], K(CODE) | K(WAIT), 90) && at_least(&s[v], K(WAIT), 30);
        for (unsigned v = 0; (ok || n == TRIES - 1) && v < 2; v++) print(two[i].name, &s[v]);
    }
    rig_check(ok, __FILE__, __LINE__, two[i].name);
}

static void test_two(void)
{
    for (unsigned i = 0; i < ARRAY_SIZE(two); i++) {
        others_do(two[i].ap);
        guest_does(two[i].kind);
        expect_two(i);
    }
}

// ---- modes ------------------------------------------------------------------------------------------------------------------------------

static void mode(bool poll, unsigned smp, bool single)
{
    const struct rig_options o = {.exit_poll = poll, .smp = smp, .single = single, .kernel = kernel};
    printf("exit=%s, %u vCPU%s\n", poll ? "poll" : "interrupt", smp, smp == 1 ? "" : single ? "s on one core" : "s");
    CHECK(rig_run(&o, smp > 1 ? test_two : test_one) == 0x21);
}
static void mode_interrupt(void) { mode(false, 1, false); }
static void mode_poll(void) { mode(true, 1, false); }
static void mode_two(void) { mode(false, 2, false); }
static void mode_two_poll(void) { mode(true, 2, false); }
static void mode_single(void) { mode(false, 2, true); }

int main(int argc, char **argv)
{
    kernel = argc > 1 ? argv[1] : "build/tests/kick.elf";
    rig_fork("exit=interrupt", mode_interrupt);
    rig_fork("exit=poll", mode_poll);
    rig_fork("two vCPUs", mode_two);
    rig_fork("two vCPUs, exit=poll", mode_two_poll);
    rig_fork("two vCPUs on one core", mode_single);
    return rig_result();
}
