// This core's local APIC and the I/O APICs that feed it. Interrupts off or own handler; per core.
#pragma once

#include "kernel/base/types.h"

// Switches the APIC on (x2APIC where the processor has it), the 8259 off. The timer is masked.
void lapic_init(void);
// The same on another core, after lapic_init on the boot core.
void lapic_init_other(void);
bool lapic_is_x2apic(void);
u32 lapic_id(void);
void lapic_eoi(void);
// Interrupt `vector` on the core with APIC id `dest`. Any context.
void lapic_send(u32 dest, u8 vector);
// An NMI, an INIT, or a STARTUP IPI with real-mode code at physical page `page`, for that core. Any context.
void lapic_send_nmi(u32 dest);
void lapic_send_init(u32 dest);
void lapic_send_startup(u32 dest, u8 page);

// The timer, counting down at lapic_timer_hz once calibrated: one-shot.
u32 lapic_timer_count(void);                    // current count
void lapic_timer_start(u32 count, bool masked); // divide by 1; fires VEC_TIMER at 0 unless masked
bool lapic_has_tsc_deadline(void);
void lapic_timer_deadline_mode(void);           // from now on lapic_timer_deadline is used instead
void lapic_timer_deadline(u64 tsc);             // 0 disarms

// What somebody else who has the core for a while changes of its APIC: timer, priority, spurious vector. A timer that was running goes on
// with what it had left.
struct lapic_lent { u32 lvt_timer, divide, count, svr, tpr; u64 deadline; };
void lapic_lend(struct lapic_lent *s);
void lapic_take_back(const struct lapic_lent *s);
// Physical address of the registers; 0 in x2APIC mode.
u64 lapic_phys(void);

// Routes a global system interrupt to this core. False: no I/O APIC has it.
bool ioapic_route(u32 gsi, u8 vector, bool level, bool low) MUST_CHECK;
bool ioapic_route_isa(unsigned isa, u8 vector) MUST_CHECK;
