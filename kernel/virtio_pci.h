// The host's virtio devices over PCI (virtio 1.2 chapter 4.1, modern interface): finding one, talking to its common configuration, one
// queue, one MSI-X vector. Bring-up only, but for vpci_notify.
#pragma once

#include "kernel/base/types.h"

struct vpci {
    u32 bdf;                        // bus << 8 | device << 3 | function
    volatile u8 *common, *notify, *config;
    u32 notify_step;
    volatile u8 *queue_notify;      // of queue 0
};

// The nth (from 0) device of this virtio type with a modern interface, its registers mapped. False: there are not so many, or one that
// cannot be mapped.
bool vpci_find(unsigned type, unsigned nth, struct vpci *v) MUST_CHECK;
// Resets the device and agrees on features: *features holds what the driver knows, then what both do (VERSION_1 always). False: refused.
bool vpci_start(struct vpci *v, u64 *features) MUST_CHECK;
// Queue 0 of *size entries at most (a power of two; the device may have fewer), rings at physical addresses. vector: the interrupt, sent to
// this core; 0: none. False: the device has no such queue, or, if one is wanted, no MSI-X.
bool vpci_queue(struct vpci *v, u16 *size, u64 desc, u64 avail, u64 used, u8 vector) MUST_CHECK;
void vpci_go(struct vpci *v);       // DRIVER_OK
u64 vpci_config(const struct vpci *v, unsigned at, unsigned size);
static inline void vpci_notify(const struct vpci *v) { *(volatile u16 *)v->queue_notify = 0; }
