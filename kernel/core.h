// A core's own record, and how code finds it. GS base points either at this record or, once plat_bind_vcpu was called, at a vCPU;
// both begin with a pointer to the record, so GS:0 names it in every context.
#pragma once

#include "kernel/base/lockstat.h"
#include "kernel/base/types.h"

struct trap_frame;

// 64-bit TSS, SDM 3A 8.7.
struct tss {
    u32 reserved0;
    u64 rsp[3];
    u64 reserved1;
    u64 ist[7];
    u64 reserved2;
    u16 reserved3, iomap;
} __attribute__((packed));
_Static_assert(sizeof(struct tss) == 104, "the processor's layout");

struct core {
    struct core *self;              // GS:0
    unsigned id;
    u32 apic_id;
    unsigned in_interrupt;          // depth of handlers
    struct trap_frame *frame;       // innermost trap, for panics
    bool dying;                     // a panic is being printed

    bool bql_held;
    u64 bql_flags;                  // RFLAGS from before bql_lock
    const char *bql_file;           // who took it
    int bql_line;
    struct lockstat bql_stat;

    u64 gdt[7];
    struct tss tss;
};

enum { SEL_CODE = 0x08, SEL_DATA = 0x10, SEL_USER_DATA = 0x1b, SEL_USER_CODE = 0x23, SEL_TSS = 0x28 };
enum { IST_DF = 1, IST_NMI = 2, IST_MC = 3 };

static inline struct core *core_self(void)
{
    struct core *c;
    __asm__ volatile("mov %%gs:0, %0" : "=r"(c));
    return c;
}

// Boot core: its record, GDT, TSS and GS base; the processor's features (SSE, AVX, NX, ...) switched on.
void core_init_boot(void);
// "stack overflow" if `addr` lies in a guard page below one of this core's stacks, else NULL.
const char *core_guard_name(u64 addr);
// Calls fn with each guard page's address, for unmapping.
void core_guards_walk(void (*fn)(u64 page));
