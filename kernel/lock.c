// Waiting for a spinlock.
//
// On real cores waiters draw tickets: first come, first served. In a virtual machine a core is a thread, and the one that is next may
// not be running; all wait for it, then for the one behind it, each time as long as the host's scheduler takes (measured: 4 virtual
// cores on 2 busy ones pass the BQL on 150 times a second). So under a hypervisor nobody draws a ticket before the lock is free, and
// whoever runs takes it: the same two words, the same unlock. Only who has tried in vain for long, some ten milliseconds, draws one, and
// then is next: no core starves behind others that release a lock only to take it again.
#include "kernel/cpu.h"
#include "kernel/lock.h"

enum { TRIES = 100000 };
#define LAST_TICKS 1000000000ull   // of the TSC: some tenths of a second

static bool lock_unfair;

void lock_init(void) { lock_unfair = cpu_cpuid(1, 0).c & BIT(31); }   // reserved for hypervisors to say that they are there

void ticket_lock_wait(struct ticket_lock *l)
{
    for (unsigned i = 0; lock_unfair && i < TRIES; i++, cpu_pause())
        if (ticket_lock_try(l)) return;
    u32 me = __atomic_fetch_add(&l->next, 1, __ATOMIC_RELAXED);
    while (__atomic_load_n(&l->serving, __ATOMIC_ACQUIRE) != me) cpu_pause();
}

// The ticket that is given up is never served, as the lock is nobody's any more.
void ticket_lock_last(struct ticket_lock *l)
{
    u32 me = lock_unfair ? 0 : __atomic_fetch_add(&l->next, 1, __ATOMIC_RELAXED);
    for (u64 t0 = cpu_rdtsc(); cpu_rdtsc() - t0 < LAST_TICKS; cpu_pause())
        if (lock_unfair ? ticket_lock_try(l) : __atomic_load_n(&l->serving, __ATOMIC_ACQUIRE) == me) return;
}
