// virtio-blk from the driver's side, over a disk in memory that answers at once or when the test says so, in any order, with any result.
#include <stdio.h>
#include <stdlib.h>

#include "devices/block.h"
#include "kernel/plat.h"
#include "tests/unit/device_parts.h"
#include "tests/unit/locked.h"
#include "tests/unit/virtio_driver.h"

enum { SECTORS = 4096, HDR = 0x40000, STATUS = 0x41000, WAITING = 256, LOG = 64 };
enum { IN = 0, OUT = 1, FLUSH = 4, GET_ID = 8, DISCARD = 11, ZEROES = 13 };
enum { F_FLUSH = 9, F_WCE = 11, F_MQ = 12, F_DISCARD = 13, F_ZEROES = 14, F_RO = 5 };
#define V1 BIT(32)

static struct fake_disk {
    struct block b;
    bool later;                               // answers in disk_answer
    unsigned ready;                           // polled: how many disk_poll may end
    enum block_result result;
    struct block_request *waiting[WAITING];
    unsigned nwaiting, drains;
    struct { enum block_op op; u64 offset, len; unsigned nseg; bool fua, unmap; } log[LOG];
    unsigned nlog;
    u8 data[SECTORS * 512];
} disk;

static enum block_result disk_do(struct block_request *r)
{
    u8 *at = disk.data + r->offset;
    u64 sum = 0;
    if (disk.nlog < LOG) {
        disk.log[disk.nlog].op = r->op;
        disk.log[disk.nlog].offset = r->offset;
        disk.log[disk.nlog].len = r->len;
        disk.log[disk.nlog].nseg = r->nseg;
        disk.log[disk.nlog].fua = r->fua;
        disk.log[disk.nlog++].unmap = r->unmap;
    }
    if (disk.result != BLOCK_OK) return disk.result;
    CHECK(r->op == BLOCK_FLUSH || (r->offset <= sizeof disk.data && r->len <= sizeof disk.data - r->offset));
    if (r->op == BLOCK_WRITE_ZEROES) memset(at, 0, r->len);
    if (r->op == BLOCK_DISCARD) memset(at, 0xdd, r->len);
    if (r->op != BLOCK_READ && r->op != BLOCK_WRITE) return BLOCK_OK;
    for (unsigned i = 0; i < r->nseg; at += r->seg[i].len, sum += r->seg[i++].len) {
        if (r->op == BLOCK_READ) memcpy(r->seg[i].base, at, r->seg[i].len);
        else memcpy(at, r->seg[i].base, r->seg[i].len);
    }
    CHECK(sum == r->len && sum % 512 == 0);
    return BLOCK_OK;
}

static void disk_answer(unsigned i)
{
    struct block_request *r = disk.waiting[i];
    disk.waiting[i] = disk.waiting[--disk.nwaiting];
    r->result = disk_do(r);
    bool lock = !bql_held() && !disk.b.ops->poll;
    if (lock) bql_lock();
    r->done(r);
    if (lock) bql_unlock();
}

static enum block_result disk_run(struct block *b, struct block_request *r) { return disk_do(r); }

static void disk_submit(struct block *b, struct block_request *r)
{
    CHECK(disk.nwaiting < WAITING);
    disk.waiting[disk.nwaiting++] = r;
    if (!disk.later) disk_answer(disk.nwaiting - 1);
}

static void disk_drain(struct block *b)
{
    disk.drains++;
    while (disk.nwaiting) disk_answer(0);
}

// The last submitted is the first to end.
static bool disk_poll(struct block *b)
{
    for (; disk.ready && disk.nwaiting; disk.ready--) disk_answer(disk.nwaiting - 1);
    return disk.nwaiting;
}

static struct virtio_blk *disk_new_with(struct driver *v, const struct block_ops *ops, bool read_only, unsigned queues, struct plat_io *io)
{
    memset(&disk, 0, offsetof(struct fake_disk, data));
    disk.b = (struct block){.ops = ops, .name = "fake", .size = sizeof disk.data, .physical = 4096, .read_only = read_only};
    for (unsigned i = 0; i < sizeof disk.data; i++) disk.data[i] = i * 7 + i / 512;
    bus_new(v);
    struct virtio_blk *s = LOCKED(virtio_blk_new(v->b, &disk.b, queues, "SERIAL-0123456789abcdef", io));
    CHECK(s != NULL && rd(v, cfg_at(0), 4) == 0x10421af4);
    find(v);
    return s;
}

static struct virtio_blk *disk_new_on(struct driver *v, bool read_only, unsigned queues, struct plat_io *io)
{
    static const struct block_ops ops = {.submit = disk_submit, .drain = disk_drain, .run = disk_run};
    return disk_new_with(v, &ops, read_only, queues, io);
}

static struct virtio_blk *disk_new(struct driver *v, bool read_only, unsigned queues) { return disk_new_on(v, read_only, queues, NULL); }

// Header and status around the chain's middle: descriptor 0 is the header, `last` the status.
static void request(struct driver *v, u32 type, u64 sector, unsigned last)
{
    phys_st(v->p, gpa(HDR), type, 8);
    phys_st(v->p, gpa(HDR + 8), sector, 8);
    phys_st(v->p, gpa(STATUS), 0xaa, 1);
    desc(v, DESC, 0, HDR, 16, 1, 1);
    desc(v, DESC, last, STATUS, 1, 2, 0);
}

static u8 status(struct driver *v) { return phys_ld(v->p, gpa(STATUS), 1); }
static bool same(struct driver *v, u64 a, u64 sector, u64 len) { return !memcmp(phys_host(v->p, gpa(a)), disk.data + sector * 512, len); }

// One data segment (len 0: none) at BUF. Returns the used length, -1: not given back.
static s64 simple(struct driver *v, u32 type, u64 sector, u32 len)
{
    bool in = type == IN || type == GET_ID;
    request(v, type, sector, len ? 2 : 1);
    if (len) desc(v, DESC, 1, BUF, len, in ? 3 : 1, 2);
    offer(v, 0, 0);
    kick(v, 0);
    return used(v, 0);
}

static void test_config(void)
{
    struct driver v;
    disk_new(&v, false, 3);
    CHECK(rd(&v, v.config, 8) == SECTORS && rd(&v, v.config + 12, 4) == VIRTQ_MAX - 2 && rd(&v, v.config + 20, 4) == 512);
    CHECK(rd(&v, v.config + 24, 1) == 3 && rd(&v, v.config + 26, 2) == 8 && rd(&v, v.config + 32, 1) == 1 && rd(&v, v.config + 34, 2) == 3);
    CHECK(rd(&v, v.config + 40, 4) == 16 && rd(&v, v.config + 44, 4) == 8 && rd(&v, v.config + 52, 4) == 16 && rd(&v, v.config + 56, 1) == 1);
    CHECK(rd(&v, v.common + 0x12, 2) == 3);
    wr(&v, v.common, 0, 4);
    u32 offered = rd(&v, v.common + 4, 4);
    CHECK((offered & ~(BIT(28) | BIT(29))) == (BIT(1) | BIT(2) | BIT(6) | BIT(9) | BIT(10) | BIT(11) | BIT(12) | BIT(13) | BIT(14)));
    fake_done();
    disk_new(&v, true, 1);
    wr(&v, v.common, 0, 4);
    offered = rd(&v, v.common + 4, 4);
    CHECK((offered & BIT(F_RO)) && !(offered & (BIT(F_MQ) | BIT(F_DISCARD) | BIT(F_ZEROES))));
    fake_done();
}

static void test_transfer(void)
{
    struct driver v;
    disk_new(&v, false, 1);
    start(&v, V1 | BIT(F_FLUSH), 1);
    CHECK(simple(&v, IN, 3, 1024) == 1025 && status(&v) == 0 && same(&v, BUF, 3, 1024));
    CHECK(fake.code_written && fake.line[pci_gsi(1, 0)]);
    memset(phys_host(v.p, gpa(BUF)), 0x5a, 2048);
    CHECK(simple(&v, OUT, SECTORS - 4, 2048) == 1 && status(&v) == 0 && same(&v, BUF, SECTORS - 4, 2048) && !disk.log[1].fua);
    CHECK(simple(&v, FLUSH, 0, 0) == 1 && status(&v) == 0 && disk.log[2].op == BLOCK_FLUSH && disk.nlog == 3);
    CHECK(simple(&v, GET_ID, 0, 20) == 21 && status(&v) == 0 && !memcmp(phys_host(v.p, gpa(BUF)), "SERIAL-0123456789abc", 20));
    CHECK(simple(&v, GET_ID, 0, 6) == 7 && status(&v) == 0);

    // Pieces of any size: data shares descriptors with the header and with the status byte.
    request(&v, IN, 8, 3);
    desc(&v, DESC, 1, BUF + 1, 700, 3, 2);
    desc(&v, DESC, 2, BUF + 0x2fff, 323, 3, 3);
    desc(&v, DESC, 3, BUF + 0x5000, 2, 2, 0);
    offer(&v, 0, 0);
    kick(&v, 0);
    CHECK(used(&v, 0) == 1025 && same(&v, BUF + 1, 8, 700) && !memcmp(phys_host(v.p, gpa(BUF + 0x2fff)), disk.data + 8 * 512 + 700, 323));
    CHECK(phys_ld(v.p, gpa(BUF + 0x5000), 1) == disk.data[8 * 512 + 1023] && phys_ld(v.p, gpa(BUF + 0x5001), 1) == 0);
    phys_st(v.p, gpa(HDR), OUT, 8);
    phys_st(v.p, gpa(HDR + 8), 9, 8);
    desc(&v, DESC, 0, HDR, 10, 1, 1);
    desc(&v, DESC, 1, HDR + 10, 6 + 512, 1, 2);
    desc(&v, DESC, 2, STATUS, 1, 2, 0);
    offer(&v, 0, 0);
    kick(&v, 0);
    CHECK(used(&v, 0) == 1 && status(&v) == 0 && same(&v, HDR + 16, 9, 512));

    // Across two regions of RAM that are neighbours for the guest only: two pieces.
    static u8 more[PAGE_SIZE] __attribute__((aligned(4096)));
    LOCKED(phys_add_ram(v.p, gpa(MIB), PAGE_SIZE, more, "more"));
    request(&v, IN, 20, 2);
    desc(&v, DESC, 1, MIB - 1024, 2048, 3, 2);
    offer(&v, 0, 0);
    kick(&v, 0);
    CHECK(used(&v, 0) == 2049 && same(&v, MIB - 1024, 20, 1024) && !memcmp(more, disk.data + 22 * 512, 1024) && disk.log[disk.nlog - 1].nseg == 2);
    CHECK(!broken(&v));
    fake_done();
}

static void test_later(void)
{
    struct driver v;
    disk_new(&v, false, 3);
    start(&v, V1 | BIT(28) | BIT(29) | BIT(40) | BIT(F_MQ), 3);
    wr(&v, v.msix + 16, 0xfee00000, 4);
    wr(&v, v.msix + 24, 0x61, 8);
    unsigned cap = rd(&v, cfg_at(0x34), 1);
    while (rd(&v, cfg_at(cap), 1) != 0x11) cap = rd(&v, cfg_at(cap + 1), 1);
    wr(&v, cfg_at(cap + 2), 0x8000, 2);
    wr(&v, v.common + 0x16, 2, 2);
    wr(&v, v.common + 0x1a, 1, 2);                                          // queue 2: vector 1
    disk.later = true;
    for (unsigned i = 0; i < 3; i++) {                                      // three reads by indirect chains in queue 2
        phys_st(v.p, gpa(HDR + 16 * i), IN, 8);
        phys_st(v.p, gpa(HDR + 16 * i + 8), 10 + i, 8);
        desc(&v, DESC + 2 * STRIDE, i, TABLE + 256 * i, 48, 4, 0);
        desc(&v, TABLE + 256 * i, 0, HDR + 16 * i, 16, 1, 1);
        desc(&v, TABLE + 256 * i, 1, BUF + 512 * i, 512, 3, 2);
        desc(&v, TABLE + 256 * i, 2, STATUS + i, 1, 2, 0);
        offer(&v, 2, i);
    }
    phys_st(v.p, gpa(AVAIL + 2 * STRIDE + 4 + 2 * QSIZE), 1, 2);            // used_event: tell me after the second
    kick(&v, 2);
    CHECK(disk.nwaiting == 3 && used(&v, 2) == -1 && phys_ld(v.p, gpa(USED + 2 * STRIDE + 4 + 8 * QSIZE), 2) == 3);
    fake.watch = BUF + 1024 + 100;
    disk_answer(2);
    CHECK(used(&v, 2) == 513 && phys_ld(v.p, gpa(USED + 2 * STRIDE + 4), 4) == 2 && fake.nmsi == 0 && same(&v, BUF + 1024, 12, 512));
    CHECK(fake.watched == 1);                                               // the translator hears of what came from the disk
    disk_answer(0);
    CHECK(used(&v, 2) == 513 && fake.nmsi == 1 && fake.msi[0].data == 0x61);
    disk.result = BLOCK_FAILED;
    disk_answer(0);
    CHECK(used(&v, 2) == 1 && phys_ld(v.p, gpa(STATUS + 1), 1) == 1 && phys_ld(v.p, gpa(STATUS), 1) == 0);
    disk.result = BLOCK_UNSUPPORTED;
    offer(&v, 2, 0);
    kick(&v, 2);
    disk_answer(0);
    CHECK(used(&v, 2) == 1 && phys_ld(v.p, gpa(STATUS), 1) == 2);
    disk.result = BLOCK_OK;

    // Under way while its queue, then the device, is reset: waited for, and nothing comes after that.
    for (int whole = 0; whole < 2; whole++) {
        offer(&v, 2, 0);
        kick(&v, 2);
        CHECK(disk.nwaiting == 1);
        unsigned drains = disk.drains;
        wr(&v, v.common + 0x16, 2, 2);
        if (whole) wr(&v, v.common + 0x14, 0, 1);
        else wr(&v, v.common + 0x3a, 1, 2);
        CHECK(disk.drains == drains + 1 && disk.nwaiting == 0 && used(&v, 2) == -1);
        if (!whole) queue_setup(&v, 2, QSIZE);
    }
    fake_done();
}

// A driver that offers its descriptors again and again: more requests than there is room for wait in the ring.
static void test_too_many(void)
{
    struct driver v;
    disk_new(&v, false, 1);
    start(&v, V1, 1);
    disk.later = true;
    request(&v, IN, 1, 2);
    desc(&v, DESC, 1, BUF, 512, 3, 2);
    for (unsigned i = 0; i < VIRTQ_MAX + QSIZE; i++) {
        offer(&v, 0, 0);
        kick(&v, 0);
    }
    CHECK(disk.nwaiting == VIRTQ_MAX && !broken(&v));
    disk_answer(5);
    fake_advance(1);
    CHECK(disk.nwaiting == VIRTQ_MAX);
    while (disk.nwaiting) {
        disk_answer(disk.nwaiting / 2);
        fake_advance(1);
    }
    CHECK((u16)phys_ld(v.p, gpa(USED + 2), 2) == VIRTQ_MAX + QSIZE && !broken(&v));
    fake_done();
}

static void test_cache(void)
{
    struct driver v;
    disk_new(&v, false, 1);
    start(&v, V1, 1);                                                       // knows of no flush: writes are safe when done
    CHECK(simple(&v, OUT, 0, 512) == 1 && disk.log[0].fua);
    wr(&v, v.config + 32, 1, 1);
    CHECK(simple(&v, OUT, 0, 512) == 1 && disk.log[1].fua);
    start(&v, V1 | BIT(F_FLUSH), 1);
    CHECK(simple(&v, OUT, 0, 512) == 1 && !disk.log[2].fua);
    start(&v, V1 | BIT(F_FLUSH) | BIT(F_WCE), 1);
    CHECK(simple(&v, OUT, 0, 512) == 1 && !disk.log[3].fua);
    wr(&v, v.config + 32, 0, 1);
    CHECK(rd(&v, v.config + 32, 1) == 0 && simple(&v, OUT, 0, 512) == 1 && disk.log[4].fua);
    wr(&v, v.config, 1, 1);                                                 // nothing else can be written
    CHECK(rd(&v, v.config, 8) == SECTORS);
    start(&v, V1 | BIT(F_WCE), 1);
    CHECK(rd(&v, v.config + 32, 1) == 1);
    fake_done();
}

static void ranges(struct driver *v, unsigned i, u64 sector, u32 count, u32 flags)
{
    phys_st(v->p, gpa(BUF + 16 * i), sector, 8);
    phys_st(v->p, gpa(BUF + 16 * i + 8), count | (u64)flags << 32, 8);
}

static void test_ranges(void)
{
    struct driver v;
    disk_new(&v, false, 1);
    start(&v, V1 | BIT(F_FLUSH) | BIT(F_DISCARD) | BIT(F_ZEROES), 1);
    ranges(&v, 0, 16, 8, 0);
    ranges(&v, 1, SECTORS - 1, 1, 0);
    CHECK(simple(&v, DISCARD, 0, 32) == 1 && status(&v) == 0 && disk.nlog == 2 && disk.log[1].op == BLOCK_DISCARD);
    CHECK(disk.log[0].offset == 16 * 512 && disk.log[0].len == 8 * 512 && disk.log[1].offset == (SECTORS - 1) * 512u && disk.data[16 * 512] == 0xdd);
    ranges(&v, 0, 16, 8, 1);
    ranges(&v, 1, 40, 1, 0);
    CHECK(simple(&v, ZEROES, 0, 32) == 1 && status(&v) == 0 && disk.log[2].unmap && !disk.log[3].unmap && disk.data[16 * 512] == 0);
    disk.later = true;
    CHECK(simple(&v, ZEROES, 0, 32) == -1 && disk.nwaiting == 1);
    disk_answer(0);
    CHECK(disk.nwaiting == 1 && used(&v, 0) == -1);
    disk_answer(0);
    CHECK(used(&v, 0) == 1);
    disk.later = false;
    static const struct { u32 type, len; u64 sector; u32 count, flags; u8 status; } rows[] = {
        {DISCARD, 16, 0, 8, 1, 2}, {DISCARD, 16, 0, 8, 2, 2}, {ZEROES, 16, 0, 8, 2, 2}, {DISCARD, 16, SECTORS, 1, 0, 1},
        {ZEROES, 16, SECTORS - 1, 2, 0, 1}, {DISCARD, 16, UINT64_MAX, 1, 0, 1}, {DISCARD, 16, 0, UINT32_MAX, 0, 1},
        {DISCARD, 15, 0, 8, 0, 1}, {DISCARD, 0, 0, 8, 0, 1}, {ZEROES, 17 * 16, 0, 8, 0, 1}, {DISCARD, 16, SECTORS, 0, 0, 0},
    };
    for (unsigned i = 0; i < ARRAY_SIZE(rows); i++) {
        for (unsigned k = 0; k < 17; k++) ranges(&v, k, rows[i].sector, rows[i].count, rows[i].flags);
        CHECK(simple(&v, rows[i].type, 0, rows[i].len) == 1 && status(&v) == rows[i].status);
    }
    start(&v, V1, 1);
    CHECK(simple(&v, DISCARD, 0, 16) == 1 && status(&v) == 2 && simple(&v, ZEROES, 0, 16) == 1 && status(&v) == 2);
    CHECK(!broken(&v));
    fake_done();
}

static void test_bad_requests(void)
{
    struct driver v;
    static const struct { u32 type, len; u64 sector; u8 status; } rows[] = {
        {IN, 512, SECTORS, 1}, {IN, 1024, SECTORS - 1, 1}, {IN, 511, 0, 1}, {IN, 512, UINT64_MAX, 1}, {OUT, 513, 0, 1}, {OUT, 512, SECTORS, 1},
        {OUT, 512, UINT64_MAX / 512, 1}, {2, 0, 0, 2}, {77, 512, 0, 2}, {UINT32_MAX, 0, 0, 2}, {IN, 0, 0, 0}, {OUT, 0, SECTORS, 0}, {OUT, 0, SECTORS + 1, 1},
        {GET_ID, 0, 0, 1}};
    disk_new(&v, false, 1);
    start(&v, V1 | BIT(28), 1);
    for (unsigned i = 0; i < ARRAY_SIZE(rows); i++)
        CHECK(simple(&v, rows[i].type, rows[i].sector, rows[i].len) >= 1 && status(&v) == rows[i].status && disk.nlog == 0);
    request(&v, IN, 0, 3);                                                  // a read with data to write as well
    desc(&v, DESC, 1, BUF, 512, 1, 2);
    desc(&v, DESC, 2, BUF, 512, 3, 3);
    offer(&v, 0, 0);
    kick(&v, 0);
    CHECK(used(&v, 0) == 1 && status(&v) == 1);
    desc(&v, TABLE, 0, HDR, 16, 1, 1);                                      // more than 126 segments of the largest size: 32 MiB
    for (unsigned i = 1; i < VIRTQ_MAX - 1; i++) desc(&v, TABLE, i, 0x80000, 0x42000, 3, i + 1);
    desc(&v, TABLE, VIRTQ_MAX - 1, STATUS, 1, 2, 0);
    desc(&v, DESC, 0, TABLE, VIRTQ_MAX * 16, 4, 0);
    offer(&v, 0, 0);
    kick(&v, 0);
    CHECK(used(&v, 0) == 1 && status(&v) == 1 && disk.nlog == 0 && !broken(&v));
    for (int row = 0; row < 3; row++) {                                     // nothing to answer into: broken
        start(&v, V1, 1);
        request(&v, IN, 0, 1);
        if (row == 0) desc(&v, DESC, 0, HDR, 15, 1, 1);
        if (row == 1) desc(&v, DESC, 0, HDR, 16, 0, 0);
        if (row == 2) desc(&v, DESC, 1, STATUS, 0, 2, 0);
        offer(&v, 0, 0);
        kick(&v, 0);
        CHECK(broken(&v) && used(&v, 0) == -1);
    }
    start(&v, V1, 1);
    CHECK(simple(&v, IN, 0, 512) == 513);
    fake_done();
    disk_new(&v, true, 1);
    start(&v, V1 | BIT(F_RO), 1);
    CHECK(simple(&v, OUT, 0, 512) == 1 && status(&v) == 1 && simple(&v, IN, 0, 512) == 513 && simple(&v, FLUSH, 0, 0) == 1 && status(&v) == 0);
    fake_done();
}

// Requests of random bytes in rings of random bytes: the disk is only ever asked for what it has (disk_do checks).
static void test_random(void)
{
    struct driver v;
    disk_new(&v, false, 2);
    srand(5);
    for (int round = 0; round < 300; round++) {
        start(&v, V1 | (rand() & 1 ? BIT(28) | BIT(29) : 0) | BIT(F_FLUSH) | BIT(F_DISCARD) | BIT(F_ZEROES), 2);
        for (u64 a = DESC; a < DESC + 2 * STRIDE; a += 4) phys_st(v.p, gpa(a), rand() % 3 ? rand() & 0x3021f : (u32)rand(), 4);
        for (u64 a = HDR; a < HDR + 0x1000; a += 4) phys_st(v.p, gpa(a), rand() % 16, 4);
        for (int i = 0; i < 30; i++) {
            disk.later = rand() & 1;
            request(&v, rand() % 16, rand() % (SECTORS + 8), 2);
            if (rand() % 4) desc(&v, DESC, 1, rand() % 2 ? HDR : BUF, rand() % 8 ? 512 * (rand() % 4) : rand() % 2048, rand() % 4, 2);
            if (rand() % 4 == 0) wr(&v, v.common + rand() % 0x40, rand(), 1 << rand() % 4);
            offer(&v, 0, rand() % 4 ? 0 : rand() % QSIZE);
            kick(&v, rand() % 3);
            if (disk.nwaiting && rand() & 1) disk_answer(rand() % disk.nwaiting);
            fake_advance(1);
        }
    }
    CHECK(true);
    LOCKED(pci_reset(v.b));
    CHECK(disk.nwaiting == 0);
    fake_done();
}

// The I/O thread is the test itself, when it calls virtio_blk_serve; on vCPUs nothing happens but that it is woken.
static void test_plane(void)
{
    struct driver v;
    struct virtio_blk *s = disk_new_on(&v, false, 2, (struct plat_io *)&fake);
    u64 bar2 = rd(&v, cfg_at(0x18), 4) & ~15ull;
    CHECK(v.notify == bar2 && bar2 != 0);
    start(&v, V1 | BIT(40) | BIT(F_MQ), 2);
    unsigned line = pci_gsi(1, 0), woken = fake.io_wakes;
    CHECK(simple(&v, IN, 3, 1024) == -1 && fake.io_wakes == woken + 1 && disk.nlog == 0);
    virtio_blk_serve(s);
    CHECK(used(&v, 0) == 1025 && same(&v, BUF, 3, 1024) && fake.attentions == 1 && !fake.line[line]);
    fake.bql = true;                                                        // core 0 does what the thread may not
    virtio_blk_attention(s);
    fake.bql = false;
    CHECK(fake.line[line] && rd(&v, v.isr, 1) == 1 && !fake.line[line]);
    wr(&v, v.notify + 4 * 9, 0, 4);                                         // no such queue
    wr(&v, v.common + 0x3000, 0, 4);                                    // where other devices have their notifications
    virtio_blk_serve(s);
    CHECK(used(&v, 0) == -1 && !broken(&v));

    // MSI-X needs nobody; masked, it waits in the pending bits.
    wr(&v, v.msix + 16, 0xfee00000, 4);
    wr(&v, v.msix + 24, 0x71, 4);
    unsigned cap = rd(&v, cfg_at(0x34), 1);
    while (rd(&v, cfg_at(cap), 1) != 0x11) cap = rd(&v, cfg_at(cap + 1), 1);
    wr(&v, cfg_at(cap + 2), 0x8000, 2);
    wr(&v, v.common + 0x16, 0, 2);
    wr(&v, v.common + 0x1a, 1, 2);
    simple(&v, FLUSH, 0, 0);
    virtio_blk_serve(s);
    CHECK(used(&v, 0) == 1 && fake.nmsi == 0 && fake.attentions == 1);
    wr(&v, v.msix + 28, 0, 4);
    CHECK(fake.nmsi == 1 && fake.msi[0].data == 0x71);

    // A full ring is served in turns; several ranges in one go; a bad chain breaks the device from the thread.
    request(&v, IN, 1, 2);
    desc(&v, DESC, 1, BUF, 512, 3, 2);
    for (unsigned i = 0; i < QSIZE; i++) offer(&v, 0, 0);
    kick(&v, 0);
    virtio_blk_serve(s);
    for (unsigned i = 0; i < QSIZE; i++) CHECK(used(&v, 0) == 513);
    start(&v, V1 | BIT(F_DISCARD) | BIT(F_ZEROES), 2);
    ranges(&v, 0, 16, 8, 0);
    ranges(&v, 1, 40, 1, 0);
    unsigned before = disk.nlog;
    simple(&v, ZEROES, 0, 32);
    virtio_blk_serve(s);
    CHECK(used(&v, 0) == 1 && status(&v) == 0 && disk.nlog == before + 2);
    desc(&v, DESC, 0, HDR, 3, 1, 2);
    offer(&v, 0, 0);
    kick(&v, 0);
    virtio_blk_serve(s);
    CHECK(broken(&v));
    simple(&v, IN, 0, 512);
    start(&v, V1, 2);                                                       // what was offered to the old driver's queues is not done
    virtio_blk_serve(s);
    CHECK(used(&v, 0) == -1 && !broken(&v) && disk.nlog == before + 2);
    fake_done();
}

// Descriptors 3k, 3k + 1, 3k + 2: a read of one sector into a place of its own.
static void offer_read(struct driver *v, unsigned k)
{
    u64 at = HDR + 0x100 + 32 * k;
    phys_st(v->p, gpa(at), IN, 8);
    phys_st(v->p, gpa(at + 8), k, 8);
    phys_st(v->p, gpa(at + 16), 0xaa, 1);
    desc(v, DESC, 3 * k, at, 16, 1, 3 * k + 1);
    desc(v, DESC, 3 * k + 1, BUF + 512 * k, 512, 3, 3 * k + 2);
    desc(v, DESC, 3 * k + 2, at + 16, 1, 2, 0);
    offer(v, 0, 3 * k);
}

// A disk that is polled: several requests under way, and the thread wakes itself as long as there are. They end in any order, and none is
// forgotten by a change of the configuration, by a reset or at the end of the machine.
static void test_polled(void)
{
    static const struct block_ops ops = {.submit = disk_submit, .drain = disk_drain, .run = disk_run, .poll = disk_poll};
    struct driver v;
    struct virtio_blk *s = disk_new_with(&v, &ops, false, 1, (struct plat_io *)&fake);
    start(&v, V1 | BIT(F_ZEROES), 1);
    disk.later = true;
    _Static_assert(QSIZE >= 6, "two reads");
    offer_read(&v, 0);
    offer_read(&v, 1);
    kick(&v, 0);
    unsigned woken = fake.io_wakes;
    virtio_blk_serve(s);
    CHECK(disk.nwaiting == 2 && used(&v, 0) == -1 && fake.io_wakes == woken + 1);
    disk.ready = 1;
    virtio_blk_serve(s);
    CHECK(disk.nwaiting == 1 && used(&v, 0) == 513 && same(&v, BUF + 512, 1, 512) && fake.attentions == 1 && fake.io_wakes == woken + 2);
    virtio_blk_serve(s);
    CHECK(used(&v, 0) == -1 && fake.attentions == 1);                      // nothing ended, so nothing is said
    wr(&v, v.common + 0x16, 0, 2);                                         // any write to the configuration wakes the thread again
    CHECK(fake.io_wakes == woken + 4);
    disk.ready = 1;
    virtio_blk_serve(s);
    CHECK(used(&v, 0) == 513 && same(&v, BUF, 0, 512) && fake.attentions == 2 && fake.io_wakes == woken + 4);

    ranges(&v, 0, 16, 8, 0);                                               // two steps: the second is submitted from within the poll
    ranges(&v, 1, 40, 1, 0);
    simple(&v, ZEROES, 0, 32);
    virtio_blk_serve(s);
    disk.ready = 2;
    virtio_blk_serve(s);
    CHECK(used(&v, 0) == 1 && status(&v) == 0 && disk.nwaiting == 0 && fake.attentions == 3);

    // One chain more often than there are requests: the rest waits in the ring until some have ended.
    request(&v, IN, 1, 2);
    desc(&v, DESC, 1, BUF, 512, 3, 2);
    for (unsigned i = 0; i < VIRTQ_MAX + 3; i++) {
        offer(&v, 0, 0);
        if (i % QSIZE != QSIZE - 1) continue;
        kick(&v, 0);
        virtio_blk_serve(s);
    }
    kick(&v, 0);
    virtio_blk_serve(s);
    CHECK(disk.nwaiting == VIRTQ_MAX);
    disk.ready = VIRTQ_MAX;
    virtio_blk_serve(s);
    virtio_blk_serve(s);
    CHECK(disk.nwaiting == 3);

    unsigned before = disk.drains;
    start(&v, V1, 1);                                                      // a reset waits for them
    CHECK(disk.nwaiting == 0 && disk.drains > before && used(&v, 0) == -1 && !broken(&v));
    offer_read(&v, 0);
    kick(&v, 0);
    virtio_blk_serve(s);
    offer_read(&v, 1);
    kick(&v, 0);
    fake.bql = true;
    virtio_blk_finish(s);                                                  // and so does the end, which begins nothing
    fake.bql = false;
    virtio_blk_serve(s);
    CHECK(disk.nwaiting == 0 && used(&v, 0) == 513 && used(&v, 0) == -1);
    fake_done();
}

void test_blk(void)
{
    test_plane();
    test_polled();
    test_config();
    test_transfer();
    test_later();
    test_too_many();
    test_cache();
    test_ranges();
    test_bad_requests();
    test_random();
}
