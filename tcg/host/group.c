// One softmmu lookup for several accesses.
//
// Compiled code reaches the same page again and again through few registers: pushes and pops, a frame, the fields of a struct.
// A run of ops is followed as far as it keeps registers at known distances from the base of its first access: copies of it (mov
// rbp, rsp), sums with constants (LEA, ADD, SUB, INC, DEC). If there are at least two accesses off such registers, one lookup for the
// whole window of offsets is made at the first of them; it leaves the host address of the window's start in R14, and every member is
// then a single instruction [r14 + offset] that clobbers no flags.
//
// A run goes on behind a side exit. What is looked up for accesses there may never happen; a hit changes nothing, and a miss leads to the
// way without. But only a run that has stored before looks up a store behind a side exit: else code that just reads a page that it may not
// write, or has not written yet, would always miss.
//
// Steps of a pointer (LEA r, [r + c], as of PUSH and POP) are put off until somebody wants r: no member does. Nothing in the run can
// fault but what is no member, and that counts as wanting it, as do exits.
//
// If the lookup misses - another page in part, a device, a page not yet in the TLB - the run is done out of line, op by op with
// lookups of their own, by emitting the same ops again; then control comes back behind the run, with temporaries and flags where
// the hot version has them. Both versions keep temporaries out of R14 but for the last op's result, so they agree on those by
// construction; flags are reconciled at the end of the cold one.
#include "tcg/host/emit.h"

#include "kernel/base/log.h"

static bool is_access(const struct ir_op *o) { return o->has_mem && o->opc != IR_LEA; }

static bool ends_run(const struct ir_op *o) { return o->opc == IR_CALL || (ir_opc_props(o->opc) & IRP_X); }

// LEA d, [r + c].
static bool is_sum(const struct ir_op *o)
{
    return o->opc == IR_LEA && o->size == 8 && o->mem.addr_size == 8 && o->mem.base < 32 && o->mem.index == IR_NONE && o->d < 32;
}

static bool is_step(const struct ir_op *o) { return is_sum(o) && o->d == o->mem.base && host_of(o->d) != H_NONE; }

// Registers at known distances from the value that the base of the run's first access has there.
struct known { u32 regs; s64 off[32]; };
enum { FAR = 1 << 20, FAR_DISP = 1 << 30 };

static bool knows(const struct known *k, u8 r) { return r < 32 && (k->regs >> r & 1); }

// By how much o's destination differs from register *from. False: it is something else.
static bool derives(const struct ir_op *o, u8 *from, s64 *by)
{
    *by = 0;
    if (o->size != 8 || o->d >= 32) return false;
    if (is_sum(o)) {
        *from = o->mem.base;
        *by = o->mem.disp;
        return true;
    }
    *from = o->a;
    switch (o->opc) {
    case IR_MOV: return true;
    case IR_INC: *by = 1; return true;
    case IR_DEC: *by = -1; return true;
    case IR_ADD: *by = o->imm; return o->b == IR_IMM;
    case IR_SUB: *by = -o->imm; return o->b == IR_IMM;
    default: return false;
    }
}

static void follow(struct known *k, const struct ir_op *o)
{
    u8 from;
    s64 by;
    if (derives(o, &from, &by) && knows(k, from) && by > -FAR && by < FAR && k->off[from] + by > -FAR && k->off[from] + by < FAR) {
        k->off[o->d] = k->off[from] + by;
        k->regs |= 1u << o->d;
        return;
    }
    k->regs &= ~(u32)ir_writes(o);
}

static bool can_join(const struct ir_op *o, const struct known *k, u8 mmu)
{
    const struct ir_mem *m = &o->mem;
    return is_access(o) && knows(k, m->base) && m->index == IR_NONE && m->addr_size == 8 && !m->seg_slot && !m->seg_wrap && m->mmu == mmu;
}

// Op j becomes a member, if the window then is not too large.
static bool join(struct emit *e, struct group *g, const struct known *k, unsigned j)
{
    const struct ir_op *o = &e->b->ops[j];
    s64 at = k->off[o->mem.base] + o->mem.disp, end = at + emit_mem_size(o);
    s64 lo = at < g->lo ? at : g->lo, hi = end > g->hi ? end : g->hi;
    if (hi - lo > GROUP_WINDOW_MAX || at < -FAR_DISP || end > FAR_DISP) return false;
    g->lo = (s32)lo;
    g->hi = (s32)hi;
    g->write |= o->mem_rw >> 1;
    g->last = g->last_member = j;
    e->member_at[j] = (s32)at;
    e->member_of[j] = (u16)(e->n_groups + 1);
    return true;
}

// Tries to make a group that starts at op i; returns the number of members.
static unsigned group_try(struct emit *e, unsigned i, struct group *g)
{
    const struct ir_op *first = &e->b->ops[i];
    struct known k;
    if (!is_access(first) || first->mem.base >= 32) return 0;
    k.regs = 1u << first->mem.base;
    k.off[first->mem.base] = 0;
    *g = (struct group){.first = i, .last = i, .last_member = i, .mmu = first->mem.mmu, .lo = first->mem.disp, .hi = first->mem.disp};
    if (!can_join(first, &k, g->mmu)) return 0;
    unsigned members = 0;
    bool maybe = false;                        // behind a side exit
    for (unsigned j = i; j < e->b->n && j < i + GROUP_OPS_MAX && k.regs; j++) {
        const struct ir_op *o = &e->b->ops[j];
        if (ends_run(o)) break;
        maybe |= (ir_opc_props(o->opc) & IRP_S) != 0;
        if (can_join(o, &k, g->mmu) && (!maybe || g->write || !(o->mem_rw & 2))) members += join(e, g, &k, j);
        // A step right behind the last member is put off with those before it.
        if (is_step(o) && g->last == j - 1) g->last = j;
        follow(&k, o);
    }
    return members;
}

void emit_groups_plan(struct emit *e)
{
    e->n_groups = 0;
    for (unsigned i = 0; i < e->b->n; i++) e->member_of[i] = 0;
    for (unsigned i = 0; i < e->b->n && e->n_groups < EMIT_MAX_GROUPS; i++) {
        struct group *g = &e->groups[e->n_groups];
        unsigned members = group_try(e, i, g);
        if (members >= 2) {
            e->n_groups++;
            i = g->last;
        } else if (members) {
            e->member_of[i] = 0;               // (the first is always one)
        }
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
    emit_ea(e, &start, H_R14);
    e->busy = 0;
    struct cold *c = emit_lookup(e, g->mmu, g->write, (unsigned)(g->hi - g->lo), H_R14, COLD_GROUP);
    c->group = (u16)(g - e->groups);
    as_alu_rm(as, 0, 8, H_R14, rm_gs_idx(H_R13, 0, c->tlb_off + TLB_HOST));
    g->start = (struct flags_at){e->fl_host, e->fl_saved, e->fl_def, e->fl_recipe, e->fl_written};
    g->insn = e->insn;
    e->group = g;
    e->r14_kept = true;
    e->put_off = IR_NONE;
}

// Does o want register r, other than as the base of a member's address?
static bool wants(const struct emit *e, const struct ir_op *o, u8 r)
{
    bool member = e->member_of[e->i] == (e->group - e->groups) + 1;
    if ((ir_opc_props(o->opc) & (IRP_X | IRP_S)) || o->opc == IR_HOST) return true;
    if (!member && ir_may_fault(o)) return true;
    if (((o->a == r || o->b == r || o->d == r) && o->opc != IR_INSN) || (ir_writes(o) >> r & 1)) return true;
    return !member && o->has_mem && (o->mem.base == r || o->mem.index == r);
}

static void step_now(struct emit *e)
{
    if (e->put_off == IR_NONE) return;
    u8 h = host_of(e->put_off);
    if (e->step) as_lea(&e->as, 8, h, rm_mem(h, H_NONE, 0, (s32)e->step));
    e->put_off = IR_NONE;
}

bool emit_group_step(struct emit *e, const struct ir_op *o)
{
    if (!e->group) return false;
    if (is_step(o)) {
        if (e->put_off != o->d) {
            step_now(e);
            e->step = 0;
        }
        if (fits_s32(e->step + o->mem.disp)) {
            e->put_off = o->d;
            e->step += o->mem.disp;
            emit_flags_after(e, o);
            emit_op_end(e, o);
            return true;
        }
    }
    if (e->put_off != IR_NONE && wants(e, o, e->put_off)) step_now(e);
    return false;
}

// Is the op being emitted a member of the run now open? Then its bytes are here.
bool emit_group_member(struct emit *e, struct rm *rm)
{
    if (!e->group || e->member_of[e->i] != (e->group - e->groups) + 1) return false;
    *rm = rm_mem(H_R14, H_NONE, 0, e->member_at[e->i] - e->group->lo);
    if (e->i == e->group->last_member) e->r14_kept = false;      // the result of the last may take R14
    return true;
}

void emit_group_end(struct emit *e)
{
    struct group *g = e->group;
    if (!g || g->last != e->i) return;
    step_now(e);
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
        e->no_temp_r14 = e->i < g->last_member;
        if (o->opc == IR_INSN) e->insn++;
        emit_one(e, o);
    }
    e->no_temp_r14 = e->again = false;
    e->i = g->last;
    if (g->end_saved && !e->fl_saved) emit_flags_save(e);
    if (g->end_host && !e->fl_host && e->fl_saved) emit_flags_need(e);
    as_jmp(&e->as, g->hot_end);
}
