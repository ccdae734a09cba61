// What the processor says of itself (CPUID, SDM 2A; AMD64 APM 3 appendix E), and how fast its TSC goes.
#include <string.h>

#include "assay/run.h"
#include "kernel/base/bits.h"
#include "kernel/plat.h"

struct regs { u32 a, b, c, d; };

static struct regs cpuid(u32 leaf)
{
    struct regs r;
    __asm__ volatile("cpuid" : "=a"(r.a), "=b"(r.b), "=c"(r.c), "=d"(r.d) : "a"(leaf), "c"(0));
    return r;
}

static void put(char *to, u32 v) { memcpy(to, &v, 4); }

static void brand_read(char *brand)
{
    for (u32 i = 0; i < 3; i++) {
        struct regs r = cpuid(0x80000002 + i);
        put(brand + 16 * i, r.a);
        put(brand + 16 * i + 4, r.b);
        put(brand + 16 * i + 8, r.c);
        put(brand + 16 * i + 12, r.d);
    }
    size_t skip = strspn(brand, " "), len = strlen(brand);
    memmove(brand, brand + skip, len - skip + 1);
    for (len -= skip; len && brand[len - 1] == ' ';) brand[--len] = 0;
}

void facts_cpu(struct cpu_facts *f)
{
    *f = (struct cpu_facts){0};
    struct regs id = cpuid(0), v = cpuid(1), ext = cpuid(0x80000000);
    put(f->vendor, id.b);
    put(f->vendor + 4, id.d);
    put(f->vendor + 8, id.c);
    // The displayed family and model, SDM 2A CPUID figure 3-6.
    u32 family = (u32)bits_get(v.a, 8, 4), model = (u32)bits_get(v.a, 4, 4);
    f->family = family == 15 ? family + (u32)bits_get(v.a, 20, 8) : family;
    f->model = family == 15 || family == 6 ? model | (u32)bits_get(v.a, 16, 4) << 4 : model;
    f->stepping = v.a & 15;
    if (ext.a >= 0x80000004) brand_read(f->brand);
    if (ext.a >= 0x80000007) f->tsc_invariant = cpuid(0x80000007).d & BIT(8);
    if (!(v.c & BIT(31))) return;
    struct regs h = cpuid(0x40000000);
    put(f->hypervisor, h.b);
    put(f->hypervisor + 4, h.c);
    put(f->hypervisor + 8, h.d);
}

// AVX2 counts only where the owner of XCR0 has switched AVX on (SDM 1 14.3).
u32 facts_lacks(u32 needs)
{
    struct regs v = cpuid(1);
    u32 lacks = needs & (NEED_AVX2 | NEED_PCID), lo, hi;
    if (v.c & BIT(17)) lacks &= ~(u32)NEED_PCID;
    if (!(v.c & BIT(27)) || !(v.c & BIT(28)) || cpuid(0).a < 7 || !(cpuid(7).b & BIT(5))) return lacks;
    __asm__ volatile("xgetbv" : "=a"(lo), "=d"(hi) : "c"(0));
    return (lo & 6) == 6 ? lacks & ~(u32)NEED_AVX2 : lacks;
}

// Ticks of `nops` instructions that do nothing, between two RDTSC.
static __attribute__((noinline)) u64 ticks_of(u64 nops)
{
    u64 t0 = __builtin_ia32_rdtsc();
    for (u64 i = 0; i < nops; i++) __asm__ volatile("nop");
    return __builtin_ia32_rdtsc() - t0;
}

// A processor with a clock gives other figures each time, and not one that is linear to the tick.
bool facts_counting(void)
{
    enum { N = 1000, TIMES = 5 };
    u64 once = ticks_of(N), twice = ticks_of(2 * N);
    if (twice <= once || (twice - once) % N) return false;
    for (unsigned i = 0; i < TIMES; i++)
        if (ticks_of(N) != once || ticks_of(2 * N) != twice) return false;
    return true;
}

u64 facts_tsc_hz(void)
{
    u64 t0 = plat_time_ns(), c0 = __builtin_ia32_rdtsc(), t1;
    while ((t1 = plat_time_ns()) - t0 < 50000000) __builtin_ia32_pause();
    return muldiv64(__builtin_ia32_rdtsc() - c0, NS_PER_SEC, t1 - t0);
}
