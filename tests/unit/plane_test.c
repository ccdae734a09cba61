// The data plane of virtio-blk with a real second thread: requests in both queues, while MSI-X entries are masked and opened, queues and
// the whole device reset under it, and a region of the memory map always on the move. What a request says it did is done, no interrupt is
// lost, and after a reset nothing is touched. Once with a disk that does at once what it is asked, once with one that is polled and has
// many requests under way, which end in any order.
// link: devices/virtio.c devices/virtqueue.c devices/virtio_blk.c devices/pci.c tcg/run/phys.c kernel/base/fmt.c kernel/base/log.c
#include <pthread.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>

#include "devices/block.h"
#include "devices/clock.h"
#include "kernel/plat.h"
#include "tcg/run/vcpu.h"
#include "tests/unit/locked.h"
#include "tests/unit/virtio_driver.h"

enum { ROUNDS = 1500, QUEUES = 2, SECTORS = 1024, SLOT = 0x1000, AREA = 0x40000, QAREA = QSIZE * SLOT };
#define FEATURES (BIT(32) | BIT(28) | BIT(29) | BIT(40) | BIT(9) | BIT(12))

struct fake fake;
static unsigned passed, failed;
static u32 messages;                     // MSIs sent; atomic
static u8 data[SECTORS * 512];
static __thread bool holds_bql;

// ---- the world ----------------------------------------------------------------------------------------------------------------
void check_at(bool ok, const char *file, int line, const char *what)
{
    if (ok) passed++;
    else if (failed++ < 20) printf("%s:%d: FAILED: %s\n", file, line, what);
}
void *plat_pages_alloc(u64 size)
{
    size = (size + 4095) & ~4095ull;
    return memset(aligned_alloc(4096, size), 0, size);
}
void plat_pages_free(void *p, u64 size) { free(p); }
void plat_log_write(const char *text, size_t len, bool trace) {}
void plat_panic(const char *text) { fprintf(stderr, "PANIC: %s\n", text); abort(); }
void bql_lock_at(const char *file, int line) { holds_bql = true; }
void bql_unlock_at(const char *file, int line) { holds_bql = false; }
bool bql_held(void) { return holds_bql; }
bool plat_irq_save(void) { return true; }
void plat_irq_restore(bool saved) {}
void plat_relax(unsigned turn) { sched_yield(); }
struct vcpu *vcpu_current(void) { return NULL; }
void vcpu_fpu_release(struct vcpu *c) {}
void lapic_msi(u64 addr, u32 d) { __atomic_add_fetch(&messages, 1, __ATOMIC_SEQ_CST); }
u64 clock_ns(enum clock_type c) { return 0; }
void timer_init_named(struct timer *t, enum clock_type c, void (*fn)(void *opaque), void *opaque, const char *name) {}
void timer_mod_ns(struct timer *t, u64 expire_ns) {}
void timer_del(struct timer *t) {}
void plat_attention(void) { check_at(false, __FILE__, __LINE__, "attention wanted although MSI-X is on"); }
static void line_set(void *opaque, unsigned n, bool level) {}
struct irq fake_irq(unsigned n) { return (struct irq){line_set, NULL, n}; }
struct phys *fake_machine(u64 ram_size)
{
    struct phys *p = phys_new();
    u8 *ram = plat_pages_alloc(ram_size);
    phys_add_ram(p, gpa(0), ram_size, ram, "ram");
    return p;
}

struct plat_io { u32 awake, quit; } io;
static struct virtio_blk *blk;
static struct region *mover;             // over nothing, and over parts of the RAM that nobody uses
void plat_io_wake(struct plat_io *i) { __atomic_store_n(&i->awake, 1, __ATOMIC_SEQ_CST); }

static void *io_thread(void *arg)
{
    while (!__atomic_load_n(&io.quit, __ATOMIC_SEQ_CST))
        if (__atomic_exchange_n(&io.awake, 0, __ATOMIC_SEQ_CST)) virtio_blk_serve(blk);
        else sched_yield();
    return NULL;
}

static enum block_result disk_run(struct block *b, struct block_request *r)
{
    u8 *at = data + r->offset;
    if (r->op == BLOCK_FLUSH) return BLOCK_OK;
    for (unsigned i = 0; i < r->nseg; at += r->seg[i++].len) {
        if (r->op == BLOCK_READ) memcpy(r->seg[i].base, at, r->seg[i].len);
        else memcpy(at, r->seg[i].base, r->seg[i].len);
        if (r->offset % 5 == 0) sched_yield();
    }
    return BLOCK_OK;
}
static void disk_no_submit(struct block *b, struct block_request *r) { CHECK(false); }
static void disk_nothing(struct block *b) {}

// The polled disk. Its list has no lock: whoever comes here must be alone, which `inside' checks.
static struct block_request *under_way;
static u32 inside, most;                 // most: requests under way at once
static void disk_enter(void) { CHECK(!__atomic_exchange_n(&inside, 1, __ATOMIC_SEQ_CST)); }
static void disk_leave(void) { __atomic_store_n(&inside, 0, __ATOMIC_SEQ_CST); }

static void disk_submit(struct block *b, struct block_request *r)
{
    disk_enter();
    u32 n = 1;
    for (const struct block_request *p = under_way; p; p = p->next) n++;
    if (n > most) most = n;
    r->next = under_way;
    under_way = r;
    disk_leave();
}

// Ends the first of them, or, if not `all', none or any.
static bool disk_end_some(struct block *b, bool all)
{
    static __thread unsigned seed = 5;
    for (struct block_request **p = &under_way; *p;) {
        disk_enter();
        struct block_request *r = *p;
        bool end = all || rand_r(&seed) % 3 == 0;
        if (end) {
            *p = r->next;
            r->result = disk_run(b, r);
        } else {
            p = &r->next;
        }
        if (!all) sched_yield();                 // time for somebody who is not alone
        disk_leave();
        if (end) r->done(r);
    }
    return under_way;
}

static bool disk_poll(struct block *b) { return disk_end_some(b, false); }
static void disk_drain(struct block *b) { (void)disk_end_some(b, true); }

// ---- the driver: slot i of queue q has a page: indirect table, header, status, data ------------------------------------------------
static u64 slot_at(unsigned q, unsigned i) { return AREA + q * QAREA + i * SLOT; }

static void slot_offer(struct driver *v, unsigned q, unsigned i, bool write, u64 sector, u8 fill)
{
    u64 a = slot_at(q, i);
    phys_st(v->p, gpa(a + 0x100), write ? 1 : 0, 8);
    phys_st(v->p, gpa(a + 0x108), sector, 8);
    phys_st(v->p, gpa(a + 0x110), 0xaa, 1);
    memset(phys_host(v->p, gpa(a + 0x200)), fill, 1024);
    desc(v, a, 0, a + 0x100, 16, 1, 1);
    desc(v, a, 1, a + 0x200, 1024, write ? 1 : 3, 2);
    desc(v, a, 2, a + 0x110, 1, 2, 0);
    desc(v, DESC + q * STRIDE, i, a, 48, 4, 0);
    offer(v, q, i);
}

static void interrupts_on(struct driver *v)
{
    unsigned cap = rd(v, cfg_at(0x34), 1);
    while (rd(v, cfg_at(cap), 1) != 0x11) cap = rd(v, cfg_at(cap + 1), 1);
    wr(v, cfg_at(cap + 2), 0x8000, 2);
    for (unsigned q = 0; q < QUEUES; q++) {
        wr(v, v->msix + 16 * (q + 1), 0xfee00000, 4);
        wr(v, v->msix + 16 * (q + 1) + 8, 0x40 + q, 8);
        wr(v, v->common + 0x16, q, 2);
        wr(v, v->common + 0x1a, q + 1, 2);
    }
}

static void wait_used(struct driver *v, unsigned q, u16 n)
{
    u64 spins = 0;
    while ((u16)(phys_ld(v->p, gpa(USED + q * STRIDE + 2), 2) - v->used[q]) < n && ++spins < 50000000) sched_yield();
    CHECK(spins < 50000000);
    for (unsigned k = 0; k < n; k++) CHECK(used(v, q) >= 1);
}

// Writes to the slots' own sectors, then reads them back.
static void round_normal(struct driver *v, unsigned round)
{
    bool masked = rand() & 1;
    u32 before = __atomic_load_n(&messages, __ATOMIC_SEQ_CST);
    for (int write = 1; write >= 0; write--) {
        for (unsigned q = 0; q < QUEUES; q++) phys_st(v->p, gpa(AVAIL + q * STRIDE + 4 + 2 * QSIZE), v->used[q] + rand() % QSIZE, 2);
        for (unsigned q = 0; q < QUEUES && masked; q++) wr(v, v->msix + 16 * (q + 1) + 12, 1, 4);
        for (unsigned i = 0; i < QSIZE; i++)
            for (unsigned q = 0; q < QUEUES; q++) {
                slot_offer(v, q, i, write, 2 * (q * QSIZE + i), write ? round + q * 16 + i : 0);
                if (rand() & 1) kick(v, q);
                LOCKED(phys_remap(v->p, mover, rand() & 1 ? 0xf0000 : 2 * MIB + rand() % 16 * PAGE_SIZE, rand() & 3));
            }
        for (unsigned q = 0; q < QUEUES; q++) kick(v, q);
        if (masked && rand() & 1)
            for (unsigned q = 0; q < QUEUES; q++) wr(v, v->msix + 16 * (q + 1) + 12, 0, 4);
        for (unsigned q = 0; q < QUEUES; q++) wait_used(v, q, QSIZE);
        for (unsigned q = 0; q < QUEUES; q++) wr(v, v->msix + 16 * (q + 1) + 12, 0, 4);
    }
    for (unsigned q = 0; q < QUEUES; q++)
        for (unsigned i = 0; i < QSIZE; i++) {
            const u8 *p = phys_host(v->p, gpa(slot_at(q, i)));
            u8 want = round + q * 16 + i;
            CHECK(p[0x110] == 0 && p[0x200] == want && p[0x5ff] == want && data[1024 * (q * QSIZE + i)] == want);
        }
    for (u64 spins = 0; __atomic_load_n(&messages, __ATOMIC_SEQ_CST) < before + QUEUES && spins < 10000000; spins++) sched_yield();
    CHECK(__atomic_load_n(&messages, __ATOMIC_SEQ_CST) >= before + QUEUES);      // each queue's used_event was passed
}

// Reads are under way: then the queue, or the device, is gone, and the driver uses the memory for something else.
static void round_reset(struct driver *v, bool whole)
{
    for (unsigned i = 0; i < QSIZE; i++) slot_offer(v, 1, i, false, 2 * i, 0);
    kick(v, 1);
    for (int n = rand() % 3; n; n--) sched_yield();
    wr(v, v->common + 0x16, 1, 2);
    if (whole) wr(v, v->common + 0x14, 0, 1);
    else wr(v, v->common + 0x3a, 1, 2);
    u8 *area = phys_host(v->p, gpa(slot_at(1, 0))), *ring = phys_host(v->p, gpa(USED + STRIDE));
    memset(area, 0xee, QAREA);
    memset(ring, 0xee, 128);
    kick(v, 1);
    for (int n = 0; n < 20; n++) sched_yield();
    bool same = true;
    for (unsigned k = 0; k < QAREA; k++) same &= area[k] == 0xee;
    for (unsigned k = 0; k < 128; k++) same &= ring[k] == 0xee;
    CHECK(same);
    if (whole) start(v, FEATURES, QUEUES);
    else queue_setup(v, 1, QSIZE);
    interrupts_on(v);
}

static void test_disk(struct driver *v, const struct block_ops *ops)
{
    struct block disk = {.ops = ops, .name = "fake", .size = sizeof data, .physical = 512};
    pthread_t t;
    srand(7);
    io = (struct plat_io){0};
    bus_new(v);
    blk = LOCKED(virtio_blk_new(v->b, &disk, QUEUES, NULL, &io));
    find(v);
    static const struct io_ops nothing;
    mover = LOCKED(phys_add_mmio(v->p, gpa(2 * MIB), PAGE_SIZE, &nothing, NULL, "mover"));
    pthread_create(&t, NULL, io_thread, NULL);
    start(v, FEATURES, QUEUES);
    interrupts_on(v);
    for (unsigned round = 0; round < ROUNDS; round++) {
        unsigned dice = rand() % 10;
        if (dice < 2) round_reset(v, dice);
        else round_normal(v, round);
    }
    CHECK(!broken(v));
    __atomic_store_n(&io.quit, 1, __ATOMIC_SEQ_CST);
    pthread_join(t, NULL);
}

int main(void)
{
    static const struct block_ops ops = {.submit = disk_no_submit, .drain = disk_nothing, .run = disk_run};
    static const struct block_ops polled = {.submit = disk_submit, .drain = disk_drain, .poll = disk_poll};
    static struct driver v[2];
    test_disk(&v[0], &ops);
    test_disk(&v[1], &polled);
    CHECK(most > 2);
    printf("%u passed, %u failed\n", passed, failed);
    return failed != 0;
}
