// From a port to a device that is known (USB 2.0 chapter 9; xHCI 1.2, 4.3): address, descriptors, and who is to have it.
//
// Ports are looked at again and again while somebody waits for a disk, since a stick may take a second to show up. A port is tried once
// per connection.
#include "kernel/usb.h"

#include <string.h>

#include "kernel/base/fmt.h"
#include "kernel/base/log.h"
#include "kernel/hwtimer.h"
#include "kernel/usb_disk.h"

enum { GET_STATUS, CLEAR_FEATURE, GET_DESCRIPTOR = 6, SET_CONFIGURATION = 9 };
enum { D_DEVICE = 1, D_CONFIG, D_INTERFACE = 4, D_ENDPOINT, D_COMPANION = 0x30, DEVICE_SIZE = 18, CONFIG_SIZE = 9 };
enum { CLASS_HUB = 9, SPEED_FULL = 1, SPEED_LOW, SPEED_HIGH, SPEED_SUPER, ENDPOINT_HALT = 0, DCI_CONTROL = 1, TRIES = 2 };
#define CONTROL_NS 2000000000ull
#define ATTACH_NS  100000000ull          // USB 2.0 7.1.7.3: debouncing

static struct {
    struct usb_device device[USB_DEVICES];
    bool used[USB_DEVICES];
    bool done[XHCI_MAX][XHCI_PORTS];      // root ports that were tried since something was plugged in
    bool started;
} usb;

const char *usb_trouble(const struct usb_device *d) { return d->slot.hc->trouble; }
void *usb_memory(struct usb_device *d, u64 size, u64 *phys) { return xhci_memory(d->slot.hc, size, phys); }

// ---- transfers ----------------------------------------------------------------------------------------------------------------------

enum usb_result usb_control(struct usb_device *d, const struct usb_setup *setup, void *data, u32 *got)
{
    bool in = setup->type & 0x80;
    u32 len = setup->length, left;
    struct xhci_trb trb[3];
    unsigned n = 0;
    u64 raw;
    ASSERT(len <= PAGE_SIZE, "%u bytes", len);
    memcpy(&raw, setup, sizeof(raw));
    if (len && !in) memcpy(d->page, data, len);
    trb[n++] = (struct xhci_trb){raw, 8, trb_make(TRB_SETUP) | (u32)TRB_IDT | (len ? in ? 3u << 16 : 2u << 16 : 0)};
    if (len) trb[n++] = (struct xhci_trb){d->page_phys, len, trb_make(TRB_DATA) | (u32)TRB_ISP | (in ? (u32)TRB_IN : 0)};
    trb[n++] = (struct xhci_trb){0, 0, trb_make(TRB_STATUS) | (u32)TRB_IOC | (len && in ? 0 : (u32)TRB_IN)};
    enum usb_result r = xhci_transfer(&d->slot, DCI_CONTROL, trb, n, CONTROL_NS, &left);
    u32 done = left < len ? len - left : 0;
    if (r == USB_OK && in) memcpy(data, d->page, done);
    if (got) *got = r == USB_OK ? done : 0;
    return r;
}

enum usb_result usb_bulk(struct usb_device *d, unsigned dci, u64 phys, u32 len, u64 timeout_ns, u32 *got)
{
    u32 left;
    struct xhci_trb trb = {phys, len, trb_make(TRB_NORMAL) | (u32)TRB_IOC | (u32)TRB_ISP};
    enum usb_result r = xhci_transfer(&d->slot, dci, &trb, 1, timeout_ns, &left);
    *got = left < len ? len - left : 0;
    return r;
}

// Devices that do not know the request for an endpoint that is not halted refuse it; what matters shows at the next transfer.
bool usb_clear_halt(struct usb_device *d, unsigned dci)
{
    const struct usb_setup s = {0x02, CLEAR_FEATURE, ENDPOINT_HALT, (u16)(dci >> 1 | (dci & 1) << 7), 0};
    return usb_control(d, &s, NULL, NULL) != USB_ERROR;
}

bool usb_bulk_restart(struct usb_device *d)
{
    return usb_clear_halt(d, d->in.dci) && usb_clear_halt(d, d->out.dci) && xhci_slot_bulk(&d->slot, &d->in, &d->out);
}

// ---- descriptors --------------------------------------------------------------------------------------------------------------------

static bool descriptor_get(struct usb_device *d, u8 type, void *out, u16 len, u32 *got)
{
    const struct usb_setup s = {0x80, GET_DESCRIPTOR, (u16)(type << 8), 0, len};
    return usb_control(d, &s, out, got) == USB_OK;
}

// A full-speed device says in its first 8 bytes how large its packets are; others have no choice.
static bool device_descriptor(struct usb_device *d)
{
    u8 b[DEVICE_SIZE] = {0};
    u32 got;
    if (d->slot.speed == SPEED_FULL) {
        if (!descriptor_get(d, D_DEVICE, b, 8, &got) || got < 8) return false;
        if (b[7] != 8 && b[7] != 16 && b[7] != 32 && b[7] != 64) return xhci_fail(d->slot.hc, "packets of %u bytes on endpoint 0", b[7]);
        if (b[7] != 8 && !xhci_slot_packet(&d->slot, b[7])) return false;
    }
    if (!descriptor_get(d, D_DEVICE, b, sizeof(b), &got) || got < sizeof(b)) return false;
    d->version = b[3];
    d->class = b[4];
    d->vendor = (u16)(b[8] | b[9] << 8);
    d->product = (u16)(b[10] | b[11] << 8);
    return true;
}

static bool config_descriptor(struct usb_device *d)
{
    u32 got;
    if (!descriptor_get(d, D_CONFIG, d->config, CONFIG_SIZE, &got) || got < CONFIG_SIZE) return false;
    u16 total = (u16)(d->config[2] | d->config[3] << 8);
    if (total < CONFIG_SIZE) return xhci_fail(d->slot.hc, "a configuration of %u bytes", total);
    if (total > sizeof(d->config)) total = sizeof(d->config);      // what is behind is no disk
    if (!descriptor_get(d, D_CONFIG, d->config, total, &got) || got < CONFIG_SIZE) return false;
    d->config_len = (u16)got;
    return true;
}

static void endpoint_note(struct usb_interface *i, const u8 *e)
{
    if ((e[3] & 3) != 2 || !(e[2] & 15)) return;                   // bulk only
    bool in = e[2] & 0x80;
    struct usb_bulk *b = in ? &i->in : &i->out;
    if (!b->dci) *b = (struct usb_bulk){.dci = 2 * (e[2] & 15u) + in, .packet = (e[4] | e[5] << 8) & 0x7ff};
}

// The first interface, in its first setting, that `wanted' likes.
static bool interface_find(const struct usb_device *d, bool (*wanted)(const struct usb_interface *), struct usb_interface *found)
{
    struct usb_interface i = {0};
    struct usb_bulk *last = NULL;
    for (unsigned at = 0; at + 2 <= d->config_len;) {
        const u8 *p = d->config + at;
        if (p[0] < 2 || at + p[0] > d->config_len) break;
        if (p[1] == D_INTERFACE && p[0] >= 9) {
            if (wanted(&i)) break;
            i = (struct usb_interface){.number = p[2], .class = p[3] ? 0 : p[5], .subclass = p[6], .protocol = p[7]};
        }
        if (p[1] == D_ENDPOINT && p[0] >= 7) {
            endpoint_note(&i, p);
            last = p[2] & 0x80 ? &i.in : &i.out;
        }
        if (p[1] == D_COMPANION && p[0] >= 6 && last) last->burst = p[2] & 15;
        at += p[0];
    }
    *found = i;
    return wanted(&i);
}

bool usb_configure(struct usb_device *d, const struct usb_interface *i)
{
    const struct usb_setup s = {0x00, SET_CONFIGURATION, d->config[5], 0, 0};
    if (!i) return usb_control(d, &s, NULL, NULL) == USB_OK;
    d->in = i->in;
    d->out = i->out;
    return xhci_slot_bulk(&d->slot, &d->in, &d->out) && usb_control(d, &s, NULL, NULL) == USB_OK;
}

// ---- devices ------------------------------------------------------------------------------------------------------------------------

static struct usb_device *device_new(const struct usb_place *at)
{
    unsigned n = 0;
    while (n < USB_DEVICES && usb.used[n]) n++;
    if (n == USB_DEVICES) return NULL;
    struct usb_device *d = &usb.device[n], *hub = at->hub;
    usb.used[n] = true;
    void *page = d->page;
    u64 phys = d->page_phys;
    *d = (struct usb_device){.page = page, .page_phys = phys};
    d->slot = (struct xhci_slot){.hc = at->hc, .port = at->port, .speed = at->speed};
    if (!hub) {
        fmt_snprintf(d->name, sizeof(d->name), "%s port %u", at->hc->name, at->port);
        return d;
    }
    fmt_snprintf(d->name, sizeof(d->name), "%s.%u", hub->name, at->port);
    d->depth = hub->depth + 1;
    d->slot.port = hub->slot.port;
    d->slot.route = hub->slot.route | at->port << 4 * hub->depth;
    if (at->speed == SPEED_FULL || at->speed == SPEED_LOW) {       // xHCI 6.2.2, dword 2
        bool translates = hub->slot.speed == SPEED_HIGH;
        d->slot.tt_slot = translates ? hub->slot.id : hub->slot.tt_slot;
        d->slot.tt_port = translates ? at->port : hub->slot.tt_port;
    }
    return d;
}

static unsigned first_packet(unsigned speed) { return speed == SPEED_FULL || speed == SPEED_LOW ? 8 : speed == SPEED_HIGH ? 64 : 512; }

static bool device_known(struct usb_device *d)
{
    struct xhci *hc = d->slot.hc;
    if (!d->page && !(d->page = xhci_memory(hc, PAGE_SIZE, &d->page_phys))) return false;
    if (!hc->wide && d->page_phys >= 4 * GIB) return xhci_fail(hc, "no memory that it could reach");
    return xhci_slot_open(&d->slot, first_packet(d->slot.speed)) && device_descriptor(d) && config_descriptor(d);
}

// Hubs and disks stay; true: the device is taken, or is of no interest.
static bool device_take(struct usb_device *d, bool *keep)
{
    struct usb_interface i;
    if (d->class == CLASS_HUB) return *keep = usb_hub_start(d);
    if (interface_find(d, usb_disk_wanted, &i)) return *keep = usb_disk_attach(d, &i);
    log_info("%s: device %04x:%04x is no disk (class %02x), left alone", d->name, d->vendor, d->product, i.class ? i.class : d->class);
    return true;
}

bool usb_device_open(const struct usb_place *at)
{
    if (at->hub && at->hub->depth >= USB_HUB_DEPTH) {
        log_warn("%s.%u: behind more hubs than USB allows; skipped", at->hub->name, at->port);
        return true;
    }
    struct usb_device *d = device_new(at);
    if (!d) {
        log_warn("%s port %u: more than %u USB devices; skipped", at->hc->name, at->port, USB_DEVICES);
        return true;
    }
    bool keep = false, ok = device_known(d) && device_take(d, &keep);
    if (!keep) {
        xhci_slot_close(&d->slot);
        usb.used[d - usb.device] = false;
    }
    return ok;
}

static void root_port_try(struct xhci *hc, unsigned port)
{
    struct usb_place at = {.hc = hc, .port = port};
    for (unsigned i = 0; i < TRIES; i++)
        if (xhci_port_enable(hc, port, &at.speed) && usb_device_open(&at)) return;
    log_warn("%s port %u: the device there does not come up: %s", hc->name, port, hc->trouble);
}

// What was plugged in there, hubs and what is behind them included, is not there any more.
static void port_gone(struct xhci *hc, unsigned port)
{
    for (unsigned i = 0; i < USB_DEVICES; i++) {
        struct usb_device *d = &usb.device[i];
        if (!usb.used[i] || d->slot.hc != hc || d->slot.port != port) continue;
        log_info("%s: unplugged", d->name);
        usb_disk_detach(d);
        xhci_slot_close(&d->slot);
        usb.used[i] = false;
    }
}

bool usb_poll(void)
{
    unsigned n = xhci_start_all();
    if (!usb.started) hwtimer_wait_ns(ATTACH_NS);
    usb.started = true;
    for (unsigned i = 0; i < n; i++) {
        struct xhci *hc = xhci_get(i);
        for (unsigned port = 1; port <= hc->ports && !hc->dead; port++) {
            bool changed = false, there = xhci_port_connected(hc, port, &changed);
            if (!there || changed) {
                if (usb.done[i][port]) port_gone(hc, port);
                usb.done[i][port] = false;
            }
            if (!there || usb.done[i][port]) continue;
            usb.done[i][port] = true;
            root_port_try(hc, port);
        }
    }
    for (unsigned i = 0; i < USB_DEVICES; i++)
        if (usb.used[i] && usb.device[i].hub_ports && !usb.device[i].slot.hc->dead) usb_hub_poll(&usb.device[i]);
    return n != 0;
}
