// The host's virtio disks, as under QEMU: block backends for the guest's.
#pragma once

#include "devices/block.h"

enum { VIRTIO_BLK_DISKS = 4 };   // as many as there may be open

// The nth (from 0) virtio disk of this PC; one that is open already stays as it is. NULL with a message in err: there is none, or it
// cannot be driven. After lapic_init.
struct block *virtio_blk_open(unsigned n, char *err, size_t errlen) MUST_CHECK;
// VEC_VIRTIO_BLK: something has ended. Interrupt context, BQL not held.
void virtio_blk_interrupt(void);
// Waits for all requests and flushes. At the end of the machine; BQL not held.
void virtio_blk_finish_all(void);
