// kernel/partition.c: the right partition, and all that is refused, on tables made here after the specification.
// link: kernel/partition.c kernel/disk.c kernel/base/fmt.c
#include <stdio.h>

#include "kernel/partition.h"
#include "tests/unit/memdisk.h"

enum { SIZE = 2 << 20, ENTRIES = 128, ENTRY = 128, ROUNDS = 3000 };

static unsigned passed, failed;
static struct memdisk disk;
static u8 image[SIZE];
static char err[512];
static u64 offset;
static const u8 guid[16] = {0x11, 0x22, 0x33, 0x44, 0x55, 0x66, 0x77, 0x88, 0x99, 0xaa, 0xbb, 0xcc, 0xdd, 0xee, 0xff, 1};

static void check(bool ok, const char *what)
{
    if (ok) passed++;
    else {
        failed++;
        printf("FAIL %s: %s\n", what, err);
    }
}

static u32 rnd(void)
{
    static u32 x = 5;
    x ^= x << 13;
    x ^= x >> 17;
    return x ^= x << 5;
}

// Another way to the same CRC-32: division of the bit string, reflected at both ends.
static u32 crc(const u8 *p, u64 n)
{
    u32 r = 0xffffffff;
    for (u64 i = 0; i < n * 8; i++) {
        u32 top = r >> 31 ^ (p[i / 8] >> i % 8 & 1);
        r = r << 1 ^ (top ? 0x04c11db7 : 0);
    }
    u32 out = 0;
    for (unsigned i = 0; i < 32; i++) out |= (r >> i & 1) << (31 - i);
    return ~out;
}

static void put32(u64 at, u32 v) { memcpy(image + at, &v, 4); }
static void put64(u64 at, u64 v) { memcpy(image + at, &v, 8); }

// Checksums as they ought to be for what the header says, if that is on the disk.
static void gpt_seal(u32 unit)
{
    u32 n, size, header;
    u64 at;
    memcpy(&at, image + unit + 72, 8);
    memcpy(&n, image + unit + 80, 4);
    memcpy(&size, image + unit + 84, 4);
    memcpy(&header, image + unit + 12, 4);
    if (at < SIZE / unit && (u64)n * size < SIZE - at * unit) put32(unit + 88, crc(image + at * unit, (u64)n * size));
    put32(unit + 16, 0);
    if (header <= unit) put32(unit + 16, crc(image + unit, header));
}

static void gpt_entry(u32 unit, unsigned i, u8 id, u64 first, u64 last)
{
    u64 at = 2 * unit + i * ENTRY;
    memset(image + at, 0xe0 + (int)i, 16);
    memcpy(image + at + 16, guid, 16);
    image[at + 31] = id;
    put64(at + 32, first);
    put64(at + 40, last);
}

static struct boot_partition gpt(u32 unit)
{
    memset(image, 0, SIZE);
    memcpy(image + unit, "EFI PART\0\0\1", 12);
    put32(unit + 12, 92);
    put64(unit + 24, 1);
    put64(unit + 72, 2);
    put32(unit + 80, ENTRIES);
    put32(unit + 84, ENTRY);
    gpt_entry(unit, 0, 7, 64, 99);
    gpt_entry(unit, 4, 1, 100, 299);
    gpt_seal(unit);
    struct boot_partition p = {.kind = BOOT_PARTITION_GPT, .block_size = unit, .number = 5, .start = 100, .count = 200};
    memcpy(p.id, guid, 16);
    return p;
}

static struct boot_partition mbr(void)
{
    memset(image, 0, SIZE);
    put32(440, 0xcafe1234);
    put32(446 + 16 + 8, 100);
    put32(446 + 16 + 12, 200);
    image[510] = 0x55;
    image[511] = 0xaa;
    return (struct boot_partition){.kind = BOOT_PARTITION_MBR, .block_size = 512, .number = 2, .start = 100, .count = 200,
                                   .id = {0x34, 0x12, 0xfe, 0xca}};
}

static enum partition_result find(struct boot_partition p)
{
    err[0] = 0;
    offset = 0;
    memdisk_init(&disk, image, SIZE, false);
    return partition_find(&disk.b, &p, &offset, err, sizeof err);
}

static void error(struct boot_partition p, const char *says, const char *what)
{
    check(find(p) == PARTITION_ERROR && strstr(err, says), what);
}

static void test_gpt(u32 unit)
{
    struct boot_partition p = gpt(unit), q = p;
    check(find(p) == PARTITION_FOUND && offset == 100 * unit, "GPT");
    q.id[3] ^= 1;
    check(find(q) == PARTITION_OTHER_DISK && !err[0], "another GUID");
    q = p;
    q.start++;
    error(q, "does not say what the firmware said", "another start");
    q = p;
    q.count--;
    error(q, "does not say what the firmware said", "another size");
    gpt_entry(unit, 127, 1, 100, 299);
    gpt_seal(unit);
    error(p, "two partitions", "the GUID twice");
    p = gpt(unit);
    image[2 * unit + 127 * ENTRY] ^= 1;
    error(p, "checksum", "damaged entries");
    p = gpt(unit);
    image[unit + 40] ^= 1;
    error(p, "header is damaged", "damaged header");
    p = gpt(unit);
    put32(unit + 84, 127);
    gpt_seal(unit);
    error(p, "header is damaged", "entries of an odd size");
    p = gpt(unit);
    put64(unit + 72, SIZE / unit - 1);
    gpt_seal(unit);
    error(p, "cannot read", "entries beyond the end");
    put64(unit + 72, UINT64_MAX / unit);
    gpt_seal(unit);
    error(p, "are not on the disk", "entries nowhere");
    p = gpt(unit);
    gpt_entry(unit, 4, 1, 100, 100000);
    gpt_seal(unit);
    p.count = 99901;
    error(p, "beyond the disk's end", "too large");
    memset(image + unit, 0, 8);
    check(find(p) == PARTITION_OTHER_DISK && !err[0], "no GPT");
}

static void test_mbr(void)
{
    struct boot_partition p = mbr(), q = p;
    check(find(p) == PARTITION_FOUND && offset == 100 * 512, "MBR");
    q.id[0] ^= 1;
    check(find(q) == PARTITION_OTHER_DISK && !err[0], "another signature");
    q = p;
    q.number = 1;
    error(q, "does not say what the firmware said", "another number");
    q.number = 5;
    error(q, "logical", "a logical partition");
    q = p;
    memset(q.id, 0, 4);
    error(q, "no signature", "no signature");
    q = p;
    q.block_size = 1536;
    error(q, "neither of 512", "odd blocks");
    put32(446 + 16 + 12, 100000);
    q = p;
    q.count = 100000;
    error(q, "beyond the disk's end", "too large");
    image[510] = 0;
    check(find(p) == PARTITION_OTHER_DISK && !err[0], "no MBR");
}

// Random damage, with checksums made right half of the time: an answer, and never one outside of the disk.
static void test_fuzz(void)
{
    unsigned wrong = 0, found = 0;
    for (unsigned i = 0; i < ROUNDS; i++) {
        u32 unit = i % 512 ? 512 : 4096;
        struct boot_partition p = i % 4 ? gpt(unit) : mbr();
        for (unsigned n = 1 + rnd() % 4; n--;) {
            u64 place[] = {unit + rnd() % 92, 2 * unit + 4 * ENTRY + rnd() % ENTRY, 440 + rnd() % 72, rnd() % (2 * unit + ENTRIES * ENTRY)};
            image[place[rnd() % 4]] = (u8)(rnd() % 3 ? rnd() : 0);
        }
        if (i % 4 && rnd() % 2) gpt_seal(unit);
        enum partition_result r = find(p);
        if (r == PARTITION_FOUND) found++;
        if ((r == PARTITION_FOUND && offset != p.start * p.block_size) || (r == PARTITION_ERROR) != (err[0] != 0)) wrong++;
    }
    check(!wrong && found > ROUNDS / 50 && found < ROUNDS, "random damage");
}

int main(void)
{
    check(crc((const u8 *)"123456789", 9) == 0xcbf43926, "the test's own CRC");
    test_gpt(512);
    test_gpt(4096);
    test_mbr();
    test_fuzz();
    printf("%u passed, %u failed\n", passed, failed);
    return failed != 0;
}
