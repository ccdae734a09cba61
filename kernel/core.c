// Cores' records, stacks and control registers.
//
// Each stack lies above a page that is not mapped: an overflow is a fault, and since that fault cannot be pushed on the same stack, it
// arrives as #DF on a stack of its own. NMI and #MC have theirs because they can hit between any two instructions. The boot core's stacks
// are in the image's BSS, where the final page tables leave the guard pages out; the other cores' are put together in a window.
//
// All cores run with the same control registers: translated code is shared, and what one core may execute the others must execute the
// same way. The boot core chooses the values by its own CPUID, the others take them over, or stay out if their CPUID offers less, as
// it may on a PC with two kinds of cores and an odd BIOS setting.
#include "kernel/core.h"

#include "kernel/cpu.h"
#include "kernel/vmem.h"

extern struct stacks core_boot_stacks;   // entry.S starts on its main stack
struct stacks core_boot_stacks __attribute__((used));
_Static_assert(offsetof(struct stacks, guard1) == 4096 + 256 * 1024, "entry.S adds this");

static struct core core_boot;

// Features as CPUID tells them; a core is fit if it has every bit that the boot core has.
struct core_features { u32 c1, d1, b7, xcr0; };

static struct {
    u64 cr0, cr4, xcr0, efer;
    struct core_features features;
} core_common;

const char *core_guard_name(u64 addr)
{
    const struct stacks *s = core_self()->stacks;
    u64 page = align_down(addr, PAGE_SIZE);
    if (page == (u64)s->guard0) return "stack overflow";
    if (page == (u64)s->guard1) return "overflow of the #DF stack";
    if (page == (u64)s->guard2) return "overflow of the NMI stack";
    if (page == (u64)s->guard3) return "overflow of the #MC stack";
    return NULL;
}

void core_guards_walk(void (*fn)(u64 page))
{
    fn((u64)core_boot_stacks.guard0);
    fn((u64)core_boot_stacks.guard1);
    fn((u64)core_boot_stacks.guard2);
    fn((u64)core_boot_stacks.guard3);
}

// ---- segments ----

// SDM 3A 3.4.5 and 8.2.3. User segments are there for ring 3, in the order SYSRET wants.
static void core_load_gdt(struct core *c)
{
    u64 base = (u64)&c->tss;
    c->gdt[SEL_CODE / 8] = 0x00af9b000000ffff;
    c->gdt[SEL_DATA / 8] = 0x00cf93000000ffff;
    c->gdt[SEL_USER_DATA / 8] = 0x00cff3000000ffff;
    c->gdt[SEL_USER_CODE / 8] = 0x00affb000000ffff;
    c->gdt[SEL_TSS / 8] = (sizeof(struct tss) - 1) | bits_get(base, 0, 24) << 16 | 0x89ull << 40 | bits_get(base, 24, 8) << 56;
    c->gdt[SEL_TSS / 8 + 1] = base >> 32;
    struct { u16 limit; u64 base; } __attribute__((packed)) gdtr = {sizeof(c->gdt) - 1, (u64)c->gdt};
    __asm__ volatile("lgdt %0\n\t"
                     "push %1; lea 1f(%%rip), %%rax; push %%rax; lretq; 1:\n\t"
                     "mov %2, %%ds; mov %2, %%es; mov %2, %%ss; mov %3, %%fs; mov %3, %%gs; ltr %4"
                     : : "m"(gdtr), "i"(SEL_CODE), "r"(SEL_DATA), "r"(0), "r"((u16)SEL_TSS) : "rax", "memory");
}

void core_tables_reload(struct core *c) { core_load_gdt(c); }

static void core_init_segments(struct core *c)
{
    c->self = c;
    c->tss.iomap = sizeof(struct tss);
    c->tss.rsp[0] = (u64)c->stacks->guard1;
    c->tss.ist[IST_DF - 1] = (u64)c->stacks->guard2;
    c->tss.ist[IST_NMI - 1] = (u64)c->stacks->guard3;
    c->tss.ist[IST_MC - 1] = (u64)(c->stacks + 1);
    core_load_gdt(c);
    cpu_wrmsr(MSR_GS_BASE, (u64)c);
}

// ---- control registers ----

// Only what instructions and this kernel depend on: debugging, power management and the like may differ, and OSXSAVE mirrors CR4.
enum {
    FEATURES_C1 = 1 << 0 | 1 << 1 | 1 << 3 | 1 << 9 | 1 << 12 | 1 << 13 | 1 << 17 | 1 << 19 | 1 << 20 | 1 << 21 | 1 << 22 | 1 << 23 |
                  1 << 25 | 1 << 26 | 1 << 28 | 1 << 29 | 1 << 30,   // SSE3 .. RDRAND, PCID, x2APIC, XSAVE
    FEATURES_D1 = 1 << 4 | 1 << 5 | 1 << 6 | 1 << 8 | 1 << 9 | 1 << 11 | 1 << 13 | 1 << 15 | 1 << 16 | 1 << 19 | 1 << 23 | 1 << 24 |
                  1 << 25 | 1 << 26,                                 // TSC .. SSE2
    FEATURES_B7 = ~(1 << 1 | 1 << 2 | 1 << 12 | 1 << 15 | 1 << 25),  // not TSC_ADJUST, SGX, RDT, PT
};

static struct core_features core_features_read(void)
{
    struct cpuid l1 = cpu_cpuid(1, 0);
    u32 xcr0 = l1.c & BIT(26) ? cpu_cpuid(0xd, 0).a : 0;
    return (struct core_features){l1.c & FEATURES_C1, l1.d & FEATURES_D1, cpu_cpuid_if(7, 0).b & FEATURES_B7, xcr0};
}

// What translated guest code needs of the host, and what protects us. CR0.TS stays clear: vector state is switched by the run-time,
// never lazily here.
static void core_choose_registers(void)
{
    struct core_features f = core_common.features = core_features_read();
    core_common.cr0 = (cpu_cr0() & ~(CR0_EM | CR0_TS | CR0_AM)) | CR0_MP | CR0_NE | CR0_WP;
    u64 cr4 = (cpu_cr4() & ~(CR4_PCIDE | CR4_SMAP | CR4_CET)) | CR4_OSFXSR | CR4_OSXMMEXCPT | CR4_PGE;
    if (f.c1 & BIT(26)) cr4 |= CR4_OSXSAVE;
    if (f.b7 & BIT(0)) cr4 |= CR4_FSGSBASE;
    if (f.b7 & BIT(7)) cr4 |= CR4_SMEP;
    core_common.cr4 = cr4;
    core_common.xcr0 = f.xcr0 & 7;   // x87, SSE, AVX
    core_common.efer = cpu_rdmsr(MSR_EFER) | EFER_NXE;
}

static void core_load_registers(void)
{
    cpu_set_cr0(core_common.cr0);
    cpu_set_cr4(core_common.cr4);
    if (core_common.cr4 & CR4_OSXSAVE) cpu_xsetbv(0, core_common.xcr0);
    cpu_wrmsr(MSR_EFER, core_common.efer);
    // PAT entry 1 (PWT) becomes write-combining, for the framebuffer; the rest as at power-up (SDM 3A 12.12.4).
    cpu_wrmsr(MSR_PAT, 0x0007040600070106);
    cpu_set_cr3(cpu_cr3());          // translations remember memory types
    u32 mxcsr = 0x1f80;
    __asm__ volatile("fninit; ldmxcsr %0" : : "m"(mxcsr));
}

void core_init_boot(void)
{
    struct core *c = &core_boot;
    c->stacks = &core_boot_stacks;
    c->apic_id = cpu_cpuid(1, 0).b >> 24;
    c->state = CORE_STARTED;
    core_init_segments(c);
    core_choose_registers();
    core_load_registers();
}

// ---- the other cores ----

// Stacks in a window: what is not populated, the guard pages among it, is not mapped.
static struct stacks *core_new_stacks(void)
{
    struct stacks *s = (struct stacks *)vmem_window(sizeof(*s), PAGE_SIZE);
    bool ok = vmem_populate((u64)s->main, sizeof(s->main), VMEM_WRITE) && vmem_populate((u64)s->df, sizeof(s->df), VMEM_WRITE) &&
              vmem_populate((u64)s->nmi, sizeof(s->nmi), VMEM_WRITE) && vmem_populate((u64)s->mc, sizeof(s->mc), VMEM_WRITE);
    if (ok) return s;
    vmem_free(s, sizeof(*s));
    return NULL;
}

struct core *core_new(unsigned id, u32 apic_id)
{
    struct core *c = vmem_alloc(sizeof(*c));
    if (!c) return NULL;
    c->id = id;
    c->apic_id = apic_id;
    c->stacks = core_new_stacks();
    if (!c->stacks) {
        vmem_free(c, sizeof(*c));
        return NULL;
    }
    c->stack_top = (u64)c->stacks->guard1;
    c->cr3 = cpu_cr3();
    return c;
}

bool core_init_other(struct core *c)
{
    core_init_segments(c);
    struct core_features here = core_features_read(), want = core_common.features;
    if ((want.c1 & ~here.c1) | (want.d1 & ~here.d1) | (want.b7 & ~here.b7) | (want.xcr0 & ~here.xcr0)) return false;
    core_load_registers();
    return true;
}
