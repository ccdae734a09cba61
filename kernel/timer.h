// Time from the TSC, and the one hardware timer, shared by two users: the machine (plat_timer_arm) and the console's screen refresh.
#pragma once

#include "kernel/base/types.h"

enum timer_user { TIMER_MACHINE, TIMER_CONSOLE, TIMER_USERS };

// Calibrates the TSC (and the APIC timer where there is no TSC deadline). Needs ACPI and the local APIC.
void timer_init(u64 wall_ns, u64 wall_tsc);
// True once deadlines can fire.
bool timer_ready(void);
u64 timer_now_ns(void);
u64 timer_wall_ns(void);
u64 timer_tsc_hz(void);
// Interrupts off. UINT64_MAX disarms.
void timer_arm(enum timer_user u, u64 deadline_ns);
// From trap_dispatch.
void timer_interrupt(void);
