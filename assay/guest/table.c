// The table of tests, and the image's first bytes that lead to it.
#include "assay/guest/tests.h"

#define KERNEL(name, group, unit, title, needs, latency, test, setup, check, n_unit, n_max) \
    {name, group, unit, title, TEST_KERNEL, needs, latency, 0, (u64)(setup), (u64)(test), (u64)(check), n_unit, n_max}
#define USER(name, group, unit, title, test, setup, check, n_unit) \
    {name, group, unit, title, TEST_USER, 0, 0, 0, (u64)(setup), (u64)(test), (u64)(check), n_unit, 0}

const struct assay_test tests[] = {
    USER("clock", "integer", "iteration", "32 dependent multiplications", test_clock, 0, 0, 1),
    USER("alu", "integer", "iteration", "straight-line integer, 34 instructions", test_alu, 0, 0, 1),
    USER("branchy", "integer", "iteration", "branches on random data", test_branchy, 0, 0, 1),
    USER("calls", "integer", "call", "recursive calls", test_calls, 0, 0, 127),
    USER("icalls", "integer", "call", "indirect calls", test_icalls, 0, 0, 1),
    USER("interp", "integer", "turn", "an interpreter, 16 operations a turn", test_interp, 0, 0, 1),
    USER("hash", "integer", "operation", "hash table", test_hash, hash_setup, 0, 1),
    USER("sort", "integer", "element", "sort of 512 numbers", test_sort, 0, sort_check, 512),
    USER("bytes", "integer", "byte", "CRC-32 by table", test_bytes, bytes_setup, 0, 1),
    USER("div", "integer", "iteration", "64-bit division", test_div, 0, 0, 1),
    USER("stack", "integer", "iteration", "8 pushes, 8 pops", test_stack, 0, 0, 1),
    USER("atomic", "system", "iteration", "3 locked instructions, own line", test_atomic, 0, 0, 1),
    USER("contended", "system", "operation", "lock xadd on a line that all share", test_contended, contended_setup, contended_check, 1),
    USER("cpuid", "system", "instruction", "CPUID", test_cpuid, 0, 0, 1),
    USER("rdtsc", "system", "instruction", "RDTSC", test_rdtsc, 0, 0, 1),
    USER("chase-l1", "memory", "load", "pointer chasing, 16 KiB", test_chase_l1, chase_l1_setup, 0, 1),
    USER("chase-l2", "memory", "load", "pointer chasing, 256 KiB", test_chase_l2, chase_l2_setup, 0, 1),
    USER("chase-mem", "memory", "load", "pointer chasing, 64 MiB", test_chase_mem, chase_mem_setup, 0, 1),
    USER("read-l1", "memory", "byte", "streaming read, 16 KiB", test_read_l1, read_arena_setup, 0, 16 << 10),
    USER("read-l2", "memory", "byte", "streaming read, 256 KiB", test_read_l2, read_arena_setup, 0, 256 << 10),
    USER("read-mem", "memory", "byte", "streaming read, 64 MiB", test_read_mem, read_mem_setup, 0, 256 << 10),
    USER("write-l1", "memory", "byte", "streaming write, 16 KiB", test_write_l1, 0, write_l1_check, 16 << 10),
    USER("write-l2", "memory", "byte", "streaming write, 256 KiB", test_write_l2, 0, write_l2_check, 256 << 10),
    USER("write-mem", "memory", "byte", "streaming write, 64 MiB", test_write_mem, write_mem_setup, write_mem_check, 256 << 10),
    USER("movs-l1", "memory", "byte", "rep movsq, 8 KiB at a time", test_movs_l1, movs_setup, movs_l1_check, 8 << 10),
    USER("movs-l2", "memory", "byte", "rep movsq, 128 KiB at a time", test_movs_l2, movs_setup, movs_l2_check, 128 << 10),
    USER("movs-small", "memory", "copy", "rep movsb, 1 to 32 bytes", test_movs_small, movs_setup, movs_small_check, 1),
    USER("stos", "memory", "byte", "rep stosq, 16 KiB at a time", test_stos, 0, stos_check, 16 << 10),
    USER("double-lat", "floating point", "iteration", "scalar double, one chain of 3", test_double_lat, 0, 0, 1),
    USER("double-thr", "floating point", "iteration", "scalar double, 8 chains of 3", test_double_thr, 0, 0, 1),
    USER("double-div", "floating point", "iteration", "scalar double, division and square root", test_double_div, 0, 0, 1),
    USER("nbody", "floating point", "step", "scalar double, compiled: 5 bodies", test_nbody, nbody_setup, 0, 1),
    USER("sse-float", "floating point", "iteration", "SSE, packed single", test_sse_float, 0, 0, 1),
    USER("sse-int", "floating point", "iteration", "SSE2, packed integers", test_sse_int, 0, 0, 1),
    {"avx2", "floating point", "iteration", "AVX2, single and integers", TEST_USER, NEED_AVX2, 0, 0, 0, (u64)test_avx2, 0, 1, 0},
    USER("x87", "floating point", "iteration", "x87, a mix", test_x87, 0, 0, 1),
    USER("fresh", "code", "function", "fresh code, written and called once", test_fresh, 0, 0, 1),
    USER("fresh-page", "code", "function", "fresh code, a page at a time", test_fresh_page, 0, 0, 128),
    USER("rewritten", "code", "change", "hot code changed, 16 calls in between", test_rewritten, 0, 0, 1),
    KERNEL("syscall", "kernel", "round trip", "SYSCALL and SYSRET", 0, 0, test_syscall, 0, 0, 1, 0),
    KERNEL("int80", "kernel", "round trip", "INT n from ring 3 and IRET", 0, 0, test_int80, 0, 0, 1, 0),
    KERNEL("iret", "kernel", "instruction", "IRET within ring 0", 0, 0, test_iret, 0, 0, 1, 0),
    KERNEL("pagefault", "kernel", "fault", "page fault, mapped and unmapped", 0, 0, test_pagefault, pagefault_setup, pagefault_check,
           FAULT_PAGES, 0),
    KERNEL("invlpg", "kernel", "page", "INVLPG, then the page touched", 0, 0, test_invlpg, invlpg_setup, 0, 1, 0),
    KERNEL("cr3", "kernel", "switch", "CR3 switch, 8 pages touched", 0, 0, test_cr3, cr3_setup, cr3_check, 2, 0),
    KERNEL("cr3-pcid", "kernel", "switch", "CR3 switch with PCIDs, 8 pages touched", NEED_PCID, 0, test_pcid, cr3_setup, cr3_check, 2, 0),
    KERNEL("timer", "kernel", "interrupt", "timer interrupt's latency, ring 3 busy", NEED_APIC, 1, test_timer, timer_setup, 0, 1, 1 << 20),
    KERNEL("timer-hlt", "kernel", "interrupt", "timer interrupt's latency, in HLT", NEED_APIC, 1, test_timer_hlt, timer_setup, 0, 1,
           1 << 20),
    KERNEL("ipi-self", "kernel", "interrupt", "IPI to itself", NEED_APIC, 1, test_ipi_self, 0, 0, 1, 0),
    KERNEL("ipi", "kernel", "round trip", "IPI to a busy processor, seen by it", NEED_APIC | NEED_TWO_CPUS, 1, test_ipi, ipi_setup, 0, 1,
           0),
    KERNEL("ipi-hlt", "kernel", "round trip", "IPI to a halted processor, seen by it", NEED_APIC | NEED_TWO_CPUS, 1, test_ipi_hlt,
           ipi_setup, 0, 1, 0),
    KERNEL("port", "device", "read", "port 0x61", 0, 0, test_port, 0, 0, 1, 0),
    KERNEL("mmio", "device", "read", "I/O APIC's index register, read", NEED_IOAPIC, 0, test_mmio, mmio_setup, 0, 1, 0),
    KERNEL("mmio-write", "device", "write", "I/O APIC's index register, written", NEED_IOAPIC, 0, test_mmio_write, mmio_setup, 0, 1, 0),
    KERNEL("lapic", "device", "read", "local APIC's task priority, read", NEED_APIC, 0, test_lapic, 0, 0, 1, 0),
};
_Static_assert(ARRAY_SIZE(tests) <= ASSAY_TESTS, "the controller's tables are that large");

static struct assay_result results[ASSAY_JOBS][ASSAY_CPUS];

__attribute__((used, section(".header"))) static struct assay_header the_header = {
    .magic = ASSAY_MAGIC, .version = ASSAY_VERSION, .size = sizeof(struct assay_header),
    .image_size = (u64)_image_end - ASSAY_VIRT, .table = (u64)tests, .n_tests = ARRAY_SIZE(tests),
    .native = (u64)native_enter, .native_ap = (u64)native_enter_ap, .user_job = (u64)user_job,
    .arena = ARENA_AT, .arena_size = ARENA_SIZE, .shared = SHARED_AT, .shared_size = SHARED_SIZE, .code = CODE_AT, .code_size = CODE_SIZE,
    .results = (u64)results,
};
