// What the assay's controller (assay/) and its payload (assay/guest/) share.
//
// The payload is one piece of machine code with all workloads and a small kernel of its own. It runs, byte for byte the same,
//   - translated: as a guest's multiboot kernel, in Cupel (hosted, on metal) and in QEMU;
//   - natively on metal: the same kernel in ring 0 on the real processor, Cupel out of the way, called by kernel/assay_native.c;
//   - natively hosted: only the tests with TEST_USER, called as functions in Cupel's own process.
// So a test's code, its addresses and its data are the same everywhere, and so must its checksum be.
//
// Memory. One window of ASSAY_WINDOW bytes, contiguous in physical memory and 2 MiB-aligned there, at virtual ASSAY_VIRT always. In a
// guest it lies at physical ASSAY_GUEST_PHYS. The image is at its beginning, with struct assay_header first of all; zeroed memory follows
// up to the window's end (the bare processor's runner and the hosted one zero it before each pass, as a guest's start does).
// build/assay/payload.elf is the image as a 32-bit multiboot ELF, build/assay/payload.bin the same as flat bytes from ASSAY_VIRT on.
//
// A pass. Someone fills in header.pass (which jobs, native or not), enters the payload, and reads the results when it has ended: in a
// guest by writing 0 to isa-debug-exit at port ASSAY_EXIT_PORT (1: header.error says what went wrong), natively by returning
// (header.error again).
// In a guest under QEMU nobody fills in header.pass: then the payload takes its jobs from the multiboot command line
// ("jobs=NAME:N[:CPUS][,...]"), and prints each result on port 0xe9 as a line "result JOB TEST CPU TICKS CHECKSUM MIN MAX EVENTS", then
// "done", or "error TEXT". "list" on the command line prints the table instead: "test NAME KIND NEEDS LATENCY N_UNIT N_MAX
// GROUP;UNIT;TITLE". "x2apic" has the processors go to x2APIC mode first.
//
// Checksums. A result's checksum is a function of test, n, processor number and number of processors alone.
#pragma once

#include "kernel/base/types.h"

#define ASSAY_VIRT       0x40000000ull
#define ASSAY_WINDOW     (128ull << 20)
#define ASSAY_GUEST_PHYS 0x1000000ull      // 16 MiB
#define ASSAY_MAGIC      0x79617373614c5043ull
enum {
    ASSAY_VERSION = 3, ASSAY_TESTS = 64, ASSAY_JOBS = 64, ASSAY_CPUS = 64, ASSAY_EXIT_PORT = 0x501, ASSAY_MARK_PORT = 0xe9,
    ASSAY_NAME = 24,
};

enum assay_kind {
    TEST_USER,      // a function in ring 3 that touches nothing but what its assay_ctx names
    TEST_KERNEL,    // needs the payload's kernel: rings, page tables, interrupts, devices
};
enum assay_need {   // what a test needs besides
    NEED_AVX2 = 1,          // in CPUID, and switched on in XCR0 by whoever runs natively
    NEED_TWO_CPUS = 2,      // exactly two: processor 0 measures, processor 1 answers and has ticks 0
    NEED_APIC = 4,          // a local APIC, and natively pass.mmio_lapic unless it is in x2APIC mode
    NEED_IOAPIC = 8, NEED_PCID = 16,
};

// What a workload gets: memory of its own (arena_size bytes, 4 KiB-aligned) and memory that all processors share.
struct assay_ctx {
    u8 *arena;
    u64 arena_size;
    u8 *shared;          // prepared by cpu 0's setup; then read, written in slices (a processor each), or changed by atomic instructions
    u64 shared_size;
    u8 *code;            // 64 KiB, writable and executable, for freshly written code
    u32 cpu, cpus;
};

struct assay_test {      // a row of the payload's table; addresses are virtual, in the window
    char name[ASSAY_NAME];
    char group[ASSAY_NAME];    // "integer", "memory", "floating point", "code", "kernel", "device"
    char unit[ASSAY_NAME];     // what n counts: "iteration", "byte", "call", "round trip" ...
    char title[64];
    u32 kind, needs;
    u32 latency;         // 1: ticks is a sum of n latencies, min and max are filled in; 0: ticks is the time of the whole run
    u32 pad;
    // Setup and check are not timed; 0: there is none. All processors of the job meet after setup and after run.
    u64 setup;           // void (*)(struct assay_ctx *, u64 n), on each processor for its arena; cpu 0's prepares shared memory too
    u64 run;             // u64 (*)(struct assay_ctx *, u64 n)
    // u64 (*)(struct assay_ctx *, u64 n, u64 value): from what run returned and left in memory, the checksum; 0: that is value
    u64 check;
    u64 n_unit;          // n is a multiple of this
    u64 n_max;           // and at most this; 0: no limit
};

struct assay_job { u32 test, cpus; u64 n; };

struct assay_result {    // of one processor
    u64 ticks;           // TSC, around fn alone
    u64 checksum;
    u64 min, max;        // latency tests: ticks of one event
    u64 events;          // interrupts that the payload did not ask for, while the test ran
    u64 tsc_start;       // TSC at the beginning, for parallel jobs: how far apart the processors started
};

struct assay_pass {
    u64 phys;            // physical address of the window; natively
    u32 native;          // 1: on the bare processor: only tables and interrupts of the payload's own, ends by returning
    u32 n_jobs;          // 0: take them from the multiboot command line
    u32 cpus;            // processors that there are (native: that will enter by native_ap); 0 in a guest: it finds out by starting all
    u32 apic_ids[ASSAY_CPUS];   // by processor number, where cpus is not 0; natively the processors read their own
    u32 marks;           // in a guest: 1: processor 0 writes 'b' and 'e' to ASSAY_MARK_PORT right before and after each job's timed part
    u64 mmio_lapic, mmio_ioapic;   // physical; natively 0: none. In a guest 0 means 0xfee00000, 0xfec00000
    struct assay_job job[ASSAY_JOBS];
};

struct assay_header {
    u64 magic;
    u32 version, size;             // size of this structure
    u64 image_size;                // bytes from ASSAY_VIRT that the image fills, zeroed variables and all
    u64 table;                     // struct assay_test[n_tests]
    u64 n_tests;
    // Natively on metal: ring 0, interrupts off, 4-level paging, CR3 = page tables in which the window is at ASSAY_VIRT (user, writable,
    // executable, 2 MiB pages); CR4.SMEP and SMAP clear; XCR0 as the tests shall find it. The payload runs on page tables of its own, in
    // which there is nothing but the window and the two MMIO pages, and on its own GDT, IDT and stacks. It comes back with RSP, CR0, CR3,
    // CR4, EFER and the registers that a callee saves (RBX, RBP, R12-R15) as they were, interrupts off, and with these changed, which are
    // the caller's to save and restore: GDTR (the payload's, in the window: load yours before you leave the window), IDTR, TR, LDTR, CS =
    // 8, SS, DS, ES, FS, GS, the MSRs FS_BASE, GS_BASE, KERNEL_GS_BASE, STAR, LSTAR, FMASK, all x87 and vector registers, MXCSR, CR2,
    // CR8, the local APIC's timer (LVT, divisor, initial count, TSC_DEADLINE: left masked), TPR and SVR. An IRQ of the caller's that
    // comes meanwhile stays pending: the payload takes none below priority class 0xf (CR8 = 0xe); vectors from 0xf0 on that it did not
    // ask for, and NMIs, it counts as `events` and ends (EOI).
    // `native` runs the pass as processor 0; `native_ap` is entered by the others, before or after, and returns when the pass is over.
    // The caller waits for all of them before it looks at the results. Both: void (*)(u64 cpu).
    u64 native, native_ap;
    // Hosted, TEST_USER only: u64 (*)(u64 job, u64 cpu): runs the job in the caller's own context as processor `cpu`, fills in its result
    // and returns the checksum. With cpus > 1, as many threads call it at once; they meet in it, spinning. Results are as of a pass,
    // without events. A job that cannot be leaves its results as they are and says why in header.error.
    u64 user_job;
    // The arenas, for whoever fills a struct assay_ctx himself: per processor, then the shared one.
    u64 arena, arena_size, shared, shared_size, code, code_size;   // of cpu 0; cpu k's are at k * arena_size / code_size behind
    u64 results;                   // struct assay_result[ASSAY_JOBS][ASSAY_CPUS]
    char error[128];               // why the pass ended early; empty: it did not
    struct assay_pass pass;
};
