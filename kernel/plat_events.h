// The machine's callbacks, as registered by plat_events_set. Inside kernel/ only.
#pragma once

#include "kernel/plat.h"

// Never NULL; members may be NULL before the machine is there.
const struct plat_events *plat_events_get(void);
