// Memory of the hosted platform: anonymous mappings, and the code cache as one memfd mapped twice (W^X by two views).
#define _GNU_SOURCE
#include <sys/mman.h>
#include <unistd.h>

#include "hosted/hosted.h"
#include "kernel/base/bits.h"

enum { HUGE = 2 << 20 };

// Large blocks (guest RAM) are aligned to huge pages and offered to the kernel for them: fewer host TLB misses. Pages are backed when
// touched.
void *plat_pages_alloc(u64 size)
{
    size = align_up(size, PAGE_SIZE);
    u64 slack = size >= HUGE ? HUGE : 0;
    if (size == 0 || size + slack < size) return NULL;
    u8 *p = mmap(NULL, size + slack, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (p == MAP_FAILED) return NULL;
    if (!slack) return p;
    u8 *q = (u8 *)align_up((u64)p, HUGE);
    if (q > p) munmap(p, (size_t)(q - p));
    if (q + size < p + size + slack) munmap(q + size, (size_t)(p + size + slack - (q + size)));
    madvise(q, size, MADV_HUGEPAGE);
    return q;
}

void plat_pages_free(void *p, u64 size)
{
    if (p) munmap(p, align_up(size, PAGE_SIZE));
}

static bool map_at(u8 *at, u64 size, int prot, int fd)
{
    return mmap(at, size, prot, MAP_SHARED | MAP_FIXED, fd, 0) == at;
}

// Both views sit side by side in one reservation, which bounds their distance by construction.
bool plat_code_alloc(u64 size, u8 **rw, u8 **rx)
{
    size = align_up(size, PAGE_SIZE);
    if (size == 0 || size > GIB) return false;
    int fd = memfd_create("cupel-code", MFD_CLOEXEC);
    if (fd < 0) return false;
    u8 *p = mmap(NULL, 2 * size, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    bool ok = p != MAP_FAILED && ftruncate(fd, (off_t)size) == 0 && map_at(p, size, PROT_READ | PROT_WRITE, fd) &&
              map_at(p + size, size, PROT_READ | PROT_EXEC, fd);
    close(fd);
    if (!ok) {
        if (p != MAP_FAILED) munmap(p, 2 * size);
        return false;
    }
    *rw = p;
    *rx = p + size;
    return true;
}
