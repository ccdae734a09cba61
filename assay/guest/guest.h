// The payload's own declarations. Layers, from below: the machine (cpu.c, paging.c, lapic.c, traps.S), the pass (pass.c, smp.c,
// command.c), the tests (user_*, fp_*, kernel_*; table.c lists them).
//
// Nothing here allocates. Whatever a test needs is in its struct assay_ctx; what the kernel needs is static. On the bare processor only
// the window and the two MMIO pages exist: no identity mapping, no memory below 1 MiB, no PIC. Interrupts are off but where a test
// switches them on.
#pragma once

#include "assay/abi.h"
#include "assay/guest/asm.h"

#define ARENA_AT  (ASSAY_VIRT + 8 * MIB)
#define CODE_AT   (ASSAY_VIRT + 56 * MIB)
#define SHARED_AT (ASSAY_VIRT + 64 * MIB)
enum { ARENA_SIZE = 768 << 10, CODE_SIZE = 64 << 10, SHARED_SIZE = 64 << 20 };

static inline struct assay_header *header(void) { return (struct assay_header *)ASSAY_VIRT; }
static inline struct assay_pass *pass(void) { return &header()->pass; }
static inline u64 phys_of(const volatile void *p) { return (u64)p - ASSAY_VIRT + pass()->phys; }

struct stacks { u8 user[STACK_USER_TOP], kernel[0x4000], trap[0x2000], ist[0x1000]; };

struct tss { u32 pad0; u64 rsp[3], pad1, ist[7], pad2; u16 pad3, iomap; } __attribute__((packed));

// A processor. GS_BASE and KERNEL_GS_BASE both lead here, so that SWAPGS costs what it costs and changes nothing.
struct cpu {
    struct cpu *self;
    u64 user_rsp;              // of ring 3, during a system call
    u64 trap_stack, user_stack;
    u64 ring0_rsp;             // of who called ring3_run
    u64 tsc;                   // at the handler's first instruction, of the last interrupt that was asked for ...
    u64 hits;                  // ... and how many there were
    u64 x2apic;                // registers are MSRs
    u64 fault_pt;              // page table of the page-fault test; 0: page faults are errors
    u64 fault_phys;            // what to map there: that many pages from here on
    u64 faults;
    u64 exit_rsp, exit_cr0, exit_cr3, exit_cr4, exit_efer;   // of who entered natively
    u64 wakes, wakes_sent;     // VEC_WAKE: taken, and sent here by anybody
    u64 number, apic_id, has_apic;
    u32 ready, pad;            // it is in its idle loop or beyond
    u64 strays;
    u64 lat_sum, lat_min, lat_max;
    u64 timer_deadline;        // the APIC timer takes a TSC value ...
    u64 timer_ratio;           // ... else: TSC ticks per count of it, times 2^20
    u64 gdt[8];
    struct tss tss;
} __attribute__((aligned(CPU_SIZE)));

// A call between two readings of the TSC.
struct timed { u64 fn, ctx, n, start, end, value; };

extern struct cpu cpus[ASSAY_CPUS];
extern struct stacks stacks[ASSAY_CPUS];
extern const struct assay_test tests[];      // header()->n_tests of them
extern char command_line[4096];  // the last byte is 0, the one before only where all of it fitted
extern u32 mem_upper_kib;       // what the multiboot loader said
extern u8 _data_end[], _image_end[];

static inline struct cpu *this_cpu(void)
{
    struct cpu *c;
    __asm__ volatile("mov %%gs:0, %0" : "=r"(c));
    return c;
}

// ---- instructions --------------------------------------------------------------------------------------------------------
static inline u64 rdtsc(void)
{
    u32 lo, hi;
    __asm__ volatile("rdtsc" : "=a"(lo), "=d"(hi) : : "memory");
    return (u64)hi << 32 | lo;
}
static inline u64 rdmsr(u32 msr)
{
    u32 lo, hi;
    __asm__ volatile("rdmsr" : "=a"(lo), "=d"(hi) : "c"(msr) : "memory");
    return (u64)hi << 32 | lo;
}
static inline void wrmsr(u32 msr, u64 v) { __asm__ volatile("wrmsr" : : "c"(msr), "a"((u32)v), "d"((u32)(v >> 32)) : "memory"); }
static inline void outb(u16 port, u8 v) { __asm__ volatile("outb %0, %1" : : "a"(v), "Nd"(port) : "memory"); }
static inline u8 inb(u16 port)
{
    u8 v;
    __asm__ volatile("inb %1, %0" : "=a"(v) : "Nd"(port) : "memory");
    return v;
}
static inline void cpuid(u32 leaf, u32 sub, u32 r[4])
{
    __asm__ volatile("cpuid" : "=a"(r[0]), "=b"(r[1]), "=c"(r[2]), "=d"(r[3]) : "a"(leaf), "c"(sub));
}
static inline void relax(void) { __asm__ volatile("pause" : : : "memory"); }
static inline void irq_on(void) { __asm__ volatile("sti" : : : "memory"); }
static inline void irq_off(void) { __asm__ volatile("cli" : : : "memory"); }
// Sleeps until an interrupt, with none lost between the caller's look and the HLT: entered and left with interrupts off (SDM 2B, STI).
static inline void halt(void) { __asm__ volatile("sti; hlt; cli" : : : "memory"); }
static inline u64 read_cr3(void)
{
    u64 v;
    __asm__ volatile("mov %%cr3, %0" : "=r"(v) : : "memory");
    return v;
}
static inline void write_cr3(u64 v) { __asm__ volatile("mov %0, %%cr3" : : "r"(v) : "memory"); }
static inline u64 read_cr4(void)
{
    u64 v;
    __asm__ volatile("mov %%cr4, %0" : "=r"(v) : : "memory");
    return v;
}
static inline void write_cr4(u64 v) { __asm__ volatile("mov %0, %%cr4" : : "r"(v) : "memory"); }

static inline u64 rotl(u64 v, unsigned n) { return v << n | v >> (64 - n); }
// Adds v to a checksum: each bit of either reaches all of the result within two steps, and a zero counts too.
static inline u64 mix(u64 sum, u64 v)
{
    sum = (rotl(sum, 23) + v + 1) * 0x9e3779b97f4a7c15ull;
    return sum ^ sum >> 29;
}
// Pseudo-random numbers for data (xorshift64; never 0 if the state is not).
static inline u64 random_next(u64 *state)
{
    u64 x = *state;
    x ^= x << 13;
    x ^= x >> 7;
    return *state = x ^ x << 17;
}

// ---- traps.S ---------------------------------------------------------------------------------------------------------------
// Runs t->fn(t->ctx, t->n) between two RDTSC; x87 and MXCSR as after FNINIT and a reset, XMM0 to XMM15 zero. Any ring, any address space
// with the window.
void timed_call(struct timed *t);
// The same in ring 3 with these RFLAGS (2: interrupts off). What it interrupts in ring 0 is only this call.
void ring3_run(struct timed *t, u64 rflags);
// Back to who entered natively; on the way CR0, CR3, CR4 and EFER are given back.
NORETURN void native_leave(struct cpu *c);
// One vector's frame as trap() gets it.
struct frame { u64 rbx, r11, r10, r9, r8, rdi, rsi, rdx, rcx, rax, vector, error, rip, cs, rflags, rsp, ss; };
void trap(const struct frame *f);
extern const u8 trap_stubs[], isr_event[], isr_wake[], isr_fault[], isr_int80[], isr_leave[], syscall_entry[];
void native_enter(u64 cpu);
void native_enter_ap(u64 cpu);

// ---- boot.S: the first instructions of other processors, copied to TRAMPOLINE_AT ------------------------------------------------
extern const u8 trampoline[], trampoline_end[];
enum { TRAMPOLINE_AT = 0x8000 };

// ---- paging.c ---------------------------------------------------------------------------------------------------------------------
// Fills the kernel's page tables. Once, before the first cpu_init; pass()->phys and the MMIO addresses are known.
void paging_build(void);
u64 paging_cr3(void);
// An address space of a test: the kernel's window, and `pages` pages of memory from `data` (in the window, 4 KiB-aligned) at
// FAULT_REGION, for ring 3 too; mapped or left not-present. `tables` is SPACE_TABLES bytes, 4 KiB-aligned. Returns CR3; the page table
// proper is the last page of `tables`.
enum { SPACE_TABLES = 4 * 4096 };
u64 space_build(u8 *tables, const u8 *data, unsigned pages, bool mapped);
static inline u64 *space_pt(u8 *tables) { return (u64 *)(void *)(tables + 3 * 4096); }

// ---- cpu.c ---------------------------------------------------------------------------------------------------------------------------
// Makes the processor the payload's: control registers, page tables, GDT, IDT, TSS, system-call MSRs, local APIC. Interrupts stay off.
void cpu_init(u64 number);
// The needs (enum assay_need) that this processor cannot meet.
u32 cpu_lacks(u32 needs);

// ---- lapic.c: the local APIC, xAPIC or x2APIC as IA32_APIC_BASE says --------------------------------------------------------------------
enum { LAPIC_TPR = 0x80, LAPIC_SVR = 0xf0, LAPIC_LVT_TIMER = 0x320, LAPIC_TMICT = 0x380, LAPIC_TMCCT = 0x390, LAPIC_TDCR = 0x3e0 };
void lapic_init(struct cpu *c);
// A guest's processors shall go to x2APIC mode in lapic_init.
void lapic_want_x2apic(void);
u32 lapic_read(const struct cpu *c, u32 reg);
void lapic_write(const struct cpu *c, u32 reg, u32 v);
void lapic_eoi(const struct cpu *c);
void lapic_timer_off(const struct cpu *c);
// Arms the timer for VEC_TIMER about `ticks` TSC ticks from now. Returns the TSC value at which it is due.
u64 lapic_timer_arm(struct cpu *c, u64 ticks);
// Finds out how to use the timer; calibrates it where it counts by a clock of its own. A few milliseconds, then nothing.
void lapic_timer_prepare(struct cpu *c);
// An IPI: command is the low half of ICR (SDM 3A 11.6.1).
void lapic_send(const struct cpu *c, u32 apic_id, u32 command);
enum { ICR_INIT = 0x4500, ICR_STARTUP = 0x4600, ICR_FIXED = 0x4000, ICR_SELF = 0x40000, ICR_ALL_OTHERS = 0xc0000 };

// ---- smp.c --------------------------------------------------------------------------------------------------------------
// Has processors 1 .. n-1 come (guest) or waits for them (native). Processor 0. Fails the pass when they do not.
void smp_start(u32 n);
// Wakes those of processors 1 .. n-1 that there are, but for this one, out of their idle loop.
void smp_wake(u32 n);

// ---- pass.c --------------------------------------------------------------------------------------------------------------
// Ends the pass with this text in header.error, on whatever processor.
NORETURN void pass_fail(const char *fmt, ...) PRINTF(1, 2);
bool pass_aborted(void);
NORETURN void guest_main(void);        // from boot.S, on page tables of its own
NORETURN void guest_ap_main(u64 cpu);
NORETURN void native_main(u64 cpu);    // from traps.S, on the caller's page tables
NORETURN void native_ap_main(u64 cpu);
// One latency, in TSC ticks.
void latency_add(struct cpu *c, u64 ticks);
u64 user_job(u64 job, u64 cpu);

// ---- command.c --------------------------------------------------------------------------------------------------------------
// Fills in the pass's jobs from the command line; or prints the list of tests and returns false.
bool command_parse(void);
void command_print_results(void);
void debug_puts(const char *text);     // port 0xe9
