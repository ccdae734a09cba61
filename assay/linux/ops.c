// The program of the assay's stock Linux guest: kernel operations, timed from a process.
//
// It is /init of the guest's RAM disk, all by itself, and the same file run as `linux-ops --here` gives the host's own kernel's figures in
// the same lines (assay/linux_phases.h). Without a C library: it is small, starts in one page fault or two, and fork and exec are those of
// a small process everywhere.
//
// Each operation is done in five slices and the median slice is reported: the first pays for what is cold (in an emulator: translation),
// and whoever disturbs one does not disturb three. Lines are kept and printed at the end, so that no console interrupt falls into a slice;
// the kernel's own messages are switched off before that, since one of them in the midst of a line would spoil it. What hangs is ended by
// an alarm, and every error ends the run at once with a line that says where: a controller waits for nobody.
#include <asm/ioctls.h>
#include <asm/signal.h>
#include <linux/auxvec.h>
#include <linux/magic.h>
#include <linux/mount.h>
#include <linux/prctl.h>
#include <linux/reboot.h>
#include <linux/time.h>

#include "assay/linux/work.h"
#include "assay/linux_phases.h"
#include "kernel/base/bits.h"
#include "kernel/base/fmt.h"

#define USAGE "usage: linux-ops --here [--scale=PERCENT] [--only=OPERATION]"
enum { SLICES = 5, TOO_LONG_S = 120, SCALE_MAX = 10000 };

static struct work_env env;
struct work_env *const work_env = &env;
static struct {
    bool init;                          // process 1 of a guest: power-off is the end
    const char *op;                     // the operation that runs
    u64 scale;                          // percent
    char only[24];                      // the one operation to do; empty: all
    u32 length;                         // of the text in `lines`
} run = {.op = "start", .scale = 100};

static char lines[8192];

static void say(const char *text, u64 n)
{
    while (n) {
        long r = SYS(write, 1, text, n);
        if (r <= 0) break;
        text += r;
        n -= (u64)r;
    }
}

static NORETURN void end(int code)
{
    if (run.init) {
        SYS(ioctl, 1, TCSBRK, 1);       // the console's driver has sent everything
        SYS(reboot, LINUX_REBOOT_MAGIC1, LINUX_REBOOT_MAGIC2, LINUX_REBOOT_CMD_POWER_OFF, 0);
    }
    // After an error the operation's file may be there still.
    static const char *const files[] = {"mapped", "small", "new", "large"};
    for (unsigned i = 0; env.dir[0] && i < ARRAY_SIZE(files); i++) SYS(unlink, files[i]);
    if (env.dir[0]) SYS(rmdir, env.dir);
    process_exit(code);
}

void die(const char *what, long error)
{
    char line[160];
    int n = error ? fmt_snprintf(line, sizeof line, "ASSAY error %s: %s: error %ld\n", run.op, what, error)
                  : fmt_snprintf(line, sizeof line, "ASSAY error %s: %s\n", run.op, what);
    say(line, min_u64((u64)n, sizeof line - 1));
    end(1);
}

static void too_long(int sig) { die("does not end", 0); }

// Seconds from now after which an operation counts as hung; 0: none.
static void alarm(u64 seconds)
{
    struct { u64 interval[2], value[2]; } t = {{0, 0}, {seconds, 0}};
    must(SYS(setitimer, ITIMER_REAL, &t, 0), "setitimer");
}

static const struct { const char *id, *unit; u64 n, grain; u32 cpus; u64 (*fn)(u64 n); } table[] = {
#define OP(id, unit, n, grain, cpus, title) {#id, unit, n, grain, cpus, work_##id},
#include "assay/linux_ops.def"
#undef OP
};

static bool named(unsigned i)
{
    const char *a = table[i].id, *b = run.only;
    while (*a && *a == *b) a++, b++;
    return *a == *b;
}

static u64 median(u64 *v, unsigned n)
{
    for (unsigned i = 1; i < n; i++)
        for (unsigned k = i; k && v[k] < v[k - 1]; k--) {
            u64 t = v[k];
            v[k] = v[k - 1];
            v[k - 1] = t;
        }
    return v[n / 2];
}

static void measure(unsigned i)
{
    u64 n = table[i].n * run.scale / 100, grain = table[i].grain, ticks[SLICES];
    n = n < grain ? grain : n - n % grain;
    run.op = table[i].id;
    alarm(TOO_LONG_S);
    for (unsigned k = 0; k < SLICES; k++) ticks[k] = table[i].fn(n);
    alarm(0);
    char unit[24];
    unsigned len = 0;
    for (; table[i].unit[len]; len++) unit[len] = table[i].unit[len] == ' ' ? '-' : table[i].unit[len];
    unit[len] = 0;
    run.length += (u32)fmt_snprintf(lines + run.length, sizeof lines - run.length, "ASSAY op %s %s %lu %lu\n", run.op, unit, n, median(ticks, SLICES));
    if (run.length >= sizeof lines) die("too many lines", 0);
}

// The number of assay.scale= or --scale=; anything else than 1 to SCALE_MAX is an error.
static void take_scale(const char *s)
{
    u64 v = 0;
    unsigned digits = 0;
    for (; *s >= '0' && *s <= '9' && digits < 6; s++, digits++) v = v * 10 + (u64)(*s - '0');
    if (!digits || (*s && *s != ' ' && *s != '\n') || !v || v > SCALE_MAX) die("bad scale; give percent, 1 to 10000", 0);
    run.scale = v;
}

static const char *behind(const char *s, const char *prefix)
{
    for (; *prefix; prefix++, s++)
        if (*s != *prefix) return NULL;
    return s;
}

static void take_only(const char *s)
{
    unsigned n = 0;
    for (; *s && *s != ' ' && *s != '\n' && n < sizeof run.only - 1; s++) run.only[n++] = *s;
    for (unsigned i = 0; i < ARRAY_SIZE(table); i++)
        if (named(i)) return;
    die("no such operation: see assay/linux_ops.def", 0);
}

// Options on the kernel's command line. The kernel keeps to itself what has a dot in it.
static void read_cmdline(void)
{
    static char text[4096];
    long fd = must(SYS(open, "/proc/cmdline", O_RDONLY, 0), "open of /proc/cmdline");
    must(SYS(read, fd, text, sizeof text - 1), "read of /proc/cmdline");
    SYS(close, fd);
    for (const char *s = text, *v; *s; s++)
        if ((s == text || s[-1] == ' ') && (v = behind(s, "assay.scale="))) take_scale(v);
        else if ((s == text || s[-1] == ' ') && (v = behind(s, "assay.only="))) take_only(v);
}

static void say_phase(const char *name)
{
    char line[64];
    say(line, (u64)fmt_snprintf(line, sizeof line, "ASSAY phase %s %lu\n", name, ticks_now()));
}

static void start_as_init(void)
{
    run.init = true;
    SYS(mkdir, "/dev", 0755);
    SYS(mkdir, "/proc", 0755);
    SYS(mkdir, "/tmp", 0755);
    if (SYS(fcntl, 1, F_GETFD) < 0) {               // the kernel found no console to give to process 1
        must(SYS(mount, "dev", "/dev", "devtmpfs", 0, 0), "mount of /dev");
        for (int fd = 0; fd < 3; fd++) must(SYS(open, "/dev/console", O_RDWR, 0), "open of /dev/console");
    }
    SYS(syslog, 8, 0, 1);                           // SYSLOG_ACTION_CONSOLE_LEVEL: only emergencies from here on
    say_phase("init");
    must(SYS(mount, "proc", "/proc", "proc", 0, 0), "mount of /proc");
    must(SYS(mount, "tmp", "/tmp", "tmpfs", 0, 0), "mount of /tmp");
    must(SYS(chdir, "/tmp"), "chdir");
    read_cmdline();
}

// As an ordinary process: in a directory of its own in the first tmpfs that there is.
static void start_here(char **argv)
{
    static const char *const places[] = {"/dev/shm", "/run", "/tmp"};
    for (const char *v; *argv; argv++) {
        if ((v = behind(*argv, "--scale="))) take_scale(v);
        else if ((v = behind(*argv, "--only="))) take_only(v);
        else die(USAGE, 0);
    }
    for (unsigned i = 0; i < ARRAY_SIZE(places); i++) {
        u64 fs[15] = {0};                           // struct statfs; f_type is first
        if (SYS(statfs, places[i], fs) < 0 || fs[0] != TMPFS_MAGIC) continue;
        fmt_snprintf(env.dir, sizeof env.dir, "%s/linux-ops.%ld", places[i], SYS(getpid));
        if (SYS(mkdir, env.dir, 0700) < 0) {
            env.dir[0] = 0;
            continue;
        }
        must(SYS(chdir, env.dir), "chdir");
        say_phase("init");
        return;
    }
    die("no tmpfs to work in: /dev/shm, /run and /tmp are none, or not writable", 0);
}

static void find_cpus(void)
{
    u64 mask[128] = {0};
    must(SYS(sched_getaffinity, 0, sizeof mask, mask), "sched_getaffinity");
    for (unsigned i = 0; i < sizeof mask * 8; i++) {
        if (!(mask[i / 64] >> i % 64 & 1)) continue;
        if (env.cpus < ARRAY_SIZE(env.cpu)) env.cpu[env.cpus] = i;
        env.cpus++;
    }
}

static void prepare(void)
{
    struct sigaction a = {.sa_handler = too_long, .sa_flags = SA_RESTORER, .sa_restorer = signal_restorer};
    must(SYS(rt_sigaction, SIGALRM, &a, 0, sizeof a.sa_mask), "sigaction");
    must(SYS(prctl, PR_SET_TIMERSLACK, 1), "prctl");
    env.self = "/proc/self/exe";
    find_cpus();
    pin(0);
}

// The auxiliary vector lies behind the environment.
static u64 find_vdso(char **argv)
{
    while (*argv++) {}
    while (*argv++) {}
    for (const u64 *aux = (const u64 *)argv; aux[0] != AT_NULL; aux += 2)
        if (aux[0] == AT_SYSINFO_EHDR) return aux[1];
    return 0;
}

NORETURN void ops_start(u64 *stack);
void ops_start(u64 *stack)
{
    char **argv = (char **)(stack + 1);
    const char *first = stack[0] > 1 ? argv[1] : "";
    if (behind(first, "--exit")) process_exit(0);       // what work_exec starts
    env.vdso = find_vdso(argv);
    if (behind(first, "--here")) start_here(argv + 2);
    else if (SYS(getpid) == 1) start_as_init();
    else die(USAGE, 0);
    prepare();
    for (unsigned i = 0; i < ARRAY_SIZE(table); i++) {
        if ((run.only[0] && !named(i)) || table[i].cpus > env.cpus || (table[i].fn == work_clock_gettime && !vdso_find())) continue;
        measure(i);
    }
    say(lines, run.length);
    say("ASSAY done\n", 11);
    end(0);
}
