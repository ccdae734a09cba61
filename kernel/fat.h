// FAT12, FAT16 and FAT32, read only: where the contents of a file in the root directory lie on the disk. All that comes from the volume is
// checked; a damaged one gives an error, never an access outside of it. (Microsoft's FAT specification, 2005; "FAT spec." in the source.)
#pragma once

#include "kernel/base/types.h"

struct block;

enum { FAT_SECTOR_MAX = 4096, FAT_EXTENTS = 512 };

struct fat {
    struct block *disk;
    u64 base;                             // of the volume: byte on the disk
    u32 sector, cluster;                  // bytes
    u32 clusters;                         // usable ones; their numbers begin at 2
    unsigned bits;                        // of an entry: 12, 16, 32
    u64 table, root, root_size, data;     // bytes from base: the table in use, the root directory of FAT12/16, cluster 2
    u32 root_cluster;                     // FAT32
    u64 cached;                           // offset of what `buf' holds; UINT64_MAX: nothing
    u8 buf[FAT_SECTOR_MAX], dir[FAT_SECTOR_MAX];
};

struct fat_extent { u64 offset, len; };   // bytes on the disk

struct fat_file {
    u64 size;                             // bytes
    bool read_only;                       // the file's attribute
    unsigned n;
    struct fat_extent extent[FAT_EXTENTS];   // whole clusters, in the file's order, neighbours joined; together at least `size`
};

// The volume in [offset, offset + size) of the disk, whose blocks are of `sector` bytes. May wait; not from interrupt context, BQL not
// held, like all below. False with a message.
bool fat_mount(struct fat *f, struct block *disk, u64 offset, u64 size, u32 sector, char *err, size_t errlen) MUST_CHECK;
// The file `name` (long or 8.3; ASCII; capitals and small letters are the same) of the root directory. False with a message: it is not
// there, is a directory, or its chain of clusters is damaged.
bool fat_find(struct fat *f, const char *name, struct fat_file *file, char *err, size_t errlen) MUST_CHECK;
