// What the controller and the tests know of the assay's stock Linux guest: the phases of its boot, its operations, and how to read them off
// its console. Pure: no allocation, no lock, no platform; any context. One run is one struct linux_run, zeroed by its owner.
//
// The guest's side is assay/linux/. It is the kernel as it comes, and the program ops as /init, which prints
//     ASSAY phase init TSC                  when it begins
//     ASSAY op NAME UNIT N TICKS            per operation, at the end: N units took TICKS of the guest's TSC, the median of five
//                                           such slices. A blank in UNIT is written as '-'
//     ASSAY error TEXT                      what went wrong; ends the run
//     ASSAY done
// and powers off.
#pragma once

#include "kernel/base/types.h"

// Appended to the guest's command line. earlyprintk: lines come when they are written, not when the driver is there, so that the phases
// are true; console=ttyS0 as it stops the early one. loglevel=7: the phases' lines are KERN_INFO (6), and a level that distributions
// lower. All of a boot's lines, 20 KB, cost less than differs from boot to boot. assay.scale=N: n in percent of linux_ops.def.
#define LINUX_APPEND "console=ttyS0 earlyprintk=ttyS0,115200 loglevel=7 panic=-1"

enum linux_phase_id { LINUX_KERNEL, LINUX_MEMORY, LINUX_CPUS, LINUX_DRIVERS, LINUX_INIT, LINUX_DONE, LINUX_PHASES };

// A phase ends with the console line that begins with `needle` (behind the kernel's time stamp). In the order of the boot.
struct linux_phase { const char *id, *title, *needle; };
extern const struct linux_phase linux_phases[LINUX_PHASES];

enum linux_op_id {
#define OP(id, unit, n, grain, cpus, title) LINUX_OP_##id,
#include "assay/linux_ops.def"
#undef OP
    LINUX_OPS
};
struct linux_op { const char *id, *unit, *title; u64 n, grain; u32 cpus; };
extern const struct linux_op linux_ops[LINUX_OPS];

enum { LINUX_TEXT = 96 };
struct linux_run {
    u64 phase[LINUX_PHASES];                     // host TSC of the line that ended it; 0: has not come
    u64 init_tsc;                                // the guest's own TSC when /init began
    struct { u64 n, ticks; } op[LINUX_OPS];      // n = 0: has not come
    u32 bad;                                     // lines that begin like ops' own and are not: broken, unknown, or a second time
    char kernel[LINUX_TEXT];                     // "6.1.0-56-cloud-amd64"; empty: not seen
    char error[LINUX_TEXT];                      // of ASSAY error; printable, no quotes, so that it can stand in JSON as it is
};

// Takes in one line of the console, NUL-terminated, of any content and length; \r and \n at its end do not count. tsc: the host's when the
// line was complete, not 0. True: it ended a phase, or was an operation or an error. The first of a kind counts, and no phase ends after a
// later one.
bool linux_line(struct linux_run *r, const char *line, u64 tsc);
