// One softmmu lookup for several accesses.
//
// Compiled code reaches the same page again and again through one register: pushes and pops, locals, the fields of a struct.
// Where a run of ops without exits or calls has at least two accesses off the same base, which changes meanwhile at most by known
// amounts (LEA base, [base + c]), their offsets are known relative to the base at the first of them. One lookup for the whole
// window of offsets is made there; it leaves the host address of the window's start in R14, and every member is then a single
// instruction [r14 + offset] that clobbers no flags.
//
// If the lookup misses - another page in part, a device, a page not yet in the TLB - the run is done out of line, op by op with
// lookups of their own, by emitting the same ops again; then control comes back behind the run, with temporaries and flags where
// the hot version has them. Both versions keep temporaries out of R14 but for the last op's result, so they agree on those by
// construction; flags are reconciled at the end of the cold one.
#include "tcg/host/emit.h"

#include "kernel/base/log.h"

static bool is_access(const struct ir_op *o) { return o->has_mem && o->opc != IR_LEA; }

static bool can_join(const struct ir_op *o, u8 base, u8 mmu)
{
    const struct ir_mem *m = &o->mem;
    return is_access(o) && m->base == base && m->index == IR_NONE && m->addr_size == 8 && !m->seg_slot && !m->seg_wrap && m->mmu == mmu;
}

static bool ends_run(const struct ir_op *o) { return o->opc == IR_CALL || (ir_opc_props(o->opc) & (IRP_X | IRP_S)); }

// LEA base, [base + c]: a known step.
static bool is_step(const struct ir_op *o, u8 base)
{
    return o->opc == IR_LEA && o->d == base && o->size == 8 && o->mem.addr_size == 8 && o->mem.base == base && o->mem.index == IR_NONE;
}

// Tries to make a group that starts at op i; returns the number of members.
static unsigned group_try(struct emit *e, unsigned i, struct group *g)
{
    const struct ir_op *first = &e->b->ops[i];
    u8 base = first->mem.base;
    if (base >= 32 || !can_join(first, base, first->mem.mmu)) return 0;
    *g = (struct group){.first = i, .last = i, .mmu = first->mem.mmu, .lo = first->mem.disp, .hi = first->mem.disp};
    s64 step = 0;
    unsigned members = 0;
    for (unsigned j = i; j < e->b->n && j < i + GROUP_OPS_MAX; j++) {
        const struct ir_op *o = &e->b->ops[j];
        if (ends_run(o)) break;
        if (can_join(o, base, g->mmu)) {
            s64 at = step + o->mem.disp, end = at + emit_mem_size(o);
            s64 lo = at < g->lo ? at : g->lo, hi = end > g->hi ? end : g->hi;
            if (hi - lo <= GROUP_WINDOW_MAX) {
                g->lo = (s32)lo;
                g->hi = (s32)hi;
                g->write |= o->mem_rw >> 1;
                g->last = j;
                e->member_at[j] = (s32)at;
                e->member_of[j] = (u16)(e->n_groups + 1);
                members++;
            }
        }
        if (is_step(o, base)) step += o->mem.disp;
        else if (ir_writes(o) >> base & 1) break;
        if (step > 1 << 20 || step < -(1 << 20)) break;
    }
    return members;
}

void emit_groups_plan(struct emit *e)
{
    e->n_groups = 0;
    for (unsigned i = 0; i < e->b->n; i++) e->member_of[i] = 0;
    for (unsigned i = 0; i < e->b->n && e->n_groups < EMIT_MAX_GROUPS; i++) {
        struct group *g = &e->groups[e->n_groups];
        if (group_try(e, i, g) >= 2) {
            e->n_groups++;
            i = g->last;
            continue;
        }
        for (unsigned j = i; j < e->b->n && j < i + GROUP_OPS_MAX; j++)
            if (e->member_of[j] == e->n_groups + 1) e->member_of[j] = 0;
    }
    e->next_group = 0;
}

void emit_group_begin(struct emit *e)
{
    struct group *g = &e->groups[e->next_group];
    if (e->next_group >= e->n_groups || g->first != e->i) return;
    struct as *as = &e->as;
    e->next_group++;
    emit_spill_temp(e);
    emit_flags_before_clobber(e);
    struct ir_mem start = e->b->ops[e->i].mem;
    start.disp = g->lo;
    emit_ea(e, &start, H_R12);
    e->busy = 0;
    struct cold *c = emit_lookup(e, g->mmu, g->write, (unsigned)(g->hi - g->lo), COLD_GROUP);
    c->group = (u16)(g - e->groups);
    as_lea(as, 8, H_R14, rm_mem(H_R13, H_R12, 0, 0));
    g->start = (struct flags_at){e->fl_host, e->fl_saved, e->fl_def, e->fl_recipe, e->fl_written};
    g->insn = e->insn;
    e->group = g;
    e->r14_kept = true;
}

// Is the op being emitted a member of the run now open? Then its bytes are here.
bool emit_group_member(struct emit *e, struct rm *rm)
{
    if (!e->group || e->member_of[e->i] != (e->group - e->groups) + 1) return false;
    *rm = rm_mem(H_R14, H_NONE, 0, e->member_at[e->i] - e->group->lo);
    if (e->i == e->group->last) e->r14_kept = false;      // the result of the last may take R14
    return true;
}

void emit_group_end(struct emit *e)
{
    struct group *g = e->group;
    if (!g || g->last != e->i) return;
    g->hot_end = e->as.p;
    g->end_host = e->fl_host;
    g->end_saved = e->fl_saved;
    e->group = NULL;
    e->r14_kept = false;
}

// The same ops again, each with its own lookup.
void emit_group_cold(struct emit *e, const struct cold *c)
{
    struct group *g = &e->groups[c->group];
    as_patch(c->jump, e->as.p);
    e->fl_host = g->start.host;
    e->fl_saved = g->start.saved;
    e->fl_def = g->start.def;
    e->fl_recipe = g->start.recipe;
    e->fl_written = g->start.written;
    e->insn = g->insn;
    e->r14_temp = IR_NONE;
    for (unsigned n = 0; n < IR_NTEMPS; n++) e->temp_reg[n] = H_NONE;
    e->busy = 0;
    e->again = true;
    for (e->i = g->first; e->i <= g->last; e->i++) {
        const struct ir_op *o = &e->b->ops[e->i];
        e->no_temp_r14 = e->i != g->last;
        emit_flags_before_def(e, o);
        if (o->opc == IR_INSN) e->insn++;
        else emit_op(e, o);
        emit_flags_after(e, o);
        emit_op_end(e, o);
    }
    e->no_temp_r14 = e->again = false;
    e->i = g->last;
    if (g->end_saved && !e->fl_saved) emit_flags_save(e);
    if (g->end_host && !e->fl_host && e->fl_saved) emit_flags_need(e);
    as_jmp(&e->as, g->hot_end);
}
