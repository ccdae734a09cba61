// Stock Linux as the assay's guest: boots the kernel with the RAM disk of assay/linux/ in each translated mode, and reads the phases of
// its boot and its operations off the serial console, each line with the host's TSC at its end (linux_phases.h).
// Not without chaining: that takes many times as long, and says nothing that the workloads have not said.
#include <string.h>

#include "assay/console.h"
#include "assay/run.h"
#include "kernel/base/bits.h"
#include "kernel/base/fmt.h"

#define LINUX_LIMIT_NS (600 * NS_PER_SEC)

// The serial port's output carries no argument to find it by. Written between runs, on core 0.
static struct { struct linux_run *run; char line[512]; unsigned len; } console;

void assay_serial_out(const void *buf, size_t len)
{
    const char *s = buf;
    for (size_t i = 0; console.run && i < len; i++) {
        if (s[i] != '\n') {
            if (console.len + 1 < sizeof console.line) console.line[console.len++] = s[i];
            continue;
        }
        console.line[console.len] = 0;
        console.len = 0;
        (void)linux_line(console.run, console.line, __builtin_ia32_rdtsc());
    }
}

static void mode_boot(struct assay *a, enum mode_id mode, struct linux_boot *l)
{
    struct linux_run *r = &l->run;
    static char append[256];
    char err[LINUX_TEXT] = "";
    int code;
    // Kernel and operations in proportion to what the workloads are given.
    fmt_snprintf(append, sizeof append, "%s assay.scale=%u%s", LINUX_APPEND, (unsigned)min_u64(100, max_u64(a->o->ms * 10, 1)),
                 modes[mode].all ? "" : " maxcpus=1");
    struct machine_guest g = {.kernel = a->g->kernel, .initrd = a->g->initrd, .append = append, .exit_poll = modes[mode].exit_poll,
                              .no_chain = modes[mode].no_chain};
    if (!machine_restart(&g, err, sizeof err)) {
        fmt_snprintf(r->error, sizeof r->error, "%s", err);
        return;
    }
    console.run = r;
    console.len = 0;
    l->started = __builtin_ia32_rdtsc();
    l->have = true;
    enum machine_end end = machine_run_for(LINUX_LIMIT_NS, &code);
    console.run = NULL;
    if (end != MACHINE_POWEROFF && !r->error[0])
        fmt_snprintf(r->error, sizeof r->error, "%s", end == MACHINE_TIMEOUT ? "Linux did not come to its end in 600 s" :
                     end == MACHINE_QUIT ? "ended by the user" : "Linux reset its machine");
    a->quit |= end == MACHINE_QUIT;
}

void linux_boot_once(struct assay *a, enum mode_id mode)
{
    static struct linux_boot unused;
    unused = (struct linux_boot){0};
    mode_boot(a, mode, &unused);
}

void linux_one(struct assay *a)
{
    for (unsigned k = 0; k < N_MODES && !a->quit; k++) {
        enum mode_id mode = (k + a->round) % N_MODES;
        if (modes[mode].native || modes[mode].no_chain || (modes[mode].all && a->cpus < 2)) continue;
        mode_boot(a, mode, &a->linux_boot[a->round][mode]);
    }
}
