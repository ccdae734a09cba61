// A disk in memory: what the guest sees is a copy of a file that the boot loader read. It lasts as long as the machine is on.
#pragma once

#include "devices/block.h"

// A disk over [data, data + size), which becomes the disk's. name: for messages. NULL when the size is no multiple of 512, or 0.
struct block *ramdisk_new(void *data, u64 size, const char *name) MUST_CHECK;
