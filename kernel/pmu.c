// Performance counters. Which events there are is a table per vendor; a counter of the processor is used per event, as far as there are
// any.
//
// Intel promises seven architectural events and says in CPUID.0AH:EBX which of them a processor lacks (a set bit). Misses of the data TLB
// are not among them. AMD promises no events across families; those below have had the same numbers from family 17h to 1Ah.
#include "kernel/pmu.h"

#include "kernel/base/bits.h"
#include "kernel/cpu.h"

#define SEL_USR BIT(16)
#define SEL_OS  BIT(17)
#define SEL_EN  BIT(22)

enum { INTEL_SELECT = 0x186, INTEL_COUNT = 0xc1, INTEL_GLOBAL = 0x38f, AMD_SELECT = 0xc0010200, AMD_GLOBAL = 0xc0000301, AMD_COUNTERS = 6 };

struct event { const char *name; u8 event, umask; u8 bit; };   // bit: in CPUID.0AH:EBX

static const struct event intel_events[] = {
    {"instructions", 0xc0, 0x00, 1}, {"cycles", 0x3c, 0x00, 0}, {"branch-misses", 0xc5, 0x00, 6}, {"cache-misses", 0x2e, 0x41, 4},
};
static const struct event amd_events[] = {
    {"instructions", 0xc0, 0x00, 0}, {"cycles", 0x76, 0x00, 0}, {"branch-misses", 0xc3, 0x00, 0}, {"dtlb-misses", 0x45, 0xff, 0},
    {"cache-misses", 0x64, 0x08, 0},          // data reads that missed the L2
};

static void add(struct pmu *p, const struct event *e, u32 select_msr, u32 count_msr)
{
    p->counter[p->n++] = (struct pmu_counter){e->name, select_msr, count_msr, e->event | (u64)e->umask << 8 | SEL_USR | SEL_OS | SEL_EN};
}

static void find_intel(struct pmu *p, struct pmu_id (*cpuid)(u32 leaf))
{
    struct pmu_id id = cpuid(0xa);
    unsigned version = id.a & 0xff, counters = id.a >> 8 & 0xff, width = id.a >> 16 & 0xff, bits = id.a >> 24;
    if (!version || !width) return;
    p->mask = width >= 64 ? ~0ull : BIT(width) - 1;
    for (unsigned i = 0; i < ARRAY_SIZE(intel_events) && p->n < counters && p->n < PMU_MAX; i++)
        if (intel_events[i].bit < bits && !(id.b & BIT(intel_events[i].bit))) add(p, &intel_events[i], INTEL_SELECT + p->n, INTEL_COUNT + p->n);
    if (version < 2 || !p->n) return;
    p->global_msr = INTEL_GLOBAL;
    p->global = BIT(p->n) - 1;
}

static void find_amd(struct pmu *p, struct pmu_id (*cpuid)(u32 leaf))
{
    struct pmu_id v = cpuid(1), top = cpuid(0x80000000);
    unsigned family = (v.a >> 8 & 15) + (v.a >> 20 & 0xff);
    if (family < 0x17 || !(cpuid(0x80000001).c & BIT(23))) return;      // PerfCtrExtCore
    p->mask = BIT(48) - 1;
    for (unsigned i = 0; i < ARRAY_SIZE(amd_events) && p->n < AMD_COUNTERS; i++) add(p, &amd_events[i], AMD_SELECT + 2 * p->n, AMD_SELECT + 2 * p->n + 1);
    if (top.a < 0x80000022 || !(cpuid(0x80000022).a & 1)) return;       // PerfMonV2
    p->global_msr = AMD_GLOBAL;
    p->global = BIT(p->n) - 1;
}

void pmu_find(struct pmu *p, struct pmu_id (*cpuid)(u32 leaf))
{
    *p = (struct pmu){0};
    struct pmu_id v = cpuid(0);
    if (v.b == 0x756e6547 && v.a >= 0xa) find_intel(p, cpuid);          // "Genu"
    if (v.b == 0x68747541) find_amd(p, cpuid);                          // "Auth"
}

void pmu_start(const struct pmu *p)
{
    for (unsigned i = 0; i < p->n; i++) {
        cpu_wrmsr(p->counter[i].select_msr, 0);
        cpu_wrmsr(p->counter[i].count_msr, 0);
        cpu_wrmsr(p->counter[i].select_msr, p->counter[i].select);
    }
    if (p->global_msr) cpu_wrmsr(p->global_msr, p->global);
}

void pmu_read(const struct pmu *p, u64 *values)
{
    for (unsigned i = 0; i < p->n; i++) values[i] = cpu_rdmsr(p->counter[i].count_msr) & p->mask;
}
