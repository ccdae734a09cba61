// The disk (virtio 1.2 chapter 5.2) over a block backend (devices/block.h).
//
// A request is a chain: a header of 16 bytes, data, a status byte as the very last one. Data goes straight between the guest's memory and
// the disk: the chain's segments are translated to host addresses once, adjoining ones merged, and handed to the backend. What a disk
// read has changed in memory is told to the translator afterwards (phys_written), before the driver can learn of it.
//
// Errors have two grades. A chain without room for header or status cannot be answered: the device wants a reset. Everything else that a
// driver may get wrong (ranges, lengths, flags, types) ends in the status byte.
//
// Requests are preallocated, as many as a queue has entries. A driver that offers one descriptor twice can exceed that: then the rest
// waits in the ring until a request ends. For one notification only so many requests and bytes are taken; the rest comes by virtq_more,
// because a disk in memory does its work within submit() and would hold the BQL all the while.
//
// Reset and queue reset wait for the disk (drain): afterwards nothing of the old driver's comes into memory that is somebody else's.
//
// Data plane. Given an I/O thread, the vCPU that notifies only sets the queue's bit and wakes the thread; the thread takes requests from
// the ring and gives them back, all without the BQL. What lies between is the disk's affair: run() does a request there and then, one
// after the other; a disk with poll() has as many under way as it takes, and as long as there are any the thread wakes itself to look.
// Rings and buffers are read through the memory map, which takes no lock (tcg/run/phys.c). Two words keep the thread apart from those who
// change the queues under the BQL: it raises `busy' before each request and each look at the disk and then looks at `stopped'; who wants
// the queues raises `stopped' and then waits until `busy' has gone. What would break if RAM could move or go away while the thread works
// (nothing does that yet): the host addresses in seg[], from segments_map to the end of the disk's work, and the span that phys_read and
// phys_write copy through. A grace period for RAM has to wait for `busy' to have been seen low, and for requests that submit() has under
// way.
//
// The write cache: on (a write is safe after the next flush) or off (when it is done), as the driver chooses if it knows how
// (CONFIG_WCE); a driver that knows of no flush gets it off (5.2.6.2).
#include <string.h>

#include "devices/block.h"
#include "devices/virtio.h"
#include "kernel/base/bits.h"
#include "kernel/base/log.h"
#include "kernel/plat.h"

enum { T_IN = 0, T_OUT = 1, T_FLUSH = 4, T_GET_ID = 8, T_DISCARD = 11, T_WRITE_ZEROES = 13 };
enum { S_OK = 0, S_IOERR = 1, S_UNSUPP = 2 };
enum { F_SIZE_MAX = 1, F_SEG_MAX = 2, F_RO = 5, F_BLK_SIZE = 6, F_FLUSH = 9, F_TOPOLOGY = 10, F_CONFIG_WCE = 11, F_MQ = 12, F_DISCARD = 13,
       F_WRITE_ZEROES = 14 };
enum { CFG_CAPACITY = 0, CFG_SIZE_MAX = 8, CFG_SEG_MAX = 12, CFG_BLK_SIZE = 20, CFG_PHYSICAL_EXP = 24, CFG_MIN_IO = 26, CFG_WRITEBACK = 32,
       CFG_QUEUES = 34, CFG_MAX_DISCARD = 36, CFG_DISCARD_SEGS = 40, CFG_DISCARD_ALIGN = 44, CFG_MAX_ZEROES = 48, CFG_ZEROES_SEGS = 52,
       CFG_ZEROES_UNMAP = 56, CONFIG_LEN = 60 };
enum { HEADER = 16, ID_LEN = 20, SEGMENT_MAX = 256 << 10, SEGMENTS = VIRTQ_MAX - 2, RANGES = 16, RANGE_LEN = 16, RANGE_SECTORS = 1 << 21,
       RANGE_UNMAP = 1 };
enum { NOTIFY_BYTES = 8 << 20, HOST_SEGMENTS = VIRTQ_MAX + 16 };   // more than VIRTQ_MAX: a segment may lie across two regions of RAM

struct range { u64 sector; u32 count, flags; };
_Static_assert(sizeof(struct range) == RANGE_LEN, "struct virtio_blk_discard_write_zeroes");

struct blk_request {
    struct block_request b;
    struct virtio_blk *s;
    unsigned queue, nranges, range;          // discard and write zeroes: ranges, and which one is under way
    struct blk_request *next_free;
    struct range ranges[RANGES];
    struct virtq_elem elem;
    struct block_seg seg[HOST_SEGMENTS];
};

struct virtio_blk {
    struct virtio_dev dev;
    struct block *disk;
    char id[ID_LEN];
    u8 config[CONFIG_LEN];
    struct plat_io *io;                      // NULL: served under the BQL
    u32 kicked, busy, stopped;               // atomic; kicked: a bit per queue
    bool serving;                            // inside a loop that signals at its end
    u32 ended;                               // a bit per queue: requests were given back, and the driver has not been told
    struct blk_queue { struct blk_request *free; bool starved; } queue[VIRTIO_QUEUES_MAX];
};

static struct phys *phys_of(struct virtio_blk *s) { return pci_phys(s->dev.pci.bus); }

// Data plane: queue n wants to be looked at. Any context.
static void blk_kick(struct virtio_dev *d, unsigned n)
{
    struct virtio_blk *s = CONTAINER_OF(d, struct virtio_blk, dev);
    __atomic_or_fetch(&s->kicked, 1u << n, __ATOMIC_SEQ_CST);
    plat_io_wake(s->io);
}

// ---- the end of a request ----------------------------------------------------------------------------------------------

static void memory_written(struct blk_request *r)
{
    const struct virtq_elem *e = &r->elem;
    for (unsigned i = e->nout; i < e->nout + e->nin; i++)
        if (e->seg[i].len) phys_written(phys_of(r->s), gpa(e->seg[i].addr), e->seg[i].len);
}

static void request_finish(struct blk_request *r, u8 status)
{
    struct virtio_blk *s = r->s;
    struct blk_queue *q = &s->queue[r->queue];
    virtq_write(&s->dev, &r->elem, r->elem.in_len - 1, &status, 1);
    virtq_push(&s->dev, r->queue, &r->elem, status == S_OK ? r->elem.in_len : 1);
    r->next_free = q->free;
    q->free = r;
    s->ended |= 1u << r->queue;
    if (!q->starved) return;
    q->starved = false;
    if (s->io) blk_kick(&s->dev, r->queue);
    else virtq_more(&s->dev, r->queue);
}

static void signal_ended(struct virtio_blk *s)
{
    for (; s->ended; s->ended &= s->ended - 1) virtq_signal(&s->dev, __builtin_ctz(s->ended));
}

// ---- from chain to disk request --------------------------------------------------------------------------------------------

// Translates len bytes at byte off of the segments first..first+count-1. False: not RAM any more, or in too many pieces.
static bool segments_map(struct blk_request *r, unsigned first, unsigned count, u64 off, u64 len)
{
    r->b.nseg = 0;
    for (unsigned i = first; i < first + count && len; i++) {
        u64 at = r->elem.seg[i].addr + off, left = r->elem.seg[i].len;
        if (off >= left) { off -= left; continue; }
        left = min_u64(left - off, len);
        len -= left;
        off = 0;
        for (u64 n; left; at += n, left -= n) {
            n = min_u64(left, PAGE_SIZE - (at & (PAGE_SIZE - 1)));
            u8 *host = phys_host(phys_of(r->s), gpa(at));
            struct block_seg *last = r->b.nseg ? &r->seg[r->b.nseg - 1] : NULL;
            if (!host) return false;
            if (last && (u8 *)last->base + last->len == host) { last->len += n; continue; }
            if (r->b.nseg == HOST_SEGMENTS) return false;
            r->seg[r->b.nseg++] = (struct block_seg){host, n};
        }
    }
    return len == 0;
}

static bool in_range(const struct virtio_blk *s, u64 sector, u64 len)
{
    u64 sectors = s->disk->size / BLOCK_SECTOR;
    return sector <= sectors && len / BLOCK_SECTOR <= sectors - sector;
}

static bool cache_is_on(const struct virtio_blk *s)
{
    return virtio_has(&s->dev, F_CONFIG_WCE) ? s->config[CFG_WRITEBACK] : virtio_has(&s->dev, F_FLUSH);
}

// The *_prepare functions return a status to end the request with, or TO_DISK.
enum { TO_DISK = -1 };

static int transfer_prepare(struct blk_request *r, bool in, u64 sector)
{
    const struct virtq_elem *e = &r->elem;
    u64 out = e->out_len - HEADER, len = in ? e->in_len - 1 : out;
    if ((in ? out : e->in_len - 1) || len % BLOCK_SECTOR || len > (u64)SEGMENTS * SEGMENT_MAX || !in_range(r->s, sector, len)) return S_IOERR;
    if (!in && r->s->disk->read_only) return S_IOERR;
    if (!len) return S_OK;
    if (!(in ? segments_map(r, e->nout, e->nin, 0, len) : segments_map(r, 0, e->nout, HEADER, len))) return S_IOERR;
    r->b.op = in ? BLOCK_READ : BLOCK_WRITE;
    r->b.offset = sector * BLOCK_SECTOR;
    r->b.len = len;
    return TO_DISK;
}

static void range_prepare(struct blk_request *r)
{
    const struct range *g = &r->ranges[r->range];
    r->b.offset = g->sector * BLOCK_SECTOR;
    r->b.len = (u64)g->count * BLOCK_SECTOR;
    r->b.unmap = g->flags & RANGE_UNMAP;
}

static int ranges_prepare(struct blk_request *r, bool zeroes)
{
    struct virtio_blk *s = r->s;
    u64 len = r->elem.out_len - HEADER;
    if (!virtio_has(&s->dev, zeroes ? F_WRITE_ZEROES : F_DISCARD)) return S_UNSUPP;
    if (s->disk->read_only || !len || len % RANGE_LEN || len > RANGES * RANGE_LEN) return S_IOERR;
    r->nranges = len / RANGE_LEN;
    virtq_read(&s->dev, &r->elem, HEADER, r->ranges, len);
    for (unsigned i = 0; i < r->nranges; i++) {
        const struct range *g = &r->ranges[i];
        if (g->flags & ~(zeroes ? RANGE_UNMAP : 0)) return S_UNSUPP;       // 5.2.6.2: unmap is reserved in a discard
        if (g->count > RANGE_SECTORS || !in_range(s, g->sector, (u64)g->count * BLOCK_SECTOR)) return S_IOERR;
    }
    r->b.op = zeroes ? BLOCK_WRITE_ZEROES : BLOCK_DISCARD;
    range_prepare(r);
    return TO_DISK;
}

static int request_prepare(struct blk_request *r)
{
    struct virtio_blk *s = r->s;
    struct { u32 type, reserved; u64 sector; } h;
    virtq_read(&s->dev, &r->elem, 0, &h, sizeof h);
    r->nranges = r->range = 0;
    r->b = (struct block_request){.fua = !cache_is_on(s), .seg = r->seg, .done = r->b.done};
    switch (h.type) {
    case T_IN: return transfer_prepare(r, true, h.sector);
    case T_OUT: return transfer_prepare(r, false, h.sector);
    case T_FLUSH: r->b.op = BLOCK_FLUSH; return TO_DISK;
    case T_DISCARD: return ranges_prepare(r, false);
    case T_WRITE_ZEROES: return ranges_prepare(r, true);
    case T_GET_ID: return virtq_write(&s->dev, &r->elem, 0, s->id, min_u64(ID_LEN, r->elem.in_len - 1)) ? S_OK : S_IOERR;
    default: return S_UNSUPP;
    }
}

// ---- from disk request to the end ------------------------------------------------------------------------------------------

// One step of the request is done. True: there is another, prepared now.
static bool request_goes_on(struct blk_request *r)
{
    if (r->b.op == BLOCK_READ) memory_written(r);
    if (r->b.result != BLOCK_OK || ++r->range >= r->nranges) return false;
    range_prepare(r);
    return true;
}

static u8 request_status(const struct blk_request *r)
{
    return r->b.result == BLOCK_OK ? S_OK : r->b.result == BLOCK_UNSUPPORTED ? S_UNSUPP : S_IOERR;
}

static void request_done(struct block_request *b)
{
    struct blk_request *r = CONTAINER_OF(b, struct blk_request, b);
    struct virtio_blk *s = r->s;
    if (request_goes_on(r)) {
        s->disk->ops->submit(s->disk, &r->b);
        return;
    }
    request_finish(r, request_status(r));
    if (!s->serving) signal_ended(s);
}

// The next request of queue n, prepared or (*status not TO_DISK) to be ended. NULL: none, or none can be taken now.
static struct blk_request *request_take(struct virtio_blk *s, unsigned n, int *status)
{
    struct blk_queue *q = &s->queue[n];
    struct blk_request *r = q->free;
    if (!r) { q->starved = true; return NULL; }
    if (!virtq_pop(&s->dev, n, &r->elem)) return NULL;
    if (r->elem.out_len < HEADER || !r->elem.in_len) {
        virtio_fail(&s->dev, "a disk request without header or status");
        return NULL;
    }
    q->free = r->next_free;
    *status = request_prepare(r);
    return r;
}

// ---- locked service: under the BQL, the disk answers later ---------------------------------------------------------------

static void blk_notify(struct virtio_dev *d, unsigned n)
{
    struct virtio_blk *s = CONTAINER_OF(d, struct virtio_blk, dev);
    struct blk_request *r;
    unsigned budget = VIRTQ_MAX;
    u64 bytes = 0;
    int status;
    s->serving = true;
    while (budget && bytes < NOTIFY_BYTES && (r = request_take(s, n, &status))) {
        budget--;
        if (status == TO_DISK) {
            bytes += r->b.len;
            s->disk->ops->submit(s->disk, &r->b);
        } else {
            request_finish(r, status);
        }
    }
    s->serving = false;
    signal_ended(s);
    if (!budget || bytes >= NOTIFY_BYTES) virtq_more(d, n);
}

// ---- data plane: on the I/O thread, without the BQL --------------------------------------------------------------------------

static bool plane_enter(struct virtio_blk *s)
{
    __atomic_store_n(&s->busy, 1, __ATOMIC_SEQ_CST);
    if (!__atomic_load_n(&s->stopped, __ATOMIC_SEQ_CST)) return s->serving = true;
    __atomic_store_n(&s->busy, 0, __ATOMIC_SEQ_CST);
    return false;
}

static void plane_leave(struct virtio_blk *s)
{
    s->serving = false;
    signal_ended(s);
    __atomic_store_n(&s->busy, 0, __ATOMIC_SEQ_CST);
}

static void plane_run(struct virtio_blk *s, struct blk_request *r)
{
    do r->b.result = s->disk->ops->run(s->disk, &r->b);
    while (request_goes_on(r));
    request_finish(r, request_status(r));
}

static bool plane_one(struct virtio_blk *s, unsigned n)
{
    int status;
    struct blk_request *r = request_take(s, n, &status);
    if (!r) return false;
    if (status != TO_DISK) request_finish(r, status);
    else if (s->disk->ops->poll) s->disk->ops->submit(s->disk, &r->b);
    else plane_run(s, r);
    return true;
}

// True: the disk has requests under way.
static bool plane_poll(struct virtio_blk *s)
{
    if (!s->disk->ops->poll || !plane_enter(s)) return false;
    bool more = s->disk->ops->poll(s->disk);
    plane_leave(s);
    return more;
}

// True: there may be more, but it is others' turn.
static bool plane_queue(struct virtio_blk *s, unsigned n)
{
    for (unsigned budget = VIRTQ_MAX; budget; budget--) {
        if (!plane_enter(s)) return false;            // blk_exclusive wakes us when it is done
        bool any = plane_one(s, n);
        plane_leave(s);
        if (!any) return false;
    }
    return true;
}

void virtio_blk_serve(struct virtio_blk *s)
{
    u32 which = __atomic_exchange_n(&s->kicked, 0, __ATOMIC_SEQ_CST), again = 0;
    for (unsigned n = 0; n < s->dev.nqueues; n++)
        if ((which >> n & 1) && plane_queue(s, n)) again |= 1u << n;
    if (!plane_poll(s) && !again) return;
    __atomic_or_fetch(&s->kicked, again, __ATOMIC_SEQ_CST);
    plat_io_wake(s->io);
}

// Waits for one request at most. Afterwards every queue and the disk are looked at, as notifications may have come to nothing meanwhile.
static void blk_exclusive(struct virtio_dev *d, bool on)
{
    struct virtio_blk *s = CONTAINER_OF(d, struct virtio_blk, dev);
    __atomic_store_n(&s->stopped, on, __ATOMIC_SEQ_CST);
    while (on && __atomic_load_n(&s->busy, __ATOMIC_SEQ_CST)) __builtin_ia32_pause();
    if (on) return;
    __atomic_or_fetch(&s->kicked, (1u << d->nqueues) - 1, __ATOMIC_SEQ_CST);
    plat_io_wake(s->io);
}

void virtio_blk_finish(struct virtio_blk *s)
{
    DEVICE_LOCKED();
    if (s->io) blk_exclusive(&s->dev, true);
    s->disk->ops->drain(s->disk);
}

void virtio_blk_attention(struct virtio_blk *s) { virtio_attention(&s->dev); }

// ---- the device --------------------------------------------------------------------------------------------------------------

static void blk_queue_reset(struct virtio_dev *d, unsigned n UNUSED)
{
    struct virtio_blk *s = CONTAINER_OF(d, struct virtio_blk, dev);
    s->disk->ops->drain(s->disk);
}

static void blk_reset(struct virtio_dev *d)
{
    struct virtio_blk *s = CONTAINER_OF(d, struct virtio_blk, dev);
    s->disk->ops->drain(s->disk);
    s->config[CFG_WRITEBACK] = !s->disk->write_through;
}

static void blk_config_write(struct virtio_dev *d, unsigned off, u32 val, unsigned size)
{
    struct virtio_blk *s = CONTAINER_OF(d, struct virtio_blk, dev);
    if (off == CFG_WRITEBACK && size == 1 && virtio_has(d, F_CONFIG_WCE)) s->config[CFG_WRITEBACK] = val & 1;
}

static void put(struct virtio_blk *s, unsigned at, u64 v, unsigned size) { memcpy(s->config + at, &v, size); }

static void config_fill(struct virtio_blk *s, unsigned queues)
{
    const struct block *d = s->disk;
    u32 physical = max_u64(d->physical, BLOCK_SECTOR);
    put(s, CFG_CAPACITY, d->size / BLOCK_SECTOR, 8);
    put(s, CFG_SIZE_MAX, SEGMENT_MAX, 4);
    put(s, CFG_SEG_MAX, SEGMENTS, 4);
    put(s, CFG_BLK_SIZE, BLOCK_SECTOR, 4);
    put(s, CFG_PHYSICAL_EXP, __builtin_ctz(physical / BLOCK_SECTOR), 1);
    put(s, CFG_MIN_IO, physical / BLOCK_SECTOR, 2);
    put(s, CFG_WRITEBACK, !d->write_through, 1);
    put(s, CFG_QUEUES, queues, 2);
    put(s, CFG_MAX_DISCARD, RANGE_SECTORS, 4);
    put(s, CFG_DISCARD_SEGS, RANGES, 4);
    put(s, CFG_DISCARD_ALIGN, physical / BLOCK_SECTOR, 4);
    put(s, CFG_MAX_ZEROES, RANGE_SECTORS, 4);
    put(s, CFG_ZEROES_SEGS, RANGES, 4);
    put(s, CFG_ZEROES_UNMAP, 1, 1);
}

static void requests_create(struct virtio_blk *s, unsigned queues)
{
    struct blk_request *r = plat_pages_alloc(sizeof *r * VIRTQ_MAX * queues);
    if (!r) panic("no memory for virtio-blk's requests");
    for (unsigned i = 0; i < VIRTQ_MAX * queues; i++, r++) {
        struct blk_queue *q = &s->queue[i / VIRTQ_MAX];
        r->s = s;
        r->queue = i / VIRTQ_MAX;
        r->b.done = request_done;
        r->next_free = q->free;
        q->free = r;
    }
}

struct virtio_blk *virtio_blk_new(struct pci *b, struct block *disk, unsigned queues, const char *id, struct plat_io *io)
{
    static const struct virtio_ops ops = {.notify = blk_notify, .reset = blk_reset, .queue_reset = blk_queue_reset,
                                          .config_write = blk_config_write};
    static const struct virtio_ops plane_ops = {.kick = blk_kick, .exclusive = blk_exclusive, .reset = blk_reset,
                                                .queue_reset = blk_queue_reset, .config_write = blk_config_write};
    struct virtio_blk *s = plat_pages_alloc(sizeof *s);
    if (!s) panic("no memory for virtio-blk");
    ASSERT(queues && queues <= VIRTIO_QUEUES_MAX && disk->size % BLOCK_SECTOR == 0, "%s: %u queues", disk->name, queues);
    ASSERT(io || !disk->ops->poll, "%s: nobody polls it", disk->name);
    s->disk = disk;
    s->io = io;
    for (unsigned i = 0; i < ID_LEN && id && id[i]; i++) s->id[i] = id[i];
    config_fill(s, queues);
    requests_create(s, queues);
    struct virtio_type type = {.id = VIRTIO_ID_BLOCK, .class_code = 0x010000, .nqueues = queues, .config = s->config, .config_len = CONFIG_LEN,
        .features = BIT(F_SIZE_MAX) | BIT(F_SEG_MAX) | BIT(F_BLK_SIZE) | BIT(F_FLUSH) | BIT(F_TOPOLOGY) | BIT(F_CONFIG_WCE) |
                    (queues > 1 ? BIT(F_MQ) : 0)};
    type.features |= disk->read_only ? BIT(F_RO) : BIT(F_DISCARD) | BIT(F_WRITE_ZEROES);
    if (virtio_init(&s->dev, b, &type, io ? &plane_ops : &ops, "virtio-blk")) return s;
    plat_pages_free(s, sizeof *s);
    return NULL;
}
