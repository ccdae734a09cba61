// kernel/usb_disk.c against a device that is strict, and that has every fault of the Bulk-Only Transport's chapter 6 at every transfer in
// turn.
// link: kernel/usb_disk.c kernel/disk.c kernel/base/fmt.c tests/unit/panic.c
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "kernel/base/fmt.h"
#include "kernel/base/log.h"
#include "kernel/disk.h"
#include "kernel/hwtimer.h"
#include "kernel/usb_disk.h"

enum { IN = 5, OUT = 4, SIZE = 1 << 20, MOVE = 150 * 1024 };
enum fault { NONE, STALL, LOST, BAD_SIGNATURE, BAD_TAG, PHASE_ERROR, SHORT_STATUS, SHORT_DATA, FAULTS };
enum phase { IDLE, DATA, STATUS };

static unsigned passed, failed;
static char trouble[256];

// The device. What a strict one refuses, it notes in `wrong'.
static struct {
    u8 data[SIZE];
    u64 blocks;                           // announced
    u32 unit;
    enum phase phase;
    bool halted_in, halted_out, hung;     // hung: nothing but a reset recovery helps
    u8 cbw[31], key, asc, csw_status;
    u32 tag, left, moved;                 // of the command under way
    u64 at;
    bool write;
    u8 answer[64];
    unsigned transfers, fault_at, attention, waking, flushes, resets;
    enum fault fault;
    bool mild, excused;                   // excused: the fault is one that the caller must hear of
    bool every, read_only, no_flush, no_medium;
    u64 now;
    const char *wrong;
} f;

static struct usb_device device;

static struct block *newest(void)
{
    struct block *b = NULL;
    for (unsigned n = 0; usb_disk_get(n); n++) b = usb_disk_get(n);
    return b;
}

static void check(bool ok, const char *what, unsigned n)
{
    if (ok && !f.wrong) passed++;
    else {
        failed++;
        printf("FAIL %s (%u): %s; %s\n", what, n, newest() ? usb_disk_trouble(newest()) : "", f.wrong ? f.wrong : "");
    }
    f.wrong = NULL;
}

static u32 be32(const u8 *p) { return (u32)p[0] << 24 | p[1] << 16 | p[2] << 8 | p[3]; }
static void put_be32(u8 *p, u32 v) { for (unsigned i = 0; i < 4; i++) p[i] = (u8)(v >> (24 - 8 * i)); }

static void sense(u8 key, u8 asc)
{
    f.key = key;
    f.asc = asc;
    f.csw_status = key != 0;
}

static u32 answer(u32 n) { return n < f.left ? n : f.left; }

// Starts the command in cbw; returns how many bytes the device will move.
static u32 execute(const u8 *c)
{
    u8 op = c[0];
    f.write = false;
    memset(f.answer, 0, sizeof f.answer);
    if (op == 0x03) {
        f.answer[0] = 0x70;
        f.answer[2] = f.key;
        f.answer[7] = 10;
        f.answer[12] = f.asc;
        sense(0, 0);
        return answer(18);
    }
    sense(0, 0);
    if (op != 0x12 && f.attention) { f.attention--; sense(6, 0x29); return 0; }
    if (op == 0x12) return answer(36);
    if (f.no_medium) { sense(2, 0x3a); return 0; }
    if (f.waking) { f.waking--; sense(2, 0x04); return 0; }
    if (op == 0x00) return 0;
    if (op == 0x25) {
        put_be32(f.answer, f.blocks - 1 > UINT32_MAX ? UINT32_MAX : (u32)(f.blocks - 1));
        put_be32(f.answer + 4, f.unit);
        return answer(8);
    }
    if (op == 0x9e) {
        put_be32(f.answer, (u32)((f.blocks - 1) >> 32));
        put_be32(f.answer + 4, (u32)(f.blocks - 1));
        put_be32(f.answer + 8, f.unit);
        return answer(32);
    }
    if (op == 0x35 && !f.no_flush) { f.flushes++; return 0; }
    u32 n = (u32)(c[7] << 8 | c[8]) * f.unit;
    f.at = (u64)be32(c + 2) * f.unit;
    f.write = op == 0x2a;
    if ((op == 0x28 || f.write) && f.at + n <= SIZE && n == f.left && !(f.write && f.read_only)) return n;
    sense(f.write && f.read_only ? 7 : 5, 0x20);
    f.write = false;
    return 0;
}

static void command_take(const u8 *p, u32 len)
{
    if (len != 31 || memcmp(p, "USBC", 4) || p[13] || !p[14] || p[14] > 16) f.wrong = "a bad command block wrapper";
    u32 tag;
    memcpy(&tag, p + 4, 4);
    memcpy(&f.left, p + 8, 4);
    if (tag == f.tag) f.wrong = "a tag twice";
    f.tag = tag;
    f.moved = 0;
    u32 want = f.left, will = execute(p + 15);
    f.cbw[12] = p[12];
    f.left = will;
    f.phase = want ? DATA : STATUS;
    if (want && !will) {                  // 6.7.2, 6.7.3: nothing to move: the pipe stalls
        f.moved = 0;
        if (p[12]) f.halted_in = true;
        else f.halted_out = true;
        f.phase = STATUS;
    }
    f.cbw[8] = want & 255, f.cbw[9] = want >> 8 & 255, f.cbw[10] = want >> 16 & 255;
}

static u32 asked(void) { return (u32)(f.cbw[8] | f.cbw[9] << 8 | f.cbw[10] << 16); }

static void status_give(u8 *p, enum fault fault)
{
    u32 residue = asked() - f.moved, tag = f.tag ^ (fault == BAD_TAG);
    memcpy(p, fault == BAD_SIGNATURE ? "USBX" : "USBS", 4);
    memcpy(p + 4, &tag, 4);
    memcpy(p + 8, &residue, 4);
    p[12] = fault == PHASE_ERROR ? 2 : f.csw_status;
    f.phase = IDLE;
    if (fault == BAD_SIGNATURE || fault == BAD_TAG || fault == PHASE_ERROR) f.hung = true;
}

static enum usb_result lose(bool in, enum fault fault)
{
    snprintf(trouble, sizeof trouble, fault == STALL ? "stall" : "no answer within 5 ms");
    if (fault == STALL) {
        f.mild = f.phase == STATUS;                          // clearing it is enough
        if (in) f.halted_in = true;
        else f.halted_out = true;
        if (f.phase == IDLE) f.hung = true;                  // a stall of a command: 5.3.1, reset recovery
        if (f.phase == DATA) f.excused = true, sense(4, 0x44), f.phase = STATUS;   // what it says is then to be believed
        return USB_STALL;
    }
    f.hung = true;
    return USB_ERROR;
}

enum usb_result usb_bulk(struct usb_device *d, unsigned dci, u64 phys, u32 len, u64 timeout_ns, u32 *got)
{
    bool in = dci == IN;
    u8 *p = (u8 *)phys;
    *got = 0;
    if (dci != IN && dci != OUT) f.wrong = "another endpoint";
    if (len > 64 * 1024 || (phys & 0xffff) + len > 64 * 1024) f.wrong = "across 64 KiB";
    if (f.hung) {
        f.wrong = "a transfer, where a reset recovery is due";
        return lose(in, LOST);
    }
    if (in ? f.halted_in : f.halted_out) return lose(in, STALL);
    f.transfers++;
    enum fault fault = f.fault && (f.transfers == f.fault_at || (f.every && f.transfers >= f.fault_at)) ? f.fault : NONE;
    if (fault == STALL || fault == LOST) return lose(in, fault);
    if (f.phase == IDLE && !in) {
        command_take(p, len);
        *got = len;
        return USB_OK;
    }
    if (f.phase == DATA && in == (f.cbw[12] == 0x80)) {
        u32 n = f.left < len ? f.left : len;
        if (fault == SHORT_DATA && in && n > sizeof f.answer) {
            f.excused = true;
            n /= 2;
        }
        u8 *mine = f.answer;
        if (f.left > sizeof f.answer) mine = f.data + f.at;
        if (in) memcpy(p, mine, n);
        else if (f.write) memcpy(f.data + f.at, p, n);
        f.moved = *got = n;
        f.phase = STATUS;
        return USB_OK;
    }
    if (f.phase == STATUS && in) {
        if (len != 13) f.wrong = "a status of another size";
        status_give(p, fault);
        *got = fault == SHORT_STATUS ? 12 : 13;
        if (fault == SHORT_STATUS) f.hung = true;
        return USB_OK;
    }
    f.wrong = "a transfer out of order";
    return USB_ERROR;
}

enum usb_result usb_control(struct usb_device *d, const struct usb_setup *s, void *data, u32 *got)
{
    if (s->type == 0xa1 && s->request == 0xfe) return USB_STALL;       // one unit
    if (s->type != 0x21 || s->request != 0xff || s->index != 3 || s->length) f.wrong = "another control transfer";
    f.resets++;
    f.phase = IDLE;
    return USB_OK;
}

bool usb_clear_halt(struct usb_device *d, unsigned dci)
{
    if (dci == IN) f.halted_in = false;
    else f.halted_out = false;
    return true;
}

bool usb_bulk_restart(struct usb_device *d)
{
    f.hung = f.halted_in = f.halted_out = false;
    return true;
}

bool usb_configure(struct usb_device *d, const struct usb_interface *i)
{
    d->in = i->in;
    d->out = i->out;
    return true;
}

void *usb_memory(struct usb_device *d, u64 size, u64 *phys)
{
    void *p = aligned_alloc(size, size);
    *phys = (u64)p;
    return memset(p, 0, size);
}

const char *usb_trouble(const struct usb_device *d) { return trouble; }
u64 hwtimer_now_ns(void) { return f.now += 1000; }
void hwtimer_wait_ns(u64 ns) { f.now += ns; }
void log_write(enum log_level lv, const char *fmt, ...) {}
bool xhci_fail(struct xhci *hc, const char *fmt, ...) { return false; }

// ---- the tests ----

static const struct usb_interface good = {.number = 3, .class = 8, .subclass = 6, .protocol = 0x50, .in = {IN, 512, 0},
                                          .out = {OUT, 512, 0}};

static void start(u64 blocks, u32 unit)
{
    memset(&f, 0, sizeof f);
    f.blocks = blocks;
    f.unit = unit;
    for (unsigned i = 0; i < SIZE; i++) f.data[i] = (u8)(i >> 9);
}

static void test_wanted(void)
{
    struct usb_interface i = good;
    check(usb_disk_wanted(&i), "wanted", 0);
    i.protocol = 0x62;
    check(!usb_disk_wanted(&i), "UAS only", 0);
    i = good;
    i.out.dci = 0;
    check(!usb_disk_wanted(&i), "no OUT endpoint", 0);
}

static struct block *attach(u64 blocks, u32 unit)
{
    start(blocks, unit);
    unsigned n = 0;
    while (usb_disk_get(n)) n++;
    if (!usb_disk_attach(&device, &good)) return NULL;
    return usb_disk_get(n);
}

static void test_attach(void)
{
    struct block *b = attach(SIZE / 4096, 4096);
    check(b && b->size == SIZE && b->physical == 4096, "blocks of 4096", 0);
    u8 buf[4096];
    check(b && disk_read(b, 8192, buf, 4096) && !memcmp(buf, f.data + 8192, 4096), "one of them", 0);
    check(b && !disk_read(b, 512, buf, 512) && strstr(usb_disk_trouble(b), "whole blocks"), "a part of one", 0);
    b = attach(1ull << 33, 512);
    check(b && b->size == 1ull << 42, "READ CAPACITY(16)", 0);
    check(b && !disk_read(b, 1ull << 41, buf, 512) && strstr(usb_disk_trouble(b), "READ(10): beyond"), "too far for READ(10)", 0);
    start(100, 512);
    f.attention = 3;
    f.waking = 20;
    struct block *before = newest();
    check(usb_disk_attach(&device, &good) && newest() != before, "attention, and slow to wake up", 0);
    start(100, 512);
    f.no_medium = true;
    before = newest();
    check(usb_disk_attach(&device, &good) && newest() == before, "no medium", 0);
    start(100, 520);
    check(usb_disk_attach(&device, &good) && newest() == before, "odd blocks", 0);
}

static bool round_trip(struct block *b, u8 seed)
{
    static u8 out[MOVE], in[MOVE];
    for (unsigned i = 0; i < MOVE; i++) out[i] = (u8)(seed + i * 7 + i / 512);
    return disk_write(b, 5 * 512, out, MOVE) && disk_flush(b) && disk_read(b, 5 * 512, in, MOVE) && !memcmp(in, out, MOVE) &&
           !memcmp(f.data + 5 * 512, out, MOVE);
}

static void test_faults(void)
{
    struct block *b = attach(SIZE / 512, 512);
    f.transfers = 0;
    check(b && round_trip(b, 1) && f.flushes == 1 && !f.resets, "no fault", 0);
    unsigned all = f.transfers;
    for (unsigned fault = STALL; fault < FAULTS; fault++)
        for (unsigned at = 1; at <= all; at++) {
            // The disk is a new one as far as the driver knows, should the last fault have been its end.
            f.transfers = 0;
            f.fault = fault;
            f.fault_at = at;
            f.excused = f.mild = false;
            f.resets = 0;
            bool ok = round_trip(b, (u8)(fault * 16 + at));
            check(ok == !f.excused && ok == !usb_disk_trouble(b)[0] && !(f.mild && f.resets), "a fault", fault * 1000 + at);
        }
    f.fault = NONE;
    check(round_trip(b, 99), "afterwards", 0);
}

static void test_refusals(void)
{
    static u8 buf[512];
    struct block *b = attach(SIZE / 512, 512);
    f.read_only = true;
    check(b && !disk_write(b, 0, buf, 512) && strstr(usb_disk_trouble(b), "WRITE(10): write-protected (sense 7/20/00)"),
          "write-protected", 0);
    check(b && disk_read(b, 0, buf, 512) && !usb_disk_trouble(b)[0], "and readable", 0);
    f.no_flush = true;
    check(b && disk_flush(b) && disk_flush(b), "no SYNCHRONIZE CACHE", 0);
    f.fault = LOST;
    f.every = true;
    f.fault_at = f.transfers + 1;
    check(b && !disk_read(b, 0, buf, 512) && strstr(usb_disk_trouble(b), "READ(10): no answer") && f.resets == 2, "pulled out", f.resets);
    unsigned n = f.transfers;
    check(b && !disk_read(b, 0, buf, 512) && f.transfers == n, "it is not asked again", 0);
}

int main(void)
{
    snprintf(device.name, sizeof device.name, "USB 00:14.0 port 3");
    test_wanted();
    test_attach();
    test_faults();
    test_refusals();
    printf("%u passed, %u failed\n", passed, failed);
    return failed != 0;
}
