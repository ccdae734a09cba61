// Passing through: a decoded instruction becomes one IR_HOST op, the same instruction of the host with its general registers and its memory
// operand replaced. Where the operands sit in the encoding follows from their letters (SDM 2 A.2.1): E M W Q in ModRM.rm, G V P in
// ModRM.reg, H B in VEX.vvvv, U N R in a register-only rm, L in an immediate; what ModRM.reg holds besides is opcode extension.
//
// Implicit operands need nothing: RAX RCX RDX RBX RSI RDI RBP R8..R11 and all vector and x87 registers are in their namesakes while
// translated code runs, and no instruction that comes here uses RSP or R12..R15 implicitly.
//
// Two kinds do not fit into one op:
// - AH CH DH BH beside a memory operand or a wider register: the host's encoding may need a REX prefix there, which unnames them. They go
//   through a temporary.
// - LZCNT, TZCNT, POPCNT, CRC32 with 16-bit operands have two prefixes (66 and F2/F3), and struct ir_host one: done on 32 bits, below.
//
// Operand size and address size prefixes of the guest never pass: the op says the sizes, so 16- and 32-bit code works in the same way.
#include "tcg/guest/x86/xlate.h"

// ---- where the operands go ------------------------------------------------------------------------------------------

static void set_reg(struct ir_host *h, u8 kind, u8 n, u8 rw) { h->reg_kind = kind, h->reg = n, h->reg_rw = rw; }
static void set_rm(struct ir_host *h, u8 kind, u8 n, u8 rw) { h->rm_kind = kind, h->rm = n, h->rm_rw = rw; }
static void set_v(struct ir_host *h, u8 kind, u8 n, u8 rw) { h->v_kind = kind, h->v = n, h->v_rw = rw; }

static void place_opnd(struct ir_host *h, const struct x86_insn *i, const struct insn_opnd *o)
{
    switch (o->addr) {
    case OA_E: case OA_R: if (!i->is_mem) set_rm(h, HO_GPR, i->rm, o->rw); break;
    case OA_W: case OA_Q: case OA_U: case OA_N: if (!i->is_mem) set_rm(h, HO_VEC, i->rm, o->rw); break;
    case OA_G: set_reg(h, HO_GPR, i->reg, o->rw); break;
    case OA_V: case OA_P: set_reg(h, HO_VEC, i->reg, o->rw); break;
    case OA_B: set_v(h, HO_GPR, i->vex_v, o->rw); break;
    case OA_H: set_v(h, HO_VEC, i->vex_v, o->rw); break;
    case OA_L: h->is4_imm = 1; break;
    case OA_REG:
        if (o->reg != 0xff) break;
        set_rm(h, HO_GPR, i->rm, o->rw);
        h->opc_reg = 1;
        break;
    default: break;
    }
}

// Size of the general registers: the operand that is one; 0 when there is none. E counts in its memory form too (XADD m8, r8).
static u8 gpr_size(const struct x86_insn *i)
{
    unsigned size = 0;
    for (unsigned k = 0; k < 4; k++) {
        const struct insn_opnd *o = &i->desc->opnd[k];
        bool gpr = o->addr == OA_G || o->addr == OA_R || o->addr == OA_B || o->addr == OA_E || (o->addr == OA_REG && o->reg == 0xff);
        unsigned n = gpr ? x86_opnd_size(i, o, false) : 0;
        if (n && (!size || n < size)) size = n;   // CRC32 Gy, Eb: the byte decides what needs REX
    }
    return (u8)size;
}

// The 16-bit operand size is a prefix only where an operand is of size v; elsewhere 66 is part of the opcode or means nothing.
static bool has_v_size(const struct insn_desc *d)
{
    for (unsigned k = 0; k < 4; k++)
        if (d->opnd[k].size == OS_v) return true;
    return false;
}

// CBW and CWD families have no operand in the table, but an operand size.
static bool sized_by_opcode(const struct x86_insn *i) { return i->map == 0 && !i->vex && (i->opcode == 0x98 || i->opcode == 0x99); }

static u8 host_pp(const struct x86_insn *i)
{
    bool v = !i->vex && (has_v_size(i->desc) || sized_by_opcode(i));
    if (v && i->pp != 0xf2 && i->pp != 0xf3) return i->opsize == 2 ? 0x66 : 0;
    return i->pp;
}

// W: outside 64-bit mode VEX.W does not widen general registers, implicit ones included (VPCMPESTRI and VPCMPESTRM: lengths in EAX, EDX),
// but is part of the opcode elsewhere (VPERMQ, FMA).
static u8 host_w(const struct x86_insn *i, u8 gsize)
{
    bool estr = i->map == 3 && (i->opcode == 0x60 || i->opcode == 0x61);
    return i->bits != 64 && (gsize || estr) ? 0 : i->rex_w;
}

static void fill_host(struct ir_host *h, const struct x86_insn *i)
{
    *h = (struct ir_host){.enc = i->vex ? HOST_VEX : HOST_LEGACY, .map = i->map, .opcode = i->opcode, .has_modrm = i->has_modrm};
    h->gpr_size = gpr_size(i);
    h->pp = host_pp(i);
    h->w = host_w(i, h->gpr_size);
    h->l = i->vex_l;
    h->imm_len = i->imm_len;
    h->may_fault = (i->desc->attr & IA_FAULT) != 0;
    for (unsigned k = 0; k < 4; k++) place_opnd(h, i, &i->desc->opnd[k]);
    if (!i->has_modrm) return;
    if (h->reg_kind == HO_NONE) set_reg(h, HO_EXT, i->modrm >> 3 & 7, 0);
    if (i->is_mem) h->rm_kind = HO_MEM;
    else if (h->rm_kind == HO_NONE) set_rm(h, HO_EXT, i->modrm & 7, 0);
}

// ---- flags ----------------------------------------------------------------------------------------------------------

// SHLD A4 A5, SHRD AC AD
static bool is_shift_double(const struct x86_insn *i) { return i->map == 1 && !i->vex && (i->opcode & 0xf6) == 0xa4; }

// The table says "reads all" of SHLD and SHRD, because a count of 0 leaves the flags; a constant count is known.
static void host_flags(struct ir_op *op, const struct x86_insn *i)
{
    op->fdef = i->desc->flags_written;
    op->fuse = i->desc->flags_read;
    if (!is_shift_double(i) || !i->imm_len) return;
    bool none = !(i->imm & (i->opsize == 8 ? 63 : 31));
    op->fuse = 0;
    if (none) op->fdef = 0;
}

// ---- byte registers AH CH DH BH -------------------------------------------------------------------------------------

static bool is_high_opnd(const struct x86_insn *i, u8 addr, unsigned n)
{
    for (unsigned k = 0; k < 4; k++) {
        const struct insn_opnd *o = &i->desc->opnd[k];
        if (o->addr == addr && o->size == OS_b) return xlate_is_high(i, n);
    }
    return false;
}

// A temporary with the high byte of global n.
static u8 high_get(struct xlate *x, unsigned n)
{
    u8 t = xlate_temp(x);
    struct ir_op *op = xlate_op(x, IR_MOVZX, 4, t, n, IR_NONE);
    op->size2 = 1;
    op->hi = 2;
    return t;
}

static void high_put(struct xlate *x, unsigned n, u8 t) { xlate_op(x, IR_MOV, 1, n, t, IR_NONE)->hi = 1; }

// All operands are byte registers of the first four globals: the encoding works as it is.
static bool high_fits(const struct x86_insn *i)
{
    bool wide = false;
    for (unsigned k = 0; k < 4; k++) wide |= i->desc->opnd[k].addr == OA_G && i->desc->opnd[k].size != OS_b;
    return !i->is_mem && !wide;
}

// ---- 16-bit operands under a mandatory F2 or F3 ---------------------------------------------------------------------

// One of the above as a 32-bit instruction d = op(a) on registers (CRC32: d = crc of d and byte a).
static struct ir_op *emit_f2f3(struct xlate *x, const struct x86_insn *i, u8 opcode, u8 d, u8 a, u8 size)
{
    struct ir_op *op = ir_new(x->b, IR_HOST, 0);
    struct ir_host *h = &op->host;
    *h = (struct ir_host){.map = i->map, .opcode = opcode, .pp = i->pp, .has_modrm = 1, .gpr_size = size};
    set_reg(h, HO_GPR, d, i->desc->opnd[0].rw);
    set_rm(h, HO_GPR, a, 1);
    op->fdef = i->desc->flags_written;
    return op;
}

static void emit_rorx(struct xlate *x, u8 t, u8 count)
{
    struct ir_op *op = ir_new(x->b, IR_HOST, 0);
    op->host = (struct ir_host){.enc = HOST_VEX, .map = 3, .opcode = 0xf0, .pp = 0xf2, .has_modrm = 1, .gpr_size = 4, .imm_len = 1};
    set_reg(&op->host, HO_GPR, t, 2);
    set_rm(&op->host, HO_GPR, t, 1);
    op->imm = count;
}

// The source (which may fault) comes first, then the result, last the flags: by an instruction whose result nobody takes.
// LZCNT: 32-bit count - 16; flags of the count of source << 16. TZCNT: count of source | 1 << 16; flags of the count of the source.
static bool host_16(struct xlate *x, const struct x86_insn *i)
{
    u8 src = xlate_get(x, i, 1), t = xlate_temp(x);
    if (i->map == 2) {
        emit_f2f3(x, i, 0xf0, i->reg, src, 1);
        emit_rorx(x, src, 8);
        emit_f2f3(x, i, 0xf0, i->reg, src, 1);
        return true;
    }
    if (i->opcode == 0xbc) {
        xlate_opi(x, IR_OR, 4, t, src, 0x10000)->fdef = FL_ALL;
        emit_f2f3(x, i, i->opcode, t, t, 4);
    } else {
        emit_f2f3(x, i, i->opcode, t, src, 4);
        if (i->opcode == 0xbd) xlate_opi(x, IR_SUB, 4, t, t, 16)->fdef = FL_ALL;
    }
    xlate_op(x, IR_MOV, 2, i->reg, t, IR_NONE);
    if (i->opcode == 0xbd) xlate_opi(x, IR_SHL, 4, src, src, 16)->fdef = FL_ALL;
    if (i->opcode != 0xb8) emit_f2f3(x, i, i->opcode, t, src, 4);
    return true;
}

static bool needs_two_prefixes(const struct x86_insn *i)
{
    return !i->vex && (i->pp == 0xf2 || i->pp == 0xf3) && i->opsize == 2 && has_v_size(i->desc);
}

// ---- the translation function ---------------------------------------------------------------------------------------

// SDM-DIFF: VPINSRQ and VPEXTRQ do not exist outside 64-bit mode: their VEX.W is ignored there by Intel's processors, #UD on AMD's.
static bool is_lost_quad(const struct xlate *x, const struct x86_insn *i)
{
    return i->bits != 64 && i->vex && i->rex_w && i->map == 3 && (i->opcode == 0x16 || i->opcode == 0x22) && x86(x->c)->id.amd;
}

bool xlate_host(struct xlate *x, const struct x86_insn *i)
{
    if (is_lost_quad(x, i)) return false;
    if (needs_two_prefixes(i)) return host_16(x, i);
    struct ir_host h;
    fill_host(&h, i);
    bool reg_high = h.reg_kind == HO_GPR && is_high_opnd(i, OA_G, i->reg);
    bool rm_high = h.rm_kind == HO_GPR && is_high_opnd(i, OA_E, i->rm);
    bool fits = high_fits(i);
    u8 reg_n = i->reg - 4, hi = 0;
    if (reg_high) h.reg = fits ? reg_n : high_get(x, reg_n);
    if (rm_high) h.rm = fits ? i->rm - 4 : high_get(x, i->rm - 4);   // not fitting: CRC32, which only reads it
    if (fits) hi = (reg_high ? 1 : 0) | (rm_high ? 2 : 0);

    unsigned rw = 0, size = x86_mem_size(i, &rw);
    struct ir_mem m = {0};
    if (i->is_mem) m = xlate_mem(x, i);
    struct ir_op *op = ir_new(x->b, IR_HOST, size);
    op->host = h;
    op->hi = hi;
    op->imm = h.is4_imm && i->bits != 64 ? i->imm & 0x7f : i->imm;   // eight registers there: bit 7 does not count
    op->lock = i->lock;
    host_flags(op, i);
    if (i->is_mem) xlate_set_mem(op, m, rw);
    if (reg_high && !fits && (h.reg_rw & 2)) high_put(x, reg_n, h.reg);
    return true;
}
