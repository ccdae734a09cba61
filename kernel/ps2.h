// The PS/2 keyboard, or whatever the firmware shows as one.
#pragma once

#include "kernel/base/types.h"

// Looks for a controller and routes its interrupt. False: none.
bool ps2_init(void);
// Takes scan codes from the controller and turns them into console bytes; returns how many went into buf (room for 8 suffices per
// call), 0 when it has nothing more to give. Interrupts off.
unsigned ps2_read(u8 *buf, bool *more);
