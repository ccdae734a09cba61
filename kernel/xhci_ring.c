// Rings (xHCI 1.2, 4.9): what the driver asks, and the controller's events, which are its only answer. One command or transfer is under
// way at a time, so an event either belongs to it or is left over from one that was given up.
//
// A TRB is the controller's from the moment its cycle bit is right: that word is written last, and the first TRB of a transfer last of
// all.
#include <string.h>

#include "kernel/base/log.h"
#include "kernel/cpu.h"
#include "kernel/hwtimer.h"
#include "kernel/pmem.h"
#include "kernel/xhci.h"

enum { MOST = 3 };

#define COMMAND_NS 5000000000ull

// What is waited for.
struct wait {
    unsigned slot, dci;            // 0, 0: a command
    u64 trb[MOST];
    unsigned n;
    u32 left;                      // bytes, from an earlier event of the same transfer
    bool done;
    struct xhci_trb event;
};

void *xhci_memory(struct xhci *hc, u64 size, u64 *phys)
{
    *phys = pmem_alloc(size, size);
    if (*phys && !hc->wide && *phys + size > 4 * GIB) {
        pmem_free(*phys, size);
        *phys = 0;
    }
    if (!*phys) xhci_fail(hc, "no memory that it could reach");
    return *phys ? memset(pmem_virt(*phys), 0, size) : NULL;
}

bool xhci_ring_init(struct xhci *hc, struct xhci_ring *r, bool producer)
{
    *r = (struct xhci_ring){.cycle = 1};
    r->trb = xhci_memory(hc, PAGE_SIZE, &r->phys);
    if (r->trb && producer) r->trb[XHCI_RING - 1] = (struct xhci_trb){r->phys, 0, trb_make(TRB_LINK) | (u32)TRB_TOGGLE};
    return r->trb != NULL;
}

void xhci_ring_free(struct xhci_ring *r)
{
    if (r->trb) pmem_free(r->phys, PAGE_SIZE);
    r->trb = NULL;
}

// ---- producing ---------------------------------------------------------------------------------------------------------------------

static void ring_wrap(struct xhci_ring *r)
{
    struct xhci_trb *link = &r->trb[XHCI_RING - 1];
    *(volatile u32 *)&link->control = trb_make(TRB_LINK) | (u32)TRB_TOGGLE | r->cycle;
    r->at = 0;
    r->cycle ^= 1;
}

// n TRBs, whose places go to w.
static void ring_put(struct xhci_ring *r, const struct xhci_trb *trb, unsigned n, struct wait *w)
{
    struct xhci_trb *first = &r->trb[r->at];
    u32 first_control = trb[0].control | r->cycle;
    for (unsigned i = 0; i < n; i++) {
        struct xhci_trb *t = &r->trb[r->at];
        w->trb[w->n++] = r->phys + r->at * sizeof(*t);
        t->param = trb[i].param;
        t->status = trb[i].status;
        *(volatile u32 *)&t->control = i ? trb[i].control | r->cycle : (trb[i].control & ~(u32)TRB_CYCLE) | (r->cycle ^ 1);
        if (++r->at == XHCI_RING - 1) ring_wrap(r);
    }
    __atomic_thread_fence(__ATOMIC_SEQ_CST);
    *(volatile u32 *)&first->control = first_control;
    __atomic_thread_fence(__ATOMIC_SEQ_CST);
}

// ---- consuming ---------------------------------------------------------------------------------------------------------------------

static bool event_take(struct xhci *hc, struct xhci_trb *e)
{
    struct xhci_ring *r = &hc->events;
    if ((*(volatile u32 *)&r->trb[r->at].control & TRB_CYCLE) != r->cycle) return false;
    __atomic_thread_fence(__ATOMIC_ACQUIRE);
    *e = r->trb[r->at];
    if (++r->at == XHCI_RING) {
        r->at = 0;
        r->cycle ^= 1;
    }
    u64 at = r->phys + r->at * sizeof(*e);
    *(volatile u32 *)(hc->rt + RT_ERDP) = (u32)at | (u32)ERDP_BUSY;      // written to be cleared
    *(volatile u32 *)(hc->rt + RT_ERDP + 4) = at >> 32;
    return true;
}

static unsigned code_of(const struct xhci_trb *e) { return e->status >> 24; }

static void event_look(struct xhci *hc, struct wait *w, const struct xhci_trb *e)
{
    enum trb_type t = trb_type(e);
    if (t == TRB_CONTROLLER_EVENT) log_once(LOG_WARN, "%s: the controller reports code %u (said once)", hc->name, code_of(e));
    if (t != (w->slot ? TRB_TRANSFER_EVENT : TRB_COMMAND_EVENT)) return;
    if (code_of(e) == CC_RING_STOPPED) return;      // it points to the command that is next, not to one that is done
    if (w->slot && (trb_slot(e) != w->slot || trb_endpoint(e) != w->dci)) return;
    for (unsigned i = 0; i < w->n; i++) {
        if (w->trb[i] != e->param) continue;
        // A short data stage is followed by its status stage (4.10.1.1).
        if (i + 1 < w->n && code_of(e) == CC_SHORT) w->left = e->status & 0xffffff;
        else if (i + 1 == w->n || code_of(e) != CC_SUCCESS) {
            w->event = *e;
            w->done = true;
        }
    }
}

static bool wait_end(struct xhci *hc, struct wait *w, u64 ns)
{
    struct xhci_trb e;
    for (u64 end = hwtimer_now_ns() + ns; !w->done; cpu_pause()) {
        while (!w->done && event_take(hc, &e)) event_look(hc, w, &e);
        if (w->done) break;
        u32 status = *(volatile u32 *)(hc->op + OP_USBSTS);
        if (status == UINT32_MAX || status & (STS_HSE | STS_HCE)) {
            hc->dead = true;
            return xhci_fail(hc, "the controller has failed (USBSTS %08x)", status);
        }
        if (hwtimer_now_ns() > end) return xhci_fail(hc, "no answer within %llu ms", (unsigned long long)(ns / 1000000));
    }
    return true;
}

// ---- commands and transfers ----------------------------------------------------------------------------------------------------------

// A command that hangs, as Address Device does with a device that does not answer, is taken back (4.6.1.2). If that hangs too, all is
// over.
static void command_abort(struct xhci *hc, struct wait *w)
{
    const struct xhci_ring *r = &hc->commands;
    if (hc->dead) return;
    *(volatile u32 *)(hc->op + OP_CRCR) = (u32)(r->phys + r->at * sizeof(struct xhci_trb)) | (u32)CRCR_ABORT | r->cycle;
    hc->dead = !wait_end(hc, w, COMMAND_NS);
}

bool xhci_command(struct xhci *hc, struct xhci_trb trb, const char *what, unsigned *slot)
{
    struct wait w = {0};
    if (hc->dead) return xhci_fail(hc, "the controller has failed before");
    ring_put(&hc->commands, &trb, 1, &w);
    hc->doorbell[0] = 0;
    if (!wait_end(hc, &w, COMMAND_NS)) command_abort(hc, &w);
    if (hc->dead) return xhci_fail(hc, "%s: no answer to the command, and the controller has failed", what);
    if (code_of(&w.event) != CC_SUCCESS) return xhci_fail(hc, "%s: completion code %u", what, code_of(&w.event));
    if (slot) *slot = trb_slot(&w.event);
    return true;
}

enum usb_result xhci_transfer(struct xhci_slot *s, unsigned dci, struct xhci_trb *trb, unsigned n, u64 timeout_ns, u32 *left)
{
    struct xhci *hc = s->hc;
    struct wait w = {.slot = s->id, .dci = dci};
    ASSERT(n <= MOST && s->ring[dci].trb, "%u TRBs for endpoint %u", n, dci);
    *left = 0;
    if (hc->dead) {
        xhci_fail(hc, "the controller has failed before");
        return USB_ERROR;
    }
    ring_put(&s->ring[dci], trb, n, &w);
    hc->doorbell[s->id] = dci;
    unsigned code = wait_end(hc, &w, timeout_ns) ? code_of(&w.event) : 0;
    *left = w.left ? w.left : w.event.status & 0xffffff;
    if (code == CC_SUCCESS || code == CC_SHORT) return USB_OK;
    if (code == CC_STALL) xhci_fail(hc, "stall");
    else if (code) xhci_fail(hc, "completion code %u", code);
    char why[sizeof(hc->trouble)];
    memcpy(why, hc->trouble, sizeof(why));
    if (!hc->dead) (void)!xhci_endpoint_restart(s, dci);      // if even that fails, so will the next transfer
    memcpy(hc->trouble, why, sizeof(why));
    return code == CC_STALL ? USB_STALL : USB_ERROR;
}
