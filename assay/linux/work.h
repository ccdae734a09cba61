// The operations, one function each: does it n times and returns the TSC ticks that this took, preparations not counted. They run as the
// only thread of the process, pinned to its first processor, and leave things as they were. n is a multiple of the operation's grain
// (assay/linux_ops.def).
#pragma once

#include "assay/linux/sys.h"

#define OP(id, unit, count, grain, cpus, title) u64 work_##id(u64 n);
#include "assay/linux_ops.def"
#undef OP

// What main prepared.
struct work_env {
    u64 vdso;                   // address of the vDSO's ELF image; 0: none
    const char *self;           // this program's file
    char dir[64];               // as an ordinary process: the tmpfs directory that is the current one and goes at the end
    unsigned cpus;              // processors that this process may use
    unsigned cpu[2];            // the first two of them
};
extern struct work_env *const work_env;
// clock_gettime of the vDSO; NULL: there is none.
typedef int vdso_clock(int clock, void *timespec);
vdso_clock *vdso_find(void);
