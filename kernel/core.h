// A core's own record, and how code finds it. GS base points either at this record or, once plat_bind_vcpu was called, at a vCPU;
// both begin with a pointer to the record, so GS:0 names it in every context.
#pragma once

#include "kernel/base/lockstat.h"
#include "kernel/base/types.h"

enum { CORES_MAX = 256 };

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

struct stacks {
    u8 guard0[4096], main[256 * 1024];
    u8 guard1[4096], df[16 * 1024];
    u8 guard2[4096], nmi[16 * 1024];
    u8 guard3[4096], mc[16 * 1024];
} __attribute__((aligned(4096)));

// How far a core has come. Written by the core itself, but for CORE_STARTED, which plat_core_start writes.
enum core_state {
    CORE_WAITING,                   // has been told to start, or not yet
    CORE_ALIVE,                     // runs ap_main
    CORE_UNFIT,                     // lacks what the boot core has; halted for good
    CORE_PARKED,                    // takes interrupts and waits for plat_core_start
    CORE_STARTED,                   // has been given its function; the boot core from the beginning
};

struct core {
    struct core *self;              // GS:0
    u64 cr3, stack_top;             // for ap_entry (trampoline.S)
    struct stacks *stacks;
    unsigned id;
    u32 apic_id;
    unsigned in_interrupt;          // depth of handlers
    struct trap_frame *frame;       // innermost trap, for panics
    bool dying;                     // a panic is being printed
    bool io;                        // given to I/O (io.c): runs no vCPU and never holds the BQL. From before it starts

    bool bql_held;
    u64 bql_flags;                  // RFLAGS from before bql_lock
    const char *bql_file;           // who took it
    int bql_line;
    struct lockstat bql_stat;

    // ---- shared between cores, by atomic accesses ----
    u32 state;                      // enum core_state
    void (*fn)(void *);             // valid from CORE_STARTED on
    void *arg;
    u32 tsc_ask, tsc_answer;        // tsc.c: number of the question, and of the last that was answered
    u32 tsc_what;
    s64 tsc_by;
    u64 tsc;
    bool stopped;                   // has heard of cores_stop_others
    bool flush;                     // cores_flush wants this core's answer

    u64 gdt[7];
    struct tss tss;
};
_Static_assert(offsetof(struct core, cr3) == 8 && offsetof(struct core, stack_top) == 16, "trampoline.S reads them");

enum { SEL_CODE = 0x08, SEL_DATA = 0x10, SEL_USER_DATA = 0x1b, SEL_USER_CODE = 0x23, SEL_TSS = 0x28 };
enum { IST_DF = 1, IST_NMI = 2, IST_MC = 3 };

static inline struct core *core_self(void)
{
    struct core *c;
    __asm__ volatile("mov %%gs:0, %0" : "=r"(c));
    return c;
}

// This core's GDT, segment registers and TSS once more, after somebody else had their own; FS and GS bases are zero then. Interrupts off.
void core_tables_reload(struct core *c);
// Boot core: its record, GDT, TSS and GS base; the processor's features (SSE, AVX, NX, ...) switched on.
void core_init_boot(void);
// A record and stacks for another core; NULL: no memory. Not from interrupt context.
struct core *core_new(unsigned id, u32 apic_id) MUST_CHECK;
// On the new core itself: GDT, TSS and GS base, then the boot core's control registers. False: the processor lacks a feature that the
// boot core has, and control registers are as they were.
bool core_init_other(struct core *c) MUST_CHECK;
// "stack overflow" if `addr` lies in a guard page below one of this core's stacks, else NULL.
const char *core_guard_name(u64 addr);
// Calls fn with the address of each guard page of the boot core, for unmapping.
void core_guards_walk(void (*fn)(u64 page));
// traps.S: interrupts on, sleeps until one came, interrupts off. One that is pending already ends the sleep at once.
void core_sleep(void);
