// From a name to sectors: which disk, where on it Cupel's partition, where in it the file. The disk and the partition are looked for once;
// the file anew in each call.
//
// The loader says whether the disk is behind USB, so that USB controllers are started for a reason only. A partition found twice, as on
// two copies of one stick, is not written at all: nobody could say which was meant.
#include "kernel/stick.h"

#include <string.h>

#include "kernel/base/bits.h"
#include "kernel/base/fmt.h"
#include "kernel/base/log.h"
#include "kernel/disk.h"
#include "kernel/hwtimer.h"
#include "kernel/inplace.h"
#include "kernel/partition.h"
#include "kernel/usb_disk.h"
#include "kernel/virtio_blk.h"

#define USB_WAIT_NS  8000000000ull
#define USB_QUIET_NS 500000000ull
#define USB_POLL_NS  20000000ull

static struct {
    struct boot_partition part;
    unsigned guest_disk;                  // 1 + number of the virtio disk that is the guest's; 0: none
    struct block *disk;                   // NULL: not found yet
    u64 offset;
    bool busy;
    struct fat fat;
    struct fat_file file;
} stick;

void stick_init(const struct boot_info *info)
{
    stick.part = info->partition;
    stick.guest_disk = info->drive_host;
}

// ---- the disk ---------------------------------------------------------------------------------------------------------------------

// What the search has met: at its end found is 1, or err has the reason.
struct hunt { struct block *disk; u64 offset; unsigned found, looked_at; char *err; size_t errlen; };

static void hunt_look(struct hunt *h, struct block *b)
{
    u64 offset;
    h->looked_at++;
    if (partition_find(b, &stick.part, &offset, h->err, h->errlen) != PARTITION_FOUND) return;
    h->found++;
    h->disk = b;
    h->offset = offset;
}

static void hunt_virtio(struct hunt *h)
{
    char err[256];
    for (unsigned n = 0; n < VIRTIO_BLK_DISKS; n++) {
        struct block *b = virtio_blk_open(n, false, err, sizeof(err));
        if (b) hunt_look(h, b);
        if (h->found && h->disk == b && n + 1 == stick.guest_disk) {
            h->found = 0;
            fmt_snprintf(h->err, h->errlen, "%s is the guest's disk (`drive =' in cupel.conf): Cupel writes nothing to it", b->name);
            return;
        }
    }
}

// A stick takes a while to show up: it is waited for, and then a moment longer for its copies.
static void hunt_usb(struct hunt *h)
{
    u64 now = hwtimer_now_ns(), last = now, end = now + USB_WAIT_NS;
    while (now < (h->found ? min_u64(end, last + USB_QUIET_NS) : end)) {
        if (!usb_poll()) return;
        hwtimer_wait_ns(USB_POLL_NS);
        now = hwtimer_now_ns();
        for (struct block *b; (b = usb_disk_get(h->looked_at)); last = now) hunt_look(h, b);
    }
    if (h->found < 2) return;
    h->found = h->looked_at = 0;                 // one of them may be the other, plugged out and in again: only what still answers counts
    for (struct block *b; (b = usb_disk_get(h->looked_at));) hunt_look(h, b);
}

static bool hunt_end(struct hunt *h)
{
    const char *kind = stick.part.usb ? "USB" : "virtio";
    if (h->found == 1) {
        stick.disk = h->disk;
        stick.offset = h->offset;
        return true;
    }
    if (h->found > 1)
        fmt_snprintf(h->err, h->errlen, "%u %s disks are copies of each other: Cupel's partition is on each; remove all but one",
                     h->found, kind);
    else if (!h->err[0])
        fmt_snprintf(h->err, h->errlen, "the partition that Cupel was booted from is on none of this PC's %u %s disks%s", h->looked_at,
                     kind, stick.part.usb ? "" : "; boot it from a USB stick");
    return false;
}

static bool disk_find(char *err, size_t errlen)
{
    struct hunt h = {.err = err, .errlen = errlen};
    err[0] = 0;
    if (stick.disk) return true;
    if (stick.part.kind == BOOT_PARTITION_UNKNOWN) {
        fmt_snprintf(err, errlen, "the firmware does not say which partition Cupel was booted from (a BIOS, a CD, the network, a disk "
                     "without a partition table), so none is written; results go to the serial line only");
        return false;
    }
    if (stick.part.usb) hunt_usb(&h);
    else hunt_virtio(&h);
    return hunt_end(&h);
}

// ---- the file ---------------------------------------------------------------------------------------------------------------------

static bool file_find(const char *name, char *err, size_t errlen)
{
    return disk_find(err, errlen) &&
           fat_mount(&stick.fat, stick.disk, stick.offset, stick.part.count * stick.part.block_size, stick.part.block_size, err, errlen) &&
           fat_find(&stick.fat, name, &stick.file, err, errlen);
}

static bool file_writable(const char *name, char *err, size_t errlen)
{
    if (!stick.disk->read_only && !stick.file.read_only) return true;
    fmt_snprintf(err, errlen, "%s: %s is write-protected", stick.disk->name, stick.disk->read_only ? "the disk" : name);
    return false;
}

static void enter(void)
{
    ASSERT(!__atomic_exchange_n(&stick.busy, true, __ATOMIC_ACQUIRE), "one caller at a time");
}

// What the disk itself says of a failure is added to the message.
static bool leave(bool ok, char *err, size_t errlen)
{
    const char *trouble = ok || !stick.disk ? "" : usb_disk_trouble(stick.disk);
    if (ok) err[0] = 0;                          // of disks that were looked at on the way
    size_t n = strlen(err);
    if (*trouble && n < errlen) fmt_snprintf(err + n, errlen - n, " (%s)", trouble);
    __atomic_store_n(&stick.busy, false, __ATOMIC_RELEASE);
    return ok;
}

bool stick_write(const char *name, const void *data, u64 len, char *err, size_t errlen)
{
    enter();
    return leave(file_find(name, err, errlen) && file_writable(name, err, errlen) &&
                 inplace_write(&stick.fat, &stick.file, data, len, err, errlen), err, errlen);
}

bool stick_read(const char *name, void *data, u64 most, u64 *len, char *err, size_t errlen)
{
    enter();
    bool ok = file_find(name, err, errlen);
    if (ok) {
        *len = most < stick.file.size ? most : stick.file.size;
        ok = inplace_read(&stick.fat, &stick.file, data, *len, err, errlen);
    }
    return leave(ok, err, errlen);
}
