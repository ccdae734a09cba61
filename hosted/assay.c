// The assay hosted: `cupel -assay`. The payload's user tests run natively in this process, in a window mapped where the payload was
// linked to; its kernel tests have no native side here. Signals are blocked meanwhile. Counters are perf's, where the system gives them.
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/perf_event.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include "assay/assay.h"
#include "assay/console.h"
#include "hosted/hosted.h"
#include "hosted/options.h"
#include "kernel/base/fmt.h"

extern const u8 assay_payload[], assay_payload_end[];

// ---- facts -------------------------------------------------------------------------------------------------------------------------

// What stands behind `key` and white space and a colon in a small file, or its first line if key is NULL.
static void file_value(const char *path, const char *key, char *out, size_t len)
{
    char line[512];
    FILE *f = fopen(path, "re");
    while (f && fgets(line, sizeof line, f)) {
        if (key && strncmp(line, key, strlen(key))) continue;
        const char *at = key ? strchr(line, ':') : line;
        if (!at) break;
        at += key ? 1 : 0;
        at += strspn(at, " \t");
        fmt_snprintf(out, len, "%.*s", (int)strcspn(at, "\n"), at);
        break;
    }
    if (f) fclose(f);
}

static void facts_fill(struct assay_facts *f)
{
    char vendor[48] = "", version[48] = "";
    file_value("/proc/cpuinfo", "microcode", f->microcode, sizeof f->microcode);
    file_value("/sys/class/dmi/id/bios_vendor", NULL, vendor, sizeof vendor);
    file_value("/sys/class/dmi/id/bios_version", NULL, version, sizeof version);
    if (vendor[0] || version[0]) fmt_snprintf(f->firmware, sizeof f->firmware, "%s%s%s", vendor, version[0] ? " " : "", version);
    f->memory = (u64)sysconf(_SC_PHYS_PAGES) * (u64)sysconf(_SC_PAGESIZE);
    f->seconds_1970 = (u64)time(NULL);
    f->version = CUPEL_VERSION;
    f->build = CUPEL_BUILD;
    f->platform = "hosted";
}

// ---- natively ------------------------------------------------------------------------------------------------------------------------

static void user_run(u64 (*fn)(u64 job, u64 cpu), u32 job, u32 cpu)
{
    sigset_t all, old;
    sigfillset(&all);
    pthread_sigmask(SIG_BLOCK, &all, &old);
    (void)fn(job, cpu);
    pthread_sigmask(SIG_SETMASK, &old, NULL);
}

static const char *window_map(struct assay_native *n)
{
    void *p = mmap((void *)ASSAY_VIRT, ASSAY_WINDOW, PROT_READ | PROT_WRITE | PROT_EXEC,
                   MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED_NOREPLACE, -1, 0);
    if (p != (void *)ASSAY_VIRT) return "this process cannot have the payload's addresses";
    madvise(p, ASSAY_WINDOW, MADV_HUGEPAGE);      // as the payload's own page tables
    n->window = p;
    n->user = user_run;
    return NULL;
}

// ---- counters --------------------------------------------------------------------------------------------------------------------------

static const struct { const char *name; u32 type; u64 config; } counter_kinds[] = {
    {"instructions", PERF_TYPE_HARDWARE, PERF_COUNT_HW_INSTRUCTIONS},
    {"cycles", PERF_TYPE_HARDWARE, PERF_COUNT_HW_CPU_CYCLES},
    {"branch-misses", PERF_TYPE_HARDWARE, PERF_COUNT_HW_BRANCH_MISSES},
    {"cache-misses", PERF_TYPE_HARDWARE, PERF_COUNT_HW_CACHE_MISSES},
    {"dtlb-misses", PERF_TYPE_HW_CACHE, PERF_COUNT_HW_CACHE_DTLB | PERF_COUNT_HW_CACHE_OP_READ << 8 | PERF_COUNT_HW_CACHE_RESULT_MISS << 16},
};

// The leader's descriptor reads them all. One per process: assay_platform.counters.read takes no argument.
static int counters_fd = -1;

static void counters_read(u64 *values)
{
    u64 v[1 + ARRAY_SIZE(counter_kinds)] = {0};
    if (read(counters_fd, v, sizeof v) < 0) v[0] = 0;
    for (unsigned i = 0; i < v[0]; i++) values[i] = v[1 + i];
}

// Of this thread, which is core 0's. A counter that there is not is left out; without the first there are none.
static void counters_open(struct assay_platform *p)
{
    for (unsigned i = 0; i < ARRAY_SIZE(counter_kinds); i++) {
        struct perf_event_attr attr = {.type = counter_kinds[i].type, .size = sizeof attr, .config = counter_kinds[i].config,
                                       .read_format = PERF_FORMAT_GROUP, .exclude_kernel = 1, .exclude_hv = 1};
        int fd = (int)syscall(SYS_perf_event_open, &attr, 0, -1, counters_fd, PERF_FLAG_FD_CLOEXEC);
        if (fd < 0 && counters_fd < 0) return;
        if (fd < 0) continue;
        if (counters_fd < 0) counters_fd = fd;
        p->counters.name[p->counters.n++] = counter_kinds[i].name;
    }
    p->counters.read = counters_read;
}

// ---- results ----------------------------------------------------------------------------------------------------------------------

static const char *save_path;

static void print(const char *text)
{
    output_term(text, strlen(text));
    output_term("\n", 1);
}

static bool write_whole(int fd, const char *p, u64 n)
{
    while (n) {
        ssize_t k = write(fd, p, n);
        if (k < 0 && errno != EINTR) return false;
        if (k > 0) {
            p += k;
            n -= (u64)k;
        }
    }
    return fsync(fd) == 0;
}

// Beside it first, so that an older file stays whole until this one is.
static bool save(const char *json, u64 len, char *err, size_t errlen)
{
    char beside[4096];
    fmt_snprintf(beside, sizeof beside, "%s.part", save_path);
    int fd = open(beside, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0666);
    bool ok = fd >= 0 && write_whole(fd, json, len);
    if (fd >= 0) ok &= close(fd) == 0;
    ok = ok && rename(beside, save_path) == 0;
    if (!ok) fmt_snprintf(err, errlen, "cannot write %s: %s", save_path, strerror(errno));
    return ok;
}

void hosted_assay_config(struct machine_config *m)
{
    m->serial_out = assay_serial_out;
    m->debugcon = true;
    m->debugcon_out = assay_mark_out;
    m->debug_exit_base = ASSAY_EXIT_PORT;
    m->debug_exit_size = 2;
    m->kernel = (struct blob){assay_payload, (u64)(assay_payload_end - assay_payload), "payload.elf"};
}

int hosted_assay(const struct options *o)
{
    static struct assay_platform p;
    facts_fill(&p.facts);
    p.native_why = window_map(&p.native);
    counters_open(&p);
    p.print = print;
    p.save = save;
    save_path = o->assay_out;
    struct assay_guests g = {.payload = {assay_payload, (u64)(assay_payload_end - assay_payload), "payload.elf"},
                             .kernel = o->machine.kernel, .initrd = o->machine.initrd};
    int code = assay_run(&o->assay, &p, &g);
    if (!code) {
        char text[4200];
        fmt_snprintf(text, sizeof text, "assay: the results are in %s", save_path);
        print(text);
    }
    return code;
}
