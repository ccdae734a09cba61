// Device registers that can be read without harm: port 0x61, the I/O APIC's index register, the local APIC's task priority.
#include "assay/guest/tests.h"

enum { PORT_B = 0x61, PARITY = 0xc0, IOREGSEL = IOAPIC_VIRT, IOAPIC_VERSION = 1 };

// Bits 6 and 7 tell of memory and bus errors: 0 as long as the machine stands (the others count time, and the loudspeaker).
TEST(test_port)
{
    u64 sum = 1;
    while (n--) sum = rotl(sum + (inb(PORT_B) & PARITY), 7) + n;
    return sum;
}

// The index is whatever its last user left there; everybody sets it before using it. All processors of a job find and write the same.
SETUP(mmio_setup) { *(volatile u32 *)(u64)IOREGSEL = IOAPIC_VERSION; }

TEST(test_mmio)
{
    volatile u32 *reg = (volatile u32 *)(u64)IOREGSEL;
    u64 sum = 1;
    while (n--) sum = rotl(sum + (*reg & 0xff), 7) + n;
    return sum;
}

TEST(test_mmio_write)
{
    volatile u32 *reg = (volatile u32 *)(u64)IOREGSEL;
    u64 sum = 1;
    while (n--) {
        *reg = IOAPIC_VERSION;
        sum = rotl(sum, 7) + n;
    }
    return sum + (*reg & 0xff);
}

TEST(test_lapic)
{
    const struct cpu *c = this_cpu();
    u64 sum = 1;
    while (n--) sum = rotl(sum + lapic_read(c, LAPIC_TPR), 7) + n;
    return sum;
}
