// Virtio from the driver's side: a small driver in the test (virtio_driver.h) keeps and breaks the rules.
#include <stdlib.h>

#include "tests/unit/device_parts.h"
#include "tests/unit/virtio_driver.h"

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
