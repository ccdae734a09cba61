// Memory operands: effective address, the inline softmmu lookup, and its way out of line.
//
//     lea   r12, [ea]                     linear address
//     rorx  r13, r12, 8
//     and   r13d, (TLB_SIZE - 1) << 4     entry
//     xor   r12, gs:[r13 + tlb.tag]       offset in the page, if it is the page
//     cmp   r12, 4096 - size              page, crossing and emptiness at once
//     ja    cold
//     mov   r13, gs:[r13 + tlb.host]
//     op    ..., [r13 + r12]              the guest's own instruction
//
// Out of line, C fills the TLB or, where no plain RAM answers (devices, page crossings), provides a bounce buffer: the access is
// then made on the buffer by the same instruction. For stores the instruction is repeated out of line, followed by the buffer's
// delivery.
#include "tcg/host/emit.h"

#include "kernel/base/log.h"

unsigned emit_mem_size(const struct ir_op *o)
{
    if (o->opc == IR_MOVZX || o->opc == IR_MOVSX) return o->size2;
    return o->size;
}

// base + index << scale + disp into d, wrapped to the address size.
void emit_ea(struct emit *e, const struct ir_mem *m, u8 d)
{
    struct as *as = &e->as;
    unsigned sz = m->addr_size == 8 ? 8 : 4;
    if (m->base == IR_NONE && m->index == IR_NONE) {
        as_mov_ri(as, d, sz == 8 ? (u64)(s64)m->disp : (u32)m->disp);
    } else {
        u8 base = m->base == IR_NONE ? H_NONE : emit_use(e, m->base);
        u8 index = m->index == IR_NONE ? H_NONE : emit_use(e, m->index);
        if (sz == 8 && index == H_NONE && m->disp == 0) as_mov_rr(as, d, base);
        else as_lea(as, sz, d, rm_mem(base, index, m->scale, m->disp));
    }
    if (m->addr_size == 2) as_op(as, (struct enc){.map = 1, .opcode = 0xb7}, d, rm_reg(d));   // movzx d, d16
}

struct cold *emit_lookup(struct emit *e, unsigned mmu, bool write, unsigned size, u8 h, enum cold_kind kind)
{
    struct as *as = &e->as;
    s32 tlb = env_tlb(mmu, write);
    as_rorx(as, H_R13, h, PAGE_SHIFT - 4);
    as_alu_mi(as, 4, 4, rm_reg(H_R13), (TLB_SIZE - 1) << 4);
    as_alu_rm(as, 6, 8, h, rm_gs_idx(H_R13, 0, tlb));
    as_alu_mi(as, 7, 8, rm_reg(h), (s32)(PAGE_SIZE - size));
    struct cold *c = emit_cold(e, kind, tcg_dice(e->c, 4) ? as_jmp(as, NULL) : as_jcc(as, CC_A, NULL));   // (dice: always missed)
    c->tlb_off = tlb;
    c->insn = (u16)e->insn;
    return c;
}

struct rm emit_mem_begin(struct emit *e, const struct ir_op *o)
{
    struct as *as = &e->as;
    const struct ir_mem *m = &o->mem;
    unsigned size = emit_mem_size(o);
    ASSERT(size && size <= 64, "access of %u bytes, op %s map %u opcode %#x", size, ir_opc_name(o->opc), o->host.map, o->host.opcode);
    struct rm shared;
    e->shared = emit_group_member(e, &shared);
    if (e->shared) {
        emit_mark(e, (u16)e->insn, emit_flags_recipe(e));
        emit_flags_ready(e, o);
        return shared;
    }
    emit_flags_before_clobber(e);
    // R12 becomes the address; whatever base or index had to be loaded may sit in R12 and R13 until then.
    emit_ea(e, m, H_R12);
    e->busy = 3;
    e->held[0] = e->held[1] = e->held[2] = IR_NONE;
    if (m->seg_slot)
        as_op(as, (struct enc){.opcode = 0x03, .w = !m->seg_wrap}, H_R12, rm_gs(m->seg_slot));
    else if (m->seg_wrap && m->addr_size == 8)
        as_mov_rr32(as, H_R12, H_R12);
    u16 recipe = emit_flags_recipe(e);
    bool write = o->mem_rw & 2;
    struct cold *c = emit_lookup(e, m->mmu, write, size, H_R12, write ? COLD_STORE : COLD_LOAD);
    as_load(as, H_R13, rm_gs_idx(H_R13, 0, c->tlb_off + TLB_HOST));
    bool may_not = o->opc == IR_HOST && o->host.may_fault;   // an x87 store with an unmasked exception stores nothing
    c->desc = size | (u32)m->mmu << 8 | (o->mem_rw == 3 ? 1u << 16 : 0) | (may_not ? 1u << 17 : 0) |
              (o->lock || o->opc == IR_XCHG ? 1u << 18 : 0);
    c->recipe = recipe;
    c->body = as->p;
    emit_mark(e, (u16)e->insn, recipe);
    emit_flags_ready(e, o);
    return rm_mem(H_R13, H_R12, 0, 0);
}

void emit_mem_end(struct emit *e, const struct ir_op *o)
{
    if (e->shared) return;
    // The cold entry is the last LOAD/STORE one opened.
    for (unsigned n = e->n_cold; n-- > 0;) {
        struct cold *c = &e->cold[n];
        if (c->kind > COLD_STORE || c->after) continue;
        c->after = e->as.p;
        return;
    }
    ASSERT(false, "no open access, op %s", ir_opc_name(o->opc));
}
