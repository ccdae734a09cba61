// Virtio from the driver's side: a small driver in the test finds the device's capabilities, sets up queues in fake RAM, and then keeps
// and breaks the rules.
#include <stdlib.h>
#include <string.h>

#include "devices/virtio.h"
#include "kernel/base/bits.h"
#include "tests/unit/device_fake.h"
#include "tests/unit/device_parts.h"

enum { DESC = 0x10000, AVAIL = 0x11000, USED = 0x12000, BUF = 0x20000, TABLE = 0x30000, QSIZE = 8, STRIDE = 0x4000 };

struct driver {
    struct phys *p;
    struct pci *b;
    u64 common, isr, notify, config, msix;
    u16 avail[2], used[2];
};

static u64 rd(struct driver *v, u64 a, unsigned size) { return phys_mmio_read(v->p, gpa(a), size); }
static void wr(struct driver *v, u64 a, u64 x, unsigned size) { phys_mmio_write(v->p, gpa(a), x, size); }
static u64 cfg_at(unsigned reg) { return PCI_ECAM_BASE + (1 << 15) + reg; }

static void bus_new(struct driver *v)
{
    struct irq gsi[24];
    *v = (struct driver){.p = fake_machine(MIB)};
    for (unsigned i = 0; i < 24; i++) gsi[i] = fake_irq(i);
    v->b = LOCKED(pci_new(v->p, gsi, 24));
}

// Walks the capability list as a driver does.
static void find(struct driver *v)
{
    u64 bar = rd(v, cfg_at(0x10), 4) & ~15ull;
    unsigned kinds = 0;
    for (unsigned at = rd(v, cfg_at(0x34), 1); at; at = rd(v, cfg_at(at + 1), 1)) {
        if (rd(v, cfg_at(at), 1) != 9) continue;
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

static void queue_setup(struct driver *v, unsigned n, u16 size)
{
    u64 off = (u64)n * STRIDE;
    wr(v, v->common + 0x16, n, 2);
    CHECK(rd(v, v->common + 0x18, 2) == VIRTQ_MAX && rd(v, v->common + 0x1c, 2) == 0);
    wr(v, v->common + 0x18, size, 2);
    wr(v, v->common + 0x20, DESC + off, 8);
    wr(v, v->common + 0x28, AVAIL + off, 8);
    wr(v, v->common + 0x30, USED + off, 8);
    wr(v, v->common + 0x1c, 1, 2);
    v->avail[n] = v->used[n] = 0;
    phys_st(v->p, gpa(AVAIL + off), 0, 4);
    phys_st(v->p, gpa(USED + off), 0, 4);
}

static void start(struct driver *v, u64 features, unsigned nqueues)
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

static void desc(struct driver *v, u64 table, unsigned i, u64 a, u32 len, u16 flags, u16 next)
{
    phys_st(v->p, gpa(table + 16 * i), a, 8);
    phys_st(v->p, gpa(table + 16 * i + 8), len | (u64)flags << 32 | (u64)next << 48, 8);
}

static void offer(struct driver *v, unsigned n, u16 head)
{
    u64 ring = AVAIL + (u64)n * STRIDE;
    phys_st(v->p, gpa(ring + 4 + 2 * (v->avail[n] % QSIZE)), head, 2);
    phys_st(v->p, gpa(ring + 2), ++v->avail[n], 2);
}
static void kick(struct driver *v, unsigned n) { wr(v, v->notify + 4 * n, n, 2); }

// The next used entry's length, or -1.
static s64 used(struct driver *v, unsigned n)
{
    u64 ring = USED + (u64)n * STRIDE;
    if (phys_ld(v->p, gpa(ring + 2), 2) == v->used[n]) return -1;
    return phys_ld(v->p, gpa(ring + 4 + 8 * (v->used[n]++ % QSIZE) + 4), 4);
}
static bool broken(struct driver *v) { return rd(v, v->common + 0x14, 1) & 0x40; }

static void entropy(void *opaque, void *buf, size_t len) { memset(buf, 0xee, len); }

static void test_rng(void)
{
    struct driver v;
    bus_new(&v);
    CHECK(LOCKED(virtio_rng_new(v.b, entropy, NULL)) != NULL && rd(&v, cfg_at(0), 4) == 0x10441af4);
    find(&v);
    CHECK(rd(&v, v.common + 0x12, 2) == 1);
    wr(&v, v.common + 0, 1, 4);
    CHECK(rd(&v, v.common + 4, 4) & 1);                                     // VERSION_1
    wr(&v, v.common + 0x14, 11, 1);
    CHECK(!(rd(&v, v.common + 0x14, 1) & 8));                               // features without VERSION_1 are refused
    start(&v, BIT(32), 1);
    unsigned line = pci_gsi(1, 0);
    desc(&v, DESC, 0, BUF, 10, 2 | 1, 1);
    desc(&v, DESC, 1, BUF + 100, 20, 2, 0);
    offer(&v, 0, 0);
    kick(&v, 0);
    CHECK(used(&v, 0) == 30 && used(&v, 0) == -1 && phys_ld(v.p, gpa(BUF), 8) == 0xeeeeeeeeeeeeeeee && phys_ld(v.p, gpa(BUF + 10), 1) == 0);
    CHECK(phys_ld(v.p, gpa(BUF + 119), 2) == 0xee && fake.line[line] && rd(&v, v.isr, 1) == 1 && !fake.line[line] && rd(&v, v.isr, 1) == 0);
    phys_st(v.p, gpa(AVAIL), 1, 2);                                         // no interrupt wanted
    offer(&v, 0, 1);
    kick(&v, 0);
    CHECK(used(&v, 0) == 20 && !fake.line[line]);

    // Through the configuration access capability: device status is 15.
    unsigned at = rd(&v, cfg_at(0x34), 1);
    while (!(rd(&v, cfg_at(at), 1) == 9 && rd(&v, cfg_at(at + 3), 1) == 5)) at = rd(&v, cfg_at(at + 1), 1);
    wr(&v, cfg_at(at + 8), 0x14, 4);
    wr(&v, cfg_at(at + 12), 1, 4);
    CHECK(rd(&v, cfg_at(at + 16), 1) == 15);
    wr(&v, cfg_at(at + 16), 0, 1);
    CHECK(rd(&v, v.common + 0x14, 1) == 0);
    fake_done();
}

static void test_features(void)
{
    struct driver v;
    bus_new(&v);
    CHECK(LOCKED(virtio_rng_new(v.b, entropy, NULL)) != NULL);
    find(&v);
    start(&v, BIT(32) | BIT(28) | BIT(29) | BIT(40), 1);
    wr(&v, v.msix + 16, 0xfee00000, 4);                                     // vector 1 for the queue
    wr(&v, v.msix + 24, 0x51, 8);
    unsigned cap = rd(&v, cfg_at(0x34), 1);
    while (rd(&v, cfg_at(cap), 1) != 0x11) cap = rd(&v, cfg_at(cap + 1), 1);
    wr(&v, cfg_at(cap + 2), 0x8000, 2);
    wr(&v, v.common + 0x16, 0, 2);
    wr(&v, v.common + 0x1a, 1, 2);
    CHECK(rd(&v, v.common + 0x1a, 2) == 1);
    wr(&v, v.common + 0x10, 99, 2);
    CHECK(rd(&v, v.common + 0x10, 2) == 0xffff);
    desc(&v, DESC, 0, TABLE, 32, 4, 0);                                     // indirect, two segments
    desc(&v, TABLE, 0, BUF, 1, 2 | 1, 1);
    desc(&v, TABLE, 1, BUF + 8, 2, 2, 0);
    offer(&v, 0, 0);
    kick(&v, 0);
    CHECK(used(&v, 0) == 3 && fake.nmsi == 1 && fake.msi[0].data == 0x51);
    CHECK(phys_ld(v.p, gpa(USED + 4 + 8 * QSIZE), 2) == 1);                 // avail_event
    phys_st(v.p, gpa(AVAIL + 4 + 2 * QSIZE), 2, 2);                         // used_event: tell me after the third
    offer(&v, 0, 0);
    kick(&v, 0);
    CHECK(fake.nmsi == 1);
    offer(&v, 0, 0);
    kick(&v, 0);
    CHECK(fake.nmsi == 2 && used(&v, 0) == 3 && used(&v, 0) == 3);
    for (int i = 0; i < 30; i++) {                                          // around the ring
        offer(&v, 0, 0);
        kick(&v, 0);
        CHECK(used(&v, 0) == 3);
    }
    wr(&v, v.common + 0x3a, 1, 2);
    CHECK(rd(&v, v.common + 0x1c, 2) == 0 && rd(&v, v.common + 0x3a, 2) == 0);
    queue_setup(&v, 0, QSIZE);
    offer(&v, 0, 0);
    kick(&v, 0);
    CHECK(used(&v, 0) == 3 && !broken(&v));
    fake_done();
}

// Each row offers one bad thing to a fresh device.
static void test_bad_rings(void)
{
    for (int row = 0; row < 12; row++) {
        struct driver v;
        bus_new(&v);
        CHECK(LOCKED(virtio_rng_new(v.b, entropy, NULL)) != NULL);
        find(&v);
        start(&v, BIT(32) | BIT(28), 1);
        desc(&v, DESC, 0, BUF, 16, 2, 0);
        switch (row) {
        case 0: desc(&v, DESC, 0, BUF, 16, 3, 0); break;                    // circle
        case 1: desc(&v, DESC, 0, BUF, 16, 3, QSIZE); break;                // next out of range
        case 2: desc(&v, DESC, 0, 2 * MIB, 16, 2, 0); break;                // no RAM there
        case 3: desc(&v, DESC, 0, MIB - 8, 16, 2, 0); break;                // runs off RAM
        case 4: desc(&v, DESC, 0, UINT64_MAX - 3, 16, 2, 0); break;         // wraps
        case 5: desc(&v, DESC, 0, TABLE, 15, 4, 0); break;                  // half an indirect descriptor
        case 6: desc(&v, DESC, 0, TABLE, 16, 4, 0); desc(&v, TABLE, 0, TABLE, 16, 4, 0); break;   // nested
        case 7: desc(&v, DESC, 0, TABLE, 16, 5, 1); break;                  // indirect with next
        case 8: desc(&v, DESC, 0, v.common, 16, 2, 0); break;               // the device's own registers
        case 9: desc(&v, DESC, 0, BUF, 4, 3, 1); desc(&v, DESC, 1, BUF, 4, 0, 0); break;          // readable after writable
        case 10: v.avail[0] = QSIZE + 5; break;                             // index far ahead
        case 11: desc(&v, DESC, 0, BUF, 0, 0, 0); break;                    // an entropy request without room
        }
        offer(&v, 0, 0);
        kick(&v, 0);
        CHECK(broken(&v) && used(&v, 0) == -1);
        kick(&v, 0);
        start(&v, BIT(32), 1);                                              // and reset mends it
        desc(&v, DESC, 0, BUF, 16, 2, 0);
        offer(&v, 0, 0);
        kick(&v, 0);
        CHECK(!broken(&v) && used(&v, 0) == 16);
        offer(&v, 0, QSIZE);                                                // head out of range
        kick(&v, 0);
        CHECK(broken(&v));
        fake_done();
    }
}

// Rings of random bytes, and random writes to the common configuration.
static void test_random(void)
{
    struct driver v;
    bus_new(&v);
    struct virtio_console *c = LOCKED(virtio_console_new(v.b, fake_serial_out));
    CHECK(c != NULL);
    find(&v);
    srand(3);
    for (int round = 0; round < 300; round++) {
        start(&v, BIT(32) | (rand() & 1 ? BIT(28) | BIT(29) : 0), 2);
        for (u64 a = DESC; a < DESC + 2 * STRIDE; a += 4) phys_st(v.p, gpa(a), rand() % 3 ? rand() & 0x3001f : (u32)rand(), 4);
        for (int i = 0; i < 20; i++) {
            if (rand() % 4 == 0) wr(&v, v.common + rand() % 0x40, rand(), 1 << rand() % 4);
            LOCKED(virtio_console_input(c, i));
            kick(&v, rand() % 4);
            fake_advance(1);
        }
    }
    CHECK(true);
    fake_done();
}

static void test_console(void)
{
    struct driver v;
    bus_new(&v);
    struct virtio_console *c = LOCKED(virtio_console_new(v.b, fake_serial_out));
    CHECK(c != NULL && rd(&v, cfg_at(0), 4) == 0x10431af4);
    find(&v);
    CHECK(rd(&v, v.config + 4, 4) == 1);
    wr(&v, v.config + 8, '?', 4);
    CHECK(fake.nconsole == 1 && fake.console[0] == '?');
    CHECK(LOCKED(virtio_console_input(c, 'x')) && !virtio_console_driven(c));       // nobody there: the driver's reset drops it
    start(&v, BIT(32), 2);
    CHECK(virtio_console_driven(c) && LOCKED(virtio_console_input(c, 'i')));
    phys_write(v.p, gpa(BUF), "hello world", 11);
    desc(&v, DESC + STRIDE, 0, BUF, 6, 1, 1);
    desc(&v, DESC + STRIDE, 1, BUF + 6, 5, 0, 0);
    offer(&v, 1, 0);
    kick(&v, 1);
    CHECK(used(&v, 1) == 0 && fake.nconsole == 12 && !memcmp(fake.console + 1, "hello world", 11));
    desc(&v, DESC, 0, BUF, 4, 2, 0);
    offer(&v, 0, 0);
    kick(&v, 0);
    CHECK(used(&v, 0) == 1 && phys_ld(v.p, gpa(BUF), 1) == 'i');
    unsigned taken = 0;
    while (LOCKED(virtio_console_input(c, taken))) taken++;
    CHECK(taken == 1024 && fake.kicks_ready == 0);
    offer(&v, 0, 0);
    kick(&v, 0);
    CHECK(used(&v, 0) == 4 && phys_ld(v.p, gpa(BUF), 4) == 0x03020100 && fake.kicks_ready == 1);
    offer(&v, 1, 0);
    desc(&v, DESC + STRIDE, 0, 0, MIB, 1, 1);                               // one byte more than a buffer may have
    desc(&v, DESC + STRIDE, 1, 0, 1, 0, 0);
    kick(&v, 1);
    CHECK(broken(&v));
    LOCKED(pci_reset(v.b));
    CHECK(rd(&v, v.common + 0x14, 1) == 0);
    fake_done();
}

void test_virtio(void)
{
    test_rng();
    test_features();
    test_bad_rings();
    test_console();
    test_random();
}
