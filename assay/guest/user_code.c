// Freshly written code: small functions made of bytes, called in the same thread. The processor sees to it that they run as written (SDM
// 3A 8.1.3: a store and a jump suffice on one processor and one linear address), and so must a translator.
#include "assay/guest/tests.h"

enum { SLOT = 32, PER_PAGE = 4096 / SLOT, CALLS = 16 };
typedef u64 code_fn(u64);

// rax = rol((imm + arg), turn) ^ imm2. Returns the function.
static code_fn *code_write(u8 *p, u32 imm, u32 imm2, u8 turn)
{
    p[0] = 0xb8;                                 // mov $imm, %eax
    *(u32_any *)(p + 1) = imm;
    *(u64_any *)(p + 5) = 0xc0c148f80148;        // add %rdi, %rax = 48 01 f8; rol $turn, %rax = 48 c1 c0 ib
    p[11] = turn;
    *(u16_any *)(p + 12) = 0x3548;               // xor $imm2, %rax = 48 35 id
    *(u32_any *)(p + 14) = imm2;
    p[18] = 0xc3;
    __asm__ volatile("" : : : "memory");
    return (code_fn *)(u64)p;
}

static code_fn *nth_write(u8 *p, u64 i) { return code_write(p, (u32)i * 0x9e3779b1, (u32)i ^ 0x5bd1e995, 1 + i % 63); }

// Written and called, one after the other: most writes go to a page whose code has just run.
TEST(test_fresh)
{
    u64 v = 1;
    for (u64 i = 0; i < n; i++) v = nth_write(ctx->code + i % (CODE_SIZE / SLOT) * SLOT, i)(v);
    return v;
}

// A page full of functions is written, then they are called: as a compiler at run time does.
TEST(test_fresh_page)
{
    u64 v = 1;
    for (u64 i = 0; i < n; i += PER_PAGE) {
        u8 *page = ctx->code + i / PER_PAGE % (CODE_SIZE / 4096) * 4096;
        for (u64 k = 0; k < PER_PAGE; k++) nth_write(page + k * SLOT, i + k);
        for (u64 k = 0; k < PER_PAGE; k++) v = ((code_fn *)(u64)(page + k * SLOT))(v);
    }
    return v;
}

// A constant in a function that is called again and again is changed.
TEST(test_rewritten)
{
    u64 v = 1;
    code_fn *f = nth_write(ctx->code, 1);
    for (u64 i = 0; i < n; i++) {
        *(volatile u32_any *)(ctx->code + 1) = (u32)i * 0x85ebca6b;
        __asm__ volatile("" : : : "memory");
        for (unsigned k = 0; k < CALLS; k++) v = f(v);
    }
    return v;
}
