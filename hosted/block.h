// Disks of the hosted platform: files behind devices/block.h, and the threads that read and write them.
#pragma once

#include "devices/block.h"

struct block_file {
    const char *path;
    bool read_only;
    bool direct;                     // O_DIRECT: past the host's page cache
    bool ignore_flush;               // cache=unsafe
    bool write_through;
};

// Opens and locks a raw image (or block device). On failure NULL with a message in err that names the file and the mend. Before the first
// vCPU runs; lives until the process ends.
struct block *block_file_open(const struct block_file *f, char *err, size_t errlen) MUST_CHECK;
// Waits for every request of every disk, and makes what was written durable (but for cache=unsafe). At the end of the process, main thread.
void block_finish_all(void);
