// From a block of IR to a TB's host code, in one pass: entry, ops in order, then the cold code that the hot part branches to.
//
// Entries. A TB can be entered with the guest's flags in EFLAGS (entry_host) or in vcpu.cc (entry_saved). If the first thing that
// matters to the flags would save them, the save is done at once, before the shared body, and entry_saved simply lies behind it.
// If it would read them, entry_saved is a restore out of line.
//
// Exits. Within the guest page of the TB's start an exit is a jump that gets patched to the next TB; the page's translation cannot change
// under it without a TLB flush, which ends the TB. To other pages the jump is patched too, but looks first whether the page is mapped as it
// was (vcpu.xsig). Indirect branches go through the vCPU's jump cache, and the TB they find looks at that itself, at a third entry: so TLB
// flushes leave the jump cache alone.
//
// icount. The entry takes the block's instructions off vcpu.icount_left, and a side exit gives those back that it leaves out.
#include "tcg/host/emit.h"

#include "kernel/base/log.h"

enum { GS_CMP_BYTES = 8 };     // cmp dword gs:[disp32], imm32 before its immediate

struct cold *emit_cold(struct emit *e, enum cold_kind kind, u8 *jump)
{
    ASSERT(e->n_cold < EMIT_MAX_COLD, "cold paths of block %#llx", (unsigned long long)e->b->pc);
    struct cold *c = &e->cold[e->n_cold++];
    *c = (struct cold){.kind = (u8)kind, .jump = jump};
    return c;
}

unsigned emit_exit_new(struct emit *e, u64 pc)
{
    ASSERT(e->tb->n_exits < TB_MAX_EXITS, "exits of block %#llx", (unsigned long long)e->b->pc);
    struct tb_exit *x = &e->tb->exits[e->tb->n_exits];
    *x = (struct tb_exit){.pc = pc, .owner = e->tb, .saved = e->fl_saved, .host = e->fl_host};
    return e->tb->n_exits++;
}

// The field of `len` bytes that comes `ahead` bytes from here is patched while other vCPUs run it: it must not straddle the eight aligned
// bytes that a processor is sure to fetch at once (AMD APM 2 7.6.1; Intel's fetch cache lines at once).
static void patchable(struct emit *e, unsigned ahead, unsigned len)
{
    if (e->t->cfg.vcpus > 1)
        while ((((u64)e->as.p + ahead) & 7) + len > 8) as_u8(&e->as, 0x90);
}

static u8 *patchable_jmp(struct emit *e)
{
    patchable(e, 1, 4);
    return as_jmp(&e->as, NULL);
}

static u8 *patchable_jcc(struct emit *e, unsigned cc)
{
    patchable(e, 2, 4);
    return as_jcc(&e->as, cc, NULL);
}

static u8 *stub_rw(const struct emit *e, const u8 *rx) { return (u8 *)rx - (e->t->rx - e->t->rw); }

// The way out to the loop: names TB and exit.
static void emit_way_out(struct emit *e, unsigned n, bool saved)
{
    struct as *as = &e->as;
    e->tb->exits[n].stub = emit_off(e, as->p);
    as_mov_ri(as, H_R13, (u64)e->tb);
    as_mov_ri(as, H_R12, n);
    as_jmp(as, stub_rw(e, saved ? e->t->stubs.exit_saved : e->t->stubs.exit_host));
}

// Host register h holds the guest pc, flags are saved: through the jump cache, else out.
static void emit_jump_cache(struct emit *e, unsigned n, u8 h)
{
    struct as *as = &e->as;
    if (e->tb->jc_class != JC_NONE) {
        s32 jc = env_jc(e->tb->jc_class);
        u8 at = emit_scratch(e);
        as_rorx(as, at, h, 64 - JC_SHIFT);                                       // jc_index, at the entry's scale
        as_op(as, (struct enc){.opcode = 0x33}, at, rm_reg(h));                    // xor
        as_alu_mi(as, 4, 4, rm_reg(at), (JC_SIZE - 1) << JC_SHIFT);
        as_alu_rm(as, 7, 8, h, rm_gs_idx(at, 0, jc));
        patchable(e, 0, 2);
        u8 *miss = as_jcc(as, CC_NE, NULL);
        e->tb->ind[e->tb->n_ind].jne = emit_off(e, miss) - 2;
        e->tb->ind[e->tb->n_ind].jmp = emit_off(e, as->p);
        as_op(as, (struct enc){.opcode = 0xff}, 4, rm_gs_idx(at, 0, jc + JC_HOST));
        as_patch(miss, as->p);
        e->tb->ind[e->tb->n_ind++].miss = emit_off(e, as->p);
    }
    as_store(as, rm_gs(ENV(pc)), h);
    emit_way_out(e, n, true);
}

// Where a helper has found the way on: there, unless it is 0 or the jump has been taken back.
static void op_resume(struct emit *e, const struct ir_op *o)
{
    struct as *as = &e->as;
    struct tb *tb = e->tb;
    u8 h = emit_use(e, o->a);
    emit_flags_save(e);
    unsigned n = emit_exit_new(e, 0);
    tb->exits[n].kind = EXIT_LEAVE;
    if (tb->jc_class != JC_NONE) {
        as_op(as, (struct enc){.opcode = 0x85, .w = true}, h, rm_reg(h));           // test
        patchable(e, 0, 2);
        u8 *miss = as_jcc(as, CC_E, NULL);
        tb->resumes = true;
        tb->ind[tb->n_ind].jne = emit_off(e, miss) - 2;
        tb->ind[tb->n_ind].jmp = emit_off(e, as->p);
        as_op(as, (struct enc){.opcode = 0xff}, 4, rm_reg(h));                       // jmp
        as_patch(miss, as->p);
        tb->ind[tb->n_ind++].miss = emit_off(e, as->p);
    }
    emit_way_out(e, n, true);
}

static bool same_page(const struct emit *e, u64 pc)
{
    return ((pc + e->b->cs_base) >> PAGE_SHIFT) == ((e->b->pc + e->b->cs_base) >> PAGE_SHIFT);
}

// Compares the code signature of the page at va with a number that tb.c fills in; returns the number's offset.
static u32 emit_compare_signature(struct emit *e, u64 va)
{
    struct as *as = &e->as;
    s32 sig = ENV(xsig) + (s32)(e->b->mmu * sizeof(u32) * XTLB_SIZE + xtlb_index(va) * sizeof(u32));
    patchable(e, GS_CMP_BYTES, 4);
    as_op(as, (struct enc){.opcode = 0x81}, 7, rm_gs(sig));          // cmp dword, imm32: no page has this signature yet
    u32 off = emit_off(e, as->p);
    as_u32(as, 0xffffffff);
    return off;
}

// To another page: chained as well, behind a look at that page's code signature.
static void exit_guarded(struct emit *e, unsigned n, bool saved)
{
    struct as *as = &e->as;
    struct tb_exit *x = &e->tb->exits[n];
    x->kind = EXIT_GUARDED;
    if (!saved) host_flags_save(as, H_R12);
    x->saved = true;
    x->host = false;
    x->sig = emit_compare_signature(e, x->pc + e->b->cs_base);
    u8 *miss = as_jcc(as, CC_NE, NULL);
    x->rel = emit_off(e, patchable_jmp(e));
    as_patch(e->start + x->rel, as->p);
    as_patch(miss, as->p);
    emit_way_out(e, n, true);
}

static void op_goto(struct emit *e, const struct ir_op *o)
{
    unsigned n = emit_exit_new(e, (u64)o->imm);
    if (!same_page(e, (u64)o->imm)) {
        exit_guarded(e, n, e->fl_saved);
        return;
    }
    e->tb->exits[n].kind = EXIT_CHAIN;
    u8 *rel = patchable_jmp(e);
    e->tb->exits[n].rel = emit_off(e, rel);
    emit_cold(e, COLD_EXIT, rel)->exit = (u16)n;
}

static void side_exit(struct emit *e, const struct ir_op *o, u8 *rel)
{
    unsigned n = emit_exit_new(e, (u64)o->imm);
    e->tb->exits[n].kind = same_page(e, (u64)o->imm) ? EXIT_CHAIN : EXIT_GUARDED;
    if (e->tb->exits[n].kind == EXIT_CHAIN) e->tb->exits[n].rel = emit_off(e, rel);
    struct cold *c = emit_cold(e, COLD_EXIT, rel);
    c->exit = (u16)n;
    if (e->t->cfg.icount) c->uncounted = (u16)(e->b->n_insns - e->insn - 1);
}

static void op_br(struct emit *e, const struct ir_op *o)
{
    enum ir_cc cc = emit_flags_cond(e, o->cc);
    side_exit(e, o, patchable_jcc(e, cc));
}

// JRCXZ reaches 127 bytes and knows no 16-bit CX in 64-bit mode.
static void op_brcxz(struct emit *e, const struct ir_op *o)
{
    struct as *as = &e->as;
    if (o->size == 2) {
        as_mov_rr(as, H_R12, H_RCX);
        as_op(as, (struct enc){.map = 1, .opcode = 0xb7}, H_RCX, rm_reg(H_RCX));
    }
    unsigned fix = o->size == 2 ? 3 : 0;       // bytes of mov rcx, r12
    patchable(e, (o->size == 4) + 2 + fix + 2 + fix + 1, 4);   // the jump's at the end: no room for padding there
    if (o->size == 4) as_u8(as, 0x67);
    as_u8(as, 0xe3);
    as_u8(as, (u8)(2 + fix));
    if (fix) as_mov_rr(as, H_RCX, H_R12);
    as_u8(as, 0xeb);
    as_u8(as, (u8)(5 + fix));
    if (fix) as_mov_rr(as, H_RCX, H_R12);
    as->insns += 2;
    side_exit(e, o, as_jmp(as, NULL));
}

static void op_leave(struct emit *e, const struct ir_op *o)
{
    if (o->opc == IR_GOTOR) {
        u8 h = o->a == IR_IMM ? H_NONE : emit_use(e, o->a);
        emit_flags_save(e);
        if (h == H_NONE) as_mov_ri(&e->as, h = emit_scratch(e), (u64)o->imm);
        unsigned n = emit_exit_new(e, 0);
        e->tb->exits[n].kind = EXIT_INDIRECT;
        emit_jump_cache(e, n, h);
        return;
    }
    emit_flags_save(e);
    unsigned n = emit_exit_new(e, (u64)o->imm);
    e->tb->exits[n].kind = EXIT_LEAVE;
    if (o->opc == IR_LEAVE) {
        as_mov_ri(&e->as, H_R12, (u64)o->imm);
        as_store(&e->as, rm_gs(ENV(pc)), H_R12);
    }
    emit_way_out(e, n, true);
}

// ---- cold code -----------------------------------------------------------------------------------------------------

static void cold_access(struct emit *e, const struct cold *c)
{
    struct as *as = &e->as;
    as_patch(c->jump, as->p);
    emit_mark(e, c->insn, c->recipe);
    as_alu_rm(as, 6, 8, H_R12, rm_gs_idx(H_R13, 0, c->tlb_off));
    as_mov_ri(as, H_R13, c->desc);
    as_call(as, stub_rw(e, c->kind == COLD_LOAD ? e->t->stubs.slow_load : e->t->stubs.slow_store));
    if (c->kind == COLD_LOAD) {
        as_jmp(as, c->body);
        return;
    }
    as_alu_mi(as, 7, 4, rm_gs(ENV(bounce_len)), 0);
    as_jcc(as, CC_E, c->body);
    for (const u8 *p = c->body; p < c->after; p++) as_u8(as, *p);
    as_call(as, stub_rw(e, e->t->stubs.commit));
    as_jmp(as, c->after);
}

// icount: of the instructions that the entry subtracted, those behind a side exit have not run. The flags stay; the jump out moves here.
static void cold_uncount(struct emit *e, const struct cold *c, struct tb_exit *x)
{
    struct as *as = &e->as;
    as_load(as, H_R12, rm_gs(ENV(icount_left)));
    as_lea(as, 8, H_R12, rm_mem(H_R12, H_NONE, 0, c->uncounted));
    as_store(as, rm_gs(ENV(icount_left)), H_R12);
    if (x->kind != EXIT_CHAIN) return;
    u8 *rel = as_jmp(as, NULL);
    x->rel = emit_off(e, rel);
    as_patch(rel, as->p);
}

static void cold_exit(struct emit *e, const struct cold *c)
{
    struct tb_exit *x = &e->tb->exits[c->exit];
    as_patch(c->jump, e->as.p);
    if (c->uncounted) cold_uncount(e, c, x);
    if (x->kind == EXIT_GUARDED) exit_guarded(e, c->exit, x->saved);
    else emit_way_out(e, c->exit, x->saved);
}

static void emit_cold_all(struct emit *e)
{
    for (unsigned n = 0; n < e->n_cold; n++) {
        const struct cold *c = &e->cold[n];
        if (c->kind == COLD_EXIT) {
            cold_exit(e, c);
        } else if (c->kind == COLD_POLL) {
            as_patch(c->jump, e->as.p);
            emit_way_out(e, c->exit, true);
        } else if (c->kind == COLD_COUNT) {
            as_patch(c->jump, e->as.p);
            as_alu_mi(&e->as, 0, 8, rm_gs(ENV(icount_left)), (s32)e->b->n_insns);
            emit_way_out(e, c->exit, true);
        } else if (c->kind == COLD_GROUP) {
            emit_group_cold(e, c);
        } else {
            cold_access(e, c);
        }
    }
}

// ---- entry -----------------------------------------------------------------------------------------------------------

enum entry_need { ENTRY_SAVE, ENTRY_READ, ENTRY_NOTHING };

static bool ends_saved(const struct ir_op *o) { return o->opc == IR_GOTOR || o->opc == IR_LEAVE || o->opc == IR_LEAVER || o->opc == IR_RESUME; }

// What happens first to the flags that the block is entered with.
static enum entry_need entry_need(const struct emit *e)
{
    for (unsigned j = 0; j < e->b->n; j++) {
        const struct ir_op *o = &e->b->ops[j];
        if (o->opc == IR_CALL || ends_saved(o)) return ENTRY_SAVE;
        if (o->opc == IR_GOTO && !same_page(e, (u64)o->imm)) return ENTRY_SAVE;
        if (ir_may_fault(o)) return ENTRY_SAVE;
        if (emit_op_keeps_flags(o) || (ir_opc_props(o->opc) & (IRP_S | IRP_X))) return ENTRY_READ;
        if (o->fdef == FL_ALL) return ENTRY_NOTHING;
    }
    return ENTRY_READ;
}

// A check at the head of the TB, just made: to the loop if cc.
static void emit_entry_check(struct emit *e, enum ir_cc cc, enum cold_kind kind)
{
    u8 *rel = as_jcc(&e->as, cc, NULL);
    unsigned n = emit_exit_new(e, e->b->pc);
    e->tb->exits[n].kind = EXIT_PC;
    e->tb->exits[n].saved = true;
    emit_cold(e, kind, rel)->exit = (u16)n;
}

static void emit_entry(struct emit *e)
{
    struct tb *tb = e->tb;
    tb->entry_host = 0;
    enum entry_need need = entry_need(e);
    bool poll = e->t->cfg.exit_poll, icount = e->t->cfg.icount, two_pages = e->b->page[1] != ~0ull && !tb->oneshot;
    if (need == ENTRY_SAVE || poll || icount || two_pages) {
        host_flags_save(&e->as, H_R12);
        e->fl_saved = true;
        tb->entry_saved = emit_off(e, e->as.p);
        e->fl_host = false;                          // one body for both entries: not in EFLAGS
        // exit=poll: every TB looks. The flags are in vcpu.cc here, so compares may have EFLAGS.
        if (poll) {
            as_alu_mi(&e->as, 7, 4, rm_gs(ENV(exit_request)), 0);
            emit_entry_check(e, CC_NE, COLD_POLL);
        }
        // Who jumps here knows that the first page is mapped as it was; the second may have gone its own way.
        if (two_pages) {
            tb->second_sig = emit_compare_signature(e, ((e->b->pc + e->b->cs_base) & PAGE_MASK) + PAGE_SIZE);
            emit_entry_check(e, CC_NE, COLD_POLL);
        }
        // icount: the whole TB must fit into what may still run. Last: the other checks leave without having taken anything.
        if (icount) {
            as_alu_mi(&e->as, 5, 8, rm_gs(ENV(icount_left)), (s32)e->b->n_insns);
            emit_entry_check(e, CC_S, COLD_COUNT);
        }
        return;
    }
    tb->wants_host = need == ENTRY_READ;
    if (need == ENTRY_NOTHING) tb->entry_saved = 0;
    else tb->entry_saved = ~0u;                      // made with the cold code
}

// For who comes by the jump cache, which knows only the guest pc: is the page mapped as it was?
static void emit_entry_checked(struct emit *e)
{
    struct tb *tb = e->tb;
    tb->entry_checked = emit_off(e, e->as.p);
    tb->first_sig = emit_compare_signature(e, tb->pc + tb->cs_base);
    as_jcc(&e->as, CC_E, e->start + tb->entry_saved);
    unsigned n = emit_exit_new(e, tb->pc);
    tb->exits[n].kind = EXIT_PC;
    emit_way_out(e, n, true);
}

static void emit_entries_cold(struct emit *e)
{
    struct tb *tb = e->tb;
    if (tb->entry_saved == ~0u) {
        tb->entry_saved = emit_off(e, e->as.p);
        host_flags_restore(&e->as, H_R12);
        as_jmp(&e->as, e->start);
    }
    if (tb->jc_class != JC_NONE) emit_entry_checked(e);
}

// ---- the block ---------------------------------------------------------------------------------------------------------

void emit_one(struct emit *e, const struct ir_op *o)
{
    emit_flags_before_def(e, o);
    switch (o->opc) {
    case IR_INSN:
        ASSERT(e->insn < ARRAY_SIZE(e->insn_off), "instructions of block %#llx", (unsigned long long)e->b->pc);
        e->insn_off[e->insn] = (u16)((u64)o->imm - e->b->pc);
        break;
    case IR_BR: op_br(e, o); break;
    case IR_BRCXZ: op_brcxz(e, o); break;
    case IR_GOTO: op_goto(e, o); break;
    case IR_GOTOR: case IR_LEAVE: case IR_LEAVER: op_leave(e, o); break;
    case IR_RESUME: op_resume(e, o); break;
    default: emit_op(e, o); break;
    }
    emit_flags_after(e, o);
    emit_op_end(e, o);
}

static void *keep(struct emit *e, const void *src, u64 bytes)
{
    void *p = tcg_arena_alloc(e->c, bytes);
    __builtin_memcpy(p, src, bytes);
    return p;
}

static void emit_finish(struct emit *e)
{
    struct tb *tb = e->tb;
    tb->n_marks = (u16)e->n_marks;
    tb->n_recipes = (u16)e->n_recipes;
    tb->marks = keep(e, e->marks, e->n_marks * sizeof(e->marks[0]));
    tb->recipes = keep(e, e->recipes, e->n_recipes * sizeof(e->recipes[0]));
    tb->insn_off = keep(e, e->insn_off, tb->n_insns * sizeof(u16));
    tb->code_size = emit_off(e, e->as.p);
    e->c->tr->used = align_up(e->c->tr->used + tb->code_size, 16);
}

static unsigned count_exits(const struct ir_block *b)
{
    unsigned n = 4;                                    // the checks at the entries; each op's exit twice, behind a shared lookup
    for (unsigned i = 0; i < b->n; i++) n += 2 * ((ir_opc_props(b->ops[i].opc) & (IRP_X | IRP_S)) != 0);
    return n;
}

void host_tb_emit(struct vcpu *c, struct ir_block *b, struct tb *tb)
{
    struct tcg *t = c->tcg;
    struct translator *tr = c->tr;
    struct emit *e = tr->emit;
    e->as = (struct as){.p = t->rw + tr->used, .end = t->rw + tr->used + tb_room(b)};
    e->c = c;
    e->t = t;
    e->b = b;
    e->tb = tb;
    e->start = e->as.p;
    e->n_cold = e->n_marks = 0;
    e->r14_temp = IR_NONE;
    e->busy = 0;
    e->insn = 0;
    for (unsigned n = 0; n < IR_NTEMPS; n++) e->temp_reg[n] = H_NONE;
    tb->code = t->rx + tr->used;
    tb->exits = tcg_arena_alloc(c, count_exits(b) * sizeof *tb->exits);
    emit_temps_plan(e);
    emit_groups_plan(e);
    e->group = NULL;
    e->r14_kept = e->r14_lent = e->no_temp_r14 = e->again = false;
    emit_flags_start(e);
    e->i = 0;
    emit_mark(e, 0, 0);
    emit_entry(e);
    bool first = true;
    for (e->i = 0; e->i < b->n; e->i++) {
        if (b->ops[e->i].opc == IR_INSN && !first) e->insn++;
        if (b->ops[e->i].opc == IR_INSN) first = false;
        emit_group_begin(e);
        if (!emit_group_step(e, &b->ops[e->i])) emit_one(e, &b->ops[e->i]);
        emit_group_end(e);
    }
    tb->hot_size = emit_off(e, e->as.p);
    tb->host_insns = e->as.insns;
    tr->n_host_insns += e->as.insns;
    tr->n_guest_insns += b->n_insns;
    emit_cold_all(e);
    emit_entries_cold(e);
    ASSERT(!e->as.full, "code of block %#llx does not fit: %u ops", (unsigned long long)b->pc, b->n);
    emit_finish(e);
}

u64 host_emit_size(void) { return sizeof(struct emit); }
