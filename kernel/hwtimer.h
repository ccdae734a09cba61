// Time from the TSC, and the one hardware timer, shared by two users: the machine (plat_timer_arm) and the console's screen refresh.
#pragma once

#include "kernel/base/types.h"

enum hwtimer_user { HWTIMER_MACHINE, HWTIMER_CONSOLE, HWTIMER_USERS };

// Calibrates the TSC (and the APIC timer where there is no TSC deadline). Needs ACPI and the local APIC.
void hwtimer_init(u64 wall_ns, u64 wall_tsc);
// True once deadlines can fire.
bool hwtimer_ready(void);
u64 hwtimer_now_ns(void);
// Returns that much later; any context, and time passes with interrupts off too.
void hwtimer_wait_ns(u64 ns);
u64 hwtimer_wall_ns(void);
u64 hwtimer_tsc_hz(void);
// Any core, any context but NMI. UINT64_MAX disarms.
void hwtimer_arm(enum hwtimer_user u, u64 deadline_ns);
// From trap_dispatch, on the boot core.
void hwtimer_interrupt(void);
