// The local APIC's insides, shared by lapic.c (registers), lapic_timer.c and lapic_bus.c (delivery). Nobody else includes it.
// Functions shared between these files are vlapic_*, because the bare-metal kernel has names for the host's own local APIC.
//
// Who may touch what is the point of the grouping below. The registers belong to the owning vCPU, outside interrupt context.
// Others see two things: `route`, an atomic word that the owner publishes so that senders can match destinations without a
// lock, and the timer's `shot`, the owner's order to the timer callback, guarded by the BQL.
#pragma once

#include "devices/clock.h"
#include "devices/devices.h"
#include "kernel/base/bits.h"
#include "kernel/base/log.h"
#include "kernel/plat.h"

enum { LAPIC_MAX = 255 };   // IDs 0..254: 255 is the broadcast

// Register numbers: offset in the xAPIC page >> 4, and MSR - 0x800 in x2APIC mode (SDM 3A 11.4.1, 11.12.1.2).
enum {
    LR_ID = 0x02, LR_VERSION = 0x03, LR_TPR = 0x08, LR_APR = 0x09, LR_PPR = 0x0a, LR_EOI = 0x0b, LR_RRD = 0x0c, LR_LDR = 0x0d,
    LR_DFR = 0x0e, LR_SVR = 0x0f, LR_ISR = 0x10, LR_TMR = 0x18, LR_IRR = 0x20, LR_ESR = 0x28, LR_ICR = 0x30, LR_ICR_HIGH = 0x31,
    LR_LVT = 0x32, LR_INITIAL = 0x38, LR_CURRENT = 0x39, LR_DIVIDE = 0x3e, LR_SELF_IPI = 0x3f,
};
// Entries of the local vector table in the order of their registers.
enum { LVT_TIMER, LVT_THERMAL, LVT_PERF, LVT_LINT0, LVT_LINT1, LVT_ERROR, LVT_COUNT };
enum { LVT_MASKED = 1 << 16 };

// Delivery modes, bits 10:8 of LVT entries, of the ICR, of MSI data and of redirection entries.
enum { DM_FIXED, DM_LOWEST, DM_SMI, DM_RESERVED, DM_NMI, DM_INIT, DM_SIPI, DM_EXTINT };

enum { APIC_BASE_BSP = 1 << 8, APIC_BASE_EXTD = 1 << 10, APIC_BASE_EN = 1 << 11 };
#define APIC_BASE_DEFAULT 0xfee00000ull

enum { SVR_ENABLE = 1 << 8, SVR_NO_EOI_BROADCAST = 1 << 12 };
enum { ESR_SEND_ILLEGAL = 1 << 5, ESR_RECEIVE_ILLEGAL = 1 << 6, ESR_ILLEGAL_REGISTER = 1 << 7 };

// route: LDR's byte in bits 15:8.
enum { ROUTE_EN = 1, ROUTE_X2 = 2, ROUTE_SW = 4, ROUTE_FLAT = 8 };

enum lapic_timer_mode { TIMER_ONESHOT, TIMER_PERIODIC, TIMER_TSC, TIMER_RESERVED };

struct lapic_shot {         // BQL
    enum lapic_timer_mode mode;
    bool masked;
    u8 vector;
    u64 due_ns;             // exact time of the next expiry; the timer itself may be armed a bit later
    u64 period_ns;
    u64 tsc_deadline;       // IA32_TSC_DEADLINE; 0: none
};

struct lapic {
    // ---- constant once the first vCPU runs ----
    struct vcpu *vcpu;
    unsigned id;
    int (*pic_ack)(void *pic);
    void *pic;
    u64 tsc_hz;
    u64 (*read_guest_tsc)(struct vcpu *c);

    // ---- owner ----
    u64 base;                               // IA32_APIC_BASE
    u64 irr[4], isr[4], tmr[4];
    u64 icr;
    u32 tpr, ldr, dfr, svr, divide;
    u32 esr, errors;                        // as last latched by a write; gathered since
    u32 lvt[LVT_COUNT];
    u32 initial;                            // initial count
    bool counting;                          // current count is a function of the clock; else 0
    u64 count_start;                        // virtual time at which the count was `initial`

    // ---- atomic: owner writes, all read ----
    u32 route;

    // ---- BQL ----
    struct timer timer;
    struct lapic_shot shot;
};

static inline bool lapic_x2(const struct lapic *l) { return l->base & APIC_BASE_EXTD; }
static inline bool lapic_on(const struct lapic *l) { return l->base & APIC_BASE_EN; }
#define LAPIC_OWNED(l) ASSERT(cpu_is_self((l)->vcpu), "local APIC %u used by somebody else", (l)->id)

// ---- lapic_timer.c; owner, BQL not held ----
void vlapic_timer_init(struct lapic *l);
void vlapic_timer_reset(struct lapic *l);                       // registers and timer
void vlapic_timer_set_initial(struct lapic *l, u32 count);
void vlapic_timer_set_divide(struct lapic *l, u32 val);
void vlapic_timer_set_lvt(struct lapic *l, u32 entry);          // also stores the entry
u32 vlapic_timer_current(struct lapic *l);
u64 vlapic_timer_deadline(struct lapic *l);                     // IA32_TSC_DEADLINE
void vlapic_timer_set_deadline(struct lapic *l, u64 tsc);

// ---- lapic_bus.c ----
void vlapic_bus_add(struct phys *p, struct lapic *l, const struct io_ops *ops);   // maps the page with the first one
struct lapic *vlapic_of(struct vcpu *c);                        // NULL if c is NULL or has none
void vlapic_publish(struct lapic *l);                           // owner: route from the registers
bool vlapic_send_ipi(struct lapic *from, u64 icr);              // false: illegal vector
