// kernel/inplace.c under power failures and failing disks: whatever happens, only the file's own sectors change, and a file that is not
// wholly the new one, or still wholly the old one, says that it is not complete.
// link: kernel/inplace.c kernel/disk.c kernel/base/fmt.c
#include <stdio.h>

#include "kernel/inplace.h"
#include "tests/unit/memdisk.h"

enum { SIZE = 1 << 20, FILE_SIZE = 200 * 1024 + 77, LOSSES = 40 };

static unsigned passed, failed;
static struct memdisk disk;
static u8 image[SIZE], old_text[FILE_SIZE + 512], new_text[FILE_SIZE + 512], got[FILE_SIZE + 512];
static char err[512], mark[512];
static u64 len;

// Three pieces out of order; the last is larger than the file needs.
static struct fat fat = {.disk = &disk.b, .sector = 512, .cluster = 4096};
static struct fat_file file = {.size = FILE_SIZE, .n = 3,
                               .extent = {{600 * 1024, 8 * 1024}, {64 * 1024, 128 * 1024}, {400 * 1024, 68 * 1024}}};

static void check(bool ok, const char *what, unsigned at)
{
    if (ok) passed++;
    else {
        failed++;
        printf("FAIL %s (%u): %s\n", what, at, err);
    }
}

static u32 rnd(void)
{
    static u32 x = 3;
    x ^= x << 13;
    x ^= x >> 17;
    return x ^= x << 5;
}

static void start(void)
{
    for (unsigned i = 0; i < SIZE; i++) image[i] = (u8)(i * 7 + i / 512);
    free(disk.safe);
    memdisk_init(&disk, image, SIZE, true);
    if (!inplace_read(&fat, &file, old_text, FILE_SIZE, err, sizeof err)) abort();
    err[0] = 0;
}

static bool write_new(void) { return inplace_write(&fat, &file, new_text, len, err, sizeof err); }

// Everything but the file's sectors is as it was.
static bool outside_same(void)
{
    static u8 own[SIZE / 512];
    u64 left = (FILE_SIZE + 511) / 512;
    memset(own, 0, sizeof own);
    for (unsigned e = 0; e < file.n; e++)
        for (u64 s = 0; s < file.extent[e].len / 512 && left; s++, left--) own[file.extent[e].offset / 512 + s] = 1;
    for (unsigned i = 0; i < SIZE; i++)
        if (!own[i / 512] && image[i] != (u8)(i * 7 + i / 512)) return false;
    return true;
}

// The file is whole, old or new, or says that it is not.
static bool honest(void)
{
    char ignored[256];
    if (!inplace_read(&fat, &file, got, FILE_SIZE, ignored, sizeof ignored)) return false;
    if (!memcmp(got, mark, 512) || !memcmp(got, old_text, FILE_SIZE)) return true;
    return !memcmp(got, new_text, FILE_SIZE);
}

static bool is_new(void) { return inplace_read(&fat, &file, got, FILE_SIZE, err, sizeof err) && !memcmp(got, new_text, FILE_SIZE); }

static void text_set(u64 n)
{
    len = n;
    for (u64 i = 0; i < sizeof new_text; i++) new_text[i] = i < n ? (u8)('a' + i % 23) : '\n';
}

static void test_good(void)
{
    static const u64 lens[] = {0, 1, 511, 512, 513, 65536, 65537, FILE_SIZE - 1, FILE_SIZE};
    for (unsigned i = 0; i < ARRAY_SIZE(lens); i++) {
        start();
        text_set(lens[i]);
        check(write_new() && is_new() && outside_same(), "written", (unsigned)lens[i]);
        memdisk_power_loss(&disk, rnd);
        check(!memcmp(image, disk.safe, SIZE) && is_new(), "and durable", (unsigned)lens[i]);
    }
    start();
    text_set(FILE_SIZE);
    len++;
    check(!write_new() && strstr(err, "room for 204877 bytes") && !disk.ops && outside_same(), "too long", 0);
    u64 size = file.size;
    file.size = 511;
    len = 3;
    check(!write_new() && strstr(err, "room for") && !disk.ops, "less than a sector", 0);
    file.size = size;
    disk.b.read_only = true;
    check(!write_new() && strstr(err, "cannot write") && !disk.ops, "read-only", 0);
}

// The disk stops at every operation in turn, and the power with it.
static void test_power(void)
{
    text_set(FILE_SIZE - 5000);
    start();
    check(write_new(), "to count operations", 0);
    unsigned ops = disk.ops;
    for (unsigned at = 1; at <= ops; at++)
        for (unsigned i = 0; i < LOSSES; i++) {
            start();
            disk.fail_at = at;
            disk.dead_after = true;
            bool ok = write_new();
            memdisk_power_loss(&disk, rnd);
            check(ok == (at == ops) && (ok ? is_new() : err[0] && honest()) && outside_same(), "power lost", at);
        }
}

// One operation fails, or is not done although it was answered; the disk lives on.
static void test_faults(void)
{
    text_set(FILE_SIZE - 5000);
    start();
    check(write_new(), "to count operations", 0);
    unsigned ops = disk.ops;
    for (unsigned at = 1; at < ops; at++) {
        start();
        disk.fail_at = at;
        bool ok = write_new();
        check(!ok && (strstr(err, "cannot write") || strstr(err, "cannot flush")) && honest() && outside_same(), "fault", at);
        start();
        disk.forget_at = at;
        ok = write_new();
        check((ok ? is_new() : strstr(err, "reads back differently") && honest()) && outside_same(), "forgotten", at);
    }
}

int main(void)
{
    memset(mark, '\n', sizeof mark);
    memcpy(mark, INPLACE_UNFINISHED, sizeof INPLACE_UNFINISHED - 1);
    test_good();
    test_power();
    test_faults();
    free(disk.safe);
    printf("%u passed, %u failed\n", passed, failed);
    return failed != 0;
}
