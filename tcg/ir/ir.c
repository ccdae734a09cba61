// The IR's plumbing: building blocks, what each op reads and writes, and the verifier.
//
// The verifier states the producer's rules as code, so that a translation bug is found where it was made and not three passes
// later: operands present exactly where ops.def says, at most one memory operand, temporaries defined before use and never across
// guest instructions, and the precision rule (no global changes before a later op of the same instruction that can still fault).
#include "tcg/ir/ir.h"

#include "kernel/base/log.h"

#define D IRP_D
#define A IRP_A
#define B IRP_B
#define X IRP_X
#define S IRP_S
#define C IRP_C
static const struct { const char *name; u32 props; } opcs[] = {
#define IR_OP(name, props, meaning) {#name, props},
#include "tcg/ir/ops.def"
#undef IR_OP
};
#undef D
#undef A
#undef B
#undef X
#undef S
#undef C
_Static_assert(ARRAY_SIZE(opcs) == IR_OPC_COUNT, "one line per op");

const char *ir_opc_name(enum ir_opc opc) { return opcs[opc].name; }
u32 ir_opc_props(enum ir_opc opc) { return opcs[opc].props; }

u8 ir_cc_flags(enum ir_cc cc)
{
    static const u8 reads[8] = {FL_O, FL_C, FL_Z, FL_C | FL_Z, FL_S, FL_P, FL_S | FL_O, FL_S | FL_O | FL_Z};
    return reads[cc >> 1];
}

struct ir_op *ir_new(struct ir_block *b, enum ir_opc opc, unsigned size)
{
    ASSERT(b->n < IR_MAX_OPS, "block at %#llx overflows", (unsigned long long)b->pc);
    struct ir_op *o = &b->ops[b->n++];
    *o = (struct ir_op){.opc = opc, .size = size, .d = IR_NONE, .a = IR_NONE, .b = IR_NONE};
    o->mem.base = o->mem.index = IR_NONE;
    o->mem.addr_size = 8;
    o->mem.mmu = b->mmu;
    return o;
}

bool ir_may_fault(const struct ir_op *o)
{
    return (o->has_mem && o->opc != IR_LEA) || o->opc == IR_CALL || (o->opc == IR_HOST && o->host.may_fault);
}

// Registers (bit n: operand number n, 0..47) that op o reads through its operands. Implicit ones of HOST ops are not listed: they
// are pinned.
u64 ir_reads(const struct ir_op *o)
{
    u64 m = 0;
    u32 p = opcs[o->opc].props;
    if ((p & IRP_A) && o->a < 48) m |= 1ull << o->a;
    if ((p & IRP_B) && o->b < 48) m |= 1ull << o->b;
    if (o->has_mem && o->mem.base < 48) m |= 1ull << o->mem.base;
    if (o->has_mem && o->mem.index < 48) m |= 1ull << o->mem.index;
    if (o->d < 48 && (o->opc == IR_CMOV || o->opc == IR_XCHG || (o->size < 4 && o->opc != IR_CALL))) m |= 1ull << o->d;
    if (o->opc == IR_HOST) {
        const struct ir_host *h = &o->host;
        if (h->reg_kind == HO_GPR && ((h->reg_rw & 1) || h->gpr_size < 4)) m |= 1ull << h->reg;
        if (h->rm_kind == HO_GPR && ((h->rm_rw & 1) || h->gpr_size < 4)) m |= 1ull << h->rm;
        if (h->v_kind == HO_GPR && (h->v_rw & 1)) m |= 1ull << h->v;
    }
    return m;
}

u64 ir_writes(const struct ir_op *o)
{
    u64 m = 0;
    u32 p = opcs[o->opc].props;
    if ((p & IRP_D) && o->d < 48) m |= 1ull << o->d;
    if (o->opc == IR_XCHG && o->a < 48) m |= 1ull << o->a;
    if (o->opc == IR_CALL) m |= (1ull << 32) - 1;
    if (o->opc == IR_TSC) m |= o->imm_a ? 7 : 5;
    if (o->opc == IR_HOST) {
        const struct ir_host *h = &o->host;
        if (h->reg_kind == HO_GPR && (h->reg_rw & 2)) m |= 1ull << h->reg;
        if (h->rm_kind == HO_GPR && (h->rm_rw & 2)) m |= 1ull << h->rm;
        if (h->v_kind == HO_GPR && (h->v_rw & 2)) m |= 1ull << h->v;
        m |= 0xf;      // RAX RCX RDX RBX may be implicit operands (MUL, DIV, CMPXCHG16B, PCMPESTRI ...)
    }
    return m;
}

static void verify_op(const struct ir_block *b, unsigned i, u64 *temps)
{
    const struct ir_op *o = &b->ops[i];
    u32 p = opcs[o->opc].props;
    unsigned long long pc = b->pc;
    unsigned mems = (o->d == IR_MEM || (o->a == IR_MEM && o->a == o->d)) + (o->a == IR_MEM && o->d != IR_MEM) + (o->b == IR_MEM);
    ASSERT(mems <= 1, "op %u %s of block %#llx: two memory operands", i, opcs[o->opc].name, pc);
    ASSERT((p & IRP_D) || o->d == IR_NONE, "op %u %s of block %#llx: destination %u", i, opcs[o->opc].name, pc, o->d);
    ASSERT(!(p & IRP_D) || o->d != IR_NONE || o->opc == IR_CALL, "op %u %s of block %#llx: no destination", i, opcs[o->opc].name, pc);
    ASSERT(!(p & IRP_A) || o->a != IR_NONE || o->opc == IR_CALL, "op %u %s of block %#llx: no operand a", i, opcs[o->opc].name, pc);
    bool hi_ok = o->size == 1 || o->opc == IR_HOST || o->opc == IR_MOVZX || o->opc == IR_MOVSX;
    ASSERT(hi_ok || !o->hi, "op %u %s of block %#llx: high byte, size %u", i, opcs[o->opc].name, pc, o->size);
    ASSERT(mems == 0 || o->has_mem, "op %u %s of block %#llx: memory operand without has_mem", i, opcs[o->opc].name, pc);
    u64 t = ir_reads(o) >> 32;
    ASSERT((t & ~*temps) == 0 || o->size < 4, "op %u %s of block %#llx: temporaries %llx read before written", i, opcs[o->opc].name, pc,
           (unsigned long long)(t & ~*temps));
    *temps = o->opc == IR_INSN ? 0 : *temps | ir_writes(o) >> 32;
}

void ir_verify(const struct ir_block *b)
{
    ASSERT(b->n > 0 && (opcs[b->ops[b->n - 1].opc].props & IRP_X), "block %#llx does not end with an exit", (unsigned long long)b->pc);
    u64 temps = 0;
    bool changed = false;      // a global changed in this instruction
    for (unsigned i = 0; i < b->n; i++) {
        const struct ir_op *o = &b->ops[i];
        verify_op(b, i, &temps);
        ASSERT(!(opcs[o->opc].props & IRP_X) || i == b->n - 1, "block %#llx: op %u after its end", (unsigned long long)b->pc, i);
        if (o->opc == IR_INSN) changed = false;
        ASSERT(!changed || !ir_may_fault(o) || o->opc == IR_CALL, "block %#llx: op %u %s can fault after a global changed", (unsigned long long)b->pc, i,
               opcs[o->opc].name);
        if (o->opc != IR_HOST && o->opc != IR_CALL && (u32)ir_writes(o)) changed = true;
    }
}

static void dump_reg(const char *sep, u8 r, const struct ir_op *o)
{
    if (r == IR_MEM) trace_write("%sm", sep);
    else if (r == IR_IMM) trace_write("%s$%#llx", sep, (unsigned long long)o->imm);
    else if (r < 32) trace_write("%sg%u", sep, r);
    else if (r < 48) trace_write("%st%u", sep, r - 32);
}

void ir_dump(const struct ir_block *b)
{
    for (unsigned i = 0; i < b->n; i++) {
        const struct ir_op *o = &b->ops[i];
        if (o->opc == IR_INSN) {
            trace_write(" ---- %#llx\n", (unsigned long long)o->imm);
            continue;
        }
        trace_write(" %s%u", opcs[o->opc].name, o->size);
        if (o->opc == IR_HOST) trace_write(" map%u op%02x reg%u rm%u", o->host.map, o->host.opcode, o->host.reg, o->host.rm);
        dump_reg(" ", o->d, o);
        dump_reg(", ", o->a, o);
        dump_reg(", ", o->b, o);
        const struct ir_mem *m = &o->mem;
        if (o->has_mem)
            trace_write(" m=[%d + %d << %u + %d]/%u seg%u", (s8)m->base, (s8)m->index, m->scale, m->disp, m->addr_size, m->seg_slot);
        trace_write(" cc%u def%02x use%02x live%02x imm %#llx\n", o->cc, o->fdef, o->fuse, o->live, (unsigned long long)o->imm);
    }
}
