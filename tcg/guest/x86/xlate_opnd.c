// Operands, short forms of IR ops, and the ends of blocks: what every translation function builds from.
#include "kernel/base/bits.h"
#include "tcg/guest/x86/faultinsn.h"
#include "tcg/guest/x86/helpers.h"
#include "tcg/guest/x86/xlate.h"

u8 xlate_temp(struct xlate *x)
{
    ASSERT(x->n_temps < IR_NTEMPS, "instruction at %#llx needs more than %u temporaries", (unsigned long long)x->pc, x->n_temps);
    return (u8)(IR_T0 + x->n_temps++);
}

struct ir_op *xlate_op(struct xlate *x, enum ir_opc opc, unsigned size, u8 d, u8 a, u8 b)
{
    struct ir_op *op = ir_new(x->b, opc, size);
    op->d = d;
    op->a = a;
    op->b = b;
    return op;
}

struct ir_op *xlate_opi(struct xlate *x, enum ir_opc opc, unsigned size, u8 d, u8 a, s64 imm)
{
    struct ir_op *op = xlate_op(x, opc, size, d, a, IR_IMM);
    op->imm = imm;
    return op;
}

void xlate_movi(struct xlate *x, unsigned size, u8 d, u64 imm) { xlate_op(x, IR_MOV, size, d, IR_IMM, IR_NONE)->imm = (s64)imm; }
void xlate_copy(struct xlate *x, unsigned size, u8 d, u8 a) { xlate_op(x, IR_MOV, size, d, a, IR_NONE); }

// Into a temporary, small loads are zero-extended: nobody needs its old bits, and a merge would make the host wait for them.
void xlate_load(struct xlate *x, unsigned size, u8 d, struct ir_mem m)
{
    bool extend = size < 4 && d >= IR_T0;
    struct ir_op *op = xlate_op(x, extend ? IR_MOVZX : IR_MOV, extend ? 4 : size, d, IR_MEM, IR_NONE);
    if (extend) op->size2 = (u8)size;
    xlate_set_mem(op, m, ACCESS_READ);
}

void xlate_store(struct xlate *x, unsigned size, struct ir_mem m, u8 a)
{
    xlate_set_mem(xlate_op(x, IR_MOV, size, IR_MEM, a, IR_NONE), m, ACCESS_WRITE);
}

void xlate_add_disp(struct xlate *x, u8 d, u8 base, s32 disp, unsigned asz)
{
    struct ir_op *op = ir_new(x->b, IR_LEA, asz);
    op->d = d;
    op->mem = (struct ir_mem){.base = base, .index = IR_NONE, .addr_size = (u8)asz, .disp = disp, .mmu = x->mmu};
    op->has_mem = 1;
}

// Segment part of a memory operand. In 64-bit mode only FS and GS have a base (SDM 3A 3.2.4); elsewhere all have unless they are known to
// be flat, and the sum wraps at 4 GiB. FS and GS are never assumed flat.
static void set_segment(const struct xlate *x, struct ir_mem *m, unsigned seg)
{
    bool based = seg == SEG_FS || seg == SEG_GS || (x->bits != 64 && !(x->mode & TBM_FLATSEG));
    if (!based) return;
    m->seg_slot = (u32)(offsetof(struct x86_cpu, seg_base) + seg * sizeof(u64));
    m->seg_wrap = x->bits != 64;
}

struct ir_mem xlate_mem_at(const struct xlate *x, unsigned seg, u8 base, s32 disp, unsigned asz)
{
    struct ir_mem m = {.base = base, .index = IR_NONE, .addr_size = (u8)asz, .disp = disp, .mmu = x->mmu};
    set_segment(x, &m, seg);
    return m;
}

struct ir_mem xlate_mem(struct xlate *x, const struct x86_insn *i)
{
    struct ir_mem m = {.base = i->base == 0xff ? IR_NONE : i->base, .index = i->index == 0xff ? IR_NONE : i->index, .scale = i->scale,
                       .addr_size = i->addrsize, .mmu = x->mmu};
    s64 disp = i->rip_rel ? (s64)(x->next_pc + (u64)i->disp) : i->disp;
    if (i->addrsize == 4) disp = (s32)disp;        // the sum is truncated anyway, and so every displacement fits
    if (i->addrsize == 2) disp = (s16)disp;
    if (fits_s32(disp)) {
        m.disp = (s32)disp;
    } else {
        m.base = xlate_temp(x);                    // RIP-relative and moffs: no other base
        xlate_movi(x, 8, m.base, (u64)disp);
    }
    set_segment(x, &m, i->seg);
    return m;
}

u8 xlate_ea(struct xlate *x, const struct x86_insn *i)
{
    struct ir_mem m = xlate_mem(x, i);
    if (m.base != IR_NONE && m.index == IR_NONE && m.disp == 0) return m.base;
    u8 t = xlate_temp(x);
    m.seg_slot = 0;
    m.seg_wrap = 0;
    m.addr_size = 8;
    struct ir_op *op = ir_new(x->b, IR_LEA, 8);
    op->d = t;
    xlate_set_mem(op, m, 0);
    return t;
}

unsigned xlate_opnd_size(const struct x86_insn *i, unsigned n) { return x86_opnd_size(i, &i->desc->opnd[n], i->is_mem); }

void xlate_put(struct xlate *x, const struct x86_insn *i, unsigned n, struct ir_op *op, unsigned slot)
{
    const struct insn_opnd *o = &i->desc->opnd[n];
    u8 r = IR_NONE;
    switch (o->addr) {
    case OA_E: case OA_M: case OA_R: r = i->is_mem ? IR_MEM : i->rm; break;
    case OA_O: r = IR_MEM; break;
    case OA_G: r = i->reg; break;
    case OA_B: r = i->vex_v; break;
    case OA_REG: r = o->reg == 0xff ? i->rm : o->reg; break;
    case OA_CL: r = G_RCX; break;
    case OA_DX: r = G_RDX; break;
    case OA_I: r = IR_IMM; op->imm = op->size ? bits_sext((u64)i->imm, op->size) : i->imm; break;
    case OA_1: r = IR_IMM; op->imm = 1; break;
    default: panic("%s: operand %u is none that the IR takes", i->desc->name, n);
    }
    if (r < 16 && o->size == OS_b && xlate_is_high(i, r)) {
        r -= 4;
        op->hi |= 1 << slot;
    }
    u8 *place[3] = {&op->d, &op->a, &op->b};
    *place[slot] = r;
}

u8 xlate_get(struct xlate *x, const struct x86_insn *i, unsigned n)
{
    const struct insn_opnd *o = &i->desc->opnd[n];
    unsigned size = xlate_opnd_size(i, n);
    bool mem = o->addr == OA_O || (i->is_mem && (o->addr == OA_E || o->addr == OA_M));
    struct ir_mem m = {0};
    if (mem) m = xlate_mem(x, i);
    u8 t = xlate_temp(x);
    struct ir_op *op = xlate_op(x, size < 4 ? IR_MOVZX : IR_MOV, size < 4 ? 4 : size, t, IR_NONE, IR_NONE);
    if (size < 4) op->size2 = (u8)size;
    if (mem) xlate_set_mem(op, m, ACCESS_READ);
    xlate_put(x, i, n, op, 1);
    return t;
}

struct ir_op *xlate_helper(struct xlate *x, ir_helper fn, u8 dest, u8 a_reg, s64 a, u8 b_reg, s64 b, s64 d)
{
    struct ir_op *op = ir_new(x->b, IR_CALL, 8);
    op->d = dest;
    op->a = a_reg;
    op->b = b_reg;
    op->imm_a = a;
    op->imm_b = b;
    op->imm = d;
    op->fn = (void *)fn;
    return op;
}

u64 xlate_info(const struct x86_insn *i, unsigned opsize, unsigned extra)
{
    unsigned rep = i->rep == 0xf3 ? 1 : i->rep == 0xf2 ? 2 : 0;
    return X86_INFO(i->seg, opsize, i->addrsize, rep, i->len, extra);
}

void xlate_raise(struct xlate *x, unsigned vec, s64 error)
{
    if (vec == EXC_UD) xlate_helper(x, x86_helper_ud, IR_NONE, IR_IMM, 0, IR_IMM, 0, 0);
    else xlate_helper(x, x86_helper_raise, IR_NONE, IR_IMM, vec, IR_IMM, error, 0);
    xlate_end_leaver(x);
}

// A block in the shadow of STI / MOV SS must come back to the loop, which looks at interrupts then; chaining and the jump cache would
// not. So its exits are LEAVE and LEAVER.
void xlate_end_goto(struct xlate *x, u64 pc)
{
    ir_new(x->b, x->mode & TBM_INHIBIT ? IR_LEAVE : IR_GOTO, 8)->imm = (s64)pc;
    x->ended = true;
}

u64 xlate_set_pc(struct vcpu *c, u64 a, u64 b, u64 d)
{
    c->pc = a;
    return 0;
}

void xlate_end_gotor(struct xlate *x, u8 reg)
{
    if (x->mode & TBM_INHIBIT) {
        xlate_helper(x, xlate_set_pc, IR_NONE, reg, 0, IR_IMM, 0, 0);
        xlate_end_leaver(x);
        return;
    }
    xlate_op(x, IR_GOTOR, 8, IR_NONE, reg, IR_NONE);
    x->ended = true;
}

// More side exits would make blocks whose tail is rarely reached.
enum { MAX_SIDE_EXITS = 4, LOOP_BODY_MAX = 16, LOOP_COPIES = 4 };

// A branch back to the start of a short block: translation goes on there for a few rounds, so that the work at a block's head is done once
// for all of them and
// what a round leaves behind (flags, above all) is known to the next.
bool xlate_unroll(struct xlate *x, u64 target)
{
    unsigned n = x->b->n_insns + 1;
    if (target != x->b->pc) return false;
    if (!x->loop_body) x->loop_body = n;
    if (x->loop_body > LOOP_BODY_MAX || x->loop_copies + 1 >= LOOP_COPIES) return false;
    if (n + x->loop_body > x->max_insns || x->sti_call || x->b->page[1] != ~0ull) return false;
    x->loop_copies++;
    x->next_pc = target;
    return true;
}

void xlate_side_exit(struct xlate *x)
{
    unsigned max = x->loop_copies ? MAX_SIDE_EXITS * LOOP_COPIES : MAX_SIDE_EXITS;
    if (++x->side_exits >= max) xlate_end_goto(x, x->next_pc);
}

// For what serialises, and for what may change the page tables: by the jump cache, which is data, so what others have written since is
// seen, and whose entries compare the page's signature.
void xlate_end_fetch(struct xlate *x)
{
    if ((x->mode & TBM_INHIBIT) || x86_bad_target(x->next_pc, x->bits == 64)) {
        xlate_end_leave(x);
        return;
    }
    xlate_op(x, IR_GOTOR, 8, IR_NONE, IR_IMM, IR_NONE)->imm = (s64)x->next_pc;
    x->ended = true;
}

void xlate_end_resume(struct xlate *x, u8 reg)
{
    if (x->mode & TBM_INHIBIT) xlate_end_leaver(x);
    else xlate_op(x, IR_RESUME, 8, IR_NONE, reg, IR_NONE);
    x->ended = true;
}

void xlate_end_leave(struct xlate *x)
{
    ir_new(x->b, IR_LEAVE, 8)->imm = (s64)x->next_pc;
    x->ended = true;
}

void xlate_end_leaver(struct xlate *x)
{
    ir_new(x->b, IR_LEAVER, 8);
    x->ended = true;
}
