// The split virtqueue (virtio 1.2 chapter 2.7), device side.
//
// Three rings in guest RAM: descriptors, what the driver made available, what we have used. The driver may run on another core
// while we look, and may write anything at any time: so each index and descriptor is read once into a local, checked, and used from
// there. Loops are bounded by the queue size, also over descriptors that point in circles. Indices are read and written whole
// (phys_ld, phys_st).
//
// Ordering. The available index is read before the entries it covers, used entries are written before the used index. Where one
// side writes its index and then looks whether the other wants to be told (event index, interrupt suppression), a full fence stands
// between.
#include "devices/virtio.h"
#include "kernel/base/bits.h"

enum { DESC_NEXT = 1, DESC_WRITE = 2, DESC_INDIRECT = 4, DESC_SIZE = 16, AVAIL_NO_INTERRUPT = 1 };

struct desc { u64 addr; u32 len; u16 flags, next; };
_Static_assert(sizeof(struct desc) == DESC_SIZE, "2.7.5");

static struct phys *phys_of(struct virtio_dev *d) { return pci_phys(d->pci.bus); }

// All of a..a+len-1 is RAM. Page by page: what covers a part of a region covers whole pages.
static bool is_ram(struct virtio_dev *d, u64 a, u64 len)
{
    if (!len || a + len - 1 < a) return !len;
    for (u64 page = a & PAGE_MASK; page <= a + len - 1; page += PAGE_SIZE) {
        const struct region *r = phys_find(phys_of(d), gpa(page));
        if (!r || r->kind != REGION_RAM) return false;
        if (page + PAGE_SIZE < page) break;
    }
    return true;
}

static u16 ld16(struct virtio_dev *d, u64 a) { return phys_ld(phys_of(d), gpa(a), 2); }
static u64 used_event_at(const struct virtq *q) { return q->avail + 4 + 2ull * q->size; }
static u64 avail_event_at(const struct virtq *q) { return q->used + 4 + 8ull * q->size; }

bool virtq_enable(struct virtio_dev *d, struct virtq *q)
{
    VIRTIO_LOCKED(d);
    if (!q->size || q->size > VIRTQ_MAX || (q->size & (q->size - 1))) return false;
    if ((q->desc & 15) || (q->avail & 1) || (q->used & 3)) return false;
    if (!is_ram(d, q->desc, DESC_SIZE * q->size) || !is_ram(d, q->avail, 6 + 2 * q->size) || !is_ram(d, q->used, 6 + 8 * q->size))
        return false;
    q->last_avail = q->next_used = q->signalled = 0;
    q->enabled = true;
    return true;
}

// Rings were RAM when the queue was enabled, but a BAR may have been laid over them since.
static bool rings_ok(struct virtio_dev *d, const struct virtq *q)
{
    return is_ram(d, q->desc, DESC_SIZE * q->size) && is_ram(d, q->avail, 6 + 2 * q->size) && is_ram(d, q->used, 6 + 8 * q->size);
}

// ---- taking a chain -----------------------------------------------------------------------------------------------

static bool segment_add(struct virtio_dev *d, struct virtq_elem *e, const struct desc *s)
{
    unsigned n = e->nout + e->nin;
    bool in = s->flags & DESC_WRITE;
    if (n == VIRTQ_MAX || (!in && e->nin)) return false;                                  // 2.7.4.2: readable ones first
    if (e->in_len + e->out_len + s->len > 4 * GIB || !is_ram(d, s->addr, s->len)) return false;
    e->seg[n].addr = s->addr;
    e->seg[n].len = s->len;
    if (in) { e->nin++; e->in_len += s->len; }
    else { e->nout++; e->out_len += s->len; }
    return true;
}

static void desc_read(struct virtio_dev *d, u64 table, u16 i, struct desc *s)
{
    phys_read(phys_of(d), gpa(table + (u64)DESC_SIZE * i), s, sizeof *s);
}

// Follows next links from descriptor i of a table of n; direct: indirect tables are allowed here.
static bool chain_walk(struct virtio_dev *d, struct virtq_elem *e, u64 table, unsigned n, u16 i, bool direct)
{
    for (unsigned steps = 0; steps < n; steps++) {
        struct desc s;
        if (i >= n) return false;
        desc_read(d, table, i, &s);
        if (s.flags & DESC_INDIRECT) {                        // 2.7.5.3: last of its chain, not nested, whole descriptors
            if (!direct || !virtio_has(d, VIRTIO_F_INDIRECT) || (s.flags & DESC_NEXT)) return false;
            unsigned count = s.len / DESC_SIZE;
            if (!count || s.len % DESC_SIZE || count > VIRTQ_MAX || !is_ram(d, s.addr, s.len)) return false;
            return chain_walk(d, e, s.addr, count, 0, false);
        }
        if (!segment_add(d, e, &s)) return false;
        if (!(s.flags & DESC_NEXT)) return true;
        i = s.next;
    }
    return false;                                             // a circle
}

// Says from which entry on we want to be notified.
static void avail_event_set(struct virtio_dev *d, const struct virtq *q)
{
    if (!virtio_has(d, VIRTIO_F_EVENT_IDX)) return;
    phys_st(phys_of(d), gpa(avail_event_at(q)), q->last_avail, 2);
    __atomic_thread_fence(__ATOMIC_SEQ_CST);
}

bool virtq_pop(struct virtio_dev *d, unsigned n, struct virtq_elem *e)
{
    VIRTIO_LOCKED(d);
    struct virtq *q = &d->q[n];
    if (!virtio_running(d) || !q->enabled) return false;
    if (!rings_ok(d, q)) { virtio_fail(d, "a ring is not in RAM"); return false; }
    u16 idx = ld16(d, q->avail + 2);
    if (idx == q->last_avail) {                               // looks empty: ask to be told, then look again
        avail_event_set(d, q);
        idx = ld16(d, q->avail + 2);
        if (idx == q->last_avail) return false;
    }
    if ((u16)(idx - q->last_avail) > q->size) { virtio_fail(d, "available index runs ahead of the ring"); return false; }
    __atomic_thread_fence(__ATOMIC_ACQUIRE);
    e->head = ld16(d, q->avail + 4 + 2ull * (q->last_avail & (q->size - 1)));
    e->nout = e->nin = 0;
    e->out_len = e->in_len = 0;
    if (!chain_walk(d, e, q->desc, q->size, e->head, true)) { virtio_fail(d, "bad descriptor chain"); return false; }
    q->last_avail++;
    return true;
}

// ---- giving it back ---------------------------------------------------------------------------------------------------

void virtq_push(struct virtio_dev *d, unsigned n, const struct virtq_elem *e, u32 written)
{
    VIRTIO_LOCKED(d);
    struct virtq *q = &d->q[n];
    if (!virtio_running(d) || !q->enabled) return;
    phys_st(phys_of(d), gpa(q->used + 4 + 8ull * (q->next_used & (q->size - 1))), e->head | (u64)written << 32, 8);
    __atomic_thread_fence(__ATOMIC_RELEASE);
    q->next_used++;
    phys_st(phys_of(d), gpa(q->used + 2), q->next_used, 2);
}

// 2.7.7.2 and 2.7.10: was the index that the driver waits for among those pushed since the last look?
void virtq_signal(struct virtio_dev *d, unsigned n)
{
    VIRTIO_LOCKED(d);
    struct virtq *q = &d->q[n];
    u16 old = q->signalled, now = q->next_used;
    if (!virtio_running(d) || !q->enabled || old == now) return;
    __atomic_thread_fence(__ATOMIC_SEQ_CST);
    q->signalled = now;
    if (virtio_has(d, VIRTIO_F_EVENT_IDX)) {
        u16 event = ld16(d, used_event_at(q));
        if ((u16)(now - event - 1) >= (u16)(now - old)) return;
    } else if (ld16(d, q->avail) & AVAIL_NO_INTERRUPT) {
        return;
    }
    virtio_interrupt(d, q->vector, 1);
}

// ---- the bytes of a chain -------------------------------------------------------------------------------------------------

// Copies between buf and the segments first..first+count-1 at byte offset off.
static u32 chain_copy(struct virtio_dev *d, const struct virtq_elem *e, unsigned first, unsigned count, u64 off, u8 *buf, u32 len, bool in)
{
    u32 done = 0;
    for (unsigned i = first; i < first + count && done < len; i++) {
        if (off >= e->seg[i].len) { off -= e->seg[i].len; continue; }
        u32 n = min_u64(len - done, e->seg[i].len - off);
        struct gpa a = gpa(e->seg[i].addr + off);
        if (in) phys_write(phys_of(d), a, buf + done, n);
        else phys_read(phys_of(d), a, buf + done, n);
        done += n;
        off = 0;
    }
    return done;
}

u32 virtq_read(struct virtio_dev *d, const struct virtq_elem *e, u64 off, void *buf, u32 len)
{
    VIRTIO_LOCKED(d);
    return chain_copy(d, e, 0, e->nout, off, buf, len, false);
}

u32 virtq_write(struct virtio_dev *d, const struct virtq_elem *e, u64 off, const void *buf, u32 len)
{
    VIRTIO_LOCKED(d);
    return chain_copy(d, e, e->nout, e->nin, off, (u8 *)buf, len, true);   // only read from: the direction is `in`
}
