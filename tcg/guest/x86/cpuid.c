// CPUID: what the guest is told it runs on.
//
// Instructions are the host's own, so an instruction bit is offered when the host has it and the translator passes it. System features
// (SMEP, SMAP, UMIP, x2APIC, NX ...) are ours in C and are offered whatever the host has. The masks are worked out once (x86_cpuid_init),
// since CPUID on a host under a hypervisor costs an exit; CR4's and XCR0's allowed bits come from the same masks, so they cannot disagree.
// Not offered: VME, PCID, AVX-512, XSAVES, MONITOR, VMX/SVM, LA57, TSX, performance counters. Leaf 0x15 is left out: Linux takes its
// crystal clock for the local APIC timer's.
#include "tcg/guest/x86/system.h"

struct cpuid_regs { u32 a, b, c, d; };

static struct cpuid_regs host_cpuid(u32 leaf, u32 sub)
{
    struct cpuid_regs r;
    __asm__ volatile("cpuid" : "=a"(r.a), "=b"(r.b), "=c"(r.c), "=d"(r.d) : "a"(leaf), "c"(sub));
    return r;
}

static u64 host_xgetbv(void)
{
    u32 lo, hi;
    __asm__ volatile("xgetbv" : "=a"(lo), "=d"(hi) : "c"(0));
    return (u64)hi << 32 | lo;
}

// Leaf 1 EDX. Passed: TSC CX8 CMOV CLFSH MMX FXSR SSE SSE2 (FPU). Ours: DE PSE MSR PAE MCE APIC SEP MTRR PGE MCA PAT PSE36.
enum {
    F1D_HOST = 1 << 0 | 1 << 4 | 1 << 8 | 1 << 15 | 1 << 19 | 1 << 23 | 1 << 24 | 1 << 25 | 1 << 26,
    F1D_OURS = 1 << 2 | 1 << 3 | 1 << 5 | 1 << 6 | 1 << 7 | 1 << 9 | 1 << 11 | 1 << 12 | 1 << 13 | 1 << 14 | 1 << 16 | 1 << 17,
    F1D_HTT = 1 << 28,
};
// Leaf 1 ECX. Passed: SSE3 PCLMUL SSSE3 FMA CX16 SSE4.1 SSE4.2 MOVBE POPCNT AES XSAVE AVX F16C RDRAND. Ours: PCID x2APIC TSC-deadline
// hypervisor.
#define F1C_HOST (BIT(0) | BIT(1) | BIT(9) | BIT(12) | BIT(13) | BIT(19) | BIT(20) | BIT(22) | BIT(23) | BIT(25) | BIT(26) | BIT(28) | \
                  BIT(29) | BIT(30))
#define F1C_OURS (BIT(17) | BIT(21) | BIT(31))
#define F1C_TSC_DEADLINE BIT(24)   // only if the rate is known: the local APIC needs it to keep a deadline
#define F1C_XSAVE BIT(26)
#define F1C_OSXSAVE BIT(27)
#define F1C_AVX BIT(28)
#define F1C_NEED_AVX (BIT(12) | BIT(28) | BIT(29))   // FMA AVX F16C
// Leaf 7 EBX. Passed: BMI1 AVX2 BMI2 RDSEED ADX CLFLUSHOPT CLWB SHA. Ours: FSGSBASE TSC_ADJUST SMEP ERMS INVPCID SMAP.
#define F7B_HOST (BIT(3) | BIT(5) | BIT(8) | BIT(18) | BIT(19) | BIT(23) | BIT(24) | BIT(29))
#define F7B_OURS (BIT(0) | BIT(1) | BIT(7) | BIT(9) | BIT(10) | BIT(20))
#define F7B_NEED_AVX (BIT(3) | BIT(5) | BIT(8))      // BMI's VEX-encoded forms go with AVX's encoding; real CPUs have all or none
#define F7C_OURS (BIT(2) | BIT(22))                  // UMIP RDPID
#define F7D_ARCH_CAP BIT(29)
// Leaf 0x80000001. ECX passed: ABM PREFETCHW; ours: LAHF. EDX ours: SYSCALL NX PDPE1GB RDTSCP LM.
#define F81C_HOST (BIT(5) | BIT(8))
#define F81C_OURS BIT(0)
#define F81C_CMP_LEGACY BIT(1)
#define F81D_OURS (BIT(11) | BIT(20) | BIT(26) | BIT(27) | BIT(29))
#define F81D_AMD_COPY 0x0183f3ffu                    // bits AMD repeats from leaf 1 EDX

// AMD's later leaves. XSAVEERPTR: no stale x87 pointers leak out of FXSAVE (fpu.c stores zeroes). LFENCE serialises; a null selector clears
// the base. And the "not affected" bits for SSB, BTC, SRSO and TSA: the software MMU, not the guest's page tables, separates guest user
// from guest kernel, so the guest's mitigations would cost much and protect nothing (as with IA32_ARCH_CAPABILITIES in msr.c). AutoIBRS (an
// EFER bit without effect here) spares the guest its retpolines for the same reason.
#define E8B_AMD (BIT(2) | BIT(26) | BIT(29))
#define E21A_AMD (BIT(2) | BIT(6) | BIT(8) | BIT(29))
#define E21C_AMD (BIT(1) | BIT(2))

static void brand_init(struct x86_cpuid *id)
{
    struct cpuid_regs r[3] = {{0, 0, 0, 0}, {0, 0, 0, 0}, {0, 0, 0, 0}};
    if (host_cpuid(0x80000000, 0).a >= 0x80000004)
        for (unsigned i = 0; i < 3; i++) r[i] = host_cpuid(0x80000002 + i, 0);
    static const char prefix[] = "Cupel (on ";
    const char *host = (const char *)r;
    char *out = (char *)id->brand;
    unsigned n = sizeof prefix - 1, i = 0;
    bytes_copy(out, prefix, n);
    while (i < 48 && host[i] == ' ') i++;
    while (i < 48 && host[i] && n < 46) out[n++] = host[i++];
    while (n > 0 && out[n - 1] == ' ') n--;
    out[n++] = ')';
    while (n < 48) out[n++] = 0;
}

void x86_cpuid_init(struct x86_cpu *c)
{
    struct x86_cpuid *id = &c->id;
    struct cpuid_regs l0 = host_cpuid(0, 0), l1 = host_cpuid(1, 0), l7 = {0, 0, 0, 0};
    struct cpuid_regs l81 = host_cpuid(0x80000001, 0);
    id->vendor[0] = l0.b;
    id->vendor[1] = l0.d;
    id->vendor[2] = l0.c;
    id->amd = l0.b == 0x68747541 || l0.b == 0x6f677948;   // "Auth", "Hygo"
    if (l0.a >= 7) l7 = host_cpuid(7, 0);
    id->host_xsave = l1.c & F1C_OSXSAVE;
    bool avx = id->host_xsave && (host_xgetbv() & 7) == 7 && (l1.c & F1C_AVX);
    id->signature = l1.a;
    id->f1_edx = (l1.d & F1D_HOST) | F1D_OURS;
    id->f1_ecx = (l1.c & F1C_HOST) | F1C_OURS | (c->tsc_hz ? F1C_TSC_DEADLINE : 0);
    id->f7_ebx = (l7.b & F7B_HOST) | F7B_OURS;
    id->f7_ecx = F7C_OURS;
    id->f7_edx = id->amd ? 0 : F7D_ARCH_CAP;
    if (!id->host_xsave) id->f1_ecx &= ~F1C_XSAVE;
    if (!avx) {
        id->f1_ecx &= ~F1C_NEED_AVX;
        id->f7_ebx &= ~F7B_NEED_AVX;
    }
    id->f81_ecx = (l81.c & F81C_HOST) | F81C_OURS;
    id->f81_edx = F81D_OURS | (id->amd ? (id->f1_edx & F81D_AMD_COPY) | (l81.d & BIT(22)) : 0);
    id->fd1_eax = id->host_xsave ? 7 : 0;   // XSAVEOPT, XSAVEC, XGETBV with ECX = 1: made here from the host's plain XSAVE
    brand_init(id);
}

static unsigned cpu_count(const struct x86_cpu *c) { return c->cpus ? c->cpus : 1; }
static unsigned log2_up(unsigned n)
{
    unsigned b = 0;
    while (1u << b < n) b++;
    return b;
}

// XSAVE components that can be enabled, and the size of the standard area for a set of them.
static u32 xsave_components(const struct x86_cpu *c) { return c->id.f1_ecx & F1C_AVX ? 7 : 3; }
static u32 xsave_size(u64 mask) { return mask & 4 ? 832 : 576; }

static struct cpuid_regs leaf_1(const struct x86_cpu *c)
{
    unsigned n = cpu_count(c);
    struct cpuid_regs r = {c->id.signature, vcpu_index(&c->v) << 24 | (n > 255 ? 255 : n) << 16 | 8 << 8, c->id.f1_ecx, c->id.f1_edx};
    if (c->cr4 & CR4_OSXSAVE) r.c |= F1C_OSXSAVE;
    if (n > 1) r.d |= F1D_HTT;
    return r;
}

// Deterministic caches (Intel): type, level, ways, sets; 64-byte lines.
static struct cpuid_regs leaf_4(const struct x86_cpu *c, u32 sub)
{
    static const struct { u8 type, level, ways; u16 sets; } t[] = {{1, 1, 8, 64}, {2, 1, 8, 64}, {3, 2, 16, 1024}, {3, 3, 16, 16384}};
    if (c->id.amd || sub >= ARRAY_SIZE(t)) return (struct cpuid_regs){0, 0, 0, 0};
    unsigned cores = (1u << log2_up(cpu_count(c))) - 1, sharing = t[sub].level == 3 ? cores : 0;
    return (struct cpuid_regs){t[sub].type | t[sub].level << 5 | 1 << 8 | sharing << 14 | (cores > 63 ? 63 : cores) << 26,
                               63 | (t[sub].ways - 1u) << 22, t[sub].sets - 1u, 0};
}

static struct cpuid_regs leaf_b(const struct x86_cpu *c, u32 sub)
{
    struct cpuid_regs r = {0, 0, sub & 0xff, vcpu_index(&c->v)};
    if (sub == 0) r = (struct cpuid_regs){0, 1, 1 << 8, r.d};
    if (sub == 1) r = (struct cpuid_regs){log2_up(cpu_count(c)), cpu_count(c), 2 << 8 | 1, r.d};
    return r;
}

static struct cpuid_regs leaf_d(const struct x86_cpu *c, u32 sub)
{
    u32 all = xsave_components(c);
    if (!(c->id.f1_ecx & F1C_XSAVE)) return (struct cpuid_regs){0, 0, 0, 0};
    if (sub == 0) return (struct cpuid_regs){all, xsave_size(c->xcr0), xsave_size(all), 0};
    if (sub == 1) return (struct cpuid_regs){c->id.fd1_eax, xsave_size(c->xcr0), 0, 0};
    if (sub == 2 && (all & 4)) return (struct cpuid_regs){256, 576, 0, 0};
    return (struct cpuid_regs){0, 0, 0, 0};
}

static struct cpuid_regs leaf_extended(const struct x86_cpu *c, u32 leaf)
{
    const struct x86_cpuid *id = &c->id;
    unsigned n = cpu_count(c);
    switch (leaf) {
    case 0x80000000: return (struct cpuid_regs){id->amd ? 0x80000021 : 0x80000008, id->vendor[0], id->vendor[2], id->vendor[1]};
    case 0x80000001:
        return (struct cpuid_regs){id->signature, 0, id->f81_ecx | (id->amd && n > 1 ? F81C_CMP_LEGACY : 0), id->f81_edx};
    case 0x80000002:
    case 0x80000003:
    case 0x80000004: {
        const u32 *b = id->brand + (leaf - 0x80000002) * 4;
        return (struct cpuid_regs){b[0], b[1], b[2], b[3]};
    }
    case 0x80000005: return (struct cpuid_regs){0, 0, id->amd ? 0x20080140 : 0, id->amd ? 0x20080140 : 0};   // L1 32 KiB, 8 ways
    case 0x80000006: return (struct cpuid_regs){0, 0, 0x02006140, 0};                                        // L2 512 KiB, 8 ways
    case 0x80000007: return (struct cpuid_regs){0, 0, 0, 1 << 8};                                            // invariant TSC
    case 0x80000008:
        return (struct cpuid_regs){48 << 8 | X86_PHYS_BITS, id->amd ? E8B_AMD : 0, id->amd ? log2_up(n) << 12 | (n - 1) : 0, 0};
    case 0x80000021: return (struct cpuid_regs){id->amd ? E21A_AMD : 0, 0, id->amd ? E21C_AMD : 0, 0};
    default: return (struct cpuid_regs){0, 0, 0, 0};
    }
}

static struct cpuid_regs cpuid_leaf(const struct x86_cpu *c, u32 leaf, u32 sub)
{
    const struct x86_cpuid *id = &c->id;
    if (leaf >= 0x80000000) return leaf_extended(c, leaf);
    if (leaf >> 28 == 4) {
        if (leaf != 0x40000000) return (struct cpuid_regs){0, 0, 0, 0};
        return (struct cpuid_regs){0x40000000, 0x65707543, 0x7075436c, 0x75436c65};   // "CupelCupelCu"
    }
    switch (leaf) {
    case 0: return (struct cpuid_regs){0xd, id->vendor[0], id->vendor[2], id->vendor[1]};
    case 1: return leaf_1(c);
    case 2: return (struct cpuid_regs){id->amd ? 0 : 0xff01, 0, 0, 0};   // "see leaf 4"
    case 4: return leaf_4(c, sub);
    case 6: return (struct cpuid_regs){1 << 2, 0, 0, 0};                 // ARAT
    case 7: return sub ? (struct cpuid_regs){0, 0, 0, 0} : (struct cpuid_regs){0, id->f7_ebx, id->f7_ecx, id->f7_edx};
    case 0xb: return leaf_b(c, sub);
    case 0xd: return leaf_d(c, sub);
    default: return (struct cpuid_regs){0, 0, 0, 0};
    }
}

X86_HELPER(cpuid)
{
    struct cpuid_regs r = cpuid_leaf(x86(c), c->regs[G_RAX], c->regs[G_RCX]);
    c->regs[G_RAX] = r.a;
    c->regs[G_RBX] = r.b;
    c->regs[G_RCX] = r.c;
    c->regs[G_RDX] = r.d;
    return 0;
}
