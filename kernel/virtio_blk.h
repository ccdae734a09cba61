// The host's virtio disks, as under QEMU: block backends for the guest's.
#pragma once

#include "devices/block.h"

enum { VIRTIO_BLK_DISKS = 4 };   // as many as there may be open

// The nth (from 0) virtio disk of this PC; one that is open already stays as it is. polled: for a data plane, with poll()
// (devices/block.h) in place of an interrupt. NULL with a message in err: there is none, it cannot be driven, or it is open in the other
// way. After lapic_init.
struct block *virtio_blk_open(unsigned n, bool polled, char *err, size_t errlen) MUST_CHECK;
// VEC_VIRTIO_BLK: something has ended. Interrupt context, BQL not held.
void virtio_blk_interrupt(void);
// Waits for all requests and flushes. At the end of the machine, when no I/O core polls any more; BQL not held.
void virtio_blk_finish_all(void);
