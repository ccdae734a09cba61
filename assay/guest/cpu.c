// A processor becomes the payload's: control registers, GDT, IDT, TSS, MSRs. The order matters in one place only: CR4.PGE and PCIDE go
// before CR3, so that nothing of the previous owner's is left in the TLB (SDM 3A 4.10.4.1).
#include "assay/guest/guest.h"

enum {
    MSR_EFER = 0xc0000080, MSR_STAR, MSR_LSTAR, MSR_CSTAR, MSR_FMASK,
    MSR_FS_BASE = 0xc0000100, MSR_GS_BASE, MSR_KERNEL_GS_BASE,
    EFER_SCE = 1, CR0_MP = 2, CR0_EM = 4, CR0_TS = 8, CR0_NE = 32,
    CR4_TSD = 1 << 2, CR4_PGE = 1 << 7, CR4_OSFXSR = 1 << 9, CR4_OSXMM = 1 << 10, CR4_LA57 = 1 << 12, CR4_PCIDE = 1 << 17,
    CR4_OSXSAVE = 1 << 18,
    CR4_SMEP = 1 << 20, CR4_SMAP = 1 << 21, CR4_PKE = 1 << 22, CR4_CET = 1 << 23, CR4_PKS = 1 << 24,
    GATE_TRAP = 0x8e, GATE_USER = 0xee, IST_NMI = 1,
};
struct gate { u16 off0, sel; u8 ist, type; u16 off1; u32 off2, pad; };
struct table_reg { u16 limit; u64 base; } __attribute__((packed));

static struct gate idt[256] __attribute__((aligned(16)));

static void gate_set(unsigned vec, const void *handler, u8 ist, u8 type)
{
    u64 h = (u64)handler;
    idt[vec] = (struct gate){(u16)h, SEL_KCODE, ist, type, (u16)(h >> 16), (u32)(h >> 32), 0};
}

// The same on every processor; written again by each with the same values.
static void idt_fill(void)
{
    for (unsigned i = 0; i < 256; i++) gate_set(i, trap_stubs + 16 * i, i == 2 || i == 8 || i == 18 ? IST_NMI : 0, GATE_TRAP);
    gate_set(14, isr_fault, 0, GATE_TRAP);
    gate_set(VEC_TIMER, isr_event, 0, GATE_TRAP);
    gate_set(VEC_IPI, isr_event, 0, GATE_TRAP);
    gate_set(VEC_WAKE, isr_wake, 0, GATE_TRAP);
    gate_set(VEC_INT80, isr_int80, 0, GATE_USER);
    gate_set(VEC_LEAVE, isr_leave, 0, GATE_USER);
}

static void tables_load(struct cpu *c)
{
    u64 tss = (u64)&c->tss;
    static const u64 flat[6] = {0, 0x00af9b000000ffff, 0x00cf93000000ffff, 0, 0x00cff3000000ffff, 0x00affb000000ffff};
    for (unsigned i = 0; i < 6; i++) c->gdt[i] = flat[i];
    c->gdt[SEL_TSS / 8] = (sizeof c->tss - 1) | (tss & 0xffffff) << 16 | 0x89ull << 40 | (tss >> 24 & 0xff) << 56;
    c->gdt[SEL_TSS / 8 + 1] = tss >> 32;
    c->tss.rsp[0] = c->trap_stack;
    c->tss.ist[IST_NMI - 1] = (u64)&stacks[c->number] + STACK_IST_TOP;
    c->tss.iomap = sizeof c->tss;
    struct table_reg g = {sizeof c->gdt - 1, (u64)c->gdt}, i = {sizeof idt - 1, (u64)idt};
    __asm__ volatile("lgdt %0; lidt %1" : : "m"(g), "m"(i) : "memory");
    __asm__ volatile("pushq %0; lea 1f(%%rip), %%rax; push %%rax; lretq; 1:" : : "i"(SEL_KCODE) : "rax", "memory");
    __asm__ volatile("mov %0, %%ds; mov %0, %%es; mov %0, %%ss; mov %1, %%fs; mov %1, %%gs" : : "r"(SEL_KDATA), "r"(0) : "memory");
    __asm__ volatile("lldt %w0; ltr %w1" : : "r"(0), "r"(SEL_TSS) : "memory");
    wrmsr(MSR_FS_BASE, 0);
    wrmsr(MSR_GS_BASE, (u64)c);
    wrmsr(MSR_KERNEL_GS_BASE, (u64)c);
    wrmsr(MSR_STAR, (u64)SEL_UBASE << 48 | (u64)SEL_KCODE << 32);
    wrmsr(MSR_LSTAR, (u64)syscall_entry);
    wrmsr(MSR_FMASK, 0x47700);                  // AC, NT, IOPL, DF, IF, TF
    wrmsr(MSR_EFER, rdmsr(MSR_EFER) | EFER_SCE);
}

// In a guest, AVX state too, if there is; natively XCR0 stays.
static void vectors_on(void)
{
    u32 r[4];
    u64 cr0;
    __asm__ volatile("mov %%cr0, %0" : "=r"(cr0));
    cr0 = (cr0 & ~(u64)(CR0_EM | CR0_TS)) | CR0_MP | CR0_NE;
    __asm__ volatile("mov %0, %%cr0" : : "r"(cr0) : "memory");
    cpuid(1, 0, r);
    if (!(r[2] >> 26 & 1)) return;
    write_cr4(read_cr4() | CR4_OSXSAVE);
    if (pass()->native) return;
    __asm__ volatile("xsetbv" : : "c"(0), "a"(3 | (r[2] >> 28 & 1) << 2), "d"(0));
}

void cpu_init(u64 number)
{
    struct cpu *c = &cpus[number];
    c->self = c;
    c->number = number;
    c->trap_stack = (u64)&stacks[number] + STACK_TRAP_TOP;
    c->user_stack = (u64)&stacks[number] + STACK_USER_TOP;
    wrmsr(MSR_GS_BASE, (u64)c);                 // pass_fail finds the way back by it
    if (read_cr4() & CR4_LA57) pass_fail("the processor runs with 5-level paging; the payload needs 4 levels");
    u64 off = CR4_TSD | CR4_PGE | CR4_PCIDE | CR4_SMEP | CR4_SMAP | CR4_PKE | CR4_CET | CR4_PKS;
    write_cr4((read_cr4() & ~off) | CR4_OSFXSR | CR4_OSXMM);
    write_cr3(paging_cr3());
    idt_fill();
    tables_load(c);
    vectors_on();
    lapic_init(c);
}

static bool has_avx2(void)
{
    u32 r[4], lo, hi;
    cpuid(1, 0, r);
    if (!(r[2] >> 27 & 1)) return false;        // OSXSAVE: CR4's
    __asm__ volatile("xgetbv" : "=a"(lo), "=d"(hi) : "c"(0));
    if ((lo & 6) != 6) return false;
    cpuid(0, 0, r);
    if (r[0] < 7) return false;
    cpuid(7, 0, r);
    return r[1] >> 5 & 1;
}

u32 cpu_lacks(u32 needs)
{
    u32 r[4], lacks = 0;
    cpuid(1, 0, r);
    if ((needs & NEED_AVX2) && !has_avx2()) lacks |= NEED_AVX2;
    if ((needs & NEED_PCID) && !(r[2] >> 17 & 1)) lacks |= NEED_PCID;
    return lacks;
}
