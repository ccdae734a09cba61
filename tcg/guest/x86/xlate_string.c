// String instructions and port I/O. With a repeat prefix a helper works in page-sized pieces; a single step is inline, because compilers
// and kernels use LODS and STOS alone, too. Direction is part of the mode word, so a step is a constant.
#include "tcg/guest/x86/helpers.h"
#include "tcg/guest/x86/xlate.h"

static s32 step_of(const struct xlate *x, unsigned size) { return x->mode & TBM_DF ? -(s32)size : (s32)size; }
static void advance(struct xlate *x, const struct x86_insn *i, u8 reg, unsigned size) { xlate_add_disp(x, reg, reg, step_of(x, size), i->addrsize); }
static struct ir_mem source(const struct xlate *x, const struct x86_insn *i) { return xlate_mem_at(x, i->seg, G_RSI, 0, i->addrsize); }
static struct ir_mem dest(const struct xlate *x, const struct x86_insn *i) { return xlate_mem_at(x, SEG_ES, G_RDI, 0, i->addrsize); }

static void compare(struct xlate *x, unsigned size, u8 a, u8 b, struct ir_mem m)
{
    struct ir_op *op = xlate_op(x, IR_CMP, size, IR_NONE, a, b);
    xlate_set_mem(op, m, ACCESS_READ);
    op->fdef = FL_ALL;
}

// By bits 3:1 of the opcode A4..AF: 2 MOVS, 3 CMPS, 5 STOS, 6 LODS, 7 SCAS.
static void step(struct xlate *x, const struct x86_insn *i, unsigned kind, unsigned size)
{
    u8 t = xlate_temp(x);
    switch (kind) {
    case 2:
        xlate_load(x, size, t, source(x, i));
        xlate_store(x, size, dest(x, i), t);
        break;
    case 3:
        // The destination first: with both pages absent, processors name it in CR2 (tests/insn).
        xlate_load(x, size, t, dest(x, i));
        compare(x, size, IR_MEM, t, source(x, i));
        break;
    case 5: xlate_store(x, size, dest(x, i), G_RAX); break;
    case 6: xlate_load(x, size, G_RAX, source(x, i)); break;
    default: compare(x, size, G_RAX, IR_MEM, dest(x, i));
    }
    if (kind == 2 || kind == 3 || kind == 6) advance(x, i, G_RSI, size);
    if (kind != 6) advance(x, i, G_RDI, size);
}

bool xlate_string(struct xlate *x, const struct x86_insn *i)
{
    static const ir_helper helpers[8] = {[2] = x86_helper_movs, [3] = x86_helper_cmps, [5] = x86_helper_stos, [6] = x86_helper_lods,
                                         [7] = x86_helper_scas};
    unsigned kind = i->opcode >> 1 & 7, size = i->opcode & 1 ? i->opsize : 1;
    if (!i->rep) {
        step(x, i, kind, size);
        return true;
    }
    struct ir_op *op = xlate_helper(x, helpers[kind], IR_NONE, IR_IMM, 0, IR_IMM, 0, (s64)xlate_info(i, size, 0));
    if (kind == 3 || kind == 7) op->fuse = op->fdef = FL_ALL;
    // Upwards, and no segment has a base.
    bool plain = x->bits == 64 && i->addrsize == 8 && !(x->mode & TBM_DF) && (kind == 5 || (i->seg != SEG_FS && i->seg != SEG_GS));
    if (plain && (kind == 2 || kind == 5)) {
        op->fast = kind == 2 ? IR_FAST_MOVS : IR_FAST_STOS;
        op->fast_size = (u8)size;
    }
    return true;
}

// ---- ports: permissions (CPL, IOPL, the TSS's bitmap) are the helper's. What a device asks of the vCPU, it asks by a
// kick; the block ends so that under icount the access is its last instruction ----
static unsigned port_size(const struct x86_insn *i) { return i->opcode & 1 ? (i->opsize == 2 ? 2 : 4) : 1; }

static bool port_string(struct xlate *x, const struct x86_insn *i, ir_helper fn)
{
    xlate_helper(x, fn, IR_NONE, IR_IMM, 0, IR_IMM, 0, (s64)xlate_info(i, port_size(i), 0));
    xlate_end_fetch(x);
    return true;
}

bool xlate_ins(struct xlate *x, const struct x86_insn *i) { return port_string(x, i, x86_helper_ins); }
bool xlate_outs(struct xlate *x, const struct x86_insn *i) { return port_string(x, i, x86_helper_outs); }

// The port: an immediate (E4..E7), or DX (EC..EF).
static u8 port(struct xlate *x, const struct x86_insn *i, s64 *imm)
{
    *imm = i->imm & 0xff;
    if (i->opcode < 0xe8) return IR_IMM;
    u8 t = xlate_temp(x);
    xlate_op(x, IR_MOVZX, 4, t, G_RDX, IR_NONE)->size2 = 2;
    return t;
}

bool xlate_in(struct xlate *x, const struct x86_insn *i)
{
    s64 imm;
    u8 p = port(x, i, &imm), t = xlate_temp(x);
    xlate_helper(x, x86_helper_in, t, p, imm, IR_IMM, 0, (s64)xlate_info(i, port_size(i), 0));
    xlate_copy(x, port_size(i), G_RAX, t);
    xlate_end_fetch(x);
    return true;
}

bool xlate_out(struct xlate *x, const struct x86_insn *i)
{
    s64 imm;
    u8 p = port(x, i, &imm);
    xlate_helper(x, x86_helper_out, IR_NONE, p, imm, G_RAX, 0, (s64)xlate_info(i, port_size(i), 0));
    xlate_end_fetch(x);
    return true;
}
