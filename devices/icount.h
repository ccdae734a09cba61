// The virtual clock made of an instruction count (-icount): see icount.c. One per machine; started before the first vCPU runs.
#pragma once

#include "kernel/base/types.h"

enum { ICOUNT_SHIFT_MAX = 10 };

struct icount_config {
    unsigned shift;                        // an instruction takes 1 << shift nanoseconds; 0..ICOUNT_SHIFT_MAX
    bool sleep;                            // while the guest waits, real time passes too
    u64 (*count)(void);                    // instructions so far; any context
    void (*moved)(void);                   // the answer of icount_turn_clock is no longer right; BQL held, any context
};

// After clocks_init. BQL held.
void icount_start(const struct icount_config *cfg);
// The virtual clock; any context.
u64 icount_ns(void);
// Nanoseconds of it that passed while the guest waited. Any context.
u64 icount_waited_ns(void);
// Runs the virtual timers that are due; returns how many instructions may run until the next is: 1 at least. BQL held, no interrupt
// context.
u64 icount_turn_clock(void);
// The guest waits for an interrupt: the clock goes to the next deadline, at once or after as much real time, and what is due is run;
// without a deadline, sleeps until an interrupt of the host. BQL held (given up while asleep), no interrupt context.
void icount_wait(void);
