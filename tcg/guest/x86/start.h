// Putting an x86 vCPU where a boot loader would hand over: flat segments, long mode or 32-bit protected mode, interrupts off.
#pragma once

#include "tcg/run/vcpu.h"

struct x86_start {
    bool mode64;
    u64 pc, rsi, rsp, cr3, gdt_base;
    u32 eax, ebx;
    u16 gdt_limit, cs, ds;
};

// A vCPU of this architecture, reset, not running; index is its APIC id. tsc_hz: rate of the host's TSC, 0 unknown. NULL: no
// memory.
struct vcpu *x86_vcpu_new(struct tcg *t, struct phys *p, unsigned index, unsigned cpus, u64 tsc_hz);
// After a reset: takes c to the state that s describes. Own core or not running.
void x86_vcpu_start(struct vcpu *c, const struct x86_start *s);
// Power-on reset. Own core or not running.
void x86_vcpu_reset(struct vcpu *c);
// The guest's TSC now; any context.
u64 x86_vcpu_tsc(struct vcpu *c);
// The machine stood still for so many ticks of the host's TSC: the guest's did as well. The vCPU does not run meanwhile.
void x86_vcpu_tsc_hold(struct vcpu *c, u64 ticks);
// icount: the TSC counts these nanoseconds (1 GHz), and no host timing shows in the guest's state. Before the first run.
void x86_vcpu_set_clock(struct vcpu *c, u64 (*virtual_ns)(void));
// RDRAND and RDSEED give the same numbers for the same seed. Before the first run.
void x86_vcpu_set_seed(struct vcpu *c, u64 seed);
