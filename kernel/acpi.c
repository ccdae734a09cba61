// Reading the host's ACPI tables: RSDP, XSDT or RSDT, then one small reader per table (ACPI 6.5, chapter 5). A table is used only
// if its checksum holds; a machine without tables gets the defaults of a plain PC.
#include "kernel/acpi.h"

#include <string.h>

#include "kernel/base/bits.h"
#include "kernel/base/log.h"
#include "kernel/vmem.h"

struct sdt {
    char sig[4];
    u32 length;
    u8 revision, checksum;
    char oem[6], oem_table[8];
    u32 oem_revision, creator, creator_revision;
} __attribute__((packed));
_Static_assert(sizeof(struct sdt) == 36, "ACPI 5.2.6");

static struct acpi_info acpi;

const struct acpi_info *acpi_info(void) { return &acpi; }

static u8 acpi_ld8(const void *t, u32 off) { return ((const u8 *)t)[off]; }
static u16 acpi_ld16(const void *t, u32 off) { u16 v; memcpy(&v, (const u8 *)t + off, 2); return v; }
static u32 acpi_ld32(const void *t, u32 off) { u32 v; memcpy(&v, (const u8 *)t + off, 4); return v; }
static u64 acpi_ld64(const void *t, u32 off) { u64 v; memcpy(&v, (const u8 *)t + off, 8); return v; }
static struct acpi_gas acpi_ld_gas(const void *t, u32 off) { struct acpi_gas g; memcpy(&g, (const u8 *)t + off, sizeof(g)); return g; }

static bool acpi_sum_ok(const void *p, u64 len)
{
    u8 sum = 0;
    for (u64 i = 0; i < len; i++) sum = (u8)(sum + ((const u8 *)p)[i]);
    return sum == 0;
}

// A table, wholly mapped; NULL when absent or damaged.
static const struct sdt *acpi_map(u64 phys)
{
    const struct sdt *t = phys ? vmem_map_phys(phys, sizeof(*t), VMEM_READ) : NULL;
    if (!t || t->length < sizeof(*t) || t->length > 16 * MIB) return NULL;
    t = vmem_map_phys(phys, t->length, VMEM_READ);
    if (t && acpi_sum_ok(t, t->length)) return t;
    log_warn("ACPI table at 0x%llx is damaged; it is ignored", (unsigned long long)phys);
    return NULL;
}

// ---- MADT, 5.2.12 ----

// Flags: 1 enabled; 2 is for a socket that may be filled at run time, which is not a core now. Firmwares may list a core both as a local
// APIC and as a local x2APIC, and fill unused entries with the id that means all.
static void madt_core(u32 id, u32 flags, u32 nobody)
{
    if (!(flags & 1) || id == nobody) return;
    for (unsigned i = 0; i < acpi.cores; i++)
        if (acpi.apic_id[i] == id) return;
    if (acpi.cores < ACPI_CORES) acpi.apic_id[acpi.cores++] = id;
    else log_once(LOG_WARN, "this machine has more than %u cores; the rest is not used", ACPI_CORES);
}

static void madt_override(const u8 *e)
{
    unsigned isa = e[3];
    u16 flags = acpi_ld16(e, 8);
    if (isa < 16) acpi.isa[isa] = (struct acpi_isa){acpi_ld32(e, 4), (flags & 0xc) == 0xc, (flags & 3) == 3};
}

static void acpi_read_madt(const struct sdt *t)
{
    acpi.lapic_phys = acpi_ld32(t, 36);
    for (u32 off = 44; off + 2 <= t->length;) {
        const u8 *e = (const u8 *)t + off;
        u8 len = e[1];
        if (len < 2 || off + len > t->length) break;
        if (e[0] == 0 && len >= 8) madt_core(e[3], acpi_ld32(e, 4), 0xff);
        else if (e[0] == 1 && len >= 12 && acpi.ioapics < ACPI_IOAPICS)
            acpi.ioapic[acpi.ioapics++] = (struct acpi_ioapic){acpi_ld32(e, 4), acpi_ld32(e, 8)};
        else if (e[0] == 2 && len >= 10) madt_override(e);
        else if (e[0] == 5 && len >= 12) acpi.lapic_phys = acpi_ld64(e, 4);
        else if (e[0] == 9 && len >= 16) madt_core(acpi_ld32(e, 4), acpi_ld32(e, 8), UINT32_MAX);
        off += len;
    }
}

// ---- FADT, 5.2.9, and the DSDT's _S5_ ----

// _S5_ is a Name of a Package of small integers: 08 [\] '_S5_' 12 PkgLength count {0a xx | 00 | 01 ...}. The PkgLength is 1 to 4
// bytes, as its top bits say (20.2.4).
static void acpi_find_s5(const struct sdt *dsdt)
{
    const u8 *p = (const u8 *)dsdt, *end = p + dsdt->length;
    for (p += sizeof(*dsdt); p + 16 < end; p++) {
        if (memcmp(p, "_S5_", 4) || p[4] != 0x12) continue;
        const u8 *v = p + 5;
        v += (v[0] >> 6) + 1;
        if (v + 5 >= end || *v++ < 1) continue;
        u8 typ[2] = {0, 0};
        for (unsigned i = 0; i < 2; i++) {
            if (*v == 0x0a) v++;
            typ[i] = *v++ & 7;
        }
        acpi.s5_typa = typ[0];
        acpi.s5_typb = typ[1];
        acpi.has_s5 = true;
        return;
    }
}

// An address that has an old 32-bit and, in longer tables, a generic form.
static struct acpi_gas fadt_address(const struct sdt *t, u32 old, u32 gas)
{
    if (t->length >= gas + 12) {
        struct acpi_gas g = acpi_ld_gas(t, gas);
        if (g.address) return g;
    }
    return (struct acpi_gas){.space = 1, .address = acpi_ld32(t, old)};
}

static void acpi_read_fadt(const struct sdt *t)
{
    if (t->length < 116) return;
    u64 dsdt = t->length >= 148 && acpi_ld64(t, 140) ? acpi_ld64(t, 140) : acpi_ld32(t, 40);
    acpi.smi_cmd = (u16)acpi_ld32(t, 48);
    acpi.acpi_enable = acpi_ld8(t, 52);
    acpi.pm1a_cnt = fadt_address(t, 64, 172);
    acpi.pm1b_cnt = fadt_address(t, 68, 184);
    if (acpi_ld8(t, 91) == 4) acpi.pm_timer = fadt_address(t, 76, 208);
    u32 flags = acpi_ld32(t, 112);
    acpi.pm_timer_32 = flags & BIT(8);
    if ((flags & BIT(10)) && t->length >= 129) {
        acpi.reset = acpi_ld_gas(t, 116);
        acpi.reset_value = acpi_ld8(t, 128);
        acpi.has_reset = acpi.reset.address != 0;
    }
    const struct sdt *d = acpi_map(dsdt);
    if (d) acpi_find_s5(d);
}

// ---- the others ----

static void acpi_read_hpet(const struct sdt *t)
{
    if (t->length >= 56 && acpi_ld8(t, 40) == 0) acpi.hpet_phys = acpi_ld64(t, 44);
}

static void acpi_read_mcfg(const struct sdt *t)
{
    if (t->length >= 60 && acpi_ld16(t, 52) == 0) acpi.mcfg_phys = acpi_ld64(t, 44);
}

// Microsoft's Serial Port Console Redirection table: interface types 0, 1 and 0x12 are 16550s.
static void acpi_read_spcr(const struct sdt *t)
{
    static const u32 baud[8] = {0, 0, 0, 9600, 19200, 0, 57600, 115200};
    if (t->length < 80) return;
    u8 type = acpi_ld8(t, 36), rate = acpi_ld8(t, 58);
    if (type > 1 && type != 0x12) return;
    acpi.spcr = acpi_ld_gas(t, 40);
    acpi.spcr_baud = rate < 8 ? baud[rate] : 0;
    acpi.spcr_gsi = acpi_ld8(t, 52) & 2 ? acpi_ld32(t, 54) : acpi_ld8(t, 52) & 1 ? acpi.isa[acpi_ld8(t, 53) & 15].gsi : 0;
    acpi.has_spcr = acpi.spcr.address != 0 && acpi.spcr.space <= 1;
}

static const struct { char sig[5]; void (*read)(const struct sdt *t); } acpi_readers[] = {
    {"APIC", acpi_read_madt}, {"FACP", acpi_read_fadt}, {"HPET", acpi_read_hpet}, {"MCFG", acpi_read_mcfg}, {"SPCR", acpi_read_spcr},
};

// The MADT comes first whatever the order in memory: the SPCR needs its overrides.
static void acpi_walk_root(const struct sdt *root, unsigned width)
{
    for (unsigned r = 0; r < ARRAY_SIZE(acpi_readers); r++) {
        for (u32 off = sizeof(*root); off + width <= root->length; off += width) {
            u64 phys = width == 8 ? acpi_ld64(root, off) : acpi_ld32(root, off);
            const struct sdt *t = phys ? vmem_map_phys(phys, sizeof(*t), VMEM_READ) : NULL;
            if (!t || memcmp(t->sig, acpi_readers[r].sig, 4) || !(t = acpi_map(phys))) continue;
            acpi_readers[r].read(t);
            break;
        }
    }
}

void acpi_init(u64 rsdp_phys)
{
    acpi.lapic_phys = 0xfee00000;
    for (unsigned i = 0; i < 16; i++) acpi.isa[i].gsi = i;
    const u8 *rsdp = rsdp_phys ? vmem_map_phys(rsdp_phys, 36, VMEM_READ) : NULL;
    if (!rsdp || memcmp(rsdp, "RSD PTR ", 8) || !acpi_sum_ok(rsdp, 20)) {
        log_warn("the firmware gives no ACPI tables; one core, no power-off, no HPET");
        return;
    }
    bool xsdt = rsdp[15] >= 2 && acpi_ld64(rsdp, 24);
    const struct sdt *root = acpi_map(xsdt ? acpi_ld64(rsdp, 24) : acpi_ld32(rsdp, 16));
    if (root) acpi_walk_root(root, xsdt ? 8 : 4);
    log_info("ACPI: %u core%s, %u I/O APIC%s,%s%s%s%s", acpi.cores, acpi.cores == 1 ? "" : "s", acpi.ioapics, acpi.ioapics == 1 ? "" : "s",
             acpi.hpet_phys ? " HPET" : "", acpi.pm_timer.address ? " PM timer" : "",
             acpi.has_s5 ? " S5" : "", acpi.mcfg_phys ? " MCFG" : "");
}
