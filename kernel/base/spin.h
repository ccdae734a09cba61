// A spinlock for sections so short that they guard no device: interrupts are off while it is held, so handlers may take it too, and
// threads that are no cores (I/O threads) as well. A leaf: nothing else is taken under it, nobody waits. What the BQL guards needs no
// such lock.
#pragma once

#include "kernel/plat.h"

struct spinlock { u32 taken; };

// Returns what spin_unlock wants. Any context.
static inline bool spin_lock(struct spinlock *l)
{
    bool irqs = plat_irq_save();
    for (unsigned n = 0; __atomic_exchange_n(&l->taken, 1, __ATOMIC_ACQUIRE);)
        while (__atomic_load_n(&l->taken, __ATOMIC_RELAXED)) plat_relax(n++);
    return irqs;
}

static inline void spin_unlock(struct spinlock *l, bool irqs)
{
    __atomic_store_n(&l->taken, 0, __ATOMIC_RELEASE);
    plat_irq_restore(irqs);
}
