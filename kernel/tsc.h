// One time on all cores: what the boot core does with another's time-stamp counter, while that core follows.
#pragma once

#include "kernel/base/types.h"

struct core;

// On the other core: does what the boot core asks by the functions below, until tsc_release. Interrupts as they are.
void tsc_follow(struct core *c);

// On the boot core, c in tsc_follow:
// By how many ticks c's counter is provably ahead of this core's; negative: behind; 0: nothing can be proved.
s64 tsc_ahead(struct core *c);
// Moves c's counter by so many ticks, if the machine lets it (SDM 3B 18.17.3).
void tsc_move(struct core *c, s64 by);
// Makes c's counter agree with this core's. Returns what is provably left, as tsc_ahead.
s64 tsc_align(struct core *c);
// Ends tsc_follow.
void tsc_release(struct core *c);
