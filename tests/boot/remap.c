// A guest program that changes code under the translator's feet, by page tables and by writing, in the ways that caches of code can get
// wrong. It runs on any x86-64 Linux; no libc. Prints "remap: ok" or what went wrong.
//
// Code lies in a memory file: page A, then page B in one of two versions, and the file mapped once more for writing. Each round maps one
// version of B behind A and calls functions that must return that version's numbers:
//   crossing   an instruction that begins in A and ends in B, reached by falling into it, by a direct jump and by an indirect one
//   direct     a jump from A to B
//   indirect   a call to B through a register
//   written    a function in A that is changed through the other mapping before every round
#include <stdint.h>

enum { SYS_write = 1, SYS_mmap = 9, SYS_exit = 60, SYS_ftruncate = 77, SYS_memfd_create = 319 };
enum { PAGE = 4096, ROUNDS = 3000 };
#define AT ((uint8_t *)0x700000000000)

static long sys(long n, long a, long b, long c, long d, long e, long f)
{
    register long r10 __asm__("r10") = d, r8 __asm__("r8") = e, r9 __asm__("r9") = f;
    __asm__ volatile("syscall" : "+a"(n) : "D"(a), "S"(b), "d"(c), "r"(r10), "r"(r8), "r"(r9) : "rcx", "r11", "memory");
    return n;
}

static __attribute__((noreturn)) void end(const char *text, int code)
{
    long len = 0;
    while (text[len]) len++;
    sys(SYS_write, 1, (long)text, len, 0, 0, 0);
    for (;;) sys(SYS_exit, code, 0, 0, 0, 0, 0);
}

static void *map(void *at, long len, int prot, int fd, long off)
{
    enum { SHARED = 1, FIXED = 16 };
    long p = sys(SYS_mmap, (long)at, len, prot, SHARED | (at ? FIXED : 0), fd, off);
    if (p < 0 && p > -4096) end("remap: mmap failed\n", 2);
    return (void *)p;
}

static void put(uint8_t *at, const uint8_t *code, unsigned n)
{
    for (unsigned i = 0; i < n; i++) *(volatile uint8_t *)(at + i) = code[i];
}

static unsigned call(unsigned off)
{
    unsigned r;
    __asm__ volatile("call *%1" : "=a"(r) : "r"(AT + off) : "rcx", "memory", "cc");
    return r;
}

// mov eax, imm32 at PAGE - 3: two bytes of the immediate in A, the rest and the return in B.
enum { CROSS = PAGE - 3, FALL = PAGE - 8, JUMP = 0x100, INDIRECT = 0x140, DIRECT = 0x180, WRITTEN = 0x200, B_FUNC = PAGE + 0x40 };

static void put_rel(uint8_t *file, unsigned at, unsigned to)
{
    uint32_t d = to - (at + 5);
    const uint8_t jmp[] = {0xe9, (uint8_t)d, (uint8_t)(d >> 8), (uint8_t)(d >> 16), (uint8_t)(d >> 24)};
    put(file + at, jmp, sizeof jmp);
}

static void make_code(uint8_t *file)
{
    static const uint8_t cross[] = {0xb8, 0x34, 0x12}, fall[] = {0x31, 0xc0, 0x90, 0x90, 0x90};
    put(file + CROSS, cross, sizeof cross);
    put(file + FALL, fall, sizeof fall);                     // xor eax, eax; nops; falls into CROSS
    put_rel(file, JUMP, CROSS);
    static const uint8_t indirect[] = {0x48, 0x8d, 0x0d};    // lea rcx, [rip + CROSS]; jmp rcx
    uint32_t d = CROSS - (INDIRECT + 7);
    put(file + INDIRECT, indirect, 3);
    for (unsigned i = 0; i < 4; i++) file[INDIRECT + 3 + i] = (uint8_t)(d >> 8 * i);
    static const uint8_t jmp_rcx[] = {0xff, 0xe1};
    put(file + INDIRECT + 7, jmp_rcx, 2);
    put_rel(file, DIRECT, B_FUNC);
    for (unsigned v = 0; v < 2; v++) {
        uint8_t *b = file + PAGE * (1 + v);
        const uint8_t rest[] = {(uint8_t)(0x50 + v), 0x00, 0xc3}, func[] = {0xb8, (uint8_t)(7 + v), 0, 0, 0, 0xc3};
        put(b, rest, sizeof rest);
        put(b + B_FUNC - PAGE, func, sizeof func);
    }
}

static void round_check(uint8_t *file, unsigned n, unsigned v)
{
    unsigned crossing = 0x1234 | (0x50 + v) << 16;
    if (call(FALL) != crossing) end("remap: stale second page after falling into it\n", 1);
    if (call(JUMP) != crossing) end("remap: stale second page after a jump\n", 1);
    if (call(INDIRECT) != crossing) end("remap: stale second page after an indirect jump\n", 1);
    if (call(DIRECT) != 7 + v) end("remap: stale page after a jump\n", 1);
    if (call(B_FUNC) != 7 + v) end("remap: stale page after an indirect call\n", 1);
    const uint8_t func[] = {0xb8, (uint8_t)n, (uint8_t)(n >> 8), 0, 0, 0xc3};
    put(file + WRITTEN, func, sizeof func);
    if (call(WRITTEN) != (n & 0xffff)) end("remap: stale code after writing it\n", 1);
}

__attribute__((force_align_arg_pointer)) void _start(void);
void _start(void)
{
    int fd = (int)sys(SYS_memfd_create, (long)"code", 0, 0, 0, 0, 0);
    if (fd < 0 || sys(SYS_ftruncate, fd, 3 * PAGE, 0, 0, 0, 0)) end("remap: no memory file\n", 2);
    uint8_t *file = map(0, 3 * PAGE, 3, fd, 0);
    make_code(file);
    map(AT, PAGE, 5, fd, 0);
    for (unsigned n = 0; n < ROUNDS; n++) {
        unsigned v = n >> 2 & 1;                             // four rounds each, so that jumps get chained
        if (!(n & 3)) map(AT + PAGE, PAGE, 5, fd, PAGE * (1 + v));
        round_check(file, n, v);
    }
    end("remap: ok\n", 0);
}
