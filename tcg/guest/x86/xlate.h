// Translation of decoded x86 instructions to IR: what the files xlate*.c share. One `xlate_<name>` function per kind of instruction, named
// by the lines of insn.def; each appends the ops of one instruction and returns false if it turns out to be invalid (the driver raises #UD
// then, so it must not have appended anything).
//
// The precision rule (tcg/ir/ir.h): no global and no flag changes before the last op of the instruction that can fault, except by that op
// itself. Runs on the vCPU's own core, BQL not held.
#pragma once

#include "kernel/base/log.h"
#include "tcg/guest/x86/cpu.h"
#include "tcg/guest/x86/insn.h"
#include "tcg/ir/ir.h"

struct xlate {
    struct vcpu *c;
    struct ir_block *b;
    u32 mode;             // TBM_*
    u8 mmu;               // mmu mode of its accesses
    u8 bits;              // code size: 64, 32, 16
    u8 stack;             // stack address size in bytes: 8, 4, 2
    u8 cpl, iopl;
    u8 n_temps;           // temporaries handed out in this instruction
    u8 side_exits;        // BR/BRCXZ so far in the block
    struct ir_op *sti_call;   // STI was the instruction before: its helper call
    unsigned max_insns;   // of the block
    unsigned loop_body, loop_copies;   // instructions of the first round, rounds begun again (xlate_unroll)
    bool ended;           // an X op was appended: the block is complete
    u64 pc;               // of the instruction being translated (offset in CS)
    u64 next_pc;          // of the one after it, wrapped to the code size
};

// ---- operands -----------------------------------------------------------------------------------------------
// A fresh temporary of this instruction (IR_T0 + n).
u8 xlate_temp(struct xlate *x);
// The memory operand that the ModRM names. May append ops that load a 64-bit displacement into a temporary, so call it before ir_new.
struct ir_mem xlate_mem(struct xlate *x, const struct x86_insn *i);
// A memory operand [seg:base + disp] with address size asz bytes; seg: SEG_*.
struct ir_mem xlate_mem_at(const struct xlate *x, unsigned seg, u8 base, s32 disp, unsigned asz);
// Gives op the memory operand m; rw: bit 0 read, bit 1 written.
static inline void xlate_set_mem(struct ir_op *op, struct ir_mem m, unsigned rw)
{
    op->mem = m;
    op->has_mem = 1;
    op->mem_rw = rw;
}
// Byte registers: true if byte register number n (0..15) is AH CH DH BH (4..7 without any REX prefix); then the global is n - 4.
static inline bool xlate_is_high(const struct x86_insn *i, unsigned n) { return !i->rex && !i->vex && n >= 4 && n < 8; }
// The effective address that the ModRM names, without segment, in a register (a base as it is, or a temporary); helpers wrap it.
u8 xlate_ea(struct xlate *x, const struct x86_insn *i);
// Operand number n, zero-extended, in a fresh temporary. May fault.
u8 xlate_get(struct xlate *x, const struct x86_insn *i, unsigned n);
// Bytes of operand number n as it is here (memory or register).
unsigned xlate_opnd_size(const struct x86_insn *i, unsigned n);
// Puts operand number n of the instruction (E, G, I, REG, ...) into place `slot` (0 d, 1 a, 2 b) of op: register, with .hi; IR_IMM with
// .imm; or IR_MEM, in which case the caller has called xlate_set_mem.
void xlate_put(struct xlate *x, const struct x86_insn *i, unsigned n, struct ir_op *op, unsigned slot);

// Moves the stack: push of a register (global or temporary) or a constant, size 2, 4 or 8. The store may fault; rSP changes after it.
void xlate_push_reg(struct xlate *x, unsigned size, u8 reg);
void xlate_push_imm(struct xlate *x, unsigned size, u64 val);

// ---- ops in short ---------------------------------------------------------------------------------------------
struct ir_op *xlate_op(struct xlate *x, enum ir_opc opc, unsigned size, u8 d, u8 a, u8 b);
struct ir_op *xlate_opi(struct xlate *x, enum ir_opc opc, unsigned size, u8 d, u8 a, s64 imm);   // b is the immediate
void xlate_copy(struct xlate *x, unsigned size, u8 d, u8 a);
void xlate_movi(struct xlate *x, unsigned size, u8 d, u64 imm);
void xlate_load(struct xlate *x, unsigned size, u8 d, struct ir_mem m);
void xlate_store(struct xlate *x, unsigned size, struct ir_mem m, u8 a);
// d = base + disp with address arithmetic of asz bytes, into a register written with size asz; flags untouched.
void xlate_add_disp(struct xlate *x, u8 d, u8 base, s32 disp, unsigned asz);

// A call of fn(vcpu, a, b, d) whose arguments are immediates, or registers (a, b) if a_reg/b_reg is not IR_IMM. dest: IR_NONE or a
// register.
struct ir_op *xlate_helper(struct xlate *x, ir_helper fn, u8 dest, u8 a_reg, s64 a, u8 b_reg, s64 b, s64 d);
// The info word of helpers.h for this instruction.
u64 xlate_info(const struct x86_insn *i, unsigned opsize, unsigned extra);
// Helper: c->pc = a.
u64 xlate_set_pc(struct vcpu *c, u64 a, u64 b, u64 d);
// Raises exception vec at this instruction (error < 0: none) and ends the block.
void xlate_raise(struct xlate *x, unsigned vec, s64 error);
// Ends of the block.
// If the branch to target closes a short loop over the whole block, translation goes on there: true, and the caller emits what leaves the
// loop.
bool xlate_unroll(struct xlate *x, u64 target);
void xlate_end_goto(struct xlate *x, u64 pc);            // direct, chainable
void xlate_end_gotor(struct xlate *x, u8 reg);           // indirect
void xlate_end_fetch(struct xlate *x);                   // to next_pc, in the same mode, where the instruction is looked for anew
void xlate_end_leave(struct xlate *x);                   // to the loop, at next_pc
void xlate_end_resume(struct xlate *x, u8 reg);          // reg: what x86_resume said, c->pc set by a helper
void xlate_end_leaver(struct xlate *x);                  // to the loop, c->pc set by a helper
// pc wrapped to operand size `size` bytes (2, 4, 8) for branch targets.
static inline u64 xlate_wrap(u64 pc, unsigned size) { return size == 2 ? pc & 0xffff : size == 4 ? pc & 0xffffffff : pc; }

// After a side exit (BR, BRCXZ): counts it, and ends the block at next_pc when it has enough of them.
void xlate_side_exit(struct xlate *x);

// ---- the driver -------------------------------------------------------------------------------------------------
void x86_translate(struct vcpu *c, struct ir_block *b, unsigned max_insns);   // guest_ops.translate
// The exception (EXC_*) that the mode word demands for an instruction of this one's kind (x87, MMX, SSE, AVX), or -1.
int xlate_feature_fault(struct xlate *x, const struct x86_insn *i);

// ---- the translation functions: one prototype for each name in insn.def ----------------------------------------------
#define XLATE(name) bool xlate_##name(struct xlate *x, const struct x86_insn *i);
#include "tcg/guest/x86/insn.def"
