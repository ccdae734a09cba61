// The Linux/x86 boot protocol (Documentation/arch/x86/boot.rst in the kernel's sources), entered past its 16-bit code: the 64-bit
// entry where the image has one (protocol 2.12, xloadflags), else the 32-bit one.
//
// A bzImage is a boot sector and setup code of setup_sects + 1 sectors, whose header at 0x1f1 describes the rest, and the
// protected-mode kernel after it. That part goes to the preferred address, or if RAM does not reach there, to the lowest aligned
// one if it may be relocated. It will unpack itself within init_size bytes of that address, so these must be RAM and free. The
// initrd goes as high as the header allows; boot_params, command line, page tables and GDT go low, where the kernel's unpacking
// never reaches.
#include "devices/load.h"
#include "kernel/base/bits.h"
#include "kernel/base/log.h"

// Offsets in the image, and the same in boot_params ("zero page").
enum {
    HDR_START = 0x1f1, HDR_SETUP_SECTS = 0x1f1, HDR_BOOT_FLAG = 0x1fe, HDR_JUMP_LEN = 0x201, HDR_END_BASE = 0x202, HDR_MAGIC = 0x202,
    HDR_VERSION = 0x206, HDR_VERSION_TEXT = 0x20e, HDR_LOADER = 0x210, HDR_LOADFLAGS = 0x211, HDR_CODE32 = 0x214, HDR_RAMDISK = 0x218,
    HDR_RAMDISK_SIZE = 0x21c, HDR_HEAP_END = 0x224, HDR_CMDLINE = 0x228, HDR_INITRD_MAX = 0x22c, HDR_ALIGN = 0x230,
    HDR_RELOCATABLE = 0x234, HDR_MIN_ALIGN = 0x235, HDR_XLOADFLAGS = 0x236, HDR_CMDLINE_SIZE = 0x238, HDR_PREF_ADDRESS = 0x258,
    HDR_INIT_SIZE = 0x260, HDR_MIN_SIZE = 0x264,
    BP_ACPI_RSDP = 0x070, BP_E820_COUNT = 0x1e8, BP_E820 = 0x2d0, BP_SIZE = 0x1000,
    HDR_VID_MODE = 0x1fa, BP_SENTINEL_END = 0x290,
};
enum { LOADED_HIGH = 1, KEEP_SEGMENTS = 0x40, XLF_KERNEL_64 = 1, E820_MAX = 128 };
#define MAGIC_HDRS 0x53726448u

struct image {
    const struct blob *k;
    unsigned version;
    u64 payload, payload_size;      // protected-mode code in the file
    u64 load, init_size;            // where it goes and what it needs there
    u64 initrd;
    bool entry64;
};

bool linux_probe(const struct blob *k)
{
    return k->size >= HDR_MIN_SIZE && blob_ld(k, HDR_BOOT_FLAG, 2) == 0xaa55 && blob_ld(k, HDR_MAGIC, 4) == MAGIC_HDRS;
}

static u64 field(const struct image *im, unsigned off, unsigned size) { return blob_ld(im->k, off, size); }

static bool header_check(struct loader *l, struct image *im)
{
    const char *name = im->k->name;
    im->version = field(im, HDR_VERSION, 2);
    if (im->version < 0x206)
        return load_fail(l, "%s uses boot protocol %u.%02u; 2.06 (Linux 2.6.22) or newer is needed", name, im->version >> 8,
            im->version & 255);
    if (!(field(im, HDR_LOADFLAGS, 1) & LOADED_HIGH)) return load_fail(l, "%s is a zImage, not a bzImage", name);
    u64 sects = field(im, HDR_SETUP_SECTS, 1);
    im->payload = ((sects ? sects : 4) + 1) * 512;           // 0 means 4, for old loaders' sake
    if (im->payload >= im->k->size) return load_fail(l, "%s is cut short: %llu bytes of setup code in a file of %llu", name,
                                                     (unsigned long long)im->payload, (unsigned long long)im->k->size);
    im->payload_size = im->k->size - im->payload;
    im->entry64 = im->version >= 0x20c && (field(im, HDR_XLOADFLAGS, 2) & XLF_KERNEL_64);
    if (im->entry64 && im->payload_size < 0x202) return load_fail(l, "%s is cut short: no code at its 64-bit entry", name);
    return true;
}

static bool too_small(struct loader *l, const struct image *im, u64 load)
{
    return load_fail(l, "%s does not fit in memory: it needs %llu MiB at %#llx, "
                     "and RAM ends at %#llx; give the guest at least %llu MiB", im->k->name,
                     (unsigned long long)((im->init_size + MIB - 1) / MIB), (unsigned long long)load,
                     (unsigned long long)load_ram_end(l, MIB),
                     (unsigned long long)((load + im->init_size + MIB - 1) / MIB));
}

// Chooses the load address. Before 2.10 there is neither preference nor init_size; the kernel lives at 1 MiB and three times its
// file is a safe guess.
static bool kernel_place(struct loader *l, struct image *im)
{
    u64 pref = MIB;
    im->init_size = im->payload_size * 3;
    if (im->version >= 0x20a) {
        pref = field(im, HDR_PREF_ADDRESS, 8);
        im->init_size = max_u64(field(im, HDR_INIT_SIZE, 4), im->payload_size);
    }
    im->load = pref;
    if (pref >= MIB && pref < 4 * GIB && load_in_ram(l, pref, im->init_size)) return true;
    u64 align = field(im, HDR_ALIGN, 4);
    if (!field(im, HDR_RELOCATABLE, 1) || !align || (align & (align - 1))) return too_small(l, im, max_u64(min_u64(pref, 4 * GIB), MIB));
    im->load = align_up(MIB, align);
    return load_in_ram(l, im->load, im->init_size) ? true : too_small(l, im, im->load);
}

static bool initrd_place(struct loader *l, struct image *im)
{
    const struct blob *rd = &l->rq->initrd;
    if (!rd->data || !rd->size) return true;
    u64 kernel_end = align_up(im->load + im->init_size, PAGE_SIZE);
    u64 limit = min_u64(field(im, HDR_INITRD_MAX, 4) + 1, 4 * GIB);
    if (rd->size <= UINT32_MAX) im->initrd = load_place_high(l, rd->size, kernel_end, limit);
    if (im->initrd) return true;
    return load_fail(l, "the initrd %s (%llu MiB) does not fit between the kernel's end (%#llx) and %#llx; "
                     "give the guest at least %llu MiB", rd->name,
                     (unsigned long long)((rd->size + MIB - 1) / MIB), (unsigned long long)kernel_end,
                     (unsigned long long)min_u64(limit, load_ram_end(l, MIB)),
                     (unsigned long long)((kernel_end + rd->size + 2 * MIB - 1) / MIB));
}

// ---- boot_params -------------------------------------------------------------------------------------------------------

static void bp_st(struct loader *l, unsigned off, u64 v, unsigned size) { phys_st(l->phys, gpa(LOAD_INFO + off), v, size); }

static void e820_fill(struct loader *l)
{
    for (unsigned i = 0; i < l->nmap; i++) {
        bp_st(l, BP_E820 + 20 * i, l->map[i].base, 8);
        bp_st(l, BP_E820 + 20 * i + 8, l->map[i].size, 8);
        bp_st(l, BP_E820 + 20 * i + 16, l->map[i].type, 4);
    }
    bp_st(l, BP_E820_COUNT, l->nmap, 1);
}
_Static_assert((int)LOAD_RANGES <= (int)E820_MAX, "the memory map fits boot_params");

// All zero but the header, which is copied as long as the image says it is (its jump's target), and the fields for the loader to fill.
static void boot_params_fill(struct loader *l, const struct image *im)
{
    load_zero(l, LOAD_INFO, BP_SIZE);
    u64 end = min_u64(HDR_END_BASE + field(im, HDR_JUMP_LEN, 1), BP_SENTINEL_END);
    load_put(l, LOAD_INFO + HDR_START, im->k->data + HDR_START, min_u64(end, im->k->size) - HDR_START);
    bp_st(l, HDR_LOADER, 0xff, 1);                                        // no assigned loader number
    bp_st(l, HDR_LOADFLAGS, field(im, HDR_LOADFLAGS, 1) & ~KEEP_SEGMENTS, 1);
    bp_st(l, HDR_VID_MODE, 0xffff, 2);                                    // normal
    bp_st(l, HDR_CODE32, im->load, 4);
    bp_st(l, HDR_CMDLINE, LOAD_CMDLINE, 4);
    bp_st(l, HDR_RAMDISK, im->initrd, 4);
    bp_st(l, HDR_RAMDISK_SIZE, im->initrd ? l->rq->initrd.size : 0, 4);
    bp_st(l, BP_ACPI_RSDP, l->rq->rsdp.v, 8);
    e820_fill(l);
}

// ---- the processor's state -----------------------------------------------------------------------------------------------

// Identity map of 4 GiB: everything the unpacker touches before it makes its own tables. Present, writable; 2 MiB pages (SDM 3A 4.5).
static void identity_map(struct loader *l)
{
    load_zero(l, LOAD_PAGES, 2 * PAGE_SIZE);
    phys_st(l->phys, gpa(LOAD_PAGES), (LOAD_PAGES + PAGE_SIZE) | 3, 8);
    for (u64 i = 0; i < 4; i++) phys_st(l->phys, gpa(LOAD_PAGES + PAGE_SIZE + 8 * i), (LOAD_PAGES + (2 + i) * PAGE_SIZE) | 3, 8);
    for (u64 i = 0; i < 4 * 512; i++) phys_st(l->phys, gpa(LOAD_PAGES + 2 * PAGE_SIZE + 8 * i), (i << 21) | 0x83, 8);
    l->res->cr3 = LOAD_PAGES;
}

// The kernel's own version text, if the header points at one inside the setup code.
static const char *version_text(const struct image *im)
{
    u64 at = field(im, HDR_VERSION_TEXT, 2) + 0x200;
    if (at == 0x200 || at >= im->payload) return NULL;
    for (u64 i = at; i < im->payload && i < at + 256; i++)
        if (!im->k->data[i]) return (const char *)im->k->data + at;
    return NULL;
}

bool linux_load(struct loader *l)
{
    struct image im = {.k = &l->rq->kernel};
    if (!header_check(l, &im) || !kernel_place(l, &im) || !initrd_place(l, &im)) return false;
    if (!load_cmdline(l, field(&im, HDR_CMDLINE_SIZE, 4))) return false;

    load_put(l, im.load, im.k->data + im.payload, im.payload_size);
    if (im.initrd) load_put(l, im.initrd, l->rq->initrd.data, l->rq->initrd.size);
    boot_params_fill(l, &im);
    load_gdt(l, im.entry64);
    if (im.entry64) identity_map(l);
    l->res->mode64 = im.entry64;
    l->res->entry = im.load + (im.entry64 ? 0x200 : 0);
    l->res->rsi = LOAD_INFO;
    l->res->rsp = LOAD_STACK_TOP;
    l->res->what = version_text(&im);
    if (!l->res->what) l->res->what = "Linux";
    log_debug("%s: %s at %#llx, %s entry, initrd at %#llx", im.k->name, l->res->what, (unsigned long long)im.load,
        im.entry64 ? "64-bit" : "32-bit",
              (unsigned long long)im.initrd);
    return true;
}
