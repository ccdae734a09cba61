// Switching the machine off and restarting it.
#pragma once

#include "kernel/base/types.h"

// Maps what the two below need.
void power_init(void);
// Both stop the other cores (cores_stop_others) first or have had them stopped. Returns only if the machine has no way that works.
void power_off(void);
NORETURN void power_reset(void);
