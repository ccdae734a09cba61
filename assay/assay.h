// The assay: what translation costs on this machine, in one run.
//
// Each workload is one piece of machine code (the payload, abi.h), run natively and translated in every mode, in turns, with checksums
// compared. Then stock Linux as guest: phases of its boot, and kernel operations. The results are a table on the console and a JSON
// document (docs/assay.md).
//
// The platform starts it in place of a guest (hosted/assay.c, kernel/assay.c), on core 0, with nothing else to do afterwards. Compiled like
// the rest without vector registers and floating point: ratios are in thousandths.
#pragma once

#include "assay/abi.h"
#include "kernel/machine.h"

enum { ASSAY_ROUNDS_MAX = 32, ASSAY_COUNTERS = 8 };

struct assay_options {
    unsigned rounds;              // 1..ASSAY_ROUNDS_MAX
    unsigned linux_rounds;        // 0: without Linux
    unsigned ms;                  // how long a workload should take natively, and each kernel test translated
    bool power_off;               // switch the PC off at the end (the bare machine; unattended runs)
    char only[256];               // names of workloads, separated by '+'; empty: all
};
#define ASSAY_OPTIONS_DEFAULT {.rounds = 7, .linux_rounds = 3, .ms = 10}
// "rounds=N,linux=N,ms=N,only=a+b" over *o. False: which item is wrong, and what would be right, in err.
bool assay_options_parse(struct assay_options *o, const char *text, char *err, size_t errlen) MUST_CHECK;

// What the machine says of itself; the platform fills in what a program cannot ask the processor.
struct assay_facts {
    const char *version, *build, *platform;   // "0.1", "a9c0ca1", "metal" or "hosted"
    char microcode[24], firmware[96];         // empty: unknown
    u64 memory;                               // bytes
    u64 seconds_1970;                         // now, UTC
};

// Running the payload natively. Everything is called on core 0 with the machine standing, except ap.
struct assay_native {
    u8 *window;                   // ASSAY_WINDOW bytes where this side sees them; the payload runs them at ASSAY_VIRT
    u64 phys;                     // their physical address; 0: hosted
    bool kernel;                  // TEST_KERNEL too
    u64 lapic, ioapic;            // physical addresses of their registers; 0: none, or x2APIC
    void (*enter)(u64 fn, u64 cpu);   // kernel: calls the payload's native or native_ap on the core that calls; on any core
    void (*user)(u64 (*fn)(u64 job, u64 cpu), u32 job, u32 cpu);   // not kernel: calls user_job, undisturbed if possible; on any core
    u32 (*apic_id)(unsigned core);
};

struct assay_platform {
    struct assay_facts facts;
    struct assay_native native;   // window NULL: cannot run anything natively, native.why says why
    const char *native_why;
    // Processor counters of the calling core: names, and their values. n 0: there are none.
    struct { unsigned n; const char *name[ASSAY_COUNTERS]; void (*read)(u64 *values); } counters;
    // Where lines of progress and the table go, and whether the user wants to end.
    void (*print)(const char *text);
    // Keeps the document for good; it is on the medium when this returns. False and a message.
    bool (*save)(const char *json, u64 len, char *err, size_t errlen);
};

// Runs it all. `guests`: payload and Linux with their RAM disk; Linux without data: left out. Returns the exit code: 0, or 1 after a
// message that says what failed. Checksums that differ between modes are failures.
struct assay_guests { struct blob payload, kernel, initrd; };
int assay_run(const struct assay_options *o, const struct assay_platform *p, const struct assay_guests *g);
