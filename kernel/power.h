// Switching the machine off and restarting it.
#pragma once

#include "kernel/base/types.h"

// Returns only if the machine has no way that works.
void power_off(void);
NORETURN void power_reset(void);
