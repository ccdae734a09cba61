// Address spaces: switches with CR3, with and without PCIDs, a few pages touched after each; INVLPG and the walk that it makes necessary.
#include "assay/guest/tests.h"

enum { TOUCHED = 8, TABLES_B = SPACE_TABLES, DATA_A = 64 << 10, DATA_B = DATA_A + TOUCHED * 4096, WALKED = 64 };
#define CR4_PCIDE (1ull << 17)
#define CR3_KEEP  (1ull << 63)                   // no flush of the PCID (SDM 3A 4.10.4.1)

SETUP(cr3_setup)
{
    space_build(ctx->arena, ctx->arena + DATA_A, TOUCHED, true);
    space_build(ctx->arena + TABLES_B, ctx->arena + DATA_B, TOUCHED, true);
    for (u64 i = 0; i < 2 * TOUCHED * PAGE_SIZE; i += 8) *(u64 *)(void *)(ctx->arena + DATA_A + i) = 0;
}

static u64 switches(const u64 cr3[2], u64 n)
{
    u64 sum = 0;
    for (u64 i = 0; i < n; i++) {
        write_cr3(cr3[i & 1]);
        for (u64 k = 0; k < TOUCHED; k++) sum += *(volatile u64 *)(FAULT_REGION + k * (PAGE_SIZE + 64)) += i + k;
    }
    write_cr3(paging_cr3());
    return sum;
}

TEST(test_cr3)
{
    u64 cr3[2] = {phys_of(ctx->arena), phys_of(ctx->arena + TABLES_B)};
    return switches(cr3, n);
}

TEST(test_pcid)
{
    u64 cr3[2] = {phys_of(ctx->arena) | 1, phys_of(ctx->arena + TABLES_B) | 2};
    write_cr4(read_cr4() | CR4_PCIDE);
    for (unsigned i = 0; i < 2; i++) {           // what these PCIDs were used for before is forgotten
        write_cr3(cr3[i]);
        cr3[i] |= CR3_KEEP;
    }
    u64 sum = switches(cr3, n);
    write_cr4(read_cr4() & ~CR4_PCIDE);
    return sum;
}

CHECK(cr3_check)
{
    for (u64 i = 0; i < 2 * TOUCHED * PAGE_SIZE; i += 8) value = mix(value, *(u64 *)(void *)(ctx->arena + DATA_A + i));
    return value;
}

// ---- one page's translation dropped and needed again ------------------------------------------------------------------------------
SETUP(invlpg_setup)
{
    space_build(ctx->arena, ctx->arena + DATA_A, WALKED, true);
    for (u64 i = 0; i < WALKED * PAGE_SIZE; i += 8) *(u64 *)(void *)(ctx->arena + DATA_A + i) = i;
}

TEST(test_invlpg)
{
    u64 sum = 0;
    write_cr3(phys_of(ctx->arena));
    while (n--) {
        volatile u64 *p = (volatile u64 *)(FAULT_REGION + n % WALKED * (PAGE_SIZE + 8));
        __asm__ volatile("invlpg %0" : : "m"(*p) : "memory");
        sum = rotl(sum, 3) + ++*p;
    }
    write_cr3(paging_cr3());
    return sum;
}
