// Files of a tmpfs: no device, no writeback, only the kernel's own paths and its copying.
#include "assay/linux/work.h"

enum { CHUNK = 1 << 20 };

static long file_new(const char *name) { return must(SYS(open, name, O_RDWR | O_CREAT | O_TRUNC, 0600), "open"); }

static void file_end(const char *name, long fd)
{
    SYS(close, fd);
    must(SYS(unlink, name), "unlink");
}

u64 work_open(u64 n)
{
    u8 buf[64] = {0};
    long fd = file_new("small");
    must_all(SYS(write, fd, buf, sizeof buf), sizeof buf, "write");
    u64 start = ticks_now();
    while (n--) {
        long f = must(SYS(open, "small", O_RDONLY, 0), "open");
        must_all(SYS(read, f, buf, sizeof buf), sizeof buf, "read");
        SYS(close, f);
    }
    u64 ticks = ticks_now() - start;
    file_end("small", fd);
    return ticks;
}

u64 work_create(u64 n)
{
    static u8 page[PAGE_SIZE];
    u64 start = ticks_now();
    while (n--) {
        long fd = file_new("new");
        must_all(SYS(write, fd, page, sizeof page), sizeof page, "write");
        file_end("new", fd);
    }
    return ticks_now() - start;
}

// The file's pages and the buffer's are there before the clock starts.
static u64 transfer(u64 n, bool writing)
{
    u8 *buf = pages_get(CHUNK);
    long fd = file_new("large");
    for (u64 i = 0; i < CHUNK; i += PAGE_SIZE) buf[i] = 1;
    must_all(SYS(write, fd, buf, CHUNK), CHUNK, "write");
    u64 start = ticks_now();
    for (u64 done = 0; done < n; done += CHUNK) {
        if (writing) must_all(SYS(pwrite64, fd, buf, CHUNK, 0), CHUNK, "write");
        else must_all(SYS(pread64, fd, buf, CHUNK, 0), CHUNK, "read");
    }
    u64 ticks = ticks_now() - start;
    file_end("large", fd);
    pages_put(buf, CHUNK);
    return ticks;
}

u64 work_write(u64 n) { return transfer(n, true); }
u64 work_read(u64 n) { return transfer(n, false); }
