// Preloaded into the emulator by blk_test.py and into QEMU by stick_test.py: writes down what reaches the disk image, so that a power
// failure can be played back.
//
// Killing a process loses nothing that the host's kernel has taken over; a power failure loses what no flush covers. The record, in the
// file POWERLOSS_LOG, is a sequence of entries {kind, offset, length} and, for writes, the bytes. A write is recorded when it is done,
// before the emulator hears of it. A flush is recorded at its end and names the position in the record at its beginning: what lies before
// is safe. POWERLOSS_FILE, if set, is the image: what goes to other files is not recorded.
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdint.h>
#include <stdbool.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>

enum { WRITE = 1, FLUSH = 2, ZEROES = 3 };
struct entry { uint64_t kind, offset, length; };

static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
static int fd = -1;

static void fail(const char *why)
{
    if (write(2, why, __builtin_strlen(why)) < 0) abort();
    abort();
}

static void put(const void *p, size_t n)
{
    if (write(fd, p, n) != (ssize_t)n) fail("powerloss: cannot write the record\n");
}

static void record_open(void)
{
    const char *path = getenv("POWERLOSS_LOG");
    if (fd < 0 && (!path || (fd = open(path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0666)) < 0)) fail("powerloss: no POWERLOSS_LOG\n");
}

static bool wanted(int file)
{
    struct stat is, image;
    const char *path = getenv("POWERLOSS_FILE");
    return !path || (!fstat(file, &is) && !stat(path, &image) && is.st_dev == image.st_dev && is.st_ino == image.st_ino);
}

static void record(const struct iovec *v, int n, off_t offset, size_t got)
{
    pthread_mutex_lock(&mutex);
    record_open();
    put(&(struct entry){WRITE, (uint64_t)offset, got}, sizeof(struct entry));
    for (int i = 0; i < n && got; i++) {
        size_t k = v[i].iov_len < got ? v[i].iov_len : got;
        put(v[i].iov_base, k);
        got -= k;
    }
    pthread_mutex_unlock(&mutex);
}

ssize_t pwritev(int file, const struct iovec *v, int n, off_t offset)
{
    ssize_t (*real)(int, const struct iovec *, int, off_t) = (ssize_t (*)(int, const struct iovec *, int, off_t))dlsym(RTLD_NEXT, "pwritev");
    ssize_t got = real(file, v, n, offset);
    if (got > 0 && wanted(file)) record(v, n, offset, (size_t)got);
    return got;
}
ssize_t pwritev64(int file, const struct iovec *v, int n, off64_t offset) { return pwritev(file, v, n, offset); }

ssize_t pwrite(int file, const void *p, size_t len, off_t offset)
{
    ssize_t (*real)(int, const void *, size_t, off_t) = (ssize_t (*)(int, const void *, size_t, off_t))dlsym(RTLD_NEXT, "pwrite");
    ssize_t got = real(file, p, len, offset);
    struct iovec v = {.iov_base = (void *)p, .iov_len = len};
    if (got > 0 && wanted(file)) record(&v, 1, offset, (size_t)got);
    return got;
}
ssize_t pwrite64(int file, const void *p, size_t len, off64_t offset) { return pwrite(file, p, len, offset); }

int fallocate(int file, int mode, off_t offset, off_t length)
{
    int (*real)(int, int, off_t, off_t) = (int (*)(int, int, off_t, off_t))dlsym(RTLD_NEXT, "fallocate");
    int e = real(file, mode, offset, length);
    if (e || !wanted(file)) return e;
    pthread_mutex_lock(&mutex);
    record_open();
    put(&(struct entry){ZEROES, (uint64_t)offset, (uint64_t)length}, sizeof(struct entry));
    pthread_mutex_unlock(&mutex);
    return 0;
}

int fdatasync(int file)
{
    if (!wanted(file)) return 0;
    pthread_mutex_lock(&mutex);
    record_open();
    off_t at = lseek(fd, 0, SEEK_END);
    pthread_mutex_unlock(&mutex);
    usleep(5000);                     // a disk takes its time: writes that come meanwhile are not covered
    pthread_mutex_lock(&mutex);
    put(&(struct entry){FLUSH, (uint64_t)at, 0}, sizeof(struct entry));
    pthread_mutex_unlock(&mutex);
    return 0;
}
