// Far control flow: JMP, CALL, RET, IRET between segments and privilege levels, and the fast system calls (SDM 3A 5.8; SDM 2, each page).
//
// One shape throughout: read and check (may raise), reserve the stack frame, then assign. Hardware task switching (JMP/CALL to a TSS or a
// task gate, IRET with NT) is not implemented: the guest gets #GP and the log says so once.
#include "tcg/guest/x86/system.h"

// Code segments, long mode's constraint: L and D together are reserved. And the target must lie in the segment.
static void code_check_target(struct x86_cpu *c, u16 sel, const struct x86_desc *d, u64 pc)
{
    if (!(d->hi & DESC_P)) x86_raise(c, EXC_NP, sel & 0xfffc);
    bool to64 = x86_long_mode(c) && (d->hi & DESC_L);
    if (to64 && (d->hi & DESC_B)) x86_raise(c, EXC_GP, sel & 0xfffc);
    if (to64 ? !x86_canonical(pc) : pc > desc_limit(d)) x86_raise(c, EXC_GP, 0);
}

static bool is_code(const struct x86_desc *d) { return (d->hi & (DESC_S | DESC_CODE)) == (DESC_S | DESC_CODE); }

// The caller brings the mode word up to date.
static void put_cs_pc(struct x86_cpu *c, u16 sel, unsigned cpl, const struct x86_desc *d, u64 pc)
{
    x86_seg_from_desc(c, SEG_CS, (sel & ~3u) | cpl, d);
    x86_set_cpl(c, cpl);
    c->v.pc = pc;
}

static void set_cs_pc(struct x86_cpu *c, u16 sel, unsigned cpl, const struct x86_desc *d, u64 pc)
{
    put_cs_pc(c, sel, cpl, d, pc);
    x86_switch_mode(c);
}

static NORETURN void task_switch(struct x86_cpu *c, u16 sel)
{
    log_once(LOG_WARN, "guest: hardware task switch (selector %04x) is not implemented; #GP instead", sel);
    x86_raise(c, EXC_GP, sel & 0xfffc);
}

// A call gate, followed to the code segment it names.
struct gate { struct x86_desc cs; u16 sel; u64 pc; unsigned size, params; };

static void gate_follow(struct x86_cpu *c, u16 sel, const struct x86_desc *g, struct gate *out)
{
    bool lma = x86_long_mode(c);
    unsigned type = desc_type(g);
    if (!lma && (type == SYS_TASK_GATE || type == SYS_TSS16 || type == SYS_TSS32)) task_switch(c, sel);
    if (type != SYS_CALL32 && (lma || type != SYS_CALL16)) x86_raise(c, EXC_GP, sel & 0xfffc);
    if (desc_dpl(g) < x86_cpl(c) || desc_dpl(g) < (sel & 3u)) x86_raise(c, EXC_GP, sel & 0xfffc);
    if (!(g->hi & DESC_P)) x86_raise(c, EXC_NP, sel & 0xfffc);
    out->size = lma ? 8 : type == SYS_CALL32 ? 4 : 2;
    out->params = lma ? 0 : g->hi & 31;
    out->sel = g->lo >> 16;
    out->pc = (g->lo & 0xffff) | (type == SYS_CALL32 ? g->hi & 0xffff0000 : 0);
    if (lma) {
        u64 up = mem_ld(&c->v, gva(g->addr + 8), 8, 0);
        if (up >> 40 & 0x1f) x86_raise(c, EXC_GP, sel & 0xfffc);
        out->pc |= up << 32;
    }
    if (!(out->sel & 0xfffc)) x86_raise(c, EXC_GP, 0);
    u32 err = out->sel & 0xfffc;
    if (!x86_desc_read(c, out->sel, &out->cs) || !is_code(&out->cs) || desc_dpl(&out->cs) > x86_cpl(c)) x86_raise(c, EXC_GP, err);
    if (lma && (out->cs.hi & (DESC_L | DESC_B)) != DESC_L) x86_raise(c, EXC_GP, err);
    code_check_target(c, out->sel, &out->cs, out->pc);
}

// Direct JMP/CALL to a code segment: privilege does not change.
static void code_check_direct(struct x86_cpu *c, u16 sel, const struct x86_desc *d, u64 pc)
{
    unsigned cpl = x86_cpl(c);
    bool ok = d->hi & DESC_C ? desc_dpl(d) <= cpl : (sel & 3u) <= cpl && desc_dpl(d) == cpl;
    if (!ok) x86_raise(c, EXC_GP, sel & 0xfffc);
    code_check_target(c, sel, d, pc);
}

static void paragraph_cs(struct x86_cpu *c, u16 sel, u64 pc)
{
    if (x86_vm86(c)) x86_seg_set_vm86(c, SEG_CS, sel);
    else x86_seg_set_real(c, SEG_CS, sel);
    c->v.pc = pc;
    x86_switch_mode(c);
}

static void far_jump(struct x86_cpu *c, u16 sel, u64 off, unsigned size)
{
    off = bits_zext(off, size);
    if (x86_paragraphs(c)) {
        if (off > c->seg[SEG_CS].limit) x86_raise(c, EXC_GP, 0);
        paragraph_cs(c, sel, off);
        return;
    }
    struct x86_desc d;
    if (!(sel & 0xfffc)) x86_raise(c, EXC_GP, 0);
    if (!x86_desc_read(c, sel, &d)) x86_raise(c, EXC_GP, sel & 0xfffc);
    if (is_code(&d)) {
        code_check_direct(c, sel, &d, off);
        x86_desc_access(c, &d);
        set_cs_pc(c, sel, x86_cpl(c), &d, off);
        return;
    }
    if (d.hi & DESC_S) x86_raise(c, EXC_GP, sel & 0xfffc);
    struct gate g;
    gate_follow(c, sel, &d, &g);
    if (!(g.cs.hi & DESC_C) && desc_dpl(&g.cs) != x86_cpl(c)) x86_raise(c, EXC_GP, g.sel & 0xfffc);
    x86_desc_access(c, &g.cs);
    set_cs_pc(c, g.sel, x86_cpl(c), &g.cs, g.pc);
}

// CALL through a gate to an inner level: new stack from the TSS, parameters copied (SDM 3A 5.8.5).
static void call_inner(struct x86_cpu *c, const struct gate *g, u64 next)
{
    unsigned to = desc_dpl(&g->cs), cpl = x86_cpl(c);
    u16 ss_sel = 0;
    struct x86_desc ss, cs = g->cs;
    struct xstack old, s;
    u64 sp, params[31];
    bool lma = x86_long_mode(c);
    if (lma) {
        sp = x86_tss64_read(c, 4 + to * 8, 0);
        xstack_new(&s, c, NULL, sp, to);
    } else {
        x86_tss_stack(c, to, 0, &ss_sel, &sp);
        x86_ss_check(c, ss_sel, to, EXC_TS, 0, &ss);
        xstack_new(&s, c, &ss, sp, to);
    }
    xstack_current(&old, c);
    old.mmu = cpl == 3;
    for (unsigned i = 0; i < g->params; i++) params[i] = xstack_pop(&old, g->size);
    xstack_reserve(&s, (4 + g->params) * g->size, g->size);
    x86_desc_access(c, &cs);
    if (!lma) x86_desc_access(c, &ss);
    xstack_push(&s, c->seg[SEG_SS].sel, g->size);
    xstack_push(&s, c->v.regs[G_RSP], g->size);
    for (unsigned i = g->params; i-- > 0;) xstack_push(&s, params[i], g->size);
    xstack_push(&s, c->seg[SEG_CS].sel, g->size);
    xstack_push(&s, next, g->size);
    xstack_commit(&s);
    if (lma) x86_ss_set_null(c, to);
    else x86_seg_from_desc(c, SEG_SS, ss_sel, &ss);
    set_cs_pc(c, g->sel, to, &cs, g->pc);
}

static void push_return(struct x86_cpu *c, u64 next, unsigned size)
{
    struct xstack s;
    xstack_current(&s, c);
    xstack_reserve(&s, 2 * size, size);
    xstack_push(&s, c->seg[SEG_CS].sel, size);
    xstack_push(&s, next, size);
    xstack_commit(&s);
}

static void far_call(struct x86_cpu *c, u16 sel, u64 off, unsigned size, u64 next)
{
    off = bits_zext(off, size);
    if (x86_paragraphs(c)) {
        if (off > c->seg[SEG_CS].limit) x86_raise(c, EXC_GP, 0);
        push_return(c, next, size);
        paragraph_cs(c, sel, off);
        return;
    }
    struct x86_desc d;
    if (!(sel & 0xfffc)) x86_raise(c, EXC_GP, 0);
    if (!x86_desc_read(c, sel, &d)) x86_raise(c, EXC_GP, sel & 0xfffc);
    if (is_code(&d)) {
        code_check_direct(c, sel, &d, off);
        x86_desc_access(c, &d);
        push_return(c, next, size);
        set_cs_pc(c, sel, x86_cpl(c), &d, off);
        return;
    }
    if (d.hi & DESC_S) x86_raise(c, EXC_GP, sel & 0xfffc);
    struct gate g;
    gate_follow(c, sel, &d, &g);
    if (!(g.cs.hi & DESC_C) && desc_dpl(&g.cs) < x86_cpl(c)) {
        call_inner(c, &g, next);
        return;
    }
    x86_desc_access(c, &g.cs);
    push_return(c, next, g.size);
    set_cs_pc(c, g.sel, x86_cpl(c), &g.cs, g.pc);
}

// ---- returns -----------------------------------------------------------------------------------------------------------

// Flags IRET may change at the current privilege (SDM 2, IRET).
static void iret_flags(struct x86_cpu *c, u64 ef, unsigned cpl, unsigned size)
{
    u64 mask = EF_ARITH | EF_TF | EF_DF | EF_NT | EF_RF | EF_AC | EF_ID;
    if (cpl == 0) mask |= EF_IOPL | EF_IF | (x86_protected(c) ? EF_VIF | EF_VIP : 0);
    else if (cpl <= x86_iopl(c)) mask |= EF_IF;
    if (size == 2) mask &= 0xffff;
    x86_switch_eflags(c, (x86_get_eflags(c) & ~mask) | (ef & mask));
}

static void ret_paragraphs(struct x86_cpu *c, unsigned size, u64 release, bool iret)
{
    if (iret && x86_vm86(c) && x86_iopl(c) < 3) x86_raise(c, EXC_GP, 0);
    struct xstack s;
    xstack_current(&s, c);
    u64 pc = xstack_pop(&s, size);
    u16 sel = xstack_pop(&s, size);
    u64 ef = iret ? xstack_pop(&s, size) : 0;
    if (pc > c->seg[SEG_CS].limit) x86_raise(c, EXC_GP, 0);
    xstack_drop(&s, release);
    xstack_commit(&s);
    paragraph_cs(c, sel, pc);
    // In VM86 mode IOPL stays, IF may change (IOPL is 3): the rules of a CPL that equals IOPL.
    if (iret) iret_flags(c, ef, x86_vm86(c) ? 3 : 0, size);
}

// IRET from CPL 0 into VM86 mode (SDM 3B 20.2.5).
static void iret_to_vm86(struct x86_cpu *c, struct xstack *s, u64 pc, u16 cs, u64 ef)
{
    static const u8 order[] = {SEG_SS, SEG_ES, SEG_DS, SEG_FS, SEG_GS};
    u16 sel[5];
    u64 sp = xstack_pop(s, 4);
    for (unsigned i = 0; i < 5; i++) sel[i] = xstack_pop(s, 4);
    for (unsigned i = 0; i < 5; i++) x86_seg_set_vm86(c, order[i], sel[i]);
    x86_seg_set_vm86(c, SEG_CS, cs);
    c->v.regs[G_RSP] = (u32)sp;
    c->v.pc = pc & 0xffff;
    x86_switch_eflags(c, (ef & 0x3fffff) | 2);
}

// Reads and checks the code segment a return goes to.
static void ret_check_cs(struct x86_cpu *c, u16 sel, u64 pc, struct x86_desc *d)
{
    u32 err = sel & 0xfffc;
    unsigned rpl = sel & 3;
    if (!err) x86_raise(c, EXC_GP, 0);
    if (!x86_desc_read(c, sel, d) || !is_code(d) || rpl < x86_cpl(c)) x86_raise(c, EXC_GP, err);
    if (d->hi & DESC_C ? desc_dpl(d) > rpl : desc_dpl(d) != rpl) x86_raise(c, EXC_GP, err);
    code_check_target(c, sel, d, pc);
}

static void far_return(struct x86_cpu *c, unsigned size, u64 release, bool iret)
{
    struct xstack s;
    xstack_current(&s, c);
    bool from64 = x86_code64(c);
    unsigned cpl = x86_cpl(c);
    if (from64 && iret) xstack_expect(&s, 5 * size);
    u64 pc = xstack_pop(&s, size);
    u16 sel = xstack_pop(&s, size);
    u64 ef = iret ? xstack_pop(&s, size) : 0;
    if (iret && size == 4 && (ef & EF_VM) && cpl == 0 && !x86_long_mode(c)) {
        iret_to_vm86(c, &s, pc, sel, ef);
        return;
    }
    struct x86_desc cs, ss = {0};
    ret_check_cs(c, sel, pc, &cs);
    unsigned to = sel & 3;
    bool outer = to > cpl, ss_null = false;
    xstack_drop(&s, release);
    if (outer || (iret && from64)) {
        u64 sp = xstack_pop(&s, size);
        u16 ss_sel = xstack_pop(&s, size);
        ss_null = !(ss_sel & 0xfffc) && x86_long_mode(c) && (cs.hi & DESC_L) && to != 3 && (ss_sel & 3u) == to;
        if (!ss_null) {
            x86_ss_check(c, ss_sel, to, EXC_GP, 0, &ss);
            x86_desc_access(c, &ss);
        }
        x86_desc_access(c, &cs);
        bool to64 = x86_long_mode(c) && (cs.hi & DESC_L);
        u64 keep = to64 ? 0 : ss.hi & DESC_B ? 0 : c->v.regs[G_RSP] & ~0xffffull;
        u64 width = to64 ? ~0ull : ss.hi & DESC_B ? 0xffffffffu : 0xffffu;
        c->v.regs[G_RSP] = keep | ((sp + release) & width);
        if (ss_null) x86_ss_set_null(c, to);
        else x86_seg_from_desc(c, SEG_SS, ss_sel, &ss);
    } else {
        x86_desc_access(c, &cs);
        xstack_commit(&s);
    }
    put_cs_pc(c, sel, to, &cs, pc);
    if (outer) x86_seg_drop_inner(c, to);
    if (iret) iret_flags(c, ef, cpl, size);   // by the privilege before the return
    else x86_switch_mode(c);
}

// ---- instructions --------------------------------------------------------------------------------------------------------

X86_HELPER(jmpf)
{
    far_jump(x86(c), a, b, x86_info_opsize(d));
    return x86_resume(x86(c));
}

X86_HELPER(callf)
{
    far_call(x86(c), a, b, x86_info_opsize(d), x86_next_pc(x86(c), d));
    return x86_resume(x86(c));
}

static u64 far_pointer(struct x86_cpu *c, u64 ea, u64 d, u16 *sel)
{
    unsigned size = x86_info_opsize(d), mmu = x86_mmu(c);
    u64 off = mem_ld(&c->v, x86_linear(c, d, ea), size, mmu);
    *sel = mem_ld(&c->v, x86_linear(c, d, ea + size), 2, mmu);
    return off;
}

X86_HELPER(jmpf_mem)
{
    u16 sel;
    u64 off = far_pointer(x86(c), a, d, &sel);
    far_jump(x86(c), sel, off, x86_info_opsize(d));
    return x86_resume(x86(c));
}

X86_HELPER(callf_mem)
{
    u16 sel;
    u64 off = far_pointer(x86(c), a, d, &sel);
    far_call(x86(c), sel, off, x86_info_opsize(d), x86_next_pc(x86(c), d));
    return x86_resume(x86(c));
}

X86_HELPER(retf)
{
    if (x86_paragraphs(x86(c))) ret_paragraphs(x86(c), x86_info_opsize(d), a, false);
    else far_return(x86(c), x86_info_opsize(d), a, false);
    return x86_resume(x86(c));
}

X86_HELPER(iret)
{
    struct x86_cpu *x = x86(c);
    bool paragraphs = x86_paragraphs(x);
    if (!paragraphs && (x->eflags & EF_NT)) {
        if (!x86_long_mode(x)) task_switch(x, 0);
        x86_raise(x, EXC_GP, 0);
    }
    if (paragraphs) ret_paragraphs(x, x86_info_opsize(d), 0, true);
    else far_return(x, x86_info_opsize(d), 0, true);
    x->nmi_blocked = false;   // SDM 3A 6.7.1
    return x86_resume(x);
}

// The fixed flat segments of the fast system calls.
static void flat_cs(struct x86_cpu *c, u16 sel, unsigned dpl, bool code64)
{
    u32 attr = DESC_P | dpl << 13 | DESC_S | DESC_CODE | DESC_R | DESC_A | DESC_G | (code64 ? DESC_L : DESC_B);
    x86_seg_set(c, SEG_CS, sel, 0, 0xffffffff, attr);
}
static void flat_ss(struct x86_cpu *c, u16 sel, unsigned dpl)
{
    x86_seg_set(c, SEG_SS, sel, 0, 0xffffffff, DESC_P | dpl << 13 | DESC_S | DESC_W | DESC_A | DESC_G | DESC_B);
}

X86_HELPER(syscall)
{
    struct x86_cpu *x = x86(c);
    if (!(x->efer & EFER_SCE) || !x86_protected(x)) x86_raise(x, EXC_UD, -1);
    u16 sel = x->star >> 32 & 0xfffc;
    u64 ef = x86_get_eflags(x);
    bool lma = x86_long_mode(x), code64 = x86_code64(x);
    x->v.regs[G_RCX] = a;
    flat_cs(x, sel, 0, lma);
    flat_ss(x, sel + 8, 0);
    if (lma) {
        x->v.regs[G_R11] = ef & ~(u64)EF_RF;
        x->v.pc = code64 ? x->lstar : x->cstar;
        ef &= ~x->fmask;
    } else {   // AMD's legacy form
        x->v.pc = (u32)x->star;
        ef &= ~(u64)(EF_VM | EF_IF);
    }
    x86_switch_eflags(x, ef & ~(u64)EF_RF);
    if (!(ef & EF_TF)) x->step_pending = false;   // the masked TF suppresses the trap of the SYSCALL itself
    return x86_resume(x);
}

X86_HELPER(sysret)
{
    struct x86_cpu *x = x86(c);
    bool to64 = x86_info_opsize(d) == 8;
    if (!(x->efer & EFER_SCE) || !x86_protected(x)) x86_raise(x, EXC_UD, -1);
    x86_need_cpl0(x);
    u64 pc = x->v.regs[G_RCX];
    if (to64 && !x86_canonical(pc)) x86_raise(x, EXC_GP, 0);
    u16 sel = x->star >> 48;
    u64 ef = x86_long_mode(x) ? x->v.regs[G_R11] & 0x3c7fd7 : x86_get_eflags(x) | EF_IF;
    flat_cs(x, ((to64 ? sel + 16 : sel) & 0xfffc) | 3, 3, to64);
    flat_ss(x, ((sel + 8) & 0xfffc) | 3, 3);
    x->v.pc = to64 ? pc : (u32)pc;
    x86_switch_eflags(x, ef & ~(u64)(EF_RF | EF_VM));
    return x86_resume(x);
}

X86_HELPER(sysenter)
{
    struct x86_cpu *x = x86(c);
    if (!x86_protected(x) || !(x->sysenter_cs & 0xfffc)) x86_raise(x, EXC_GP, 0);
    u16 sel = x->sysenter_cs & 0xfffc;
    bool lma = x86_long_mode(x);
    flat_cs(x, sel, 0, lma);
    flat_ss(x, sel + 8, 0);
    x->v.regs[G_RSP] = lma ? x->sysenter_esp : (u32)x->sysenter_esp;
    x->v.pc = lma ? x->sysenter_eip : (u32)x->sysenter_eip;
    x86_switch_eflags(x, x86_get_eflags(x) & ~(u64)(EF_VM | EF_IF | EF_RF));
    return x86_resume(x);
}

X86_HELPER(sysexit)
{
    struct x86_cpu *x = x86(c);
    bool to64 = x86_info_opsize(d) == 8;
    if (!x86_protected(x) || !(x->sysenter_cs & 0xfffc)) x86_raise(x, EXC_GP, 0);
    x86_need_cpl0(x);
    u64 pc = x->v.regs[G_RDX], sp = x->v.regs[G_RCX];
    if (to64 && (!x86_canonical(pc) || !x86_canonical(sp))) x86_raise(x, EXC_GP, 0);
    u16 sel = x->sysenter_cs & 0xfffc;
    flat_cs(x, (sel + (to64 ? 32 : 16)) | 3, 3, to64);
    flat_ss(x, (sel + (to64 ? 40 : 24)) | 3, 3);
    x->v.regs[G_RSP] = to64 ? sp : (u32)sp;
    x->v.pc = to64 ? pc : (u32)pc;
    x86_switch_mode(x);
    return x86_resume(x);
}
