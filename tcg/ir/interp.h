// The reference interpreter of the IR: the meaning of every op, as code. Slow and plain; used to test what the emitter makes.
#pragma once

#include "tcg/ir/ir.h"

struct vcpu;

enum ir_interp_result {
    INTERP_LEFT,        // left by op `at`; c->pc is set
    INTERP_HOST,        // stopped before op `at`, a HOST op, which has no meaning outside of the host; nothing of it is done
    INTERP_RAN_OFF,     // the block has no end: a producer's mistake
};

// Runs block b from op *at on the vCPU's state (regs, temps, cc); memory through mem_ld and mem_st, whose faults leave by vcpu_leave with
// pc and cc exact. Own core, outside of translated code, BQL not held. *at: the op it ended at.
enum ir_interp_result ir_interp(struct vcpu *c, const struct ir_block *b, unsigned *at);
