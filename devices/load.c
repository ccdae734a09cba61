// What the direct-boot loaders share: the memory map, placing things in RAM, the GDT, and the choice of the loader.
//
// The map told to the guest is derived from the RAM regions of the machine, so it cannot disagree with them: RAM below 0x9fc00 and
// from 1 MiB up; the BIOS area between is reserved (the ACPI tables lie there), and so is the PCI configuration window, as Linux
// demands of it.
#include "devices/load.h"

#include <stdarg.h>

#include "devices/pci.h"
#include "kernel/base/bits.h"
#include "kernel/base/fmt.h"

bool load_fail(struct loader *l, const char *fmt, ...)
{
    va_list ap;
    va_start(ap, fmt);
    fmt_vsnprintf(l->err, l->errlen, fmt, ap);
    va_end(ap);
    return false;
}

// ---- the memory map ------------------------------------------------------------------------------------------------

// Inserts in ascending order; what lies inside an earlier range or does not fit the table is left out (a map may tell less than
// there is).
static void map_add(struct loader *l, u64 first, u64 end, u32 type)
{
    if (first >= end || l->nmap == LOAD_RANGES) return;
    unsigned at = l->nmap;
    while (at && l->map[at - 1].base > first) at--;
    if (at && l->map[at - 1].base + l->map[at - 1].size > first) return;
    if (at < l->nmap) end = min_u64(end, l->map[at].base);
    if (first >= end) return;
    for (unsigned i = l->nmap++; i > at; i--) l->map[i] = l->map[i - 1];
    l->map[at] = (struct load_range){first, end - first, type};
}

static void map_region(void *opaque, const struct region *r, bool port)
{
    struct loader *l = opaque;
    if (port || r->kind != REGION_RAM) return;
    u64 end = r->base + r->size;
    if (r->base < LOAD_LOW_END) map_add(l, r->base, min_u64(end, LOAD_LOW_END), E820_RAM);
    map_add(l, max_u64(r->base, MIB), end, E820_RAM);
}

static void map_build(struct loader *l)
{
    phys_walk(l->phys, map_region, l);
    map_add(l, LOAD_LOW_END, MIB, E820_RESERVED);
    map_add(l, PCI_ECAM_BASE, PCI_ECAM_BASE + PCI_ECAM_SIZE, E820_RESERVED);
    map_add(l, 0xfec00000, 0xfef00000, E820_RESERVED);     // interrupt controllers and HPET
}

bool load_in_ram(const struct loader *l, u64 a, u64 len) { return a <= UINT64_MAX - len && load_ram_end(l, a) >= a + len; }

u64 load_ram_end(const struct loader *l, u64 a)
{
    for (unsigned i = 0; i < l->nmap; i++) {
        const struct load_range *m = &l->map[i];
        if (m->type == E820_RAM && a >= m->base && a - m->base < m->size) return m->base + m->size;
    }
    return a;
}

u64 load_place_high(const struct loader *l, u64 len, u64 from, u64 to)
{
    u64 best = 0;
    for (unsigned i = 0; i < l->nmap; i++) {
        const struct load_range *m = &l->map[i];
        u64 lo = max_u64(m->base, from), hi = min_u64(m->base + m->size, to);
        if (m->type != E820_RAM || hi < lo || hi - lo < len) continue;
        u64 a = align_down(hi - len, PAGE_SIZE);
        if (a >= lo && a > best) best = a;
    }
    return best;
}

// ---- writing into the guest ----------------------------------------------------------------------------------------

void load_put(struct loader *l, u64 a, const void *data, u64 len) { phys_write(l->phys, gpa(a), data, len); }

void load_zero(struct loader *l, u64 a, u64 len)
{
    static const u8 zero[PAGE_SIZE];
    for (u64 n; len; a += n, len -= n) load_put(l, a, zero, n = min_u64(len, sizeof zero));
}

bool load_cmdline(struct loader *l, u64 max)
{
    const char *s = l->rq->cmdline ? l->rq->cmdline : "";
    u64 n = 0;
    while (s[n]) n++;
    max = min_u64(max, LOAD_CMDLINE_MAX - 1);
    if (n > max)
        return load_fail(l, "the kernel command line has %llu characters; this kernel takes %llu", (unsigned long long)n, (unsigned long long)max);
    load_put(l, LOAD_CMDLINE, s, n + 1);
    return true;
}

void load_gdt(struct loader *l, bool mode64)
{
    u64 gdt[4] = {0, 0, mode64 ? 0x00af9b000000ffff : 0x00cf9b000000ffff, 0x00cf93000000ffff};   // SDM 3A 3.4.5
    load_put(l, LOAD_GDT, gdt, sizeof gdt);
    l->res->gdt_base = LOAD_GDT;
    l->res->gdt_limit = sizeof gdt - 1;
    l->res->cs = 0x10;
    l->res->ds = 0x18;
}

// The words of the BIOS data area that kernels read even without a BIOS: COM1, the EBDA's segment, KiB of low memory.
static void bios_data(struct loader *l)
{
    phys_st(l->phys, gpa(0x400), 0x3f8, 2);
    phys_st(l->phys, gpa(0x40e), LOAD_LOW_END >> 4, 2);
    phys_st(l->phys, gpa(0x413), LOAD_LOW_END / 1024, 2);
}

// ---- the choice --------------------------------------------------------------------------------------------------------

static bool is_elf(const struct blob *k) { return k->size >= 4 && blob_ld(k, 0, 4) == 0x464c457f; }

static bool unknown_kind(struct loader *l)
{
    const struct blob *k = &l->rq->kernel;
    if (is_elf(k))
        return load_fail(l, "%s is an ELF file without a multiboot header in its first 8 KiB; for Linux, give the bzImage", k->name);
    if (k->size >= 2 && k->data[0] == 0x1f && k->data[1] == 0x8b)
        return load_fail(l, "%s is gzip-compressed; decompress it first", k->name);
    return load_fail(l, "%s is neither a bzImage nor a multiboot kernel", k->name);
}

bool load_kernel(struct phys *p, const struct load_request *rq, struct load_result *res, char *err, size_t errlen)
{
    struct loader l = {.phys = p, .rq = rq, .res = res, .err = err, .errlen = errlen};
    *res = (struct load_result){0};
    map_build(&l);
    if (!rq->kernel.data || !rq->kernel.size) return load_fail(&l, "%s is empty", rq->kernel.name ? rq->kernel.name : "the kernel");
    if (load_ram_end(&l, 0) < LOAD_LOW_END || load_ram_end(&l, MIB) <= MIB)
        return load_fail(&l, "direct boot needs RAM below and above 1 MiB");
    bool linux_kind = linux_probe(&rq->kernel);
    if (!linux_kind && !multiboot_probe(&rq->kernel)) return unknown_kind(&l);
    bios_data(&l);
    return linux_kind ? linux_load(&l) : multiboot_load(&l);
}
