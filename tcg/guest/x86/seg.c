// Segment registers and descriptor tables (SDM 3A chapters 3, 5 and 7.2).
//
// A segment register is selector + hidden part; seg_base[] repeats the bases for translated code. CPL lives in SS.DPL. What is checked when
// a segment is loaded is checked here in full; limits and access rights are not checked again at each access (translated code adds bases
// only), so a program that relies on faults of its segment limits is not served: the one place where legacy protection is looser than the
// manual.
//
// Rule: checks first (they may raise), then assignments (they cannot).
#include "tcg/guest/x86/system.h"

bool x86_desc_read(struct x86_cpu *c, u16 sel, struct x86_desc *out)
{
    u64 base = sel & 4 ? c->seg[SEG_LDTR].base : c->gdtr.base;
    u32 limit = sel & 4 ? c->seg[SEG_LDTR].limit : c->gdtr.limit;
    if ((sel & 4) && !(c->seg[SEG_LDTR].attr & DESC_P)) return false;
    if ((sel | 7u) > limit) return false;
    out->addr = base + (sel & ~7u);
    if (!x86_long_mode(c)) out->addr = (u32)out->addr;
    u64 raw = mem_ld(&c->v, gva(out->addr), 8, 0);
    out->lo = (u32)raw;
    out->hi = raw >> 32;
    return true;
}

void x86_desc_access(struct x86_cpu *c, struct x86_desc *d)
{
    if (d->hi & DESC_A) return;
    d->hi |= DESC_A;
    mem_st(&c->v, gva(d->addr + 5), d->hi >> 8 & 0xff, 1, 0);
}

void x86_seg_set(struct x86_cpu *c, unsigned seg, u16 sel, u64 base, u32 limit, u32 attr)
{
    c->seg[seg] = (struct segment){.base = base, .limit = limit, .attr = attr, .sel = sel};
    c->seg_base[seg] = base;
}

void x86_seg_from_desc(struct x86_cpu *c, unsigned seg, u16 sel, const struct x86_desc *d)
{
    x86_seg_set(c, seg, sel, desc_base(d), desc_limit(d), d->hi & DESC_ATTR);
}

void x86_seg_set_real(struct x86_cpu *c, unsigned seg, u16 sel)
{
    // Real mode changes selector and base only: limits and widths loaded in protected mode stay ("unreal mode").
    x86_seg_set(c, seg, sel, (u64)sel << 4, c->seg[seg].limit, c->seg[seg].attr);
}

void x86_seg_set_vm86(struct x86_cpu *c, unsigned seg, u16 sel)
{
    x86_seg_set(c, seg, sel, (u64)sel << 4, 0xffff, DESC_P | 3 << 13 | DESC_S | DESC_W | DESC_A);
}

void x86_ss_set_null(struct x86_cpu *c, unsigned cpl)
{
    x86_seg_set(c, SEG_SS, cpl, 0, 0xffffffff, DESC_P | cpl << 13 | DESC_S | DESC_W | DESC_A | DESC_B | DESC_G);
}

void x86_ss_check(struct x86_cpu *c, u16 sel, unsigned cpl, unsigned bad, unsigned ext, struct x86_desc *out)
{
    u32 err = (sel & 0xfffc) | ext;
    if (!(sel & 0xfffc)) x86_raise(c, bad, ext);
    if (!x86_desc_read(c, sel, out)) x86_raise(c, bad, err);
    if ((sel & 3) != cpl || desc_dpl(out) != cpl) x86_raise(c, bad, err);
    if ((out->hi & (DESC_S | DESC_CODE | DESC_W)) != (DESC_S | DESC_W)) x86_raise(c, bad, err);
    if (!(out->hi & DESC_P)) x86_raise(c, EXC_SS, err);
}

static void seg_load_null(struct x86_cpu *c, unsigned seg, u16 sel)
{
    if (seg != SEG_SS) {
        x86_seg_set(c, seg, sel, 0, 0, 0);   // SDM-DIFF: AMD keeps the base; we clear it on every host, as Intel does
        return;
    }
    if (!x86_code64(c) || x86_cpl(c) == 3 || (sel & 3) != x86_cpl(c)) x86_raise(c, EXC_GP, 0);
    x86_ss_set_null(c, x86_cpl(c));
}

// SDM 2, MOV: the checks for ES DS FS GS.
static void seg_check_data(struct x86_cpu *c, u16 sel, struct x86_desc *d)
{
    u32 err = sel & 0xfffc;
    unsigned rpl = sel & 3, cpl = x86_cpl(c);
    if (!x86_desc_read(c, sel, d)) x86_raise(c, EXC_GP, err);
    if (!(d->hi & DESC_S)) x86_raise(c, EXC_GP, err);
    if ((d->hi & DESC_CODE) && !(d->hi & DESC_R)) x86_raise(c, EXC_GP, err);
    bool conforming = (d->hi & (DESC_CODE | DESC_C)) == (DESC_CODE | DESC_C);
    if (!conforming && (desc_dpl(d) < rpl || desc_dpl(d) < cpl)) x86_raise(c, EXC_GP, err);
    if (!(d->hi & DESC_P)) x86_raise(c, EXC_NP, err);
}

void x86_seg_load(struct x86_cpu *c, unsigned seg, u16 sel)
{
    struct x86_desc d;
    if (x86_vm86(c)) x86_seg_set_vm86(c, seg, sel);
    else if (!x86_protected(c)) x86_seg_set_real(c, seg, sel);
    else if (!(sel & 0xfffc)) seg_load_null(c, seg, sel);
    else {
        if (seg == SEG_SS) x86_ss_check(c, sel, x86_cpl(c), EXC_GP, 0, &d);
        else seg_check_data(c, sel, &d);
        x86_desc_access(c, &d);
        x86_seg_from_desc(c, seg, sel, &d);
    }
    if (seg == SEG_SS) {   // SDM 3A 6.8.3: interrupts, NMIs and single-step traps wait for the next instruction
        c->inhibit_irq = true;
        c->step_pending = false;
    }
    x86_switch_mode(c);
}

void x86_seg_drop_inner(struct x86_cpu *c, unsigned cpl)
{
    static const u8 data[] = {SEG_ES, SEG_DS, SEG_FS, SEG_GS};
    for (unsigned i = 0; i < ARRAY_SIZE(data); i++) {
        struct segment *s = &c->seg[data[i]];
        bool conforming = (s->attr & (DESC_CODE | DESC_C)) == (DESC_CODE | DESC_C);
        if ((s->attr & DESC_S) && !conforming && (s->attr >> 13 & 3) < cpl) x86_seg_set(c, data[i], 0, 0, 0, 0);
    }
}

// ---- the TSS ------------------------------------------------------------------------------------------------------

u64 x86_tss64_read(struct x86_cpu *c, unsigned offset, unsigned ext)
{
    const struct segment *tr = &c->seg[SEG_TR];
    if (offset + 7 > tr->limit) x86_raise(c, EXC_TS, (tr->sel & 0xfffc) | ext);
    return mem_ld(&c->v, gva(tr->base + offset), 8, 0);
}

void x86_tss_stack(struct x86_cpu *c, unsigned cpl, unsigned ext, u16 *ss, u64 *sp)
{
    const struct segment *tr = &c->seg[SEG_TR];
    bool wide = tr->attr & 0x800;   // type 9, 11: 32-bit
    u32 off = wide ? 4 + cpl * 8 : 2 + cpl * 4, last = wide ? off + 5 : off + 3;
    if (last > tr->limit) x86_raise(c, EXC_TS, (tr->sel & 0xfffc) | ext);
    u64 a = tr->base + off;
    *sp = mem_ld(&c->v, gva((u32)a), wide ? 4 : 2, 0);
    *ss = mem_ld(&c->v, gva((u32)(a + (wide ? 4 : 2))), 2, 0);
}

// ---- stacks of far transfers --------------------------------------------------------------------------------------

void xstack_current(struct xstack *s, struct x86_cpu *c)
{
    bool code64 = x86_code64(c);
    u64 mask = code64 ? ~0ull : c->seg[SEG_SS].attr & DESC_B ? 0xffffffffu : 0xffffu;
    *s = (struct xstack){.c = c, .base = code64 ? 0 : c->seg_base[SEG_SS], .mask = mask, .sp = c->v.regs[G_RSP] & mask, .mmu = x86_mmu(c),
                         .code64 = code64};
}

void xstack_new(struct xstack *s, struct x86_cpu *c, const struct x86_desc *ss, u64 sp, unsigned cpl)
{
    u64 mask = !ss ? ~0ull : ss->hi & DESC_B ? 0xffffffffu : 0xffffu;
    *s = (struct xstack){.c = c, .base = ss ? desc_base(ss) : 0, .mask = mask, .sp = sp & mask, .mmu = cpl == 3, .code64 = !ss};
}

static struct gva xstack_linear(const struct xstack *s, u64 sp)
{
    u64 a = s->base + (sp & s->mask);
    return gva(s->code64 ? a : (u32)a);
}

void xstack_reserve(struct xstack *s, unsigned bytes, unsigned size)
{
    u64 lo = (s->sp - bytes) & s->mask;
    struct gva a = xstack_linear(s, lo);
    if (s->code64 && (!x86_canonical(a.v) || !x86_canonical(a.v + bytes - 1))) x86_raise(s->c, EXC_SS, 0);
    bool wraps = lo + bytes - 1 > s->mask;
    if (!wraps && (a.v & ~PAGE_MASK) + bytes <= PAGE_SIZE) {
        u8 *first = mem_probe(&s->c->v, gva(a.v + bytes - size), size, ACCESS_WRITE, s->mmu);
        s->host = first ? first - (bytes - size) : NULL;
        s->host_lo = lo;
        return;
    }
    for (unsigned e = size; e <= bytes; e += size)
        for (unsigned i = 0; i < size; i++) (void)mem_probe(&s->c->v, xstack_linear(s, s->sp - e + i), 1, ACCESS_WRITE, s->mmu);
}

void xstack_push(struct xstack *s, u64 val, unsigned size)
{
    s->sp = (s->sp - size) & s->mask;
    if (s->host) {
        u8 *p = s->host + (s->sp - s->host_lo);
        if (size == 8) *(u64_any *)p = val;
        else if (size == 4) *(u32_any *)p = (u32)val;
        else *(u16_any *)p = (u16)val;
        return;
    }
    mem_st(&s->c->v, xstack_linear(s, s->sp), val, size, s->mmu);
}

void xstack_expect(struct xstack *s, unsigned bytes)
{
    struct gva a = xstack_linear(s, s->sp);
    if (s->sp + bytes - 1 > s->mask || (a.v & ~PAGE_MASK) + bytes > PAGE_SIZE || (s->code64 && !x86_canonical(a.v))) return;
    s->pops = mem_probe(&s->c->v, a, bytes, ACCESS_READ, s->mmu);
    s->pops_end = s->sp + bytes;
}

u64 xstack_pop(struct xstack *s, unsigned size)
{
    if (s->pops && s->sp + size <= s->pops_end) {
        u64 w = size == 8 ? *(const u64_any *)s->pops : size == 4 ? *(const u32_any *)s->pops : *(const u16_any *)s->pops;
        s->pops += size;
        s->sp = (s->sp + size) & s->mask;
        return w;
    }
    s->pops = NULL;
    struct gva a = xstack_linear(s, s->sp);
    if (s->code64 && !x86_canonical(a.v)) x86_raise(s->c, EXC_SS, 0);
    u64 v = mem_ld(&s->c->v, a, size, s->mmu);
    s->sp = (s->sp + size) & s->mask;
    return v;
}

void xstack_commit(struct xstack *s)
{
    x86_set_reg(s->c, G_RSP, s->sp, s->mask == 0xffff ? 2 : s->mask == 0xffffffffu ? 4 : 8);
}

// ---- instructions --------------------------------------------------------------------------------------------------

X86_HELPER(load_seg)
{
    x86_seg_load(x86(c), b & 7, (u16)a);
    return 0;
}

X86_HELPER(get_seg) { return x86(c)->seg[b & 7].sel; }

X86_HELPER(lseg)
{
    struct x86_cpu *x = x86(c);
    unsigned size = x86_info_opsize(d), mmu = x86_mmu(x);
    u64 off = mem_ld(c, x86_linear(x, d, a), size, mmu);
    u16 sel = mem_ld(c, x86_linear(x, d, a + size), 2, mmu);
    x86_seg_load(x, x86_info_extra(d), sel);
    x86_set_reg(x, b, off, size);
    x->inhibit_irq = false;   // LSS sets no shadow: it has loaded RSP along with SS
    x86_switch_mode(x);
    return 0;
}

static void sys_need_protected(struct x86_cpu *c)
{
    if (x86_paragraphs(c)) x86_raise(c, EXC_UD, -1);
}

// Base of a 16-byte system descriptor in long mode, whose second half has type 0 (SDM 3A 3.5).
static u64 sys_base(struct x86_cpu *c, const struct x86_desc *d, u16 sel)
{
    if (!x86_long_mode(c)) return desc_base(d);
    if ((sel | 7u) + 8 > c->gdtr.limit) x86_raise(c, EXC_GP, sel & 0xfffc);
    u64 up = mem_ld(&c->v, gva(d->addr + 8), 8, 0);
    if (up >> 40 & 0x1f) x86_raise(c, EXC_GP, sel & 0xfffc);
    u64 base = desc_base(d) | up << 32;
    if (!x86_canonical(base)) x86_raise(c, EXC_GP, sel & 0xfffc);
    return base;
}

X86_HELPER(lldt)
{
    struct x86_cpu *x = x86(c);
    u16 sel = a;
    sys_need_protected(x);
    x86_need_cpl0(x);
    if (!(sel & 0xfffc)) {
        x86_seg_set(x, SEG_LDTR, sel, 0, 0, 0);
        return 0;
    }
    struct x86_desc e;
    if ((sel & 4) || !x86_desc_read(x, sel, &e)) x86_raise(x, EXC_GP, sel & 0xfffc);
    if ((e.hi & DESC_S) || desc_type(&e) != SYS_LDT) x86_raise(x, EXC_GP, sel & 0xfffc);
    if (!(e.hi & DESC_P)) x86_raise(x, EXC_NP, sel & 0xfffc);
    u64 base = sys_base(x, &e, sel);
    x86_seg_set(x, SEG_LDTR, sel, base, desc_limit(&e), e.hi & DESC_ATTR);
    return 0;
}

X86_HELPER(ltr)
{
    struct x86_cpu *x = x86(c);
    u16 sel = a;
    sys_need_protected(x);
    x86_need_cpl0(x);
    struct x86_desc e;
    if (!(sel & 0xfffc)) x86_raise(x, EXC_GP, 0);
    if ((sel & 4) || !x86_desc_read(x, sel, &e)) x86_raise(x, EXC_GP, sel & 0xfffc);
    unsigned type = desc_type(&e);
    bool ok = type == SYS_TSS32 || (type == SYS_TSS16 && !x86_long_mode(x));
    if ((e.hi & DESC_S) || !ok) x86_raise(x, EXC_GP, sel & 0xfffc);
    if (!(e.hi & DESC_P)) x86_raise(x, EXC_NP, sel & 0xfffc);
    u64 base = sys_base(x, &e, sel);
    e.hi |= 0x200;   // busy
    mem_st(c, gva(e.addr + 5), e.hi >> 8 & 0xff, 1, 0);
    x86_seg_set(x, SEG_TR, sel, base, desc_limit(&e), e.hi & DESC_ATTR);
    return 0;
}

static void umip_check(struct x86_cpu *c)
{
    if ((c->cr4 & CR4_UMIP) && x86_cpl(c)) x86_raise(c, EXC_GP, 0);
}

X86_HELPER(sldt)
{
    sys_need_protected(x86(c));
    umip_check(x86(c));
    return x86(c)->seg[SEG_LDTR].sel;
}

X86_HELPER(str)
{
    sys_need_protected(x86(c));
    umip_check(x86(c));
    return x86(c)->seg[SEG_TR].sel;
}

// Is `sel` visible at max(CPL, RPL)? Reads its descriptor.
static bool sel_visible(struct x86_cpu *c, u16 sel, struct x86_desc *d)
{
    if (!(sel & 0xfffc) || !x86_desc_read(c, sel, d)) return false;
    if ((d->hi & (DESC_S | DESC_CODE | DESC_C)) == (DESC_S | DESC_CODE | DESC_C)) return true;
    return desc_dpl(d) >= x86_cpl(c) && desc_dpl(d) >= (sel & 3u);
}

X86_HELPER(verr)
{
    struct x86_desc e;
    sys_need_protected(x86(c));
    bool ok = sel_visible(x86(c), a, &e) && (e.hi & DESC_S) && (!(e.hi & DESC_CODE) || (e.hi & DESC_R));
    x86_set_zf(x86(c), ok);
    return 0;
}

X86_HELPER(verw)
{
    struct x86_desc e;
    sys_need_protected(x86(c));
    bool ok = sel_visible(x86(c), a, &e) && (e.hi & (DESC_S | DESC_CODE | DESC_W)) == (DESC_S | DESC_W);
    x86_set_zf(x86(c), ok);
    return 0;
}

// System descriptor types LAR and LSL accept, as bit masks (SDM 2, LAR: table 3-53; LSL: table 3-57).
static bool lar_type_ok(const struct x86_cpu *c, const struct x86_desc *d, bool lsl)
{
    if (d->hi & DESC_S) return true;
    u32 ok = BIT(SYS_LDT) | BIT(SYS_TSS32) | BIT(SYS_TSS32_BUSY);
    if (!lsl) ok |= BIT(SYS_CALL32);
    if (!x86_long_mode(c)) ok |= BIT(SYS_TSS16) | BIT(SYS_TSS16_BUSY) | (lsl ? 0 : BIT(SYS_CALL16) | BIT(SYS_TASK_GATE));
    return ok >> desc_type(d) & 1;
}

X86_HELPER(lar)
{
    struct x86_desc e;
    sys_need_protected(x86(c));
    bool ok = sel_visible(x86(c), a, &e) && lar_type_ok(x86(c), &e, false);
    x86_set_zf(x86(c), ok);
    if (ok) x86_set_reg(x86(c), b, e.hi & 0xffff00, x86_info_opsize(d));
    return 0;
}

X86_HELPER(lsl)
{
    struct x86_desc e;
    sys_need_protected(x86(c));
    bool ok = sel_visible(x86(c), a, &e) && lar_type_ok(x86(c), &e, true);
    x86_set_zf(x86(c), ok);
    if (ok) x86_set_reg(x86(c), b, desc_limit(&e), x86_info_opsize(d));
    return 0;
}

X86_HELPER(arpl)
{
    struct x86_cpu *x = x86(c);
    sys_need_protected(x);
    bool reg = x86_info_extra(d) & 1;
    u16 dst = reg ? x->v.regs[a & 15] : mem_ld(c, x86_linear(x, d, a), 2, x86_mmu(x));
    bool raise_rpl = (dst & 3) < (b & 3);
    if (raise_rpl) dst = (dst & ~3u) | (b & 3);
    if (reg) x86_set_reg(x, a & 15, dst, 2);
    else if (raise_rpl) mem_st(c, x86_linear(x, d, a), dst, 2, x86_mmu(x));
    x86_set_zf(x, raise_rpl);
    return 0;
}

X86_HELPER(rdfsgsbase)
{
    if (!(x86(c)->cr4 & CR4_FSGSBASE)) x86_raise(x86(c), EXC_UD, -1);
    return bits_zext(x86(c)->seg[a & 7].base, x86_info_opsize(d));
}

X86_HELPER(wrfsgsbase)
{
    struct x86_cpu *x = x86(c);
    u64 base = bits_zext(b, x86_info_opsize(d));
    if (!(x->cr4 & CR4_FSGSBASE)) x86_raise(x, EXC_UD, -1);
    if (!x86_canonical(base)) x86_raise(x, EXC_GP, 0);
    x->seg[a & 7].base = x->seg_base[a & 7] = base;
    return 0;
}

X86_HELPER(swapgs)
{
    struct x86_cpu *x = x86(c);
    x86_need_cpl0(x);
    u64 old = x->seg[SEG_GS].base;
    x->seg[SEG_GS].base = x->seg_base[SEG_GS] = x->kernel_gs_base;
    x->kernel_gs_base = old;
    return 0;
}
