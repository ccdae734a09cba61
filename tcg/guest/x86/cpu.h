// The x86 guest's architectural state and the TB mode word. Sources: SDM 3A chapters 2, 3, 4, 6; SDM 1 3.4.
#pragma once

#include "tcg/run/vcpu.h"

enum { G_RAX, G_RCX, G_RDX, G_RBX, G_RSP, G_RBP, G_RSI, G_RDI, G_R8, G_R9, G_R10, G_R11, G_R12, G_R13, G_R14, G_R15 };
enum { SEG_ES, SEG_CS, SEG_SS, SEG_DS, SEG_FS, SEG_GS, SEG_COUNT, SEG_LDTR = 6, SEG_TR = 7 };

// attr: bits 8..23 of a descriptor's second dword in place: type 11:8, S 12, DPL 14:13, P 15, AVL 20, L 21, D/B 22, G 23 (as
// QEMU's flags).
struct segment { u64 base; u32 limit; u32 attr; u16 sel; };

// EFLAGS bits.
enum { EF_CF = 1, EF_PF = 4, EF_AF = 0x10, EF_ZF = 0x40, EF_SF = 0x80, EF_TF = 0x100, EF_IF = 0x200, EF_DF = 0x400, EF_OF = 0x800,
       EF_IOPL = 0x3000, EF_NT = 0x4000, EF_RF = 0x10000, EF_VM = 0x20000, EF_AC = 0x40000, EF_VIF = 0x80000, EF_VIP = 0x100000,
       EF_ID = 0x200000, EF_ARITH = 0x8d5 };
enum { CR0_PE = 1, CR0_MP = 2, CR0_EM = 4, CR0_TS = 8, CR0_ET = 16, CR0_NE = 32, CR0_WP = 1 << 16, CR0_AM = 1 << 18,
       CR0_NW = 1 << 29, CR0_CD = 1 << 30 };
#define CR0_PG 0x80000000u
enum { CR4_VME = 1, CR4_PVI = 2, CR4_TSD = 4, CR4_DE = 8, CR4_PSE = 16, CR4_PAE = 32, CR4_MCE = 64, CR4_PGE = 128, CR4_PCE = 256,
       CR4_OSFXSR = 512, CR4_OSXMMEXCPT = 1024, CR4_UMIP = 2048, CR4_FSGSBASE = 1 << 16, CR4_PCIDE = 1 << 17, CR4_OSXSAVE = 1 << 18,
       CR4_SMEP = 1 << 20, CR4_SMAP = 1 << 21 };
enum { EFER_SCE = 1, EFER_LME = 1 << 8, EFER_LMA = 1 << 10, EFER_NXE = 1 << 11, EFER_AUTOIBRS = 1 << 21 };
enum { EXC_DE = 0, EXC_DB = 1, EXC_NMI = 2, EXC_BP = 3, EXC_OF = 4, EXC_BR = 5, EXC_UD = 6, EXC_NM = 7, EXC_DF = 8, EXC_TS = 10,
       EXC_NP = 11, EXC_SS = 12, EXC_GP = 13, EXC_PF = 14, EXC_MF = 16, EXC_AC = 17, EXC_MC = 18, EXC_XM = 19 };

// TB mode word: everything besides pc and CS base that a translation depends on.
enum {
    TBM_CPL = 3,               // 2 bits
    TBM_CODE64 = 1 << 2,       // 64-bit code segment
    TBM_CODE32 = 1 << 3,       // CS.D
    TBM_STACK32 = 1 << 4,      // SS.B (32-bit stack); 64-bit code implies a 64-bit one
    TBM_PE = 1 << 5,           // protected mode
    TBM_VM86 = 1 << 6,
    TBM_FLATSEG = 1 << 7,      // DS, ES, SS, CS have base 0 and limit 4 GiB: no base to add (64-bit: always)
    TBM_DF = 1 << 8,           // string direction down
    TBM_TF = 1 << 9,           // single step
    TBM_FPU_NM = 1 << 10,      // CR0.TS or EM: x87 raises #NM
    TBM_SSE_OFF = 1 << 11,     // CR4.OSFXSR clear or CR0.EM: SSE raises #UD
    TBM_AVX_OFF = 1 << 12,     // CR4.OSXSAVE clear or XCR0 lacks AVX: AVX raises #UD
    TBM_TS = 1 << 13,          // CR0.TS: SSE/AVX raise #NM
    TBM_IOPL = 3 << 14,
    TBM_SMAP_AC = 1 << 16,     // supervisor with SMAP and EFLAGS.AC: mmu mode 2
    TBM_INHIBIT = 1 << 17,     // in the shadow of STI / MOV SS: first instruction runs without interrupts
    TBM_LMA = 1 << 18,         // EFER.LMA (compatibility mode when CODE64 is clear)
    TBM_HWBP = 1 << 19,        // some debug register is armed for execution
    TBM_SMAP = 1 << 20,        // supervisor with CR4.SMAP: STAC and CLAC change the mmu mode
    TBM_TSD = 1 << 21,         // CPL above 0 with CR4.TSD: RDTSC faults
};

// What CPUID offers: host's features that are implemented. Names: leaf and register.
struct x86_cpuid {
    u32 vendor[3];                       // EBX EDX ECX of leaf 0
    u32 signature;                       // leaf 1 EAX; 0: not filled yet
    u32 f1_ecx, f1_edx, f7_ebx, f7_ecx, f7_edx, f81_ecx, f81_edx, fd1_eax;
    u32 brand[12];
    bool host_xsave;                     // the host has XSAVE on: fpu_save/fpu_load use it, else FXSAVE
    bool amd;
};
enum { X86_PHYS_BITS = 40 };             // MAXPHYADDR offered to the guest

struct x86_cpu {
    struct vcpu v;                       // first
    u64 seg_base[8];                     // [emitted] copies of seg[].base, for address computation
    struct segment seg[8];               // ES CS SS DS FS GS LDTR TR
    u64 eflags;                          // all but the arithmetic flags, which are in v.cc (bit 1 always set)
    u64 cr0, cr2, cr3, cr4, efer;
    struct { u64 base; u16 limit; } gdtr, idtr;
    u64 dr[8];
    u64 star, lstar, cstar, fmask, kernel_gs_base, sysenter_cs, sysenter_esp, sysenter_eip, pat, tsc_aux, misc_enable,
        mtrr_def, mtrr_fix[11], mtrr_var[16], mcg_status, debugctl, spec_ctrl;
    u64 xcr0, xss;
    u32 msr_unknown[16];                 // unknown MSRs the log has named already
    u64 tsc_offset, tsc_adjust;          // [tsc_offset and tsc_aux: emitted] guest TSC = host TSC (or virtual clock) + offset
    u32 a20_mask;
    bool inhibit_irq;                    // in the shadow of STI / MOV SS
    bool nmi_blocked;
    bool wait_sipi;                      // an application processor before its SIPI

    // the raised exception (v.exc_pending)
    u8 exc_vector;
    bool exc_has_error, exc_soft;        // exc_soft: INT n, INT3, INTO: pc in the frame is exc_next_pc
    u32 exc_error;
    u64 exc_next_pc;
    bool exc_trap;                       // ICEBP: as exc_soft, but the gate's DPL is not checked
    int exc_nest;                        // vector being delivered, -1 none: double faults

    u32 mode_word;                       // TBM_* of the state now; kept by x86_update_mode
    u32 mode_fixed;                      // what of it control and debug registers make, at any privilege level
    bool step_pending;                   // an instruction ran with TF set at its start: #DB is due at this boundary

    // ---- set at creation, before reset ----
    unsigned cpus;                       // vCPUs of the machine, for CPUID's topology; 0 counts as 1
    u64 tsc_hz;                          // 0: unknown, and no TSC-deadline timer is offered
    struct x86_cpuid id;                 // what this guest's CPUID offers; filled by x86_cpuid_init (reset does it when still empty)

    // icount: the virtual clock in nanoseconds, by which the TSC counts (1 GHz); then nothing else of the host's timing may show
    // either. NULL: the TSC is the host's.
    u64 (*virtual_ns)(void);
    bool seeded;                         // RDRAND and RDSEED give the numbers that follow from `random`
    u64 random;

    u8 xsave[4096] __attribute__((aligned(64)));   // guest vector/x87 state when not in the host's registers (host XSAVE layout)
};
static inline struct x86_cpu *x86(struct vcpu *c) { return (struct x86_cpu *)c; }

extern const struct guest_ops x86_guest_ops;

// Full EFLAGS from v.cc and eflags; valid outside translated code and in helpers. And the reverse.
u64 x86_get_eflags(const struct x86_cpu *c);
void x86_set_eflags(struct x86_cpu *c, u64 ef);      // all bits given are taken as they are; masks are the caller's
void x86_switch_eflags(struct x86_cpu *c, u64 ef);   // the same, where of the mode word's sources only segments may have changed as well
// SS.DPL is the CPL; 3 in VM86 (set there)
static inline unsigned x86_cpl(const struct x86_cpu *c) { return c->seg[SEG_SS].attr >> 13 & 3; }
static inline bool x86_long_mode(const struct x86_cpu *c) { return c->efer & EFER_LMA; }
static inline bool x86_code64(const struct x86_cpu *c) { return (c->efer & EFER_LMA) && (c->seg[SEG_CS].attr & 1u << 21); }

// Recomputes mode_word; after any change of CR0, CR4, EFER, XCR0, DR7, segments, EFLAGS or inhibit_irq (x86_set_eflags does it).
void x86_update_mode(struct x86_cpu *c);
// The same, where only segments, EFLAGS and inhibit_irq may have changed: every far transfer does it.
void x86_switch_mode(struct x86_cpu *c);

// Raises exception `vec` at the instruction now running: syncs pc and flags, leaves. error < 0: none. Own core, BQL not held.
NORETURN void x86_raise(struct x86_cpu *c, unsigned vec, s64 error);
