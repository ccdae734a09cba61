// The big lock's figures as text. The name of the monitor's command, info sync-profile, is QEMU's.
#include "kernel/base/lockstat.h"

#include "kernel/base/bits.h"
#include "kernel/base/fmt.h"
#include "kernel/plat.h"

#define ull unsigned long long

// Ticks to microseconds by the ratio of the two clocks since the first call: good to parts per million after a second.
static u64 ticks_us(u64 ticks)
{
    static u64 tsc0, ns0;
    u64 tsc = __builtin_ia32_rdtsc(), ns = plat_time_ns();
    if (!tsc0) {
        tsc0 = tsc;
        ns0 = ns;
        while (plat_time_ns() - ns0 < 200000) __builtin_ia32_pause();   // a first estimate: 0.2 ms
        tsc = __builtin_ia32_rdtsc();
        ns = plat_time_ns();
    }
    return muldiv64(ticks, ns - ns0, (tsc - tsc0) * 1000);
}

void bql_info(void (*out)(void *o, const char *s), void *o)
{
    char b[200];
    out(o, "big lock   taken        waited for   time waited (us)   time held (us)   longest held (us)\n");
    for (unsigned id = 0; id < plat_core_count(); id++) {
        struct lockstat s;
        if (!plat_bql_stats(id, &s)) continue;
        fmt_snprintf(b, sizeof b, "core %-4u  %-11llu  %-11llu  %-17llu  %-15llu  %llu\n", id, (ull)s.taken, (ull)s.contended,
                     (ull)ticks_us(s.waited), (ull)ticks_us(s.held), (ull)ticks_us(s.held_max));
        out(o, b);
    }
}
