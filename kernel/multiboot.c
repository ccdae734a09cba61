// From a Multiboot2 loader's information to struct boot_info: the BIOS PC's counterpart of boot/handoff.c.
//
// There is no firmware to read files or to show a menu; GRUB did both. One module is cupel.conf, the same file as on a UEFI stick, the
// others are the files that it names; a module's text in GRUB's configuration says which ("module2 FILE NAME"). The kernel's command line
// is the name or number of the boot entry, none meaning the default. What is wrong with any of it becomes info->error, which the kernel
// shows once it has a console: nothing here can print.
#include "kernel/multiboot.h"

#include <string.h>

#include "boot/config.h"
#include "kernel/base/bits.h"
#include "kernel/base/date.h"
#include "kernel/base/fmt.h"
#include "kernel/cpu.h"
#include "kernel/machine.h"
#include "kernel/serial.h"

_Static_assert((int)CONFIG_TB_SIZE_MIN == (int)MACHINE_TB_SIZE_MIN, "cupel.conf refuses what the machine does");

enum { TAG_END = 0, TAG_CMDLINE = 1, TAG_MODULE = 3, TAG_MAP = 6, TAG_FRAMEBUFFER = 8, TAG_RSDP1 = 14, TAG_RSDP2 = 15 };

struct mb_tag { u32 type, size; };
struct mb_module { u32 type, size, from, to; char name[]; };
struct mb_map { u32 type, size, step, version; };
struct mb_map_entry { u64 base, size; u32 type, pad; };
struct mb_framebuffer {
    u32 type, size;
    u64 phys;
    u32 pitch, width, height;
    u8 bpp, kind, reserved[2];
    u8 red, red_bits, green, green_bits, blue, blue_bits;
} __attribute__((packed));

extern const u8 kernel_entry[], kernel_start[], kernel_end[];

static struct { const u8 *mbi; u32 size; struct config config; char error[256]; } mb;

// The next tag of this type behind `after` (NULL: the first). Tags are 8-byte aligned, specification 3.6.1.
static const void *tag_next(u32 type, const void *after)
{
    u64 at = 8;
    bool armed = !after;
    while (at + sizeof(struct mb_tag) <= mb.size) {
        const struct mb_tag *t = (const struct mb_tag *)(mb.mbi + at);
        if (t->type == TAG_END || t->size < sizeof(*t) || t->size > mb.size - at) break;
        if (armed && t->type == type) return t;
        armed |= t == after;
        at += align_up(t->size, 8);
    }
    return NULL;
}

// ---- memory, screen, tables, clock ----

static bool collect_map(void)
{
    static const u8 types[] = {[1] = BOOT_MEM_FREE, [3] = BOOT_MEM_ACPI, [4] = BOOT_MEM_ACPI};
    const struct mb_map *m = tag_next(TAG_MAP, NULL);
    if (!m || m->step < sizeof(struct mb_map_entry)) return false;
    for (u64 off = sizeof(*m); off + m->step <= m->size; off += m->step) {
        const struct mb_map_entry *e = (const struct mb_map_entry *)((const u8 *)m + off);
        bool known = e->type == 1 || e->type == 3 || e->type == 4;
        if (!mbmem_add(e->base, e->size, known ? types[e->type] : BOOT_MEM_RESERVED)) return false;
    }
    return true;
}

static bool collect_loaded(void)
{
    bool ok = mbmem_add(KERNEL_LOAD, (u64)(kernel_end - kernel_start), BOOT_MEM_LOADER) && mbmem_add((u64)mb.mbi, mb.size, BOOT_MEM_LOADER);
    for (const struct mb_module *m = NULL; ok && (m = tag_next(TAG_MODULE, m));)
        ok = m->to <= m->from || mbmem_add(m->from, m->to - m->from, BOOT_MEM_LOADER);
    return ok;
}

static void info_framebuffer(struct boot_framebuffer *out)
{
    const struct mb_framebuffer *f = tag_next(TAG_FRAMEBUFFER, NULL);
    if (!f || f->size < sizeof(*f) || f->kind != 1 || f->bpp != 32 || f->red_bits != 8 || f->green_bits != 8 || f->blue_bits != 8) return;
    *out = (struct boot_framebuffer){.phys = f->phys, .size = (u64)f->pitch * f->height, .width = f->width, .height = f->height,
                                     .stride = f->pitch / 4, .red_shift = f->red, .green_shift = f->green, .blue_shift = f->blue};
}

// ACPI 6.5, 5.2.5.1: on 16-byte boundaries, in the first KiB of the extended BIOS data area or in the BIOS itself.
static u64 rsdp_scan(u64 from, u64 to)
{
    for (u64 a = from; a < to; a += 16) {
        const u8 *p = (const u8 *)a;
        u8 sum = 0;
        for (unsigned i = 0; i < 20; i++) sum = (u8)(sum + p[i]);
        if (!memcmp(p, "RSD PTR ", 8) && sum == 0) return a;
    }
    return 0;
}

// The loader's copy, or what is found where BIOSes put it.
static u64 info_rsdp(void)
{
    const struct mb_tag *t = tag_next(TAG_RSDP2, NULL);
    if (!t) t = tag_next(TAG_RSDP1, NULL);
    if (t) return (u64)(t + 1);
    u16 segment;
    const void *where = (const void *)0x40e;
    __asm__("" : "+r"(where));   // an address that C takes for part of a null object
    memcpy(&segment, where, 2);
    u64 ebda = align_up((u64)segment << 4, 16);
    u64 found = ebda >= 0x400 && ebda < 0xa0000 ? rsdp_scan(ebda, ebda + 1024) : 0;
    return found ? found : rsdp_scan(0xe0000, 0x100000);
}

static u8 rtc_read(u8 reg)
{
    cpu_out8(0x70, reg);
    return cpu_in8(0x71);
}

enum { RTC_SEC, RTC_MIN, RTC_HOUR, RTC_DAY, RTC_MONTH, RTC_YEAR, RTC_FIELDS };

// All fields between two updates: read until two readings are the same, a bounded number of times.
static void rtc_read_all(u8 now[RTC_FIELDS])
{
    static const u8 regs[RTC_FIELDS] = {0, 2, 4, 7, 8, 9};
    u8 before[RTC_FIELDS];
    for (unsigned tries = 0; tries < 100; tries++) {
        for (unsigned spins = 0; (rtc_read(0x0a) & 0x80) && spins < 100000; spins++) cpu_pause();
        for (unsigned i = 0; i < RTC_FIELDS; i++) now[i] = rtc_read(regs[i]);
        if (tries && !memcmp(before, now, sizeof(before))) return;
        memcpy(before, now, sizeof(before));
    }
}

// The PC's clock (MC146818A), taken for UTC. Register B: 4 binary, 2 24 hours. Years are of this century.
static void info_wall_clock(struct boot_info *info)
{
    u8 f[RTC_FIELDS] = {0}, b = rtc_read(0x0b);
    rtc_read_all(f);
    info->wall_tsc = cpu_rdtsc();
    bool pm = !(b & 2) && (f[RTC_HOUR] & 0x80);
    f[RTC_HOUR] &= 0x7f;
    for (unsigned i = 0; i < RTC_FIELDS && !(b & 4); i++) f[i] = (u8)((f[i] >> 4) * 10 + (f[i] & 15));
    if (!(b & 2)) f[RTC_HOUR] = (u8)(f[RTC_HOUR] % 12 + (pm ? 12 : 0));
    s64 s = date_days(2000 + f[RTC_YEAR], f[RTC_MONTH], f[RTC_DAY]) * 86400 + f[RTC_HOUR] * 3600 + f[RTC_MIN] * 60 + f[RTC_SEC];
    info->wall_ns = (u64)s * NS_PER_SEC;
}

// ---- the boot entry ----

// Is module text `a` the path `b`? Slashes are as good as backslashes, and the first of them may be absent.
static bool path_equal(const char *a, const char *b)
{
    if (*a == '/' || *a == '\\') a++;
    if (*b == '/' || *b == '\\') b++;
    for (; *a && *b; a++, b++)
        if (*a != *b && !((*a == '/' || *a == '\\') && (*b == '/' || *b == '\\'))) return false;
    return *a == *b;
}

static const struct mb_module *module_find(const char *path)
{
    for (const struct mb_module *m = NULL; (m = tag_next(TAG_MODULE, m));)
        if (m->size > sizeof(*m) && m->to > m->from && memchr(m->name, 0, m->size - sizeof(*m)) && path_equal(m->name, path)) return m;
    return NULL;
}

static bool info_file(const char *path, unsigned line, struct boot_file *out)
{
    if (!path[0]) return true;
    const struct mb_module *m = module_find(path);
    if (!m) {
        fmt_snprintf(mb.error, sizeof(mb.error), "cupel.conf:%u: the boot loader gives no module named %s; add `module2 FILE %s' to its entry",
                     line, path, path);
        return false;
    }
    *out = (struct boot_file){.phys = m->from, .size = m->to - m->from};
    memcpy(out->name, path, strlen(path) + 1);   // CONFIG_PATH is the same size
    return true;
}

// A decimal number and nothing else; 0: something else.
static unsigned number(const char *s)
{
    unsigned n = 0;
    for (; *s >= '0' && *s <= '9' && n < 1000; s++) n = n * 10 + (unsigned)(*s - '0');
    return *s ? 0 : n;
}

// The entry that the command line names, by name or by number from 1, or the default. Numbers are for configurations that a program writes:
// loaders differ in how they quote.
static const struct config_entry *entry_choose(void)
{
    const struct mb_tag *t = tag_next(TAG_CMDLINE, NULL);
    const char *name = t && memchr(t + 1, 0, t->size - sizeof(*t)) ? (const char *)(t + 1) : "";
    while (*name == ' ') name++;
    if (!*name) return &mb.config.entries[mb.config.default_index];
    for (unsigned i = 0; i < mb.config.count; i++)
        if (!strcmp(mb.config.entries[i].name, name)) return &mb.config.entries[i];
    unsigned n = number(name);
    if (n >= 1 && n <= mb.config.count) return &mb.config.entries[n - 1];
    fmt_snprintf(mb.error, sizeof(mb.error), "cupel.conf has no entry [%s], which is what the boot loader's command line says", name);
    return NULL;
}

static void info_entry(struct boot_info *info)
{
    const struct mb_module *conf = module_find("cupel.conf");
    info->serial_port = BOOT_SERIAL_AUTO;
    if (!conf) {
        fmt_snprintf(mb.error, sizeof(mb.error), "the boot loader gives no configuration; add `module2 /cupel.conf cupel.conf' to its entry");
        return;
    }
    config_parse(&mb.config, "cupel.conf", (const char *)(u64)conf->from, conf->to - conf->from);
    if (mb.config.error[0]) {
        memcpy(mb.error, mb.config.error, sizeof(mb.error));
        return;
    }
    const struct config_entry *e = entry_choose();
    if (!e) return;
    config_apply(e, info);
    memcpy(mb.error, e->error, sizeof(mb.error));
    if (!mb.error[0] && info_file(e->kernel, e->kernel_line, &info->kernel) && info_file(e->initrd, e->initrd_line, &info->initrd))
        if (config_drive_host(e) < 0) (void)!info_file(e->drive, e->drive_line, &info->drive);
}
_Static_assert(CONFIG_ERROR <= sizeof(mb.error) && CONFIG_PATH <= sizeof(((struct boot_file *)0)->name), "copied whole");

// For what comes before there can be a struct boot_info: the first serial port and the text screen.
static NORETURN void multiboot_complain(const char *text)
{
    volatile u16 *screen = (volatile u16 *)0xb8000;
    for (const char *s = text; *s >= ' '; s++) *screen++ = (u16)(0x0f00 | (u8)*s);
    serial_init(BOOT_SERIAL_AUTO, 0);
    serial_write(text, strlen(text));
    cpu_halt_forever();
}

void multiboot_main(u64 mbi)
{
    mb.mbi = (const u8 *)mbi;
    memcpy(&mb.size, mb.mbi, 4);
    bool ok = collect_map() && collect_loaded();
    struct boot_info *info = ok ? mbmem_reserve() : NULL;
    if (!info) multiboot_complain("Cupel: the boot loader gives no memory map, or one without enough free memory below 4 GiB.\r\n");
    info->magic = BOOT_INFO_MAGIC;
    info->version = BOOT_INFO_VERSION;
    info->size = sizeof(*info);
    info->self_phys = (u64)info;
    info->kernel_phys = KERNEL_LOAD;
    info->kernel_size = (u64)(kernel_end - kernel_start);
    info->rsdp_phys = info_rsdp();
    info_framebuffer(&info->fb);
    info_wall_clock(info);
    info_entry(info);
    memcpy(info->error, mb.error, sizeof(info->error));
    u64 tables = mbmem_finish(info);
    __asm__ volatile("mov %0, %%cr3; jmp *%1" : : "r"(tables), "r"(kernel_entry), "D"(info) : "memory");
    __builtin_unreachable();
}
