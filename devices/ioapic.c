// The I/O APIC: Intel 82093AA data sheet, with the EOI register of version 0x20 (ICH families).
//
// A pin's line is "asserted or not": devices say what they mean, and the polarity bit is stored but not applied, because it
// describes the voltage on a board that does not exist.
//
// Edge: a rising line sends one message; if the pin is masked the edge is gone (82093AA 3.2.4, bit 16). Level: while the line is asserted
// and Remote IRR is clear, a message is sent and Remote IRR set, if an APIC took the message; EOI of the vector clears Remote IRR, and the
// line is looked at again. Turning a pin to edge clears Remote IRR, which is how software ends an interrupt on version 0x11 parts.
#include "devices/devices.h"
#include "kernel/base/bits.h"
#include "kernel/base/log.h"
#include "kernel/plat.h"

enum { PINS = 24, IOAPIC_VERSION = 0x20 };
#define IOAPIC_BASE 0xfec00000ull

// A redirection entry: vector 7:0, delivery mode 10:8, logical 11, delivery status 12 (idle always), active low 13,
// Remote IRR 14, level 15, masked 16, destination 63:56.
enum { RTE_LOGICAL = 1 << 11, RTE_REMOTE_IRR = 1 << 14, RTE_LEVEL = 1 << 15, RTE_MASKED = 1 << 16 };
#define RTE_WRITABLE (0xff00000000000000ull | 0x1afff)

struct ioapic {   // all BQL
    u64 rte[PINS];
    u32 lines;    // asserted pins
    u8 select, id;
};

static struct ioapic *the_ioapic;   // for EOIs, which name no chip; written before the first vCPU runs

static bool ioapic_send(const struct ioapic *s, unsigned pin)
{
    u64 e = s->rte[pin];
    return lapic_deliver((u8)(e >> 56), e & RTE_LOGICAL, e >> 8 & 7, (u8)e, e & RTE_LEVEL);
}

// Sends a level pin's interrupt if it is due.
static void ioapic_service_level(struct ioapic *s, unsigned pin)
{
    u64 e = s->rte[pin];
    if (!(e & RTE_LEVEL) || e & (RTE_MASKED | RTE_REMOTE_IRR) || !(s->lines & 1u << pin)) return;
    bool taken = ioapic_send(s, pin), eoi_follows = (e >> 8 & 6) == 0;   // only fixed and lowest priority are ended by an EOI
    if (taken && eoi_follows) s->rte[pin] |= RTE_REMOTE_IRR;
}

static void ioapic_set(void *opaque, unsigned pin, bool level)
{
    struct ioapic *s = opaque;
    ASSERT(bql_held(), "I/O APIC pin %u set without the BQL", pin);
    bool was = s->lines & 1u << pin;
    s->lines = level ? s->lines | 1u << pin : s->lines & ~(1u << pin);
    if (s->rte[pin] & RTE_LEVEL) ioapic_service_level(s, pin);
    else if (level && !was && !(s->rte[pin] & RTE_MASKED)) ioapic_send(s, pin);
}

struct irq ioapic_pin(struct ioapic *s, unsigned n)
{
    ASSERT(n < PINS, "I/O APIC pin %u", n);
    return (struct irq){ioapic_set, s, n};
}

void ioapic_eoi(u8 vector)
{
    struct ioapic *s = the_ioapic;
    ASSERT(bql_held(), "I/O APIC EOI without the BQL");
    for (unsigned i = 0; s && i < PINS; i++) {
        if ((u8)s->rte[i] != vector || !(s->rte[i] & RTE_REMOTE_IRR)) continue;
        s->rte[i] &= ~(u64)RTE_REMOTE_IRR;
        ioapic_service_level(s, i);
    }
}

// ---- registers ----
static void ioapic_write_rte(struct ioapic *s, unsigned pin, u64 val)
{
    u64 e = (val & RTE_WRITABLE) | (s->rte[pin] & RTE_REMOTE_IRR);
    s->rte[pin] = e & RTE_LEVEL ? e : e & ~(u64)RTE_REMOTE_IRR;
    ioapic_service_level(s, pin);
}

static u32 ioapic_reg_read(const struct ioapic *s)
{
    unsigned r = s->select;
    if (r == 0 || r == 2) return (u32)s->id << 24;   // ID, arbitration ID
    if (r == 1) return (PINS - 1) << 16 | IOAPIC_VERSION;
    if (r < 0x10 || r >= 0x10 + 2 * PINS) return 0;
    return (u32)(s->rte[(r - 0x10) / 2] >> (r & 1) * 32);
}

static void ioapic_reg_write(struct ioapic *s, u32 val)
{
    unsigned r = s->select;
    if (r == 0) s->id = val >> 24 & 0xf;
    if (r < 0x10 || r >= 0x10 + 2 * PINS) return;
    unsigned pin = (r - 0x10) / 2;
    u64 e = s->rte[pin];
    ioapic_write_rte(s, pin, r & 1 ? (u64)val << 32 | (u32)e : (e >> 32 << 32) | val);
}

static u64 ioapic_read(void *opaque, u64 addr, unsigned size)
{
    struct ioapic *s = opaque;
    if ((addr & 0xff) == 0) return s->select;
    return (addr & 0xff) == 0x10 ? bits_zext(ioapic_reg_read(s), size) : 0;
}

static void ioapic_write(void *opaque, u64 addr, u64 val, unsigned size)
{
    struct ioapic *s = opaque;
    switch (addr & 0xff) {
    case 0x00: s->select = (u8)val; return;
    case 0x10: if (size == 4) ioapic_reg_write(s, (u32)val); return;
    case 0x40: ioapic_eoi((u8)val); return;
    default: return;
    }
}

static const struct io_ops ioapic_io = {.read = ioapic_read, .write = ioapic_write, .max_size = 4};

void ioapic_reset(struct ioapic *s)
{
    DEVICE_LOCKED();
    s->select = s->id = 0;
    for (unsigned i = 0; i < PINS; i++) s->rte[i] = RTE_MASKED;
}

struct ioapic *ioapic_new(struct phys *p)
{
    struct ioapic *s = plat_pages_alloc(sizeof *s);
    ASSERT(s, "no memory for the I/O APIC");
    ioapic_reset(s);
    phys_add_mmio(p, gpa(IOAPIC_BASE), PAGE_SIZE, &ioapic_io, s, "ioapic");
    the_ioapic = s;
    return s;
}
