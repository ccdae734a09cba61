// The boot core's record, stacks and control registers.
//
// Stacks lie in the image's BSS, each above a page that the final page tables leave unmapped: an overflow is a fault, and since
// that fault cannot be pushed on the same stack, it arrives as #DF on a stack of its own. NMI and #MC have theirs because they can
// hit between any two instructions.
#include "kernel/core.h"

#include "kernel/cpu.h"

struct stacks {
    u8 guard0[4096], main[256 * 1024];
    u8 guard1[4096], df[16 * 1024];
    u8 guard2[4096], nmi[16 * 1024];
    u8 guard3[4096], mc[16 * 1024];
} __attribute__((aligned(4096)));

extern struct stacks core_boot_stacks;   // entry.S starts on its main stack
struct stacks core_boot_stacks __attribute__((used));
_Static_assert(offsetof(struct stacks, guard1) == 4096 + 256 * 1024, "entry.S adds this");

static struct core core_boot;

const char *core_guard_name(u64 addr)
{
    const struct stacks *s = &core_boot_stacks;
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

// What translated guest code needs of the host, and what protects us. CR0.TS stays clear: vector state is switched by the run-time,
// never lazily here.
static void core_enable_features(void)
{
    cpu_set_cr0((cpu_cr0() & ~(CR0_EM | CR0_TS | CR0_AM)) | CR0_MP | CR0_NE | CR0_WP);
    u32 c1 = cpu_cpuid(1, 0).c, b7 = cpu_cpuid_if(7, 0).b;
    u64 cr4 = (cpu_cr4() & ~(CR4_PCIDE | CR4_SMAP | CR4_CET)) | CR4_OSFXSR | CR4_OSXMMEXCPT | CR4_PGE;
    if (c1 & BIT(26)) cr4 |= CR4_OSXSAVE;
    if (b7 & BIT(0)) cr4 |= CR4_FSGSBASE;
    if (b7 & BIT(7)) cr4 |= CR4_SMEP;
    cpu_set_cr4(cr4);
    if (c1 & BIT(26)) {
        u32 xcr0 = cpu_cpuid(0xd, 0).a & 7;   // x87, SSE, AVX
        __asm__ volatile("xsetbv" : : "c"(0), "a"(xcr0), "d"(0));
    }
    cpu_wrmsr(MSR_EFER, cpu_rdmsr(MSR_EFER) | EFER_NXE);
    // PAT entry 1 (PWT) becomes write-combining, for the framebuffer; the rest as at power-up (SDM 3A 12.12.4).
    cpu_wrmsr(MSR_PAT, 0x0007040600070106);
    u32 mxcsr = 0x1f80;
    __asm__ volatile("fninit; ldmxcsr %0" : : "m"(mxcsr));
}

void core_init_boot(void)
{
    struct core *c = &core_boot;
    c->self = c;
    c->apic_id = cpu_cpuid(1, 0).b >> 24;
    c->tss.iomap = sizeof(struct tss);
    c->tss.rsp[0] = (u64)core_boot_stacks.guard1;
    c->tss.ist[IST_DF - 1] = (u64)core_boot_stacks.guard2;
    c->tss.ist[IST_NMI - 1] = (u64)core_boot_stacks.guard3;
    c->tss.ist[IST_MC - 1] = (u64)(&core_boot_stacks + 1);
    core_load_gdt(c);
    cpu_wrmsr(MSR_GS_BASE, (u64)c);
    core_enable_features();
}
