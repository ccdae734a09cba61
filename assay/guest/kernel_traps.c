// Rings and faults: the system call, INT n, IRET, page faults that are resolved.
#include "assay/guest/tests.h"

enum { DATA = 64 << 10 };                        // the arena: page tables, then what the tests' pages map
_Static_assert(DATA + FAULT_PAGES * PAGE_SIZE <= ARENA_SIZE, "the arena holds the pages");

// Runs fn(0, n) in ring 3, interrupts off.
static u64 in_ring3(u64 (*fn)(u64, u64), u64 n)
{
    struct timed t = {(u64)fn, 0, n, 0, 0, 0};
    ring3_run(&t, 2);
    return t.value;
}

static u64 loop_syscall(u64 arg, u64 n)
{
    u64 sum = 1;
    while (n--) {
        u64 v;
        __asm__ volatile("syscall" : "=a"(v) : "a"(0), "D"(sum) : "rcx", "r11", "memory");
        sum = rotl(v, 7) + n;
    }
    return sum;
}
TEST(test_syscall) { return in_ring3(loop_syscall, n); }

static u64 loop_int80(u64 arg, u64 n)
{
    u64 sum = 1;
    while (n--) {
        u64 v;
        __asm__ volatile("int %1" : "=a"(v) : "i"(VEC_INT80), "D"(sum) : "memory");
        sum = rotl(v, 9) + n;
    }
    return sum;
}
TEST(test_int80) { return in_ring3(loop_int80, n); }

TEST(test_iret)
{
    u64 sum = 1;
    while (n--) {
        u64 rsp;
        __asm__ volatile("mov %%rsp, %1; pushq %2; push %1; pushfq; pushq %3; pushq $1f; iretq; 1: inc %0"
                         : "+r"(sum), "=&r"(rsp) : "i"(SEL_KDATA), "i"(SEL_KCODE) : "memory", "cc");
        sum = rotl(sum, 11) + n;
    }
    return sum;
}

// ---- page faults: ring 3 touches pages that are not present, #PF maps each, a system call takes all away again (INVLPG each) ------
SETUP(pagefault_setup)
{
    space_build(ctx->arena, ctx->arena + DATA, FAULT_PAGES, false);
    for (u64 i = 0; i < FAULT_PAGES * PAGE_SIZE; i += 8) *(u64 *)(void *)(ctx->arena + DATA + i) = 0;
}

static u64 loop_fault(u64 arg, u64 n)
{
    for (; n; n -= FAULT_PAGES) {
        u64 ret;
        for (u64 i = 0; i < FAULT_PAGES; i++) *(volatile u64 *)(FAULT_REGION + i * PAGE_SIZE + i * 8) += n + i;
        __asm__ volatile("syscall" : "=a"(ret) : "a"(1) : "rcx", "rdx", "r11", "memory");
    }
    return 0;
}

TEST(test_pagefault)
{
    struct cpu *c = this_cpu();
    c->faults = 0;
    c->fault_phys = phys_of(ctx->arena + DATA);
    c->fault_pt = (u64)space_pt(ctx->arena);
    write_cr3(phys_of(ctx->arena));
    in_ring3(loop_fault, n);
    write_cr3(paging_cr3());
    c->fault_pt = 0;
    return mix(n, c->faults);
}

// Every page has got what each round added to it.
CHECK(pagefault_check)
{
    for (u64 i = 0; i < FAULT_PAGES; i++) value = mix(value, *(u64 *)(void *)(ctx->arena + DATA + i * PAGE_SIZE + i * 8));
    return value;
}
