// Integer workloads as a compiler makes them: an interpreter, a hash table, a sort, a checksum byte by byte.
#include "assay/guest/tests.h"

// ---- an interpreter loop --------------------------------------------------------------------------------------------------------------
// A register machine of ten operations, each ending in a jump of its own through a table of labels. The program is a loop of sixteen, two
// of which skip the next one or not, as the data will; n counts its turns.
enum op { OP_ADD, OP_XOR, OP_MUL, OP_SHR, OP_ROL, OP_LOAD, OP_STORE, OP_ADDI, OP_SKIPZ, OP_JUMP, OPS };
struct insn { u8 op, a, b, c; };

static const struct insn program[16] = {
    {OP_ADDI, 0, 0, 17}, {OP_MUL, 1, 1, 5}, {OP_ADD, 1, 1, 0}, {OP_SHR, 2, 1, 29}, {OP_XOR, 3, 3, 2}, {OP_LOAD, 4, 2, 0},
    {OP_SKIPZ, 2, 3, 0}, {OP_ADD, 4, 4, 1}, {OP_ROL, 4, 4, 13}, {OP_STORE, 4, 2, 0}, {OP_SKIPZ, 4, 1, 0}, {OP_XOR, 1, 1, 4},
    {OP_ADDI, 5, 5, 3}, {OP_MUL, 3, 3, 5}, {OP_ROL, 0, 0, 7}, {OP_JUMP, 0, 0, 0},
};

TEST(test_interp)
{
    static const void *const labels[OPS] = {&&add, &&xor, &&mul, &&shr, &&rol, &&load, &&store, &&addi, &&skipz, &&jump};
    u64 r[8] = {1, 2, 3, 4, 5, 6, 7, 8};
    u64 *memory = (u64 *)(void *)ctx->arena;
    for (unsigned i = 0; i < 64; i++) memory[i] = i;
    const struct insn *pc = program;
#define NEXT() do { pc++; goto *labels[pc[-1].op]; } while (0)
#define A r[pc[-1].a & 7]
#define B r[pc[-1].b & 7]
#define C pc[-1].c
    NEXT();
add: A = B + r[C & 7]; NEXT();
xor: A = B ^ r[C & 7]; NEXT();
mul: A = B * (r[C & 7] | 1); NEXT();
shr: A = B >> C; NEXT();
rol: A = rotl(B, C); NEXT();
load: A = memory[B & 63]; NEXT();
store: memory[B & 63] = A; NEXT();
addi: A = B + C; NEXT();
skipz: if (A & 1 << pc[-1].b) pc++; NEXT();
jump:
    if (!--n) goto end;
    pc = program + C;
    NEXT();
#undef NEXT
#undef A
#undef B
#undef C
end:
    for (unsigned i = 0; i < 8; i++) r[0] = mix(r[0], r[i]);
    for (unsigned i = 0; i < 64; i++) r[0] = mix(r[0], memory[i]);
    return r[0];
}

// ---- a hash table: open addressing, linear probing, 8192 slots, half of them taken; counts words ----------------------------------
enum { HASH_SLOTS = 8192, HASH_KEYS = 4096 };
struct slot { u64 key, count; };

SETUP(hash_setup)
{
    struct slot *t = (struct slot *)(void *)ctx->arena;
    for (unsigned i = 0; i < HASH_SLOTS; i++) t[i] = (struct slot){0, 0};
}

TEST(test_hash)
{
    struct slot *t = (struct slot *)(void *)ctx->arena;
    u64 seed = 0x2545f4914f6cdd1d, sum = 0;
    while (n--) {
        u64 key = (random_next(&seed) >> 20) % HASH_KEYS + 1;
        u64 at = key * 0x9e3779b97f4a7c15ull >> 51;
        while (t[at].key && t[at].key != key) at = (at + 1) % HASH_SLOTS;
        t[at].key = key;
        sum = mix(sum, at + ++t[at].count);
    }
    return sum;
}

// ---- a sort: heap sort of 512 numbers at a time, new ones each time, in place -----------------------------------------------------
enum { SORT_N = 512 };

static void sift(u64 *a, u64 root, u64 end)
{
    u64 v = a[root], child;
    while ((child = 2 * root + 1) < end) {
        if (child + 1 < end && a[child + 1] > a[child]) child++;
        if (a[child] <= v) break;
        a[root] = a[child];
        root = child;
    }
    a[root] = v;
}

TEST(test_sort)
{
    u64 *a = (u64 *)(void *)ctx->arena, seed = 0x1234567890abcdef, sum = 0;
    for (; n; n -= SORT_N) {
        for (unsigned i = 0; i < SORT_N; i++) a[i] = random_next(&seed);
        for (u64 i = SORT_N / 2; i--;) sift(a, i, SORT_N);
        for (u64 end = SORT_N - 1; end; end--) {
            u64 max = a[0];
            a[0] = a[end];
            a[end] = max;
            sift(a, 0, end);
        }
        sum = mix(sum, a[SORT_N / 3] ^ a[SORT_N / 2]);
    }
    return sum;
}

// The last round's numbers in their order: 0 for what is not sorted, which no right run gives.
CHECK(sort_check)
{
    const u64 *a = (const u64 *)(const void *)ctx->arena;
    for (unsigned i = 1; i < SORT_N; i++) {
        if (a[i - 1] > a[i]) return 0;
        value = mix(value, a[i]);
    }
    return value;
}

// ---- byte by byte: CRC-32 (reflected, 0xedb88320) by a table, over 4 KiB again and again ------------------------------------------
enum { BYTES_N = 4096 };
struct bytes { u32 table[256]; u8 data[BYTES_N]; };

SETUP(bytes_setup)
{
    struct bytes *b = (struct bytes *)(void *)ctx->arena;
    u64 seed = 99;
    for (u32 i = 0; i < 256; i++) {
        u32 v = i;
        for (unsigned k = 0; k < 8; k++) v = v >> 1 ^ (v & 1 ? 0xedb88320 : 0);
        b->table[i] = v;
    }
    for (unsigned i = 0; i < BYTES_N; i++) b->data[i] = (u8)random_next(&seed);
}

TEST(test_bytes)
{
    const struct bytes *b = (const struct bytes *)(const void *)ctx->arena;
    u32 crc = ~0u;
    for (u64 i = 0; i < n; i++) crc = crc >> 8 ^ b->table[(u8)crc ^ b->data[i % BYTES_N]];
    return ~crc;
}

// ---- all processors on one line: their additions, counted when all have ended -----------------------------------------------------
SETUP(contended_setup)
{
    if (ctx->cpu == 0) *(volatile u64 *)(void *)ctx->shared = 0;
}

CHECK(contended_check) { return mix(*(volatile u64 *)(void *)ctx->shared, ctx->cpus); }
