// Vector and x87 instructions that the host's own cannot stand for: state images, whose layout or contents are the guest's (the XCR0 of the
// guest, its x87 pointers), and accesses of many elements, each of which may fault on its own.
#include "tcg/guest/x86/helpers.h"
#include "tcg/guest/x86/xlate.h"

// Memory image at the effective address. REX.W selects the 64-bit format (SDM 2A FXSAVE).
static bool image(struct xlate *x, const struct x86_insn *i, ir_helper fn, unsigned nm_mask)
{
    if (x->mode & nm_mask) {
        xlate_raise(x, EXC_NM, -1);
        return true;
    }
    unsigned opsize = i->rex_w && x->bits == 64 ? 8 : i->opsize == 8 ? 4 : i->opsize;
    xlate_helper(x, fn, IR_NONE, xlate_ea(x, i), 0, IR_IMM, 0, (s64)xlate_info(i, opsize, 0));
    return true;
}

bool xlate_fxsave(struct xlate *x, const struct x86_insn *i) { return image(x, i, x86_helper_fxsave, TBM_FPU_NM); }
bool xlate_fxrstor(struct xlate *x, const struct x86_insn *i) { return image(x, i, x86_helper_fxrstor, TBM_FPU_NM); }
bool xlate_xsave(struct xlate *x, const struct x86_insn *i) { return image(x, i, x86_helper_xsave, TBM_TS); }
bool xlate_xrstor(struct xlate *x, const struct x86_insn *i) { return image(x, i, x86_helper_xrstor, TBM_TS); }
bool xlate_xsaveopt(struct xlate *x, const struct x86_insn *i) { return image(x, i, x86_helper_xsaveopt, TBM_TS); }
bool xlate_xsavec(struct xlate *x, const struct x86_insn *i) { return image(x, i, x86_helper_xsavec, TBM_TS); }

// FLDENV, FNSTENV (D9), FRSTOR, FNSAVE (DD): ModRM.reg 4 loads, 6 stores.
bool xlate_x87env(struct xlate *x, const struct x86_insn *i)
{
    static const ir_helper fns[2][2] = {{x86_helper_fldenv, x86_helper_fstenv}, {x86_helper_frstor, x86_helper_fsave}};
    return image(x, i, fns[i->opcode == 0xdd][(i->modrm >> 3 & 7) == 6], 0);
}

bool xlate_xgetbv(struct xlate *x, const struct x86_insn *i)
{
    xlate_helper(x, x86_helper_xgetbv, IR_NONE, IR_IMM, 0, IR_IMM, 0, 0);
    return true;
}

bool xlate_xsetbv(struct xlate *x, const struct x86_insn *i)
{
    xlate_helper(x, x86_helper_xsetbv, IR_NONE, IR_IMM, 0, IR_IMM, 0, 0);
    xlate_end_leave(x);
    return true;
}

// VZEROUPPER, VZEROALL. Outside 64-bit mode only the first eight registers change: each is moved to itself, or XORed with itself, by the
// VEX form, which clears what lies above.
bool xlate_vzero(struct xlate *x, const struct x86_insn *i)
{
    if (x->bits == 64) return xlate_host(x, i);
    for (u8 r = 0; r < 8; r++) {
        struct ir_op *op = ir_new(x->b, IR_HOST, 0);
        op->host = (struct ir_host){.enc = HOST_VEX, .map = 1, .opcode = i->vex_l ? 0x57 : 0x28, .has_modrm = 1,
                                    .reg_kind = HO_VEC, .reg = r, .rm_kind = HO_VEC, .rm = r, .v_kind = i->vex_l ? HO_VEC : HO_NONE, .v = r};
    }
    return true;
}

// MASKMOVQ, MASKMOVDQU: bytes of the register under the mask to DS:rDI.
bool xlate_maskmov(struct xlate *x, const struct x86_insn *i)
{
    unsigned len = i->desc->attr & IA_MMX ? 8 : 16;
    xlate_helper(x, x86_helper_maskmov, IR_NONE, G_RDI, 0, IR_IMM, i->reg | i->rm << 8, (s64)xlate_info(i, 0, len));
    return true;
}

// 2C 2D 8C load, 2E 2F 8E store; elements of 8 bytes: 2D, 2F, and 8C/8E with VEX.W.
bool xlate_vmaskmov(struct xlate *x, const struct x86_insn *i)
{
    bool store = i->opcode == 0x2e || i->opcode == 0x2f || i->opcode == 0x8e;
    unsigned elem = i->opcode >= 0x80 ? (i->rex_w ? 8 : 4) : i->opcode & 1 ? 8 : 4;
    xlate_helper(x, store ? x86_helper_vmaskmov_store : x86_helper_vmaskmov_load, IR_NONE, xlate_ea(x, i), 0, IR_IMM, i->reg | i->vex_v << 8,
                 (s64)xlate_info(i, elem, i->vex_l ? 32 : 16));
    return true;
}

// The index is a vector register (VSIB), so that the address here is base + displacement only; the helper adds the elements.
bool xlate_gather(struct xlate *x, const struct x86_insn *i)
{
    struct x86_insn flat = *i;
    flat.index = 0xff;
    flat.scale = 0;
    unsigned elem = i->rex_w ? 8 : 4, index_elem = i->opcode & 1 ? 8 : 4;
    xlate_helper(x, x86_helper_gather, IR_NONE, xlate_ea(x, &flat), 0, IR_IMM, i->reg | i->index << 8 | i->vex_v << 16,
                 (s64)xlate_info(i, elem, (i->vex_l ? 32u : 16u) | (unsigned)i->scale << 8 | index_elem << 12));
    return true;
}
