// Driver for the host's virtio disks (virtio 1.2 chapter 5.2): what the guest's disk requests become on a machine that is itself a guest.
//
// One queue, one MSI-X vector. Entry i of the descriptor ring belongs to slot i and points to the slot's own indirect table, header and
// status, all within one page, so that the ring is written once and a request costs its table only. Data needs no copy: guest RAM is host
// RAM, contiguous at least by pages, and the device gets physical addresses.
//
// A request that needs more descriptors than a table has, or more than the device takes at once, goes in pieces, one after the other in the
// same slot; a write with FUA ends with a flush of its own. Requests beyond the number of slots wait in a list. Everything runs under the
// BQL, interrupt included.
//
// Unless the disk was opened for an I/O core, which polls it (devices/block.h): then nothing here takes a lock, and there is no interrupt.
// As long as something is under way that core looks at the used ring, turn after turn, which costs it no more than sleeping would, since
// it has nothing else to do; and what makes interrupts dear, a hypervisor, is there whenever this disk is.
#include "kernel/virtio_blk.h"

#include "kernel/base/bits.h"
#include "kernel/base/fmt.h"
#include "kernel/base/log.h"
#include "kernel/plat.h"
#include "kernel/pmem.h"
#include "kernel/traps.h"
#include "kernel/virtio_pci.h"
#include "kernel/vmem.h"

enum { DISKS = VIRTIO_BLK_DISKS, SLOTS = 32, TABLE = 160, TYPE_BLOCK = 2, PIECE_MAX = 4 << 20 };
enum { DESC_NEXT = 1, DESC_WRITE = 2, DESC_INDIRECT = 4, AVAIL_NO_INTERRUPT = 1, USED_NO_NOTIFY = 1 };
enum { T_IN = 0, T_OUT = 1, T_FLUSH = 4, T_DISCARD = 11, T_WRITE_ZEROES = 13, S_UNSUPP = 2 };
enum { F_SEG_MAX = 2, F_RO = 5, F_BLK_SIZE = 6, F_FLUSH = 9, F_TOPOLOGY = 10, F_DISCARD = 13, F_WRITE_ZEROES = 14, F_INDIRECT = 28 };
enum { CFG_CAPACITY = 0, CFG_SEG_MAX = 12, CFG_BLK_SIZE = 20, CFG_PHYSICAL_EXP = 24, CFG_MAX_DISCARD = 36, CFG_MAX_ZEROES = 48 };

struct desc { u64 addr; u32 len; u16 flags, next; };
struct avail { u16 flags, idx, ring[SLOTS], event; };
struct used { u16 flags, idx; struct { u32 id, len; } ring[SLOTS]; u16 event; };

// What the device sees of a slot: within one page.
struct slot_page {
    struct { u32 type, reserved; u64 sector; } header;
    struct { u64 sector; u32 count, flags; } range;
    u8 status;
    struct desc table[TABLE] __attribute__((aligned(16)));
};
_Static_assert(sizeof(struct slot_page) <= PAGE_SIZE, "physically contiguous");

struct slot {
    struct slot_page *page;
    struct block_request *r;      // NULL: free
    u64 pos, piece;               // bytes done; bytes of the piece under way
    bool flushing;                // the flush at the end of a write with FUA
};

struct vblk {
    struct block b;
    char name[16];
    unsigned number;
    struct vpci pci;
    bool polled;                  // by an I/O core
    u64 features;
    unsigned nslots, seg_max, pending;
    u64 max_discard, max_zeroes;  // bytes a piece
    struct desc *desc;
    volatile struct avail *avail;
    volatile struct used *used;
    u16 seen;                     // used entries taken
    struct slot slot[SLOTS];
    struct block_request *todo, **todo_end;
};

static struct { struct vblk disk[DISKS]; unsigned n; u8 *zero; } all;

static bool has(const struct vblk *d, unsigned bit) { return d->features >> bit & 1; }

// ---- making a piece -----------------------------------------------------------------------------------------------------

struct builder { struct desc *table; unsigned n, most; u64 bytes; };

static bool add(struct builder *t, u64 phys, u64 len, u16 flags)
{
    struct desc *last = t->n > 1 ? &t->table[t->n - 1] : NULL;       // the header stays alone
    if (last && last->addr + last->len == phys && last->flags == (flags | DESC_NEXT)) last->len += (u32)len;
    else if (t->n == t->most) return false;
    else {
        t->table[t->n] = (struct desc){phys, (u32)len, flags | DESC_NEXT, (u16)(t->n + 1)};
        t->n++;
    }
    t->bytes += len;
    return true;
}

// Host memory, by physical pages. False: the table is full (or, a bug, the memory is not mapped); what fitted is in it.
static bool add_memory(struct builder *t, u8 *p, u64 len, u16 flags)
{
    for (u64 n; len; p += n, len -= n) {
        u64 page, phys = vmem_phys((u64)p, &page);
        if (!phys) return false;
        n = min_u64(len, page - ((u64)p & (page - 1)));
        if (t->bytes + n > PIECE_MAX) n = PIECE_MAX - t->bytes;
        if (!n || !add(t, phys, n, flags)) return false;
    }
    return true;
}

// Takes bytes off the end until whole sectors are left.
static void trim(struct builder *t)
{
    for (u64 odd = t->bytes % BLOCK_SECTOR; odd;) {
        struct desc *last = &t->table[t->n - 1];
        u64 n = min_u64(odd, last->len);
        last->len -= (u32)n;
        t->bytes -= n;
        odd -= n;
        if (!last->len) t->n--;
    }
}

static void add_data(struct builder *t, const struct block_request *r, u64 pos, u16 flags)
{
    for (unsigned i = 0; i < r->nseg; i++) {
        if (pos >= r->seg[i].len) { pos -= r->seg[i].len; continue; }
        if (!add_memory(t, (u8 *)r->seg[i].base + pos, r->seg[i].len - pos, flags)) break;
        pos = 0;
    }
    trim(t);
}

static void add_zeroes(struct builder *t, u64 len)
{
    while (len && add_memory(t, all.zero, min_u64(len, PAGE_SIZE), 0)) len -= min_u64(len, PAGE_SIZE);
    trim(t);
}

static u64 slot_phys(const struct slot *s, const void *p) { return vmem_phys((u64)s->page, NULL) + (u64)((const u8 *)p - (const u8 *)s->page); }

// A discard or write-zeroes command for the next bytes: one range.
static u32 add_range(struct builder *t, struct slot *s, bool zeroes, u64 most)
{
    const struct block_request *r = s->r;
    u64 len = min_u64(r->len - s->pos, most);
    s->page->range.sector = (r->offset + s->pos) / BLOCK_SECTOR;
    s->page->range.count = (u32)(len / BLOCK_SECTOR);
    s->page->range.flags = zeroes && r->unmap;
    (void)add(t, slot_phys(s, &s->page->range), 16, 0);
    t->bytes = len;
    return zeroes ? T_WRITE_ZEROES : T_DISCARD;
}

// Fills the slot's table for what comes next of its request. False: nothing can be done for it.
static bool piece_build(struct vblk *d, struct slot *s)
{
    struct slot_page *p = s->page;
    const struct block_request *r = s->r;
    struct builder t = {.table = p->table, .most = (unsigned)min_u64(TABLE - 1, d->seg_max + 1)};
    (void)add(&t, slot_phys(s, &p->header), 16, 0);
    t.bytes = 0;
    p->header.type = T_OUT;
    if (s->flushing || r->op == BLOCK_FLUSH) p->header.type = T_FLUSH;
    else if (r->op == BLOCK_READ) add_data(&t, r, s->pos, DESC_WRITE);
    else if (r->op == BLOCK_WRITE) add_data(&t, r, s->pos, 0);
    else if (r->op == BLOCK_DISCARD) p->header.type = add_range(&t, s, false, d->max_discard);
    else if (d->max_zeroes) p->header.type = add_range(&t, s, true, d->max_zeroes);
    else add_zeroes(&t, r->len - s->pos);
    if (r->op == BLOCK_READ) p->header.type = T_IN;
    p->header.reserved = 0;
    p->header.sector = p->header.type == T_IN || p->header.type == T_OUT ? (r->offset + s->pos) / BLOCK_SECTOR : 0;
    p->status = 0xff;
    p->table[t.n] = (struct desc){slot_phys(s, &p->status), 1, DESC_WRITE, 0};
    s->piece = t.bytes;
    d->desc[s - d->slot].len = (t.n + 1) * (u32)sizeof(struct desc);
    return t.bytes || p->header.type == T_FLUSH;
}

static void publish(struct vblk *d, unsigned i)
{
    u16 idx = d->avail->idx;
    d->avail->ring[idx % d->nslots] = (u16)i;
    __atomic_thread_fence(__ATOMIC_SEQ_CST);
    d->avail->idx = (u16)(idx + 1);
    __atomic_thread_fence(__ATOMIC_SEQ_CST);
    if (!(d->used->flags & USED_NO_NOTIFY)) vpci_notify(&d->pci);   // 2.7.10: the device is at the ring anyway
}

// ---- the life of a request ------------------------------------------------------------------------------------------------

// Requests that the disk cannot do, and need not.
static bool nothing_to_do(const struct vblk *d, const struct block_request *r)
{
    if (r->op == BLOCK_FLUSH) return !has(d, F_FLUSH);
    return !r->len || (r->op == BLOCK_DISCARD && !d->max_discard);
}

static void request_end(struct vblk *d, struct slot *s, enum block_result result);

static void slot_go(struct vblk *d, struct slot *s)
{
    if (piece_build(d, s)) publish(d, (unsigned)(s - d->slot));
    else request_end(d, s, BLOCK_FAILED);
}

static void slot_start(struct vblk *d, struct slot *s, struct block_request *r)
{
    s->r = r;
    s->pos = 0;
    s->flushing = false;
    if (nothing_to_do(d, r)) request_end(d, s, BLOCK_OK);
    else slot_go(d, s);
}

// done() may submit again, so the slot is free by then.
static void request_end(struct vblk *d, struct slot *s, enum block_result result)
{
    struct block_request *r = s->r;
    s->r = NULL;
    r->result = result;
    d->pending--;
    r->done(r);
    if (s->r || !d->todo) return;
    r = d->todo;
    d->todo = r->next;
    if (!d->todo) d->todo_end = &d->todo;
    slot_start(d, s, r);
}

static void slot_done(struct vblk *d, struct slot *s)
{
    u8 status = *(volatile u8 *)&s->page->status;
    if (status) {
        log_once(LOG_WARN, "%s: the host's disk answers with status %u; the guest sees an error (said once)", d->name, status);
        request_end(d, s, status == S_UNSUPP ? BLOCK_UNSUPPORTED : BLOCK_FAILED);
        return;
    }
    s->pos += s->piece;
    bool more = s->r->op != BLOCK_FLUSH && s->pos < s->r->len;
    if (!more && s->r->fua && !s->flushing && s->r->op != BLOCK_READ && s->r->op != BLOCK_FLUSH && has(d, F_FLUSH)) s->flushing = more = true;
    if (more) slot_go(d, s);
    else request_end(d, s, BLOCK_OK);
}

static void collect(struct vblk *d)
{
    while (d->seen != d->used->idx) {
        __atomic_thread_fence(__ATOMIC_ACQUIRE);
        u32 id = d->used->ring[d->seen++ % d->nslots].id;
        if (id < d->nslots && d->slot[id].r) slot_done(d, &d->slot[id]);
        else log_once(LOG_WARN, "%s: the host's disk gives back descriptor %u, which it does not have (said once)", d->name, id);
    }
}

static void vblk_submit(struct block *b, struct block_request *r)
{
    struct vblk *d = CONTAINER_OF(b, struct vblk, b);
    d->pending++;
    for (unsigned i = 0; !d->todo && i < d->nslots; i++) {
        if (d->slot[i].r) continue;
        slot_start(d, &d->slot[i], r);
        return;
    }
    r->next = NULL;
    *d->todo_end = r;
    d->todo_end = &r->next;
}

static void vblk_drain(struct block *b)
{
    struct vblk *d = CONTAINER_OF(b, struct vblk, b);
    for (collect(d); d->pending; collect(d)) __builtin_ia32_pause();
}

static bool vblk_poll(struct block *b)
{
    struct vblk *d = CONTAINER_OF(b, struct vblk, b);
    collect(d);
    return d->pending;
}

static void run_done(struct block_request *r UNUSED) {}

static enum block_result vblk_run(struct block *b, struct block_request *r)
{
    struct block_request mine = *r;
    mine.done = run_done;
    bql_lock();
    vblk_submit(b, &mine);
    vblk_drain(b);
    bql_unlock();
    return mine.result;
}

void virtio_blk_interrupt(void)
{
    bql_lock();
    for (unsigned i = 0; i < all.n; i++)
        if (!all.disk[i].polled) collect(&all.disk[i]);
    bql_unlock();
}

void virtio_blk_finish_all(void)
{
    for (unsigned i = 0; i < all.n; i++) {
        struct block_request flush = {.op = BLOCK_FLUSH};
        if (vblk_run(&all.disk[i].b, &flush) != BLOCK_OK) log_warn("%s: the last flush failed", all.disk[i].name);
    }
}

// ---- bring-up ---------------------------------------------------------------------------------------------------------------

static void limits_read(struct vblk *d)
{
    d->b.size = vpci_config(&d->pci, CFG_CAPACITY, 8) * BLOCK_SECTOR;
    d->b.read_only = has(d, F_RO);
    d->b.physical = BLOCK_SECTOR;
    if (has(d, F_BLK_SIZE) && has(d, F_TOPOLOGY))
        d->b.physical = (u32)vpci_config(&d->pci, CFG_BLK_SIZE, 4) << (vpci_config(&d->pci, CFG_PHYSICAL_EXP, 1) & 7);
    if (d->b.physical < BLOCK_SECTOR || d->b.physical > 65536 || (d->b.physical & (d->b.physical - 1))) d->b.physical = BLOCK_SECTOR;
    d->seg_max = has(d, F_SEG_MAX) ? (unsigned)vpci_config(&d->pci, CFG_SEG_MAX, 4) : TABLE;
    d->max_discard = has(d, F_DISCARD) ? vpci_config(&d->pci, CFG_MAX_DISCARD, 4) * BLOCK_SECTOR : 0;
    d->max_zeroes = has(d, F_WRITE_ZEROES) ? vpci_config(&d->pci, CFG_MAX_ZEROES, 4) * BLOCK_SECTOR : 0;
}

// Rings and slots, each within a page of its own.
static bool memory_get(struct vblk *d)
{
    _Static_assert(sizeof(struct desc) * SLOTS <= PAGE_SIZE && sizeof(struct used) <= PAGE_SIZE, "one page each");
    d->desc = vmem_alloc(PAGE_SIZE);
    d->avail = vmem_alloc(PAGE_SIZE);
    d->used = vmem_alloc(PAGE_SIZE);
    bool ok = d->desc && d->avail && d->used && (all.zero || (all.zero = vmem_alloc(PAGE_SIZE)));
    for (unsigned i = 0; ok && i < SLOTS; i++) ok = (d->slot[i].page = vmem_alloc(PAGE_SIZE)) != NULL;
    for (unsigned i = 0; ok && i < SLOTS; i++)
        d->desc[i] = (struct desc){.addr = slot_phys(&d->slot[i], d->slot[i].page->table), .flags = DESC_INDIRECT};
    return ok;
}

static const char *bring_up(struct vblk *d)
{
    d->features = BIT(F_SEG_MAX) | BIT(F_RO) | BIT(F_BLK_SIZE) | BIT(F_FLUSH) | BIT(F_TOPOLOGY) | BIT(F_DISCARD) | BIT(F_WRITE_ZEROES) |
                  BIT(F_INDIRECT);
    if (!vpci_start(&d->pci, &d->features) || !has(d, F_INDIRECT)) return "is of a kind that this driver does not know";
    u16 size = SLOTS;
    u8 vector = d->polled ? 0 : VEC_VIRTIO_BLK;
    if (!memory_get(d)) return "needs memory that is not there";
    if (d->polled) d->avail->flags = AVAIL_NO_INTERRUPT;
    if (!vpci_queue(&d->pci, &size, vmem_phys((u64)d->desc, NULL), vmem_phys((u64)d->avail, NULL), vmem_phys((u64)d->used, NULL), vector))
        return "has no queue or no MSI-X";
    d->nslots = size;
    limits_read(d);
    vpci_go(&d->pci);
    return d->b.size ? NULL : "is empty";
}

struct block *virtio_blk_open(unsigned n, bool polled, char *err, size_t errlen)
{
    static const struct block_ops ops = {.submit = vblk_submit, .drain = vblk_drain, .run = vblk_run};
    static const struct block_ops polled_ops = {.submit = vblk_submit, .drain = vblk_drain, .run = vblk_run, .poll = vblk_poll};
    for (unsigned i = 0; i < all.n; i++) {
        if (all.disk[i].number != n) continue;
        if (all.disk[i].polled == polled) return &all.disk[i].b;
        fmt_snprintf(err, errlen, "virtio%u is in use by an I/O core; leave iothread out", n);
        return NULL;
    }
    ASSERT(all.n < DISKS && n < DISKS, "disk %u, %u of them open", n, all.n);
    struct vblk *d = &all.disk[all.n];
    d->number = n;
    fmt_snprintf(d->name, sizeof d->name, "virtio%u", n);
    if (!vpci_find(TYPE_BLOCK, n, &d->pci)) {
        fmt_snprintf(err, errlen, "drive: this PC has no virtio disk of number %u (they count from 0)", n);
        return NULL;
    }
    d->todo_end = &d->todo;
    d->polled = polled;
    d->b = (struct block){.ops = polled ? &polled_ops : &ops, .name = d->name};
    const char *wrong = bring_up(d);
    if (wrong) {
        fmt_snprintf(err, errlen, "drive: this PC's virtio disk %u %s", n, wrong);
        return NULL;
    }
    all.n++;
    log_info("%s: the host's disk, %llu MiB%s", d->name, (unsigned long long)(d->b.size / MIB), d->b.read_only ? ", read-only" : "");
    return &d->b;
}
