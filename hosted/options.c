// The command line of `cupel`. One table: name, argument, help text, function; -help is printed from it.
#include "hosted/options.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "hosted/hosted.h"
#include "kernel/base/date.h"
#include "kernel/base/log.h"

#ifndef CUPEL_VERSION
#define CUPEL_VERSION "0.1"   // the build says better
#endif

struct option {
    const char *name, *arg, *help;   // arg NULL: takes none
    void (*fn)(struct options *o, const char *arg);
};

void options_fail(const char *fmt, ...)
{
    va_list ap;
    fputs("cupel: ", stderr);
    va_start(ap, fmt);
    vfprintf(stderr, fmt, ap);
    va_end(ap);
    fputc('\n', stderr);
    fflush(stdout);
    plat_exit(1);
}

// ---- values -------------------------------------------------------------------------------------------------

// A number with an optional suffix K, M, G, T; without one it counts `unit`s. False: not a number, or too large.
static bool parse_size(const char *s, u64 unit, u64 *out)
{
    char *end;
    errno = 0;
    u64 v = strtoull(s, &end, 0);
    if (end == s || errno || s[0] == '-') return false;
    static const char suffixes[] = "BKMGT";
    const char *at = *end ? strchr(suffixes, *end >= 'a' ? *end - 32 : *end) : NULL;
    if (*end) {
        if (!at || end[1]) return false;
        unit = 1ull << 10 * (at - suffixes);
    }
    return !__builtin_mul_overflow(v, unit, out);
}

static u64 size_or_fail(const char *opt, const char *s, u64 unit, u64 lo, u64 hi, const char *mend)
{
    u64 v;
    if (!parse_size(s, unit, &v) || v < lo || v > hi) options_fail("%s: '%s' is not possible here; %s", opt, s, mend);
    return v;
}

bool item_next(const char **s, struct item *it)
{
    if (!*s || !**s) return false;
    const char *comma = strchr(*s, ',');
    size_t n = comma ? (size_t)(comma - *s) : strlen(*s);
    if (n >= sizeof it->buf) options_fail("'%s' is too long", *s);
    memcpy(it->buf, *s, n);
    it->buf[n] = 0;
    it->key = it->buf;
    it->val = strchr(it->buf, '=');
    if (it->val) *it->val++ = 0;
    *s = comma ? comma + 1 : NULL;
    return true;
}

static bool is(const struct item *it, const char *key) { return !strcmp(it->key, key); }

static const char *file_path(const char *opt, const char *arg)
{
    if (strncmp(arg, "file:", 5) || !arg[5]) return NULL;
    return arg + 5;
}

// ---- the options --------------------------------------------------------------------------------------------

static void opt_kernel(struct options *o, const char *a) { o->kernel = a; }
static void opt_initrd(struct options *o, const char *a) { o->initrd = a; }
static void opt_append(struct options *o, const char *a) { o->machine.append = a; }
static void opt_no_reboot(struct options *o, const char *a) { o->machine.no_reboot = true; }
static void opt_drive(struct options *o, const char *a) { drive_option(a); }
static void opt_object(struct options *o, const char *a) { object_option(a); }
static void opt_nographic(struct options *o, const char *a) {}   // there is no other way yet
static void opt_trace_file(struct options *o, const char *a) { o->trace_file = a; }

static void opt_m(struct options *o, const char *a)
{
    static const char mend[] = "give the guest 16M to 1T of memory, as -m 512 (MiB), -m 1G";
    const char *v = strncmp(a, "size=", 5) ? a : a + 5;
    o->machine.ram_size = size_or_fail("-m", v, MIB, 16 * MIB, 1024 * GIB, mend);
    if (o->machine.ram_size % MIB) options_fail("-m: '%s' is not a whole number of MiB", a);
}

static void opt_smp(struct options *o, const char *a)
{
    const char *v = strncmp(a, "cpus=", 5) ? a : a + 5;
    u64 n = size_or_fail("-smp", v, 1, 1, 64, "1 to 64");
    o->machine.smp = (unsigned)n;
}

static void opt_serial(struct options *o, const char *a)
{
    o->serial_file = file_path("-serial", a);
    if (o->serial_file) o->serial = SERIAL_FILE;
    else if (!strcmp(a, "stdio") || !strcmp(a, "mon:stdio")) o->serial = SERIAL_STDIO;
    else if (!strcmp(a, "null") || !strcmp(a, "none")) o->serial = SERIAL_NULL;
    else if (!strcmp(a, "pty")) o->serial = SERIAL_PTY;
    else options_fail("-serial: '%s' is unknown; use stdio, file:PATH, null or pty", a);
}

static void accel_item(struct options *o, const struct item *it)
{
    const char *v = it->val ? it->val : "";
    if (is(it, "tcg") && !it->val) return;
    if (is(it, "mmu")) {
        if (!strcmp(v, "hard")) options_fail("-accel mmu=hard: a Linux process cannot own the page tables; use mmu=soft");
        if (!strcmp(v, "soft")) return;
        options_fail("-accel mmu='%s': use soft", v);
    } else if (is(it, "exit")) {
        if (strcmp(v, "poll") && strcmp(v, "interrupt")) options_fail("-accel exit='%s': use poll or interrupt", v);
        o->machine.exit_poll = !strcmp(v, "poll");
    } else if (is(it, "chain")) {
        if (strcmp(v, "on") && strcmp(v, "off")) options_fail("-accel chain='%s': use on or off", v);
        o->machine.no_chain = !strcmp(v, "off");
    } else if (is(it, "thread")) {
        if (strcmp(v, "single") && strcmp(v, "multi")) options_fail("-accel thread='%s': use single or multi", v);
        o->machine.threads = strcmp(v, "single") ? THREADS_MULTI : THREADS_SINGLE;
    } else if (is(it, "tb-size")) {
        o->machine.tb_size = size_or_fail("-accel tb-size", v, MIB, MACHINE_TB_SIZE_MIN, GIB, "use 4 to 1024 (MiB)");
    } else if (is(it, "kvm") || is(it, "hvf") || is(it, "xen")) {
        options_fail("-accel %s: Cupel translates, it uses no hypervisor; use -accel tcg", it->key);
    } else {
        options_fail("-accel: '%s' is unknown; use tcg[,mmu=soft][,exit=poll|interrupt][,chain=on|off][,thread=single|multi][,tb-size=MiB]", it->key);
    }
}

static void opt_accel(struct options *o, const char *a)
{
    struct item it;
    while (item_next(&a, &it)) accel_item(o, &it);
}

// QEMU's -icount. What would tie virtual time to real time, or record what came from outside, is not there.
static void icount_item(struct machine_icount *ic, const struct item *it)
{
    const char *v = it->val ? it->val : "";
    if (is(it, "shift") || !it->val) {
        const char *n = it->val ? v : it->key;       // QEMU takes a bare number too
        if (!strcmp(n, "auto")) options_fail("-icount shift=auto: it follows the host's speed, so no two runs are alike; use a number, 0 to 10");
        ic->shift = (u8)size_or_fail("-icount shift", n, 1, 0, 10, "use 0 to 10: an instruction takes 2^N ns");
        ic->on = true;
    } else if (is(it, "sleep")) {
        if (strcmp(v, "on") && strcmp(v, "off")) options_fail("-icount sleep='%s': use on or off", v);
        ic->sleep_off = !strcmp(v, "off");
    } else if (is(it, "align")) {
        if (strcmp(v, "off")) options_fail("-icount align='%s': virtual time is not held to real time; use align=off", v);
    } else if (is(it, "rr") || is(it, "rrfile") || is(it, "rrsnapshot")) {
        options_fail("-icount %s: recording and replaying are not there; use shift=N[,sleep=on|off]", it->key);
    } else {
        options_fail("-icount: '%s' is unknown; use shift=N[,sleep=on|off]", it->key);
    }
}

static void opt_icount(struct options *o, const char *a)
{
    struct item it;
    while (item_next(&a, &it)) icount_item(&o->machine.icount, &it);
    if (!o->machine.icount.on) options_fail("-icount: no shift; use shift=N[,sleep=on|off], N from 0 to 10");
}

static void opt_seed(struct options *o, const char *a)
{
    o->machine.seed = size_or_fail("-seed", a, 1, 0, UINT64_MAX, "use a number");
    o->machine.seeded = true;
}

static s64 east_of_utc(void)
{
    time_t now = time(NULL);
    struct tm tm = {0};
    localtime_r(&now, &tm);
    return tm.tm_gmtoff;
}

static void rtc_base(struct options *o, const char *v)
{
    s64 sec = 0;
    if (!strcmp(v, "utc")) {
        o->machine.rtc.base = RTC_BASE_UTC;
    } else if (!strcmp(v, "localtime")) {
        o->machine.rtc.base = RTC_BASE_LOCAL;
        sec = east_of_utc();
    } else {
        if (!date_parse(v, &sec)) options_fail("-rtc base='%s': use utc, localtime or a date from 1970 on, as 2026-01-31T12:00:00", v);
        o->machine.rtc.base = RTC_BASE_DATE;
    }
    o->machine.rtc.sec = sec;
}

static void opt_rtc(struct options *o, const char *a)
{
    struct item it;
    while (item_next(&a, &it)) {
        const char *v = it.val ? it.val : "";
        if (is(&it, "base")) rtc_base(o, v);
        else if (is(&it, "clock") && !strcmp(v, "host")) o->machine.rtc.clock = RTC_CLOCK_HOST;
        else if (is(&it, "clock") && !strcmp(v, "vm")) o->machine.rtc.clock = RTC_CLOCK_VM;
        else if (is(&it, "clock")) options_fail("-rtc clock='%s': use host or vm", v);
        else options_fail("-rtc: '%s' is unknown; use base=utc|localtime|DATE, clock=host|vm", it.key);
    }
}

static void opt_d(struct options *o, const char *a)
{
    static const struct { const char *name; unsigned bit; } names[] = {
        {"in_asm", TRACE_IN_ASM}, {"op", TRACE_OP}, {"out_asm", TRACE_OUT_ASM}, {"int", TRACE_INT}, {"exec", TRACE_EXEC},
        {"cpu", TRACE_CPU}, {"guest_errors", TRACE_GUEST_ERRORS}, {"unimp", TRACE_UNIMP},
        {"icount", TRACE_ICOUNT}, {"profile", TRACE_PROFILE},
    };
    struct item it;
    while (item_next(&a, &it)) {
        unsigned i = 0;
        while (i < ARRAY_SIZE(names) && !is(&it, names[i].name)) i++;
        if (i == ARRAY_SIZE(names))
            options_fail("-d: '%s' is unknown; use a list of in_asm, op, out_asm, int, exec, cpu, guest_errors, unimp, icount, profile", it.key);
        o->trace |= names[i].bit;
    }
}

static void device_debug_exit(struct options *o, const char *a)
{
    struct item it;
    unsigned base = 0x501, size = 2;   // QEMU's defaults
    while (item_next(&a, &it)) {
        const char *v = it.val ? it.val : "";
        if (is(&it, "iobase")) base = (unsigned)size_or_fail("-device isa-debug-exit,iobase", v, 1, 0, 0xfffc, "use a port, 0 to 0xfffc");
        else if (is(&it, "iosize")) size = (unsigned)size_or_fail("-device isa-debug-exit,iosize", v, 1, 1, 4, "use 1 to 4");
        else options_fail("-device isa-debug-exit: '%s' is unknown; it has iobase and iosize", it.key);
    }
    o->machine.debug_exit_base = base;
    o->machine.debug_exit_size = size;
}

static void opt_device(struct options *o, const char *a)
{
    struct item it;
    const char *whole = a;
    bool any = item_next(&a, &it) && !it.val;
    if (any && is(&it, "isa-debug-exit")) device_debug_exit(o, a);
    else if (any && is(&it, "virtio-blk-pci")) drive_device_option(a);
    else if (any && is(&it, "virtio-rng-pci") && !a) o->machine.virtio_rng = true;
    else if (any && is(&it, "virtio-serial-pci") && !a) o->virtio_serial = true;
    else if (any && is(&it, "virtconsole") && !a) o->machine.virtio_console = true;
    else options_fail("-device: '%s' is unknown; there are isa-debug-exit[,iobase=PORT][,iosize=BYTES], virtio-blk-pci,drive=ID, virtio-rng-pci, virtio-serial-pci, virtconsole", whole);
}

static void opt_debugcon(struct options *o, const char *a)
{
    if (strcmp(a, "stdio")) options_fail("-debugcon: '%s' is not there yet; use stdio", a);
    o->machine.debugcon = true;
}

// "-assay" alone, or with a list; out=PATH is this platform's own item.
static void opt_assay(struct options *o, const char *a)
{
    struct item it;
    char err[256];
    o->want_assay = true;
    while (item_next(&a, &it)) {
        if (is(&it, "out") && it.val && it.val[0]) {
            o->assay_out = strdup(it.val);
            continue;
        }
        if (it.val) it.val[-1] = '=';
        if (!assay_options_parse(&o->assay, it.buf, err, sizeof err)) options_fail("-%s; out=FILE is where the results go", err);
    }
}

static void opt_version(struct options *o, const char *a)
{
    puts("cupel " CUPEL_VERSION);
    fflush(stdout);
    plat_exit(0);
}

static void opt_help(struct options *o, const char *a);

static const struct option options[] = {
    {"kernel", "FILE", "bzImage or multiboot ELF to boot", opt_kernel},
    {"initrd", "FILE", "its initial RAM disk", opt_initrd},
    {"append", "TEXT", "its command line", opt_append},
    {"m", "SIZE", "guest memory, in MiB or with a suffix (K M G T); default 512", opt_m},
    {"smp", "N", "virtual CPUs, 1 to 64", opt_smp},
    {"nographic", NULL, "guest console on this terminal (always so)", opt_nographic},
    {"serial", "DEV", "first serial port: stdio, file:PATH, null, pty", opt_serial},
    {"no-reboot", NULL, "end instead of resetting", opt_no_reboot},
    {"accel", "LIST", "tcg[,mmu=soft][,exit=poll|interrupt][,chain=on|off][,thread=single|multi][,tb-size=MiB]", opt_accel},
    {"icount", "LIST", "shift=N[,sleep=on|off]: deterministic, every instruction takes 2^N ns of virtual time", opt_icount},
    {"seed", "N", "RDRAND, RDSEED and virtio-rng give what follows from N", opt_seed},
    {"rtc", "LIST", "base=utc|localtime|DATE (2026-01-31T12:00:00), clock=host|vm: what the real-time clock shows and goes by", opt_rtc},
    {"d", "LIST", "trace: in_asm,op,out_asm,int,exec,cpu,guest_errors,unimp; icount, profile: said at the end", opt_d},
    {"D", "FILE", "write the trace there (default: standard error)", opt_trace_file},
    {"drive", "LIST", "file=PATH,if=virtio[,format=raw][,readonly=on][,cache=writeback|none|writethrough|directsync|unsafe]; or if=none,id=ID\n"
     "                     for -device virtio-blk-pci,drive=ID[,num-queues=N][,serial=TEXT][,iothread=ID]", opt_drive},
    {"object", "OBJ", "iothread,id=ID: a thread that serves disks without the big lock", opt_object},
    {"device", "DEV", "isa-debug-exit[,iobase=PORT][,iosize=BYTES], virtio-blk-pci, virtio-rng-pci, virtio-serial-pci and its port virtconsole (hvc0; takes the\n"
     "                     keyboard)", opt_device},
    {"debugcon", "DEV", "port 0xe9: stdio", opt_debugcon},
    {"assay", "[LIST]", "what translation costs here: rounds=N,linux=N,ms=N,only=NAME+NAME,out=FILE (default assay.json); Linux's part with\n"
     "                     -kernel and -initrd", opt_assay},
    {"version", NULL, "print the version and end", opt_version},
    {"help", NULL, "print this and end", opt_help},
    {"h", NULL, NULL, opt_help},
};

static void opt_help(struct options *o, const char *a)
{
    puts("cupel: an x86-64 PC, translated. Usage: cupel -kernel FILE [options]\n");
    for (unsigned i = 0; i < ARRAY_SIZE(options); i++)
        if (options[i].help) printf("  -%-10s %-6s %s\n", options[i].name, options[i].arg ? options[i].arg : "", options[i].help);
    puts("\nKeys: Ctrl-A x leaves, Ctrl-A c switches to the monitor, Ctrl-A h helps, Ctrl-A Ctrl-A sends Ctrl-A.");
    fflush(stdout);
    plat_exit(0);
}

static const struct option *option_find(const char *arg)
{
    if (arg[0] != '-') options_fail("'%s' is not an option; see cupel -help", arg);
    const char *name = arg + (arg[1] == '-' ? 2 : 1);
    for (unsigned i = 0; i < ARRAY_SIZE(options); i++)
        if (!strcmp(name, options[i].name)) return &options[i];
    options_fail("option '%s' is unknown; see cupel -help", arg);
}

void options_parse(struct options *o, int argc, char **argv)
{
    *o = (struct options){.machine = {.ram_size = 512 * MIB, .smp = 1}, .assay = ASSAY_OPTIONS_DEFAULT, .assay_out = "assay.json"};
    for (int i = 1; i < argc; i++) {
        const struct option *opt = option_find(argv[i]);
        bool optional = opt->arg && opt->arg[0] == '[';
        if (optional && (i + 1 >= argc || argv[i + 1][0] == '-')) {
            opt->fn(o, NULL);
            continue;
        }
        if (opt->arg && i + 1 >= argc) options_fail("option '%s' needs a value: %s", argv[i], opt->help);
        opt->fn(o, opt->arg ? argv[++i] : NULL);
    }
    if (o->initrd && !o->kernel) options_fail("-initrd without -kernel: add -kernel FILE");
    if (o->machine.append && !o->kernel) options_fail("-append without -kernel: add -kernel FILE");
    if (o->virtio_serial && !o->machine.virtio_console) options_fail("-device virtio-serial-pci has no port: add -device virtconsole");
    if ((o->trace & TRACE_ICOUNT) && !o->machine.icount.on) options_fail("-d icount without -icount: add -icount shift=N");
    if (!o->kernel && !o->want_assay) options_fail("nothing to boot: give -kernel FILE (see cupel -help)");
}
