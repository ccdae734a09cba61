// REP MOVS and REP STOS where they stand, instead of by their helper.
//
// Most copies are small, and then the way to C and back costs far more than the copy. If all elements lie in one page on either side, both
// pages are in the TLB and go upwards, two lookups and the host's own instruction do the work:
//
//     cmp   rcx, 4096 / size      no more than a page (a TB is not left in the middle, so this also bounds how late an interrupt is seen)
//     ja    slow
//     room = 4096 - rcx * size    offset in the page at which the run may begin at most
//     offset of RSI > room: slow; the same for RDI
//     add   rsi, host - guest     in R12
//     add   rdi, host - guest     in R14
//     rep movs
//     sub   rsi, r12
//     sub   rdi, r14
//
// Nothing is changed before the last doubt is settled, so `slow' is simply the call of the helper, and nothing here can fault. The TLB's
// entries are read once each: another vCPU may empty them at any moment (tcg/run/codepage.c). An empty or foreign entry gives an offset
// beyond any room. RCX = 0 moves nothing, whatever the lookups say.
#include "tcg/host/emit.h"

#include "kernel/base/log.h"

enum { RCX = 1, RSI = 6, RDI = 7 };             // globals, which are pinned to their namesakes
_Static_assert(TLB_BITS >= 2, "an empty entry's tag is far from what belongs there");

static u8 *slow_if_above(struct as *as) { return as_jcc(as, CC_A, NULL); }

// R13: index of h's page in the TLB, d: offset in its page, where it is looked up. Then d: distance of the host's address from h's.
static void offset_in_page(struct as *as, u8 d, u8 h, s32 tlb)
{
    as_mov_rr(as, d, h);
    as_rorx(as, H_R13, h, PAGE_SHIFT - 4);
    as_alu_mi(as, 4, 4, rm_reg(H_R13), (TLB_SIZE - 1) << 4);
    as_alu_rm(as, 5, 8, d, rm_gs_idx(H_R13, 0, tlb));
}
static void distance(struct as *as, u8 d, u8 h, s32 tlb)
{
    as_alu_rm(as, 0, 8, d, rm_gs_idx(H_R13, 0, tlb + TLB_HOST));
    as_alu_rm(as, 5, 8, d, rm_reg(h));
}

static void rep(struct as *as, bool movs, unsigned size)
{
    as_u8(as, 0xf3);
    if (size == 2) as_u8(as, 0x66);
    if (size == 8) as_u8(as, 0x48);
    as_u8(as, (u8)((movs ? 0xa4 : 0xaa) | (size > 1)));
    as->insns++;
}

// The helper's common case. Returns the branch to where the next instruction is; what follows is the call.
u8 *emit_string(struct emit *e, const struct ir_op *o)
{
    struct as *as = &e->as;
    bool movs = o->fast == IR_FAST_MOVS;
    unsigned size = o->fast_size, scale = (unsigned)__builtin_ctz(size), n_slow = 0;
    u8 *slow[3];
    for (unsigned n = 0; n < 3; n++) (void)emit_scratch(e);
    as_alu_mi(as, 7, 8, rm_reg(host_of(RCX)), (s32)(PAGE_SIZE >> scale));
    slow[n_slow++] = tcg_dice(e->c, 4) ? as_jmp(as, NULL) : slow_if_above(as);
    as_lea(as, 8, H_R14, rm_mem(H_NONE, host_of(RCX), (u8)scale, 0));
    as_op(as, (struct enc){.opcode = 0xf7, .w = true}, 3, rm_reg(H_R14));          // neg
    as_alu_mi(as, 0, 8, rm_reg(H_R14), PAGE_SIZE);
    if (movs) {
        s32 tlb = env_tlb(o->mem.mmu, false);
        as_store(as, rm_gs(ENV(args[0])), H_R14);
        offset_in_page(as, H_R12, host_of(RSI), tlb);
        as_alu_rm(as, 7, 8, H_R12, rm_reg(H_R14));
        slow[n_slow++] = slow_if_above(as);
        distance(as, H_R12, host_of(RSI), tlb);
    } else {
        as_store(as, rm_gs(ENV(args[0])), H_R14);
    }
    s32 tlb = env_tlb(o->mem.mmu, true);
    offset_in_page(as, H_R14, host_of(RDI), tlb);
    as_alu_rm(as, 7, 8, H_R14, rm_gs(ENV(args[0])));
    slow[n_slow++] = slow_if_above(as);
    distance(as, H_R14, host_of(RDI), tlb);
    if (movs) as_alu_rm(as, 0, 8, host_of(RSI), rm_reg(H_R12));
    as_alu_rm(as, 0, 8, host_of(RDI), rm_reg(H_R14));
    rep(as, movs, size);
    if (movs) as_alu_rm(as, 5, 8, host_of(RSI), rm_reg(H_R12));
    as_alu_rm(as, 5, 8, host_of(RDI), rm_reg(H_R14));
    u8 *done = as_jmp(as, NULL);
    for (unsigned n = 0; n < n_slow; n++) as_patch(slow[n], as->p);
    e->busy = 0;
    return done;
}
