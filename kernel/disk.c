// One request, one answer. Offsets come out of partition tables and file systems, so it is checked here, once for all, that they lie on
// the disk: backends take that for granted.
#include "kernel/disk.h"

static bool disk_do(struct block *b, enum block_op op, u64 offset, void *buf, u64 len)
{
    if (len > b->size || offset > b->size - len || (offset | len) % BLOCK_SECTOR) return false;
    struct block_seg seg = {.base = buf, .len = len};
    struct block_request r = {.op = op, .offset = offset, .len = len, .seg = &seg, .nseg = len != 0};
    return b->ops->run(b, &r) == BLOCK_OK;
}

bool disk_read(struct block *b, u64 offset, void *buf, u64 len) { return disk_do(b, BLOCK_READ, offset, buf, len); }

bool disk_write(struct block *b, u64 offset, const void *buf, u64 len)
{
    return !b->read_only && disk_do(b, BLOCK_WRITE, offset, (void *)buf, len);
}

bool disk_flush(struct block *b) { return disk_do(b, BLOCK_FLUSH, 0, NULL, 0); }
