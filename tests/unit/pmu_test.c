// Which performance counters are used, by what CPUID says: rows of processors, real ones and impossible ones.
// link: kernel/pmu.c
#include <stdio.h>
#include <string.h>

#include "kernel/pmu.h"

static unsigned passed, failed;

// Leaves that matter; all others answer 0.
struct row { const char *what; u32 vendor_b, max, l1a, la_a, la_b, ext, e1c, e22a; const char *names; u32 global, first_select; u64 mask; };

enum { INTEL = 0x756e6547, AMD = 0x68747541, OTHER = 0x12345678 };
static const struct row rows[] = {
    {"Skylake", INTEL, 0x16, 0x506e3, 0x07300804, 0, 0x80000008, 0, 0, "instructions cycles branch-misses cache-misses ", 0x38f, 0x186, 0xffffffffffff},
    {"one with two counters", INTEL, 0x16, 0x506e3, 0x07300202, 0, 0x80000008, 0, 0, "instructions cycles ", 0x38f, 0x186, 0xffffffffffff},
    {"one without branch misses", INTEL, 0x16, 0x506e3, 0x07280403, 0x40, 0x80000008, 0, 0, "instructions cycles cache-misses ", 0x38f, 0x186, 0xffffffffff},
    {"one that lists five events", INTEL, 0x16, 0x506e3, 0x05300403, 0, 0x80000008, 0, 0, "instructions cycles cache-misses ", 0x38f, 0x186, 0xffffffffffff},
    {"version 1", INTEL, 0xa, 0x506e3, 0x07280201, 0, 0x80000008, 0, 0, "instructions cycles ", 0, 0x186, 0xffffffffff},
    {"a hypervisor without", INTEL, 0x16, 0x506e3, 0, 0, 0x80000008, 0, 0, "", 0, 0, 0},
    {"an old one", INTEL, 5, 0x506e3, 0x07300804, 0, 0x80000008, 0, 0, "", 0, 0, 0},
    {"Zen 2", AMD, 0x10, 0x00870f10, 0, 0, 0x80000020, 1 << 23, 0, "instructions cycles branch-misses dtlb-misses cache-misses ", 0, 0xc0010200, 0xffffffffffff},
    {"Zen 5", AMD, 0x10, 0x00b00f20, 0, 0, 0x80000028, 1 << 23, 1, "instructions cycles branch-misses dtlb-misses cache-misses ", 0xc0000301, 0xc0010200, 0xffffffffffff},
    {"Zen without", AMD, 0x10, 0x00870f10, 0, 0, 0x80000020, 0, 0, "", 0, 0, 0},
    {"Bulldozer", AMD, 0xd, 0x00600f12, 0, 0, 0x8000001e, 1 << 23, 0, "", 0, 0, 0},
    {"somebody else's", OTHER, 0x16, 0x506e3, 0x07300804, 0, 0x80000028, 1 << 23, 1, "", 0, 0, 0},
};

static const struct row *row;

static struct pmu_id answer(u32 leaf)
{
    switch (leaf) {
    case 0: return (struct pmu_id){row->max, row->vendor_b, 0, 0};
    case 1: return (struct pmu_id){row->l1a, 0, 0, 0};
    case 0xa: return (struct pmu_id){row->la_a, row->la_b, 0, 0};
    case 0x80000000: return (struct pmu_id){row->ext, 0, 0, 0};
    case 0x80000001: return (struct pmu_id){0, 0, row->e1c, 0};
    case 0x80000022: return (struct pmu_id){row->e22a, 0, 0, 0};
    default: return (struct pmu_id){0};
    }
}

static void check(bool ok, const char *what)
{
    if (ok) passed++;
    else {
        failed++;
        printf("FAIL %s: %s\n", row->what, what);
    }
}

int main(void)
{
    for (row = rows; row < rows + ARRAY_SIZE(rows); row++) {
        struct pmu p;
        char names[256] = "";
        pmu_find(&p, answer);
        for (unsigned i = 0; i < p.n; i++) strcat(strcat(names, p.counter[i].name), " ");
        check(!strcmp(names, row->names), names);
        check(p.global_msr == row->global && (!p.global_msr || p.global == (1ull << p.n) - 1), "global control");
        check(p.n == 0 || (p.mask == row->mask && p.counter[0].select_msr == row->first_select), "registers");
        for (unsigned i = 0; i < p.n; i++) {
            u32 step = row->vendor_b == AMD ? 2 : 1, count = row->vendor_b == AMD ? 0xc0010201 : 0xc1;
            check(p.counter[i].select_msr == row->first_select + i * step && p.counter[i].count_msr == count + i * step, p.counter[i].name);
            check((p.counter[i].select & 0x430000) == 0x430000, "enabled, in all rings");
        }
    }
    printf("%u passed, %u failed\n", passed, failed);
    return failed != 0;
}
