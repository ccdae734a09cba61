// kernel/xhci_ring.c and kernel/xhci_slot.c against a controller made after the specification's chapter 4: rings that go round, contexts
// of both sizes, and what simulators do not show: stalls, transfers and commands that hang, events that come too late, a controller that
// fails.
//
// The controller runs whenever the driver looks at the clock. A physical address is what makes pmem_virt() give a pointer of this process.
// link: kernel/xhci_ring.c kernel/xhci_slot.c kernel/base/fmt.c tests/unit/panic.c
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "kernel/base/fmt.h"
#include "kernel/base/log.h"
#include "kernel/hwtimer.h"
#include "kernel/pmem.h"
#include "kernel/xhci.h"

enum { IN = 5, OUT = 4, SLOT = 7, PORT = 3, QUIET = -1 };
enum act { DO, SHORT, STALL, ERROR, HANG, HANG_AND_HALT };

static unsigned passed, failed;
static u32 mmio[4096];                    // operational registers at 0, runtime at 0x1000, doorbells at 0x2000
static struct xhci hc;
static struct xhci_slot s;

// The controller's own view.
struct place { u64 at; u32 cycle; };
static struct {
    struct place commands, ep[XHCI_DCIS];
    unsigned state[XHCI_DCIS], event;
    u32 event_cycle;
    enum act act;                         // for the next transfer
    bool hang_command, hang_abort, hung;
    unsigned count[64];                   // commands by type
    u32 dropped, added;                   // flags of the last input context
    u64 now;
    long allocated;
    u64 late;                             // a TRB that was given up, and of which an event comes when the next transfer is under way
    const char *wrong;
} f;

static void check(bool ok, const char *what)
{
    if (ok && !f.wrong) passed++;
    else {
        failed++;
        printf("FAIL %s, contexts of %u: %s; %s\n", what, hc.context, hc.trouble, f.wrong ? f.wrong : "");
    }
    f.wrong = NULL;
}

u64 pmem_alloc(u64 size, u64 align)
{
    f.allocated++;
    return (u64)aligned_alloc(align, size) - DIRECT_MAP_BASE;
}

void pmem_free(u64 phys, u64 size)
{
    f.allocated--;
    free(pmem_virt(phys));
}

bool xhci_fail(struct xhci *c, const char *fmt, ...)
{
    va_list ap;
    va_start(ap, fmt);
    fmt_vsnprintf(c->trouble, sizeof c->trouble, fmt, ap);
    va_end(ap);
    return false;
}

void log_write(enum log_level lv, const char *fmt, ...) {}

// ---- the controller ----

static void event_post(u64 param, u32 left, unsigned code, enum trb_type t, unsigned dci)
{
    struct xhci_trb *e = &hc.events.trb[f.event];
    *e = (struct xhci_trb){param, left | code << 24, trb_make(t) | dci << 16 | (u32)SLOT << 24 | f.event_cycle};
    if (++f.event == XHCI_RING) f.event = 0, f.event_cycle ^= 1;
}

// The next TRB that is the controller's, behind links; NULL: none.
static struct xhci_trb *trb_next(struct place *p, u64 *phys)
{
    for (;;) {
        struct xhci_trb *t = pmem_virt(p->at);
        if ((t->control & TRB_CYCLE) != p->cycle) return NULL;
        *phys = p->at;
        p->at += sizeof *t;
        if (trb_type(t) != TRB_LINK) return t;
        p->at = t->param;
        if (t->control & TRB_TOGGLE) p->cycle ^= 1;
    }
}

static u32 *context(void *page, unsigned i) { return (u32 *)((u8 *)page + i * hc.context); }

static void state_set(unsigned dci, unsigned state)
{
    f.state[dci] = state;
    context(s.output, dci)[0] = state;
}

// Address Device, Configure Endpoint, Evaluate Context: what the flags name is taken over.
static unsigned input_take(const struct xhci_trb *t)
{
    void *in = pmem_virt(t->param);
    f.dropped = context(in, 0)[0];
    f.added = context(in, 0)[1];
    if (trb_type(t) == TRB_CONFIGURE_ENDPOINT && ((f.added & 3) != 1 || f.dropped & 3)) f.wrong = "flags of Configure Endpoint";
    if (trb_type(t) == TRB_ADDRESS_DEVICE && (f.added != 3 || hc.dcbaa[SLOT] != (u64)s.output - DIRECT_MAP_BASE))
        f.wrong = "Address Device";
    for (unsigned dci = 1; dci < XHCI_DCIS; dci++) {
        if (f.dropped >> dci & 1) {
            if (f.state[dci] == EP_RUNNING) f.wrong = "a running endpoint dropped";
            state_set(dci, EP_DISABLED);
        }
        if (!(f.added >> dci & 1)) continue;
        u32 *e = context(in, 1 + dci);
        memcpy(context(s.output, dci), e, 20);
        if (trb_type(t) == TRB_EVALUATE_CONTEXT) continue;
        if (f.state[dci] != EP_DISABLED) f.wrong = "an endpoint added twice";
        f.ep[dci] = (struct place){(e[2] | (u64)e[3] << 32) & ~15ull, e[2] & 1};
        state_set(dci, EP_RUNNING);
    }
    if (f.added & 1) memcpy(context(s.output, 0), context(in, 1), 16);
    return CC_SUCCESS;
}

static unsigned command_do(const struct xhci_trb *t)
{
    unsigned dci = trb_endpoint(t);
    if (trb_type(t) != TRB_ENABLE_SLOT && trb_slot(t) != SLOT) f.wrong = "a command for another slot";
    switch (trb_type(t)) {
    case TRB_ENABLE_SLOT: return dci == 2 ? CC_SUCCESS : 5;                   // the port's slot type
    case TRB_DISABLE_SLOT: return CC_SUCCESS;
    case TRB_ADDRESS_DEVICE: case TRB_CONFIGURE_ENDPOINT: case TRB_EVALUATE_CONTEXT: return input_take(t);
    case TRB_RESET_ENDPOINT:
        if (f.state[dci] != EP_HALTED) return 19;                             // context state error
        state_set(dci, EP_STOPPED);
        return CC_SUCCESS;
    case TRB_STOP_ENDPOINT:
        if (f.act == HANG_AND_HALT) state_set(dci, EP_HALTED);
        if (f.state[dci] != EP_RUNNING) return 19;
        state_set(dci, EP_STOPPED);
        event_post(f.ep[dci].at - 16, 100, 26, TRB_TRANSFER_EVENT, dci);       // the transfer that was stopped
        f.late = f.ep[dci].at - 16;
        return CC_SUCCESS;
    case TRB_SET_TR_DEQUEUE:
        if (f.state[dci] != EP_STOPPED && f.state[dci] != EP_ERROR) return 19;
        f.ep[dci] = (struct place){t->param & ~15ull, t->param & 1};
        return CC_SUCCESS;
    default: return 5;
    }
}

static void commands_run(void)
{
    u64 phys;
    for (struct xhci_trb *t; !f.hung && (t = trb_next(&f.commands, &phys));) {
        f.count[trb_type(t)]++;
        if (f.hang_command) {
            f.hung = true;
            return;
        }
        event_post(phys, 0, command_do(t), TRB_COMMAND_EVENT, 0);
    }
}

static void abort_look(void)
{
    u32 *crcr = &mmio[OP_CRCR / 4];
    if (!(*crcr & CRCR_ABORT) || f.hang_abort) return;
    *crcr = 0;
    f.hung = f.hang_command = false;
    event_post(f.commands.at - 16, 0, CC_ABORTED, TRB_COMMAND_EVENT, 0);
    event_post(f.commands.at, 0, CC_RING_STOPPED, TRB_COMMAND_EVENT, 0);
}

// One transfer: TRBs up to the one with IOC.
static void transfer_run(unsigned dci)
{
    u64 phys;
    enum act act = f.act;
    if (f.late) event_post(f.late, 0, CC_SUCCESS, TRB_TRANSFER_EVENT, dci);
    f.late = 0;
    for (struct xhci_trb *t; f.state[dci] == EP_RUNNING && (t = trb_next(&f.ep[dci], &phys));) {
        u32 len = t->status & 0x1ffff;
        bool data = trb_type(t) == TRB_NORMAL || trb_type(t) == TRB_DATA;
        if (dci == 1 && trb_type(t) == TRB_NORMAL) f.wrong = "a normal TRB on endpoint 0";
        if (data && (act == STALL || act == ERROR)) {
            state_set(dci, EP_HALTED);
            event_post(phys, len, act == STALL ? CC_STALL : 4, TRB_TRANSFER_EVENT, dci);
            return;
        }
        if (data && act >= HANG) return;
        if (data && (dci & 1)) memset(pmem_virt(t->param), 0x5a, act == SHORT ? len / 2 : len);
        if (data && act == SHORT) event_post(phys, len - len / 2, CC_SHORT, TRB_TRANSFER_EVENT, dci);
        else if (t->control & TRB_IOC) event_post(phys, 0, CC_SUCCESS, TRB_TRANSFER_EVENT, dci);
    }
}

static void controller_run(void)
{
    u32 *bell = &mmio[0x2000 / 4];
    if (bell[0] != (u32)QUIET) bell[0] = (u32)QUIET, commands_run();
    if (bell[SLOT] != (u32)QUIET) {
        unsigned dci = bell[SLOT];
        bell[SLOT] = (u32)QUIET;
        if (f.state[dci] == EP_STOPPED) state_set(dci, EP_RUNNING);
        transfer_run(dci);
    }
    abort_look();
    u64 dequeue = hc.events.phys + hc.events.at * 16;
    if (hc.events.at && mmio[(0x1000 + RT_ERDP) / 4] != ((u32)dequeue | 8)) f.wrong = "the event ring's dequeue pointer";
}

u64 hwtimer_now_ns(void)
{
    controller_run();
    return f.now += 1000000;
}

void hwtimer_wait_ns(u64 ns) { f.now += ns; }

// ---- the tests ----

static bool start(unsigned context_size)
{
    u64 phys;
    memset(&f, 0, sizeof f);
    memset(mmio, 0, sizeof mmio);
    memset(&mmio[0x2000 / 4], 0xff, 1024);
    hc = (struct xhci){.context = context_size, .wide = true, .op = (u8 *)mmio, .rt = (u8 *)mmio + 0x1000, .doorbell = mmio + 0x2000 / 4,
                       .slot_type[PORT] = 2};
    hc.dcbaa = xhci_memory(&hc, PAGE_SIZE, &phys);
    if (!xhci_ring_init(&hc, &hc.commands, true) || !xhci_ring_init(&hc, &hc.events, false)) return false;
    f.commands = (struct place){hc.commands.phys, 1};
    f.event_cycle = 1;
    s = (struct xhci_slot){.hc = &hc, .port = PORT, .speed = 3, .route = 0x21, .tt_slot = 9, .tt_port = 2};
    return true;
}

static void stop(void)
{
    xhci_slot_close(&s);
    xhci_ring_free(&hc.commands);
    xhci_ring_free(&hc.events);
    pmem_free((u64)hc.dcbaa - DIRECT_MAP_BASE, PAGE_SIZE);
}

static u8 buffer[4096] __attribute__((aligned(4096)));

static enum usb_result bulk(unsigned dci, enum act act, u32 *left)
{
    struct xhci_trb t = {(u64)buffer - DIRECT_MAP_BASE, 1000, trb_make(TRB_NORMAL) | (u32)TRB_IOC | (u32)TRB_ISP};
    f.act = act;
    memset(buffer, 0, sizeof buffer);
    enum usb_result r = xhci_transfer(&s, dci, &t, 1, 50000000, left);
    f.act = DO;
    return r;
}

static enum usb_result control(enum act act, u32 *left)
{
    struct xhci_trb t[3] = {{0, 8, trb_make(TRB_SETUP) | (u32)TRB_IDT},
                            {(u64)buffer - DIRECT_MAP_BASE, 64, trb_make(TRB_DATA) | (u32)TRB_ISP | (u32)TRB_IN},
                            {0, 0, trb_make(TRB_STATUS) | (u32)TRB_IOC}};
    f.act = act;
    enum usb_result r = xhci_transfer(&s, 1, t, 3, 50000000, left);
    f.act = DO;
    return r;
}

static const struct usb_bulk in = {IN, 512, 3}, out = {OUT, 1024, 0};

static void test_slot(void)
{
    check(xhci_slot_open(&s, 64) && s.id == SLOT, "a slot");
    u32 *slot = context(s.output, 0), *e = context(s.output, 1);
    check(slot[0] == (0x21 | 3 << 20 | 1 << 27) && slot[1] == PORT << 16 && slot[2] == (9 | 2 << 8), "its context");
    check((e[1] >> 3 & 7) == 4 && e[1] >> 16 == 64 && (e[1] >> 1 & 3) == 3, "endpoint 0");
    check(xhci_slot_packet(&s, 8) && context(s.output, 1)[1] >> 16 == 8, "another packet size");
    state_set(1, EP_RUNNING);                                                  // (which Evaluate Context leaves alone)
    check(xhci_slot_bulk(&s, &in, &out) && f.added == (1 | 1 << IN | 1 << OUT) && !f.dropped, "bulk endpoints");
    e = context(s.output, IN);
    check(slot[0] == (0x21 | 3 << 20 | IN << 27) && e[1] == (3 << 1 | 6 << 3 | 3 << 8 | 512 << 16), "their contexts");
    check(xhci_slot_hub(&s, 5, 2) && slot[0] >> 26 & 1 && slot[1] >> 24 == 5 && (slot[2] >> 16 & 3) == 2 && f.added == 1, "a hub");
}

static void test_transfers(void)
{
    u32 left;
    bool ok = true;
    for (unsigned i = 0; i < 1000; i++) {
        ok &= bulk(i % 3 ? IN : OUT, DO, &left) == USB_OK && !left && (i % 3 == 0 || buffer[999] == 0x5a) && !buffer[1000];
        ok &= control(DO, &left) == USB_OK && !left;
        if (i % 50 == 0) ok &= xhci_slot_packet(&s, 64) && (state_set(1, EP_RUNNING), true);
    }
    check(ok, "3000 transfers, around all rings");
    check(bulk(IN, SHORT, &left) == USB_OK && left == 500, "a short packet");
    check(control(SHORT, &left) == USB_OK && left == 32 && hc.events.at == f.event,
          "a short data stage, then the status stage");
}

static void test_failures(void)
{
    u32 left;
    for (unsigned i = 0; i < 300; i++) {                                       // in every place of the ring
        f.count[TRB_RESET_ENDPOINT] = f.count[TRB_STOP_ENDPOINT] = 0;
        bool ok = bulk(IN, STALL, &left) == USB_STALL && f.count[TRB_RESET_ENDPOINT] == 1 && !strcmp(hc.trouble, "stall");
        ok &= bulk(IN, DO, &left) == USB_OK && buffer[0] == 0x5a;
        ok &= control(STALL, &left) == USB_STALL && control(DO, &left) == USB_OK;
        ok &= bulk(OUT, ERROR, &left) == USB_ERROR && strstr(hc.trouble, "code 4") && bulk(OUT, DO, &left) == USB_OK;
        ok &= !f.count[TRB_STOP_ENDPOINT] && bulk(IN, HANG, &left) == USB_ERROR && strstr(hc.trouble, "no answer within 50 ms");
        ok &= f.count[TRB_STOP_ENDPOINT] == 1 && bulk(IN, DO, &left) == USB_OK && buffer[0] == 0x5a;
        ok &= bulk(IN, HANG_AND_HALT, &left) == USB_ERROR && bulk(IN, DO, &left) == USB_OK;
        ok &= control(HANG, &left) == USB_ERROR && control(DO, &left) == USB_OK;
        if (!ok) {
            check(false, "stalls, errors and silence");
            return;
        }
    }
    check(true, "stalls, errors and silence");
    check(xhci_slot_bulk(&s, &in, &out) && f.dropped == (1 << IN | 1 << OUT), "bulk endpoints anew");
    check(bulk(IN, DO, &left) == USB_OK && bulk(OUT, DO, &left) == USB_OK, "and they work");
    check(!xhci_command(&hc, (struct xhci_trb){0, 0, trb_make(TRB_SETUP) | (u32)SLOT << 24}, "Nonsense", NULL) &&
          !strcmp(hc.trouble, "Nonsense: completion code 5"), "a command refused");
    // In every place of the command ring, the last before the link included.
    bool ok = true;
    for (unsigned i = 0; i < 300 && ok; i++) {
        f.hang_command = true;
        ok = !xhci_slot_packet(&s, 64) && !hc.dead && strstr(hc.trouble, "Evaluate Context: completion code 25");
        ok &= xhci_slot_packet(&s, 64) && xhci_slot_packet(&s, 64);
        state_set(1, EP_RUNNING);
    }
    check(ok, "a command that hangs is aborted");
}

static void test_dead(void)
{
    u32 left;
    f.hang_command = f.hang_abort = true;
    check(!xhci_slot_packet(&s, 64) && hc.dead && strstr(hc.trouble, "and the controller has failed"), "an abort that hangs");
    unsigned n = f.count[TRB_EVALUATE_CONTEXT];
    check(!xhci_slot_packet(&s, 64) && f.count[TRB_EVALUATE_CONTEXT] == n && bulk(IN, DO, &left) == USB_ERROR, "nothing more is asked");
    hc.dead = f.hang_command = f.hang_abort = f.hung = false;
    memset(&mmio[OP_CRCR / 4], 0, 4);
    mmio[OP_USBSTS / 4] = STS_HSE;
    check(bulk(IN, HANG, &left) == USB_ERROR && hc.dead && strstr(hc.trouble, "USBSTS 00000004"), "a host system error");
    hc.dead = false;
    mmio[OP_USBSTS / 4] = 0;
}

static void test_close(void)
{
    struct xhci_slot was = s;
    long before = f.allocated;
    f.hang_command = f.hang_abort = true;
    xhci_slot_close(&s);
    check(f.allocated == before && !s.id, "a slot that is not given up keeps its memory");
    f.hang_command = f.hang_abort = f.hung = hc.dead = false;
    s = was;
    stop();
    check(f.allocated == 0, "all memory is given back");
}

int main(void)
{
    static const unsigned sizes[] = {32, 64};
    for (unsigned i = 0; i < ARRAY_SIZE(sizes); i++) {
        if (!start(sizes[i])) return 1;
        test_slot();
        test_transfers();
        test_failures();
        test_dead();
        test_close();
    }
    printf("%u passed, %u failed\n", passed, failed);
    return failed != 0;
}
