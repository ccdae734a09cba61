// Arithmetic flags rebuilt from what is left of the operation that made them (struct flag_recipe), by doing the operation again
// on the host.
#include "kernel/base/bits.h"
#include "kernel/base/log.h"
#include "tcg/run/tcg.h"

u16 cc_from_eflags(u64 eflags) { return (u16)((eflags & 0xd5) << 8 | 2 << 8 | (eflags >> 11 & 1)); }

#define FLAGS_OF(insn, T)                                                                                              \
    ({                                                                                                                 \
        u64 f_;                                                                                                        \
        T x_ = (T)a, y_ = (T)b;                                                                                        \
        __asm__ volatile(insn " %2, %1\n\tpushfq\n\tpopq %0" : "=r"(f_), "+r"(x_) : "r"(y_) : "cc");                   \
        f_;                                                                                                            \
    })
#define FLAGS_BY_SIZE(insn)                                                                                            \
    (size == 1 ? FLAGS_OF(insn "b", u8) : size == 2 ? FLAGS_OF(insn "w", u16) : size == 4 ? FLAGS_OF(insn "l", u32) : FLAGS_OF(insn "q", u64))

// EFLAGS of a shift of a by b, as the same instruction leaves them.
#define SHIFT_OF(insn, T)                                                                                              \
    ({                                                                                                                 \
        u64 f_;                                                                                                        \
        T x_ = (T)a;                                                                                                   \
        __asm__ volatile(insn " %%cl, %1\n\tpushfq\n\tpopq %0" : "=r"(f_), "+r"(x_) : "c"((u8)b) : "cc");             \
        f_;                                                                                                            \
    })
#define SHIFT_BY_SIZE(insn)                                                                                            \
    (size == 1 ? SHIFT_OF(insn "b", u8) : size == 2 ? SHIFT_OF(insn "w", u16) : size == 4 ? SHIFT_OF(insn "l", u32) : SHIFT_OF(insn "q", u64))

static u64 eflags_of(unsigned opc, unsigned size, u64 a, u64 b)
{
    switch (opc) {
    case IR_ADD: return FLAGS_BY_SIZE("add");
    case IR_SUB: case IR_CMP: return FLAGS_BY_SIZE("sub");
    case IR_TEST: return FLAGS_BY_SIZE("test");
    case IR_SHL: return SHIFT_BY_SIZE("shl");
    case IR_SHR: return SHIFT_BY_SIZE("shr");
    case IR_SAR: return SHIFT_BY_SIZE("sar");
    case IR_IMUL: return size == 2 ? FLAGS_OF("imulw", u16) : size == 4 ? FLAGS_OF("imull", u32) : FLAGS_OF("imulq", u64);
    default: panic("flags of op %u", opc);
    }
}

static u64 operand(const struct vcpu *c, const struct flag_recipe *r, u8 where)
{
    if (where == IR_IMM) return (u64)(s64)r->imm;
    return where >= FR_SLOT0 ? c->flag_operand[where - FR_SLOT0] : c->regs[where];
}

u16 flags_recompute(const struct vcpu *c, const struct flag_recipe *r)
{
    u64 a = operand(c, r, r->a), b = operand(c, r, r->b);
    u64 f;
    switch (r->opc) {
    case IR_ADD: f = eflags_of(IR_ADD, r->size, a - b, b); break;      // a holds the result
    case IR_SUB: f = eflags_of(IR_SUB, r->size, a + b, b); break;
    case IR_NEG: f = eflags_of(IR_SUB, r->size, 0, -a); break;
    case IR_AND: case IR_OR: case IR_XOR: f = eflags_of(IR_TEST, r->size, a, a); break;
    default: f = eflags_of(r->opc, r->size, a, b); break;              // CMP, TEST: both operands are still there
    }
    return cc_from_eflags(f);
}
