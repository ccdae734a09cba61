// Waiting for a spinlock.
//
// On real cores waiters draw tickets: first come, first served. In a virtual machine a core is a thread, and the one that is next may not
// be running; all wait for it, then for the one behind it, each time as long as the host's scheduler takes (measured: 4 virtual cores on
// 2 busy ones pass the BQL on 150 times a second). So under a hypervisor nobody draws a ticket before the lock is free, and whoever runs
// takes it: the same two words, the same unlock, no promise of order.
#include "kernel/cpu.h"
#include "kernel/lock.h"

static bool lock_unfair;

void lock_init(void) { lock_unfair = cpu_cpuid(1, 0).c & BIT(31); }   // reserved for hypervisors to say that they are there

void ticket_lock_wait(struct ticket_lock *l)
{
    if (lock_unfair) {
        while (!ticket_lock_try(l)) cpu_pause();
        return;
    }
    u32 me = __atomic_fetch_add(&l->next, 1, __ATOMIC_RELAXED);
    while (__atomic_load_n(&l->serving, __ATOMIC_ACQUIRE) != me) cpu_pause();
}
