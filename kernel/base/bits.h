// Bit arithmetic that C leaves to idiom. Pure functions, any context.
#pragma once

#include "kernel/base/types.h"

#define BIT(n) (1ull << (n))
#define BITMAP_WORDS(n) (((n) + 63) / 64)   // 64-bit words that hold n bits

// Bits lo..lo+len-1 of x, moved down to bit 0. len 1..63.
static inline u64 bits_get(u64 x, unsigned lo, unsigned len) { return (x >> lo) & (BIT(len) - 1); }

// The low `bytes` (1, 2, 4, 8) of x, zero-extended.
static inline u64 bits_zext(u64 x, unsigned bytes) { return bytes >= 8 ? x : x & (BIT(bytes * 8) - 1); }

// The low `bytes` (1, 2, 4, 8) of x, sign-extended.
static inline s64 bits_sext(u64 x, unsigned bytes)
{
    unsigned sh = 64 - bytes * 8;
    return (s64)(x << sh) >> sh;
}

// Rounding to a power of two `a`.
static inline u64 align_up(u64 x, u64 a) { return (x + a - 1) & ~(a - 1); }
static inline u64 align_down(u64 x, u64 a) { return x & ~(a - 1); }

static inline bool fits_s8(s64 x) { return x == (s8)x; }
static inline bool fits_s32(s64 x) { return x == (s32)x; }
static inline bool fits_u32(s64 x) { return x == (s64)(u32)x; }

static inline u64 min_u64(u64 a, u64 b) { return a < b ? a : b; }
static inline u64 max_u64(u64 a, u64 b) { return a > b ? a : b; }

// a * b / c with a 128-bit intermediate: exact for any clock ratio.
static inline u64 muldiv64(u64 a, u64 b, u64 c) { return (u64)((u128)a * b / c); }
