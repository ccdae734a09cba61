// Stack instructions. The access goes to [rSP - size] or [rSP] and may fault; only then is rSP moved, by LEA, which leaves the flags alone.
// The width of rSP is the stack segment's (64-bit code: 8), independent of the operand size; a 16-bit LEA keeps the upper bits.
#include "kernel/base/bits.h"
#include "tcg/guest/x86/helpers.h"
#include "tcg/guest/x86/xlate.h"

static struct ir_mem stack_at(const struct xlate *x, s32 disp) { return xlate_mem_at(x, SEG_SS, G_RSP, disp, x->stack); }
static void move_sp(struct xlate *x, s32 by) { xlate_add_disp(x, G_RSP, G_RSP, by, x->stack); }

void xlate_push_reg(struct xlate *x, unsigned size, u8 reg)
{
    xlate_store(x, size, stack_at(x, -(s32)size), reg);
    move_sp(x, -(s32)size);
}

void xlate_push_imm(struct xlate *x, unsigned size, u64 val)
{
    if (size == 8 && !fits_s32((s64)val)) {
        u8 t = xlate_temp(x);
        xlate_movi(x, 8, t, val);
        xlate_push_reg(x, size, t);
        return;
    }
    struct ir_op *op = xlate_op(x, IR_MOV, size, IR_MEM, IR_IMM, IR_NONE);
    op->imm = (s64)val;
    xlate_set_mem(op, stack_at(x, -(s32)size), ACCESS_WRITE);
    move_sp(x, -(s32)size);
}

// Selectors are pushed zero-extended to the operand size (SDM 2B PUSH allows that as well as leaving the upper half alone).
bool xlate_push(struct xlate *x, const struct x86_insn *i)
{
    const struct insn_opnd *o = &i->desc->opnd[0];
    if (o->addr == OA_SEGREG) {
        u8 t = xlate_temp(x);
        xlate_helper(x, x86_helper_get_seg, t, IR_IMM, 0, IR_IMM, o->reg, 0);
        xlate_push_reg(x, i->opsize, t);
    } else if (o->addr == OA_I) {
        xlate_push_imm(x, i->opsize, (u64)bits_sext((u64)i->imm, i->opsize));
    } else if (o->addr == OA_E && i->is_mem) {
        u8 t = xlate_get(x, i, 0);
        xlate_push_reg(x, i->opsize, t);
    } else {
        struct ir_op probe = {0};
        xlate_put(x, i, 0, &probe, 0);
        xlate_push_reg(x, i->opsize, probe.d);
    }
    return true;
}

// Loads a segment register from the stack. Outside 64-bit code, and for SS everywhere, what follows may be translated differently.
static void pop_seg(struct xlate *x, const struct x86_insn *i, unsigned seg)
{
    u8 t = xlate_temp(x);
    xlate_load(x, i->opsize, t, stack_at(x, 0));
    xlate_helper(x, x86_helper_load_seg, IR_NONE, t, 0, IR_IMM, seg, 0);
    move_sp(x, i->opsize);
    if (x->bits != 64 || seg == SEG_SS) xlate_end_leave(x);
}

// The address is computed with rSP after its increment (SDM 2B POP), but rSP may move only after the store.
static void pop_mem(struct xlate *x, const struct x86_insn *i)
{
    u8 t = xlate_temp(x);
    struct x86_insn moved = *i;
    if (i->base == G_RSP) moved.disp += i->opsize;
    struct ir_mem m;
    if (i->base == G_RSP && i->addrsize == 8 && !fits_s32(moved.disp)) {
        u8 sp = xlate_temp(x);
        xlate_add_disp(x, sp, G_RSP, i->opsize, 8);
        m = xlate_mem(x, i);
        m.base = sp;
    } else {
        m = xlate_mem(x, &moved);
    }
    xlate_load(x, i->opsize, t, stack_at(x, 0));
    xlate_store(x, i->opsize, m, t);
    move_sp(x, i->opsize);
}

bool xlate_pop(struct xlate *x, const struct x86_insn *i)
{
    const struct insn_opnd *o = &i->desc->opnd[0];
    if (o->addr == OA_SEGREG) {
        pop_seg(x, i, o->reg);
        return true;
    }
    if (i->is_mem) {
        pop_mem(x, i);
        return true;
    }
    struct ir_op probe = {0};
    xlate_put(x, i, 0, &probe, 0);
    if (probe.d == G_RSP) {                    // the loaded value wins over the increment
        u8 t = xlate_temp(x);
        xlate_load(x, i->opsize, t, stack_at(x, 0));
        if (i->opsize < x->stack) move_sp(x, i->opsize);
        xlate_copy(x, i->opsize, G_RSP, t);
        return true;
    }
    xlate_load(x, i->opsize, probe.d, stack_at(x, 0));
    move_sp(x, i->opsize);
    return true;
}

// rSP = rBP; pop rBP
bool xlate_leave(struct xlate *x, const struct x86_insn *i)
{
    u8 t = xlate_temp(x);
    xlate_load(x, i->opsize, t, xlate_mem_at(x, SEG_SS, G_RBP, 0, x->stack));
    xlate_add_disp(x, G_RSP, G_RBP, i->opsize, x->stack);
    xlate_copy(x, i->opsize, G_RBP, t);
    return true;
}

// By helper at any nesting level: it also probes the last byte of the new frame (SDM 2A ENTER).
bool xlate_enter(struct xlate *x, const struct x86_insn *i)
{
    xlate_helper(x, x86_helper_enter, IR_NONE, IR_IMM, i->imm & 0xffff, IR_IMM, i->imm2 & 0xff, (s64)xlate_info(i, i->opsize, 0));
    return true;
}

static void whole(struct xlate *x, const struct x86_insn *i, ir_helper fn, u8 fuse, u8 fdef)
{
    struct ir_op *op = xlate_helper(x, fn, IR_NONE, IR_IMM, 0, IR_IMM, 0, (s64)xlate_info(i, i->opsize, 0));
    op->fuse = fuse;
    op->fdef = fdef;
}

bool xlate_pusha(struct xlate *x, const struct x86_insn *i)
{
    whole(x, i, x86_helper_pusha, 0, 0);
    return true;
}

bool xlate_popa(struct xlate *x, const struct x86_insn *i)
{
    whole(x, i, x86_helper_popa, 0, 0);
    return true;
}

bool xlate_pushf(struct xlate *x, const struct x86_insn *i)
{
    whole(x, i, x86_helper_pushf, FL_ALL, 0);
    return true;
}

bool xlate_popf(struct xlate *x, const struct x86_insn *i)
{
    whole(x, i, x86_helper_popf, FL_ALL, FL_ALL);      // leaves by itself when the mode changed or an interrupt waits
    return true;
}
