// All cores together: which there are, giving them work, and reaching them when interrupts do not.
#pragma once

#include "kernel/base/types.h"

struct core;

// The boot core becomes core 0.
void cores_init(void);
// Boot core: a parked core becomes the next in number, which its record has already.
void cores_add(struct core *c);
// All of them, those given to I/O included.
unsigned cores_count(void);
// The last core that plat_core_count counts is for I/O, and it counts it no more. Boot core, before the vCPUs' cores start.
void cores_give_to_io(unsigned id);
// Interrupt `vector` on core `id`. Any context.
void cores_send(unsigned id, u8 vector);
// The record of core `id`, of those that there are.
struct core *cores_get(unsigned id);
// On a new core, last of all: waits for plat_core_start, taking interrupts, and runs its function.
NORETURN void cores_park(struct core *c);

// Forgets what this and all other cores remember of the page tables' entries for [virt, virt + size), after they were cleared and before
// what they mapped is used again. Waits for all; the others may have interrupts off and wait for anything, even for a lock that the
// caller holds. Not from NMI context.
void cores_flush(u64 virt, u64 size);
// Stops all other cores, wherever they are, for good: locks they hold stay held. If two cores want to be the last, one of them is stopped
// here. Any context.
void cores_stop_others(void);
// From trap_dispatch, on an NMI: was it one of the above?
bool cores_nmi(void);
