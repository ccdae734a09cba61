// The direct-boot loaders with images made here: good ones, each refusal with its message, every truncation, and random damage
// (meant to run under the sanitizers as well: an image is handed over in an allocation of exactly its size).
#include <stdlib.h>
#include <string.h>

#include "devices/load.h"
#include "kernel/base/bits.h"
#include "kernel/base/log.h"
#include "tests/unit/device_fake.h"
#include "tests/unit/device_parts.h"

static u8 image[0x9000];
static void put(unsigned off, u64 v, unsigned size)
{
    for (unsigned i = 0; i < size; i++) image[off + i] = v >> 8 * i;
}

static void make_bzimage(void)
{
    memset(image, 0x90, sizeof image);
    memset(image + 0x1f1, 0, 0x10f);
    put(0x1f1, 3, 1);
    put(0x1fe, 0xaa55, 2);
    put(0x200, 0x66eb, 2);
    put(0x202, 0x53726448, 4);
    put(0x206, 0x20f, 2);
    put(0x211, 1, 1);
    put(0x22c, 0x7fffffff, 4);
    put(0x230, 0x200000, 4);
    put(0x234, 1, 1);
    put(0x236, 1, 2);
    put(0x238, 100, 4);
    put(0x258, 0x1000000, 8);
    put(0x260, 0x400000, 4);
    put(2048, 0x1badbeef, 4);
}

static bool load(struct phys *p, u64 size, const char *cmdline, struct blob initrd, struct load_result *res, char *err)
{
    u8 *exact = malloc(size ? size : 1);                 // exact: the sanitizer sees a read past the end
    memcpy(exact, image, size);
    struct load_request rq = {{exact, size, "kernel"}, initrd, cmdline, gpa(0xe0000)};
    err[0] = 0;
    bool ok = LOCKED(load_kernel(p, &rq, res, err, 200));
    if (ok && res->what) CHECK(strlen(res->what) < 256);
    free(exact);
    return ok;
}

static void test_linux(void)
{
    static u8 rd[5000];
    struct blob none = {0}, initrd = {rd, sizeof rd, "rd"};
    memset(rd, 0x77, sizeof rd);
    struct load_result r;
    char err[200];
    struct phys *p = fake_machine(32 * MIB);
    make_bzimage();
    CHECK(load(p, sizeof image, "console=ttyS0", initrd, &r, err) && r.mode64 && r.entry == 0x1000200 && r.cs == 0x10 && r.ds == 0x18);
    CHECK(phys_ld(p, gpa(0x1000000), 4) == 0x1badbeef && phys_ld(p, gpa(r.rsi + 0x202), 4) == 0x53726448);
    CHECK(phys_ld(p, gpa(r.rsi + 0x70), 8) == 0xe0000 && phys_ld(p, gpa(r.rsi + 0x210), 1) == 0xff);
    char cmd[14];
    phys_read(p, gpa(phys_ld(p, gpa(r.rsi + 0x228), 4)), cmd, 14);
    CHECK(!strcmp(cmd, "console=ttyS0"));
    u64 at = phys_ld(p, gpa(r.rsi + 0x218), 4);
    CHECK(at == 32 * MIB - 8192 && phys_ld(p, gpa(r.rsi + 0x21c), 4) == 5000 && phys_ld(p, gpa(at + 4999), 1) == 0x77);
    CHECK(phys_ld(p, gpa(r.rsi + 0x1e8), 1) == 5);
    CHECK(phys_ld(p, gpa(r.rsi + 0x2d8), 8) == 0x9fc00 && phys_ld(p, gpa(r.rsi + 0x2d0 + 40), 8) == MIB);
    CHECK(phys_ld(p, gpa(r.rsi + 0x2d0 + 48), 8) == 31 * MIB);
    u64 pdpt = phys_ld(p, gpa(r.cr3), 8) & PAGE_MASK, pd = phys_ld(p, gpa(pdpt + 24), 8) & PAGE_MASK;
    CHECK(phys_ld(p, gpa(pd + 511 * 8), 8) == (0xffe00000 | 0x83));
    CHECK(phys_ld(p, gpa(r.gdt_base + 0x10), 8) == 0x00af9b000000ffff && r.gdt_limit == 31);
    put(0x236, 0, 2);
    CHECK(load(p, sizeof image, NULL, none, &r, err) && !r.mode64 && r.entry == 0x1000000 && phys_ld(p, gpa(r.rsi + 0x218), 4) == 0);
    make_bzimage();
    put(0x258, 0x7000000, 8);                            // prefers more than there is: relocated
    CHECK(load(p, sizeof image, NULL, none, &r, err) && r.entry == 0x200200);
    put(0x234, 0, 1);
    CHECK(!load(p, sizeof image, NULL, none, &r, err) && strstr(err, "at least 116 MiB"));
    make_bzimage();
    put(0x206, 0x205, 2);
    CHECK(!load(p, sizeof image, NULL, none, &r, err) && strstr(err, "2.06"));
    make_bzimage();
    char longer[102];
    memset(longer, 'a', 101);
    longer[101] = 0;
    CHECK(!load(p, sizeof image, longer, none, &r, err) && strstr(err, "command line"));
    put(0x22c, 0x1401fff, 4);
    CHECK(load(p, sizeof image, NULL, initrd, &r, err) && phys_ld(p, gpa(r.rsi + 0x218), 4) == 0x1400000);
    put(0x22c, 0x1400fff, 4);
    CHECK(!load(p, sizeof image, NULL, initrd, &r, err) && strstr(err, "initrd"));
    CHECK(!load(p, 0, NULL, none, &r, err) && strstr(err, "empty"));
    fake_done();
    p = fake_machine(MIB);
    make_bzimage();
    CHECK(!load(p, sizeof image, NULL, none, &r, err) && strstr(err, "RAM"));
    fake_done();
}

static void make_multiboot(bool elf64)
{
    memset(image, 0, sizeof image);
    put(0, 0x464c457f, 4);
    put(4, elf64 ? 2 : 1, 1);
    put(5, 1, 1);
    put(18, elf64 ? 62 : 3, 2);
    unsigned w = elf64 ? 8 : 4, ph = 0x40, words[2][6] = {{4, 8, 12, 16, 20, 32}, {8, 16, 24, 32, 40, 56}};
    put(24, 0xc0100010, w);                              // a virtual entry, linked high, loaded at 1 MiB
    put(elf64 ? 32 : 28, ph, w);
    put(elf64 ? 54 : 42, words[elf64][5], 2);
    put(elf64 ? 56 : 44, 1, 2);
    put(ph, 1, 4);
    put(ph + words[elf64][0], 0x200, w);
    put(ph + words[elf64][1], 0xc0100000, w);
    put(ph + words[elf64][2], 0x100000, w);
    put(ph + words[elf64][3], 0x100, w);
    put(ph + words[elf64][4], 0x3000, w);
    put(0x200, 0x1badb002, 4);
    put(0x204, 3, 4);
    put(0x208, -(0x1badb002 + 3u), 4);
}

static void test_multiboot(void)
{
    static u8 rd[100] = {9};
    struct blob none = {0}, initrd = {rd, sizeof rd, "rd"};
    struct load_result r;
    char err[200];
    struct phys *p = fake_machine(8 * MIB);
    for (int c = 0; c < 2; c++) {
        make_multiboot(c);
        phys_st(p, gpa(0x101000), 0xff, 1);
        CHECK(load(p, 0x400, "x=1", initrd, &r, err) && !r.mode64 && r.entry == 0x100010 && r.eax == 0x2badb002);
        CHECK(phys_ld(p, gpa(0x100000), 4) == 0x1badb002 && phys_ld(p, gpa(0x101000), 1) == 0);
        CHECK(phys_ld(p, gpa(r.ebx + 8), 4) == 7 * 1024 && phys_ld(p, gpa(r.ebx + 20), 4) == 1);
        u64 mod = phys_ld(p, gpa(r.ebx + 24), 4), start = phys_ld(p, gpa(mod), 4);
        CHECK(start == 8 * MIB - 4096 && phys_ld(p, gpa(mod + 4), 4) == start + 100 && phys_ld(p, gpa(start), 1) == 9);
        u64 mm = phys_ld(p, gpa(r.ebx + 48), 4), len = phys_ld(p, gpa(r.ebx + 44), 4);
        CHECK(len == 24 * 5 && phys_ld(p, gpa(mm), 4) == 20 && phys_ld(p, gpa(mm + 12), 8) == 0x9fc00);
        CHECK(phys_ld(p, gpa(r.gdt_base + 0x10), 8) == 0x00cf9b000000ffff);
    }
    make_multiboot(false);
    put(0x40 + 20, 0x800000, 4);
    CHECK(!load(p, 0x400, NULL, none, &r, err) && strstr(err, "at least 9 MiB"));
    make_multiboot(false);
    put(0x40 + 12, 0x10000, 4);
    CHECK(!load(p, 0x400, NULL, none, &r, err) && strstr(err, "boot information"));
    make_multiboot(false);
    put(0x204, 0x11, 4);
    put(0x208, -(0x1badb002 + 0x11u), 4);
    CHECK(!load(p, 0x400, NULL, none, &r, err) && strstr(err, "features"));
    make_multiboot(false);
    put(0x208, 0, 4);
    CHECK(!load(p, 0x400, NULL, none, &r, err) && strstr(err, "multiboot header"));
    memset(image, 0, sizeof image);                      // flat: loaded from the header's own place
    put(0x100, 0x1badb002, 4);
    put(0x104, 0x10000, 4);
    put(0x108, -(0x1badb002 + 0x10000u), 4);
    put(0x10c, 0x200000, 4);
    put(0x110, 0x200000 - 0x80, 4);
    put(0x118, 0x201000, 4);
    put(0x11c, 0x200040, 4);
    put(0x80, 0x12345678, 4);
    CHECK(load(p, 0x400, NULL, none, &r, err) && r.entry == 0x200040 && phys_ld(p, gpa(0x200000 - 0x80), 4) == 0x12345678);
    fake_done();
}

// Damaged images: every truncation, and random bytes in the parts that are parsed. Loading may succeed or fail, but only with a message.
static void test_loaders_garbage(void)
{
    struct blob none = {0};
    struct load_result r;
    char err[200];
    struct phys *p = fake_machine(32 * MIB);
    bool said = true;
    for (int kind = 0; kind < 3; kind++) {
        kind ? make_multiboot(kind - 1) : make_bzimage();
        for (u64 n = 0; n < 0x1000; n += n < 0x300 ? 1 : 61) said &= load(p, n, "a", none, &r, err) || err[0];
        srand(kind);
        for (int round = 0; round < 3000; round++) {
            kind ? make_multiboot(kind - 1) : make_bzimage();
            for (int i = rand() % 6; i >= 0; i--) image[(kind ? 0 : 0x1f1) + rand() % (kind ? 0x90 : 0x80)] = rand() % 3 ? rand() : 0xff;
            said &= load(p, 0x1000, "a", none, &r, err) || err[0];
        }
    }
    CHECK(said);
    fake_done();
}

void test_loaders(void)
{
    test_linux();
    test_multiboot();
    test_loaders_garbage();
}
