// What the sanitizers' build of the hosted program and of the instruction tests is linked with (tests/variants.mk): the sanitizers'
// settings, and page allocation by way of their heap.
//
// Everything long-lived - vCPU, translator, devices - is allocated as whole pages. As mappings of its own a block has no red zone, so an
// overrun would land in the rest of the page or in the next mapping unseen. Here blocks come from the heap with the very size that was
// asked for. Guest RAM and other large blocks stay mappings: they are touched by translated code, which nobody instruments, and their pages
// must not be touched at start.
#include <stdlib.h>
#include <string.h>

#include "kernel/base/types.h"
#include "kernel/plat.h"

enum { HEAP_MAX = 8 << 20 };

const char *__asan_default_options(void);
const char *__ubsan_default_options(void);

// Faults are the program's own business (the guest's divisions by zero), it ends by a system call, and it runs guests on the
// stack that it was started with.
const char *__asan_default_options(void)
{
    return "detect_leaks=0:handle_segv=0:handle_sigbus=0:handle_sigfpe=0:handle_sigill=0:handle_abort=0:use_sigaltstack=0:detect_stack_use_after_return=0";
}

const char *__ubsan_default_options(void) { return "print_stacktrace=1"; }

void *__real_plat_pages_alloc(u64 size);
void __real_plat_pages_free(void *p, u64 size);
void *__wrap_plat_pages_alloc(u64 size);
void __wrap_plat_pages_free(void *p, u64 size);

void *__wrap_plat_pages_alloc(u64 size)
{
    void *p;
    if (size >= HEAP_MAX) return __real_plat_pages_alloc(size);
    if (posix_memalign(&p, PAGE_SIZE, size)) return NULL;
    return memset(p, 0, size);
}

void __wrap_plat_pages_free(void *p, u64 size)
{
    if (size >= HEAP_MAX) __real_plat_pages_free(p, size);
    else free(p);
}
