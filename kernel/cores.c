// The cores' part of the platform contract, and the two things that need more than a kick: flushing TLBs and stopping.
//
// A core that plat_core_start has not reached yet is parked: it sleeps with interrupts on, as in plat_idle. Starting it is a word in its
// record and a kick; since the word is looked at with interrupts off and core_sleep has no gap, the kick cannot be lost.
//
// Kernel mappings are the same on all cores, one set of tables. Making one concerns nobody: processors do not remember absent entries
// (SDM 3A 4.10.2.1). Taking one back does, and the memory behind it must not be used again before every core has forgotten it. The usual
// way, an interrupt that each core answers, deadlocks here: a core waits for the BQL with interrupts off, perhaps the very BQL that the
// core holds that unmaps. So the message is an NMI, which is taken in any state, on its own stack, and whose handler takes no lock,
// touches nothing but the TLB and its own flag, and answers by that flag. Never unmapping would have done as well for what Cupel unmaps
// today (memory put together in a window, page by page, when no run was large enough), but at the price of never giving that memory back.
// One flush at a time: the lock is taken by who may wait for it, which an NMI handler never does.
//
// NMIs reach cores that are asleep, too, and end plat_idle, whose callers look again anyway. The gap that an NMI opens between STI and HLT
// is closed in trap_dispatch.
//
// Stopping, for a panic or the end, is an NMI as well. It may find a core anywhere, with any lock; so who stops the others breaks the
// console's locks (console_panic_mode) and needs no other.
#include "kernel/cores.h"

#include "kernel/base/log.h"
#include "kernel/core.h"
#include "kernel/cpu.h"
#include "kernel/hwtimer.h"
#include "kernel/lapic.h"
#include "kernel/plat.h"
#include "kernel/traps.h"

enum { FLUSH_ALL_PAGES = 64 };
#define STOP_TICKS        1000000000ull   // of the TSC, as the end needs no calibrated clock: some tenths of a second
#define FLUSH_PATIENCE_NS (10 * NS_PER_SEC)

static struct {
    struct core *core[CORES_MAX];
    u32 count;                      // written by the boot core while it starts the others, read everywhere
    u32 io;                         // of these, the last are given to I/O
    u32 last;                       // 1 + id of the core that stops the others; 0: none
    struct ticket_lock flush_lock;
    u64 flush_virt, flush_size;     // flush_lock, read by those whose flush flag is set
} cores;

void cores_init(void)
{
    cores.core[0] = core_self();
    __atomic_store_n(&cores.count, 1, __ATOMIC_RELEASE);
}

void cores_add(struct core *c)
{
    ASSERT(c->id == cores.count && c->id < CORES_MAX, "core %u of %u", c->id, cores.count);
    cores.core[c->id] = c;
    __atomic_store_n(&cores.count, c->id + 1, __ATOMIC_RELEASE);
}

unsigned cores_count(void) { return __atomic_load_n(&cores.count, __ATOMIC_ACQUIRE); }
struct core *cores_get(unsigned id) { return id < cores_count() ? cores.core[id] : NULL; }

// ---- the contract ----

unsigned plat_core_count(void) { return cores_count() - __atomic_load_n(&cores.io, __ATOMIC_ACQUIRE); }
bool plat_in_interrupt(void) { return core_self()->in_interrupt != 0; }

unsigned plat_core_id(void)
{
    const struct core *c = core_self();
    return c->io ? PLAT_NO_CORE : c->id;
}

void cores_give_to_io(unsigned id)
{
    ASSERT(id && id == plat_core_count() - 1, "core %u given to I/O", id);
    cores.core[id]->io = true;
    __atomic_store_n(&cores.io, cores.io + 1, __ATOMIC_RELEASE);
}

// fn and arg are stored first; who sees CORE_STARTED sees them. The claim is by the lock because two callers must not both write.
bool plat_core_start(unsigned id, void (*fn)(void *), void *arg)
{
    static struct ticket_lock lock;
    if (id == 0 || id >= cores_count()) return false;
    struct core *c = cores.core[id];
    u64 flags = ticket_lock_irq(&lock);
    bool ok = __atomic_load_n(&c->state, __ATOMIC_ACQUIRE) == CORE_PARKED;
    if (ok) {
        c->fn = fn;
        c->arg = arg;
        __atomic_store_n(&c->state, CORE_STARTED, __ATOMIC_RELEASE);
    }
    ticket_unlock_irq(&lock, flags);
    if (ok) plat_core_kick(id);
    return ok;
}

void cores_park(struct core *c)
{
    __atomic_store_n(&c->state, CORE_PARKED, __ATOMIC_RELEASE);
    while (__atomic_load_n(&c->state, __ATOMIC_ACQUIRE) != CORE_STARTED) core_sleep();
    __asm__ volatile("sti" : : : "memory");
    c->fn(c->arg);
    panic("core %u: its function returned", c->id);
}

bool plat_bql_stats(unsigned id, struct lockstat *s)
{
    if (id >= cores_count()) return false;
    *s = cores.core[id]->bql_stat;
    return true;
}

void cores_send(unsigned id, u8 vector)
{
    ASSERT(id < cores_count(), "there is no core %u", id);
    lapic_send(cores.core[id]->apic_id, vector);
}

void plat_core_kick(unsigned id) { cores_send(id, VEC_KICK); }

void plat_bind_vcpu(void *vcpu)
{
    struct core *c = core_self();
    *(struct core **)vcpu = c;   // before GS moves: core_self() must be right at every instruction
    cpu_wrmsr(MSR_GS_BASE, (u64)vcpu);
}

// ---- TLBs ----

static void cores_flush_here(u64 virt, u64 size)
{
    if (size > FLUSH_ALL_PAGES * PAGE_SIZE) {
        cpu_set_cr3(cpu_cr3());   // no kernel mapping is global
        return;
    }
    for (u64 a = virt; a < virt + size; a += PAGE_SIZE) cpu_invlpg(a);
}

void cores_flush(u64 virt, u64 size)
{
    unsigned n = cores_count();
    if (n <= 1) {
        cores_flush_here(virt, size);
        return;
    }
    u64 flags = ticket_lock_irq(&cores.flush_lock);   // interrupts off: not moved by a panic's end in the middle, and short
    struct core *self = core_self();
    cores.flush_virt = virt;
    cores.flush_size = size;
    for (unsigned i = 0; i < n; i++) {
        if (cores.core[i] == self) continue;
        __atomic_store_n(&cores.core[i]->flush, true, __ATOMIC_RELEASE);
        lapic_send_nmi(cores.core[i]->apic_id);
    }
    cores_flush_here(virt, size);
    u64 t0 = hwtimer_now_ns();
    for (unsigned i = 0; i < n; i++) {
        while (__atomic_load_n(&cores.core[i]->flush, __ATOMIC_ACQUIRE)) {
            cpu_pause();
            if (hwtimer_now_ns() - t0 > FLUSH_PATIENCE_NS) panic("core %u does not answer an NMI", i);
        }
    }
    ticket_unlock_irq(&cores.flush_lock, flags);
}

// ---- the end ----

static NORETURN void cores_stop_here(struct core *c)
{
    __atomic_store_n(&c->stopped, true, __ATOMIC_RELEASE);
    cpu_halt_forever();
}

void cores_stop_others(void)
{
    (void)cpu_irq_save();
    struct core *self = core_self();
    u32 nobody = 0, me = self->id + 1;
    if (!__atomic_compare_exchange_n(&cores.last, &nobody, me, false, __ATOMIC_ACQ_REL, __ATOMIC_ACQUIRE)) {
        if (nobody != me) cores_stop_here(self);
        return;
    }
    unsigned n = cores_count();
    for (unsigned i = 0; i < n; i++)
        if (cores.core[i] != self) lapic_send_nmi(cores.core[i]->apic_id);
    u64 t0 = cpu_rdtsc();
    for (unsigned i = 0; i < n; i++)
        while (cores.core[i] != self && !__atomic_load_n(&cores.core[i]->stopped, __ATOMIC_ACQUIRE) && cpu_rdtsc() - t0 < STOP_TICKS) cpu_pause();
}

bool cores_nmi(void)
{
    struct core *c = core_self();
    u32 last = __atomic_load_n(&cores.last, __ATOMIC_ACQUIRE);
    if (last && last != c->id + 1) cores_stop_here(c);
    if (!__atomic_load_n(&c->flush, __ATOMIC_ACQUIRE)) return false;
    cores_flush_here(cores.flush_virt, cores.flush_size);
    __atomic_store_n(&c->flush, false, __ATOMIC_RELEASE);
    return true;
}
