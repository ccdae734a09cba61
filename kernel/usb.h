// USB devices on the host's xHCI controllers: enumeration, hubs, transfers. Only disks are kept (kernel/usb_disk.h); what else is plugged
// in is named in the log and left alone. Everything waits; one core at a time, not from interrupt context, BQL not held.
#pragma once

#include "kernel/xhci.h"

enum { USB_DEVICES = 32, USB_CONFIG_MAX = 1024, USB_HUB_DEPTH = 5, USB_HUB_PORTS = 15 };   // depth and ports: what a route can say

struct usb_device {
    struct xhci_slot slot;
    char name[48];                        // for messages: "USB 00:14.0 port 3.1"
    unsigned depth;                       // hubs between the root port and it
    u16 vendor, product;
    u8 class, version;                    // version: major USB version
    u16 config_len;
    u8 config[USB_CONFIG_MAX];            // descriptors of the first configuration
    unsigned hub_ports, hub_done;         // 0: no hub; done: bitmap of ports that were looked at
    struct usb_bulk in, out;
    void *page;                           // for control transfers
    u64 page_phys;
};

struct usb_interface { u8 number, class, subclass, protocol; struct usb_bulk in, out; };

// Looks at every port of every controller, starts the controllers if need be, and brings up what is new. Disks go to usb_disk_attach.
// False: there is no controller that works.
bool usb_poll(void);
// A control transfer; data (up to a page) goes either way as setup->type says. *got (may be NULL): bytes. A stall is an answer.
enum usb_result usb_control(struct usb_device *d, const struct usb_setup *setup, void *data, u32 *got) MUST_CHECK;
// A bulk transfer of up to 64 KiB that do not cross a 64 KiB boundary (xHCI 6.4.1.1). *got: bytes.
enum usb_result usb_bulk(struct usb_device *d, unsigned dci, u64 phys, u32 len, u64 timeout_ns, u32 *got) MUST_CHECK;
// After a stall: CLEAR_FEATURE(ENDPOINT_HALT), USB 2.0 9.4.5.
bool usb_clear_halt(struct usb_device *d, unsigned dci) MUST_CHECK;
// Both bulk endpoints, cleared at the device and begun anew at the controller: the data toggles agree again.
bool usb_bulk_restart(struct usb_device *d) MUST_CHECK;
// Takes the interface's bulk endpoints into use and selects the configuration.
bool usb_configure(struct usb_device *d, const struct usb_interface *i) MUST_CHECK;
// Memory for transfers, zeroed, naturally aligned; NULL: none. Never given back.
void *usb_memory(struct usb_device *d, u64 size, u64 *phys) MUST_CHECK;
// Why the last of these failed.
const char *usb_trouble(const struct usb_device *d);

// usb_hub.c: takes a hub into use; looks at its ports.
bool usb_hub_start(struct usb_device *d) MUST_CHECK;
void usb_hub_poll(struct usb_device *d);
// usb.c, for the hub: what is at a port that was just reset. `speed' as in struct xhci_slot. False: nothing came up.
struct usb_place { struct xhci *hc; struct usb_device *hub; unsigned port, speed; };
bool usb_device_open(const struct usb_place *at) MUST_CHECK;
