// See start.h. Segment attributes as SDM 3A 3.4.5 lays them out, in place of what loading from the GDT that the loader wrote
// would give.
#include "tcg/guest/x86/start.h"

#include "kernel/plat.h"
#include "tcg/guest/x86/system.h"

enum { ATTR_CODE = 0x9b << 8, ATTR_DATA = 0x93 << 8, ATTR_G = 1 << 23, ATTR_D = 1 << 22, ATTR_L = 1 << 21 };

struct vcpu *x86_vcpu_new(struct tcg *t, struct phys *p, unsigned index, unsigned cpus, u64 tsc_hz)
{
    struct x86_cpu *c = plat_pages_alloc(sizeof *c);
    if (!c) return NULL;
    c->cpus = cpus;
    c->tsc_hz = tsc_hz;
    return vcpu_init(&c->v, t, p, &x86_guest_ops, index) ? &c->v : NULL;
}

void x86_vcpu_reset(struct vcpu *c)
{
    c->ops->reset(c);
    vcpu_reset_run(c);
}

static void set_segment(struct x86_cpu *x, unsigned n, u16 sel, u32 attr)
{
    x->seg[n] = (struct segment){.sel = sel, .base = 0, .limit = 0xffffffff, .attr = attr};
    x->seg_base[n] = 0;
}

void x86_vcpu_start(struct vcpu *c, const struct x86_start *s)
{
    struct x86_cpu *x = x86(c);
    set_segment(x, SEG_CS, s->cs, ATTR_CODE | ATTR_G | (s->mode64 ? ATTR_L : ATTR_D));
    for (unsigned n = SEG_ES; n <= SEG_GS; n++)
        if (n != SEG_CS) set_segment(x, n, s->ds, ATTR_DATA | ATTR_G | ATTR_D);
    x->gdtr.base = s->gdt_base;
    x->gdtr.limit = s->gdt_limit;
    x->cr0 = CR0_PE | CR0_ET | (s->mode64 ? CR0_PG : 0);
    if (s->mode64) {
        x->cr4 = CR4_PAE;
        x->cr3 = s->cr3;
        x->efer = EFER_LME | EFER_LMA;
    }
    for (unsigned n = 0; n < 16; n++) c->regs[n] = 0;
    c->regs[G_RAX] = s->eax;
    c->regs[G_RBX] = s->ebx;
    c->regs[G_RSI] = s->rsi;
    c->regs[G_RSP] = s->rsp;
    c->pc = s->pc;
    x86_set_eflags(x, 2);
    x86_update_mode(x);
}

u64 x86_vcpu_tsc(struct vcpu *c) { return x86_tsc_base(x86(c)) + x86(c)->tsc_offset; }

void x86_vcpu_tsc_hold(struct vcpu *c, u64 ticks)
{
    if (!x86(c)->virtual_ns) x86(c)->tsc_offset -= ticks;    // the virtual clock stood still anyway
}

void x86_vcpu_set_clock(struct vcpu *c, u64 (*virtual_ns)(void)) { x86(c)->virtual_ns = virtual_ns; }

void x86_vcpu_set_seed(struct vcpu *c, u64 seed)
{
    x86(c)->seeded = true;
    x86(c)->random = seed;
}
