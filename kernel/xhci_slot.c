// Slots: devices as the controller sees them (xHCI 1.2, 4.3.3 to 4.6). What is to change goes into the input context; commands take it
// over.
#include <string.h>

#include "kernel/hwtimer.h"
#include "kernel/pmem.h"
#include "kernel/xhci.h"

enum { DCI_CONTROL = 1, ERRORS = 3, AVERAGE_CONTROL = 8, AVERAGE_BULK = 3072, ADDRESSED_NS = 10000000 };

static u32 *input_context(const struct xhci_slot *s, unsigned i) { return (u32 *)((u8 *)s->input + i * s->hc->context); }
static u32 *input_endpoint(const struct xhci_slot *s, unsigned dci) { return input_context(s, 1 + dci); }

// An empty input context that changes what `add' names: bit 0 the slot's, bit n endpoint n's. The slot's begins as it is.
static u32 *input_begin(struct xhci_slot *s, u32 add)
{
    memset(s->input, 0, PAGE_SIZE);
    input_context(s, 0)[1] = add;
    u32 *slot = input_context(s, 1);
    memcpy(slot, s->output, 32);
    slot[SLOT_DW3] = 0;
    return slot;
}

static void endpoint_fill(struct xhci_slot *s, unsigned dci, unsigned type, unsigned packet, unsigned burst, unsigned average)
{
    u32 *e = input_endpoint(s, dci);
    u64 at = s->ring[dci].phys + s->ring[dci].at * sizeof(struct xhci_trb) + s->ring[dci].cycle;
    e[EP_DW1] = ERRORS << 1 | type << 3 | burst << 8 | packet << 16;
    e[EP_DEQUEUE_LO] = (u32)at;
    e[EP_DEQUEUE_HI] = at >> 32;
    e[EP_DW4] = average;
}

static bool slot_command(struct xhci_slot *s, enum trb_type t, u64 param, unsigned dci, const char *what)
{
    return xhci_command(s->hc, (struct xhci_trb){param, 0, trb_make(t) | dci << 16 | s->id << 24}, what, NULL);
}

static bool slot_input(struct xhci_slot *s, enum trb_type t, const char *what)
{
    __atomic_thread_fence(__ATOMIC_SEQ_CST);
    return slot_command(s, t, (u64)s->input - (u64)pmem_virt(0), 0, what);
}

static bool slot_memory(struct xhci_slot *s)
{
    u64 phys;
    s->input = xhci_memory(s->hc, PAGE_SIZE, &phys);
    s->output = xhci_memory(s->hc, PAGE_SIZE, &phys);
    return s->input && s->output && xhci_ring_init(s->hc, &s->ring[DCI_CONTROL], true);
}

static bool slot_address(struct xhci_slot *s, unsigned packet)
{
    u32 *slot = input_begin(s, 3);
    slot[SLOT_DW0] = s->route | s->speed << 20 | 1u << 27;
    slot[SLOT_DW1] = s->port << 16;
    slot[SLOT_DW2] = s->tt_slot | s->tt_port << 8;
    endpoint_fill(s, DCI_CONTROL, EP_CONTROL, packet, 0, AVERAGE_CONTROL);
    s->hc->dcbaa[s->id] = (u64)s->output - (u64)pmem_virt(0);
    if (!slot_input(s, TRB_ADDRESS_DEVICE, "Address Device")) return false;
    hwtimer_wait_ns(ADDRESSED_NS);      // USB 2.0 9.2.6.3: 2 ms
    return true;
}

bool xhci_slot_open(struct xhci_slot *s, unsigned packet)
{
    s->id = 0;
    u32 type = s->hc->slot_type[s->port];
    const struct xhci_trb enable = {0, 0, trb_make(TRB_ENABLE_SLOT) | type << 16};
    bool ok = xhci_command(s->hc, enable, "Enable Slot", &s->id) && slot_memory(s) && slot_address(s, packet);
    if (!ok) xhci_slot_close(s);
    return ok;
}

// A slot that the controller does not give up keeps its memory, into which it may still write.
void xhci_slot_close(struct xhci_slot *s)
{
    char why[sizeof(s->hc->trouble)];
    memcpy(why, s->hc->trouble, sizeof(why));
    bool ours = !s->id || slot_command(s, TRB_DISABLE_SLOT, 0, 0, "Disable Slot");
    memcpy(s->hc->trouble, why, sizeof(why));
    if (ours) {
        if (s->id) s->hc->dcbaa[s->id] = 0;
        for (unsigned i = 0; i < XHCI_DCIS; i++) xhci_ring_free(&s->ring[i]);
        if (s->input) pmem_free((u64)s->input - (u64)pmem_virt(0), PAGE_SIZE);
        if (s->output) pmem_free((u64)s->output - (u64)pmem_virt(0), PAGE_SIZE);
    }
    s->input = s->output = NULL;
    s->id = 0;
}

bool xhci_slot_packet(struct xhci_slot *s, unsigned packet)
{
    input_begin(s, 2);                  // 4.6.7: of endpoint 0 only the packet size is looked at
    endpoint_fill(s, DCI_CONTROL, EP_CONTROL, packet, 0, AVERAGE_CONTROL);
    return slot_input(s, TRB_EVALUATE_CONTEXT, "Evaluate Context");
}

bool xhci_slot_hub(struct xhci_slot *s, unsigned ports, unsigned ttt)
{
    u32 *slot = input_begin(s, 1);
    slot[SLOT_DW0] |= (u32)SLOT_HUB;
    slot[SLOT_DW1] = (slot[SLOT_DW1] & 0x00ffffff) | ports << 24;
    slot[SLOT_DW2] |= s->speed == 3 ? ttt << 16 : 0;
    return slot_input(s, TRB_CONFIGURE_ENDPOINT, "Configure Endpoint for a hub");
}

bool xhci_slot_bulk(struct xhci_slot *s, const struct usb_bulk *in, const struct usb_bulk *out)
{
    u32 last = in->dci > out->dci ? in->dci : out->dci, both = 1u << in->dci | 1u << out->dci;
    bool again = s->ring[in->dci].trb;
    if (again ? !xhci_endpoint_restart(s, in->dci) || !xhci_endpoint_restart(s, out->dci)
              : !xhci_ring_init(s->hc, &s->ring[in->dci], true) || !xhci_ring_init(s->hc, &s->ring[out->dci], true)) return false;
    u32 *slot = input_begin(s, 1u | both);
    if (again) input_context(s, 0)[0] = both;       // dropped first: 4.6.6, the only way to a data toggle of 0 without a halt
    slot[SLOT_DW0] = (slot[SLOT_DW0] & 0x07ffffff) | last << 27;
    endpoint_fill(s, in->dci, EP_BULK_IN, in->packet, in->burst, AVERAGE_BULK);
    endpoint_fill(s, out->dci, EP_BULK_OUT, out->packet, out->burst, AVERAGE_BULK);
    return slot_input(s, TRB_CONFIGURE_ENDPOINT, "Configure Endpoint");
}

// Its state, as the controller keeps it in the output context (6.2.3).
static unsigned endpoint_state(const struct xhci_slot *s, unsigned dci)
{
    return *(volatile u32 *)((u8 *)s->output + dci * s->hc->context) & 7;
}

// 4.6.8 to 4.6.10. What the ring still holds is skipped: the endpoint goes on where the driver writes next.
bool xhci_endpoint_restart(struct xhci_slot *s, unsigned dci)
{
    struct xhci_ring *r = &s->ring[dci];
    u64 at = r->phys + r->at * sizeof(struct xhci_trb) + r->cycle;
    if (endpoint_state(s, dci) == EP_RUNNING) (void)!slot_command(s, TRB_STOP_ENDPOINT, 0, dci, "Stop Endpoint");   // fails if it halts now
    if (endpoint_state(s, dci) == EP_HALTED && !slot_command(s, TRB_RESET_ENDPOINT, 0, dci, "Reset Endpoint")) return false;
    return slot_command(s, TRB_SET_TR_DEQUEUE, at, dci, "Set TR Dequeue Pointer");
}
