// Disks of the hosted platform: raw image files and block devices.
//
// The core that submits a request must not wait for the host's disk, so worker threads make the system calls: a few per disk, that reads
// overtake a flush and one another. Workers are plain threads, no cores: they block all signals, may use libc and wait on a condition
// variable, and touch nothing of the emulator but the request they hold and the guest memory it names. A finished request goes on a list,
// and an interrupt at core 0 (core_raise) takes the list and calls done() for each, under the BQL.
//
//     core:   submit -> todo list (mutex) -> worker: preadv ... -> done list (atomic) -> interrupt -> core 0: done()
//
// A flush is fdatasync: it covers every write that ended before it began, which is more than the contract asks. FUA is write, then
// fdatasync. What the file system cannot do (punching holes) is a hint that goes unheard for a discard, and zeroes written for a
// write-zeroes.
//
// O_DIRECT wants addresses and lengths aligned to what the device below likes; guests mostly comply. What does not is carried over a bounce
// buffer.
//
// The lock is an open-file-description lock on the whole file: shared for read-only, exclusive otherwise. QEMU locks single bytes
// of its images in the same way, so each keeps the other out.
#define _GNU_SOURCE
#include "hosted/block.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/fs.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

#include "hosted/hosted.h"
#include "hosted/sys.h"
#include "kernel/base/bits.h"
#include "kernel/base/fmt.h"
#include "kernel/base/log.h"

enum { WORKERS = 4, ALIGN_MAX = 4096, IOV = 64, ZEROES = 64 << 10, BOUNCE = 256 << 10 };
_Static_assert(sizeof(struct block_seg) == sizeof(struct iovec) && offsetof(struct block_seg, len) == offsetof(struct iovec, iov_len),
               "segments are passed to preadv as they are");

struct disk {
    struct block b;
    struct disk *next_disk;
    struct block_file opt;
    int fd;
    size_t align;                    // of addresses and lengths; 1 without O_DIRECT
    // ---- mutex ----
    pthread_mutex_t mutex;
    pthread_cond_t wake;
    struct block_request *todo, **todo_end;
    // ---- BQL ----
    unsigned pending;                // submitted and not done
    // ---- atomic ----
    struct block_request *finished;  // newest first
};

static struct disk *disks;           // complete before the first vCPU runs

// ---- the work: on a worker's or an I/O thread ---------------------------------------------------------------------------

static enum block_result failed(struct disk *d, const char *what, u64 offset)
{
    log_once(LOG_WARN, "%s: %s at byte %llu fails: %s; the guest sees an I/O error (said once)", d->opt.path, what, (unsigned long long)offset,
             strerror(errno));
    return BLOCK_FAILED;
}

static bool aligned(const struct disk *d, const struct block_request *r)
{
    for (unsigned i = 0; i < r->nseg; i++)
        if (((u64)r->seg[i].base | r->seg[i].len) & (d->align - 1)) return false;
    return true;
}

static ssize_t move(const struct disk *d, bool in, const struct iovec *v, int n, u64 offset)
{
    ssize_t got;
    do got = in ? preadv(d->fd, v, n, (off_t)offset) : pwritev(d->fd, v, n, (off_t)offset);
    while (got < 0 && errno == EINTR);
    if (got == 0) errno = EIO;       // the file has become shorter
    return got > 0 ? got : -1;
}

// All of the segments, whatever pieces the kernel takes them in. The caller's segments stay as they are.
static bool move_segments(const struct disk *d, bool in, const struct block_request *r)
{
    struct iovec v[IOV];
    u64 offset = r->offset, skip = 0;                 // skip: bytes of segment i that are done
    for (unsigned i = 0; i < r->nseg;) {
        int n = 0;
        for (unsigned k = i; k < r->nseg && n < IOV; k++, n++) v[n] = (struct iovec){r->seg[k].base, r->seg[k].len};
        v[0].iov_base = (u8 *)v[0].iov_base + skip;
        v[0].iov_len -= skip;
        ssize_t got = move(d, in, v, n, offset);
        if (got < 0) return false;
        offset += (u64)got;
        for (skip += (u64)got; i < r->nseg && skip >= r->seg[i].len; i++) skip -= r->seg[i].len;
    }
    return true;
}

static void copy_segments(const struct block_request *r, u64 from, u8 *buf, u64 len, bool in)
{
    for (unsigned i = 0; i < r->nseg && len; i++) {
        if (from >= r->seg[i].len) { from -= r->seg[i].len; continue; }
        u64 n = min_u64(r->seg[i].len - from, len);
        u8 *guest = (u8 *)r->seg[i].base + from;
        memcpy(in ? guest : buf, in ? buf : guest, n);
        buf += n;
        len -= n;
        from = 0;
    }
}

static bool move_bounced(const struct disk *d, bool in, const struct block_request *r)
{
    void *buf;
    bool ok = true;
    if (posix_memalign(&buf, ALIGN_MAX, BOUNCE)) { errno = ENOMEM; return false; }
    for (u64 off = 0, n; ok && off < r->len; off += n) {
        n = min_u64(r->len - off, BOUNCE);
        struct block_seg seg = {buf, n};
        struct block_request part = {.offset = r->offset + off, .seg = &seg, .nseg = 1};
        if (!in) copy_segments(r, off, buf, n, false);
        ok = move_segments(d, in, &part);
        if (in && ok) copy_segments(r, off, buf, n, true);
    }
    free(buf);
    return ok;
}

static enum block_result transfer(struct disk *d, const struct block_request *r, bool in)
{
    bool ok = d->align == 1 || aligned(d, r) ? move_segments(d, in, r) : move_bounced(d, in, r);
    return ok ? BLOCK_OK : failed(d, in ? "reading" : "writing", r->offset);
}

static bool not_there(int e) { return e == EOPNOTSUPP || e == ENOSYS || e == ENOTTY || e == EINVAL || e == ENODEV; }

static enum block_result zeroes_write(struct disk *d, const struct block_request *r)
{
    void *buf;
    bool ok = true;
    if (posix_memalign(&buf, ALIGN_MAX, ZEROES)) { errno = ENOMEM; return failed(d, "writing", r->offset); }
    memset(buf, 0, ZEROES);
    for (u64 off = 0, n; ok && off < r->len; off += n) {
        n = min_u64(r->len - off, ZEROES);
        struct block_seg seg = {buf, n};
        struct block_request part = {.offset = r->offset + off, .seg = &seg, .nseg = 1};
        ok = move_segments(d, false, &part);
    }
    free(buf);
    return ok ? BLOCK_OK : failed(d, "writing", r->offset);
}

static enum block_result deallocate(struct disk *d, const struct block_request *r)
{
    bool zeroes = r->op == BLOCK_WRITE_ZEROES;
    if (!r->len) return BLOCK_OK;
    int mode = zeroes && !r->unmap ? FALLOC_FL_ZERO_RANGE | FALLOC_FL_KEEP_SIZE : FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE;
    int e;
    do e = fallocate(d->fd, mode, (off_t)r->offset, (off_t)r->len);
    while (e < 0 && errno == EINTR);
    if (e == 0) return BLOCK_OK;
    if (!not_there(errno)) return failed(d, zeroes ? "zeroing" : "discarding", r->offset);
    return zeroes ? zeroes_write(d, r) : BLOCK_OK;
}

static enum block_result flush(struct disk *d)
{
    if (d->opt.ignore_flush || d->opt.read_only) return BLOCK_OK;
    return fdatasync(d->fd) == 0 ? BLOCK_OK : failed(d, "flushing", 0);
}

static enum block_result disk_run(struct block *b, struct block_request *r)
{
    struct disk *d = CONTAINER_OF(b, struct disk, b);
    enum block_result e = BLOCK_UNSUPPORTED;
    switch (r->op) {
    case BLOCK_READ: return transfer(d, r, true);
    case BLOCK_FLUSH: return flush(d);
    case BLOCK_WRITE: e = transfer(d, r, false); break;
    case BLOCK_DISCARD:
    case BLOCK_WRITE_ZEROES: e = deallocate(d, r); break;
    }
    return e == BLOCK_OK && r->fua ? flush(d) : e;
}

// ---- workers --------------------------------------------------------------------------------------------------------------

static void finished_push(struct disk *d, struct block_request *r)
{
    struct block_request *old = __atomic_load_n(&d->finished, __ATOMIC_RELAXED);
    do r->next = old;
    while (!__atomic_compare_exchange_n(&d->finished, &old, r, true, __ATOMIC_RELEASE, __ATOMIC_RELAXED));
    if (!old) core_raise(IRQ_HELPER);   // otherwise one is under way for the list's first
}

static void *worker(void *arg)
{
    struct disk *d = arg;
    core_block_signals();
    for (;;) {
        pthread_mutex_lock(&d->mutex);
        while (!d->todo) pthread_cond_wait(&d->wake, &d->mutex);
        struct block_request *r = d->todo;
        d->todo = r->next;
        if (!d->todo) d->todo_end = &d->todo;
        pthread_mutex_unlock(&d->mutex);
        r->result = disk_run(&d->b, r);
        finished_push(d, r);
    }
    return NULL;
}

// The mutex is taken with the BQL, so with interrupts off, and by workers, which have none: a handler never meets it held by its own core.
static void disk_submit(struct block *b, struct block_request *r)
{
    struct disk *d = CONTAINER_OF(b, struct disk, b);
    ASSERT(bql_held(), "%s: request submitted without the BQL", b->name);
    d->pending++;
    r->next = NULL;
    pthread_mutex_lock(&d->mutex);
    *d->todo_end = r;
    d->todo_end = &r->next;
    pthread_mutex_unlock(&d->mutex);
    pthread_cond_signal(&d->wake);
}

// In the order in which they ended.
static void disk_deliver(struct disk *d)
{
    struct block_request *list = __atomic_exchange_n(&d->finished, NULL, __ATOMIC_ACQUIRE), *order = NULL;
    while (list) {
        struct block_request *next = list->next;
        list->next = order;
        order = list;
        list = next;
    }
    while (order) {
        struct block_request *r = order;
        order = r->next;                  // done() may submit r again
        d->pending--;
        r->done(r);
    }
}

void block_deliver(void)
{
    for (struct disk *d = disks; d; d = d->next_disk) disk_deliver(d);
}

static void disk_drain(struct block *b)
{
    struct disk *d = CONTAINER_OF(b, struct disk, b);
    struct timespec nap = {0, 50000};
    for (disk_deliver(d); d->pending; disk_deliver(d)) sys_call(SYS_nanosleep, (long)&nap, 0, 0, 0);
}

void block_finish_all(void)
{
    for (struct disk *d = disks; d; d = d->next_disk) {
        bql_lock();
        disk_drain(&d->b);
        bql_unlock();
        (void)flush(d);
    }
}

// ---- opening ----------------------------------------------------------------------------------------------------------------

static bool file_size(int fd, const struct stat *st, u64 *size)
{
    *size = (u64)st->st_size;
    return S_ISREG(st->st_mode) || (S_ISBLK(st->st_mode) && ioctl(fd, BLKGETSIZE64, size) == 0);
}

// True when direct reads aligned to `align` and no better work.
static bool direct_works(int fd, size_t align, u64 size)
{
    void *buf;
    if (size < 2 * align) return true;
    if (posix_memalign(&buf, 2 * ALIGN_MAX, 2 * ALIGN_MAX)) return false;
    ssize_t n = pread(fd, (u8 *)buf + align, align, (off_t)align);
    free(buf);
    return n == (ssize_t)align;
}

static bool file_lock(int fd, bool shared)
{
    struct flock l = {.l_type = shared ? F_RDLCK : F_WRLCK, .l_whence = SEEK_SET};
    return fcntl(fd, F_OFD_SETLK, &l) == 0;
}

// What is wrong with the open file, or NULL. Sets size and align.
static const char *file_check(struct disk *d, const struct stat *st)
{
    if (!file_size(d->fd, st, &d->b.size)) return "is neither a file nor a block device";
    if (!d->b.size) return "is empty; make it as large as the disk is to be, as with truncate -s 1G";
    if (d->b.size % BLOCK_SECTOR) return "is not a raw disk image: its size is no multiple of 512";
    if (!file_lock(d->fd, d->opt.read_only)) return "is in use by another process; end that, or open both with readonly=on";
    if (d->opt.direct && !direct_works(d->fd, BLOCK_SECTOR, d->b.size))
        return "cannot be read past the host's cache in pieces of 512 bytes; use cache=writeback";
    return NULL;
}

static int file_open(const struct block_file *f)
{
    return open(f->path, (f->read_only ? O_RDONLY : O_RDWR) | (f->direct ? O_DIRECT : 0) | O_CLOEXEC);
}

static const char *open_mend(const struct block_file *f)
{
    if ((errno == EACCES || errno == EPERM || errno == EROFS) && !f->read_only) return "; add readonly=on if it is only to be read";
    if (errno == EINVAL && f->direct) return "; its file system has no O_DIRECT: use cache=writeback";
    return "";
}

struct block *block_file_open(const struct block_file *f, char *err, size_t errlen)
{
    static const struct block_ops ops = {.submit = disk_submit, .drain = disk_drain, .run = disk_run};
    struct stat st;
    struct disk *d = calloc(1, sizeof *d);
    ASSERT(d, "no memory%s", "");
    d->opt = *f;
    d->fd = file_open(f);
    if (d->fd < 0 || fstat(d->fd, &st) != 0) {
        int e = errno;
        fmt_snprintf(err, errlen, "cannot open '%s': %s%s", f->path, strerror(e), (errno = e, open_mend(f)));
        return NULL;
    }
    const char *wrong = file_check(d, &st);
    if (wrong) {
        fmt_snprintf(err, errlen, "'%s' %s", f->path, wrong);
        return NULL;
    }
    d->align = f->direct ? BLOCK_SECTOR : 1;
    d->b = (struct block){.ops = &ops, .name = f->path, .size = d->b.size, .physical = ALIGN_MAX, .read_only = f->read_only,
                          .write_through = f->write_through};
    d->todo_end = &d->todo;
    pthread_mutex_init(&d->mutex, NULL);
    pthread_cond_init(&d->wake, NULL);
    d->next_disk = disks;
    disks = d;
    for (unsigned i = 0; i < WORKERS; i++) {
        pthread_t t;
        if (pthread_create(&t, NULL, worker, d) == 0) { pthread_detach(t); continue; }
        fmt_snprintf(err, errlen, "no threads for '%s': %s", f->path, strerror(errno));
        return NULL;
    }
    return &d->b;
}
