// The ends of the machine that can be tried but once per boot: a panic, a stack overflow and a reset, on the last core, while all others
// are busy: they hold the BQL and the console's lock most of the time, so that whoever fails finds them taken.
#include "kernel/selftest.h"

#include "kernel/base/log.h"
#include "kernel/core.h"
#include "kernel/cpu.h"
#include "kernel/plat.h"
#include "kernel/power.h"

enum { ROUNDS = 3 };   // of each core, before the end comes

static enum boot_selftest selftest_end;
static u32 selftest_rounds[CORES_MAX];

static void end_noise(void *arg UNUSED)
{
    for (;;) {
        bql_lock();
        log_info("selftest: noise of core %u", plat_core_id());
        __atomic_fetch_add(&selftest_rounds[plat_core_id()], 1, __ATOMIC_RELAXED);
        bql_unlock();
    }
}

// Half a page of stack per call, so that no guard page is stepped over, and the result is used, so that it is no loop.
static __attribute__((noinline)) u64 end_recurse(u64 depth)
{
    volatile u8 frame[2048];
    frame[depth % sizeof(frame)] = (u8)depth;
    return depth == UINT64_MAX ? 0 : end_recurse(depth + 1) + frame[(depth + 1) % sizeof(frame)];
}

static void end_now(void *arg UNUSED)
{
    for (unsigned i = 0; i + 1 < plat_core_count(); i++)
        while (__atomic_load_n(&selftest_rounds[i], __ATOMIC_RELAXED) < ROUNDS) cpu_pause();
    switch (selftest_end) {
    case SELFTEST_PANIC: panic("selftest: this panic was asked for");
    case SELFTEST_OVERFLOW: panic("selftest: recursion came back with %llu", (unsigned long long)end_recurse(0));
    default: power_reset();
    }
}

void selftest_run(enum boot_selftest test)
{
    if (test == SELFTEST_CORES) selftest_cores();
    if (test == SELFTEST_STICK) selftest_stick();
    if (test == SELFTEST_IO) selftest_io();
    if (test == SELFTEST_USB) selftest_usb();
    selftest_end = test;
    unsigned last = plat_core_count() - 1;
    for (unsigned i = 1; i <= last; i++)
        if (!plat_core_start(i, i == last ? end_now : end_noise, NULL)) panic("selftest: core %u does not start", i);
    if (last) end_noise(NULL);
    end_now(NULL);
    cpu_halt_forever();
}
