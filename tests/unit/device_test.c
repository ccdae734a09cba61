// Unit tests of the memory map, serial port, keyboard controller, PCI, ACPI, loaders and virtio, each against fakes of all around it
// (device_fake.c). `device_test --dump DIR` writes the ACPI tables as files for iasl.
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "devices/pci.h"
#include "kernel/base/bits.h"
#include "kernel/base/log.h"
#include "kernel/plat.h"
#include "tests/unit/device_fake.h"
#include "tests/unit/device_parts.h"

extern unsigned passed, failed;

static u64 in(struct phys *p, u16 port, unsigned size) { return phys_port_read(p, port, size); }
static void out(struct phys *p, u16 port, u64 v, unsigned size) { phys_port_write(p, port, v, size); }

// ---- the map --------------------------------------------------------------------------------------------------------

static struct { u64 addr, val; unsigned size, n; bool bql; } seen;

static u64 probe_read(void *opaque, u64 addr, unsigned size)
{
    seen.addr = addr; seen.size = size; seen.n++; seen.bql = fake.bql;
    return (u64)(uintptr_t)opaque + addr;
}
static void probe_write(void *opaque, u64 addr, u64 val, unsigned size)
{
    seen.addr = addr; seen.size = size; seen.val = val; seen.n++; seen.bql = fake.bql;
}
static const struct io_ops probe8 = {.read = probe_read, .write = probe_write};
static const struct io_ops probe1 = {.read = probe_read, .write = probe_write, .max_size = 1};
static const struct io_ops probe_unlocked = {.read = probe_read, .write = probe_write, .max_size = 4, .unlocked = true};

static void test_map(void)
{
    struct phys *p = fake_machine(4 * MIB);
    static u8 rom[2 * PAGE_SIZE];
    memset(rom, 0x5a, sizeof rom);
    LOCKED(phys_add_rom(p, gpa(0x10000), sizeof rom, rom, "rom"));
    struct region *hole = LOCKED(phys_add_mmio(p, gpa(0x11000), 0x100, &probe8, (void *)0x1000, "dev"));
    unsigned changed = fake.map_changed;
    CHECK(changed == 2);
    CHECK(phys_find(p, gpa(0xffff))->kind == REGION_RAM);
    CHECK(phys_find(p, gpa(0x10000))->kind == REGION_ROM);
    CHECK(phys_find(p, gpa(0x11000)) == hole && phys_find(p, gpa(0x110ff)) == hole);
    CHECK(phys_find(p, gpa(0x11100))->kind == REGION_ROM && phys_find(p, gpa(0x12000))->kind == REGION_RAM);
    CHECK(!phys_find(p, gpa(4 * MIB)) && !phys_find(p, gpa(UINT64_MAX)));
    CHECK(phys_host(p, gpa(0x11100)) == rom + 0x1100 && !phys_host(p, gpa(0x11000)));

    u8 buf[16];
    CHECK(LOCKED(phys_read(p, gpa(0x10ffc), buf, 8)) && buf[0] == 0x5a && buf[4] == 0x00 && buf[5] == 0x10);   // ROM then the device
    CHECK(LOCKED(phys_write(p, gpa(0xfffc), "abcdefgh", 8)) && rom[0] == 0x5a);
    CHECK(fake.code_written == 1 && fake.written_at == 0xfffc && fake.written_len == 4);
    CHECK(LOCKED(phys_ld(p, gpa(0xfffc), 4)) == 0x64636261);
    LOCKED(phys_st(p, gpa(0x2001), 0x1122334455667788, 8));
    CHECK(LOCKED(phys_ld(p, gpa(0x2001), 8)) == 0x1122334455667788 && phys_ld(p, gpa(0x2003), 2) == 0x5566);
    CHECK(!LOCKED(phys_read(p, gpa(4 * MIB - 2), buf, 4)) && buf[2] == 0xff && buf[3] == 0xff);
    CHECK(!LOCKED(phys_write(p, gpa(4 * MIB - 2), buf, 4)));
    CHECK(!LOCKED(phys_read(p, gpa(UINT64_MAX - 3), buf, 8)));                    // wraps to address 0: RAM, but the top is nobody's

    LOCKED(phys_remap(p, hole, 0x20000, true));
    CHECK(phys_find(p, gpa(0x11000))->kind == REGION_ROM && phys_find(p, gpa(0x20000)) == hole);
    LOCKED(phys_remap(p, hole, 0x20000, true));
    CHECK(fake.map_changed == changed + 1);                               // nothing changed, nothing told
    LOCKED(phys_remap(p, hole, UINT64_MAX - 3, true));
    CHECK(phys_find(p, gpa(0x20000))->kind == REGION_RAM);
    LOCKED(phys_remap(p, hole, 0x30000, true));
    LOCKED(phys_remove(p, hole));
    CHECK(phys_find(p, gpa(0x30000))->kind == REGION_RAM);
    fake_done();
}

static void test_dispatch(void)
{
    struct phys *p = fake_machine(0);
    LOCKED(phys_add_mmio(p, gpa(0x1000), 0x1000, &probe8, (void *)0, "a"));
    LOCKED(phys_add_mmio(p, gpa(0x2000), 0x1000, &probe1, (void *)0, "b"));
    LOCKED(phys_add_mmio(p, gpa(0x3000), 0x1000, &probe_unlocked, (void *)0, "c"));
    memset(&seen, 0, sizeof seen);
    CHECK(phys_mmio_read(p, gpa(0x1008), 8) == 8 && seen.n == 1 && seen.bql && !fake.bql);
    seen.n = 0;
    phys_mmio_write(p, gpa(0x1001), 0x11223344, 4);                       // unaligned: 1 + 2 + 1
    CHECK(seen.n == 3 && seen.addr == 4 && seen.size == 1 && seen.val == 0x11);
    seen.n = 0;
    CHECK(phys_mmio_read(p, gpa(0x2004), 4) == 0x07060504 && seen.n == 4);
    CHECK(phys_mmio_read(p, gpa(0x3004), 8) == 0x800000004 && !seen.bql);
    CHECK(phys_mmio_read(p, gpa(0x9000), 4) == 0xffffffff && phys_mmio_read(p, gpa(0x9000), 8) == UINT64_MAX);
    phys_mmio_write(p, gpa(0x9000), 0, 8);
    LOCKED(phys_add_ports(p, 0xcf8, 4, &probe8, (void *)0x100, "d"));
    LOCKED(phys_add_ports(p, 0xcf9, 1, &probe8, (void *)0x200, "e"));
    CHECK(in(p, 0xcf8, 4) == 0x100 && in(p, 0xcf9, 1) == 0x00 && in(p, 0xcfa, 1) == 0x02);
    CHECK(in(p, 0xffff, 4) == 0xffffffff && in(p, 0x80, 1) == 0xff && in(p, 0x80, 2) == 0xffff);
    out(p, 0x80, 1, 1);
    fake_done();
}

// Random adds, moves and removals against the plain rule: the newest mapped region that holds the address.
static void test_map_random(void)
{
    struct phys *p = fake_machine(0);
    struct region *r[40];
    bool on[40];
    srand(7);
    for (unsigned i = 0; i < 40; i++) {
        r[i] = LOCKED(phys_add_mmio(p, gpa(rand() % 64), 1 + rand() % 32, &probe8, NULL, "x"));
        on[i] = true;
    }
    for (unsigned round = 0; round < 400; round++) {
        unsigned k = rand() % 40;
        on[k] = rand() % 3 != 0;
        LOCKED(phys_remap(p, r[k], rand() % 64, on[k]));
        bool same = true;
        for (u64 a = 0; a < 100; a++) {
            struct region *want = NULL;
            for (int i = 0; i < 40; i++)
                if (on[i] && a >= r[i]->base && a - r[i]->base < r[i]->size) want = r[i];
            same &= phys_find(p, gpa(a)) == want;
        }
        CHECK(same);
    }
    fake_done();
}

// ---- serial ---------------------------------------------------------------------------------------------------------------

enum { COM = 0x3f8 };

static struct serial *serial_machine(struct phys **p)
{
    *p = fake_machine(0);
    return LOCKED(serial_new(*p, COM, fake_irq(4), fake_serial_out));
}

static void test_serial_detect(void)
{
    struct phys *p;
    serial_machine(&p);
    out(p, COM + 1, 0xff, 1);
    CHECK(in(p, COM + 1, 1) == 0x0f);
    out(p, COM + 1, 0, 1);
    out(p, COM + 7, 0xa5, 1);
    CHECK(in(p, COM + 7, 1) == 0xa5);
    CHECK(in(p, COM + 5, 1) == 0x60 && in(p, COM + 6, 1) == 0xb0 && in(p, COM + 2, 1) >> 6 == 0);
    out(p, COM + 4, 0x1a, 1);                                              // loopback with RTS and OUT2
    CHECK((in(p, COM + 6, 1) & 0xf0) == 0x90);
    out(p, COM, 'x', 1);
    CHECK((in(p, COM + 5, 1) & 1) && in(p, COM, 1) == 'x' && fake.nconsole == 0);
    out(p, COM, 'y', 1);
    out(p, COM, 'z', 1);
    CHECK((in(p, COM + 5, 1) & 3) == 3 && (in(p, COM + 5, 1) & 3) == 1);   // overrun, cleared by reading
    out(p, COM + 4, 0, 1);
    out(p, COM + 2, 1, 1);
    CHECK(in(p, COM + 2, 1) == 0xc1);
    out(p, COM + 3, 0x83, 1);
    out(p, COM, 0x34, 1);
    out(p, COM + 1, 0x12, 1);
    CHECK(in(p, COM, 2) == 0x1234);
    out(p, COM + 3, 3, 1);
    out(p, COM, 'A', 1);
    CHECK(fake.nconsole == 1 && fake.console[0] == 'A');
    fake_done();
}

static void test_serial_interrupts(void)
{
    struct phys *p;
    struct serial *s = serial_machine(&p);
    out(p, COM + 2, 0x81, 1);                                              // FIFO, trigger 8
    out(p, COM + 1, 2, 1);
    CHECK(!fake.line[4]);                                                  // OUT2 is off
    out(p, COM + 4, 8, 1);
    CHECK(fake.line[4] && in(p, COM + 2, 1) == 0xc2 && !fake.line[4] && in(p, COM + 2, 1) == 0xc1);
    out(p, COM, 'A', 1);
    CHECK(fake.line[4]);                                                   // empty again at once
    out(p, COM + 1, 5, 1);
    CHECK(!fake.line[4]);
    for (int i = 0; i < 7; i++) CHECK(LOCKED(serial_input(s, i)));
    CHECK(!fake.line[4]);
    fake_advance(NS_PER_SEC);                                              // receive timeout
    CHECK(fake.line[4] && in(p, COM + 2, 1) == 0xcc && fake.line[4]);
    CHECK(in(p, COM, 1) == 0 && !fake.line[4]);
    CHECK(LOCKED(serial_input(s, 7)) && !fake.line[4] && LOCKED(serial_input(s, 8)) && fake.line[4]);
    CHECK(in(p, COM + 2, 1) == 0xc4);
    for (int i = 9; i < 17; i++) CHECK(LOCKED(serial_input(s, i)));
    CHECK(!LOCKED(serial_input(s, 99)) && fake.kicks_ready == 0);
    CHECK(in(p, COM, 1) == 1 && fake.kicks_ready == 1);
    for (int i = 2; i < 17; i++) CHECK(in(p, COM, 1) == (u64)i);
    CHECK(!(in(p, COM + 5, 1) & 1) && !fake.line[4] && fake.kicks_ready == 1);
    out(p, COM + 1, 15, 1);
    CHECK(in(p, COM + 2, 1) == 0xc2);                                      // THRE, below that nothing
    out(p, COM + 4, 0x18, 1);                                              // to loopback: modem lines drop
    out(p, COM + 4, 8, 1);
    CHECK(fake.line[4] && in(p, COM + 2, 1) == 0xc0 && (in(p, COM + 6, 1) & 15) == 0x03 && !fake.line[4]);
    CHECK(LOCKED(serial_input(s, 1)));
    out(p, COM + 2, 0x83, 1);
    CHECK(!(in(p, COM + 5, 1) & 1));                                       // FIFO cleared
    fake_done();
}

// ---- keyboard controller and debug ports -----------------------------------------------------------------------------------

static void test_i8042(void)
{
    struct phys *p = fake_machine(0);
    struct i8042 *s = LOCKED(i8042_new(p, NULL, fake_irq(1)));
    CHECK((in(p, 0x64, 1) & 3) == 0);
    out(p, 0x64, 0xaa, 1);
    CHECK((in(p, 0x64, 1) & 1) && in(p, 0x60, 1) == 0x55);
    out(p, 0x64, 0x20, 1);
    u8 ctr = in(p, 0x60, 1);
    CHECK(ctr & 0x40);
    out(p, 0x64, 0x60, 1);
    out(p, 0x60, 0x61, 1);
    out(p, 0x64, 0xab, 1);
    CHECK(in(p, 0x60, 1) == 0);
    out(p, 0x60, 0xff, 1);
    CHECK(fake.line[1] && in(p, 0x60, 1) == 0xfa && in(p, 0x60, 1) == 0xaa && !(in(p, 0x64, 1) & 1) && !fake.line[1]);
    out(p, 0x60, 0xf2, 1);
    CHECK(in(p, 0x60, 1) == 0xfa && in(p, 0x60, 1) == 0xab && in(p, 0x60, 1) == 0x41);
    out(p, 0x60, 0xed, 1);
    CHECK(in(p, 0x60, 1) == 0xfa);
    out(p, 0x60, 2, 1);
    CHECK(in(p, 0x60, 1) == 0xfa && !(in(p, 0x64, 1) & 1));
    CHECK(i8042_translates(s) && LOCKED(i8042_key(s, (const u8[]){0xe0, 0x1c}, 2)) && in(p, 0x60, 1) == 0xe0 && in(p, 0x60, 1) == 0x1c);
    out(p, 0x64, 0xad, 1);
    CHECK(LOCKED(i8042_key(s, (const u8[]){0x1c}, 1)) && !(in(p, 0x64, 1) & 1));
    out(p, 0x64, 0xae, 1);
    CHECK(in(p, 0x60, 1) == 0x1c);
    out(p, 0x64, 0xd0, 1);
    CHECK(in(p, 0x60, 1) & 2);
    out(p, 0x92, 0, 1);
    CHECK(in(p, 0x92, 1) == 0 && fake.resets == 0);
    out(p, 0x64, 0xfe, 1);
    CHECK(fake.resets == 1);
    fake_done();
}

static void test_debug(void)
{
    struct phys *p = fake_machine(0);
    LOCKED(debug_exit_new(p, NULL, 0xf4, 4));
    LOCKED(debugcon_new(p, 0xe9, plat_console_write));
    out(p, 0xf4, 0x10, 4);
    CHECK(fake.shutdowns == 1 && fake.shutdown_code == 0x21);
    out(p, 0xe9, '!', 1);
    CHECK(fake.console[0] == '!' && in(p, 0xe9, 1) == 0xe9);
    fake_done();
}

// ---- PCI ---------------------------------------------------------------------------------------------------------------------

static u32 cfg(struct phys *p, unsigned slot, unsigned reg, unsigned size)
{
    out(p, 0xcf8, 0x80000000u | slot << 11 | (reg & ~3u), 4);
    return in(p, 0xcfc + (reg & 3), size);
}
static void cfg_set(struct phys *p, unsigned slot, unsigned reg, u32 v, unsigned size)
{
    phys_mmio_write(p, gpa(PCI_ECAM_BASE + (slot << 15) + reg), v, size);
}

static void test_pci(void)
{
    struct phys *p = fake_machine(MIB);
    struct irq gsi[24];
    for (unsigned i = 0; i < 24; i++) gsi[i] = fake_irq(i);
    struct pci *b = LOCKED(pci_new(p, gsi, 24));
    CHECK(cfg(p, 0, 0, 4) == 0x29c08086 && cfg(p, 0, 10, 2) == 0x0600 && cfg(p, 1, 0, 4) == 0xffffffff);
    CHECK(phys_mmio_read(p, gpa(PCI_ECAM_BASE), 4) == 0x29c08086 && phys_mmio_read(p, gpa(PCI_ECAM_BASE + MIB), 2) == 0xffff);
    CHECK(phys_mmio_read(p, gpa(PCI_ECAM_BASE + 0x100), 4) == 0);

    static struct pci_dev d;
    memset(&d, 0, sizeof d);
    struct pci_ids ids = {0x1234, 0x5678, 1, 2, 0xff0000, 3};
    CHECK(LOCKED(pci_dev_init(&d, b, 3, &ids, true)) && cfg(p, 3, 0x3d, 1) == 1 && cfg(p, 3, 0x3c, 1) == pci_gsi(3, 0));
    LOCKED(pci_bar_add(&d, 0, 0x1000, 0, &probe8, (void *)0, "m32"));
    LOCKED(pci_bar_add(&d, 1, 0x20, PCI_BAR_IO, &probe8, (void *)0, "io"));
    LOCKED(pci_bar_add(&d, 2, 0x4000, PCI_BAR_64 | PCI_BAR_PREFETCH, &probe8, (void *)0, "m64"));
    u32 b0 = cfg(p, 3, 0x10, 4), b1 = cfg(p, 3, 0x14, 4), b2 = cfg(p, 3, 0x18, 4);
    CHECK(b0 == PCI_MEM_BASE && b1 == (PCI_IO_BASE | 1) && (b2 & 15) == 12 && cfg(p, 3, 4, 2) == 3);
    CHECK(phys_find(p, gpa(b0)) && phys_mmio_read(p, gpa(b0 + 0x10), 4) == 0x10 && in(p, PCI_IO_BASE + 4, 4) == 4);
    cfg_set(p, 3, 4, 0, 2);
    CHECK(!phys_find(p, gpa(b0)) && in(p, PCI_IO_BASE, 4) == 0xffffffff);
    for (unsigned i = 0; i < 6; i++) cfg_set(p, 3, 0x10 + 4 * i, 0xffffffff, 4);
    CHECK(cfg(p, 3, 0x10, 4) == 0xfffff000 && cfg(p, 3, 0x14, 4) == 0xffffffe1 && cfg(p, 3, 0x18, 4) == 0xffffc00c);
    CHECK(cfg(p, 3, 0x1c, 4) == 0xffffffff && cfg(p, 3, 0x20, 4) == 0);
    cfg_set(p, 3, 4, 3, 2);
    CHECK(!phys_find(p, gpa(0xfffff000)));                                  // all ones: sizing, not an address
    cfg_set(p, 3, 0x10, 0xd0000000, 4);
    cfg_set(p, 3, 0x18, 0, 4);
    cfg_set(p, 3, 0x1c, 1, 4);
    CHECK(phys_find(p, gpa(0xd0000fff)) && !phys_find(p, gpa(0xd0001000)) && phys_find(p, gpa(4 * GIB)));

    unsigned n = pci_gsi(3, 0);
    LOCKED(pci_intx_set(&d, true));
    CHECK(fake.line[n] && (cfg(p, 3, 6, 2) & 8));
    cfg_set(p, 3, 5, 4, 1);
    CHECK(!fake.line[n]);
    cfg_set(p, 3, 5, 0, 1);
    CHECK(fake.line[n]);
    LOCKED(pci_intx_set(&d, false));
    CHECK(!fake.line[n]);

    LOCKED(pci_msix_init(&d, 2, 0, 0, PCI_MSIX_PBA));
    CHECK(cfg(p, 3, 0x34, 1) == 0x40 && cfg(p, 3, 0x40, 1) == 0x11 && cfg(p, 3, 0x42, 2) == 1 && (cfg(p, 3, 6, 2) & 16));
    LOCKED(pci_msix_write(&d, 0, 0xfee01000, 4));
    LOCKED(pci_msix_write(&d, 8, 0x42, 8));                                         // data, and control 0: unmasked
    LOCKED(pci_msix_notify(&d, 0));
    CHECK(fake.nmsi == 0);                                                  // neither enabled nor master
    cfg_set(p, 3, 4, 7, 2);
    cfg_set(p, 3, 0x42, 0xc000, 2);
    LOCKED(pci_msix_notify(&d, 0));
    CHECK(fake.nmsi == 0 && LOCKED(pci_msix_read(&d, PCI_MSIX_PBA, 4)) == 1);
    cfg_set(p, 3, 0x42, 0x8000, 2);
    CHECK(fake.nmsi == 1 && fake.msi[0].addr == 0xfee01000 && fake.msi[0].data == 0x42 && LOCKED(pci_msix_read(&d, PCI_MSIX_PBA, 8)) == 0);
    LOCKED(pci_msix_notify(&d, 1));
    LOCKED(pci_msix_notify(&d, 7));
    CHECK(fake.nmsi == 1 && LOCKED(pci_msix_read(&d, PCI_MSIX_PBA, 4)) == 2);
    LOCKED(pci_msix_write(&d, 16 + 12, 0, 4));
    CHECK(fake.nmsi == 2);
    LOCKED(pci_msix_write(&d, 0x7fc, 1, 4));
    CHECK(LOCKED(pci_msix_read(&d, 0x7fc, 4)) == 0);
    LOCKED(pci_reset(b));
    CHECK(cfg(p, 3, 0x10, 4) == b0 && cfg(p, 3, 0x1c, 4) == 0 && phys_find(p, gpa(b0)) && !pci_msix_enabled(&d));
    fake_done();
}

// ---- ACPI --------------------------------------------------------------------------------------------------------------------

static void test_acpi_pm(void)
{
    struct phys *p = fake_machine(0);
    struct acpi_pm *s = LOCKED(acpi_pm_new(p, NULL, fake_irq(9)));
    CHECK(in(p, 0x604, 2) == 1 && in(p, 0x600, 4) == 0);
    fake_advance(NS_PER_SEC);
    CHECK(in(p, 0x608, 4) == 3579545);
    LOCKED(acpi_pm_power_button(s));
    CHECK(!fake.line[9] && in(p, 0x600, 2) == 0x100);
    out(p, 0x602, 0x100, 2);
    CHECK(fake.line[9]);
    out(p, 0x601, 1, 1);
    CHECK(!fake.line[9] && in(p, 0x600, 2) == 0);
    out(p, 0x602, 1, 2);
    fake_advance(599 * NS_PER_SEC);
    CHECK(fake.line[9] == (600 * 3579545ull >> 31 & 1) && (in(p, 0x600, 2) & 1));
    out(p, 0x604, 1 << 13 | 3 << 10, 2);
    CHECK(fake.shutdowns == 0);
    out(p, 0x604, 1 << 13 | 5 << 10, 2);
    CHECK(fake.shutdowns == 1 && fake.shutdown_code == 0 && in(p, 0x604, 2) == (5 << 10 | 1));
    out(p, 0xcf9, 2, 1);
    CHECK(fake.resets == 0 && in(p, 0xcf9, 1) == 2);
    out(p, 0xcf9, 6, 1);
    CHECK(fake.resets == 1);
    fake_done();
}

static u8 sum(struct phys *p, u64 a, u64 n)
{
    u8 s = 0;
    for (u64 i = 0; i < n; i++) s += phys_ld(p, gpa(a + i), 1);
    return s;
}

static u64 hpet_read(void *opaque, u64 addr, unsigned size) { return bits_zext(0x8086a201, size); }

static void test_acpi_tables(const char *dump)
{
    static const struct io_ops hpet = {.read = hpet_read, .max_size = 4};
    struct phys *p = fake_machine(MIB * 2);
    LOCKED(phys_add_mmio(p, gpa(0xfed00000), 0x400, &hpet, NULL, "hpet"));
    struct gpa rsdp = LOCKED(acpi_tables_build(p, 4));
    CHECK(rsdp.v >= 0xe0000 && rsdp.v < 0x100000 && !(rsdp.v & 15) && phys_ld(p, rsdp, 8) == 0x2052545020445352);
    CHECK(sum(p, rsdp.v, 20) == 0 && sum(p, rsdp.v, 36) == 0);
    u64 xsdt = phys_ld(p, gpa(rsdp.v + 24), 8), n = (phys_ld(p, gpa(xsdt + 4), 4) - 36) / 8;
    CHECK(n == 4 && sum(p, xsdt, 36 + 8 * n) == 0);
    u64 list[16], lists = 0;
    for (u64 i = 0; i < n; i++) list[lists++] = phys_ld(p, gpa(xsdt + 36 + 8 * i), 8);
    CHECK(phys_ld(p, gpa(list[0]), 4) == 0x50434146);
    list[lists++] = phys_ld(p, gpa(list[0] + 40), 4);                        // DSDT
    list[lists++] = xsdt;
    list[lists++] = phys_ld(p, gpa(rsdp.v + 16), 4);                         // RSDT
    for (u64 i = 0; i < lists; i++) {
        u64 len = phys_ld(p, gpa(list[i] + 4), 4);
        CHECK(sum(p, list[i], len) == 0);
        if (!dump) continue;
        char path[512], sig[5] = "";
        phys_read(p, gpa(list[i]), sig, 4);
        snprintf(path, sizeof path, "%s/%s.aml", dump, sig);
        FILE *f = fopen(path, "wb");
        if (f && fwrite(phys_host(p, gpa(list[i])), 1, len, f) == len && !fclose(f)) continue;
        printf("cannot write %s\n", path);
        failed++;
    }
    fake_done();
    p = fake_machine(0);                                                     // nothing at the BIOS area, no HPET, many processors
    rsdp = LOCKED(acpi_tables_build(p, 300));
    CHECK(phys_find(p, rsdp) && phys_ld(p, gpa(phys_ld(p, gpa(rsdp.v + 24), 8) + 4), 4) == 36 + 3 * 8);
    fake_done();
}

int main(int argc, char **argv)
{
    const char *dump = argc == 3 && !strcmp(argv[1], "--dump") ? argv[2] : NULL;
    test_map();
    test_dispatch();
    test_map_random();
    test_serial_detect();
    test_serial_interrupts();
    test_i8042();
    test_debug();
    test_pci();
    test_acpi_pm();
    test_acpi_tables(dump);
    test_loaders();
    test_virtio();
    test_blk();
    printf("%u passed, %u failed\n", passed, failed);
    return failed != 0;
}
