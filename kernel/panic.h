// The end, with as much said as can be known.
#pragma once

#include "kernel/base/types.h"

struct trap_frame;

// An exception nobody claimed.
NORETURN void panic_trap(struct trap_frame *f);

// The function that contains code address `a`, and the offset in it; NULL if unknown. From the table that the second link embeds.
const char *symbol_find(u64 a, u64 *offset);
