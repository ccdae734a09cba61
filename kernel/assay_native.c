// The assay's payload on the bare processor.
//
// Its window is one piece of physical memory. The payload brings page tables, descriptor tables and handlers of its own (assay/abi.h), so
// while it runs nothing of Cupel's is mapped and none of Cupel's code runs; interrupts of Cupel's devices wait in the local APIC. What is
// here is the way in, on page tables that have both - the window where the payload was linked to, and Cupel's own half - and the way
// back: all that the payload may have changed is loaded again from where it came. An NMI meanwhile would be counted by the payload and be
// lost for Cupel; they are sent for TLB flushes and panics, and nobody unmaps anything or runs at all while the payload has the cores.
//
// SMEP and SMAP are off on the way: the window is the user's.
#include "kernel/assay_native.h"

#include "kernel/acpi.h"
#include "kernel/core.h"
#include "kernel/cores.h"
#include "kernel/cpu.h"
#include "kernel/lapic.h"
#include "kernel/pmem.h"
#include "kernel/traps.h"
#include "kernel/vmem.h"

enum { PTE_P = 1, PTE_W = 2, PTE_U = 4, PTE_PS = 0x80, LARGE = 2 << 20, MSR_STAR = 0, MSR_LSTAR, MSR_FMASK, MSR_FS, MSR_GS, MSR_KERNEL_GS, N_MSRS };
static const u32 lent_msrs[N_MSRS] = {0xc0000081, 0xc0000082, 0xc0000084, 0xc0000100, 0xc0000101, 0xc0000102};
_Static_assert(ASSAY_VIRT % LARGE == 0 && ASSAY_WINDOW % LARGE == 0 && ASSAY_VIRT % GIB + ASSAY_WINDOW <= GIB, "one page directory maps the window");

static u64 way_in;                // physical address of the tables on the way in and out

static u64 *table_new(u64 *phys)
{
    *phys = pmem_alloc(PAGE_SIZE, PAGE_SIZE);
    if (!*phys) return NULL;
    u64 *t = pmem_virt(*phys);
    for (unsigned i = 0; i < 512; i++) t[i] = 0;
    return t;
}

static bool tables_make(u64 window)
{
    u64 pml4_phys, pdpt_phys, pd_phys, *pml4 = table_new(&pml4_phys), *pdpt = table_new(&pdpt_phys), *pd = table_new(&pd_phys);
    if (!pml4 || !pdpt || !pd) return false;
    const u64 *own = vmem_pml4();
    for (unsigned i = 256; i < 512; i++) pml4[i] = own[i];
    pml4[0] = pdpt_phys | PTE_P | PTE_W | PTE_U;
    pdpt[ASSAY_VIRT / GIB] = pd_phys | PTE_P | PTE_W | PTE_U;
    for (u64 at = 0; at < ASSAY_WINDOW; at += LARGE)
        pd[(ASSAY_VIRT % GIB + at) / LARGE] = (window + at) | PTE_P | PTE_W | PTE_U | PTE_PS;
    way_in = pml4_phys;
    return true;
}

// Any core, interrupts on, BQL not held.
static void native_enter(u64 fn, u64 cpu)
{
    struct lapic_lent apic;
    u64 msr[N_MSRS], flags = cpu_irq_save(), cr3 = cpu_cr3(), cr4 = cpu_cr4();
    struct core *self = core_self();
    for (unsigned i = 0; i < N_MSRS; i++) msr[i] = cpu_rdmsr(lent_msrs[i]);
    lapic_lend(&apic);
    cpu_set_cr4(cr4 & ~(CR4_SMEP | CR4_SMAP));
    cpu_set_cr3(way_in);
    ((void (*)(u64))fn)(cpu);
    core_tables_reload(self);
    traps_load();
    for (unsigned i = 0; i < N_MSRS; i++) cpu_wrmsr(lent_msrs[i], msr[i]);
    cpu_set_cr3(cr3);
    cpu_set_cr4(cr4);
    u32 mxcsr = 0x1f80;
    __asm__ volatile("fninit; ldmxcsr %0" : : "m"(mxcsr));
    lapic_take_back(&apic);
    cpu_irq_restore(flags);
}

static u32 native_apic_id(unsigned core) { return cores_get(core)->apic_id; }

const char *assay_native_open(struct assay_native *n)
{
    u64 phys = pmem_alloc(ASSAY_WINDOW, LARGE);
    if (!phys) return "this PC has no 128 MiB of memory in one piece for it";
    if (cpu_cr4() & CR4_LA57) return "the firmware left this PC with 5-level paging";
    if (!tables_make(phys)) return "no memory for page tables";
    n->window = pmem_virt(phys);
    n->phys = phys;
    n->kernel = true;
    n->lapic = lapic_phys();
    n->ioapic = acpi_info()->ioapics ? acpi_info()->ioapic[0].phys : 0;
    n->enter = native_enter;
    n->apic_id = native_apic_id;
    return NULL;
}
