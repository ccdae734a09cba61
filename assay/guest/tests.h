// The workloads. Each is u64 fn(struct assay_ctx *, u64 n), as struct assay_test tells; NAME_setup and NAME_check belong to it.
//
// Every one is deterministic, does work in proportion to n and only that work between its first and last instruction, and returns a value
// that every step of it went into. Those in assembly are so where a compiler would choose other instructions than the ones that the test
// is named for.
#pragma once

#include "assay/guest/guest.h"

#define TEST(name) u64 name(struct assay_ctx *ctx, u64 n)
#define SETUP(name) void name(struct assay_ctx *ctx, u64 n)
#define CHECK(name) u64 name(struct assay_ctx *ctx, u64 n, u64 value)

// user_clock.S
TEST(test_clock);
// user_int.S, user_int.c: ring 3, integer registers.
TEST(test_alu);
TEST(test_branchy);
TEST(test_calls);
TEST(test_icalls);
TEST(test_div);
TEST(test_stack);
TEST(test_atomic);
TEST(test_contended);
SETUP(contended_setup);
CHECK(contended_check);
TEST(test_interp);
TEST(test_hash);
SETUP(hash_setup);
TEST(test_sort);
CHECK(sort_check);
TEST(test_bytes);
SETUP(bytes_setup);
TEST(test_cpuid);
TEST(test_rdtsc);
// user_mem.c, user_mem.S: ring 3, memory.
TEST(test_chase_l1);
SETUP(chase_l1_setup);
TEST(test_chase_l2);
SETUP(chase_l2_setup);
TEST(test_chase_mem);
SETUP(chase_mem_setup);
TEST(test_read_l1);
TEST(test_read_l2);
SETUP(read_arena_setup);
TEST(test_read_mem);
SETUP(read_mem_setup);
TEST(test_write_l1);
CHECK(write_l1_check);
TEST(test_write_l2);
CHECK(write_l2_check);
TEST(test_write_mem);
SETUP(write_mem_setup);
CHECK(write_mem_check);
TEST(test_movs_l1);
SETUP(movs_setup);
CHECK(movs_l1_check);
TEST(test_movs_l2);
CHECK(movs_l2_check);
TEST(test_movs_small);
CHECK(movs_small_check);
TEST(test_stos);
CHECK(stos_check);
// user_fp.S, fp_nbody.c: ring 3, floating point and vectors.
TEST(test_double_lat);
TEST(test_double_thr);
TEST(test_double_div);
TEST(test_nbody);
SETUP(nbody_setup);
TEST(test_sse_float);
TEST(test_sse_int);
TEST(test_avx2);
TEST(test_x87);
// user_code.c: ring 3, code that has just been written.
TEST(test_fresh);
TEST(test_fresh_page);
TEST(test_rewritten);
// kernel_traps.c
TEST(test_syscall);
TEST(test_int80);
TEST(test_iret);
TEST(test_pagefault);
SETUP(pagefault_setup);
CHECK(pagefault_check);
// kernel_space.c
TEST(test_cr3);
TEST(test_pcid);
SETUP(cr3_setup);
CHECK(cr3_check);
TEST(test_invlpg);
SETUP(invlpg_setup);
// kernel_irq.c
TEST(test_timer);
TEST(test_timer_hlt);
SETUP(timer_setup);
TEST(test_ipi_self);
TEST(test_ipi);
TEST(test_ipi_hlt);
SETUP(ipi_setup);
// kernel_io.c
TEST(test_port);
TEST(test_mmio);
SETUP(mmio_setup);
TEST(test_mmio_write);
TEST(test_lapic);
