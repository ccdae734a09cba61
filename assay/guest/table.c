// The table of tests, and the image's first bytes that lead to it.
#include "assay/guest/tests.h"

#define USER(name, group, unit, title, test, setup, check, n_unit) {name, group, unit, title, TEST_USER, 0, 0, 0, (u64)(setup), (u64)(test), (u64)(check), n_unit, 0}

const struct assay_test tests[] = {
    USER("clock", "integer", "iteration", "32 dependent multiplications", test_clock, 0, 0, 1),
    USER("alu", "integer", "iteration", "straight-line integer, 34 instructions", test_alu, 0, 0, 1),
    USER("branchy", "integer", "iteration", "branches on random data", test_branchy, 0, 0, 1),
    USER("calls", "integer", "call", "recursive calls", test_calls, 0, 0, 127),
    USER("icalls", "integer", "call", "indirect calls", test_icalls, 0, 0, 1),
    USER("interp", "integer", "operation", "an interpreter's loop", test_interp, 0, 0, 1),
    USER("hash", "integer", "operation", "hash table", test_hash, hash_setup, 0, 1),
    USER("sort", "integer", "element", "sort of 512 numbers", test_sort, 0, sort_check, 512),
    USER("bytes", "integer", "byte", "CRC-32 by table", test_bytes, bytes_setup, 0, 1),
    USER("div", "integer", "iteration", "64-bit division", test_div, 0, 0, 1),
    USER("stack", "integer", "iteration", "8 pushes, 8 pops", test_stack, 0, 0, 1),
    USER("atomic", "integer", "iteration", "3 locked instructions, own line", test_atomic, 0, 0, 1),
    USER("contended", "integer", "operation", "lock xadd on a line that all share", test_contended, contended_setup, contended_check, 1),
    USER("cpuid", "integer", "instruction", "CPUID", test_cpuid, 0, 0, 1),
    USER("rdtsc", "integer", "instruction", "RDTSC", test_rdtsc, 0, 0, 1),
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
