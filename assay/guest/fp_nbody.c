// Scalar double as a compiler makes it: five bodies under gravity, in steps of a fixed time. Nothing is contracted or reordered, and
// square root and quotient are exact by IEEE 754, so that the planets are at the same places everywhere.
#include "assay/guest/tests.h"

enum { BODIES = 5 };
struct body { double x[3], v[3], m; };

static inline double root(double v)
{
    __asm__("sqrtsd %0, %0" : "+x"(v));
    return v;
}

SETUP(nbody_setup)
{
    struct body *b = (struct body *)(void *)ctx->arena;
    u64 seed = 5;
    for (unsigned i = 0; i < BODIES; i++) {
        for (unsigned k = 0; k < 3; k++) {
            b[i].x[k] = (double)(s64)(random_next(&seed) >> 40) * 1e-6 - 8;
            b[i].v[k] = (double)(s64)(random_next(&seed) >> 40) * 1e-7 - 0.8;
        }
        b[i].m = i ? 0.01 : 30;
    }
}

static void attract(struct body *a, struct body *b)
{
    double d[3], square = 1e-2;                  // never at the same place
    for (unsigned k = 0; k < 3; k++) {
        d[k] = a->x[k] - b->x[k];
        square += d[k] * d[k];
    }
    double f = 1e-3 / (square * root(square));
    for (unsigned k = 0; k < 3; k++) {
        a->v[k] -= d[k] * b->m * f;
        b->v[k] += d[k] * a->m * f;
    }
}

TEST(test_nbody)
{
    struct body *b = (struct body *)(void *)ctx->arena;
    while (n--) {
        for (unsigned i = 0; i < BODIES; i++)
            for (unsigned k = i + 1; k < BODIES; k++) attract(&b[i], &b[k]);
        for (unsigned i = 0; i < BODIES; i++)
            for (unsigned k = 0; k < 3; k++) b[i].x[k] += 1e-3 * b[i].v[k];
    }
    u64 sum = 0;
    const u64 __attribute__((may_alias)) *bits = (const u64 *)(const void *)b;
    for (unsigned i = 0; i < sizeof(struct body) / 8 * BODIES; i++) sum = mix(sum, bits[i]);
    return sum;
}
