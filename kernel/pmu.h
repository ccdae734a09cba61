// The processor's performance counters, on the core that calls.
#pragma once

#include "kernel/base/types.h"

enum { PMU_MAX = 8 };

// What this processor has: counters[i] counts `name`, selected by writing `select` to MSR select_msr and read from MSR count_msr.
struct pmu_counter { const char *name; u32 select_msr, count_msr; u64 select; };
struct pmu {
    unsigned n;
    struct pmu_counter counter[PMU_MAX];
    u32 global_msr;               // 0: none; else written with `global` to let the counters go
    u64 global, mask;             // mask: the width of a counter
};

// By what CPUID says, as `cpuid` answers. n 0: no counters that we know how to use.
//   Intel: architectural performance monitoring, SDM 3B 20.2. AMD from family 17h on: APM 2 13.2, PPR 2.1.15.
struct pmu_id { u32 a, b, c, d; };
void pmu_find(struct pmu *p, struct pmu_id (*cpuid)(u32 leaf));
// Ring 0: starts them on this core, from zero, in all rings; reads them (n values).
void pmu_start(const struct pmu *p);
void pmu_read(const struct pmu *p, u64 *values);
