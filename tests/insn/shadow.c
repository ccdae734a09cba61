// Under AddressSanitizer: closes what nobody needs of its shadow memory.
//
// The shadow is mapped readable and writable over a tenth of the address space, where tests run random code natively and expect a fault for
// whatever is not theirs. The shadow of a byte at a is at SHADOW_OF(a); in use is that of what is mapped now, of its surroundings, where
// later mappings come to lie, and of the beginnings of the sanitizer's heap (one per size class). Below 4 GiB there are only the tests'
// windows, which no instrumented code touches. The rest becomes inaccessible before the first test. What stays open is hit by one random
// address in thousands, and only if the test does not use it as anything else first. The bounds are those of x86-64 Linux (its
// documentation: AddressSanitizerAlgorithm).
#define _GNU_SOURCE
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "kernel/base/bits.h"
#include "tests/insn/state.h"

#define SHADOW_OF(a) (0x7fff8000ull + ((a) >> 3))
#define LOW_SHADOW   0x7fff7000ull           // page in front included, which is mapped too
#define HIGH_MEMORY  0x10007fff8000ull
#define MEMORY_END   0x800000000000ull
#define HEAP_BASE    0x600000000000ull
#define HEAP_SIZE    0x40000000000ull
enum { HEAP_CLASSES = 64, RANGES_MAX = 512 };

struct range { u64 from, to; };

// mmap as the harness calls it; the sanitizer's own writes to the shadow.
void *plain_mmap(void *at, size_t len, int prot, int flags, int fd, off_t off);
void *plain_mmap(void *at, size_t len, int prot, int flags, int fd, off_t off) { return (void *)syscall(SYS_mmap, at, len, prot, flags, fd, off); }

static int by_start(const void *a, const void *b)
{
    const struct range *x = a, *y = b;
    return x->from < y->from ? -1 : x->from > y->from;
}

static void close_shadow(u64 from, u64 to)
{
    if (from < to && mprotect((void *)from, to - from, PROT_NONE)) { perror("insn test: mprotect"); exit(2); }
}

// Closes the shadow between `from` and `to` but for that of the ranges, which are in order.
static void close_between(u64 from, u64 to, const struct range *r, unsigned n)
{
    for (unsigned i = 0; i < n && from < to; i++) {
        close_shadow(from, min_u64(to, SHADOW_OF(r[i].from) & PAGE_MASK));
        from = max_u64(from, align_up(SHADOW_OF(r[i].to), PAGE_SIZE));
    }
    close_shadow(from, to);
}

static unsigned mapped(struct range *r)
{
    unsigned n = 0;
    char line[512];
    unsigned long long from, to;
    FILE *f = fopen("/proc/self/maps", "r");
    if (!f) { perror("insn test: /proc/self/maps"); exit(2); }
    while (fgets(line, sizeof line, f) && n < RANGES_MAX) {
        u64 around = strchr(line, '[') ? 16 * MIB : GIB;      // nothing comes to lie beside the stack, "[stack]"
        if (sscanf(line, "%llx-%llx", &from, &to) != 2 || from < HIGH_MEMORY || to >= MEMORY_END) continue;
        if (from >= HEAP_BASE && from < HEAP_BASE + HEAP_SIZE) continue;
        r[n++] = (struct range){from - around, min_u64(to + around, MEMORY_END)};
    }
    fclose(f);
    return n;
}

__attribute__((constructor)) static void shadow_init(void)
{
    static struct range r[RANGES_MAX + 2 * HEAP_CLASSES];
    unsigned n = mapped(r);
    for (u64 k = 0; k < HEAP_CLASSES; k++) {
        u64 size = HEAP_SIZE / HEAP_CLASSES, at = HEAP_BASE + k * size, books = at + size / 8 * 7;   // lists of free blocks
        r[n++] = (struct range){at, at + GIB};
        r[n++] = (struct range){books, books + GIB};
    }
    qsort(r, n, sizeof *r, by_start);
    close_shadow(LOW_SHADOW, SHADOW_OF(LOW_SHADOW));
    close_between(SHADOW_OF(HIGH_MEMORY), HIGH_MEMORY, r, n);
}
