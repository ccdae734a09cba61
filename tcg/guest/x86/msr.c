// Model-specific registers and the time-stamp counter (SDM 4; AMD APM 2 appendix A).
//
// Three kinds: registers with rules of their own (a switch), registers that are plain storage (a table), and AMD's configuration registers
// that a stock kernel on an AMD signature reads at boot (a table of constants; writes are ignored). Everything else is #GP(0), named once
// in the log. Guest TSC = host TSC (under icount: virtual nanoseconds) + tsc_offset; the local APIC's TSC-deadline MSR is in guest TSC
// units.
#include "tcg/guest/x86/system.h"

enum { MSR_TSC = 0x10, MSR_APIC_BASE = 0x1b, MSR_TSC_ADJUST = 0x3b, MSR_BIOS_SIGN = 0x8b, MSR_MTRRCAP = 0xfe, MSR_ARCH_CAP = 0x10a,
       MSR_MCG_CAP = 0x179, MSR_PAT = 0x277, MSR_MTRR_DEF = 0x2ff, MSR_MC0 = 0x400, MC_BANKS = 4, MSR_TSC_DEADLINE = 0x6e0 };
#define MSR_EFER 0xc0000080u
#define MSR_FS_BASE 0xc0000100u
#define MSR_GS_BASE 0xc0000101u
#define MSR_KERNEL_GS_BASE 0xc0000102u
#define MSR_HWCR 0xc0010015u
#define MSR_DE_CFG 0xc0011029u

static u64 guest_tsc(const struct x86_cpu *c) { return x86_tsc_base(c) + c->tsc_offset; }

// ---- plain storage -----------------------------------------------------------------------------------------------------

struct msr_plain { u32 msr, offset; bool canonical; u64 mask; };   // mask: bits that may be set, others #GP
#define PLAIN(msr, field, canonical, mask) {msr, offsetof(struct x86_cpu, field), canonical, mask}
static const struct msr_plain plain[] = {
    PLAIN(0xc0000081, star, false, ~0ull),
    PLAIN(0xc0000082, lstar, true, ~0ull),
    PLAIN(0xc0000083, cstar, true, ~0ull),
    PLAIN(0xc0000084, fmask, false, 0xffffffff),
    PLAIN(0xc0000102, kernel_gs_base, true, ~0ull),
    PLAIN(0xc0000103, tsc_aux, false, 0xffffffff),
    PLAIN(0x174, sysenter_cs, false, ~0ull),
    PLAIN(0x175, sysenter_esp, true, ~0ull),
    PLAIN(0x176, sysenter_eip, true, ~0ull),
    PLAIN(0x17a, mcg_status, false, 7),
    PLAIN(0x1a0, misc_enable, false, ~0ull),
    PLAIN(0x1d9, debugctl, false, 0),         // branch tracing is not offered: only 0 may be written
    PLAIN(0x2ff, mtrr_def, false, 0xcff),
};

static u64 *plain_find(struct x86_cpu *c, u32 msr, const struct msr_plain **row)
{
    for (unsigned i = 0; i < ARRAY_SIZE(plain); i++)
        if (plain[i].msr == msr) {
            *row = &plain[i];
            return (u64 *)((u8 *)c + plain[i].offset);
        }
    return NULL;
}

// MTRR storage, or NULL. Memory types do not matter to an emulator: they are kept for those who read them back.
static u64 *mtrr_find(struct x86_cpu *c, u32 msr)
{
    if (msr >= 0x200 && msr < 0x210) return &c->mtrr_var[msr - 0x200];
    if (msr == 0x250) return &c->mtrr_fix[0];
    if (msr == 0x258 || msr == 0x259) return &c->mtrr_fix[1 + msr - 0x258];
    if (msr >= 0x268 && msr <= 0x26f) return &c->mtrr_fix[3 + msr - 0x268];
    return NULL;
}

// ---- constants: reads give the value, writes are ignored -----------------------------------------------------------------

struct msr_const { u32 first, last; u64 val; };
static const struct msr_const consts_intel[] = {
    {0x17, 0x17, 0},                           // platform ID
    {0x2a, 0x2a, 0},                           // power-on configuration
    {0xcd, 0xce, 0},                           // bus frequency, platform information
    {0x198, 0x19c, 0},                         // performance and thermal status
    {0x1a2, 0x1a2, 0},
    {0x1b0, 0x1b0, 0},                         // energy-performance bias
};
static const struct msr_const consts_amd[] = {
    {0xc0010010, 0xc0010010, 0},               // SYSCFG: MtrrFixDramModEn clear, no TOM2
    {MSR_HWCR, MSR_HWCR, BIT(24)},             // TscFreqSel: the TSC counts at P0
    {0xc001001a, 0xc001001a, 0},               // TOP_MEM
    {0xc001001d, 0xc001001d, 0},               // TOP_MEM2
    {0xc001001f, 0xc001001f, 0},               // NB_CFG
    {0xc0010055, 0xc0010055, 0},               // interrupt pending: C1E off
    {0xc0010058, 0xc0010058, 0},               // MMIO configuration base: none
    {0xc0010061, 0xc0010071, 0},               // P-states
    {0xc0010111, 0xc0010113, 0},               // SMM base, TSEG
    {0xc0010114, 0xc0010114, BIT(4)},          // VM_CR: SVM disabled
    {0xc0010117, 0xc0010117, 0},
    {0xc0010140, 0xc0010141, 0},               // OSVW
    {0xc0011004, 0xc0011005, 0},               // CPUID overrides
    {0xc0011020, 0xc0011024, 0},               // LS, DC, IC, BU configuration
    {MSR_DE_CFG, MSR_DE_CFG, BIT(1)},          // LFENCE serialises: the host's does
    {0xc001102a, 0xc001102d, 0},
};

static const struct msr_const *const_find(const struct x86_cpu *c, u32 msr)
{
    const struct msr_const *t = c->id.amd ? consts_amd : consts_intel;
    unsigned n = c->id.amd ? ARRAY_SIZE(consts_amd) : ARRAY_SIZE(consts_intel);
    for (unsigned i = 0; i < n; i++)
        if (msr >= t[i].first && msr <= t[i].last) return &t[i];
    return NULL;
}

// ---- reading and writing ---------------------------------------------------------------------------------------------------

static bool is_apic_msr(u32 msr) { return msr == MSR_APIC_BASE || (msr >= 0x800 && msr <= 0x8ff) || msr == MSR_TSC_DEADLINE; }

static bool apic_read(struct x86_cpu *c, u32 msr, u64 *val) { return c->v.apic_ops && c->v.apic_ops->rdmsr(c->v.apic, msr, val); }
static bool apic_write(struct x86_cpu *c, u32 msr, u64 val) { return c->v.apic_ops && c->v.apic_ops->wrmsr(c->v.apic, msr, val); }

static bool msr_read(struct x86_cpu *c, u32 msr, u64 *val)
{
    const struct msr_plain *row;
    const struct msr_const *k;
    u64 *p;
    if (is_apic_msr(msr)) return apic_read(c, msr, val);
    if ((p = plain_find(c, msr, &row)) || (p = mtrr_find(c, msr))) {
        *val = *p;
        return true;
    }
    if (msr >= MSR_MC0 && msr < MSR_MC0 + MC_BANKS * 4) {
        *val = msr & 3 ? 0 : ~0ull;   // control: all reporting on; status, address, misc: nothing ever happened
        return true;
    }
    switch (msr) {
    case MSR_TSC: *val = guest_tsc(c); return true;
    case MSR_TSC_ADJUST: *val = c->tsc_adjust; return true;
    case MSR_EFER: *val = c->efer; return true;
    case MSR_FS_BASE: *val = c->seg[SEG_FS].base; return true;
    case MSR_GS_BASE: *val = c->seg[SEG_GS].base; return true;
    case MSR_PAT: *val = c->pat; return true;
    case MSR_MTRRCAP: *val = 0x508; return true;   // 8 variable ranges, fixed ranges, write combining
    case MSR_MCG_CAP: *val = MC_BANKS; return true;
    case MSR_BIOS_SIGN: *val = c->id.amd ? 0x01000065 : 1ull << 32; return true;   // microcode revision
    case MSR_ARCH_CAP:
        // RDCL_NO SKIP_L1DFL SSB_NO MDS_NO PSCHANGE_MC_NO TAA_NO SBDR/FBSDP/PSDP_NO: the software MMU, not the page tables, separates guest
        // user from guest kernel, so the guest's page-table mitigations would cost much and protect nothing.
        if (c->id.amd) return false;
        *val = BIT(0) | BIT(3) | BIT(4) | BIT(5) | BIT(6) | BIT(8) | BIT(13) | BIT(14) | BIT(15);
        return true;
    default: break;
    }
    if (!(k = const_find(c, msr))) return false;
    *val = k->val;
    return true;
}

static bool write_efer(struct x86_cpu *c, u64 val)
{
    u64 old = c->efer, may = EFER_SCE | EFER_LME | EFER_NXE | (c->id.amd ? EFER_AUTOIBRS : 0);
    if (val & ~(may | EFER_LMA)) return false;
    if ((c->cr0 & CR0_PG) && ((old ^ val) & EFER_LME)) return false;
    c->efer = (val & may) | (old & EFER_LMA);
    if ((old ^ val) & EFER_NXE) tlb_flush(&c->v);
    x86_update_mode(c);
    return true;
}

static bool write_pat(struct x86_cpu *c, u64 val)
{
    for (unsigned i = 0; i < 8; i++) {
        u8 t = val >> (i * 8);
        if (t > 7 || t == 2 || t == 3) return false;
    }
    c->pat = val;
    return true;
}

static bool write_segment_base(struct x86_cpu *c, unsigned seg, u64 val)
{
    if (!x86_canonical(val)) return false;
    c->seg[seg].base = c->seg_base[seg] = val;
    return true;
}

static void tsc_move(struct x86_cpu *c, u64 delta)
{
    c->tsc_offset += delta;
    c->tsc_adjust += delta;
}

static bool msr_write(struct x86_cpu *c, u32 msr, u64 val)
{
    const struct msr_plain *row;
    u64 *p;
    if (is_apic_msr(msr)) return apic_write(c, msr, val);
    if ((p = plain_find(c, msr, &row))) {
        if ((val & ~row->mask) || (row->canonical && !x86_canonical(val))) return false;
        *p = val;
        return true;
    }
    if ((p = mtrr_find(c, msr))) {
        *p = val;
        return true;
    }
    if (msr >= MSR_MC0 && msr < MSR_MC0 + MC_BANKS * 4) return (msr & 3) == 0 || val == 0;
    switch (msr) {
    case MSR_TSC: tsc_move(c, val - guest_tsc(c)); return true;
    case MSR_TSC_ADJUST: tsc_move(c, val - c->tsc_adjust); return true;
    case MSR_EFER: return write_efer(c, val);
    case MSR_FS_BASE: return write_segment_base(c, SEG_FS, val);
    case MSR_GS_BASE: return write_segment_base(c, SEG_GS, val);
    case MSR_PAT: return write_pat(c, val);
    case MSR_BIOS_SIGN: return true;
    default: return const_find(c, msr);
    }
}

static NORETURN void msr_fault(struct x86_cpu *c, u32 msr, const char *what)
{
    for (unsigned i = 0; i < ARRAY_SIZE(c->msr_unknown); i++) {
        if (c->msr_unknown[i] == msr) break;
        if (c->msr_unknown[i]) continue;
        c->msr_unknown[i] = msr;
        log_debug("guest: %s of MSR %#x at %#llx: #GP", what, msr, (unsigned long long)c->v.pc);
        break;
    }
    x86_raise(c, EXC_GP, 0);
}

void x86_msr_reset(struct x86_cpu *c, bool init)
{
    c->efer = 0;
    if (init) return;   // SDM 3A table 9-1: INIT leaves MSRs, MTRRs, PAT and TSC alone
    c->star = c->lstar = c->cstar = c->fmask = c->kernel_gs_base = c->tsc_aux = 0;
    c->sysenter_cs = c->sysenter_esp = c->sysenter_eip = 0;
    c->pat = 0x0007040600070406;
    c->misc_enable = BIT(0) | BIT(11) | BIT(12);   // fast strings; no BTS, no PEBS
    c->mtrr_def = c->mcg_status = c->debugctl = c->spec_ctrl = c->xss = 0;
    for (unsigned i = 0; i < ARRAY_SIZE(c->mtrr_fix); i++) c->mtrr_fix[i] = 0;
    for (unsigned i = 0; i < ARRAY_SIZE(c->mtrr_var); i++) c->mtrr_var[i] = 0;
    c->tsc_offset = c->tsc_adjust = 0;
}

// ---- instructions ------------------------------------------------------------------------------------------------------------

static void set_edx_eax(struct vcpu *c, u64 val)
{
    c->regs[G_RAX] = (u32)val;
    c->regs[G_RDX] = val >> 32;
}

X86_HELPER(rdmsr)
{
    u64 val;
    x86_need_cpl0(x86(c));
    u32 msr = c->regs[G_RCX];
    if (!msr_read(x86(c), msr, &val)) msr_fault(x86(c), msr, "read");
    set_edx_eax(c, val);
    return 0;
}

X86_HELPER(wrmsr)
{
    x86_need_cpl0(x86(c));
    u32 msr = c->regs[G_RCX];
    if (!msr_write(x86(c), msr, c->regs[G_RDX] << 32 | (u32)c->regs[G_RAX])) msr_fault(x86(c), msr, "write");
    c->pc = d;
    return x86_resume(x86(c));
}

static void tsc_check(struct x86_cpu *c)
{
    if ((c->cr4 & CR4_TSD) && x86_cpl(c)) x86_raise(c, EXC_GP, 0);
}

X86_HELPER(rdtsc)
{
    tsc_check(x86(c));
    set_edx_eax(c, guest_tsc(x86(c)));
    return 0;
}

X86_HELPER(rdtscp)
{
    tsc_check(x86(c));
    set_edx_eax(c, guest_tsc(x86(c)));
    c->regs[G_RCX] = (u32)x86(c)->tsc_aux;
    return 0;
}

// splitmix64 (Steele, Lea, Flood: Fast splittable pseudorandom number generators, 2014). CF: a number was there (SDM 2B, RDRAND).
X86_HELPER(random)
{
    u64 z = x86(c)->random += 0x9e3779b97f4a7c15ull;
    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9ull;
    z = (z ^ z >> 27) * 0x94d049bb133111ebull;
    c->cc = (EF_CF | 2) << 8;
    return z ^ z >> 31;
}

X86_HELPER(rdpid) { return x86(c)->tsc_aux; }
X86_HELPER(rdpmc) { x86_raise(x86(c), EXC_GP, 0); }   // no counters are offered
