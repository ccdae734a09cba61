// Control flow. Targets of direct branches are known and chained; indirect ones go through the jump cache. The target is cut to the operand
// size (SDM 2A JMP): 16-bit branches clear the upper half of EIP. A conditional jump is a side exit, the block goes on behind it.
//
// A near branch to what is not canonical faults itself and has done nothing (SDM 2, JMP, CALL, RET; AMD's family 19h does the same). A
// direct target is looked at here. An indirect one is noticed when nothing is found at it (x86_branched), and what CALL or RET did to RSP
// is undone then, so that no branch pays for it; what CALL wrote below RSP stays.
//
// Far transfers and interrupts are C helpers: they read descriptors, switch stacks and modes.
#include "kernel/base/bits.h"
#include "tcg/guest/x86/faultinsn.h"
#include "tcg/guest/x86/helpers.h"
#include "tcg/guest/x86/system.h"
#include "tcg/guest/x86/xlate.h"

static u64 rel_target(const struct xlate *x, const struct x86_insn *i) { return xlate_wrap(x->next_pc + (u64)i->imm, i->opsize); }

// ---- conditional branches ------------------------------------------------------------------------------------------
// Blocks in the shadow of STI / MOV SS must come back to the loop, and side exits do not. There, and where the target may be a fault, a
// helper decides and sets c->pc.
enum { COND_CXZ = 16, COND_LOOP, COND_LOOPE, COND_LOOPNE };

static bool cc_true(u64 ef, unsigned cc)
{
    bool c = ef & EF_CF, z = ef & EF_ZF, s = ef & EF_SF, o = ef & EF_OF, p = ef & EF_PF;
    const bool base[8] = {o, c, z, c || z, s, p, s != o, z || s != o};
    return base[cc >> 1] != (cc & 1);
}

// a target, b next pc, d condition | address size << 8.
static u64 branch_slowly(struct vcpu *c, u64 a, u64 b, u64 d)
{
    unsigned cond = d & 0xff, asz = d >> 8 & 15;
    u64 ef = x86_get_eflags(x86(c)), *rcx = &c->regs[G_RCX], n = bits_zext(*rcx - (cond > COND_CXZ), asz);
    bool taken = cond < COND_CXZ ? cc_true(ef, cond)
               : cond == COND_CXZ ? n == 0 : n != 0 && (cond == COND_LOOP || !!(ef & EF_ZF) == (cond == COND_LOOPE));
    if (taken && x86_bad_target(a, x86_code64(x86(c)))) x86_raise(x86(c), EXC_GP, 0);
    if (cond > COND_CXZ) *rcx = asz == 2 ? (*rcx & ~0xffffull) | n : n;
    c->pc = taken ? a : b;
    return 0;
}

static bool shadowed(struct xlate *x, const struct x86_insn *i, unsigned cond)
{
    if (!(x->mode & TBM_INHIBIT) && !x86_bad_target(rel_target(x, i), x->bits == 64)) return false;
    struct ir_op *op = xlate_helper(x, branch_slowly, IR_NONE, IR_IMM, (s64)rel_target(x, i), IR_IMM, (s64)x->next_pc,
                                    (s64)(cond | (unsigned)i->addrsize << 8));
    op->fuse = FL_ALL;
    xlate_end_leaver(x);
    return true;
}

static void branch_cc(struct xlate *x, enum ir_cc cc, u64 target)
{
    struct ir_op *op = ir_new(x->b, IR_BR, 8);
    op->cc = cc;
    op->fuse = ir_cc_flags(cc);
    op->imm = (s64)target;
}

static void branch_cxz(struct xlate *x, unsigned asz, u64 target) { ir_new(x->b, IR_BRCXZ, asz)->imm = (s64)target; }

bool xlate_jcc(struct xlate *x, const struct x86_insn *i)
{
    if (shadowed(x, i, i->opcode & 15)) return true;
    u64 fall = x->next_pc;
    if (xlate_unroll(x, rel_target(x, i))) {
        branch_cc(x, (i->opcode & 15) ^ 1, fall);
        x->side_exits++;
        return true;
    }
    branch_cc(x, i->opcode & 15, rel_target(x, i));
    if (x->loop_copies && rel_target(x, i) == x->b->pc) xlate_end_goto(x, fall);    // the last round
    else xlate_side_exit(x);
    return true;
}

bool xlate_jcxz(struct xlate *x, const struct x86_insn *i)
{
    if (shadowed(x, i, COND_CXZ)) return true;
    branch_cxz(x, i->addrsize, rel_target(x, i));
    xlate_side_exit(x);
    return true;
}

// LOOPNE (E0), LOOPE (E1), LOOP (E2): the likely way is back, so the side exits are the ends of the loop.
bool xlate_loop(struct xlate *x, const struct x86_insn *i)
{
    unsigned cond = i->opcode == 0xe0 ? COND_LOOPNE : i->opcode == 0xe1 ? COND_LOOPE : COND_LOOP;
    if (shadowed(x, i, cond)) return true;
    xlate_add_disp(x, G_RCX, G_RCX, -1, i->addrsize);
    branch_cxz(x, i->addrsize, x->next_pc);
    if (cond != COND_LOOP) branch_cc(x, cond == COND_LOOPE ? CC_NE : CC_E, x->next_pc);
    xlate_end_goto(x, rel_target(x, i));
    return true;
}

// ---- near jumps, calls, returns --------------------------------------------------------------------------------------
// The branch target of E in a register, complete and cut to the operand size. rSP may change before it is used, so it is copied then.
static u8 indirect_target(struct xlate *x, const struct x86_insn *i)
{
    if (!i->is_mem && i->opsize == 8 && i->rm != G_RSP) return i->rm;
    return xlate_get(x, i, 0);
}

// A direct branch that is a fault: translated as one.
static bool direct_fault(struct xlate *x, const struct x86_insn *i)
{
    if (i->desc->opnd[0].addr != OA_J || !x86_bad_target(rel_target(x, i), x->bits == 64)) return false;
    xlate_raise(x, EXC_GP, 0);
    return true;
}

bool xlate_jmp(struct xlate *x, const struct x86_insn *i)
{
    if (direct_fault(x, i)) return true;
    if (i->desc->opnd[0].addr == OA_J) {
        if (!xlate_unroll(x, rel_target(x, i))) xlate_end_goto(x, rel_target(x, i));
    } else xlate_end_gotor(x, indirect_target(x, i));
    return true;
}

bool xlate_call(struct xlate *x, const struct x86_insn *i)
{
    if (direct_fault(x, i)) return true;
    if (i->desc->opnd[0].addr == OA_J) {
        xlate_push_imm(x, i->opsize, (u64)bits_sext(x->next_pc, i->opsize));
        xlate_end_goto(x, rel_target(x, i));
        return true;
    }
    u8 target = indirect_target(x, i);
    xlate_push_imm(x, i->opsize, (u64)bits_sext(x->next_pc, i->opsize));
    xlate_end_gotor(x, target);
    return true;
}

bool xlate_ret(struct xlate *x, const struct x86_insn *i)
{
    u8 t = xlate_temp(x);
    xlate_load(x, i->opsize, t, xlate_mem_at(x, SEG_SS, G_RSP, 0, x->stack));
    xlate_add_disp(x, G_RSP, G_RSP, i->opsize + (i->opcode == 0xc2 ? (s32)(i->imm & 0xffff) : 0), x->stack);
    xlate_end_gotor(x, t);
    return true;
}

// ---- far transfers ----------------------------------------------------------------------------------------------------
static bool far_to(struct xlate *x, const struct x86_insn *i, ir_helper direct, ir_helper mem)
{
    s64 info = (s64)xlate_info(i, i->opsize, 0);
    u8 ea = i->is_mem ? xlate_ea(x, i) : IR_NONE, way = xlate_temp(x);
    if (i->is_mem) xlate_helper(x, mem, way, ea, 0, IR_IMM, 0, info);
    else xlate_helper(x, direct, way, IR_IMM, i->imm2 & 0xffff, IR_IMM, i->imm, info);
    xlate_end_resume(x, way);
    return true;
}

bool xlate_jmpf(struct xlate *x, const struct x86_insn *i) { return far_to(x, i, x86_helper_jmpf, x86_helper_jmpf_mem); }
bool xlate_callf(struct xlate *x, const struct x86_insn *i) { return far_to(x, i, x86_helper_callf, x86_helper_callf_mem); }

bool xlate_retf(struct xlate *x, const struct x86_insn *i)
{
    u8 way = xlate_temp(x);
    xlate_helper(x, x86_helper_retf, way, IR_IMM, i->opcode == 0xca ? i->imm & 0xffff : 0, IR_IMM, 0, (s64)xlate_info(i, i->opsize, 0));
    xlate_end_resume(x, way);
    return true;
}

// A helper that reads and writes flags, sets pc and mode, and says where that is.
static bool system_transfer(struct xlate *x, ir_helper fn, s64 a, s64 b, s64 info)
{
    u8 way = xlate_temp(x);
    struct ir_op *op = xlate_helper(x, fn, way, IR_IMM, a, IR_IMM, b, info);
    op->fuse = op->fdef = FL_ALL;
    xlate_end_resume(x, way);
    return true;
}

bool xlate_iret(struct xlate *x, const struct x86_insn *i)
{
    return system_transfer(x, x86_helper_iret, 0, 0, (s64)xlate_info(i, i->opsize, 0));
}

// ---- software interrupts and system calls ------------------------------------------------------------------------------
static bool soft_int(struct xlate *x, ir_helper fn, s64 vector) { return system_transfer(x, fn, vector, (s64)x->next_pc, 0); }

bool xlate_int(struct xlate *x, const struct x86_insn *i) { return soft_int(x, x86_helper_int, i->imm & 0xff); }
bool xlate_int3(struct xlate *x, const struct x86_insn *i) { return soft_int(x, x86_helper_int3, 0); }
bool xlate_int1(struct xlate *x, const struct x86_insn *i) { return soft_int(x, x86_helper_icebp, 0); }

bool xlate_into(struct xlate *x, const struct x86_insn *i)
{
    xlate_helper(x, x86_helper_into, IR_NONE, IR_IMM, 0, IR_IMM, (s64)x->next_pc, 0)->fuse = FL_ALL;
    return true;
}

bool xlate_bound(struct xlate *x, const struct x86_insn *i)
{
    xlate_helper(x, x86_helper_bound, IR_NONE, xlate_ea(x, i), 0, i->reg, 0, (s64)xlate_info(i, i->opsize, 0));
    return true;
}

bool xlate_syscall(struct xlate *x, const struct x86_insn *i)
{
    return system_transfer(x, x86_helper_syscall, (s64)x->next_pc, 0, (s64)xlate_info(i, i->opsize, 0));
}
bool xlate_sysret(struct xlate *x, const struct x86_insn *i) { return system_transfer(x, x86_helper_sysret, 0, 0, (s64)xlate_info(i, i->opsize, 0)); }
bool xlate_sysenter(struct xlate *x, const struct x86_insn *i)
{
    return system_transfer(x, x86_helper_sysenter, (s64)x->next_pc, 0, (s64)xlate_info(i, i->opsize, 0));
}
bool xlate_sysexit(struct xlate *x, const struct x86_insn *i) { return system_transfer(x, x86_helper_sysexit, 0, 0, (s64)xlate_info(i, i->opsize, 0)); }

// UD0, UD1, UD2, and lines that have no translation.
bool xlate_ud(struct xlate *x, const struct x86_insn *i) { return false; }
// RSM outside of system management mode, which the guest never enters.
bool xlate_rsm(struct xlate *x, const struct x86_insn *i) { return false; }
