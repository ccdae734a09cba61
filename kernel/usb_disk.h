// USB sticks and disks: the Bulk-Only Transport (USB MSC BOT 1.0) with SCSI commands (SBC-3, SPC-4), as block backends.
//
// Only run() is there for work that waits; submit() does the same on the spot. BQL not held, one caller at a time.
#pragma once

#include "kernel/usb.h"

struct block;
enum { USB_DISKS = 16 };

// Is it an interface that this driver knows? Class 8, SCSI, bulk-only, with an endpoint each way.
bool usb_disk_wanted(const struct usb_interface *i);
// Brings up the device's disks: one per logical unit with a medium. False: the device does not do what it should (usb_trouble); a
// device without a medium is in order.
bool usb_disk_attach(struct usb_device *d, const struct usb_interface *i) MUST_CHECK;
// The device is not there any more, and its disks fail from now on.
void usb_disk_detach(const struct usb_device *d);
// The nth disk (from 0) that was found so far; NULL: there are not so many.
struct block *usb_disk_get(unsigned n);
// The device that the disk is a part of; NULL: it is no USB disk. For tests.
struct usb_device *usb_disk_device(const struct block *b);
// Why the last request to the disk failed, naming the step; empty: it did not, or it is no USB disk.
const char *usb_disk_trouble(const struct block *b);
