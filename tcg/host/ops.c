// Emission of each op. One rule throughout: the guest's instruction comes out as itself, with its registers renamed and its
// memory operand replaced by what the lookup left in R13 + R12; so flags, widths and partial writes are what the guest's
// processor would have given.
//
// Guest R12-R15 live in the vCPU. Where an instruction can take them as its memory operand they are used in place; else they pass
// through a scratch register. High bytes (AH..BH) cannot be named beside a REX prefix; then low and high byte are exchanged
// around the instruction.
#include "tcg/host/emit.h"

#include "kernel/base/log.h"

static bool in_env(u8 r) { return r < 16 && host_of(r) == H_NONE; }

static struct enc enc_sized(unsigned map, unsigned opcode, unsigned size)
{
    return (struct enc){.map = (u8)map, .opcode = (u8)opcode, .pp = size == 2 ? 0x66 : 0, .w = size == 8, .byte_reg = size == 1, .byte_rm = size == 1};
}

static void xchg_halves(struct emit *e, u8 r)
{
    as_op(&e->as, (struct enc){.opcode = 0x86, .byte_reg = true, .byte_rm = true, .no_rex = true}, (u8)(r + 4), rm_reg(r));
}

// as_op for operands of which some are high bytes (given by their low register's number 0..3).
static void put_op(struct emit *e, struct enc c, u8 reg, struct rm rm, bool hi_reg, bool hi_rm)
{
    if (!hi_reg && !hi_rm) {
        as_op(&e->as, c, reg, rm);
        return;
    }
    bool rex = c.w || (reg != H_NONE && reg >= 8) || (rm.mem ? (rm.base != H_NONE && rm.base >= 8) || (rm.index != H_NONE && rm.index >= 8) : rm.reg >= 8) ||
               (c.byte_reg && !hi_reg && reg >= 4) || (c.byte_rm && !hi_rm && !rm.mem && rm.reg >= 4);
    if (!rex) {
        c.no_rex = true;
        if (hi_rm) rm.reg += 4;
        as_op(&e->as, c, hi_reg ? (u8)(reg + 4) : reg, rm);
        return;
    }
    u8 r = hi_reg ? reg : rm.reg;
    xchg_halves(e, r);
    as_op(&e->as, c, reg, rm);
    xchg_halves(e, r);
}

// ---- operands ----------------------------------------------------------------------------------------------

// Where register r can be read in place: its host register, or its home in the vCPU.
static struct rm src_rm(struct emit *e, u8 r)
{
    if (in_env(r)) {
        for (unsigned n = 0; n < 3; n++)
            if ((e->busy & 1u << n) && e->held[n] == r) return rm_reg((u8)(H_R12 + n));
        return env_reg(r);
    }
    return rm_reg(emit_use(e, r));
}

// ---- moves ---------------------------------------------------------------------------------------------------

static void op_mov_imm(struct emit *e, const struct ir_op *o)
{
    struct as *as = &e->as;
    if (o->size >= 4) {
        u64 v = o->size == 4 ? (u32)o->imm : (u64)o->imm;
        if (in_env(o->d) && fits_s32((s64)v)) {
            as_op(as, enc_sized(0, 0xc7, 8), 0, env_reg(o->d));
            as_u32(as, (u32)v);
            return;
        }
        u8 h = emit_def(e, o->d, false);
        as_mov_ri(as, h, v);
        emit_def_done(e, o->d, h);
        return;
    }
    u8 h = emit_def(e, o->d, true);
    u8 opc = o->size == 1 ? 0xc6 : 0xc7;
    put_op(e, enc_sized(0, opc, o->size), 0, rm_reg(h), false, o->hi & 1);
    // put_op may have wrapped the instruction, but the immediate belongs inside: only high bytes of REX-free registers come here.
    as_imm(as, o->imm, o->size);
    emit_def_done(e, o->d, h);
}

static void op_mov_store(struct emit *e, const struct ir_op *o)
{
    struct as *as = &e->as;
    if (o->a == IR_IMM && (o->size < 8 || fits_s32(o->imm))) {
        struct rm m = emit_mem_begin(e, o);
        as_op(as, enc_sized(0, o->size == 1 ? 0xc6 : 0xc7, o->size), 0, m);
        as_imm(as, o->imm, o->size == 8 ? 4 : o->size);
    } else {
        struct rm m = emit_mem_begin(e, o);
        u8 h;
        if (o->a == IR_IMM) {
            h = emit_scratch(e);
            as_mov_ri(as, h, (u64)o->imm);
        } else {
            h = emit_use(e, o->a);
        }
        put_op(e, enc_sized(0, o->size == 1 ? 0x88 : 0x89, o->size), h, m, o->hi & 2, false);
    }
    emit_mem_end(e, o);
}

static void op_mov(struct emit *e, const struct ir_op *o)
{
    struct as *as = &e->as;
    if (o->d == IR_MEM) {
        op_mov_store(e, o);
    } else if (o->a == IR_MEM) {
        struct rm m = emit_mem_begin(e, o);
        u8 h = emit_def(e, o->d, o->size < 4);
        put_op(e, enc_sized(0, o->size == 1 ? 0x8a : 0x8b, o->size), h, m, o->hi & 1, false);
        emit_def_done(e, o->d, h);
        emit_mem_end(e, o);
    } else if (o->a == IR_IMM) {
        op_mov_imm(e, o);
    } else if (in_env(o->d) && o->size != 4 && !(o->hi & 1)) {
        u8 h = emit_use(e, o->a);
        put_op(e, enc_sized(0, o->size == 1 ? 0x88 : 0x89, o->size), h, env_reg(o->d), o->hi & 2, false);
    } else {
        struct rm s = o->hi & 2 ? rm_reg(emit_use(e, o->a)) : src_rm(e, o->a);
        if (o->size == 8 && o->d == o->a) return;
        u8 h = emit_def(e, o->d, o->size < 4);
        put_op(e, enc_sized(0, o->size == 1 ? 0x8a : 0x8b, o->size), h, s, o->hi & 1, o->hi & 2);
        emit_def_done(e, o->d, h);
    }
    (void)as;
}

static void op_movx(struct emit *e, const struct ir_op *o)
{
    bool sx = o->opc == IR_MOVSX, mem = o->a == IR_MEM;
    struct rm s = mem ? emit_mem_begin(e, o) : (o->hi & 2) ? rm_reg(emit_use(e, o->a)) : src_rm(e, o->a);
    u8 h = emit_def(e, o->d, o->size < 4);
    if (o->size2 == 4) {
        if (sx) as_op(&e->as, enc_sized(0, 0x63, o->size), h, s);
        else as_op(&e->as, enc_sized(0, 0x8b, 4), h, s);
    } else {
        struct enc c = enc_sized(1, (sx ? 0xbe : 0xb6) + (o->size2 == 2), o->size);
        c.byte_reg = false;
        c.byte_rm = o->size2 == 1;
        put_op(e, c, h, s, false, o->hi & 2);
    }
    emit_def_done(e, o->d, h);
    if (mem) emit_mem_end(e, o);
}

static void op_lea(struct emit *e, const struct ir_op *o)
{
    const struct ir_mem *m = &o->mem;
    bool direct = !in_env(o->d) && o->size >= 4 && m->addr_size >= 4;
    if (direct && o->d < 16) {
        struct ir_mem narrow = *m;
        if (o->size == 4) narrow.addr_size = 4;      // the low half depends on low halves only
        emit_ea(e, &narrow, host_of(o->d));
        return;
    }
    u8 s = emit_scratch(e);
    struct ir_mem narrow = *m;
    if (o->size == 4 && m->addr_size == 8) narrow.addr_size = 4;
    emit_ea(e, &narrow, s);
    e->busy = (u8)(1u << (s - H_R12));           // base and index have done their part
    for (unsigned n = 0; n < 3; n++) e->held[n] = IR_NONE;
    if (in_env(o->d) && o->size >= 4) {
        as_store(&e->as, env_reg(o->d), s);
        return;
    }
    u8 h = emit_def(e, o->d, o->size < 4);
    as_op(&e->as, enc_sized(0, 0x8b, o->size >= 4 ? 8 : 2), h, rm_reg(s));
    emit_def_done(e, o->d, h);
}

// ---- arithmetic ------------------------------------------------------------------------------------------------

static unsigned alu_number(u8 opc)
{
    switch (opc) {
    case IR_ADD: return 0;
    case IR_OR: return 1;
    case IR_ADC: return 2;
    case IR_SBB: return 3;
    case IR_AND: return 4;
    case IR_SUB: return 5;
    case IR_XOR: return 6;
    default: return 7;
    }
}

// Operand a in a fresh copy for three-operand forms: d = a op b with d != a.
static u8 three_operand(struct emit *e, const struct ir_op *o)
{
    u8 h = emit_scratch(e);
    as_op(&e->as, enc_sized(0, 0x8b, 8), h, src_rm(e, o->a));
    return h;
}

static void alu_imm(struct emit *e, const struct ir_op *o, struct rm rm, bool hi)
{
    bool test = o->opc == IR_TEST;
    s64 imm = o->size == 8 ? o->imm : bits_sext((u64)o->imm, o->size);
    ASSERT(fits_s32(imm), "immediate %llx of %s", (unsigned long long)imm, ir_opc_name(o->opc));
    bool short_imm = !test && fits_s8(imm) && o->size > 1;
    struct enc c = enc_sized(0, test ? (o->size == 1 ? 0xf6 : 0xf7) : o->size == 1 ? 0x80 : short_imm ? 0x83 : 0x81, o->size);
    c.lock = o->lock;
    if (hi) {
        rm.reg += 4;
        c.no_rex = true;
    }
    as_op(&e->as, c, test ? 0 : (u8)alu_number(o->opc), rm);
    as_imm(&e->as, imm, short_imm ? 1 : o->size == 8 ? 4 : o->size);
}

static struct enc alu_enc(const struct ir_op *o, bool to_reg)
{
    unsigned opcode = o->opc == IR_TEST ? 0x84 : alu_number(o->opc) << 3 | (to_reg ? 2 : 0);
    struct enc c = enc_sized(0, opcode | (o->size > 1), o->size);
    c.lock = o->lock;
    return c;
}

static void op_alu_mem(struct emit *e, const struct ir_op *o)
{
    struct rm m = emit_mem_begin(e, o);
    if (o->a == IR_MEM && o->b == IR_IMM && (o->d == IR_MEM || o->d == IR_NONE)) {
        alu_imm(e, o, m, false);
    } else if (o->a == IR_MEM && (o->d == IR_MEM || o->d == IR_NONE)) {
        put_op(e, alu_enc(o, false), emit_use(e, o->b), m, o->hi & 4, false);
    } else {
        u8 r = o->d == IR_NONE ? o->a : o->d;
        ASSERT(o->b == IR_MEM && (o->d == o->a || o->d == IR_NONE), "memory form of %s", ir_opc_name(o->opc));
        u8 h = emit_use(e, r);
        put_op(e, alu_enc(o, true), h, m, o->hi & 3, false);
        if (o->d != IR_NONE) emit_def_done(e, o->d, h);
    }
    emit_mem_end(e, o);
}

static void op_alu(struct emit *e, const struct ir_op *o)
{
    if (o->has_mem) {
        op_alu_mem(e, o);
        return;
    }
    emit_flags_ready(e, o);
    bool writes = o->d != IR_NONE;
    if (writes && o->d != o->a) {
        u8 h = three_operand(e, o);
        if (o->b == IR_IMM) alu_imm(e, o, rm_reg(h), false);
        else put_op(e, alu_enc(o, true), h, src_rm(e, o->b), false, o->hi & 4);
        u8 d = emit_def(e, o->d, o->size < 4);
        as_op(&e->as, enc_sized(0, o->size == 1 ? 0x8a : 0x8b, o->size), d, rm_reg(h));
        emit_def_done(e, o->d, d);
        return;
    }
    bool in_place = in_env(o->a) && (!writes || o->size != 4) && !(o->hi & 2);
    struct rm a = in_place ? env_reg(o->a) : rm_reg(emit_use(e, o->a));
    if (o->b == IR_IMM) {
        alu_imm(e, o, a, o->hi & 2);
    } else if (!a.mem && in_env(o->b) && o->opc != IR_TEST) {
        put_op(e, alu_enc(o, true), a.reg, src_rm(e, o->b), o->hi & 2, false);
    } else {
        u8 b = emit_use(e, o->b);
        put_op(e, alu_enc(o, false), b, a, o->hi & 4, o->hi & 2);
    }
    if (writes && !in_place) emit_def_done(e, o->d, a.reg);
}

// INC DEC NEG NOT: groups 3, 4, 5.
static void op_unary(struct emit *e, const struct ir_op *o)
{
    static const struct { u8 opcode, ext; } form[] = {
        [IR_INC] = {0xfe, 0}, [IR_DEC] = {0xfe, 1}, [IR_NEG] = {0xf6, 3}, [IR_NOT] = {0xf6, 2}};
    struct enc c = enc_sized(0, form[o->opc].opcode | (o->size > 1), o->size);
    c.lock = o->lock;
    if (o->has_mem) {
        as_op(&e->as, c, form[o->opc].ext, emit_mem_begin(e, o));
        emit_mem_end(e, o);
        return;
    }
    emit_flags_ready(e, o);
    c.byte_reg = false;
    u8 h;
    if (o->d != o->a) {
        h = emit_def(e, o->d, o->size < 4);
        as_op(&e->as, enc_sized(0, o->size == 1 ? 0x8a : 0x8b, o->size), h, src_rm(e, o->a));
    } else {
        h = emit_use(e, o->d);
    }
    put_op(e, c, form[o->opc].ext, rm_reg(h), false, o->hi & 1);
    emit_def_done(e, o->d, h);
}

static void op_shift(struct emit *e, const struct ir_op *o)
{
    static const u8 ext[] = {[IR_ROL] = 0, [IR_ROR] = 1, [IR_RCL] = 2, [IR_RCR] = 3, [IR_SHL] = 4, [IR_SHR] = 5, [IR_SAR] = 7};
    bool imm = o->b == IR_IMM;
    ASSERT(imm || o->b == H_RCX, "shift count in register %u", o->b);
    struct enc c = enc_sized(0, (imm ? 0xc0 : 0xd2) | (o->size > 1), o->size);
    c.byte_reg = false;
    if (o->has_mem) {
        as_op(&e->as, c, ext[o->opc], emit_mem_begin(e, o));
        if (imm) as_u8(&e->as, (u8)o->imm);
        emit_mem_end(e, o);
        return;
    }
    emit_flags_ready(e, o);
    u8 h;
    if (o->d != o->a) {
        h = three_operand(e, o);
    } else {
        h = emit_use(e, o->d);
    }
    bool hi = o->hi & 1;
    if (hi) c.no_rex = true;
    as_op(&e->as, c, ext[o->opc], rm_reg((u8)(h + (hi ? 4 : 0))));
    if (imm) as_u8(&e->as, (u8)o->imm);
    if (o->d != o->a) {
        u8 d = emit_def(e, o->d, o->size < 4);
        as_op(&e->as, enc_sized(0, o->size == 1 ? 0x8a : 0x8b, o->size), d, rm_reg(h));
        h = d;
    }
    emit_def_done(e, o->d, h);
}

static void op_imul(struct emit *e, const struct ir_op *o)
{
    struct as *as = &e->as;
    bool mem = o->has_mem;
    struct rm m = {0};
    if (mem) m = emit_mem_begin(e, o);
    if (o->b == IR_IMM) {
        s64 imm = o->size == 8 ? o->imm : bits_sext((u64)o->imm, o->size);
        if (!mem) m = src_rm(e, o->a);
        u8 h = emit_def(e, o->d, o->size < 4);
        as_op(as, enc_sized(0, 0x69, o->size), h, m);
        as_imm(as, imm, o->size == 2 ? 2 : 4);
        emit_def_done(e, o->d, h);
    } else {
        ASSERT(o->d == o->a || o->d == o->b || !mem, "memory form of %s", "IMUL");
        if (!mem) m = src_rm(e, o->b);
        if (o->d == o->a) {
            u8 h = emit_use(e, o->d);
            as_op(as, enc_sized(1, 0xaf, o->size), h, m);
            emit_def_done(e, o->d, h);
        } else {
            u8 h = three_operand(e, o);
            as_op(as, enc_sized(1, 0xaf, o->size), h, m);
            u8 d = emit_def(e, o->d, o->size < 4);
            as_op(as, enc_sized(0, 0x8b, o->size), d, rm_reg(h));
            emit_def_done(e, o->d, d);
        }
    }
    if (mem) emit_mem_end(e, o);
}

// ---- conditions ------------------------------------------------------------------------------------------------

static void op_cmov(struct emit *e, const struct ir_op *o)
{
    bool mem = o->a == IR_MEM;
    struct rm s;
    u8 cc = o->cc;
    if (mem) {
        s = emit_mem_begin(e, o);
    } else {
        cc = emit_flags_cond(e, o->cc);
        s = src_rm(e, o->a);
    }
    u8 h = emit_use(e, o->d);
    as_op(&e->as, enc_sized(1, 0x40 | cc, o->size), h, s);
    emit_def_done(e, o->d, h);
    if (mem) emit_mem_end(e, o);
}

static void op_setcc(struct emit *e, const struct ir_op *o)
{
    struct enc c = {.map = 1, .opcode = (u8)(0x90 | o->cc), .byte_rm = true};
    if (o->d == IR_MEM) {
        as_op(&e->as, c, 0, emit_mem_begin(e, o));
        emit_mem_end(e, o);
        return;
    }
    c.opcode = (u8)(0x90 | emit_flags_cond(e, o->cc));
    if (in_env(o->d)) {
        as_op(&e->as, c, 0, env_reg(o->d));
        return;
    }
    u8 h = emit_def(e, o->d, true);
    put_op(e, c, 0, rm_reg(h), false, o->hi & 1);
    emit_def_done(e, o->d, h);
}

static void op_xchg(struct emit *e, const struct ir_op *o)
{
    struct enc c = enc_sized(0, 0x86 | (o->size > 1), o->size);
    if (o->has_mem) {
        u8 r = o->d == IR_MEM ? o->a : o->d;
        struct rm m = emit_mem_begin(e, o);
        u8 h = emit_use(e, r);
        put_op(e, c, h, m, o->hi & (o->d == IR_MEM ? 2 : 1), false);
        emit_def_done(e, r, h);
        emit_mem_end(e, o);
        return;
    }
    u8 d = emit_use(e, o->d), a = emit_use(e, o->a);
    put_op(e, c, a, rm_reg(d), o->hi & 2, o->hi & 1);
    emit_def_done(e, o->d, d);
    emit_def_done(e, o->a, a);
}

// ---- host instructions passed through ------------------------------------------------------------------------------

// Host register for a general-register operand with access rw.
static u8 host_gpr(struct emit *e, const struct ir_host *h, u8 r, u8 rw) { return emit_def(e, r, (rw & 1) || h->gpr_size < 4); }

static void put_host(struct emit *e, const struct ir_op *o, u8 reg, u8 v, struct rm rm)
{
    const struct ir_host *h = &o->host;
    struct as *as = &e->as;
    if (h->enc == HOST_VEX) {
        as_vex(as, h->pp, h->map, h->opcode, h->w, h->l, reg, v, rm);
        if (!h->has_modrm) as->p--;              // VZEROUPPER, VZEROALL
    } else if (h->opc_reg) {
        if (h->pp) as_u8(as, h->pp);
        u8 rex = (u8)(h->w << 3 | (rm.reg >= 8));
        if (rex) as_u8(as, 0x40 | rex);
        if (h->map) as_u8(as, 0x0f);
        as_u8(as, (u8)((h->opcode & ~7) | (rm.reg & 7)));
        as->insns++;
    } else if (!h->has_modrm) {
        if (h->pp) as_u8(as, h->pp);
        if (h->w) as_u8(as, 0x48);
        if (h->map) as_u8(as, 0x0f);
        as_u8(as, h->opcode);
        as->insns++;
    } else {
        bool byte_op = h->gpr_size == 1;
        struct enc c = {.pp = h->pp, .map = h->map, .opcode = h->opcode, .w = h->w, .lock = o->lock,
                        .byte_reg = byte_op && h->reg_kind == HO_GPR, .byte_rm = byte_op && h->rm_kind == HO_GPR};
        put_op(e, c, reg, rm, o->hi & 1, o->hi & 2);
    }
    as_imm(as, o->imm, h->imm_len);
}

static void op_host(struct emit *e, const struct ir_op *o)
{
    const struct ir_host *h = &o->host;
    struct rm rm = rm_reg(h->rm);
    if (o->has_mem) {
        rm = emit_mem_begin(e, o);
    } else {
        emit_flags_ready(e, o);
        if (h->may_fault) emit_mark(e, (u16)e->insn, emit_flags_recipe(e));
    }
    u8 reg = h->reg, v = h->v_kind == HO_NONE ? 0 : h->v;
    if (h->reg_kind == HO_GPR && h->v_kind == HO_GPR && o->has_mem && (h->reg_rw & h->v_rw & 2) && in_env(h->reg) && in_env(h->v)) {
        // Two results and an address (MULX): fold the address to free a scratch register.
        as_lea(&e->as, 8, H_R12, rm);
        rm = rm_mem(H_R12, H_NONE, 0, 0);
        e->busy &= (u8)~2;
    }
    if (h->v_kind == HO_GPR && (h->v_rw & 1)) v = emit_use(e, h->v);
    if (h->rm_kind == HO_GPR) rm.reg = host_gpr(e, h, h->rm, h->rm_rw);
    if (h->reg_kind == HO_GPR) reg = host_gpr(e, h, h->reg, h->reg_rw);
    if (h->v_kind == HO_GPR && !(h->v_rw & 1)) v = emit_def(e, h->v, false);
    put_host(e, o, reg, v, rm);
    if (h->v_kind == HO_GPR && (h->v_rw & 2)) emit_def_done(e, h->v, v);
    if (h->rm_kind == HO_GPR && (h->rm_rw & 2)) emit_def_done(e, h->rm, rm.reg);
    if (h->reg_kind == HO_GPR && (h->reg_rw & 2)) emit_def_done(e, h->reg, reg);
    if (o->has_mem) emit_mem_end(e, o);
}

// ---- calls -------------------------------------------------------------------------------------------------------

static void call_arg(struct emit *e, unsigned n, u8 r, s64 imm)
{
    struct as *as = &e->as;
    struct rm slot = rm_gs(ENV(args) + 8 * (s32)n);
    if (r == IR_NONE || (r == IR_IMM && fits_s32(imm))) {
        as_op(as, enc_sized(0, 0xc7, 8), 0, slot);
        as_u32(as, r == IR_NONE ? 0 : (u32)imm);
        return;
    }
    u8 h;
    if (r == IR_IMM) as_mov_ri(as, h = H_R12, (u64)imm);
    else h = emit_use(e, r);
    as_store(as, slot, h);
    e->busy &= (u8)~3;
}

static void op_call(struct emit *e, const struct ir_op *o)
{
    emit_flags_save(e);
    u8 *done = o->fast ? emit_string(e, o) : NULL;
    call_arg(e, 0, o->a, o->imm_a);
    call_arg(e, 1, o->b, o->imm_b);
    call_arg(e, 2, IR_IMM, o->imm);
    as_mov_ri(&e->as, H_R12, (u64)o->fn);
    emit_mark(e, (u16)e->insn, 0);
    as_call(&e->as, e->t->stubs.call - (e->t->rx - e->t->rw));
    if (o->d != IR_NONE) {
        e->busy |= 2;
        u8 h = emit_def(e, o->d, false);
        as_mov_rr(&e->as, h, H_R13);
        emit_def_done(e, o->d, h);
    }
    if (done) as_patch(done, e->as.p);
}

// No flag is touched, and nothing is needed besides the registers that it is for.
static void op_tsc(struct emit *e, const struct ir_op *o)
{
    struct as *as = &e->as;
    if (o->imm_a) {
        as_u8(as, 0x0f);                                                    // lfence
        as_u8(as, 0xae);
        as_u8(as, 0xe8);
        as_op(as, (struct enc){.opcode = 0x8b}, H_RCX, rm_gs((s32)o->imm_a));
    }
    as_u8(as, 0x0f);                                                        // rdtsc
    as_u8(as, 0x31);
    as->insns += o->imm_a ? 2 : 1;
    as_rorx(as, H_RDX, H_RDX, 32);
    as_lea(as, 8, H_RAX, rm_mem(H_RAX, H_RDX, 0, 0));
    as_load(as, H_RDX, rm_gs((s32)o->imm));
    as_lea(as, 8, H_RAX, rm_mem(H_RAX, H_RDX, 0, 0));
    as_rorx(as, H_RDX, H_RAX, 32);
    as_op(as, (struct enc){.opcode = 0x8b}, H_RDX, rm_reg(H_RDX));            // mov edx, edx
    as_op(as, (struct enc){.opcode = 0x8b}, H_RAX, rm_reg(H_RAX));
}

void emit_op(struct emit *e, const struct ir_op *o)
{
    switch (o->opc) {
    case IR_MOV: op_mov(e, o); break;
    case IR_MOVZX: case IR_MOVSX: op_movx(e, o); break;
    case IR_LEA: op_lea(e, o); break;
    case IR_ADD: case IR_OR: case IR_ADC: case IR_SBB: case IR_AND: case IR_SUB: case IR_XOR: case IR_CMP: case IR_TEST: op_alu(e, o); break;
    case IR_INC: case IR_DEC: case IR_NEG: case IR_NOT: op_unary(e, o); break;
    case IR_ROL: case IR_ROR: case IR_RCL: case IR_RCR: case IR_SHL: case IR_SHR: case IR_SAR: op_shift(e, o); break;
    case IR_IMUL: op_imul(e, o); break;
    case IR_CMOV: op_cmov(e, o); break;
    case IR_SETCC: op_setcc(e, o); break;
    case IR_XCHG: op_xchg(e, o); break;
    case IR_HOST: op_host(e, o); break;
    case IR_CALL: op_call(e, o); break;
    case IR_TSC: op_tsc(e, o); break;
    default: panic("op %s has no emission", ir_opc_name(o->opc));
    }
}
