// Starting the application processors, by INIT-SIPI-SIPI (SDM 3A 9.4.4.1) with the trampoline (trampoline.S) in a free page below 640 KiB.
//
// INIT goes to all of them, and 10 ms are waited once, not per core. Then one after the other: its record is put into the trampoline, two
// STARTUP IPIs are sent 200 us apart (the second only if the first was not heard), and it has 3 s to answer. One that does not is told,
// gets another INIT, which stops whatever it is doing, and its record is taken back out of the trampoline: it can never take that of
// the next. Its stacks are not given back: that it is quiet is likely, not known.
//
// The trampoline is entered in real mode and can load 32 bits into CR3 only. So it does not get the kernel's top table but a copy of it,
// below 4 GiB, with one more entry: the first 2 MiB, where the trampoline is. The kernel's own top table may lie anywhere.
//
// The page is one that the firmware calls free, the highest such below 640 KiB, because BIOSes are known to scribble on the lowest 64
// KiB. pmem leaves all below 1 MiB alone, so nobody else has it. Page 0 (interrupt vectors, BIOS data) is never taken, and 0xa0..0xbf
// cannot be named by a STARTUP IPI.
//
// Every core's clock is its TSC, so a new core's is made to agree with the boot core's (tsc.c) before it does anything else.
#include "kernel/ap.h"

#include <string.h>

#include "kernel/acpi.h"
#include "kernel/base/log.h"
#include "kernel/core.h"
#include "kernel/cores.h"
#include "kernel/cpu.h"
#include "kernel/hwtimer.h"
#include "kernel/lapic.h"
#include "kernel/pmem.h"
#include "kernel/traps.h"
#include "kernel/tsc.h"
#include "kernel/vmem.h"

#define INIT_NS       10000000ull
#define SIPI_NS       200000ull
#define PATIENCE_NS   (3 * NS_PER_SEC)
#define TSC_LIMIT_NS  1000ull          // a provable difference above it that stays is told

struct trampoline_words {
    u64 record, entry;
    u32 cr3, cr4;
};

extern const u8 trampoline[], trampoline_end[], trampoline_words[], ap_entry[];

void ap_main(struct core *c);

static struct { u64 page; struct trampoline_words *words; u32 boot_id; } ap;

static u32 ap_state(const struct core *c) { return __atomic_load_n(&c->state, __ATOMIC_ACQUIRE); }
static void ap_set_state(struct core *c, enum core_state s) { __atomic_store_n(&c->state, s, __ATOMIC_RELEASE); }

// ---- the TSC ----

static u64 tsc_ns(s64 ticks) { return muldiv64(ticks < 0 ? -(u64)ticks : (u64)ticks, NS_PER_SEC, hwtimer_tsc_hz()); }

// On the boot core.
static void ap_tsc(struct core *c)
{
    s64 was = tsc_ahead(c), is = was ? tsc_align(c) : 0;
    tsc_release(c);
    if (tsc_ns(is) > TSC_LIMIT_NS)
        log_warn("the TSC of core %u (APIC id %u) is %llu ns %s the boot core's and cannot be moved; time jumps between cores, which guests may "
                 "notice", c->id, c->apic_id, (unsigned long long)tsc_ns(is), is > 0 ? "ahead of" : "behind");
    else if (tsc_ns(was) > TSC_LIMIT_NS)
        log_info("the TSC of core %u was %llu ns %s the boot core's and has been moved", c->id, (unsigned long long)tsc_ns(was),
                 was > 0 ? "ahead of" : "behind");
}

// ---- on the new core ----

// From ap_entry, on the core's own stack.
NORETURN void ap_main(struct core *c)
{
    bool fit = core_init_other(c);
    traps_load();                  // from here on, a fault shows a dump
    if (!fit) {
        ap_set_state(c, CORE_UNFIT);
        cpu_halt_forever();
    }
    lapic_init_other();
    ap_set_state(c, CORE_ALIVE);
    tsc_follow(c);
    cores_park(c);
}

// ---- preparations on the boot core ----

// The highest free page that a STARTUP IPI can name; 0: none.
static u64 ap_low_page(const struct boot_info *info)
{
    const struct boot_mem *m = pmem_virt(info->mem_map_phys);
    u64 found = 0;
    for (u64 i = 0; i < info->mem_map_count; i++) {
        u64 end = min_u64(align_down(m[i].base + m[i].size, PAGE_SIZE), 0xa0000);
        if (m[i].type == BOOT_MEM_FREE && end >= PAGE_SIZE * 2 && end - PAGE_SIZE >= m[i].base) found = max_u64(found, end - PAGE_SIZE);
    }
    return found;
}

static u64 *ap_table(void)
{
    u64 phys = pmem_alloc(PAGE_SIZE, PAGE_SIZE);
    if (phys && phys < 4 * GIB) return memset(pmem_virt(phys), 0, PAGE_SIZE);
    if (phys) pmem_free(phys, PAGE_SIZE);
    return NULL;
}

static u32 ap_table_phys(const u64 *t) { return (u32)((u64)t - DIRECT_MAP_BASE); }

// The tables of the trampoline, never freed: four pages, and they stay right. 0: no memory below 4 GiB.
static u32 ap_tables_build(void)
{
    enum { P = 1, W = 2, PS = 0x80 };
    u64 *pml5 = ap_table(), *pml4 = ap_table(), *pdpt = ap_table(), *pd = ap_table();
    if (!pml5 || !pml4 || !pdpt || !pd) return 0;
    memcpy(pml4, vmem_pml4(), PAGE_SIZE);
    pd[0] = P | PS;
    pdpt[0] = ap_table_phys(pd) | P;
    pml4[0] = ap_table_phys(pdpt) | P;
    if (!(cpu_cr4() & CR4_LA57)) return ap_table_phys(pml4);
    pml5[0] = pml5[511] = ap_table_phys(pml4) | P | W;
    return ap_table_phys(pml5);
}

static bool ap_prepare(const struct boot_info *info)
{
    ap.page = ap_low_page(info);
    u32 cr3 = ap.page ? ap_tables_build() : 0;
    if (!cr3) {
        log_warn("no free memory below %s, which starting the other cores takes; one core is used", ap.page ? "4 GiB" : "640 KiB");
        return false;
    }
    _Static_assert(sizeof(struct trampoline_words) == 24, "trampoline.S");
    u8 *at = pmem_virt(ap.page);
    memcpy(at, trampoline, (size_t)(trampoline_end - trampoline));
    ap.words = (struct trampoline_words *)(at + (trampoline_words - trampoline));
    ap.words->entry = (u64)ap_entry;
    ap.words->cr3 = cr3;
    ap.words->cr4 = BIT(5) | (u32)(cpu_cr4() & CR4_LA57);   // PAE
    return true;
}

// ---- one core ----

// Waits until the state is another than `s`; false after `ns`.
static bool ap_wait(const struct core *c, enum core_state s, u64 ns)
{
    for (u64 t0 = hwtimer_now_ns(); ap_state(c) == s; cpu_pause())
        if (hwtimer_now_ns() - t0 > ns) return ap_state(c) != s;
    return true;
}

static void ap_pause_ns(u64 ns)
{
    for (u64 t0 = hwtimer_now_ns(); hwtimer_now_ns() - t0 < ns;) cpu_pause();
}

// The record's place in the trampoline is an atomic exchange for both sides: either the core has taken it, or nobody will.
static void ap_start(u32 apic_id)
{
    struct core *c = core_new(cores_count(), apic_id);
    if (!c) {
        log_warn("no memory for the core with APIC id %u; it is not used", apic_id);
        return;
    }
    __atomic_store_n(&ap.words->record, (u64)c, __ATOMIC_RELEASE);
    lapic_send_startup(apic_id, (u8)(ap.page >> PAGE_SHIFT));
    if (!ap_wait(c, CORE_WAITING, SIPI_NS)) lapic_send_startup(apic_id, (u8)(ap.page >> PAGE_SHIFT));
    if (!ap_wait(c, CORE_WAITING, PATIENCE_NS)) {
        lapic_send_init(apic_id);
        (void)__atomic_exchange_n(&ap.words->record, 0, __ATOMIC_ACQ_REL);
        log_warn("the core with APIC id %u did not start within %llu s; Cupel goes on without it", apic_id,
                 (unsigned long long)(PATIENCE_NS / NS_PER_SEC));
        return;
    }
    if (ap_state(c) == CORE_ALIVE) ap_tsc(c);
    (void)ap_wait(c, CORE_ALIVE, PATIENCE_NS);
    if (ap_state(c) != CORE_PARKED) {
        log_warn("the core with APIC id %u lacks features that the boot core has; Cupel goes on without it", apic_id);
        return;
    }
    cores_add(c);
}

// xAPIC mode has 8-bit ids, of which 0xff means all.
static bool ap_usable(u32 apic_id) { return apic_id != ap.boot_id && (lapic_is_x2apic() || apic_id < 0xff); }

void ap_start_all(const struct boot_info *info)
{
    const struct acpi_info *acpi = acpi_info();
    unsigned want = 0;
    ap.boot_id = lapic_id();
    cores_init();
    for (unsigned i = 0; i < acpi->cores; i++) {
        u32 id = acpi->apic_id[i];
        if (ap_usable(id)) want++;
        else if (id != ap.boot_id) log_warn("APIC id %u cannot be reached without x2APIC; that core is not used", id);
    }
    if (want && ap_prepare(info)) {
        for (unsigned i = 0; i < acpi->cores; i++)
            if (ap_usable(acpi->apic_id[i])) lapic_send_init(acpi->apic_id[i]);
        ap_pause_ns(INIT_NS);
        for (unsigned i = 0; i < acpi->cores && cores_count() < CORES_MAX; i++)
            if (ap_usable(acpi->apic_id[i])) ap_start(acpi->apic_id[i]);
    }
    log_info("%u core%s", cores_count(), cores_count() == 1 ? "" : "s");
}
