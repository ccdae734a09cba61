// Interrupt lines into a vCPU, and what a vCPU asks of its local APIC. With tcg/phys.h, all that devices/ sees of tcg/.
//
// Rule: a vCPU's local APIC registers belong to that vCPU. Only the vCPU's own core, outside interrupt context, reads or changes
// them (cpu_is_self()). Everyone else - timers, other vCPUs, devices - posts: an atomic bit in a mailbox, then a kick. The owner
// folds the mailbox into its APIC at its next exit. Posting is idempotent and never loses an interrupt; it is the software twin
// of VT-x posted interrupts.
#pragma once

#include "kernel/base/types.h"

struct vcpu;

// ---- devices -> vCPU: any context, any core, no lock needed ------------------------------------------------
// A fixed interrupt `vector` (16..255). `level` marks it level-triggered (sets TMR, wants an EOI broadcast).
void vcpu_post_interrupt(struct vcpu *c, u8 vector, bool level);
// The 8259's INTR wire (ExtINT through LINT0): level semantics, stays until lowered.
void vcpu_set_extint(struct vcpu *c, bool asserted);
void vcpu_post_nmi(struct vcpu *c);
void vcpu_post_init(struct vcpu *c);
void vcpu_post_sipi(struct vcpu *c, u8 page);      // start at page << 12, SDM 3A 8.4.3
// Queues fn(c, arg) to run on c's own core at its next exit, outside interrupt context, without the BQL. At most a fixed number
// (64) may be outstanding; more is a panic. For CPU-private work: TLB flushes, APIC state.
void cpu_run_async(struct vcpu *c, void (*fn)(struct vcpu *c, void *arg), void *arg);
// Makes c leave translated code or HLT soon, to look at its mailboxes.
void vcpu_kick(struct vcpu *c);
// True when the caller runs as c: on its core and not in interrupt context.
bool cpu_is_self(struct vcpu *c);
// The vCPU that runs on this core (its translated code, a helper, its loop), or NULL. Any context.
struct vcpu *vcpu_current(void);
// 0-based index, which is also the local APIC ID.
unsigned vcpu_index(const struct vcpu *c);
// Full machine reset or power-off request: every vCPU leaves; the machine's main loop acts. Any context.
void vcpu_request_shutdown(struct vcpu *c, int code);
void vcpu_request_reset(struct vcpu *c);

// ---- vCPU -> its local APIC: called on the vCPU's own core only, BQL not held (the APIC takes it where it reaches other devices) ---
struct apic_ops {
    // Folds `vectors` (a 256-bit mask posted meanwhile) into IRR; `level` marks the level-triggered ones.
    void (*fold)(void *apic, const u64 vectors[4], const u64 level[4]);
    // True when an interrupt of sufficient priority waits (SDM 3A 10.8.3).
    bool (*pending)(void *apic);
    // Takes it: highest-priority vector moves IRR -> ISR and is returned; -1 none. For ExtINT the 8259 is asked by the vCPU
    // through extint_ack.
    int (*ack)(void *apic);
    // True when LINT0/ExtINT delivery is open (APIC off, or LVT LINT0 unmasked in ExtINT mode).
    bool (*extint_open)(void *apic);
    int (*extint_ack)(void *apic);          // 8259 INTA cycle: the vector. Takes the BQL itself.
    u8 (*get_tpr)(void *apic);              // CR8 = TPR >> 4
    void (*set_tpr)(void *apic, u8 tpr);
    // MSRs 0x1b and 0x800..0x8ff, and IA32_TSC_DEADLINE 0x6e0. False: #GP.
    bool (*rdmsr)(void *apic, u32 msr, u64 *val);
    bool (*wrmsr)(void *apic, u32 msr, u64 val);
    void (*reset)(void *apic, bool init);   // power-up or INIT
};
void vcpu_set_apic(struct vcpu *c, const struct apic_ops *ops, void *apic);
