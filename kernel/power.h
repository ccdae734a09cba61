// Switching the machine off and restarting it.
#pragma once

#include "kernel/base/types.h"

// Maps what the two below need.
void power_init(void);
// Both come after console_panic_mode, or call it. Returns only if the machine has no way that works.
void power_off(void);
NORETURN void power_reset(void);
