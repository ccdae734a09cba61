// Memory workloads, in three sizes: 16 KiB (any first-level cache), 256 KiB (any second-level cache), 64 MiB (beyond most last-level ones).
//
// A chase goes once through all lines in an order that no prefetcher guesses. Lines are numbered by the states of a congruential
// generator of full period, each line holding the address of the next; so it is filled from front to back, quickly, whatever is below us.
// A generator's low bits are its poor ones: they are turned into the line number's high ones.
#include "assay/guest/tests.h"

enum { LINE = 64, L1 = 16 << 10, L2 = 256 << 10, SOURCE = 0, DEST = 384 << 10 };
_Static_assert(DEST + L2 <= ARENA_SIZE, "the arena holds two of the larger");

u64 chase(u64 from, u64 steps);
u64 read_block(const u8 *p, u64 bytes, u64 value);
void write_block(u8 *p, u64 bytes, u64 value);
void movs_block(u8 *to, u8 *from, u64 bytes, u64 times);
void stos_block(u8 *p, u64 bytes, u64 value, u64 times);

// ---- pointer chasing --------------------------------------------------------------------------------------------------------------
// bits: log2 of the number of lines.
static u32 turn(u32 v, unsigned bits)
{
    unsigned half = bits / 2;
    return (v >> half | v << (bits - half)) & ((1u << bits) - 1);
}

static void chase_fill(u8 *p, unsigned bits)
{
    u32 mask = (1u << bits) - 1;
    for (u32 line = 0; line <= mask; line++) {
        u32 next = turn((turn(line, bits) * 0x2c9277b5 + 0x3c6ef35f) & mask, bits);   // both turns are by half: `bits` is even
        *(u64 *)(void *)(p + (u64)line * LINE) = (u64)(p + (u64)next * LINE);
    }
}

SETUP(chase_l1_setup) { chase_fill(ctx->arena, 8); }
SETUP(chase_l2_setup) { chase_fill(ctx->arena, 12); }
// The value is where n steps led; the number of rounds is not in that, so n is added.
TEST(test_chase_l1) { return mix(n, chase((u64)ctx->arena, n) - (u64)ctx->arena); }
TEST(test_chase_l2) { return mix(n, chase((u64)ctx->arena, n) - (u64)ctx->arena); }
SETUP(chase_mem_setup)
{
    if (ctx->cpu == 0) chase_fill(ctx->shared, 20);
}
// Each processor from a place of its own, so that none finds in a shared cache what another has just been at.
TEST(test_chase_mem)
{
    u64 base = (u64)ctx->shared;
    return mix(n, chase(base + (u64)ctx->cpu * 0xfedcb * LINE % ctx->shared_size, n) - base);
}

// ---- streaming ------------------------------------------------------------------------------------------------------------------------
static void number(u8 *p, u64 bytes)
{
    for (u64 i = 0; i < bytes; i += 8) *(u64 *)(void *)(p + i) = i * 0x9e3779b97f4a7c15ull;
}

static u64 read_again(const u8 *p, u64 size, u64 n)
{
    u64 value = 0;
    for (; n; n -= size) value = read_block(p, size, value);
    return value;
}

SETUP(read_arena_setup) { number(ctx->arena, L2); }
TEST(test_read_l1) { return read_again(ctx->arena, L1, n); }
TEST(test_read_l2) { return read_again(ctx->arena, L2, n); }

SETUP(read_mem_setup)
{
    if (ctx->cpu == 0) number(ctx->shared, ctx->shared_size);
}

// From a place of its own, as above, and round the end; L2 is the unit.
TEST(test_read_mem)
{
    u64 at = (u64)ctx->cpu * 37 * L2 % ctx->shared_size, value = 0;
    for (; n; n -= L2) {
        value = read_block(ctx->shared + at, L2, value);
        at = (at + L2) % ctx->shared_size;
    }
    return value;
}

static u64 write_again(u8 *p, u64 size, u64 n)
{
    u64 value = 1;
    for (; n; n -= size) write_block(p, size, value = mix(value, n));
    return value;
}

static u64 sum_of(const u8 *p, u64 bytes, u64 sum)
{
    for (u64 i = 0; i < bytes; i += 8) sum = mix(sum, *(const u64 *)(const void *)(p + i));
    return sum;
}

TEST(test_write_l1) { return write_again(ctx->arena, L1, n); }
TEST(test_write_l2) { return write_again(ctx->arena, L2, n); }
CHECK(write_l1_check) { return sum_of(ctx->arena, L1, value); }
CHECK(write_l2_check) { return sum_of(ctx->arena, L2, value); }

// A processor's slice of the shared memory: whole units.
static u64 slice_size(const struct assay_ctx *ctx) { return ctx->shared_size / ctx->cpus / L2 * L2; }
static u8 *slice(const struct assay_ctx *ctx) { return ctx->shared + ctx->cpu * slice_size(ctx); }

// All pages have been touched once; the last unit of the slice is the one that is zeroed for the check below.
SETUP(write_mem_setup)
{
    u64 size = slice_size(ctx);
    for (u64 i = 0; i < size; i += PAGE_SIZE) *(volatile u64 *)(void *)(slice(ctx) + i) = 0;
}

TEST(test_write_mem)
{
    u64 at = 0, value = 1;
    for (; n; n -= L2) {
        write_block(slice(ctx) + at, L2, value = mix(value, n));
        at = (at + L2) % slice_size(ctx);
    }
    return value;
}

// A word of each page that was written, and all of the first unit.
CHECK(write_mem_check)
{
    u64 size = slice_size(ctx), end = n < size ? n : size;
    for (u64 i = 0; i < end; i += PAGE_SIZE) value = mix(value, *(const u64 *)(const void *)(slice(ctx) + i + i / PAGE_SIZE % 512 * 8));
    return sum_of(slice(ctx), L2, value);
}

// ---- REP MOVS, REP STOS ----------------------------------------------------------------------------------------------------
// Half of the size is read and half is written, so that both together fit.
SETUP(movs_setup)
{
    number(ctx->arena + SOURCE, L2);
    for (u64 i = 0; i < L2; i += 8) *(u64 *)(void *)(ctx->arena + DEST + i) = 0;
}

static u64 movs(struct assay_ctx *ctx, u64 bytes, u64 n)
{
    movs_block(ctx->arena + DEST, ctx->arena + SOURCE, bytes, n / bytes);
    return n;
}

static u64 movs_sum(const struct assay_ctx *ctx, u64 bytes, u64 value)
{
    return sum_of(ctx->arena + SOURCE, bytes, sum_of(ctx->arena + DEST, bytes, value));
}

TEST(test_movs_l1) { return movs(ctx, L1 / 2, n); }
TEST(test_movs_l2) { return movs(ctx, L2 / 2, n); }
CHECK(movs_l1_check) { return movs_sum(ctx, L1 / 2, value); }
CHECK(movs_l2_check) { return movs_sum(ctx, L2 / 2, value); }
CHECK(movs_small_check) { return sum_of(ctx->arena + 0x2000, 0x1020, value); }

TEST(test_stos)
{
    stos_block(ctx->arena, L1, n, n / L1);
    return n;
}
CHECK(stos_check) { return sum_of(ctx->arena, L1, value); }
