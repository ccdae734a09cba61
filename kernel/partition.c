// GPT and MBR (UEFI 2.10, 5.2 and 5.3). A partition is recognised by what cannot be the same on another disk by chance: its GUID, or
// the disk's signature with the partition's number. Its place must then be where the firmware saw it. Only the first GPT is believed, and
// only with correct checksums: who boots from a disk whose first table is damaged mends it before anything is written there.
#include "kernel/partition.h"

#include <string.h>

#include "kernel/base/bits.h"
#include "kernel/base/fmt.h"
#include "kernel/disk.h"

enum { UNIT_MAX = 4096, GPT_HEADER_MIN = 92, GPT_ENTRY_MIN = 128, GPT_ENTRY_MAX = 4096, GPT_ENTRIES_MAX = 4096 };
enum { MBR_SIGNATURE = 440, MBR_ENTRIES = 446, MBR_ENTRY = 16, MBR_MAGIC = 510 };

struct gpt_header {
    char magic[8];
    u32 revision, size, crc, reserved;
    u64 self, backup, first, last;
    u8 disk[16];
    u64 entries;
    u32 count, entry_size, entries_crc;
} __attribute__((packed));
struct gpt_entry { u8 type[16], id[16]; u64 first, last; } __attribute__((packed));

// CRC-32 as in the specification's 5.3.2: polynomial 0x04c11db7, bits reversed. Start with ~0, end with ~.
static u32 crc32(u32 crc, const void *p, u64 n)
{
    for (const u8 *b = p; n--; b++) {
        crc ^= *b;
        for (unsigned i = 0; i < 8; i++) crc = crc >> 1 ^ (crc & 1 ? 0xedb88320u : 0);
    }
    return crc;
}

#define UNREADABLE "cannot read the partition table"
#define MOVED      "the partition table does not say what the firmware said of Cupel's partition"

// What a search is about, and where its message goes.
struct search { struct block *b; const struct boot_partition *p; char *err; size_t errlen; };

static enum partition_result refuse(const struct search *s, const char *what)
{
    fmt_snprintf(s->err, s->errlen, "%s: %s", s->b->name, what);
    return PARTITION_ERROR;
}

// The header with its own checksum, which is computed over zeros in its place.
static bool header_good(const u8 *sector, const struct gpt_header *h, u32 unit)
{
    static const u8 zeros[4];
    if (h->size < GPT_HEADER_MIN || h->size > unit || h->self != 1 || h->entry_size < GPT_ENTRY_MIN || h->entry_size > GPT_ENTRY_MAX ||
        h->entry_size % 8 || !h->count || h->count > GPT_ENTRIES_MAX) return false;
    u32 crc = crc32(~0u, sector, 16);
    crc = crc32(crc, zeros, 4);
    return ~crc32(crc, sector + 20, h->size - 20) == h->crc;
}

static bool place_good(const struct block *b, const struct boot_partition *p)
{
    u64 blocks = b->size / p->block_size;
    return p->count && p->start < blocks && p->count <= blocks - p->start;
}

static void entry_look(const u8 *at, const struct boot_partition *p, unsigned *found, bool *moved)
{
    struct gpt_entry e;
    memcpy(&e, at, sizeof(e));
    if (memcmp(e.id, p->id, sizeof(e.id))) return;
    ++*found;
    *moved = e.first != p->start || e.last != p->start + p->count - 1;
}

// All entries, for their checksum; those with the wanted GUID are counted.
static enum partition_result gpt_search(const struct search *s, const struct gpt_header *h)
{
    const struct boot_partition *p = s->p;
    static u8 buf[UNIT_MAX];
    unsigned found = 0;
    bool moved = false;
    u32 crc = ~0u;
    u8 entry[sizeof(struct gpt_entry)];
    u64 total = (u64)h->count * h->entry_size;
    if (h->entries > s->b->size / p->block_size) return refuse(s, "the partition table's entries are not on the disk; mend it (gdisk)");
    for (u64 done = 0; done < total; done += p->block_size) {
        u64 n = min_u64(total - done, p->block_size);
        if (!disk_read(s->b, h->entries * p->block_size + done, buf, p->block_size)) return refuse(s, UNREADABLE);
        crc = crc32(crc, buf, n);
        for (u64 i = 0; i < n; i++) {            // an entry may straddle two blocks
            u64 in = (done + i) % h->entry_size;
            if (in < sizeof(entry)) entry[in] = buf[i];
            if (in == sizeof(entry) - 1) entry_look(entry, p, &found, &moved);
        }
    }
    if (~crc != h->entries_crc) return refuse(s, "the partition table's checksum is wrong; mend it (gdisk)");
    if (!found) return PARTITION_OTHER_DISK;
    if (found > 1) return refuse(s, "two partitions have the GUID of the one that Cupel was booted from; give them different ones");
    return moved ? refuse(s, MOVED) : PARTITION_FOUND;
}

static enum partition_result gpt_find(const struct search *s)
{
    u64 unit = s->p->block_size;
    static u8 sector[UNIT_MAX];
    struct gpt_header h;
    if (!disk_read(s->b, unit, sector, unit)) return refuse(s, UNREADABLE);
    memcpy(&h, sector, sizeof(h));
    if (memcmp(h.magic, "EFI PART", 8)) return PARTITION_OTHER_DISK;
    if (!header_good(sector, &h, (u32)unit)) return refuse(s, "the partition table's header is damaged; mend it (gdisk)");
    return gpt_search(s, &h);
}

static enum partition_result mbr_find(const struct search *s)
{
    const struct boot_partition *p = s->p;
    static u8 sector[UNIT_MAX];
    if (!disk_read(s->b, 0, sector, p->block_size)) return refuse(s, UNREADABLE);
    if (sector[MBR_MAGIC] != 0x55 || sector[MBR_MAGIC + 1] != 0xaa || memcmp(sector + MBR_SIGNATURE, p->id, 4)) return PARTITION_OTHER_DISK;
    const u8 *e = sector + MBR_ENTRIES + (p->number - 1) * MBR_ENTRY;
    if (*(const u32_any *)(e + 8) != p->start || *(const u32_any *)(e + 12) != p->count)
        return refuse(s, MOVED);
    return PARTITION_FOUND;
}

enum partition_result partition_find(struct block *b, const struct boot_partition *p, u64 *offset, char *err, size_t errlen)
{
    static const u8 none[16];
    const struct search search = {b, p, err, errlen}, *s = &search;
    bool mbr = p->kind == BOOT_PARTITION_MBR;
    if (p->block_size < BLOCK_SECTOR || p->block_size > UNIT_MAX || (p->block_size & (p->block_size - 1)))
        return refuse(s, "blocks are neither of 512 nor of 4096 bytes");
    if (mbr && (p->number < 1 || p->number > 4)) return refuse(s, "Cupel's partition is a logical one; use a primary one, or a GPT");
    if (!memcmp(p->id, none, mbr ? 4 : 16))
        return refuse(s, "the disk's partition table has no signature that tells it from others; make it anew");
    enum partition_result r = mbr ? mbr_find(s) : gpt_find(s);
    if (r == PARTITION_FOUND && !place_good(b, p)) return refuse(s, "Cupel's partition reaches beyond the disk's end");
    *offset = p->start * p->block_size;
    return r;
}
