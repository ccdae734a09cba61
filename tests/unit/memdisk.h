// A disk in memory with a cache that keeps no order, for tests of what stands on kernel/disk.h: it fails at a chosen operation, forgets
// writes, and loses power with any part of what no flush covers.
#pragma once

#include <stdlib.h>
#include <string.h>

#include "devices/block.h"

enum { MEMDISK_PENDING = 65536 };
struct memdisk {
    struct block b;
    u8 *now, *safe;                // what is read, and what is on the platters; safe NULL: no cache
    unsigned ops;                  // writes and flushes that came
    unsigned fail_at;              // that many of them succeed, the next fails once; 0: none
    unsigned forget_at;            // that one (from 1) is answered but not done
    bool dead_after;               // ... and all that come after fail_at fail too
    unsigned npending;
    u64 pending[MEMDISK_PENDING];  // sectors
};

static inline void memdisk_persist(struct memdisk *d, u64 sector)
{
    memcpy(d->safe + sector * BLOCK_SECTOR, d->now + sector * BLOCK_SECTOR, BLOCK_SECTOR);
}

static inline enum block_result memdisk_run(struct block *b, struct block_request *r)
{
    struct memdisk *d = CONTAINER_OF(b, struct memdisk, b);
    if (r->op == BLOCK_READ) {
        memcpy(r->seg[0].base, d->now + r->offset, r->len);
        return BLOCK_OK;
    }
    d->ops++;
    if (d->fail_at && (d->ops == d->fail_at + 1 || (d->dead_after && d->ops > d->fail_at))) return BLOCK_FAILED;
    if (d->ops == d->forget_at) return BLOCK_OK;
    if (r->op == BLOCK_FLUSH) {
        for (unsigned i = 0; i < d->npending; i++) memdisk_persist(d, d->pending[i]);
        d->npending = 0;
        return BLOCK_OK;
    }
    memcpy(d->now + r->offset, r->seg[0].base, r->len);
    for (u64 i = 0; d->safe && i < r->len / BLOCK_SECTOR; i++) d->pending[d->npending++ % MEMDISK_PENDING] = r->offset / BLOCK_SECTOR + i;
    return BLOCK_OK;
}

// The power fails: of what is pending, a part chosen by `chance' is there afterwards.
static inline void memdisk_power_loss(struct memdisk *d, u32 (*chance)(void))
{
    u32 odds = chance() % 5;       // none, some, all
    for (unsigned i = 0; i < d->npending; i++)
        if (chance() % 4 < odds) memdisk_persist(d, d->pending[i]);
    d->npending = 0;
    memcpy(d->now, d->safe, d->b.size);
}

static inline void memdisk_init(struct memdisk *d, u8 *image, u64 size, bool cached)
{
    static const struct block_ops ops = {.run = memdisk_run};
    memset(d, 0, sizeof *d);
    d->b = (struct block){.ops = &ops, .name = "disk", .size = size, .physical = BLOCK_SECTOR};
    d->now = image;
    if (cached) memcpy(d->safe = malloc(size), image, size);
}
