// The host's USB 3 controllers (xHCI 1.2): root ports, slots, control and bulk transfers. Polled, no interrupts: whoever asks waits. One
// core at a time; not from interrupt context. kernel/usb.h stands on it, and is what others use.
//
// Starting a controller takes it from the firmware, and with it the keyboard that the firmware passes off as a PS/2 one.
#pragma once

#include "kernel/xhci_regs.h"

enum { XHCI_MAX = 8, XHCI_PORTS = 256, XHCI_DCIS = 32, XHCI_RING = PAGE_SIZE / sizeof(struct xhci_trb) };

struct xhci_ring { struct xhci_trb *trb; u64 phys; unsigned at; u32 cycle; };   // one page; a producer's ends in a link to its beginning

struct xhci {
    u32 bdf;
    char name[24];                          // for messages: "USB 00:14.0"
    volatile u8 *cap, *op, *rt;             // registers
    volatile u32 *doorbell;
    unsigned ports, slots, context;         // context: bytes
    bool wide, dead;                        // wide: takes addresses above 4 GiB
    u64 *dcbaa;                             // physical addresses of device contexts by slot
    struct xhci_ring commands, events;
    u8 protocol[XHCI_PORTS];                // major USB version of each root port, from 1; 0: none that is known
    u8 slot_type[XHCI_PORTS];
    char trouble[160];                      // why the last call failed
};

// What a slot is for. The slot's owner (usb.c) fills in the upper part.
struct xhci_slot {
    struct xhci *hc;
    unsigned port, speed;                   // root port; speed as in PORTSC: 1 full, 2 low, 3 high, 4 and above SuperSpeed
    u32 route;                              // 8.9 of USB 3.2: 4 bits per hub
    unsigned tt_slot, tt_port;              // the high-speed hub that talks to a slower device; 0: none
    unsigned id;                            // 0: none
    void *input, *output;                   // contexts, a page each
    struct xhci_ring ring[XHCI_DCIS];       // by DCI
};

struct usb_setup { u8 type, request; u16 value, index, length; } __attribute__((packed));   // USB 2.0 9.3

enum usb_result { USB_OK, USB_STALL, USB_ERROR };   // error: anything else; the trouble says what

// ---- xhci.c: controllers ----
// Finds and starts the PC's controllers, once; says so in the log, and what does not start. Returns how many there are.
unsigned xhci_start_all(void);
struct xhci *xhci_get(unsigned i);
// Is something connected to root port n (from 1)? Shows a change once: *changed.
bool xhci_port_connected(struct xhci *hc, unsigned n, bool *changed);
// Resets it if need be and gives the speed of what is there. False: it does not come up (trouble).
bool xhci_port_enable(struct xhci *hc, unsigned n, unsigned *speed) MUST_CHECK;
// Writes hc->trouble and returns false.
bool xhci_fail(struct xhci *hc, const char *fmt, ...) PRINTF(2, 3);

// ---- xhci_ring.c: commands and events ----
// A zeroed page within the controller's reach, or a naturally aligned run of `size' bytes (a power of two); NULL: none (trouble).
void *xhci_memory(struct xhci *hc, u64 size, u64 *phys) MUST_CHECK;
bool xhci_ring_init(struct xhci *hc, struct xhci_ring *r, bool producer) MUST_CHECK;
void xhci_ring_free(struct xhci_ring *r);
// Does a command and waits for its end. `slot': of the answer, if wanted. False: refused or no answer (trouble, which names `what').
bool xhci_command(struct xhci *hc, struct xhci_trb trb, const char *what, unsigned *slot) MUST_CHECK;
// Puts up to 3 TRBs of one transfer on a ring, rings the bell and waits. *left: bytes not transferred. A transfer that failed has
// been taken back when this returns; the data toggle is 0 then unless it timed out.
enum usb_result xhci_transfer(struct xhci_slot *s, unsigned dci, struct xhci_trb *trb, unsigned n, u64 timeout_ns, u32 *left) MUST_CHECK;

// ---- xhci_slot.c: devices ----
// Enables a slot and gives the device an address, with `packet' bytes for endpoint 0. False: nothing is kept (trouble).
bool xhci_slot_open(struct xhci_slot *s, unsigned packet) MUST_CHECK;
void xhci_slot_close(struct xhci_slot *s);
// What the first descriptor says of endpoint 0.
bool xhci_slot_packet(struct xhci_slot *s, unsigned packet) MUST_CHECK;
// The device is a hub of that many ports. ttt: think time of its transaction translator as in its descriptor (0..3).
bool xhci_slot_hub(struct xhci_slot *s, unsigned ports, unsigned ttt) MUST_CHECK;
// Two bulk endpoints with their packet sizes and bursts (0-based) that begin with data toggle 0. Again: the same ones anew.
struct usb_bulk { unsigned dci, packet, burst; };
bool xhci_slot_bulk(struct xhci_slot *s, const struct usb_bulk *in, const struct usb_bulk *out) MUST_CHECK;
// Endpoint dci forgets what it was at, halted or not, and goes on at its ring's place. What a transfer that failed needs; it does it
// itself.
bool xhci_endpoint_restart(struct xhci_slot *s, unsigned dci) MUST_CHECK;
