// Statistics in integers. The geometric mean goes by logarithms to base 2 in 32.32 fixed point, bit by bit: squaring doubles the logarithm,
// and each time the square passes 2, one bit of it is known.
#include "assay/stats.h"

#include "kernel/base/bits.h"
#include "kernel/base/log.h"

enum { STATS_MAX = 64 };

static void sort(u64 *v, unsigned n)
{
    for (unsigned i = 1; i < n; i++) {
        u64 x = v[i];
        unsigned k = i;
        for (; k && v[k - 1] > x; k--) v[k] = v[k - 1];
        v[k] = x;
    }
}

// The value `quarters` quarters of the way through sorted v.
static u64 quantile(const u64 *v, unsigned n, unsigned quarters)
{
    unsigned at4 = (n - 1) * quarters, i = at4 / 4, rest = at4 % 4;
    return rest ? v[i] + (v[i + 1] - v[i]) / 4 * rest + (v[i + 1] - v[i]) % 4 * rest / 4 : v[i];
}

struct stats stats_of(const u64 *values, unsigned n)
{
    u64 v[STATS_MAX];
    ASSERT(n && n <= STATS_MAX, "%u samples", n);
    for (unsigned i = 0; i < n; i++) v[i] = values[i];
    sort(v, n);
    return (struct stats){.median = quantile(v, n, 2), .min = v[0], .max = v[n - 1], .q1 = quantile(v, n, 1), .q3 = quantile(v, n, 3)};
}

u64 stats_ratio(u64 a, u64 b) { return b ? (u64)(((u128)a * 1000 + b / 2) / b) : 0; }

enum { FRACTION = 32 };
#define ONE (1ull << FRACTION)

static u64 log2_fixed(u64 x)
{
    unsigned whole = 63 - (unsigned)__builtin_clzll(x);
    u64 m = whole >= FRACTION ? x >> (whole - FRACTION) : x << (FRACTION - whole), r = (u64)whole << FRACTION;   // m: 1 to 2
    for (unsigned bit = 1; bit <= FRACTION; bit++) {
        m = (u64)((u128)m * m >> FRACTION);
        if (m < 2 * ONE) continue;
        m >>= 1;
        r |= ONE >> bit;
    }
    return r;
}

// The largest x with log2_fixed(x) <= l; results are small, so bit by bit is quick.
static u64 exp2_floor(u64 l)
{
    u64 x = 0;
    for (unsigned bit = 62; bit < 63; bit--)
        if (log2_fixed(x | BIT(bit)) <= l) x |= BIT(bit);
    return x;
}

u64 stats_geomean(const u64 *ratio, unsigned n)
{
    u64 sum = 0;
    for (unsigned i = 0; i < n; i++) sum += log2_fixed(max_u64(ratio[i], 1));
    return n ? exp2_floor(sum / n + (ONE >> 20)) : 0;   // (a hair more, so that an exact mean is not rounded down)
}
