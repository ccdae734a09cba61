// The processor's instructions that C has no words for. Ring 0 only, any context.
#pragma once

#include "kernel/base/bits.h"
#include "kernel/base/types.h"

enum {
    MSR_TSC = 0x10, MSR_TSC_ADJUST = 0x3b, MSR_TSC_DEADLINE = 0x6e0, MSR_APIC_BASE = 0x1b, MSR_PAT = 0x277, MSR_X2APIC = 0x800,
};
#define MSR_EFER    0xc0000080u
#define MSR_GS_BASE 0xc0000101u

#define RFLAGS_IF BIT(9)

#define CR0_MP BIT(1)
#define CR0_EM BIT(2)
#define CR0_TS BIT(3)
#define CR0_NE BIT(5)
#define CR0_WP BIT(16)
#define CR0_AM BIT(18)
#define CR4_PGE        BIT(7)
#define CR4_OSFXSR     BIT(9)
#define CR4_OSXMMEXCPT BIT(10)
#define CR4_LA57       BIT(12)
#define CR4_FSGSBASE   BIT(16)
#define CR4_PCIDE      BIT(17)
#define CR4_OSXSAVE    BIT(18)
#define CR4_SMEP       BIT(20)
#define CR4_SMAP       BIT(21)
#define CR4_CET        BIT(23)
#define EFER_NXE       BIT(11)

static inline u8 cpu_in8(u16 p) { u8 v; __asm__ volatile("inb %1, %0" : "=a"(v) : "Nd"(p)); return v; }
static inline u16 cpu_in16(u16 p) { u16 v; __asm__ volatile("inw %1, %0" : "=a"(v) : "Nd"(p)); return v; }
static inline u32 cpu_in32(u16 p) { u32 v; __asm__ volatile("inl %1, %0" : "=a"(v) : "Nd"(p)); return v; }
static inline void cpu_out8(u16 p, u8 v) { __asm__ volatile("outb %0, %1" : : "a"(v), "Nd"(p)); }
static inline void cpu_out16(u16 p, u16 v) { __asm__ volatile("outw %0, %1" : : "a"(v), "Nd"(p)); }
static inline void cpu_out32(u16 p, u32 v) { __asm__ volatile("outl %0, %1" : : "a"(v), "Nd"(p)); }

static inline u64 cpu_rdmsr(u32 msr)
{
    u32 lo, hi;
    __asm__ volatile("rdmsr" : "=a"(lo), "=d"(hi) : "c"(msr));
    return (u64)hi << 32 | lo;
}
static inline void cpu_wrmsr(u32 msr, u64 v) { __asm__ volatile("wrmsr" : : "c"(msr), "a"((u32)v), "d"((u32)(v >> 32)) : "memory"); }

struct cpuid { u32 a, b, c, d; };
static inline struct cpuid cpu_cpuid(u32 leaf, u32 sub)
{
    struct cpuid r;
    __asm__ volatile("cpuid" : "=a"(r.a), "=b"(r.b), "=c"(r.c), "=d"(r.d) : "a"(leaf), "c"(sub));
    return r;
}
// The leaf, or zeros where the processor has no such leaf.
static inline struct cpuid cpu_cpuid_if(u32 leaf, u32 sub)
{
    return cpu_cpuid(leaf & 0x80000000u, 0).a >= leaf ? cpu_cpuid(leaf, sub) : (struct cpuid){0, 0, 0, 0};
}

// Ordered after earlier loads (SDM 2B, RDTSC), so that a time read after a flag is a time after the flag.
static inline u64 cpu_rdtsc(void)
{
    u32 lo, hi;
    __asm__ volatile("lfence; rdtsc" : "=a"(lo), "=d"(hi) : : "memory");
    return (u64)hi << 32 | lo;
}

static inline u64 cpu_xgetbv(u32 r)
{
    u32 lo, hi;
    __asm__ volatile("xgetbv" : "=a"(lo), "=d"(hi) : "c"(r));
    return (u64)hi << 32 | lo;
}
static inline void cpu_xsetbv(u32 r, u64 v) { __asm__ volatile("xsetbv" : : "c"(r), "a"((u32)v), "d"((u32)(v >> 32)) : "memory"); }

static inline u64 cpu_cr0(void) { u64 v; __asm__ volatile("mov %%cr0, %0" : "=r"(v)); return v; }
static inline u64 cpu_cr2(void) { u64 v; __asm__ volatile("mov %%cr2, %0" : "=r"(v)); return v; }
static inline u64 cpu_cr3(void) { u64 v; __asm__ volatile("mov %%cr3, %0" : "=r"(v)); return v; }
static inline u64 cpu_cr4(void) { u64 v; __asm__ volatile("mov %%cr4, %0" : "=r"(v)); return v; }
static inline void cpu_set_cr0(u64 v) { __asm__ volatile("mov %0, %%cr0" : : "r"(v) : "memory"); }
static inline void cpu_set_cr3(u64 v) { __asm__ volatile("mov %0, %%cr3" : : "r"(v) : "memory"); }
static inline void cpu_set_cr4(u64 v) { __asm__ volatile("mov %0, %%cr4" : : "r"(v) : "memory"); }
static inline void cpu_invlpg(u64 a) { __asm__ volatile("invlpg (%0)" : : "r"(a) : "memory"); }
static inline void cpu_pause(void) { __asm__ volatile("pause" : : : "memory"); }

static inline u64 cpu_flags(void) { u64 f; __asm__ volatile("pushfq; pop %0" : "=r"(f) : : "memory"); return f; }

// Interrupts off; returns RFLAGS from before, for cpu_irq_restore.
static inline u64 cpu_irq_save(void)
{
    u64 f;
    __asm__ volatile("pushfq; pop %0; cli" : "=r"(f) : : "memory");
    return f;
}
static inline void cpu_irq_restore(u64 f)
{
    if (f & RFLAGS_IF) __asm__ volatile("sti" : : : "memory");
}

static inline NORETURN void cpu_halt_forever(void)
{
    for (;;) __asm__ volatile("cli; hlt" : : : "memory");
}

// A spinlock, fair where cores are real: whoever came first is served first (lock.c says what happens where they are not). Interrupts are
// the caller's business.
struct ticket_lock { u32 next, serving; };
// lock.c: takes a lock that is not free.
void ticket_lock_wait(struct ticket_lock *l);
// It is free if next == serving. Takes it then, else changes nothing.
static inline bool ticket_lock_try(struct ticket_lock *l)
{
    u32 now = __atomic_load_n(&l->serving, __ATOMIC_ACQUIRE);
    return __atomic_compare_exchange_n(&l->next, &now, now + 1, false, __ATOMIC_ACQUIRE, __ATOMIC_RELAXED);
}
// Returns the TSC when waiting began, 0 if there was none.
static inline u64 ticket_lock(struct ticket_lock *l)
{
    if (ticket_lock_try(l)) return 0;
    u64 asked = __builtin_ia32_rdtsc();
    ticket_lock_wait(l);
    return asked;
}
static inline void ticket_unlock(struct ticket_lock *l) { __atomic_store_n(&l->serving, l->serving + 1, __ATOMIC_RELEASE); }

// The same with interrupts off while it is held: for what interrupt handlers use too. Returns what ticket_unlock_irq wants back.
static inline u64 ticket_lock_irq(struct ticket_lock *l)
{
    u64 flags = cpu_irq_save();
    ticket_lock(l);
    return flags;
}
static inline void ticket_unlock_irq(struct ticket_lock *l, u64 flags)
{
    ticket_unlock(l);
    cpu_irq_restore(flags);
}
