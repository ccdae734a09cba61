// Passes over a block. Liveness of the six flags runs backward: at every exit all flags are live, because the next block may read
// them. Faults are not uses here: what a fault's frame needs is settled per fault point by the emitter (tcg/host/flags.c),
// because a value that is only visible in a frame can usually be rebuilt from registers.
#include "tcg/ir/ir.h"

static u8 flags_used(const struct ir_op *o)
{
    u32 p = ir_opc_props(o->opc);
    if ((p & (IRP_X | IRP_S)) || o->opc == IR_CALL) return FL_ALL;
    return o->fuse;
}

void ir_optimise(struct ir_block *b)
{
    u8 live = FL_ALL;
    for (unsigned i = b->n; i-- > 0;) {
        struct ir_op *o = &b->ops[i];
        o->live = live;
        live = (u8)((live & ~o->fdef) | flags_used(o));
    }
}
