// Hubs (USB 2.0 chapter 11, USB 3.2 chapter 10). Their status is asked for; the interrupt endpoint that would tell of changes is not used.
#include "kernel/base/log.h"
#include "kernel/hwtimer.h"
#include "kernel/usb.h"

enum { GET_STATUS = 0, CLEAR_FEATURE = 1, SET_FEATURE = 3, GET_DESCRIPTOR = 6, SET_HUB_DEPTH = 12 };
enum { PORT_RESET = 4, PORT_POWER = 8, C_PORT_CONNECTION = 16, C_PORT_RESET = 20 };
enum { S_CONNECTION = 1 << 0, S_ENABLE = 1 << 1, S_RESET = 1 << 4, S_LOW = 1 << 9, S_HIGH = 1 << 10 };
enum { SPEED_FULL = 1, SPEED_LOW, SPEED_HIGH, SPEED_SUPER, HUB2 = 0x29, HUB3 = 0x2a };
#define MS 1000000ull

static bool is_super(const struct usb_device *d) { return d->slot.speed >= SPEED_SUPER; }

static bool port_feature(struct usb_device *d, u8 request, u16 feature, unsigned port)
{
    const struct usb_setup s = {0x23, request, feature, (u16)port, 0};
    return usb_control(d, &s, NULL, NULL) == USB_OK;
}

// wPortStatus in the low half, wPortChange in the high one (11.24.2.7).
static bool port_status(struct usb_device *d, unsigned port, u32 *v)
{
    const struct usb_setup s = {0xa3, GET_STATUS, 0, (u16)port, 4};
    u32 got;
    return usb_control(d, &s, v, &got) == USB_OK && got == 4;
}

bool usb_hub_start(struct usb_device *d)
{
    u8 b[12] = {0};
    u32 got;
    const struct usb_setup get = {0xa0, GET_DESCRIPTOR, (u16)((is_super(d) ? HUB3 : HUB2) << 8), 0, sizeof(b)};
    const struct usb_setup depth = {0x20, SET_HUB_DEPTH, (u16)d->depth, 0, 0};
    if (!usb_configure(d, NULL) || (is_super(d) && usb_control(d, &depth, NULL, NULL) != USB_OK)) return false;
    if (usb_control(d, &get, b, &got) != USB_OK || got < 7) return false;
    unsigned ports = b[2];
    if (ports > USB_HUB_PORTS) {
        log_warn("%s: a hub of %u ports; those above %u are skipped", d->name, ports, USB_HUB_PORTS);
        ports = USB_HUB_PORTS;
    }
    if (!ports || !xhci_slot_hub(&d->slot, ports, b[3] >> 5 & 3)) return false;
    for (unsigned p = 1; p <= ports; p++)
        if (!port_feature(d, SET_FEATURE, PORT_POWER, p)) return false;
    hwtimer_wait_ns(b[5] * 2 * MS + 100 * MS);                    // bPwrOn2PwrGood, then debouncing
    d->hub_ports = ports;
    log_info("%s: a hub of %u ports", d->name, ports);
    return true;
}

// 11.5.1.5. *speed as in struct xhci_slot.
static bool port_reset(struct usb_device *d, unsigned port, unsigned *speed)
{
    u32 v = 0;
    if (!port_feature(d, SET_FEATURE, PORT_RESET, port)) return false;
    for (u64 end = hwtimer_now_ns() + 500 * MS; hwtimer_now_ns() < end && !(v >> 16 & S_RESET); hwtimer_wait_ns(5 * MS))
        if (!port_status(d, port, &v)) return false;
    if (!port_feature(d, CLEAR_FEATURE, C_PORT_RESET, port)) return false;
    hwtimer_wait_ns(20 * MS);
    if (!port_status(d, port, &v) || !(v & S_ENABLE)) return xhci_fail(d->slot.hc, "the hub's port does not come up (status %08x)", v);
    *speed = is_super(d) ? SPEED_SUPER : v & S_LOW ? SPEED_LOW : v & S_HIGH ? SPEED_HIGH : SPEED_FULL;
    return true;
}

void usb_hub_poll(struct usb_device *d)
{
    for (unsigned p = 1; p <= d->hub_ports; p++) {
        u32 v;
        if (!port_status(d, p, &v)) return;
        bool changed = v >> 16 & S_CONNECTION;
        if (changed && !port_feature(d, CLEAR_FEATURE, C_PORT_CONNECTION, p)) return;
        if (!(v & S_CONNECTION) || changed) d->hub_done &= ~(1u << p);
        if (!(v & S_CONNECTION) || d->hub_done & 1u << p) continue;
        d->hub_done |= 1u << p;
        struct usb_place at = {.hc = d->slot.hc, .hub = d, .port = p};
        bool ok = false;
        for (unsigned i = 0; i < 2 && !ok; i++) ok = port_reset(d, p, &at.speed) && usb_device_open(&at);
        if (!ok) log_warn("%s.%u: the device there does not come up: %s", d->name, p, d->slot.hc->trouble);
    }
}
