// Integer instructions: moves, arithmetic, shifts, bits. Nearly all are one IR op, because the IR has x86's operand forms: the op reads
// memory, computes, writes memory and sets flags at once, which is also what makes it precise.
#include "kernel/base/bits.h"
#include "tcg/guest/x86/helpers.h"
#include "tcg/guest/x86/xlate.h"

static bool opnd_is_mem(const struct x86_insn *i, unsigned n)
{
    unsigned a = i->desc->opnd[n].addr;
    return a == OA_O || (i->is_mem && (a == OA_E || a == OA_M));
}

// Appends op with operands n0 (d and a, or only one of them: `slots` bit 0 d, bit 1 a) and n1 (b; 0: none). The size is that of operand 0.
enum { SLOT_D = 1, SLOT_A = 2 };
static struct ir_op *op_dab(struct xlate *x, const struct x86_insn *i, enum ir_opc opc, unsigned slots, unsigned n1)
{
    bool mem0 = opnd_is_mem(i, 0), mem = mem0 || (n1 && opnd_is_mem(i, n1));
    struct ir_mem m = {0};
    if (mem) m = xlate_mem(x, i);
    struct ir_op *op = ir_new(x->b, opc, xlate_opnd_size(i, 0));
    if (mem) xlate_set_mem(op, m, mem0 && slots == (SLOT_D | SLOT_A) ? 3 : mem0 && slots == SLOT_D ? ACCESS_WRITE : ACCESS_READ);
    if (slots & SLOT_D) xlate_put(x, i, 0, op, 0);
    if (slots & SLOT_A) xlate_put(x, i, 0, op, 1);
    if (n1) xlate_put(x, i, n1, op, 2);
    op->lock = i->lock;
    return op;
}

// Appends d = operand 0, a = operand 1.
static struct ir_op *op_da(struct xlate *x, const struct x86_insn *i, enum ir_opc opc)
{
    bool mem0 = opnd_is_mem(i, 0), mem1 = opnd_is_mem(i, 1);
    struct ir_mem m = {0};
    if (mem0 || mem1) m = xlate_mem(x, i);
    struct ir_op *op = ir_new(x->b, opc, xlate_opnd_size(i, 0));
    if (mem0 || mem1) xlate_set_mem(op, m, mem0 ? ACCESS_WRITE : ACCESS_READ);
    xlate_put(x, i, 0, op, 0);
    xlate_put(x, i, 1, op, 1);
    return op;
}

// ADD OR ADC SBB AND SUB XOR CMP: bits 5:3 of the opcode, or of ModRM in group 1.
bool xlate_alu(struct xlate *x, const struct x86_insn *i)
{
    static const u8 opcs[8] = {IR_ADD, IR_OR, IR_ADC, IR_SBB, IR_AND, IR_SUB, IR_XOR, IR_CMP};
    unsigned n = i->opcode >= 0x80 ? i->reg & 7 : i->opcode >> 3 & 7;
    struct ir_op *op = op_dab(x, i, opcs[n], n == 7 ? SLOT_A : SLOT_D | SLOT_A, 1);
    op->fdef = FL_ALL;
    op->fuse = n == 2 || n == 3 ? FL_C : 0;
    return true;
}

bool xlate_test(struct xlate *x, const struct x86_insn *i)
{
    op_dab(x, i, IR_TEST, SLOT_A, 1)->fdef = FL_ALL;
    return true;
}

bool xlate_incdec(struct xlate *x, const struct x86_insn *i)
{
    bool dec = i->opcode < 0x80 ? i->opcode & 8 : i->reg & 1;
    op_dab(x, i, dec ? IR_DEC : IR_INC, SLOT_D | SLOT_A, 0)->fdef = FL_ALL & ~FL_C;
    return true;
}

bool xlate_negnot(struct xlate *x, const struct x86_insn *i)
{
    bool neg = (i->reg & 7) == 3;
    op_dab(x, i, neg ? IR_NEG : IR_NOT, SLOT_D | SLOT_A, 0)->fdef = neg ? FL_ALL : 0;
    return true;
}

// Counts are taken modulo 32 (64 for 64-bit operands), and a count of 0 keeps all flags (SDM 2B RCL/SAL). By CL nobody knows, so the flags
// before are read. OF after a count above 1 is undefined; processors differ in whether they keep it, so it counts as read there too.
bool xlate_shift(struct xlate *x, const struct x86_insn *i)
{
    static const u8 opcs[8] = {IR_ROL, IR_ROR, IR_RCL, IR_RCR, IR_SHL, IR_SHR, IR_SHL, IR_SAR};
    unsigned n = i->reg & 7;
    struct ir_op *op = op_dab(x, i, opcs[n], SLOT_D | SLOT_A, 1);
    u8 flags = n < 4 ? FL_C | FL_O : FL_ALL;
    u8 carry_in = n == 2 || n == 3 ? FL_C : 0;
    if (op->b != IR_IMM) {
        op->fdef = flags;
        op->fuse = flags | carry_in;
        return true;
    }
    op->imm &= op->size == 8 ? 63 : 31;
    if (op->imm == 0) return true;
    op->fdef = flags;
    op->fuse = carry_in | (op->imm > 1 && n < 4 ? FL_O : 0);
    return true;
}

// Two operands: G *= E. Three: G = E * I.
bool xlate_imul(struct xlate *x, const struct x86_insn *i)
{
    struct ir_op *op;
    if (i->desc->opnd[2].addr == OA_NONE) {
        op = op_dab(x, i, IR_IMUL, SLOT_D | SLOT_A, 1);
    } else {
        op = op_da(x, i, IR_IMUL);
        xlate_put(x, i, 2, op, 2);
    }
    op->fdef = FL_ALL;
    return true;
}

bool xlate_mov(struct xlate *x, const struct x86_insn *i)
{
    op_da(x, i, IR_MOV);
    return true;
}

static bool extend(struct xlate *x, const struct x86_insn *i, enum ir_opc opc)
{
    unsigned src = xlate_opnd_size(i, 1);
    if (src >= i->opsize) opc = IR_MOV;        // MOVSXD without REX.W, MOVZX r16, r/m16
    struct ir_op *op = op_da(x, i, opc);
    op->size2 = opc == IR_MOV ? 0 : (u8)src;
    return true;
}

bool xlate_movzx(struct xlate *x, const struct x86_insn *i) { return extend(x, i, IR_MOVZX); }
bool xlate_movsx(struct xlate *x, const struct x86_insn *i) { return extend(x, i, IR_MOVSX); }

// SDM-DIFF: with 66, AMD reads four bytes of memory and keeps two; the manual (and Intel) reads two.
bool xlate_movsxd(struct xlate *x, const struct x86_insn *i)
{
    if (i->opsize != 2 || !i->is_mem || !x86(x->c)->id.amd) return extend(x, i, IR_MOVSX);
    struct ir_mem m = xlate_mem(x, i);
    u8 t = xlate_temp(x);
    xlate_load(x, 4, t, m);
    xlate_copy(x, 2, i->reg, t);
    return true;
}

bool xlate_lea(struct xlate *x, const struct x86_insn *i)
{
    struct ir_mem m = xlate_mem(x, i);
    m.seg_slot = 0;
    m.seg_wrap = 0;
    struct ir_op *op = ir_new(x->b, IR_LEA, i->opsize);
    op->d = i->reg;
    xlate_set_mem(op, m, 0);
    return true;
}

// With memory it is atomic with or without LOCK (SDM 2D XCHG). Opcode 90 is NOP, F3 90 PAUSE, but with REX.B it names R8.
bool xlate_xchg(struct xlate *x, const struct x86_insn *i)
{
    if (i->opcode == 0x90 && (!i->rex || !(i->rex & 1))) {
        if (i->rep == 0xf3 && x->c->crowded) {
            xlate_helper(x, x86_helper_pause, IR_NONE, IR_IMM, 0, IR_IMM, 0, 0);
            xlate_end_leave(x);
        } else if (i->rep == 0xf3) {
            struct ir_op *pause = ir_new(x->b, IR_HOST, 0);
            pause->host = (struct ir_host){.enc = HOST_LEGACY, .opcode = 0x90, .pp = 0xf3};
        }
        return true;
    }
    struct ir_op *op = op_da(x, i, IR_XCHG);
    if (op->has_mem) {
        op->mem_rw = 3;
        op->lock = 1;
    }
    return true;
}

bool xlate_cmov(struct xlate *x, const struct x86_insn *i)
{
    struct ir_op *op = op_da(x, i, IR_CMOV);
    op->cc = i->opcode & 15;
    op->fuse = ir_cc_flags(op->cc);
    return true;
}

bool xlate_setcc(struct xlate *x, const struct x86_insn *i)
{
    struct ir_op *op = op_dab(x, i, IR_SETCC, SLOT_D, 0);
    op->cc = i->opcode & 15;
    op->fuse = ir_cc_flags(op->cc);
    return true;
}

// Hints and cache control without effect on what the guest can see - but CLFLUSH and CLWB (0F AE) fault as a byte load does (SDM 2,
// CLFLUSH).
bool xlate_nop(struct xlate *x, const struct x86_insn *i)
{
    if (i->is_mem && i->map == 1 && i->opcode == 0xae) xlate_load(x, 1, xlate_temp(x), xlate_mem(x, i));
    return true;
}

// LFENCE, MFENCE, SFENCE: the host's own.
bool xlate_fence(struct xlate *x, const struct x86_insn *i)
{
    struct ir_op *op = ir_new(x->b, IR_HOST, 0);
    op->host = (struct ir_host){.enc = HOST_LEGACY, .map = 1, .opcode = 0xae, .has_modrm = 1, .reg_kind = HO_EXT, .reg = i->reg & 7,
                                .rm_kind = HO_EXT, .rm = i->rm & 7};
    return true;
}

// AL = [seg:rBX + AL]
bool xlate_xlat(struct xlate *x, const struct x86_insn *i)
{
    u8 t = xlate_temp(x);
    xlate_op(x, IR_MOVZX, 4, t, G_RAX, IR_NONE)->size2 = 1;
    struct ir_mem m = xlate_mem_at(x, i->seg, G_RBX, 0, i->addrsize);
    m.index = t;
    xlate_load(x, 1, G_RAX, m);
    return true;
}

// AL = CF ? ff : 0, flags kept: with b = CF, that is ~(b - 1).
bool xlate_salc(struct xlate *x, const struct x86_insn *i)
{
    u8 t = xlate_temp(x);
    struct ir_op *set = xlate_op(x, IR_SETCC, 1, t, IR_NONE, IR_NONE);
    set->cc = CC_B;
    set->fuse = FL_C;
    xlate_op(x, IR_MOVZX, 4, t, t, IR_NONE)->size2 = 1;
    xlate_add_disp(x, t, t, -1, 4);
    xlate_op(x, IR_NOT, 4, t, t, IR_NONE);
    xlate_copy(x, 1, G_RAX, t);
    return true;
}

// DAA DAS AAA AAS AAM AAD: the host has none in 64-bit mode.
bool xlate_bcd(struct xlate *x, const struct x86_insn *i)
{
    ir_helper fn = i->opcode == 0x27 ? x86_helper_daa : i->opcode == 0x2f ? x86_helper_das : i->opcode == 0x37 ? x86_helper_aaa
                   : i->opcode == 0x3f ? x86_helper_aas : i->opcode == 0xd4 ? x86_helper_aam : x86_helper_aad;
    struct ir_op *op = xlate_helper(x, fn, IR_NONE, IR_IMM, i->imm & 0xff, IR_IMM, 0, 0);
    op->fdef = op->fuse = FL_ALL;
    return true;
}

// ---- BT BTS BTR BTC with a bit string in memory -----------------------------------------------------------------
// The register is a signed bit offset that reaches beyond the operand: the word accessed lies (offset >> log2(bits)) words from the
// address. Flags must not change before the access, hence the BMI2 forms, which leave them alone; ZF must survive altogether.

// d = the result of VEX pp 0F38 opcode with ModRM.rm = rm and vvvv = v.
static void bmi2(struct xlate *x, u8 pp, u8 opcode, unsigned size, u8 d, u8 rm, u8 v)
{
    struct ir_op *op = ir_new(x->b, IR_HOST, 0);
    op->host = (struct ir_host){.enc = HOST_VEX, .map = 2, .opcode = opcode, .pp = pp, .w = size == 8, .has_modrm = 1, .reg_kind = HO_GPR,
                                .reg = d, .rm_kind = HO_GPR, .rm = rm, .v_kind = HO_GPR, .v = v, .gpr_size = (u8)size, .reg_rw = 2,
                                .rm_rw = 1, .v_rw = 1};
}
static void lea_of(struct xlate *x, u8 d, struct ir_mem ea)
{
    struct ir_op *op = ir_new(x->b, IR_LEA, 8);
    op->d = d;
    xlate_set_mem(op, ea, 0);
}
static void sarx(struct xlate *x, u8 d, u8 a, u8 count) { bmi2(x, 0xf3, 0xf7, 8, d, a, count); }
static void pext(struct xlate *x, u8 d, u8 a, u8 mask) { bmi2(x, 0xf3, 0xf5, 8, d, mask, a); }

bool xlate_bt_mem(struct xlate *x, const struct x86_insn *i)
{
    unsigned log = i->opsize == 2 ? 1 : i->opsize == 4 ? 2 : 3;
    u8 word = xlate_temp(x), k = xlate_temp(x), base = xlate_temp(x);
    struct ir_mem m = xlate_mem(x, i), ea = m;
    if (i->opsize == 8) xlate_copy(x, 8, word, i->reg);
    else xlate_op(x, IR_MOVSX, 8, word, i->reg, IR_NONE)->size2 = i->opsize;
    xlate_movi(x, 8, k, 3 + log);
    sarx(x, word, word, k);
    ea.seg_slot = 0;
    ea.seg_wrap = 0;
    ea.addr_size = 8;                          // wrapped by the access itself
    lea_of(x, base, ea);
    lea_of(x, base, (struct ir_mem){.base = base, .index = word, .scale = (u8)log, .addr_size = 8, .mmu = x->mmu});
    m.base = base;
    m.index = IR_NONE;
    m.scale = 0;
    m.disp = 0;

    struct ir_host h = {.enc = HOST_LEGACY, .map = 1, .opcode = i->opcode, .pp = i->opsize == 2 ? 0x66 : 0, .w = i->opsize == 8,
                        .has_modrm = 1, .reg_kind = HO_GPR, .reg_rw = 1, .gpr_size = i->opsize};
    u8 bit = xlate_temp(x);
    struct ir_op *op;
    if (i->opcode == 0xa3) {                   // BT: with a register operand the host takes the offset modulo the size by itself
        xlate_load(x, i->opsize, bit, m);
        op = ir_new(x->b, IR_HOST, 0);
        h.reg = i->reg;
        h.rm_kind = HO_GPR;
        h.rm = bit;
        h.rm_rw = 1;
    } else {
        xlate_movi(x, 8, k, i->opsize * 8 - 1);
        pext(x, bit, i->reg, k);               // the mask's low bits: offset modulo size
        op = ir_new(x->b, IR_HOST, i->opsize);
        h.reg = bit;
        h.rm_kind = HO_MEM;
        xlate_set_mem(op, m, 3);
        op->lock = i->lock;
    }
    op->host = h;
    op->fdef = FL_C;
    return true;
}
