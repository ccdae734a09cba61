// The profiler's timer, and its table: where the vCPUs' time goes. For kernel/machine.c; the rest of the world calls machine_profile
// (kernel/machine.h). What is sampled and how: tcg/run/profile.h.
#pragma once

#include "tcg/run/vcpu.h"

// The machine's vCPUs. Once, before profiler_switch; after clocks_init.
void profiler_init(struct vcpu **cpus, unsigned n);
// Switches sampling on, from zero, or off; what was counted stays. BQL held.
void profiler_switch(bool on);
// "info profile": shares per vCPU, and what it counted. Zero-terminated pieces of whole lines. Any context.
void profiler_info(void (*out)(void *o, const char *s), void *o);
