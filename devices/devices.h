// Constructors of the guest's chips, one per chip, and how they are wired: an interrupt line is a struct irq. All are created
// before the first vCPU runs, and live as long as the machine. Registers follow the chip's data sheet; the source file says
// which.
#pragma once

#include "kernel/base/log.h"
#include "kernel/base/types.h"
#include "kernel/plat.h"
#include "tcg/irq.h"
#include "tcg/phys.h"

// Who changes a device holds the BQL. It is asserted where all such changes pass: the dispatcher of accesses (tcg/run/phys.c),
// clocks_run_expired for timer callbacks, changes of the memory map for constructors, irq_set for wires; and, by this macro, in every
// function by which anybody else reaches a device. tools/lint.py names a function that lacks it.
#define DEVICE_LOCKED() ASSERT(bql_held(), "%s without the BQL", __func__)

// A wire into an interrupt controller. Setting it: BQL held, any context.
struct irq {
    void (*set)(void *opaque, unsigned n, bool level);
    void *opaque;
    unsigned n;
};
static inline void irq_set(const struct irq *q, bool level)
{
    DEVICE_LOCKED();
    if (q->set) q->set(q->opaque, q->n, level);
}
static inline void irq_pulse(const struct irq *q)
{
    irq_set(q, true);
    irq_set(q, false);
}

// ---- interrupt controllers ----
struct lapic;
// Also registers apic_ops with the vCPU. The 0xfee00000 page is one MMIO region (unlocked) shared by all: the accessing vCPU's own APIC
// answers.
struct lapic *lapic_new(struct phys *p, struct vcpu *c, unsigned id);
void lapic_set_pic(struct lapic *l, struct vcpu *c, int (*ack)(void *pic), void *pic);
// TSC-deadline mode: the rate of the guest's TSC and how to read it (any context: the expired timer looks at it too). Without
// this call the mode is absent (IA32_TSC_DEADLINE is #GP) and CPUID must not offer it. Before the first vCPU runs.
void lapic_set_tsc(struct lapic *l, u64 tsc_hz, u64 (*read_guest_tsc)(struct vcpu *c));
#define LAPIC_TIMER_HZ NS_PER_SEC   // input of the divider, for CPUID 15H / firmware tables
// Interrupt message on the system bus (I/O APIC, MSI): SDM 3A 11.11. Any context, no lock. True when some APIC accepted it.
bool lapic_deliver(u8 dest, bool logical, u8 delivery_mode, u8 vector, bool level);
void lapic_msi(u64 addr, u32 data);
struct ioapic;
struct ioapic *ioapic_new(struct phys *p);            // 0xfec00000, 24 pins
struct irq ioapic_pin(struct ioapic *s, unsigned n);
void ioapic_reset(struct ioapic *s);                  // power-up state; BQL held, as for every *_reset below
void ioapic_eoi(u8 vector);                           // from a local APIC's EOI of a level interrupt; BQL held
struct pic;
struct pic *pic_new(struct phys *p, struct vcpu *c);  // the 8259 pair; drives vcpu_set_extint
struct irq pic_pin(struct pic *s, unsigned n);        // ISA IRQ 0..15
void pic_reset(struct pic *s);
int pic_ack(void *pic);                               // INTA cycle; takes the BQL

// ---- timers ----
struct pit *pit_new(struct phys *p, struct irq irq0);             // 8254 at 0x40, speaker port 0x61
struct hpet *hpet_new(struct phys *p, const struct irq *gsi, unsigned ngsi);   // 0xfed00000; legacy routing to irq0/irq8
struct rtc *rtc_new(struct phys *p, struct irq irq8, u64 ram_size);            // MC146818 + CMOS at 0x70
void pit_set_irq0_enabled(struct pit *s, bool on);                // HPET legacy mode takes the line
void rtc_set_irq8_enabled(struct rtc *s, bool on);                // the same; BQL held
// What legacy replacement mode drives (ISA IRQ 0 and 8) and whom it silences. Without it the mode drives gsi[2] and gsi[8] and
// silences nobody.
void hpet_set_legacy(struct hpet *s, struct pit *pit, struct rtc *rtc, struct irq irq0, struct irq irq8);
// CMOS bytes for firmware. rtc_new splits ram_size at 3 GiB; a machine with another hole says so. rtc_set_cmos: boot order, CPU
// count (0x5f) ...
void rtc_set_memory(struct rtc *s, u64 below_4g, u64 above_4g);
void rtc_set_cmos(struct rtc *s, u8 index, u8 val);
// Sets the RTC to sec seconds and ns nanoseconds after 1970-01-01 00:00; it goes on with the wall clock, or with the virtual clock, which
// stands while the guest does. Without this call it shows UTC. BQL held.
void rtc_set_time(struct rtc *s, bool virtual_clock, s64 sec, u32 ns);
bool rtc_nmi_masked(const struct rtc *s);                         // bit 7 of port 0x70
void pit_reset(struct pit *s);
void hpet_reset(struct hpet *s);
void rtc_reset(struct rtc *s);                                    // time and CMOS live on

// ---- the rest ----
struct serial;
// 16550A at `port`. out: called with the BQL held. Input arrives by serial_input (BQL held), false when the FIFO is full.
struct serial *serial_new(struct phys *p, u16 port, struct irq irq, void (*out)(const void *buf, size_t len));
bool serial_input(struct serial *s, u8 byte);
void serial_reset(struct serial *s);
struct i8042;
struct i8042 *i8042_new(struct phys *p, struct vcpu *c, struct irq irq1);      // keyboard controller and keyboard; port 0x92
void i8042_reset(struct i8042 *s);
// n bytes of one key event, whole or not at all (false: no room or scanning is off). Codes are of set 1 if i8042_translates,
// else set 2. BQL held.
bool i8042_key(struct i8042 *s, const u8 *codes, unsigned n);
bool i8042_translates(const struct i8042 *s);
void debug_exit_new(struct phys *p, struct vcpu *c, u16 base, unsigned size);
void debugcon_new(struct phys *p, u16 port, void (*out)(const void *buf, size_t len));   // out: as for serial_new
struct pci;
// Host bridge, 0xcf8/0xcfc and ECAM (devices/pci.h). gsi[0..ngsi) are the I/O APIC's pins, of which INTx uses 16..23.
struct pci *pci_new(struct phys *p, const struct irq *gsi, unsigned ngsi);
void pci_reset(struct pci *b);                                                  // bus reset: the host bridge and every device
struct acpi_pm;
// PM1, PM timer, reset register: power-off and reset. After pci_new, because port 0xcf9 lies inside the bridge's 0xcf8.
struct acpi_pm *acpi_pm_new(struct phys *p, struct vcpu *c, struct irq sci);
void acpi_pm_reset(struct acpi_pm *s);
void acpi_pm_power_button(struct acpi_pm *s);                                   // somebody presses it. BQL held
// Puts the ACPI tables (RSDP, XSDT, FADT, DSDT, MADT, HPET, MCFG) into guest memory; returns the RSDP's address.
struct gpa acpi_tables_build(struct phys *p, unsigned cpus);
