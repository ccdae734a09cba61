// The guest's physical memory map and port map.
//
// Writers (BQL held) keep a list of regions, newest first, and resolve it into a sorted array of disjoint spans whenever it
// changes. Readers search that array without a lock. Instead of a grace period there is a ring of MAPS preallocated arrays and a
// sequence number: map `s` lives in slot s % MAPS and is built there before seq becomes s. A reader copies the span it found and
// then looks at seq again; the slot can have been touched only if MAPS - 1 or more changes happened meanwhile, and then it searches
// again. So memory is bounded however often a guest moves its BARs, nothing is allocated by a change, and a reader never waits for
// a writer.
//
// A struct region is never freed: phys_remove only takes it off the map (devices that move use phys_remap), so the pointer that
// phys_find returned stays good. The copy of base in a span, not region->base, is what the dispatcher computes with: a remap on
// another core may be changing region->base at this moment.
//
// An MMIO or port access belongs whole to the region at its first byte if it fits into that region, even where another region lies
// over its later bytes: that is how port 0xcf9 (reset) lives inside the dword at 0xcf8 (PCI configuration address), as in the
// chipset's own decoder.
#include "tcg/phys.h"

#include "kernel/base/bits.h"
#include "kernel/base/log.h"
#include "kernel/plat.h"
#include "tcg/irq.h"
#include "tcg/run/vcpu.h"

enum { MAPS = 8, REGIONS_MAX = 256, SPANS_MAX = 2 * REGIONS_MAX };

struct span { u64 first, last, base; struct region *r; };
// hot: the largest span of RAM; hot_host: its host address less its base.
struct map { unsigned n; struct span s[SPANS_MAX]; struct span hot; u8 *hot_host; };
struct slot { struct region r; bool mapped; };

// One address space: memory or ports.
struct space {
    u64 seq;                        // atomic; the current map is maps[seq % MAPS]
    struct map maps[MAPS];
    // ---- BQL ----
    struct region *head;            // newest first
    unsigned count;
    struct slot slots[REGIONS_MAX]; // a region's slot, in order of creation
};

struct phys {
    struct space mem, port;
    struct phys_hooks hooks;
};

// Copies with string instructions: a device may be called with the guest's vector state live, and libc's memcpy may use it.
// Words are moved whole, because rings shared with another core are read and written through here.
typedef volatile u16 __attribute__((may_alias, aligned(1))) word16;
typedef volatile u32 __attribute__((may_alias, aligned(1))) word32;
typedef volatile u64 __attribute__((may_alias, aligned(1))) word64;
static void copy_bytes(void *d, const void *s, u64 n)
{
    switch (n) {
    case 2: *(word16 *)d = *(const word16 *)s; break;
    case 4: *(word32 *)d = *(const word32 *)s; break;
    case 8: *(word64 *)d = *(const word64 *)s; break;
    default: __asm__ volatile("rep movsb" : "+D"(d), "+S"(s), "+c"(n) : : "memory");
    }
}
static void fill_bytes(void *d, u8 v, u64 n) { __asm__ volatile("rep stosb" : "+D"(d), "+c"(n) : "a"(v) : "memory"); }

struct phys *phys_new(void)
{
    struct phys *p = plat_pages_alloc(sizeof *p);
    if (!p) panic("no memory for the guest's memory map (%zu KiB)", sizeof *p / 1024);
    return p;
}

void phys_set_hooks(struct phys *p, const struct phys_hooks *h) { p->hooks = *h; }

// ---- building a map -----------------------------------------------------------------------------------------

static void span_insert(struct map *m, unsigned at, struct span s)
{
    ASSERT(m->n < SPANS_MAX, "%u spans", m->n);
    for (unsigned i = m->n++; i > at; i--) m->s[i] = m->s[i - 1];
    m->s[at] = s;
}

static void span_delete(struct map *m, unsigned at)
{
    m->n--;
    for (unsigned i = at; i < m->n; i++) m->s[i] = m->s[i + 1];
}

// Lays r over what is in m already: cuts, splits or drops the spans it covers.
static void map_paint(struct map *m, struct region *r)
{
    u64 first = r->base, last = r->base + r->size - 1;
    unsigned i = 0;
    while (i < m->n && m->s[i].last < first) i++;
    while (i < m->n && m->s[i].first <= last) {
        struct span old = m->s[i];
        if (old.first < first && old.last > last) {           // r lies inside: two pieces remain
            m->s[i].last = first - 1;
            span_insert(m, i + 1, (struct span){last + 1, old.last, old.base, old.r});
            i++;
            break;
        }
        if (old.first < first) m->s[i++].last = first - 1;
        else if (old.last > last) { m->s[i].first = last + 1; break; }
        else span_delete(m, i);
    }
    span_insert(m, i, (struct span){first, last, r->base, r});
}

static bool region_mapped(const struct region *r) { return CONTAINER_OF(r, struct slot, r)->mapped; }

// Resolves the list into the next slot of the ring and publishes it. Oldest first, so that later regions cover earlier ones: slots are in
// order of creation.
static void space_publish(struct phys *p, struct space *sp)
{
    ASSERT(bql_held() || !p->hooks.map_changed, "the memory map changes without the BQL");   // without hooks nobody runs yet
    u64 seq = sp->seq + 1;
    struct map *m = &sp->maps[seq % MAPS];
    m->n = 0;
    for (unsigned i = 0; i < sp->count; i++)
        if (sp->slots[i].mapped) map_paint(m, &sp->slots[i].r);
    m->hot = (struct span){1, 0, 0, NULL};
    for (unsigned i = 0; i < m->n; i++)
        if (m->s[i].r->kind == REGION_RAM && (!m->hot.r || m->s[i].last - m->s[i].first > m->hot.last - m->hot.first)) m->hot = m->s[i];
    m->hot_host = m->hot.r ? m->hot.r->host - m->hot.base : NULL;
    __atomic_store_n(&sp->seq, seq, __ATOMIC_RELEASE);
    if (p->hooks.map_changed) p->hooks.map_changed(p->hooks.opaque);
}

// ---- changing the map ------------------------------------------------------------------------------------------

static struct region *region_add(struct phys *p, struct space *sp, struct region r)
{
    ASSERT(r.size && r.base + r.size - 1 >= r.base, "%s: base %#llx size %#llx", r.name, (unsigned long long)r.base,
           (unsigned long long)r.size);
    ASSERT(sp->count < REGIONS_MAX, "%s is one region too many", r.name);
    struct slot *s = &sp->slots[sp->count++];
    s->r = r;
    s->r.next = sp->head;
    s->mapped = true;
    sp->head = &s->r;
    space_publish(p, sp);
    return &s->r;
}

static struct region *backed_add(struct phys *p, enum region_kind kind, struct gpa base, u64 size, u8 *host, const char *name)
{
    ASSERT(!((base.v | size) & ~PAGE_MASK), "%s: base %#llx size %#llx", name, (unsigned long long)base.v, (unsigned long long)size);
    return region_add(p, &p->mem, (struct region){.base = base.v, .size = size, .kind = kind, .host = host, .name = name});
}

struct region *phys_add_ram(struct phys *p, struct gpa base, u64 size, u8 *host, const char *name)
{
    return backed_add(p, REGION_RAM, base, size, host, name);
}

struct region *phys_add_rom(struct phys *p, struct gpa base, u64 size, u8 *host, const char *name)
{
    return backed_add(p, REGION_ROM, base, size, host, name);
}

struct region *phys_add_mmio(struct phys *p, struct gpa base, u64 size, const struct io_ops *ops, void *opaque, const char *name)
{
    return region_add(p, &p->mem, (struct region){.base = base.v, .size = size, .kind = REGION_MMIO, .ops = ops, .opaque = opaque,
        .name = name});
}

struct region *phys_add_ports(struct phys *p, u16 base, unsigned count, const struct io_ops *ops, void *opaque, const char *name)
{
    ASSERT(base + count <= 0x10000, "%s: ports %#x+%u", name, base, count);
    return region_add(p, &p->port, (struct region){.base = base, .size = count, .kind = REGION_MMIO, .ops = ops, .opaque = opaque,
        .name = name});
}

static struct space *space_of(struct phys *p, const struct region *r)
{
    const struct slot *s = CONTAINER_OF(r, struct slot, r);
    return s >= p->port.slots && s < p->port.slots + REGIONS_MAX ? &p->port : &p->mem;
}

void phys_remap(struct phys *p, struct region *r, u64 base, bool mapped)
{
    struct slot *s = CONTAINER_OF(r, struct slot, r);
    struct space *sp = space_of(p, r);
    u64 top = sp == &p->port ? 0xffff : UINT64_MAX;
    if (base + r->size - 1 < base || base + r->size - 1 > top) mapped = false;   // runs off the space: answers nowhere
    if (s->mapped == mapped && (!mapped || r->base == base)) return;
    s->mapped = mapped;
    r->base = base;
    space_publish(p, sp);
}

void phys_remove(struct phys *p, struct region *r) { phys_remap(p, r, r->base, false); }

void phys_walk(struct phys *p, void (*fn)(void *opaque, const struct region *r, bool port), void *opaque)
{
    for (const struct region *r = p->mem.head; r; r = r->next)
        if (region_mapped(r)) fn(opaque, r, false);
    for (const struct region *r = p->port.head; r; r = r->next)
        if (region_mapped(r)) fn(opaque, r, true);
}

// ---- looking up ---------------------------------------------------------------------------------------------------

// The span that holds a, copied, or one with r NULL that reaches to where the next begins. n and the indices are re-checked against the
// array's bounds because the slot may be rewritten while it is read; the answer is then thrown away.
static struct span map_search(const struct map *m, u64 a)
{
    unsigned lo = 0, hi = min_u64(__atomic_load_n(&m->n, __ATOMIC_RELAXED), SPANS_MAX);
    while (lo < hi) {
        unsigned mid = (lo + hi) / 2;
        if (m->s[mid].last < a) lo = mid + 1;
        else hi = mid;
    }
    unsigned n = min_u64(__atomic_load_n(&m->n, __ATOMIC_RELAXED), SPANS_MAX);
    if (lo >= n) return (struct span){a, UINT64_MAX, 0, NULL};
    struct span s = m->s[lo];
    if (s.first > a) return (struct span){a, s.first - 1, 0, NULL};
    return s;
}

static struct span space_find(const struct space *sp, u64 a)
{
    for (;;) {
        u64 seq = __atomic_load_n(&sp->seq, __ATOMIC_ACQUIRE);
        const struct map *m = &sp->maps[seq % MAPS];
        struct span s = a >= m->hot.first && a <= m->hot.last ? m->hot : map_search(m, a);
        __atomic_thread_fence(__ATOMIC_ACQUIRE);
        if (__atomic_load_n(&sp->seq, __ATOMIC_RELAXED) - seq < MAPS - 1) return s;
    }
}

struct region *phys_find(struct phys *p, struct gpa a) { return space_find(&p->mem, a.v).r; }

struct region *phys_find_host(struct phys *p, struct gpa a, u8 **host)
{
    struct span s = space_find(&p->mem, a.v);
    *host = s.r && s.r->kind != REGION_MMIO ? s.r->host + (a.v - s.base) : NULL;
    return s.r;
}

// Page walks come here for each level: most tables are in the largest span of RAM, and that is not worth a copy of the span.
u8 *phys_host(struct phys *p, struct gpa a)
{
    const struct space *sp = &p->mem;
    u64 seq = __atomic_load_n(&sp->seq, __ATOMIC_ACQUIRE);
    const struct map *m = &sp->maps[seq % MAPS];
    u8 *host = m->hot_host + a.v;
    bool hot = a.v >= m->hot.first && a.v <= m->hot.last;
    __atomic_thread_fence(__ATOMIC_ACQUIRE);
    if (hot && __atomic_load_n(&sp->seq, __ATOMIC_RELAXED) == seq) return host;
    (void)phys_find_host(p, a, &host);
    return host;
}

// ---- device accesses --------------------------------------------------------------------------------------------------

struct access_ctx { struct phys *p; const struct space *sp; bool lock; };   // lock: the caller does not hold the BQL

// How much of `left` bytes at a the device takes at once: a power of two, aligned, within the region and max_size.
static unsigned chunk_size(const struct access_ctx *x, const struct span *s, u64 a, unsigned left)
{
    unsigned max = x->sp == &x->p->port ? 4 : 8;
    if (s->r->ops->max_size && s->r->ops->max_size < max) max = s->r->ops->max_size;
    u64 room = s->base + s->r->size - a;
    unsigned n = 1;
    while (n * 2 <= left && n * 2 <= max && n * 2 <= room && !(a & (n * 2 - 1))) n *= 2;
    return n;
}

// A vCPU's access: a device's code may reach libc (see kernel/plat.h), so the guest's vector state leaves the host's registers
// first. Unlocked regions are those that are hot and call nothing; they are spared.
static void device_enter(const struct access_ctx *x, const struct region *r)
{
    if (!x->lock || r->ops->unlocked) return;
    struct vcpu *c = vcpu_current();
    if (c) vcpu_fpu_release(c);
    bql_lock();
}

// Every access to a device passes here, so this is where "the BQL is held" is asserted for their callbacks.
static void device_locked(const struct region *r)
{
    ASSERT(r->ops->unlocked || bql_held(), "%s accessed without the BQL", r->name);
}

static void device_leave(const struct access_ctx *x, const struct region *r)
{
    if (x->lock && !r->ops->unlocked) bql_unlock();
}

static u64 device_read(const struct access_ctx *x, const struct span *s, u64 a, unsigned n)
{
    if (!s->r->ops->read) return bits_zext(UINT64_MAX, n);
    device_enter(x, s->r);
    device_locked(s->r);
    u64 v = s->r->ops->read(s->r->opaque, a - s->base, n);
    device_leave(x, s->r);
    return bits_zext(v, n);
}

static void device_write(const struct access_ctx *x, const struct span *s, u64 a, u64 v, unsigned n)
{
    if (!s->r->ops->write) return;
    device_enter(x, s->r);
    device_locked(s->r);
    s->r->ops->write(s->r->opaque, a - s->base, bits_zext(v, n), n);
    device_leave(x, s->r);
}

static void absent(const struct access_ctx *x, u64 a, const char *what)
{
    log_once(LOG_DEBUG, "%s of %s %#llx, where nothing answers (said once)", what, x->sp == &x->p->port ? "port" : "guest memory",
             (unsigned long long)a);
}

// Length of the part of [a, a + left) that span s speaks for.
static u64 span_part(const struct span *s, u64 a, u64 left) { return min_u64(left, s->last - a + 1 ? s->last - a + 1 : left); }

// Reads left bytes from any mixture of regions. Returns false when some byte was nobody's.
static bool space_read(const struct access_ctx *x, u64 a, u8 *buf, u64 left)
{
    bool all = true;
    for (u64 n; left; a += n, buf += n, left -= n) {
        struct span s = space_find(x->sp, a);
        n = span_part(&s, a, left);
        if (!s.r) {
            absent(x, a, "read");
            fill_bytes(buf, 0xff, n);
            all = false;
        } else if (s.r->kind == REGION_MMIO) {
            n = chunk_size(x, &s, a, min_u64(left, 8));
            u64 v = device_read(x, &s, a, n);
            copy_bytes(buf, &v, n);
        } else {
            copy_bytes(buf, s.r->host + (a - s.base), n);
        }
    }
    return all;
}

static bool space_write(const struct access_ctx *x, u64 a, const u8 *buf, u64 left)
{
    bool all = true;
    for (u64 n; left; a += n, buf += n, left -= n) {
        struct span s = space_find(x->sp, a);
        n = span_part(&s, a, left);
        if (!s.r) {
            absent(x, a, "write");
            all = false;
        } else if (s.r->kind == REGION_MMIO) {
            n = chunk_size(x, &s, a, min_u64(left, 8));
            u64 v = 0;
            copy_bytes(&v, buf, n);
            device_write(x, &s, a, v, n);
        } else if (s.r->kind == REGION_RAM) {
            copy_bytes(s.r->host + (a - s.base), buf, n);
            if (x->p->hooks.code_written) x->p->hooks.code_written(x->p->hooks.opaque, gpa(a), n);
        }                                                  // ROM: the write is ignored, as the chip does
    }
    return all;
}

bool phys_read(struct phys *p, struct gpa a, void *buf, u64 len)
{
    return space_read(&(struct access_ctx){p, &p->mem, false}, a.v, buf, len);
}

bool phys_write(struct phys *p, struct gpa a, const void *buf, u64 len)
{
    return space_write(&(struct access_ctx){p, &p->mem, false}, a.v, buf, len);
}

void phys_written(struct phys *p, struct gpa a, u64 len)
{
    if (p->hooks.code_written) p->hooks.code_written(p->hooks.opaque, a, len);
}

u64 phys_ld(struct phys *p, struct gpa a, unsigned size)
{
    u64 v = 0;
    space_read(&(struct access_ctx){p, &p->mem, false}, a.v, (u8 *)&v, size);
    return v;
}

void phys_st(struct phys *p, struct gpa a, u64 val, unsigned size)
{
    space_write(&(struct access_ctx){p, &p->mem, false}, a.v, (const u8 *)&val, size);
}

// What follows is on a vCPU's behalf: its time goes to the devices, the lock's release included. (Unit tests have no vCPU.)
static u64 vcpu_read(struct phys *p, const struct space *sp, u64 a, unsigned size)
{
    u64 v = 0;
    struct vcpu *c = vcpu_current();
    u8 was = c ? profile_enter(&c->prof, PROF_DEVICE) : 0;
    space_read(&(struct access_ctx){p, sp, true}, a, (u8 *)&v, size);
    if (c) profile_leave(&c->prof, was);
    return v;
}

static void vcpu_write(struct phys *p, const struct space *sp, u64 a, u64 val, unsigned size)
{
    struct vcpu *c = vcpu_current();
    u8 was = c ? profile_enter(&c->prof, PROF_DEVICE) : 0;
    space_write(&(struct access_ctx){p, sp, true}, a, (const u8 *)&val, size);
    if (c) profile_leave(&c->prof, was);
}

u64 phys_mmio_read(struct phys *p, struct gpa a, unsigned size) { return vcpu_read(p, &p->mem, a.v, size); }
void phys_mmio_write(struct phys *p, struct gpa a, u64 val, unsigned size) { vcpu_write(p, &p->mem, a.v, val, size); }

// A word at port 0xffff has its second byte past the end: absent, as beyond any other region's end.
u64 phys_port_read(struct phys *p, u16 port, unsigned size) { return vcpu_read(p, &p->port, port, size); }
void phys_port_write(struct phys *p, u16 port, u64 val, unsigned size) { vcpu_write(p, &p->port, port, val, size); }
