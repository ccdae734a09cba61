// Statistics of a few samples, in integers.
#pragma once

#include "kernel/base/types.h"

struct stats { u64 median, min, max, q1, q3; };

// Of n values (1..64), which are left as they are. Quartiles by linear interpolation between neighbours.
struct stats stats_of(const u64 *v, unsigned n);
// Ratio a / b in thousandths, rounded; b 0 gives 0.
u64 stats_ratio(u64 a, u64 b);
// Geometric mean of n ratios in thousandths, each at least 1; exact to about one part in a thousand. n 0 gives 0.
u64 stats_geomean(const u64 *ratio, unsigned n);
