// System instructions: a call of the helper that means them, and the end of the block where the mode word, the page tables or the chance of
// an interrupt may have changed (helpers.h marks them). Serialising instructions (SDM 3A 8.3) end it too: what follows them may have been
// written by another processor since the block was entered, and must be fetched anew. CPL 0 was checked by the driver where the table says
// so.
#include "kernel/base/bits.h"
#include "tcg/guest/x86/helpers.h"
#include "tcg/guest/x86/system.h"
#include "tcg/guest/x86/xlate.h"

static struct ir_op *plain(struct xlate *x, ir_helper fn, u8 dest) { return xlate_helper(x, fn, dest, IR_IMM, 0, IR_IMM, 0, 0); }
static s64 info(const struct x86_insn *i) { return (s64)xlate_info(i, i->opsize, 0); }

// fn without arguments, which serialises; the mode stays.
static bool plain_fetch(struct xlate *x, ir_helper fn)
{
    plain(x, fn, IR_NONE);
    xlate_end_fetch(x);
    return true;
}

// fn(a, b, next pc), which may change the mode or open the way for an interrupt, and says where the guest goes on.
static bool may_switch(struct xlate *x, ir_helper fn, s64 a, u8 b)
{
    u8 way = xlate_temp(x);
    xlate_helper(x, fn, way, IR_IMM, a, b, 0, (s64)x->next_pc);
    xlate_end_resume(x, way);
    return true;
}

// fn without arguments, which changes the mode word in a way that the mode word before alone decides: the block ends, and its exit is
// chained like any other, as what comes behind it always is in the same mode. In the same page: a guard would look at the old mmu mode's
// signatures. Interrupts are as they were, so the loop has nothing to look at.
static bool plain_mode(struct xlate *x, ir_helper fn)
{
    plain(x, fn, IR_NONE);
    if (((x->next_pc + x->b->cs_base) ^ (x->b->pc + x->b->cs_base)) & PAGE_MASK) xlate_end_leave(x);
    else xlate_end_goto(x, x->next_pc);
    return true;
}

static bool plain_stay(struct xlate *x, ir_helper fn)
{
    plain(x, fn, IR_NONE);
    return true;
}

// fn(effective address).
static bool with_ea(struct xlate *x, const struct x86_insn *i, ir_helper fn)
{
    xlate_helper(x, fn, IR_NONE, xlate_ea(x, i), 0, IR_IMM, 0, info(i));
    return true;
}

// ---- flags, interrupts, halting --------------------------------------------------------------------------------------
bool xlate_cli(struct xlate *x, const struct x86_insn *i) { return plain_stay(x, x86_helper_cli); }
bool xlate_sti(struct xlate *x, const struct x86_insn *i UNUSED)
{
    // b: this is the last instruction of the block whatever comes, so the helper must arrange the shadow itself.
    x->sti_call = xlate_helper(x, x86_helper_sti, IR_NONE, IR_IMM, (s64)x->next_pc, IR_IMM, 0, 0);
    return true;
}
// Kernels open and close SMAP around every access to a process's memory. TBM_SMAP says whether that changes the mode at all.
bool xlate_clac(struct xlate *x, const struct x86_insn *i) { return plain_mode(x, x86_helper_clac); }
bool xlate_stac(struct xlate *x, const struct x86_insn *i) { return plain_mode(x, x86_helper_stac); }

// Compilers write CLD at the head of every function that copies: nothing to do where the direction is known to be right.
bool xlate_cld(struct xlate *x, const struct x86_insn *i) { return x->mode & TBM_DF ? plain_mode(x, x86_helper_cld) : true; }
bool xlate_std(struct xlate *x, const struct x86_insn *i) { return x->mode & TBM_DF ? true : plain_mode(x, x86_helper_std); }

static bool halt(struct xlate *x, ir_helper fn)
{
    xlate_helper(x, fn, IR_NONE, IR_IMM, 0, IR_IMM, (s64)x->next_pc, 0);
    xlate_end_leaver(x);
    return true;
}

bool xlate_hlt(struct xlate *x, const struct x86_insn *i) { return halt(x, x86_helper_hlt); }
bool xlate_mwait(struct xlate *x, const struct x86_insn *i) { return halt(x, x86_helper_mwait); }
bool xlate_monitor(struct xlate *x, const struct x86_insn *i) { return plain_stay(x, x86_helper_monitor); }

// ---- identification, time, MSRs --------------------------------------------------------------------------------------
bool xlate_cpuid(struct xlate *x, const struct x86_insn *i) { return plain_fetch(x, x86_helper_cpuid); }

// The host's own, where the guest may read it and it counts the host's time.
static bool read_tsc(struct xlate *x, ir_helper fn, size_t aux)
{
    if ((x->mode & TBM_TSD) || x86(x->c)->virtual_ns) return plain_stay(x, fn);
    struct ir_op *op = ir_new(x->b, IR_TSC, 8);
    op->imm = offsetof(struct x86_cpu, tsc_offset);
    op->imm_a = (s64)aux;
    return true;
}

bool xlate_rdtsc(struct xlate *x, const struct x86_insn *i) { return read_tsc(x, x86_helper_rdtsc, 0); }
bool xlate_rdtscp(struct xlate *x, const struct x86_insn *i) { return read_tsc(x, x86_helper_rdtscp, offsetof(struct x86_cpu, tsc_aux)); }
bool xlate_rdpmc(struct xlate *x, const struct x86_insn *i) { return plain_stay(x, x86_helper_rdpmc); }
bool xlate_rdmsr(struct xlate *x, const struct x86_insn *i) { return plain_stay(x, x86_helper_rdmsr); }
bool xlate_wrmsr(struct xlate *x, const struct x86_insn *i) { return may_switch(x, x86_helper_wrmsr, 0, IR_IMM); }

// RDRAND, RDSEED: the host's, unless the guest's numbers are to follow from a seed.
bool xlate_random(struct xlate *x, const struct x86_insn *i)
{
    if (!x86(x->c)->seeded) return xlate_host(x, i);
    if (i->is_mem) return false;
    u8 t = xlate_temp(x);
    struct ir_op *op = plain(x, x86_helper_random, t);
    op->fuse = op->fdef = FL_ALL;
    xlate_copy(x, i->opsize, i->rm, t);
    return true;
}

bool xlate_rdpid(struct xlate *x, const struct x86_insn *i)
{
    u8 t = xlate_temp(x);
    plain(x, x86_helper_rdpid, t);
    xlate_copy(x, x->bits == 64 ? 8 : 4, i->rm, t);
    return true;
}

// ---- control and debug registers ---------------------------------------------------------------------------------------
// Opcode bit 1: write. Always 64 bits wide in 64-bit mode, 32 outside it.
static bool mov_special(struct xlate *x, const struct x86_insn *i, ir_helper rd, ir_helper wr)
{
    unsigned size = x->bits == 64 ? 8 : 4;
    u8 t = xlate_temp(x);
    if (i->opcode & 2) {
        xlate_copy(x, size, t, i->rm);
        if (wr != x86_helper_write_cr || i->reg != 3) return may_switch(x, wr, i->reg, t);
        xlate_helper(x, x86_helper_write_cr3, IR_NONE, IR_IMM, 0, t, 0, 0);      // the mode stays; what is fetched, may not
        xlate_end_fetch(x);
    } else {
        xlate_helper(x, rd, t, IR_IMM, i->reg, IR_IMM, 0, info(i));
        xlate_copy(x, size, i->rm, t);
    }
    return true;
}

bool xlate_mov_cr(struct xlate *x, const struct x86_insn *i) { return mov_special(x, i, x86_helper_read_cr, x86_helper_write_cr); }
bool xlate_mov_dr(struct xlate *x, const struct x86_insn *i) { return mov_special(x, i, x86_helper_read_dr, x86_helper_write_dr); }
bool xlate_clts(struct xlate *x, const struct x86_insn *i) { return may_switch(x, x86_helper_clts, 0, IR_IMM); }

// The 16-bit operand E, zero-extended.
static u8 get_e16(struct xlate *x, const struct x86_insn *i)
{
    u8 t = xlate_temp(x);
    if (i->is_mem) xlate_load(x, 2, t, xlate_mem(x, i));
    else xlate_op(x, IR_MOVZX, 4, t, i->rm, IR_NONE)->size2 = 2;
    return t;
}

// Register t into E: memory always 16 bits, a register by operand size.
static void put_evw(struct xlate *x, const struct x86_insn *i, u8 t)
{
    if (i->is_mem) xlate_store(x, 2, xlate_mem(x, i), t);
    else xlate_copy(x, i->opsize, i->rm, t);
}

static bool read_evw(struct xlate *x, const struct x86_insn *i, ir_helper fn)
{
    u8 t = xlate_temp(x);
    plain(x, fn, t);
    put_evw(x, i, t);
    return true;
}

bool xlate_smsw(struct xlate *x, const struct x86_insn *i) { return read_evw(x, i, x86_helper_smsw); }
bool xlate_sldt(struct xlate *x, const struct x86_insn *i) { return read_evw(x, i, x86_helper_sldt); }
bool xlate_str(struct xlate *x, const struct x86_insn *i) { return read_evw(x, i, x86_helper_str); }

static bool write_e16(struct xlate *x, const struct x86_insn *i, ir_helper fn, u8 flags)
{
    struct ir_op *op = xlate_helper(x, fn, IR_NONE, get_e16(x, i), 0, IR_IMM, 0, info(i));
    op->fuse = op->fdef = flags;
    return true;
}

bool xlate_verr(struct xlate *x, const struct x86_insn *i) { return write_e16(x, i, x86_helper_verr, FL_ALL); }
bool xlate_verw(struct xlate *x, const struct x86_insn *i) { return write_e16(x, i, x86_helper_verw, FL_ALL); }

static bool write_e16_fetch(struct xlate *x, const struct x86_insn *i, ir_helper fn)
{
    write_e16(x, i, fn, 0);
    xlate_end_fetch(x);
    return true;
}

bool xlate_lmsw(struct xlate *x, const struct x86_insn *i)
{
    write_e16(x, i, x86_helper_lmsw, 0);
    xlate_end_leave(x);
    return true;
}
bool xlate_lldt(struct xlate *x, const struct x86_insn *i) { return write_e16_fetch(x, i, x86_helper_lldt); }
bool xlate_ltr(struct xlate *x, const struct x86_insn *i) { return write_e16_fetch(x, i, x86_helper_ltr); }

// ---- segment registers and descriptors -----------------------------------------------------------------------------
bool xlate_mov_seg(struct xlate *x, const struct x86_insn *i)
{
    if (i->opcode == 0x8c) {
        u8 t = xlate_temp(x);
        xlate_helper(x, x86_helper_get_seg, t, IR_IMM, 0, IR_IMM, i->reg, 0);
        put_evw(x, i, t);
        return true;
    }
    xlate_helper(x, x86_helper_load_seg, IR_NONE, get_e16(x, i), 0, IR_IMM, i->reg, 0);
    if (x->bits != 64 || i->reg == SEG_SS) xlate_end_leave(x);
    return true;
}

bool xlate_lseg(struct xlate *x, const struct x86_insn *i)
{
    unsigned seg = i->opcode == 0xc4 ? SEG_ES : i->opcode == 0xc5 ? SEG_DS : i->opcode == 0xb2 ? SEG_SS : i->opcode == 0xb4 ? SEG_FS : SEG_GS;
    xlate_helper(x, x86_helper_lseg, IR_NONE, xlate_ea(x, i), 0, IR_IMM, i->reg, (s64)xlate_info(i, i->opsize, seg));
    xlate_end_leave(x);
    return true;
}

static bool descriptor_query(struct xlate *x, const struct x86_insn *i, ir_helper fn)
{
    struct ir_op *op = xlate_helper(x, fn, IR_NONE, get_e16(x, i), 0, IR_IMM, i->reg, info(i));
    op->fuse = op->fdef = FL_ALL;
    return true;
}

bool xlate_lar(struct xlate *x, const struct x86_insn *i) { return descriptor_query(x, i, x86_helper_lar); }
bool xlate_lsl(struct xlate *x, const struct x86_insn *i) { return descriptor_query(x, i, x86_helper_lsl); }

bool xlate_arpl(struct xlate *x, const struct x86_insn *i)
{
    u8 rpl = xlate_temp(x), ea = i->is_mem ? xlate_ea(x, i) : IR_IMM;
    xlate_op(x, IR_MOVZX, 4, rpl, i->reg, IR_NONE)->size2 = 2;
    struct ir_op *op = xlate_helper(x, x86_helper_arpl, IR_NONE, ea, i->rm, rpl, 0, (s64)xlate_info(i, 2, !i->is_mem));
    op->fuse = op->fdef = FL_ALL;
    return true;
}

bool xlate_sgdt(struct xlate *x, const struct x86_insn *i) { return with_ea(x, i, x86_helper_sgdt); }
bool xlate_sidt(struct xlate *x, const struct x86_insn *i) { return with_ea(x, i, x86_helper_sidt); }

static bool with_ea_fetch(struct xlate *x, const struct x86_insn *i, ir_helper fn)
{
    with_ea(x, i, fn);
    xlate_end_fetch(x);
    return true;
}

bool xlate_lgdt(struct xlate *x, const struct x86_insn *i) { return with_ea_fetch(x, i, x86_helper_lgdt); }
bool xlate_lidt(struct xlate *x, const struct x86_insn *i) { return with_ea_fetch(x, i, x86_helper_lidt); }

// RDFSBASE RDGSBASE WRFSBASE WRGSBASE: ModRM.reg 0..3.
bool xlate_rwbase(struct xlate *x, const struct x86_insn *i)
{
    s64 seg = i->reg & 1 ? SEG_GS : SEG_FS;
    if (i->reg & 2) {
        xlate_helper(x, x86_helper_wrfsgsbase, IR_NONE, IR_IMM, seg, i->rm, 0, info(i));
        return true;
    }
    u8 t = xlate_temp(x);
    xlate_helper(x, x86_helper_rdfsgsbase, t, IR_IMM, seg, IR_IMM, 0, info(i));
    xlate_copy(x, i->opsize == 8 ? 8 : 4, i->rm, t);
    return true;
}

bool xlate_swapgs(struct xlate *x, const struct x86_insn *i) { return plain_stay(x, x86_helper_swapgs); }

// ---- caches and translations -------------------------------------------------------------------------------------------
bool xlate_invd(struct xlate *x, const struct x86_insn *i) { return plain_fetch(x, x86_helper_wbinvd); }
bool xlate_wbinvd(struct xlate *x, const struct x86_insn *i) { return plain_fetch(x, x86_helper_wbinvd); }

bool xlate_invlpg(struct xlate *x, const struct x86_insn *i) { return with_ea_fetch(x, i, x86_helper_invlpg); }

// INVPCID (SDM 2A): a effective address of the descriptor, b type. Of a PCID that is put aside everything is forgotten, also for an
// individual address.
static u64 invpcid(struct vcpu *v, u64 a, u64 b, u64 d)
{
    struct x86_cpu *c = x86(v);
    u64 desc[2];
    mem_read(v, x86_linear(c, d, a), desc, sizeof desc, x86_mmu(c));
    bool bad = b > 3 || (b < 2 && desc[0] >> 12) || (b == 0 && !x86_canonical(desc[1])) ||
               (b < 2 && desc[0] != 0 && !(c->cr4 & CR4_PCIDE));
    if (bad) x86_raise(c, EXC_GP, 0);
    bool current = !(c->cr4 & CR4_PCIDE) || desc[0] == (c->cr3 & 0xfff);
    if (b == 2) tlb_flush(v);
    else if (b == 3) tlb_forget_all(v);
    else if (!current) tlb_forget(v, (u32)desc[0]);
    if (b == 0 && current) tlb_flush_page(v, gva(desc[1]));
    if (b == 3 || (b == 1 && current)) tlb_flush_local(v);
    return 0;
}

bool xlate_invpcid(struct xlate *x, const struct x86_insn *i)
{
    u8 type = xlate_temp(x);
    xlate_copy(x, x->bits == 64 ? 8 : 4, type, i->reg);
    xlate_helper(x, invpcid, IR_NONE, xlate_ea(x, i), 0, type, 0, info(i));
    xlate_end_fetch(x);
    return true;
}
