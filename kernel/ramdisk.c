// A disk in memory, for machines whose own disks have no driver here: the image is a file on the stick (`drive' in cupel.conf).
//
// Nothing ever waits: a request is done within submit(), so done() is called from there (devices/block.h allows it) and there is never
// anything to drain. Stable storage is what this disk does not have, so a flush has nothing to do; the log says so once, at the start.
#include "kernel/ramdisk.h"

#include <string.h>

#include "kernel/base/log.h"
#include "kernel/plat.h"

enum { DISKS = 8 };

struct ramdisk { struct block b; u8 *data; };

static enum block_result ramdisk_run(struct block *b, struct block_request *r)
{
    struct ramdisk *d = CONTAINER_OF(b, struct ramdisk, b);
    if (r->op == BLOCK_FLUSH || r->op == BLOCK_DISCARD) return BLOCK_OK;
    u8 *at = d->data + r->offset;
    if (r->op == BLOCK_WRITE_ZEROES) {
        memset(at, 0, r->len);
        return BLOCK_OK;
    }
    for (unsigned i = 0; i < r->nseg; at += r->seg[i++].len) {
        if (r->op == BLOCK_READ) memcpy(r->seg[i].base, at, r->seg[i].len);
        else memcpy(at, r->seg[i].base, r->seg[i].len);
    }
    return BLOCK_OK;
}

static void ramdisk_submit(struct block *b, struct block_request *r)
{
    r->result = ramdisk_run(b, r);
    r->done(r);
}

static void ramdisk_drain(struct block *b UNUSED) {}

struct block *ramdisk_new(void *data, u64 size, const char *name)
{
    static const struct block_ops ops = {.submit = ramdisk_submit, .drain = ramdisk_drain, .run = ramdisk_run};
    static struct ramdisk disks[DISKS];
    static unsigned n;
    if (!size || size % BLOCK_SECTOR) return NULL;
    ASSERT(n < DISKS, "%s is one disk in memory too many", name);
    struct ramdisk *d = &disks[n++];
    d->data = data;
    d->b = (struct block){.ops = &ops, .name = name, .size = size, .physical = BLOCK_SECTOR};
    log_info("%s: a disk of %llu KiB in memory; what the guest writes to it is lost at power-off", name, (unsigned long long)(size / KIB));
    return &d->b;
}
