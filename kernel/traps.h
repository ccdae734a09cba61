// Exceptions and interrupts: the frame that every handler sees, and where they lead.
#pragma once

#include "kernel/base/types.h"

// What traps.S pushes, lowest address first, above it what the processor pushes (SDM 3A 6.14.2).
struct trap_frame {
    u64 r15, r14, r13, r12, r11, r10, r9, r8, rbp, rdi, rsi, rdx, rcx, rbx, rax;
    u64 vector, error;
    u64 rip, cs, rflags, rsp, ss;
};

enum {   // interrupt vectors of the bare-metal side
    VEC_SERIAL = 0x41, VEC_KEYBOARD = 0x42, VEC_VIRTIO_BLK = 0x43, VEC_TIMER = 0xe0, VEC_KICK = 0xe1, VEC_ATTENTION = 0xe2,
    VEC_SPURIOUS = 0xff,
};

// Loads the IDT. After it, a fault shows a dump.
void traps_init(void);
// Loads it on another core.
void traps_load(void);
// traps.S calls it with interrupts off.
void trap_dispatch(struct trap_frame *f);
