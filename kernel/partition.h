// Partition tables: where on a disk the partition lies that the boot loader named. Nothing is written.
#pragma once

#include "kernel/boot_info.h"

struct block;

enum partition_result {
    PARTITION_FOUND,
    PARTITION_OTHER_DISK,     // the disk is readable and has no such partition
    PARTITION_ERROR,          // the disk cannot be read, or its table is damaged; err says what
};
// Looks for `p` on the disk: *offset becomes its first byte; its length is p->count * p->block_size, all of it on the disk. The table must
// say of the partition's place what the loader said (UEFI 2.10 chapter 5). May wait; not from interrupt context, BQL not held.
enum partition_result partition_find(struct block *b, const struct boot_partition *p, u64 *offset, char *err, size_t errlen) MUST_CHECK;
