// The parser of \cupel.conf. Lines are cut, trimmed and dispatched over one table of keys (name, where it may stand, setter, what a
// good value looks like): the table is the documentation that error messages quote.
#include "boot/config.h"

#include <string.h>

#include "kernel/base/date.h"
#include "kernel/base/fmt.h"
#include "kernel/boot_info.h"

struct parse {
    struct config *c;
    struct config_entry *e;     // section we are in; NULL: global
    const char *file;
    unsigned line;
};

struct key {
    const char *name;
    bool global, entry;
    bool (*set)(struct parse *p, const char *value);
    const char *expect;
};

static void config_fail(struct parse *p, const char *text)
{
    char *err = p->e ? p->e->error : p->c->error;
    if (!*err) fmt_snprintf(err, CONFIG_ERROR, "%s:%u: %s", p->file, p->line, text);
}

// ---- values ----

static bool value_copy(char *dst, size_t room, const char *v)
{
    if (!*v || strlen(v) >= room) return false;
    memcpy(dst, v, strlen(v) + 1);
    return true;
}

// Decimal or 0x number at *v; moves *v past it.
static bool value_number(const char **v, u64 *out)
{
    const char *s = *v;
    unsigned base = 10;
    if (s[0] == '0' && (s[1] | 0x20) == 'x') { base = 16; s += 2; }
    u64 x = 0;
    const char *first = s;
    for (;; s++) {
        char low = *s | 0x20;
        unsigned d = *s >= '0' && *s <= '9' ? (unsigned)(*s - '0') : low >= 'a' && low <= 'f' ? (unsigned)(low - 'a' + 10) : 99;
        if (d >= base) break;
        if (__builtin_mul_overflow(x, base, &x) || __builtin_add_overflow(x, d, &x)) return false;
    }
    *v = s;
    *out = x;
    return s != first;
}

// A size with suffix K, M or G; without one, `unit` bytes.
static bool value_size(const char **v, u64 unit, u64 *out)
{
    if (!value_number(v, out)) return false;
    switch (**v | 0x20) {
    case 'k': unit = KIB; break;
    case 'm': unit = MIB; break;
    case 'g': unit = GIB; break;
    default: return !__builtin_mul_overflow(*out, unit, out);
    }
    ++*v;
    return !__builtin_mul_overflow(*out, unit, out);
}

static bool value_bool(const char *v, bool *out)
{
    *out = !strcmp(v, "on") || !strcmp(v, "yes");
    return *out || !strcmp(v, "off") || !strcmp(v, "no");
}

// "com1[,115200]", "0x3f8[,9600]", "none", "auto"
static bool value_serial(const char *v, u32 *port, u32 *baud)
{
    static const u16 com[4] = {0x3f8, 0x2f8, 0x3e8, 0x2e8};
    *baud = 0;
    u64 x = 0;
    if (!strcmp(v, "none")) { *port = 0; return true; }
    if (!strcmp(v, "auto")) { *port = BOOT_SERIAL_AUTO; return true; }
    if (!strncmp(v, "com", 3) && v[3] >= '1' && v[3] <= '4') { x = com[v[3] - '1']; v += 4; }
    else if (!value_number(&v, &x) || x == 0 || x > 0xfff8) return false;
    *port = (u32)x;
    if (*v == 0) return true;
    if (*v++ != ',' || !value_number(&v, &x) || *v) return false;
    *baud = (u32)x;
    return x >= 300 && x <= 115200 && 115200 % x == 0;
}

// ---- keys ----

static bool key_timeout(struct parse *p, const char *v)
{
    u64 x;
    if (!strcmp(v, "never")) { p->c->timeout = -1; return true; }
    if (!value_number(&v, &x) || *v || x > 3600) return false;
    p->c->timeout = (int)x;
    return true;
}

static bool key_default(struct parse *p, const char *v) { return value_copy(p->c->default_name, CONFIG_NAME, v); }

static bool key_path(char *dst, const char *v)
{
    if (!value_copy(dst, CONFIG_PATH, v)) return false;
    for (char *s = dst; *s; s++)
        if (*s == '/') *s = '\\';
    return true;
}

static bool key_kernel(struct parse *p, const char *v) { p->e->kernel_line = p->line; return key_path(p->e->kernel, v); }
static bool key_initrd(struct parse *p, const char *v) { p->e->initrd_line = p->line; return key_path(p->e->initrd, v); }

static bool key_drive(struct parse *p, const char *v) { p->e->drive_line = p->line; return key_path(p->e->drive, v); }

// The number says how many cores are given to I/O; an entry has one drive, so more than one would have nothing to do.
static bool key_iothread(struct parse *p, const char *v)
{
    p->e->iothread_line = p->line;
    p->e->iothread = *v == '1';
    return (*v == '0' || *v == '1') && !v[1];
}

static bool key_num_queues(struct parse *p, const char *v)
{
    u64 x;
    if (!value_number(&v, &x) || *v || x < 1 || x > 16) return false;
    p->e->num_queues_line = p->line;
    p->e->num_queues = (u8)x;
    return true;
}

static bool key_append(struct parse *p, const char *v)
{
    if (!*v) { p->e->append[0] = 0; return true; }
    return value_copy(p->e->append, CONFIG_APPEND, v);
}

static bool key_memory(struct parse *p, const char *v)
{
    u64 x;
    if (!value_size(&v, MIB, &x) || *v || x < 16 * MIB || x % MIB) return false;
    p->e->memory = x;
    return true;
}

static bool key_smp(struct parse *p, const char *v)
{
    u64 x;
    if (!value_number(&v, &x) || *v || x < 1 || x > 64) return false;
    p->e->smp = (unsigned)x;
    return true;
}

static bool accel_option(struct config_entry *e, const char *v)
{
    u64 x;
    if (!strcmp(v, "exit=poll")) e->exit_poll = true;
    else if (!strcmp(v, "exit=interrupt")) e->exit_poll = false;
    else if (!strcmp(v, "chain=off")) e->no_chain = true;
    else if (!strcmp(v, "chain=on")) e->no_chain = false;
    else if (!strcmp(v, "thread=single")) e->thread = 1;
    else if (!strcmp(v, "thread=multi")) e->thread = 2;
    else if (!strncmp(v, "tb-size=", 8)) {
        v += 8;
        if (!value_size(&v, MIB, &x) || *v || x < CONFIG_TB_SIZE_MIN || x > 512 * MIB) return false;
        e->tb_size = x;
    } else return false;
    return true;
}

// "a,b=c,d": hands each item to fn.
static bool value_list(struct config_entry *e, const char *v, bool (*fn)(struct config_entry *e, const char *item))
{
    char word[64];
    for (;;) {
        size_t n = 0;
        while (v[n] && v[n] != ',') n++;
        if (n >= sizeof(word)) return false;
        memcpy(word, v, n);
        word[n] = 0;
        if (!fn(e, word)) return false;
        if (!v[n]) return true;
        v += n + 1;
    }
}

static bool key_accel(struct parse *p, const char *v)
{
    if (strncmp(v, "tcg", 3) || (v[3] && v[3] != ',')) return false;
    return !v[3] || value_list(p->e, v + 4, accel_option);
}

static bool icount_option(struct config_entry *e, const char *v)
{
    u64 x;
    if (!strcmp(v, "sleep=on")) e->icount_sleep_off = 0;
    else if (!strcmp(v, "sleep=off")) e->icount_sleep_off = 1;
    else if (!strncmp(v, "shift=", 6)) {
        v += 6;
        if (!value_number(&v, &x) || *v || x > 10) return false;
        e->icount = 1;
        e->icount_shift = (u8)x;
    } else return false;
    return true;
}

static bool key_icount(struct parse *p, const char *v) { return value_list(p->e, v, icount_option) && p->e->icount; }

static bool key_seed(struct parse *p, const char *v)
{
    p->e->seeded = 1;
    return value_number(&v, &p->e->seed) && !*v;
}

static bool rtc_option(struct config_entry *e, const char *v)
{
    if (!strcmp(v, "base=utc")) e->rtc_base = 1;
    else if (!strncmp(v, "base=", 5) && date_parse(v + 5, &e->rtc_sec)) e->rtc_base = 2;
    else if (!strcmp(v, "clock=host")) e->rtc_clock = 1;
    else if (!strcmp(v, "clock=vm")) e->rtc_clock = 2;
    else return false;
    return true;
}

static bool key_rtc(struct parse *p, const char *v) { return value_list(p->e, v, rtc_option); }

static bool key_serial(struct parse *p, const char *v)
{
    return p->e ? value_serial(v, &p->e->serial_port, &p->e->serial_baud) : value_serial(v, &p->c->serial_port, &p->c->serial_baud);
}

static bool key_no_reboot(struct parse *p, const char *v) { return value_bool(v, &p->e->no_reboot); }
static bool key_debugcon(struct parse *p, const char *v) { return value_bool(v, &p->e->debugcon); }
static bool key_profile(struct parse *p, const char *v) { return value_bool(v, &p->e->profile); }

// One device a line, by QEMU's name.
static bool key_device(struct parse *p, const char *v)
{
    struct config_entry *e = p->e;
    const struct { const char *name; bool *on; } devices[] = {
        {"virtio-rng-pci", &e->virtio_rng}, {"virtio-serial-pci", &e->virtio_serial}, {"virtconsole", &e->virtio_console}};
    for (unsigned i = 0; i < ARRAY_SIZE(devices); i++)
        if (!strcmp(v, devices[i].name)) return *devices[i].on = true;
    return false;
}

static bool key_debug_exit(struct parse *p, const char *v)
{
    u64 base, size = 4;
    if (!value_number(&v, &base) || base > 0xffff) return false;
    if (*v == ',') {
        v++;
        if (!value_number(&v, &size)) return false;
    }
    if (*v || size < 1 || size > 4) return false;
    p->e->debug_exit_base = (u32)base;
    p->e->debug_exit_size = (u32)size;
    return true;
}

static bool key_selftest(struct parse *p, const char *v)
{
    static const struct { const char *name; enum boot_selftest test; } tests[] = {
        {"cores", SELFTEST_CORES}, {"panic", SELFTEST_PANIC}, {"overflow", SELFTEST_OVERFLOW}, {"reset", SELFTEST_RESET},
        {"stick", SELFTEST_STICK}, {"usb", SELFTEST_USB}, {"io", SELFTEST_IO}};
    for (unsigned i = 0; i < ARRAY_SIZE(tests); i++) {
        if (strcmp(tests[i].name, v)) continue;
        p->e->selftest = tests[i].test;
        return true;
    }
    return false;
}

static bool key_assay(struct parse *p, const char *v) { return value_copy(p->e->assay, CONFIG_ASSAY, v); }

static const struct key keys[] = {
    {"timeout", true, false, key_timeout, "seconds from 0 to 3600, or `never'"},
    {"default", true, false, key_default, "the name of a section"},
    {"serial", true, true, key_serial, "com1..com4 or a port such as 0x3f8, optionally `,baud' (a divisor of 115200); or `auto' or `none'"},
    {"kernel", false, true, key_kernel, "a path on this volume, such as \\guest\\vmlinuz (under 128 characters)"},
    {"initrd", false, true, key_initrd, "a path on this volume, such as \\guest\\initrd (under 128 characters)"},
    {"drive", false, true, key_drive,
     "a raw disk image on this volume, such as \\guest\\disk.img (under 128 characters), or virtio0..virtio3 for the PC's own virtio disks"},
    {"iothread", false, true, key_iothread, "1 (a core of the PC serves the drive, without the big lock) or 0"},
    {"num-queues", false, true, key_num_queues, "a number of request queues of the drive from 1 to 16"},
    {"append", false, true, key_append, "the guest kernel's command line (under 2048 characters)"},
    {"memory", false, true, key_memory, "the guest's RAM in whole MiB, 16M or more, such as 512M or 2G"},
    {"smp", false, true, key_smp, "a number of vCPUs from 1 to 64"},
    {"accel", false, true, key_accel, "tcg, then any of ,exit=interrupt ,exit=poll ,chain=on ,chain=off ,thread=single ,thread=multi ,tb-size=64M (4M..512M)"},
    {"icount", false, true, key_icount, "shift=N (0..10: an instruction takes 2^N ns), optionally ,sleep=on or ,sleep=off"},
    {"seed", false, true, key_seed, "a number"},
    {"rtc", false, true, key_rtc, "base=utc or base=2026-01-31T12:00:00, and clock=host or clock=vm, with a comma between"},
    {"no-reboot", false, true, key_no_reboot, "on or off"},
    {"debugcon", false, true, key_debugcon, "on or off"},
    {"profile", false, true, key_profile, "on or off"},
    {"device", false, true, key_device, "virtio-rng-pci, virtio-serial-pci or its port virtconsole; one a line"},
    {"selftest", false, true, key_selftest, "cores, io, panic, overflow, reset, stick or usb: a test of this machine in place of a guest"},
    {"assay", false, true, key_assay, "on, or options such as rounds=7,linux=3,ms=10: measures what translation costs here; kernel and initrd are for its Linux part"},
    {"isa-debug-exit", false, true, key_debug_exit, "a port, optionally `,size' (1..4), such as 0xf4,4"},
};

static void config_unknown_key(struct parse *p, const char *name)
{
    char text[CONFIG_ERROR];
    const char *where = p->e ? "a section takes" : "before the first [section] there may be";
    int n = fmt_snprintf(text, sizeof(text), "unknown key `%s'; %s:", name, where);
    for (unsigned i = 0; i < ARRAY_SIZE(keys) && n < (int)sizeof(text); i++)
        if (p->e ? keys[i].entry : keys[i].global) n += fmt_snprintf(text + n, sizeof(text) - (size_t)n, " %s", keys[i].name);
    config_fail(p, text);
}

static void config_set(struct parse *p, const char *name, const char *value)
{
    char text[CONFIG_ERROR];
    for (unsigned i = 0; i < ARRAY_SIZE(keys); i++) {
        if (strcmp(keys[i].name, name) || !(p->e ? keys[i].entry : keys[i].global)) continue;
        if (keys[i].set(p, value)) return;
        fmt_snprintf(text, sizeof(text), "bad value for `%s'; give %s", name, keys[i].expect);
        config_fail(p, text);
        return;
    }
    config_unknown_key(p, name);
}

static void config_section(struct parse *p, char *name)
{
    size_t n = strlen(name);
    p->e = NULL;
    if (n < 3 || name[n - 1] != ']' || n - 2 >= CONFIG_NAME) {
        config_fail(p, "bad section header; write [name], at most 63 characters");
        return;
    }
    if (p->c->count == CONFIG_ENTRIES) {
        config_fail(p, "too many sections; at most 16 are possible");
        return;
    }
    name[n - 1] = 0;
    p->e = &p->c->entries[p->c->count++];
    *p->e = (struct config_entry){.line = p->line, .memory = 512 * MIB,
                                  .serial_port = p->c->serial_port, .serial_baud = p->c->serial_baud};
    value_copy(p->e->name, CONFIG_NAME, name + 1);
}

static char *text_trim(char *s)
{
    while (*s == ' ' || *s == '\t') s++;
    size_t n = strlen(s);
    while (n && (s[n - 1] == ' ' || s[n - 1] == '\t' || s[n - 1] == '\r')) s[--n] = 0;
    return s;
}

static void config_line(struct parse *p, char *line)
{
    char *s = text_trim(line);
    if (!*s || *s == '#' || *s == ';') return;
    if (*s == '[') {
        config_section(p, s);
        return;
    }
    char *eq = strchr(s, '=');
    if (!eq) {
        config_fail(p, "neither `key = value' nor a [section]; put # before a comment");
        return;
    }
    *eq = 0;
    config_set(p, text_trim(s), text_trim(eq + 1));
}

static void config_check_drive(struct parse *p, struct config_entry *e)
{
    unsigned line = e->iothread_line ? e->iothread_line : e->num_queues_line;
    if (!line || e->drive[0] || e->error[0]) return;
    fmt_snprintf(e->error, CONFIG_ERROR, "%s:%u: [%s] has `%s', but no drive that it could be for; add a line `drive = ...'", p->file, line,
                 e->name, e->iothread_line ? "iothread" : "num-queues");
}

// What can be checked only once everything is read.
static void config_finish(struct parse *p)
{
    p->e = NULL;
    for (unsigned i = 0; i < p->c->count; i++) {
        struct config_entry *e = &p->c->entries[i];
        if (!strcmp(e->name, p->c->default_name)) p->c->default_index = i;
        if (!e->kernel[0] && !e->selftest && !e->assay[0] && !e->error[0])
            fmt_snprintf(e->error, CONFIG_ERROR, "%s:%u: [%s] has no kernel; add a line `kernel = \\path' below it", p->file, e->line,
                         e->name);
    }
    for (unsigned i = 0; i < p->c->count; i++) {
        struct config_entry *e = &p->c->entries[i];
        if (e->virtio_serial && !e->virtio_console && !e->error[0])
            fmt_snprintf(e->error, CONFIG_ERROR, "%s:%u: [%s] has virtio-serial-pci without a port; add a line `device = virtconsole'", p->file,
                         e->line, e->name);
    }
    for (unsigned i = 0; i < p->c->count; i++) config_check_drive(p, &p->c->entries[i]);
    bool found = p->c->count && !strcmp(p->c->entries[p->c->default_index].name, p->c->default_name);
    if (p->c->default_name[0] && !found && !p->c->error[0])
        fmt_snprintf(p->c->error, CONFIG_ERROR, "%s: `default' names [%s], which is not there; name one of the sections", p->file,
                     p->c->default_name);
    if (!p->c->count && !p->c->error[0])
        fmt_snprintf(p->c->error, CONFIG_ERROR, "%s: no boot entry; add a [section] with `kernel = \\path'", p->file);
}

int config_drive_host(const struct config_entry *e)
{
    const char *v = e->drive;
    return !strncmp(v, "virtio", 6) && v[6] >= '0' && v[6] <= '3' && !v[7] ? v[6] - '0' : -1;
}

void config_apply(const struct config_entry *e, struct boot_info *info)
{
    info->guest_ram = e->memory;
    info->smp = e->smp || e->assay[0] ? e->smp : 1;
    info->exit_poll = e->exit_poll;
    info->no_chain = e->no_chain;
    info->no_reboot = e->no_reboot;
    info->debugcon = e->debugcon;
    info->profile = e->profile;
    info->virtio_rng = e->virtio_rng;
    info->virtio_console = e->virtio_console;
    info->tb_size = e->tb_size;
    info->selftest = (u8)e->selftest;
    info->thread = e->thread;
    info->icount = e->icount;
    info->icount_shift = e->icount_shift;
    info->icount_sleep_off = e->icount_sleep_off;
    info->seeded = e->seeded;
    info->seed = e->seed;
    info->rtc_base = e->rtc_base;
    info->rtc_clock = e->rtc_clock;
    info->rtc_sec = e->rtc_sec;
    info->debug_exit_base = e->debug_exit_base;
    info->debug_exit_size = e->debug_exit_size;
    info->drive_host = (u8)(config_drive_host(e) + 1);
    info->iothread = e->iothread;
    info->num_queues = e->num_queues;
    info->serial_port = e->serial_port;
    info->serial_baud = e->serial_baud;
    memcpy(info->assay, e->assay, sizeof(info->assay));
    memcpy(info->title, e->name, sizeof(info->title));
    memcpy(info->append, e->append, sizeof(info->append));
}

void config_parse(struct config *c, const char *file, const char *text, size_t len)
{
    static char line[CONFIG_APPEND + 256];
    memset(c, 0, sizeof(*c));
    c->timeout = 5;
    c->serial_port = BOOT_SERIAL_AUTO;
    struct parse p = {.c = c, .file = file};
    if (len >= 3 && !memcmp(text, "\xef\xbb\xbf", 3)) { text += 3; len -= 3; }   // editors on Windows add a byte-order mark
    while (len) {
        const char *nl = memchr(text, '\n', len);
        size_t n = nl ? (size_t)(nl - text) : len, used = nl ? n + 1 : n;
        p.line++;
        if (n < sizeof(line)) {
            memcpy(line, text, n);
            line[n] = 0;
            config_line(&p, line);
        } else {
            config_fail(&p, "line too long; at most 2300 characters are possible");
        }
        text += used;
        len -= used;
    }
    config_finish(&p);
}
