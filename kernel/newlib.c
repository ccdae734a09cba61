// What newlib asks of an operating system. There are no files and no processes: standard output and error are the console, the heap
// grows page by page at a fixed address, everything else says no. The only file that knows newlib's system calls.
#include <errno.h>
#include <fcntl.h>
#include <reent.h>
#include <signal.h>
#include <sys/stat.h>
#include <sys/time.h>
#include <sys/times.h>
#include <unistd.h>

#include "kernel/base/log.h"
#include "kernel/core.h"
#include "kernel/cpu.h"
#include "kernel/plat.h"
#include "kernel/vmem.h"

#undef errno
extern int errno;

// newlib declares these nowhere.
void __malloc_lock(struct _reent *r);
void __malloc_unlock(struct _reent *r);

static struct {
    u64 brk, top;
    struct ticket_lock lock;
    u64 flags;              // RFLAGS of the outermost holder
    unsigned depth;
    struct core *owner;
} heap = {.brk = VMEM_HEAP_BASE, .top = VMEM_HEAP_BASE};

// Never shrinks: malloc gives back seldom, and the pages would be asked for again.
void *sbrk(ptrdiff_t more)
{
    u64 old = heap.brk, now = old + (u64)more;
    if (now < VMEM_HEAP_BASE || now > VMEM_HEAP_BASE + VMEM_HEAP_SIZE) goto fail;
    if (now > heap.top) {
        u64 grow = align_up(now - heap.top, 2 * MIB);
        if (!vmem_populate(heap.top, grow, VMEM_WRITE)) goto fail;
        heap.top += grow;
    }
    heap.brk = now;
    return (void *)old;
fail:
    errno = ENOMEM;
    return (void *)-1;
}

// malloc calls these around everything, nested at times. Interrupts are off meanwhile, because the holder must not be interrupted
// by a handler that frees.
void __malloc_lock(struct _reent *r)
{
    u64 flags = cpu_irq_save();
    if (heap.owner == core_self()) {
        heap.depth++;
        return;
    }
    ticket_lock(&heap.lock);
    heap.owner = core_self();
    heap.flags = flags;
    heap.depth = 1;
}

void __malloc_unlock(struct _reent *r)
{
    if (--heap.depth) return;
    u64 flags = heap.flags;
    heap.owner = NULL;
    ticket_unlock(&heap.lock);
    cpu_irq_restore(flags);
}

_READ_WRITE_RETURN_TYPE write(int fd, const void *buf, size_t len)
{
    if (fd != 1 && fd != 2) { errno = EBADF; return -1; }
    plat_log_write(buf, len, false);
    return (_READ_WRITE_RETURN_TYPE)len;
}

_READ_WRITE_RETURN_TYPE read(int fd, void *buf, size_t len) { errno = EBADF; return -1; }
int open(const char *path, int flags, ...) { errno = ENOENT; return -1; }
int close(int fd) { errno = EBADF; return -1; }
off_t lseek(int fd, off_t off, int whence) { errno = ESPIPE; return -1; }
int isatty(int fd) { return fd >= 0 && fd <= 2; }
int link(const char *from, const char *to) { errno = EROFS; return -1; }
int unlink(const char *path) { errno = ENOENT; return -1; }
pid_t getpid(void) { return 1; }

int fstat(int fd, struct stat *st)
{
    *st = (struct stat){.st_mode = S_IFCHR};
    return 0;
}

int gettimeofday(struct timeval *restrict tv, void *restrict tz)
{
    u64 ns = plat_wall_ns();
    tv->tv_sec = (time_t)(ns / NS_PER_SEC);
    tv->tv_usec = (suseconds_t)(ns % NS_PER_SEC / 1000);
    return 0;
}

int kill(pid_t pid, int sig) { panic("signal %d raised by the C library", sig); }
void _exit(int code) { plat_exit(code); }
