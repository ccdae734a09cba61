// The other processors. In a guest they are started by INIT-SIPI-SIPI (SDM 3A 9.4.4.1), once a job wants them: each by its APIC ID where
// the pass lists them, else all at once, and they number themselves as they come. On the bare processor they enter by native_ap. Either
// way they end in pass_serve.
#include "assay/guest/guest.h"

enum { INIT_WAIT = 20 << 20, SIPI_WAIT = 1 << 20 };           // TSC ticks; real processors want 10 ms and 200 us
#define ARRIVAL_WAIT (1ull << 35)                                // ten seconds or so: an emulator on a loaded machine takes its time

static void wait_ticks(u64 ticks)
{
    for (u64 t = rdtsc(); rdtsc() - t < ticks;) relax();
}

static bool wait_ready(u32 n)
{
    for (u64 t = rdtsc(); rdtsc() - t < ARRIVAL_WAIT; relax())
        if (__atomic_load_n(&cpus[n].ready, __ATOMIC_ACQUIRE)) return true;
    return false;
}

static void start(const struct cpu *c, u32 apic_id, u32 shorthand)
{
    lapic_send(c, apic_id, ICR_INIT | shorthand);
    wait_ticks(INIT_WAIT);
    for (unsigned i = 0; i < 2; i++) {
        lapic_send(c, apic_id, ICR_STARTUP | TRAMPOLINE_AT >> 12 | shorthand);
        wait_ticks(SIPI_WAIT);
    }
}

void smp_start(u32 n)
{
    const struct cpu *c = this_cpu();
    bool all = true;
    for (u32 i = 1; i < n; i++) all = all && __atomic_load_n(&cpus[i].ready, __ATOMIC_ACQUIRE);
    if (all) return;
    if (!c->has_apic) pass_fail("a job wants %u processors, and there is no local APIC to reach them", n);
    if (pass()->cpus && pass()->cpus < n) pass_fail("a job wants %u processors, and there are %u", n, pass()->cpus);
    if (!pass()->native && !pass()->cpus) start(c, 0, ICR_ALL_OTHERS);
    for (u32 i = 1; i < n; i++) {
        if (!pass()->native && pass()->cpus && !cpus[i].ready) start(c, pass()->apic_ids[i], 0);
        if (!wait_ready(i)) pass_fail("a job wants %u processors, and number %u does not come", n, i);
    }
}

void smp_wake(u32 n)
{
    for (u32 i = 1; i < n; i++) {
        if (&cpus[i] == this_cpu() || !__atomic_load_n(&cpus[i].ready, __ATOMIC_SEQ_CST)) continue;
        __atomic_fetch_add(&cpus[i].wakes_sent, 1, __ATOMIC_SEQ_CST);
        lapic_send(this_cpu(), (u32)cpus[i].apic_id, ICR_FIXED | VEC_WAKE);
    }
}
