// The driver's side of virtio over PCI, for tests: finds the device's capabilities, sets up queues in fake RAM, offers chains.
#pragma once

#include <string.h>

#include "devices/virtio.h"
#include "kernel/base/bits.h"
#include "tests/unit/device_fake.h"
#include "tests/unit/locked.h"

enum { DESC = 0x10000, AVAIL = 0x11000, USED = 0x12000, BUF = 0x20000, TABLE = 0x30000, QSIZE = 8, STRIDE = 0x4000 };

struct driver {
    struct phys *p;
    struct pci *b;
    u64 common, isr, notify, config, msix;
    u16 avail[4], used[4];
};

static UNUSED u64 rd(struct driver *v, u64 a, unsigned size) { return phys_mmio_read(v->p, gpa(a), size); }
static UNUSED void wr(struct driver *v, u64 a, u64 x, unsigned size) { phys_mmio_write(v->p, gpa(a), x, size); }
static UNUSED u64 cfg_at(unsigned reg) { return PCI_ECAM_BASE + (1 << 15) + reg; }

static UNUSED void bus_new(struct driver *v)
{
    struct irq gsi[24];
    *v = (struct driver){.p = fake_machine(MIB)};
    for (unsigned i = 0; i < 24; i++) gsi[i] = fake_irq(i);
    v->b = LOCKED(pci_new(v->p, gsi, 24));
}

// Walks the capability list as a driver does.
static UNUSED void find(struct driver *v)
{
    unsigned kinds = 0;
    for (unsigned at = rd(v, cfg_at(0x34), 1); at; at = rd(v, cfg_at(at + 1), 1)) {
        if (rd(v, cfg_at(at), 1) != 9) continue;
        u64 bar = rd(v, cfg_at(0x10 + 4 * rd(v, cfg_at(at + 4), 1)), 4) & ~15ull;
        u64 where = bar + rd(v, cfg_at(at + 8), 4);
        unsigned type = rd(v, cfg_at(at + 3), 1);
        kinds |= 1u << type;
        if (type == 1) v->common = where;
        if (type == 2) v->notify = where;
        if (type == 3) v->isr = where;
        if (type == 4) v->config = where;
    }
    v->msix = rd(v, cfg_at(0x14), 4) & ~15ull;
    CHECK((kinds & 0x2e) == 0x2e);
}

static UNUSED void queue_setup(struct driver *v, unsigned n, u16 size)
{
    u64 off = (u64)n * STRIDE;
    wr(v, v->common + 0x16, n, 2);
    CHECK(rd(v, v->common + 0x18, 2) == VIRTQ_MAX && rd(v, v->common + 0x1c, 2) == 0);
    wr(v, v->common + 0x18, size, 2);
    wr(v, v->common + 0x20, DESC + off, 8);
    wr(v, v->common + 0x28, AVAIL + off, 8);
    wr(v, v->common + 0x30, USED + off, 8);
    v->avail[n] = v->used[n] = 0;
    phys_st(v->p, gpa(AVAIL + off), 0, 4);
    phys_st(v->p, gpa(USED + off), 0, 4);
    wr(v, v->common + 0x1c, 1, 2);           // a running device may look at the rings from now on
}

static UNUSED void start(struct driver *v, u64 features, unsigned nqueues)
{
    wr(v, cfg_at(4), 6, 2);
    wr(v, v->common + 0x14, 0, 1);
    CHECK(rd(v, v->common + 0x14, 1) == 0);
    wr(v, v->common + 0x14, 3, 1);
    for (unsigned half = 0; half < 2; half++) {
        wr(v, v->common + 8, half, 4);
        wr(v, v->common + 0xc, features >> 32 * half, 4);
    }
    wr(v, v->common + 0x14, 11, 1);
    CHECK(rd(v, v->common + 0x14, 1) == 11);
    for (unsigned n = 0; n < nqueues; n++) queue_setup(v, n, QSIZE);
    wr(v, v->common + 0x14, 15, 1);
}

static UNUSED void desc(struct driver *v, u64 table, unsigned i, u64 a, u32 len, u16 flags, u16 next)
{
    phys_st(v->p, gpa(table + 16 * i), a, 8);
    phys_st(v->p, gpa(table + 16 * i + 8), len | (u64)flags << 32 | (u64)next << 48, 8);
}

static UNUSED void offer(struct driver *v, unsigned n, u16 head)
{
    u64 ring = AVAIL + (u64)n * STRIDE;
    phys_st(v->p, gpa(ring + 4 + 2 * (v->avail[n] % QSIZE)), head, 2);
    phys_st(v->p, gpa(ring + 2), ++v->avail[n], 2);
}
static UNUSED void kick(struct driver *v, unsigned n) { wr(v, v->notify + 4 * n, n, 2); }

// The next used entry's length, or -1.
static UNUSED s64 used(struct driver *v, unsigned n)
{
    u64 ring = USED + (u64)n * STRIDE;
    if (phys_ld(v->p, gpa(ring + 2), 2) == v->used[n]) return -1;
    return phys_ld(v->p, gpa(ring + 4 + 8 * (v->used[n]++ % QSIZE) + 4), 4);
}
static UNUSED bool broken(struct driver *v) { return rd(v, v->common + 0x14, 1) & 0x40; }
