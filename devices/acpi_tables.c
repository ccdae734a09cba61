// The ACPI tables of the guest's machine (ACPI 6.4 chapter 5.2): what it cannot find by probing.
//
// All tables lie in the BIOS area 0xe0000-0xfffff, which every memory map calls reserved: the RSDP has to be there for guests that
// search for it (multiboot, firmware-less), and the rest needs a few KiB. If nothing answers there, RAM is put there. Building
// again (after a reset) writes the same bytes. The DSDT is assembled by devices/aml.c; `iasl -d` shows it, and a test compiles what
// it shows again.
#include "devices/acpi_pm.h"
#include "devices/aml.h"
#include "devices/devices.h"
#include "devices/pci.h"
#include "kernel/base/bits.h"
#include "kernel/base/log.h"
#include "kernel/plat.h"

#define AREA_BASE 0xe0000ull
#define AREA_SIZE 0x20000ull
#define HPET_BASE 0xfed00000ull
#define IOAPIC_BASE 0xfec00000u
#define LAPIC_BASE 0xfee00000u
enum { HEADER = 36, MAX_TABLES = 8, XAPIC_IDS = 255 };

// The area as it is assembled in our memory; offsets into it.
struct builder {
    struct aml out;
    u64 tables[MAX_TABLES];     // guest addresses, for RSDT and XSDT
    unsigned n;
};

static u64 here(const struct builder *b) { return AREA_BASE + b->out.len; }

static void pad_to(struct builder *b, unsigned align)
{
    while (b->out.len % align && !b->out.full) aml_byte(&b->out, 0);
}

static void checksum_at(struct builder *b, size_t start, size_t len, size_t at)
{
    u8 sum = 0;
    b->out.buf[at] = 0;
    for (size_t i = 0; i < len; i++) sum += b->out.buf[start + i];
    b->out.buf[at] = -sum;
}

// ---- tables: open, append fields, close (length and checksum) -------------------------------------------------------

static size_t table_open(struct builder *b, const char sig[4], u8 revision)
{
    pad_to(b, 16);
    size_t start = b->out.len;
    aml_bytes(&b->out, sig, 4);
    aml_le(&b->out, 0, 4);
    aml_byte(&b->out, revision);
    aml_byte(&b->out, 0);
    aml_bytes(&b->out, "CUPEL ", 6);
    aml_bytes(&b->out, "CUPELPC ", 8);
    aml_le(&b->out, 1, 4);
    aml_bytes(&b->out, "CUPL", 4);
    aml_le(&b->out, 1, 4);
    return start;
}

static u64 table_close(struct builder *b, size_t start, bool listed)
{
    size_t len = b->out.len - start;
    for (unsigned i = 0; i < 4; i++) b->out.buf[start + 4 + i] = len >> 8 * i;
    checksum_at(b, start, len, start + 9);
    if (listed) b->tables[b->n++] = AREA_BASE + start;
    return AREA_BASE + start;
}

// ---- DSDT -----------------------------------------------------------------------------------------------------------------

static void dsdt_s5(struct aml *a)
{
    aml_name(a, "\\_S5_");
    size_t pkg = aml_open_package(a, 4);
    aml_int(a, ACPI_S5_TYPE);
    for (int i = 0; i < 3; i++) aml_int(a, 0);
    aml_close(a, pkg);
}

// _PRT: every slot's four pins to their I/O APIC inputs, without link devices.
static void dsdt_prt(struct aml *a)
{
    aml_name(a, "_PRT");
    size_t all = aml_open_package(a, PCI_SLOTS * 4);
    for (u32 slot = 0; slot < PCI_SLOTS; slot++) {
        for (u32 pin = 0; pin < 4; pin++) {
            size_t one = aml_open_package(a, 4);
            aml_int(a, slot << 16 | 0xffff);
            aml_int(a, pin);
            aml_int(a, 0);
            aml_int(a, pci_gsi(slot, pin));
            aml_close(a, one);
        }
    }
    aml_close(a, all);
}

enum { AML_ARG0 = 0x68, AML_ARG3 = 0x6b };

static void aml_field_dword(struct aml *a, unsigned arg, unsigned offset, const char *name)
{
    aml_byte(a, 0x8a);                     // CreateDWordField
    aml_byte(a, arg);
    aml_int(a, offset);
    aml_path(a, name);
}

static void aml_op2_store(struct aml *a, u8 op, const char *field, u64 v)   // field = field op v
{
    aml_byte(a, op);
    aml_path(a, field);
    aml_int(a, v);
    aml_path(a, field);
}

// _OSC (6.2.11): we offer no native PCIe service, so the control word comes back zero and, for another UUID, the bit that says unknown.
static void dsdt_osc(struct aml *a)
{
    static const u8 uuid[16] = {0x5b, 0x4d, 0xdb, 0x33, 0xf7, 0x1f, 0x1c, 0x40, 0x96, 0x57, 0x74, 0x41, 0xc0, 0x3d, 0xd7, 0x66};
    size_t m = aml_open_method(a, "_OSC", 4);
    aml_field_dword(a, AML_ARG3, 0, "CDW1");
    size_t cond = aml_open_if(a);
    aml_byte(a, 0x93);                     // LEqual
    aml_byte(a, AML_ARG0);
    aml_buffer(a, uuid, sizeof uuid);
    aml_field_dword(a, AML_ARG3, 8, "CDW3");
    size_t wants = aml_open_if(a);
    aml_path(a, "CDW3");                   // anything asked for is masked: bit 4 says so
    aml_op2_store(a, 0x7d, "CDW1", 0x10);
    aml_close(a, wants);
    aml_op2_store(a, 0x7b, "CDW3", 0);
    aml_close(a, cond);
    size_t other = aml_open_else(a);
    aml_op2_store(a, 0x7d, "CDW1", 4);
    aml_close(a, other);
    aml_byte(a, 0xa4);                     // Return(Arg3)
    aml_byte(a, AML_ARG3);
    aml_close(a, m);
}

static void dsdt_isa(struct aml *a, bool hpet)
{
    struct { const char *name, *id; u16 io, io2; u8 len; unsigned irq; } const dev[] = {
        {"COM1", "PNP0501", 0x3f8, 0, 8, 4},
        {"RTC_", "PNP0B00", 0x70, 0, 2, 8},
        {"KBD_", "PNP0303", 0x60, 0x64, 1, 1},
    };
    for (unsigned i = 0; i < ARRAY_SIZE(dev); i++) {
        size_t d = aml_open_device(a, dev[i].name);
        aml_eisaid(a, "_HID", dev[i].id);
        if (i == 0) aml_name_int(a, "_UID", 1);
        aml_name_int(a, "_STA", 15);
        struct aml_crs crs = aml_open_crs(a, "_CRS");
        aml_res_io(a, dev[i].io, dev[i].len);
        if (dev[i].io2) aml_res_io(a, dev[i].io2, dev[i].len);
        aml_res_irq(a, dev[i].irq);
        aml_close_crs(a, crs);
        aml_close(a, d);
    }
    if (!hpet) return;
    size_t d = aml_open_device(a, "HPET");
    aml_eisaid(a, "_HID", "PNP0103");
    aml_name_int(a, "_UID", 0);
    struct aml_crs crs = aml_open_crs(a, "_CRS");
    aml_res_mem32(a, HPET_BASE, 0x400, false);
    aml_close_crs(a, crs);
    aml_close(a, d);
}

static void dsdt_pci(struct aml *a, bool hpet)
{
    size_t d = aml_open_device(a, "PCI0");
    aml_eisaid(a, "_HID", "PNP0A08");
    aml_eisaid(a, "_CID", "PNP0A03");
    aml_name_int(a, "_SEG", 0);
    aml_name_int(a, "_BBN", 0);
    aml_name_int(a, "_UID", 0);
    struct aml_crs crs = aml_open_crs(a, "_CRS");
    aml_res_bus(a, 0, 255);
    aml_res_io(a, 0xcf8, 8);
    aml_res_io_window(a, 0, 0xcf7);
    aml_res_io_window(a, 0xd00, 0xffff);
    aml_res_mem_window(a, PCI_MEM_BASE, PCI_MEM_END - 1);
    aml_close_crs(a, crs);
    dsdt_prt(a);
    dsdt_osc(a);
    dsdt_isa(a, hpet);
    aml_close(a, d);
}

// What is nobody's but must not be handed out: the configuration window, and the ports of the power management block.
static void dsdt_motherboard(struct aml *a)
{
    size_t d = aml_open_device(a, "MBRD");
    aml_eisaid(a, "_HID", "PNP0C02");
    aml_name_int(a, "_UID", 0);
    struct aml_crs crs = aml_open_crs(a, "_CRS");
    aml_res_mem32(a, PCI_ECAM_BASE, PCI_ECAM_SIZE, true);
    aml_res_io(a, ACPI_PM1_EVT, ACPI_PM_LEN);
    aml_close_crs(a, crs);
    aml_close(a, d);
}

static void dsdt_cpus(struct aml *a, unsigned cpus)
{
    static const char digit[] = "0123456789ABCDEF";
    for (unsigned i = 0; i < cpus; i++) {
        char name[5] = {'C', digit[i >> 8 & 15], digit[i >> 4 & 15], digit[i & 15], 0};
        size_t d = aml_open_device(a, name);
        aml_name(a, "_HID");
        aml_string(a, "ACPI0007");
        aml_name_int(a, "_UID", i);
        aml_close(a, d);
    }
}

static u64 dsdt_build(struct builder *b, unsigned cpus, bool hpet)
{
    size_t t = table_open(b, "DSDT", 2);
    dsdt_s5(&b->out);
    size_t sb = aml_open_scope(&b->out, "\\_SB_");
    dsdt_cpus(&b->out, cpus);
    dsdt_motherboard(&b->out);
    dsdt_pci(&b->out, hpet);
    aml_close(&b->out, sb);
    return table_close(b, t, false);
}

// ---- the fixed tables -------------------------------------------------------------------------------------------------------

// FACS (5.2.10): 64 bytes, no checksum; the global lock lives here.
static u64 facs_build(struct builder *b)
{
    pad_to(b, 64);
    u64 at = here(b);
    aml_bytes(&b->out, "FACS", 4);
    aml_le(&b->out, 64, 4);
    aml_le(&b->out, 0, 24);
    aml_byte(&b->out, 2);                  // version
    for (int i = 33; i < 64; i++) aml_byte(&b->out, 0);
    return at;
}

static void gas(struct aml *a, unsigned bits, unsigned access, u64 addr)   // generic address in I/O space; addr 0: absent
{
    aml_byte(a, addr ? 1 : 0);
    aml_byte(a, addr ? bits : 0);
    aml_byte(a, 0);
    aml_byte(a, addr ? access : 0);
    aml_le(a, addr, 8);
}

enum {   // FADT flags, 5.2.9 table 5.10, and IAPC_BOOT_ARCH, table 5.11
    FADT_WBINVD = 1 << 0, FADT_PROC_C1 = 1 << 2, FADT_SLP_BUTTON = 1 << 5, FADT_FIX_RTC = 1 << 6, FADT_TMR_32 = 1 << 8,
        FADT_RESET = 1 << 10,
    BOOT_LEGACY = 1, BOOT_8042 = 2, BOOT_NO_VGA = 4, BOOT_NO_ASPM = 16,
};

static void fadt_build(struct builder *b, u64 facs, u64 dsdt)
{
    struct aml *a = &b->out;
    size_t t = table_open(b, "FACP", 6);
    aml_le(a, facs, 4);
    aml_le(a, dsdt, 4);
    aml_byte(a, 0);
    aml_byte(a, 1);                        // preferred profile: desktop
    aml_le(a, ACPI_SCI, 2);
    aml_le(a, 0, 8);                       // SMI_CMD .. PSTATE_CNT: none, always in ACPI mode
    aml_le(a, ACPI_PM1_EVT, 4);
    aml_le(a, 0, 4);
    aml_le(a, ACPI_PM1_CNT, 4);
    aml_le(a, 0, 8);                       // PM1b control, PM2
    aml_le(a, ACPI_PM_TMR, 4);
    aml_le(a, 0, 8);                       // GPE0, GPE1
    aml_bytes(a, (const u8[]){4, 2, 0, 4, 0, 0, 0, 0}, 8);   // lengths of the blocks; CST_CNT
    aml_le(a, 0xfff, 2);                   // no C2
    aml_le(a, 0xfff, 2);                   // no C3
    aml_le(a, 0, 8);                       // flush, duty cycle, day and month alarm
    aml_byte(a, 0x32);                     // CMOS index of the century
    aml_le(a, BOOT_LEGACY | BOOT_8042 | BOOT_NO_VGA | BOOT_NO_ASPM, 2);
    aml_byte(a, 0);
    aml_le(a, FADT_WBINVD | FADT_PROC_C1 | FADT_SLP_BUTTON | FADT_FIX_RTC | FADT_TMR_32 | FADT_RESET, 4);
    gas(a, 8, 1, ACPI_RESET_PORT);
    aml_byte(a, ACPI_RESET_VALUE);
    aml_le(a, 0, 2);                       // ARM flags
    aml_byte(a, 3);                        // minor version
    aml_le(a, 0, 8);                       // X_FIRMWARE_CTRL: the 32-bit field speaks
    aml_le(a, dsdt, 8);
    gas(a, 32, 2, ACPI_PM1_EVT);
    gas(a, 0, 0, 0);
    gas(a, 16, 2, ACPI_PM1_CNT);
    gas(a, 0, 0, 0);
    gas(a, 0, 0, 0);                       // PM2
    gas(a, 32, 3, ACPI_PM_TMR);
    gas(a, 0, 0, 0);                       // GPE0
    gas(a, 0, 0, 0);                       // GPE1
    gas(a, 0, 0, 0);                       // sleep control, hardware-reduced only
    gas(a, 0, 0, 0);
    aml_le(a, 0, 8);                       // hypervisor vendor
    ASSERT(a->full || a->len - t == 276, "FADT of %zu bytes", a->len - t);
    table_close(b, t, true);
}

static void madt_override(struct aml *a, u8 irq, u32 gsi, u16 flags)
{
    aml_bytes(a, (const u8[]){2, 10, 0, irq}, 4);
    aml_le(a, gsi, 4);
    aml_le(a, flags, 2);
}

// MADT (5.2.12). Flags of an override: bits 0-1 polarity (1 high), bits 2-3 trigger (1 edge, 3 level).
static void madt_build(struct builder *b, unsigned cpus)
{
    struct aml *a = &b->out;
    size_t t = table_open(b, "APIC", 5);
    aml_le(a, LAPIC_BASE, 4);
    aml_le(a, 1, 4);                       // there is an 8259 pair
    for (unsigned i = 0; i < cpus && i < XAPIC_IDS; i++) {
        aml_bytes(a, (const u8[]){0, 8, i, i}, 4);
        aml_le(a, 1, 4);
    }
    for (unsigned i = XAPIC_IDS; i < cpus; i++) {
        aml_bytes(a, (const u8[]){9, 16, 0, 0}, 4);
        aml_le(a, i, 4);
        aml_le(a, 1, 4);
        aml_le(a, i, 4);
    }
    aml_bytes(a, (const u8[]){1, 12, 0, 0}, 4);
    aml_le(a, IOAPIC_BASE, 4);
    aml_le(a, 0, 4);
    madt_override(a, 0, 2, 0x5);
    madt_override(a, ACPI_SCI, ACPI_SCI, 0xd);
    aml_bytes(a, (const u8[]){4, 6, 0xff, 5, 0, 1}, 6);   // NMI: every LINT1, edge, high
    table_close(b, t, true);
}

static void hpet_build(struct builder *b, u32 id)
{
    size_t t = table_open(b, "HPET", 1);
    aml_le(&b->out, id, 4);
    aml_bytes(&b->out, (const u8[]){0, 64, 0, 0}, 4);     // generic address: memory
    aml_le(&b->out, HPET_BASE, 8);
    aml_byte(&b->out, 0);
    aml_le(&b->out, 0x80, 2);              // fewest ticks of a periodic comparator without losing any
    aml_byte(&b->out, 0);
    table_close(b, t, true);
}

static void mcfg_build(struct builder *b)
{
    size_t t = table_open(b, "MCFG", 1);
    aml_le(&b->out, 0, 8);
    aml_le(&b->out, PCI_ECAM_BASE, 8);
    aml_bytes(&b->out, (const u8[]){0, 0, 0, 255, 0, 0, 0, 0}, 8);   // segment 0, buses 0..255
    table_close(b, t, true);
}

static u64 sdt_build(struct builder *b, const char *sig, unsigned width)
{
    size_t t = table_open(b, sig, 1);
    for (unsigned i = 0; i < b->n; i++) aml_le(&b->out, b->tables[i], width);
    return table_close(b, t, false);
}

// The RSDP comes last in time but first in the area, where searches begin: its 36 bytes were left free.
static void rsdp_build(struct builder *b, u64 rsdt, u64 xsdt)
{
    struct aml r = {.buf = b->out.buf, .cap = HEADER};
    aml_bytes(&r, "RSD PTR ", 8);
    aml_byte(&r, 0);
    aml_bytes(&r, "CUPEL ", 6);
    aml_byte(&r, 2);
    aml_le(&r, rsdt, 4);
    aml_le(&r, HEADER, 4);
    aml_le(&r, xsdt, 8);
    aml_le(&r, 0, 4);
    checksum_at(b, 0, 20, 8);
    checksum_at(b, 0, HEADER, 32);
}

struct gpa acpi_tables_build(struct phys *p, unsigned cpus)
{
    u8 *area = plat_pages_alloc(AREA_SIZE);
    if (!area) panic("no memory for the ACPI tables");
    struct builder b = {.out = {.buf = area, .cap = AREA_SIZE / 2}};    // the upper half is the BIOS's
    u32 hpet = phys_ld(p, gpa(HPET_BASE), 4);                            // capabilities register: the id that the table repeats
    bool has_hpet = hpet != UINT32_MAX;
    aml_le(&b.out, 0, 8);
    while (b.out.len < 64) aml_byte(&b.out, 0);                          // room for the RSDP
    u64 facs = facs_build(&b);
    u64 dsdt = dsdt_build(&b, cpus, has_hpet);
    fadt_build(&b, facs, dsdt);
    madt_build(&b, cpus);
    if (has_hpet) hpet_build(&b, hpet);
    mcfg_build(&b);
    u64 rsdt = sdt_build(&b, "RSDT", 4), xsdt = sdt_build(&b, "XSDT", 8);
    ASSERT(!b.out.full, "%u processors need more than %llu bytes of ACPI tables", cpus, AREA_SIZE / 2);
    rsdp_build(&b, rsdt, xsdt);
    if (!phys_host(p, gpa(AREA_BASE))) phys_add_ram(p, gpa(AREA_BASE), AREA_SIZE, area, "bios-area");
    else {
        phys_write(p, gpa(AREA_BASE), area, b.out.len);
        plat_pages_free(area, AREA_SIZE);
    }
    return gpa(AREA_BASE);
}
