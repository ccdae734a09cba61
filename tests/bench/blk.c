// Loads a disk as fio would: blk DEVICE SCALE. Random and sequential, reading and writing, one operation at a time and eight at once
// (threads with pread and pwrite: that many requests are in the device's queue), past the page cache (O_DIRECT). The number of
// operations is fixed, and so are their places: operation i of a pass goes to the same block whichever thread does it, so that every
// emulator does the same work and tests/bench/blk.py can compute what the disk has to hold at the end. Each pass is done once at a tenth
// of its length before it is timed.
//
// The disk holds blocks of 4 KiB, zero but for their number at 0 and 4088 and, at 8, their stamp: the last pass that wrote them.
// What is read is checked: a number that is not the block's ends the program with an error.
//
// Prints a line per pass: "blk NAME DEPTH OPERATIONS BYTES STAMP NANOSECONDS", with 0 nanoseconds for one that is not timed. In front is
// "blk begin", at the end "blk end NANOSECONDS" with the time between the two, for a comparison with the host's clock.
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>
#include <time.h>

enum { BLOCK = 4096, LARGE = 128 << 10, DEPTH_MAX = 8 };

struct pass {
    const char *device;
    bool write, random;
    uint64_t size, operations, stamp, disk_size;
    atomic_uint_fast64_t next;       // operation that nobody has begun
    pthread_barrier_t start;
};

struct worker {
    struct pass *pass;
    int fd;
    unsigned char *buf;
    uint64_t begin, end;
};

static uint64_t now_ns(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

static void fail(const struct pass *p, const char *what, uint64_t offset)
{
    fprintf(stderr, "blk: %s: %s at byte %llu: %s\n", p->device, what, (unsigned long long)offset, errno ? strerror(errno) : "wrong contents");
    exit(1);
}

// splitmix64: neighbours become strangers.
static uint64_t scatter(uint64_t x)
{
    x = (x + 1) * 0x9e3779b97f4a7c15u;
    x = (x ^ x >> 30) * 0xbf58476d1ce4e5b9u;
    x = (x ^ x >> 27) * 0x94d049bb133111ebu;
    return x ^ x >> 31;
}

static uint64_t place(const struct pass *p, uint64_t i)
{
    return (p->random ? scatter(p->stamp << 32 | i) : i) % (p->disk_size / p->size) * p->size;
}

static void fill(const struct pass *p, unsigned char *buf, uint64_t offset)
{
    for (uint64_t b = 0; b < p->size; b += BLOCK) {
        uint64_t number = (offset + b) / BLOCK;
        memcpy(buf + b, &number, 8);
        memcpy(buf + b + 8, &p->stamp, 8);
        memcpy(buf + b + BLOCK - 8, &number, 8);
    }
}

static void compare(const struct pass *p, const unsigned char *buf, uint64_t offset)
{
    errno = 0;
    for (uint64_t b = 0; b < p->size; b += BLOCK) {
        uint64_t number = (offset + b) / BLOCK;
        if (memcmp(buf + b, &number, 8) || memcmp(buf + b + BLOCK - 8, &number, 8)) fail(p, "reading", offset + b);
    }
}

static void *work(void *arg)
{
    struct worker *w = arg;
    struct pass *p = w->pass;
    pthread_barrier_wait(&p->start);
    w->begin = now_ns();
    for (uint64_t i; (i = atomic_fetch_add(&p->next, 1)) < p->operations;) {
        uint64_t offset = place(p, i);
        if (p->write) fill(p, w->buf, offset);
        errno = 0;
        ssize_t n = p->write ? pwrite(w->fd, w->buf, p->size, (off_t)offset) : pread(w->fd, w->buf, p->size, (off_t)offset);
        if (n != (ssize_t)p->size) {
            if (n >= 0) errno = EIO;
            fail(p, p->write ? "writing" : "reading", offset);
        }
        if (!p->write) compare(p, w->buf, offset);
    }
    w->end = now_ns();
    return NULL;
}

// The time from the first thread's start to the last one's end.
static uint64_t pass_run(struct pass *p, int fd, unsigned char *const *bufs, unsigned depth)
{
    struct worker w[DEPTH_MAX];
    pthread_t thread[DEPTH_MAX];
    uint64_t begin = UINT64_MAX, end = 0;
    pthread_barrier_init(&p->start, NULL, depth);
    for (unsigned t = 0; t < depth; t++) {
        w[t] = (struct worker){.pass = p, .fd = fd, .buf = bufs[t]};
        if (t && pthread_create(&thread[t], NULL, work, &w[t])) {
            fprintf(stderr, "blk: no thread\n");
            exit(1);
        }
    }
    work(&w[0]);
    for (unsigned t = 0; t < depth; t++) {
        if (t) pthread_join(thread[t], NULL);
        if (w[t].begin < begin) begin = w[t].begin;
        if (w[t].end > end) end = w[t].end;
    }
    pthread_barrier_destroy(&p->start);
    return end - begin;
}

int main(int argc, char **argv)
{
    static const struct { const char *name; bool write, random; unsigned size, operations; } kinds[] = {
        {"randread", false, true, BLOCK, 4000}, {"randwrite", true, true, BLOCK, 4000},
        {"seqread", false, false, LARGE, 2000}, {"seqwrite", true, false, LARGE, 2000}};
    static const unsigned depths[] = {1, DEPTH_MAX};
    double scale = argc == 3 ? strtod(argv[2], NULL) : 0;
    if (!(scale > 0)) {
        fprintf(stderr, "usage: blk DEVICE SCALE    (SCALE: of the number of operations, 1 is usual). It overwrites the device.\n");
        return 2;
    }
    int fd = open(argv[1], O_RDWR | O_DIRECT);
    off_t size = fd < 0 ? -1 : lseek(fd, 0, SEEK_END);
    if (size < LARGE) {
        fprintf(stderr, "blk: %s: %s\n", argv[1], size < 0 ? strerror(errno) : "too small");
        return 1;
    }
    unsigned char *bufs[DEPTH_MAX];
    for (unsigned t = 0; t < DEPTH_MAX; t++) {
        bufs[t] = mmap(NULL, LARGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_POPULATE, -1, 0);
        if (bufs[t] == MAP_FAILED) return 1;
    }
    setvbuf(stdout, NULL, _IOLBF, 0);
    printf("blk begin\n");
    uint64_t start = now_ns(), stamp = 0;
    for (unsigned k = 0; k < sizeof kinds / sizeof *kinds; k++)
        for (unsigned d = 0; d < sizeof depths / sizeof *depths; d++)
            for (unsigned timed = 0; timed < 2; timed++) {
                uint64_t operations = (uint64_t)(kinds[k].operations * scale / (timed ? 1 : 10)) + 1;
                struct pass p = {.device = argv[1], .write = kinds[k].write, .random = kinds[k].random, .size = kinds[k].size,
                                 .operations = operations, .stamp = ++stamp, .disk_size = (uint64_t)size};
                // A buffer that reads used holds old contents between the numbers: zero, and stamps that writing replaces.
                uint64_t ns = pass_run(&p, fd, bufs, depths[d]);
                printf("blk %s %u %llu %u %llu %llu\n", kinds[k].name, depths[d], (unsigned long long)operations, kinds[k].size,
                       (unsigned long long)stamp, (unsigned long long)(timed ? ns : 0));
            }
    fsync(fd);
    printf("blk end %llu\n", (unsigned long long)(now_ns() - start));
    return 0;
}
