// The guest's arithmetic flags as one value: where it is, and when it must move.
//
// The value is in EFLAGS (fl_host), in vcpu.cc (fl_saved), in both, or in neither. Neither is allowed when nobody on the straight
// path reads it again and every fault point up to its redefinition can rebuild it from registers (the recipe). So the decision is
// taken lazily, at the first thing that would clobber EFLAGS: emit_flags_before_clobber looks ahead to the next complete
// definition. A save is five instructions, so this look-ahead, which is a few ops long as a rule, pays.
//
// At exits the value leaves in EFLAGS or in vcpu.cc, as it happens to be (struct tb_exit.saved); the next TB has an entry for
// either.
#include "tcg/host/emit.h"

#include "kernel/base/log.h"

static const u16 NO_RECIPE = 0xffff;

static bool is_exit(const struct ir_op *o) { return ir_opc_props(o->opc) & (IRP_X | IRP_S); }

bool emit_op_keeps_flags(const struct ir_op *o)
{
    if (o->fuse) return true;
    return o->fdef && o->fdef != FL_ALL;
}

// Would the value be read by o itself (not by its fault frame)?
static bool op_reads_value(const struct ir_op *o)
{
    return o->fuse || (o->fdef && o->fdef != FL_ALL) || is_exit(o) || o->opc == IR_CALL;
}

static bool recipe_valid(const struct emit *e, u16 recipe, u64 written)
{
    if (recipe == NO_RECIPE) return false;
    const struct flag_recipe *r = &e->recipes[recipe];
    if (r->a < 32 && (written & 1ull << r->a)) return false;
    return !(r->b < 32 && (written & 1ull << r->b));
}

// From the op being emitted to the next complete definition: is the value needed, beyond what the recipe can rebuild?
static bool value_needed(const struct emit *e)
{
    u64 written = e->fl_written;
    for (unsigned j = e->i; j < e->b->n; j++) {
        const struct ir_op *o = &e->b->ops[j];
        if (op_reads_value(o)) return true;
        if (ir_may_fault(o) && !recipe_valid(e, e->fl_recipe, written)) return true;
        if (o->fdef == FL_ALL) return false;
        written |= ir_writes(o);
    }
    return true;
}

void emit_flags_start(struct emit *e)
{
    e->recipes[0] = (struct flag_recipe){.kind = FR_SAVED};
    e->recipes[1] = (struct flag_recipe){.kind = FR_HOST};
    e->n_recipes = 2;
    e->fl_host = true;
    e->fl_saved = false;
    e->fl_def = -1;
    e->fl_recipe = NO_RECIPE;
    e->fl_written = 0;
}

void emit_flags_save(struct emit *e)
{
    if (e->fl_saved) return;
    ASSERT(e->fl_host, "flags lost at op %u of block %#llx", e->i, (unsigned long long)e->b->pc);
    // RAX rests in a scratch register meanwhile, or in memory when all three are taken.
    for (unsigned n = 0; n < 3; n++) {
        if ((e->busy & 1u << n) || (n == 2 && (e->r14_temp != IR_NONE || e->r14_kept))) continue;
        host_flags_save(&e->as, (u8)(H_R12 + n));
        e->fl_saved = true;
        return;
    }
    panic("no scratch register to save flags at op %u of block %#llx", e->i, (unsigned long long)e->b->pc);
}

void emit_flags_before_clobber(struct emit *e)
{
    if (e->fl_host && !e->fl_saved && value_needed(e)) emit_flags_save(e);
    e->fl_host = false;
}

void emit_flags_need(struct emit *e)
{
    if (e->fl_host) return;
    ASSERT(e->fl_saved, "flags needed but lost at op %u of block %#llx", e->i, (unsigned long long)e->b->pc);
    for (unsigned n = 0; n < 3; n++) {
        if ((e->busy & 1u << n) || (n == 2 && (e->r14_temp != IR_NONE || e->r14_kept))) continue;
        host_flags_restore(&e->as, (u8)(H_R12 + n));
        e->fl_host = true;
        return;
    }
    as_store(&e->as, rm_gs(ENV(args[0])), H_RAX);
    as_op(&e->as, (struct enc){.map = 1, .opcode = 0xb7}, H_RAX, rm_gs(ENV(cc)));
    as_u8(&e->as, 0x04);
    as_u8(&e->as, 0x7f);
    as_u8(&e->as, 0x9e);
    as_load(&e->as, H_RAX, rm_gs(ENV(args[0])));
    e->fl_host = true;
}

// Of the flags, o needs C alone and defines the rest (ADC, SBB, INC, DEC): where they are in vcpu.cc only, C is fetched from there.
static bool needs_carry_only(const struct ir_op *o)
{
    return o->fdef && (o->fuse | (FL_ALL & ~o->fdef)) == FL_C;
}

void emit_flags_ready(struct emit *e, const struct ir_op *o)
{
    if (!emit_op_keeps_flags(o)) return;
    if (e->fl_host || !needs_carry_only(o)) {
        emit_flags_need(e);
        return;
    }
    ASSERT(e->fl_saved, "flags needed but lost at op %u of block %#llx", e->i, (unsigned long long)e->b->pc);
    as_op(&e->as, (struct enc){.map = 1, .opcode = 0xba, .pp = 0x66}, 4, rm_gs(ENV(cc)));      // bt word, imm8
    as_u8(&e->as, 8);
    // Not the whole value, but o will make one of it.
}

enum ir_cc emit_flags_cond(struct emit *e, enum ir_cc cc)
{
    // LAHF's bits for pairs of conditions; the rest (O is elsewhere, L and LE compare it with S) is not a matter of one byte's bits.
    static const u8 bits[8] = {[CC_B >> 1] = 0x01, [CC_E >> 1] = 0x40, [CC_BE >> 1] = 0x41, [CC_S >> 1] = 0x80, [CC_P >> 1] = 0x04};
    if (e->fl_host || !bits[cc >> 1]) {
        emit_flags_need(e);
        return cc;
    }
    ASSERT(e->fl_saved, "flags needed but lost at op %u of block %#llx", e->i, (unsigned long long)e->b->pc);
    as_op(&e->as, (struct enc){.opcode = 0xf6}, 0, rm_gs(ENV(cc) + 1));                         // test byte, imm8
    as_u8(&e->as, bits[cc >> 1]);
    return cc & 1 ? CC_E : CC_NE;
}

// How the flags that o defines can be computed again, from registers as o leaves them; before_op: from operands as o finds them.
// False: they cannot.
static bool recipe_form(const struct ir_op *o, struct flag_recipe *r, bool *before_op)
{
    *r = (struct flag_recipe){.kind = FR_OP, .opc = o->opc, .size = o->size, .a = IR_NONE, .b = IR_NONE};
    *before_op = false;
    if (o->hi) return false;
    switch (o->opc) {
    case IR_SHL: case IR_SHR: case IR_SAR: case IR_IMUL:
        if (o->has_mem || (o->opc != IR_IMUL && o->b != IR_IMM)) return false;
        *before_op = true;
        r->a = o->a;
        r->b = o->b;
        break;
    case IR_CMP: case IR_TEST:
        r->a = o->a;
        r->b = o->b;
        break;
    case IR_ADD: case IR_SUB:
        if (o->d != o->a || (o->opc == IR_ADD && o->b == o->d)) return false;
        r->a = o->d;
        r->b = o->b;
        break;
    case IR_AND: case IR_OR: case IR_XOR: case IR_NEG:
        r->a = r->b = o->d;
        break;
    default:
        return false;
    }
    if (r->a >= 32 || (r->b >= 32 && r->b != IR_IMM)) return false;
    if (r->b == IR_IMM) r->imm = (s32)o->imm;
    return true;
}

// After op i, before the next complete definition: which registers of the mask `regs` are overwritten before a fault point?
// *read: the value itself is wanted before that, so that a recipe is of no use.
static u64 lost_before_fault(const struct emit *e, unsigned i, u64 regs, bool *read)
{
    u64 written = 0, lost = 0;
    *read = false;
    for (unsigned j = i + 1; j < e->b->n; j++) {
        const struct ir_op *o = &e->b->ops[j];
        if (op_reads_value(o)) {
            *read = true;
            return lost;
        }
        if (ir_may_fault(o)) lost |= written & regs;
        if (o->fdef == FL_ALL) return lost;
        written |= ir_writes(o);
    }
    *read = true;
    return lost;
}

static bool fault_follows(const struct emit *e, unsigned i)
{
    for (unsigned j = i + 1; j < e->b->n; j++) {
        if (ir_may_fault(&e->b->ops[j])) return true;
        if (e->b->ops[j].fdef == FL_ALL) return false;
    }
    return false;
}

static void keep_operand(struct emit *e, u8 *where, u8 slot)
{
    u8 r = *where;
    if (r >= 32) return;
    u8 h = emit_use(e, r);
    as_store(&e->as, rm_gs(ENV(flag_operand) + 8 * slot), h);
    *where = (u8)(FR_SLOT0 + slot);
}

// Ops behind a shared lookup are emitted twice (group.c). Code behind them is not, so both versions must leave the same recipe
// and the same kept operands: the second takes what the first decided.
static bool recipe_room(const struct emit *e)
{
    return e->again ? e->recipe_at[e->i] != NO_RECIPE : e->n_recipes < EMIT_MAX_RECIPES;
}

static u16 recipe_add(struct emit *e, const struct flag_recipe *r)
{
    if (e->again) return e->recipe_at[e->i];
    e->recipes[e->n_recipes] = *r;
    return (u16)e->n_recipes++;
}

// One or two stores beside the defining op keep what its recipe needs and the code after it overwrites: cheaper than to save the
// flags. Called before o is emitted; the rest of the work is in emit_flags_after.
void emit_flags_before_def(struct emit *e, const struct ir_op *o)
{
    struct flag_recipe r;
    bool before, read;
    e->fl_pending = NO_RECIPE;
    if (o->fdef != FL_ALL || !recipe_room(e) || !recipe_form(o, &r, &before) || !before) return;
    lost_before_fault(e, e->i, 0, &read);
    if (read || !fault_follows(e, e->i)) return;
    keep_operand(e, &r.a, 0);
    if (o->a == o->b) r.b = r.a;
    else keep_operand(e, &r.b, 1);
    e->fl_pending = recipe_add(e, &r);
    e->busy = 0;
}

// The recipe for what o has just defined.
static u16 recipe_of(struct emit *e, const struct ir_op *o)
{
    struct flag_recipe r;
    bool before, read;
    if (e->fl_pending != NO_RECIPE) return e->fl_pending;
    if (!recipe_room(e) || !recipe_form(o, &r, &before) || before) return NO_RECIPE;
    u64 regs = (r.a < 32 ? 1ull << r.a : 0) | (r.b < 32 ? 1ull << r.b : 0);
    u64 lost = lost_before_fault(e, e->i, regs, &read);
    if (!read && lost) {
        bool same = r.a == r.b;
        e->busy = 0;                             // the op is done with its scratch registers
        if (r.a < 32 && (lost >> r.a & 1)) keep_operand(e, &r.a, 0);
        if (same) r.b = r.a;
        else if (r.b < 32 && (lost >> r.b & 1)) keep_operand(e, &r.b, 1);
    }
    return recipe_add(e, &r);
}

void emit_flags_after(struct emit *e, const struct ir_op *o)
{
    if (o->opc == IR_CALL) {
        e->fl_host = false;
        e->fl_saved = true;
    } else if (o->fdef) {
        e->fl_host = true;
        e->fl_saved = false;
        e->fl_def = (int)e->i;
        e->fl_recipe = e->recipe_at[e->i] = o->fdef == FL_ALL ? recipe_of(e, o) : NO_RECIPE;
        e->fl_written = 0;
        return;
    }
    e->fl_written |= ir_writes(o);
}

u16 emit_flags_recipe(struct emit *e)
{
    if (e->fl_saved) return 0;
    // A recipe is preferred to EFLAGS: behind a shared lookup the cold path may come back without them.
    if (recipe_valid(e, e->fl_recipe, e->fl_written)) return e->fl_recipe;
    if (e->fl_host) return 1;
    return 0;   // nobody can see them: redefined before any fault point
}

void emit_mark(struct emit *e, u16 insn, u16 recipe)
{
    u32 off = emit_off(e, e->as.p);
    if (e->n_marks) {
        const struct tb_mark *m = &e->marks[e->n_marks - 1];
        if (m->insn == insn && m->recipe == recipe) return;
    }
    ASSERT(e->n_marks < EMIT_MAX_MARKS, "marks%s", "");
    e->marks[e->n_marks++] = (struct tb_mark){.off = off, .insn = insn, .recipe = recipe};
}
