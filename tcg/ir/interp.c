// The reference interpreter. One op after another, in the order of ops.def: read the operands, compute, then commit: destination and flags
// change together and last, after everything that can fault - so that the vCPU is exact at every access.
//
// Flags are computed in EFLAGS' own bit positions, and merged into the vCPU's cc under the op's fdef: what an op does not define stays. The
// flags that x86 leaves undefined (after shifts, rotates and products) are "what the host gives", so those ops run on the host's own
// instruction; everything that has a formula is written as one.
//
// Read-modify-writes probe for writing first: their fault is a write's (SDM 3A 4.7, W/R bit). Atomicity is not modelled: one vCPU at a
// time.
#include "tcg/ir/interp.h"

#include "kernel/base/bits.h"
#include "kernel/base/log.h"
#include "tcg/run/softmmu.h"

enum { E_CF = 1, E_PF = 4, E_AF = 0x10, E_ZF = 0x40, E_SF = 0x80, E_OF = 0x800 };

struct run { struct vcpu *c; const struct ir_op *op; u64 ea; };

// ---- flags ----
static u32 flags_get(const struct vcpu *c) { return (u32)(c->cc >> 8 & 0xd5) | (c->cc & 1 ? E_OF : 0); }

static u32 fl_to_eflags(u8 fl)
{
    return (fl & FL_C ? E_CF : 0) | (fl & FL_P ? E_PF : 0) | (fl & FL_A ? E_AF : 0) | (fl & FL_Z ? E_ZF : 0) | (fl & FL_S ? E_SF : 0) |
           (fl & FL_O ? E_OF : 0);
}

static void flags_set(struct run *r, u32 ef)
{
    u32 mask = fl_to_eflags(r->op->fdef), f = (flags_get(r->c) & ~mask) | (ef & mask);
    r->c->cc = (u16)((f & 0xd5) << 8 | 0x200 | (f & E_OF ? 1 : 0));
}

// Z, S and P of a result.
static u32 flags_szp(u64 v, unsigned size)
{
    return (bits_zext(v, size) == 0 ? E_ZF : 0) | (bits_sext(v, size) < 0 ? E_SF : 0) | (__builtin_parity((unsigned)v & 0xff) ? 0 : E_PF);
}

static bool top_bit(u64 v, unsigned size) { return v >> (size * 8 - 1) & 1; }

static bool condition(u32 f, u8 cc)
{
    bool c = f & E_CF, z = f & E_ZF, s = f & E_SF, o = f & E_OF, v;
    switch (cc >> 1) {
    case 0: v = o; break;
    case 1: v = c; break;
    case 2: v = z; break;
    case 3: v = c || z; break;
    case 4: v = s; break;
    case 5: v = f & E_PF; break;
    case 6: v = s != o; break;
    default: v = z || s != o; break;
    }
    return v != (cc & 1);
}

// ---- operands ----
static u64 reg_get(const struct vcpu *c, u8 r) { return r < IR_T0 ? c->regs[r] : c->temps[r - IR_T0]; }
static u64 *reg_at(struct vcpu *c, u8 r) { return r < IR_T0 ? &c->regs[r] : &c->temps[r - IR_T0]; }

static u64 effective(const struct vcpu *c, const struct ir_mem *m)
{
    u64 a = (u64)(s64)m->disp;
    if (m->base != IR_NONE) a += reg_get(c, m->base);
    if (m->index != IR_NONE) a += reg_get(c, m->index) << m->scale;
    return bits_zext(a, m->addr_size);
}

static u64 linear(const struct vcpu *c, const struct ir_mem *m)
{
    u64 a = effective(c, m);
    if (m->seg_slot) a += *(const u64 *)((const char *)c + m->seg_slot);
    return m->seg_wrap ? (u32)a : a;
}

enum { HI_D = 1, HI_A = 2, HI_B = 4 };

static u64 operand(struct run *r, u8 o, unsigned size, unsigned hi, s64 imm)
{
    if (o == IR_MEM) return mem_ld(r->c, gva(r->ea), size, r->op->mem.mmu);
    if (o == IR_IMM) return bits_zext((u64)imm, size);
    if (o == IR_NONE) return 0;
    return bits_zext(reg_get(r->c, o) >> (r->op->hi & hi ? 8 : 0), size);
}

static u64 operand_a(struct run *r, unsigned size) { return operand(r, r->op->a, size, HI_A, r->op->imm); }
static u64 operand_b(struct run *r, unsigned size) { return operand(r, r->op->b, size, HI_B, r->op->imm); }

static void put(struct run *r, u8 o, u64 v, unsigned hi)
{
    unsigned size = r->op->size;
    if (o == IR_MEM) { mem_st(r->c, gva(r->ea), v, size, r->op->mem.mmu); return; }
    if (o == IR_NONE) return;
    u64 *p = reg_at(r->c, o);
    if (size == 8) *p = v;
    else if (size == 4) *p = (u32)v;
    else if (size == 2) *p = (*p & ~0xffffull) | (v & 0xffff);
    else if (r->op->hi & hi) *p = (*p & ~0xff00ull) | (v & 0xff) << 8;
    else *p = (*p & ~0xffull) | (v & 0xff);
}

// The end of an op that computes: destination, then flags.
static void commit(struct run *r, u64 v, u32 ef)
{
    put(r, r->op->d, v, HI_D);
    flags_set(r, ef);
}

// ---- arithmetic ----
static void do_add(struct run *r, u64 a, u64 b, bool cin)
{
    unsigned n = r->op->size;
    u64 v = bits_zext(a + b + cin, n);
    bool carry = cin ? v <= a : v < a;
    commit(r, v, flags_szp(v, n) | (carry ? E_CF : 0) | ((a ^ b ^ v) & E_AF) | (top_bit((a ^ v) & (b ^ v), n) ? E_OF : 0));
}

static void do_sub(struct run *r, u64 a, u64 b, bool cin)
{
    unsigned n = r->op->size;
    u64 v = bits_zext(a - b - cin, n);
    bool borrow = cin ? a <= b : a < b;
    u32 ef = flags_szp(v, n) | (borrow ? E_CF : 0) | ((a ^ b ^ v) & E_AF) | (top_bit((a ^ b) & (a ^ v), n) ? E_OF : 0);
    if (r->op->opc == IR_CMP) flags_set(r, ef);
    else commit(r, v, ef);
}

static void do_logic(struct run *r, u64 v)
{
    if (r->op->opc == IR_TEST) flags_set(r, flags_szp(v, r->op->size));
    else commit(r, v, flags_szp(v, r->op->size));
}

// One host instruction on (v, cl) with the guest's flags going in and out; suffixes by size.
#define ON_HOST(insn, v, count, f)                                                                                  \
    do {                                                                                                            \
        u64 f_ = (f);                                                                                               \
        switch (r->op->size) {                                                                                      \
        case 1: ON_HOST_1(insn "b %%cl, %b0", v, count, f_); break;                                                 \
        case 2: ON_HOST_1(insn "w %%cl, %w0", v, count, f_); break;                                                 \
        case 4: ON_HOST_1(insn "l %%cl, %k0", v, count, f_); break;                                                 \
        default: ON_HOST_1(insn "q %%cl, %q0", v, count, f_); break;                                                \
        }                                                                                                           \
        (f) = (u32)f_;                                                                                              \
    } while (0)
// The compiler may keep locals in the red zone: step over it around the pushes (SysV ABI 3.2.2).
#define ON_HOST_1(text, v, count, f)                                                                                \
    __asm__("lea -128(%%rsp), %%rsp; push %1; popf; " text "; pushf; pop %1; lea 128(%%rsp), %%rsp" : "+r"(v), "+r"(f) : "c"(count) : "cc")

// The host's EFLAGS without the arithmetic ones: IF and the like must survive the POPF.
static u32 host_flags_other(void)
{
    u64 f;
    __asm__ volatile("lea -128(%%rsp), %%rsp; pushf; pop %0; lea 128(%%rsp), %%rsp" : "=r"(f));
    return (u32)f & ~(u32)(E_CF | E_PF | E_AF | E_ZF | E_SF | E_OF);
}

static void do_shift(struct run *r, u64 v, u8 count)
{
    u32 f = flags_get(r->c) | host_flags_other();
    switch (r->op->opc) {
    case IR_ROL: ON_HOST("rol", v, count, f); break;
    case IR_ROR: ON_HOST("ror", v, count, f); break;
    case IR_RCL: ON_HOST("rcl", v, count, f); break;
    case IR_RCR: ON_HOST("rcr", v, count, f); break;
    case IR_SHL: ON_HOST("shl", v, count, f); break;
    case IR_SHR: ON_HOST("shr", v, count, f); break;
    default: ON_HOST("sar", v, count, f); break;
    }
    commit(r, v, f);
}

static void do_imul(struct run *r, u64 a, u64 b)
{
    u64 f;
    switch (r->op->size) {
    case 2: __asm__("imulw %w2, %w0; lea -128(%%rsp), %%rsp; pushf; pop %1; lea 128(%%rsp), %%rsp" : "+&r"(a), "=&r"(f) : "r"(b) : "cc"); break;
    case 4: __asm__("imull %k2, %k0; lea -128(%%rsp), %%rsp; pushf; pop %1; lea 128(%%rsp), %%rsp" : "+&r"(a), "=&r"(f) : "r"(b) : "cc"); break;
    default: __asm__("imulq %2, %0; lea -128(%%rsp), %%rsp; pushf; pop %1; lea 128(%%rsp), %%rsp" : "+&r"(a), "=&r"(f) : "r"(b) : "cc"); break;
    }
    commit(r, a, (u32)f);
}

static void do_arith(struct run *r)
{
    unsigned n = r->op->size;
    u64 a = operand_a(r, n);
    switch (r->op->opc) {
    case IR_INC: do_add(r, a, 1, false); return;
    case IR_DEC: do_sub(r, a, 1, false); return;
    case IR_NEG: do_sub(r, 0, a, false); return;
    case IR_NOT: put(r, r->op->d, ~a, HI_D); return;
    case IR_ROL ... IR_SAR: do_shift(r, a, (u8)operand_b(r, 1)); return;
    }
    u64 b = operand_b(r, n);
    bool carry = flags_get(r->c) & E_CF;
    switch (r->op->opc) {
    case IR_ADD: do_add(r, a, b, false); return;
    case IR_ADC: do_add(r, a, b, carry); return;
    case IR_SUB: case IR_CMP: do_sub(r, a, b, false); return;
    case IR_SBB: do_sub(r, a, b, carry); return;
    case IR_OR: do_logic(r, a | b); return;
    case IR_AND: case IR_TEST: do_logic(r, a & b); return;
    case IR_XOR: do_logic(r, a ^ b); return;
    case IR_IMUL: do_imul(r, a, b); return;
    }
}

// ---- the rest ----
static void do_cmov(struct run *r)
{
    u64 a = operand_a(r, r->op->size), d = operand(r, r->op->d, r->op->size, HI_D, 0);
    put(r, r->op->d, condition(flags_get(r->c), r->op->cc) ? a : d, HI_D);
}

static void do_xchg(struct run *r)
{
    u64 a = operand_a(r, r->op->size), d = operand(r, r->op->d, r->op->size, HI_D, 0);
    put(r, r->op->d, a, HI_D);
    put(r, r->op->a, d, HI_A);
}

static void do_call(struct run *r)
{
    const struct ir_op *op = r->op;
    u64 a = operand(r, op->a, 8, 0, op->imm_a), b = operand(r, op->b, 8, 0, op->imm_b);
    u64 v = ((ir_helper)op->fn)(r->c, a, b, (u64)op->imm);
    put(r, op->d, v, HI_D);
}

static void do_tsc(struct run *r)
{
    const u8 *env = (const u8 *)r->c;
    u64 t = __builtin_ia32_rdtsc() + *(const u64 *)(const void *)(env + r->op->imm);
    r->c->regs[0] = (u32)t;
    r->c->regs[2] = t >> 32;
    if (r->op->imm_a) r->c->regs[1] = *(const u32 *)(const void *)(env + r->op->imm_a);
}

// True: the block is left.
static bool step(struct run *r)
{
    const struct ir_op *op = r->op;
    struct vcpu *c = r->c;
    if (op->has_mem && op->opc != IR_LEA) {
        r->ea = linear(c, &op->mem);
        if (op->mem_rw == 3) (void)mem_probe(c, gva(r->ea), op->size, ACCESS_WRITE, op->mem.mmu);
    }
    switch (op->opc) {
    case IR_INSN: c->pc = (u64)op->imm; return false;
    case IR_MOV: put(r, op->d, operand_a(r, op->size), HI_D); return false;
    case IR_MOVZX: put(r, op->d, operand_a(r, op->size2), HI_D); return false;
    case IR_MOVSX: put(r, op->d, (u64)bits_sext(operand_a(r, op->size2), op->size2), HI_D); return false;
    case IR_LEA: put(r, op->d, effective(c, &op->mem), HI_D); return false;
    case IR_CMOV: do_cmov(r); return false;
    case IR_SETCC: put(r, op->d, condition(flags_get(c), op->cc), HI_D); return false;
    case IR_XCHG: do_xchg(r); return false;
    case IR_CALL: do_call(r); return false;
    case IR_TSC: do_tsc(r); return false;
    case IR_BR:
        if (!condition(flags_get(c), op->cc)) return false;
        c->pc = (u64)op->imm;
        return true;
    case IR_BRCXZ:
        if (bits_zext(c->regs[1], op->size)) return false;
        c->pc = (u64)op->imm;
        return true;
    case IR_GOTO: case IR_LEAVE: c->pc = (u64)op->imm; return true;
    case IR_GOTOR: c->pc = operand(r, op->a, 8, 0, op->imm); return true;
    case IR_LEAVER: case IR_RESUME: return true;
    default: do_arith(r); return false;
    }
}

enum ir_interp_result ir_interp(struct vcpu *c, const struct ir_block *b, unsigned *at)
{
    struct run r = {.c = c};
    for (; *at < b->n; ++*at) {
        r.op = &b->ops[*at];
        if (r.op->opc == IR_HOST) return INTERP_HOST;
        if (step(&r)) return INTERP_LEFT;
    }
    return INTERP_RAN_OFF;
}
