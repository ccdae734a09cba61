// Exceptions and interrupts.
//
// An exception is first offered to the machine (a guest instruction that faulted in translated code); what it does not claim is a
// defect of Cupel, and fatal with a dump. An interrupt runs its handler, is acknowledged, and last of all the machine may change
// where the interrupted code goes on: that is how translated code is left without polling, whatever the interrupt was.
#include "kernel/traps.h"

#include "kernel/base/log.h"
#include "kernel/console.h"
#include "kernel/core.h"
#include "kernel/cores.h"
#include "kernel/cpu.h"
#include "kernel/hwtimer.h"
#include "kernel/lapic.h"
#include "kernel/panic.h"
#include "kernel/plat_events.h"
#include "kernel/virtio_blk.h"

struct idt_gate { u16 off0, sel; u8 ist, type; u16 off1; u32 off2, zero; };
_Static_assert(sizeof(struct idt_gate) == 16, "SDM 3A 6.14.1");

extern const u8 trap_stubs[256][16], core_sleep_hlt[], core_sleep_end[];

static struct idt_gate traps_idt[256] __attribute__((aligned(16)));

static u8 trap_ist(unsigned vector)
{
    switch (vector) {
    case 2: return IST_NMI;
    case 8: return IST_DF;
    case 18: return IST_MC;
    default: return 0;
    }
}

void traps_init(void)
{
    for (unsigned v = 0; v < 256; v++) {
        u64 a = (u64)trap_stubs[v];
        traps_idt[v] = (struct idt_gate){.off0 = (u16)a, .sel = SEL_CODE, .ist = trap_ist(v), .type = 0x8e,   // interrupt gate: IF off
                                         .off1 = (u16)(a >> 16), .off2 = (u32)(a >> 32)};
    }
    traps_load();
}

void traps_load(void)
{
    struct { u16 limit; u64 base; } __attribute__((packed)) idtr = {sizeof(traps_idt) - 1, (u64)traps_idt};
    __asm__ volatile("lidt %0" : : "m"(idtr));
}

static void trap_exception(struct core *c, struct trap_frame *f)
{
    const struct plat_events *ev = plat_events_get();
    // NMI, #DF and #MC are never the guest's: they come on their own stacks, at any instruction.
    if (!trap_ist((unsigned)f->vector) && ev->host_fault && !c->dying) {
        u64 to = ev->host_fault((unsigned)f->vector, f->rip, f->rflags);
        if (to) {
            f->rip = to;
            return;
        }
    }
    panic_trap(f);
}

static void trap_attention(void)
{
    const struct plat_events *ev = plat_events_get();
    bql_lock();
    if (ev->attention) ev->attention();
    bql_unlock();
}

static void trap_interrupt(struct core *c, struct trap_frame *f)
{
    if (c->bql_held) panic("interrupts are on (rip %#llx), but %s:%d holds the BQL", (unsigned long long)f->rip, c->bql_file, c->bql_line);
    const struct plat_events *ev = plat_events_get();
    bool ours = f->vector != VEC_SPURIOUS && core_self()->state == CORE_STARTED;   // else no vCPU has run here
    if (ours && ev->entered) ev->entered();
    switch (f->vector) {
    case VEC_TIMER: hwtimer_interrupt(); break;
    case VEC_SERIAL: case VEC_KEYBOARD: console_interrupt(f->vector == VEC_SERIAL); break;
    case VEC_VIRTIO_BLK: virtio_blk_interrupt(); break;
    case VEC_ATTENTION: trap_attention(); break;
    case VEC_KICK: break;
    case VEC_SPURIOUS: return;   // not acknowledged, SDM 3A 11.9
    default: console_unexpected_interrupt((unsigned)f->vector); break;
    }
    lapic_eoi();
    if (ours && ev->interrupted) f->rip = ev->interrupted(f->rip);
}

void trap_dispatch(struct trap_frame *f)
{
    struct core *c = core_self();
    // Between STI and HLT no interrupt comes, but an NMI may, and the shadow of STI is gone when it returns: the interrupt that was
    // waiting would then come before the HLT, and that would sleep on. So whatever interrupts there ends the sleep.
    if (f->rip == (u64)core_sleep_hlt) f->rip = (u64)core_sleep_end;
    if (f->vector == 2 && cores_nmi()) return;
    struct trap_frame *outer = c->frame;
    c->frame = f;
    c->in_interrupt++;
    if (f->vector < 32) trap_exception(c, f);
    else trap_interrupt(c, f);
    c->in_interrupt--;
    c->frame = outer;
}
