// kernel/fat.c against volumes that mkfs.vfat and mtools make: every width of entries, cluster sizes, files in pieces, long names; then
// damaged ones, each with its message; then volumes with random damage, which must give an error or extents within the volume.
// link: kernel/fat.c kernel/disk.c kernel/inplace.c kernel/base/fmt.c
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <sys/mman.h>
#include <unistd.h>

#include "kernel/fat.h"
#include "kernel/inplace.h"
#include "tests/unit/memdisk.h"

enum { BASE = 1 << 20, TEXT = 300001, ROUNDS = 12000 };     // the volume lies 1 MiB into the disk

static unsigned passed, failed;
static char dir[] = "/tmp/cupel-fat-XXXXXX", err[512];
static struct memdisk disk;
static struct fat fat;
static struct fat_file file;
static u8 *text, *back;

static void check(bool ok, const char *row, const char *what)
{
    if (ok) passed++;
    else {
        failed++;
        printf("FAIL %s: %s: %s\n", row, what, err);
    }
}

static u32 rnd(void)
{
    static u32 x = 7;
    x ^= x << 13;
    x ^= x >> 17;
    return x ^= x << 5;
}

static void sh(const char *fmt, ...)
{
    char cmd[1024];
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(cmd, sizeof cmd, fmt, ap);
    va_end(ap);
    if (system(cmd)) {
        printf("FAIL the test's own command: %s\n0 passed, 1 failed\n", cmd);
        exit(1);
    }
}

static void write_file(const char *name, const void *p, size_t n)
{
    char path[256];
    snprintf(path, sizeof path, "%s/%s", dir, name);
    FILE *f = fopen(path, "wb");
    if (!f || fwrite(p, 1, n, f) != n || fclose(f)) abort();
}

// ---- volumes ----

static const struct row { const char *name; unsigned bits, sector, per_cluster, kib; const char *options; bool pieces; } rows[] = {
    {"FAT12, clusters of 512", 12, 512, 1, 1440, "-F 12 -s 1", true},
    {"FAT12, clusters of 4096", 12, 512, 8, 8000, "-F 12 -s 8", true},
    {"FAT12, one table", 12, 512, 2, 2000, "-F 12 -s 2 -f 1", false},
    {"FAT16, clusters of 512", 16, 512, 1, 8000, "-F 16 -s 1", true},
    {"FAT16, clusters of 2048", 16, 512, 4, 20000, "-F 16 -s 4", true},
    {"FAT16, clusters of 32768, 7 root entries more", 16, 512, 64, 140000, "-F 16 -s 64 -r 519", false},
    {"FAT32, clusters of 512", 32, 512, 1, 34000, "-F 32 -s 1", true},
    {"FAT32, clusters of 8192", 32, 512, 16, 540000, "-F 32 -s 16", false},
    {"FAT32, sectors of 4096", 32, 4096, 1, 280000, "-F 32 -S 4096 -s 1", true},
};

static u8 *volume_map(const struct row *r)
{
    char path[256];
    snprintf(path, sizeof path, "%s/v", dir);
    int fd = open(path, O_RDONLY);
    u64 size = (u64)r->kib * 1024;
    u8 *image = mmap(NULL, BASE + size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (fd < 0 || image == MAP_FAILED) abort();
    if (mmap(image + BASE, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_FIXED, fd, 0) == MAP_FAILED) abort();
    close(fd);
    memdisk_init(&disk, image, BASE + size, false);
    return image;
}

static void volume_make(const struct row *r)
{
    sh("cd %s && rm -f v && truncate -s %uK v && mkfs.vfat %s v >/dev/null 2>&1", dir, r->kib, r->options);
    // Filled up and emptied in stripes: what comes then lies in pieces.
    if (r->pieces) sh("cd %s && mmd -i v ::/d && mcopy -i v fill/* ::/d && mdel -i v '::/d/*[02468]'", dir);
    // mtools takes clusters from where FSInfo says: from 2 on.
    if (r->bits == 32)
        sh("cd %s && printf '\\377\\377\\377\\377\\2\\0\\0\\0' | dd of=v bs=1 seek=%u conv=notrunc status=none", dir, r->sector + 488);
    sh("cd %s && mcopy -i v assay.json ::/assay.json && mcopy -i v small '::/A rather long name, with blanks.and.dots' && mmd -i v ::/sub "
       "&& mcopy -i v small ::/PLAIN.TXT && mcopy -i v empty ::/empty && mattrib -i v +r ::/PLAIN.TXT", dir);
}

static bool mount(const struct row *r)
{
    err[0] = 0;
    return fat_mount(&fat, &disk.b, BASE, (u64)r->kib * 1024, r->sector, err, sizeof err);
}

static bool find(const char *name)
{
    err[0] = 0;
    return fat_find(&fat, name, &file, err, sizeof err);
}

static bool holds(const void *want, u64 n)
{
    memset(back, 0x55, TEXT);
    return file.size == n && inplace_read(&fat, &file, back, n, err, sizeof err) && !memcmp(back, want, n);
}

static void test_good(const struct row *r)
{
    check(mount(r) && fat.bits == r->bits && fat.cluster == r->sector * r->per_cluster, r->name, "mount");
    check(find("assay.json") && holds(text, TEXT), r->name, "the long name");
    check(r->pieces ? file.n > 3 : file.n == 1, r->name, "pieces");
    check(find("ASSAY~1.JSO") && holds(text, TEXT), r->name, "its short name");
    check(find("a RATHER long name, with blanks.and.DOTS") && file.size == 5 && !file.read_only, r->name, "a name of several entries");
    check(find("plain.txt") && holds(text, 5) && file.read_only, r->name, "8.3, read-only");
    check(find("empty") && !file.size && !file.n, r->name, "an empty file");
    check(!find("sub") && strstr(err, "is itself a directory"), r->name, "a directory");
    check(!find("assay.jso") && strstr(err, "is not in the root"), r->name, "an absent file");
    check(!find("ASSAY") && !find("") && !find("v"), r->name, "parts of names");
    u64 used = fat.data + (u64)fat.clusters * fat.cluster;
    check(!fat_mount(&fat, &disk.b, BASE, used - r->sector, r->sector, err, sizeof err), r->name, "larger than its partition");
    check(!fat_mount(&fat, &disk.b, BASE, (u64)r->kib * 1024, r->sector == 512 ? 4096 : 512, err, sizeof err), r->name, "other sectors");
    check(!fat_mount(&fat, &disk.b, BASE + 512 * 100, (u64)r->kib * 1024, 512, err, sizeof err) && strstr(err, "no FAT"), r->name,
          "no boot sector");
}

// ---- damage ----

static u32 entry_get(u32 cluster)
{
    u64 at = BASE + fat.table + (u64)cluster * fat.bits / 8;
    u32 v = *(u32_any *)(disk.now + at);
    return fat.bits == 32 ? v & 0x0fffffff : fat.bits == 16 ? v & 0xffff : cluster & 1 ? v >> 4 & 0xfff : v & 0xfff;
}

static void entry_set(u32 cluster, u32 v)
{
    u8 *at = disk.now + BASE + fat.table + (u64)cluster * fat.bits / 8;
    if (fat.bits == 32) *(u32_any *)at = v;
    else if (fat.bits == 16) *(u16_any *)at = (u16)v;
    else *(u16_any *)at = (u16)(cluster & 1 ? (*(u16_any *)at & 0xf) | v << 4 : (*(u16_any *)at & 0xf000) | (v & 0xfff));
}

static u32 cluster_of(u64 offset) { return (u32)((offset - fat.base - fat.data) / fat.cluster) + 2; }

static void test_damage(const struct row *r)
{
    if (!mount(r) || !find("assay.json")) return;
    u32 first = cluster_of(file.extent[0].offset), second = entry_get(first);
    u32 last = cluster_of(file.extent[file.n - 1].offset + file.extent[file.n - 1].len - 1);
    const struct { const char *what; u32 at, v; const char *says; } damage[] = {
        {"a circle back to the beginning", last, first, "does not end"},
        {"a cluster that follows itself", first, first, "does not end"},
        {"a circle in the middle", second, first, "does not end"},
        {"a chain that goes on", last, first + 1, "does not end"},
        {"free in the middle", second, 0, "no cluster"},
        {"cluster 1", second, 1, "no cluster"},
        {"bad in the middle", second, fat.bits == 32 ? 0x0ffffff7 : fat.bits == 16 ? 0xfff7 : 0xff7, "no cluster"},
        {"one behind the last cluster", second, fat.clusters + 2, "no cluster"},
        {"an end too early", second, fat.bits == 32 ? 0xffffffff : fat.bits == 16 ? 0xffff : 0xfff, "no cluster"},
    };
    for (unsigned i = 0; i < ARRAY_SIZE(damage); i++) {
        u32 was = entry_get(damage[i].at);
        entry_set(damage[i].at, damage[i].v);
        check(!find("assay.json") && strstr(err, damage[i].says), r->name, damage[i].what);
        entry_set(damage[i].at, was);
    }
    check(find("assay.json"), r->name, "mended");
    if (r->bits != 32) return;
    u8 *root = disk.now + BASE + fat.data + (u64)(fat.root_cluster - 2) * fat.cluster, keep[8192];
    memcpy(keep, root, fat.cluster);
    memset(root, 0xe5, fat.cluster);
    u32 was = entry_get(fat.root_cluster);
    entry_set(fat.root_cluster, fat.root_cluster);
    check(!find("assay.json") && strstr(err, "root directory's chain"), r->name, "a root directory in a circle");
    entry_set(fat.root_cluster, 0);
    check(!find("assay.json") && strstr(err, "root directory's chain"), r->name, "a root directory that leads nowhere");
    entry_set(fat.root_cluster, was);
    memcpy(root, keep, fat.cluster);
}

static bool file_within(const struct row *r)
{
    u64 sum = 0;
    for (unsigned i = 0; i < file.n; sum += file.extent[i++].len)
        if (file.extent[i].offset < BASE + fat.data || file.extent[i].offset + file.extent[i].len > BASE + (u64)r->kib * 1024) return false;
    return sum >= file.size && sum < file.size + fat.cluster;
}

// Some bytes of the boot sector, the tables and the root directory are overwritten, and put back.
static void test_fuzz(const struct row *r)
{
    static const char *const names[] = {"assay.json", "plain.txt", "A rather long name, with blanks.and.dots"};
    struct { u8 *at, was; } undo[8];
    if (!mount(r)) return;
    u64 meta = fat.data + (r->bits == 32 ? fat.cluster : 0);
    unsigned good = 0, bad = 0;
    for (unsigned round = 0; round < ROUNDS; round++) {
        unsigned n = 1 + rnd() % ARRAY_SIZE(undo);
        for (unsigned i = 0; i < n; i++) {
            u64 place[] = {rnd() % 64, (u64)fat.table + rnd() % 3000, meta - 1 - rnd() % 2048, rnd() % meta};
            undo[i].at = disk.now + BASE + place[rnd() % 4] % meta;
            undo[i].was = *undo[i].at;
            *undo[i].at = (u8)(rnd() % 4 ? rnd() : undo[i].was ^ 1u << rnd() % 8);
        }
        bool ok = mount(r) && find(names[round % 3]);
        if (ok) good++;
        if (ok ? !file_within(r) : !err[0]) bad++;
        while (n--) *undo[n].at = undo[n].was;
        if (round % 64 == 0) (void)!mount(r);
    }
    check(!bad && good > ROUNDS / 10 && good < ROUNDS, r->name, "random damage");
}

// mtools does not know FAT32 with so few clusters; mkfs.vfat and Linux do.
static void test_small32(void)
{
    const struct row r = {"FAT32, few clusters", 32, 512, 8, 4000, "-F 32 -s 8", false};
    sh("cd %s && rm -f v && truncate -s %uK v && mkfs.vfat %s v >/dev/null 2>&1", dir, r.kib, r.options);
    u8 *image = volume_map(&r);
    check(mount(&r) && fat.bits == 32 && fat.clusters < 4085 && !find("assay.json") && strstr(err, "is not in the root"), r.name, "mount");
    munmap(image, disk.b.size);
}

int main(void)
{
    setenv("PATH", "/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin", 1);
    setenv("MTOOLS_SKIP_CHECK", "1", 1);
    if (!mkdtemp(dir)) abort();
    text = malloc(TEXT);
    back = malloc(TEXT);
    for (unsigned i = 0; i < TEXT; i++) text[i] = (u8)rnd();
    write_file("assay.json", text, TEXT);
    write_file("small", text, 5);
    write_file("empty", text, 0);
    sh("mkdir %s/fill", dir);
    for (unsigned i = 100; i < 190; i++) {
        char name[32];
        snprintf(name, sizeof name, "fill/f%u", i);
        write_file(name, text, 9000);
    }
    for (unsigned i = 0; i < ARRAY_SIZE(rows); i++) {
        volume_make(&rows[i]);
        u8 *image = volume_map(&rows[i]);
        test_good(&rows[i]);
        test_damage(&rows[i]);
        test_fuzz(&rows[i]);
        munmap(image, disk.b.size);
    }
    test_small32();
    sh("rm -rf %s", dir);
    printf("%u passed, %u failed\n", passed, failed);
    return failed != 0;
}
