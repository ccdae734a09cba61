// Scratch registers and temporaries. R12-R14 are all there is: R12 and R13 make addresses, R14 carries one temporary from op to
// op while it can. Temporaries live within one guest instruction and there are rarely two at once, so a second one simply lives
// in vcpu.temps.
#include "tcg/host/emit.h"

#include "kernel/base/log.h"

static struct rm temp_slot(u8 r) { return rm_gs(ENV(temps) + 8 * (r - IR_T0)); }
static bool is_temp(u8 r) { return r >= IR_T0 && r < IR_T0 + IR_NTEMPS; }

// Backward over the block: a temporary dies at the op after which nobody reads it.
void emit_temps_plan(struct emit *e)
{
    u64 live = 0;
    for (unsigned i = e->b->n; i-- > 0;) {
        const struct ir_op *o = &e->b->ops[i];
        if (o->opc == IR_INSN) live = 0;
        u64 touched = (ir_reads(o) | ir_writes(o)) >> IR_T0;
        e->temp_last[i] = (u16)(touched & ~live);
        live = (live & ~(ir_writes(o) >> IR_T0)) | ir_reads(o) >> IR_T0;
    }
}

void emit_spill_temp(struct emit *e)
{
    u8 r = e->r14_temp;
    if (r == IR_NONE) return;
    as_store(&e->as, temp_slot(r), H_R14);
    e->temp_reg[r - IR_T0] = H_NONE;
    e->r14_temp = IR_NONE;
}

u8 emit_scratch(struct emit *e)
{
    for (unsigned n = 0; n < 3; n++) {
        if (e->busy & 1u << n) continue;
        if (n == 2 && e->r14_temp != IR_NONE) {
            if (e->held[2] == e->r14_temp) break;      // in use by this very op
            emit_spill_temp(e);
        }
        if (n == 2 && e->r14_kept) {               // the open group lends its register for the rest of this op
            as_store(&e->as, rm_gs(ENV(group_addr)), H_R14);
            e->r14_kept = false;
            e->r14_lent = true;
        }
        e->busy |= (u8)(1u << n);
        e->held[n] = IR_NONE;
        return (u8)(H_R12 + n);
    }
    panic("op %s at %#llx needs a fourth scratch register", ir_opc_name(e->b->ops[e->i].opc), (unsigned long long)e->b->pc);
}

static u8 find_held(const struct emit *e, u8 r)
{
    for (unsigned n = 0; n < 3; n++)
        if ((e->busy & 1u << n) && e->held[n] == r) return (u8)(H_R12 + n);
    return H_NONE;
}

static u8 in_register(struct emit *e, u8 r)
{
    if (is_temp(r)) {
        if (e->temp_reg[r - IR_T0] == H_NONE) return H_NONE;
        e->busy |= 4;
        e->held[2] = r;
        return H_R14;
    }
    return host_of(r);
}

u8 emit_use(struct emit *e, u8 r)
{
    u8 h = in_register(e, r);
    if (h == H_NONE) h = find_held(e, r);
    if (h != H_NONE) return h;
    h = emit_scratch(e);
    e->held[h - H_R12] = r;
    as_load(&e->as, h, is_temp(r) ? temp_slot(r) : env_reg(r));
    return h;
}

u8 emit_def(struct emit *e, u8 r, bool keep)
{
    if (keep) return emit_use(e, r);
    u8 h = in_register(e, r);
    if (h == H_NONE) h = find_held(e, r);
    if (h != H_NONE) return h;
    if (is_temp(r) && e->r14_temp == IR_NONE && !(e->busy & 4) && !e->r14_kept && !e->r14_lent && !e->no_temp_r14) {
        e->r14_temp = r;
        e->temp_reg[r - IR_T0] = H_R14;
        e->busy |= 4;
        e->held[2] = r;
        return H_R14;
    }
    // A source that is only read may give its register to the destination when nothing else is free (three-operand forms with a
    // memory operand).
    h = (e->busy & 7) == 7 && e->held[2] != IR_NONE && !is_temp(e->held[2]) ? H_R14 : emit_scratch(e);
    e->held[h - H_R12] = r;
    return h;
}

void emit_def_done(struct emit *e, u8 r, u8 h)
{
    if (is_temp(r)) {
        if (e->temp_reg[r - IR_T0] == H_NONE) as_store(&e->as, temp_slot(r), h);
    } else if (host_of(r) == H_NONE) {
        as_store(&e->as, env_reg(r), h);
    } else {
        as_mov_rr(&e->as, host_of(r), h);
    }
}

void emit_op_end(struct emit *e, const struct ir_op *o)
{
    e->busy = 0;
    if (e->r14_lent) {
        as_load(&e->as, H_R14, rm_gs(ENV(group_addr)));
        e->r14_lent = false;
        e->r14_kept = true;
    }
    u8 r = e->r14_temp;                          // the only one that is in a register
    if (r == IR_NONE || (o->opc != IR_INSN && !(e->temp_last[e->i] & 1u << (r - IR_T0)))) return;
    e->temp_reg[r - IR_T0] = H_NONE;
    e->r14_temp = IR_NONE;
}
