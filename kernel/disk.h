// Disks read and written a piece at a time by a caller who waits: what the file-system reader and the writer of results stand on. Any
// backend of devices/block.h will do. Not from interrupt context, BQL not held.
#pragma once

#include "devices/block.h"

// `len` bytes at byte `offset`, both multiples of what the disk takes (at least BLOCK_SECTOR). False: outside of the disk, or the disk
// failed.
bool disk_read(struct block *b, u64 offset, void *buf, u64 len) MUST_CHECK;
bool disk_write(struct block *b, u64 offset, const void *buf, u64 len) MUST_CHECK;
// All that was written before is on stable storage when it returns true.
bool disk_flush(struct block *b) MUST_CHECK;
