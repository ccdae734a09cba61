// `cupel`, the hosted command: options in, a machine built and run on this thread (core 0), an exit code out.
//
// Exit codes as QEMU's: 0 for power-off, for a reset under -no-reboot and for quitting; (v << 1) | 1 for v written to isa-debug-exit; 1 for
// a configuration that cannot be; 134 after a panic.
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <termios.h>
#include <unistd.h>

#include "hosted/block.h"
#include "hosted/hosted.h"
#include "hosted/options.h"
#include "hosted/sys.h"
#include "kernel/base/log.h"

static struct blob file_load(const char *opt, const char *path)
{
    struct stat st;
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0 || fstat(fd, &st) != 0) options_fail("%s: cannot open '%s': %s", opt, path, strerror(errno));
    if (!S_ISREG(st.st_mode) || st.st_size == 0) options_fail("%s: '%s' is not a file with something in it", opt, path);
    void *p = mmap(NULL, (size_t)st.st_size, PROT_READ, MAP_PRIVATE, fd, 0);
    if (p == MAP_FAILED) options_fail("%s: cannot read '%s': %s", opt, path, strerror(errno));
    close(fd);
    return (struct blob){.data = p, .size = (u64)st.st_size, .name = path};
}

static int file_create(const char *opt, const char *path)
{
    int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0666);
    if (fd < 0) options_fail("%s: cannot write '%s': %s", opt, path, strerror(errno));
    return fd;
}

// The other end starts raw, or its echo would type the guest's output at the guest; that outlives its being closed. The name goes to
// standard error, as QEMU's does to its monitor.
static int pty_open(void)
{
    int fd = posix_openpt(O_RDWR | O_NOCTTY);
    const char *name = fd >= 0 && grantpt(fd) == 0 && unlockpt(fd) == 0 ? ptsname(fd) : NULL;
    int other = name ? open(name, O_RDWR | O_NOCTTY | O_CLOEXEC) : -1;
    struct termios t;
    if (other < 0 || tcgetattr(other, &t) != 0) options_fail("-serial pty: no pseudo-terminal: %s", strerror(errno));
    cfmakeraw(&t);
    tcsetattr(other, TCSANOW, &t);
    close(other);
    log_write(LOG_INFO, "serial port on %s", name);
    fcntl(fd, F_SETFL, O_NONBLOCK);
    return fd;
}

// Where the guest's console goes: opened before the machine is built, so that a path that cannot be fails first. Returns the pty or -1.
static int console_open(const struct options *o)
{
    int fd = -1;
    if (o->serial == SERIAL_FILE) output_console_fd(file_create("-serial", o->serial_file));
    if (o->serial == SERIAL_NULL) output_console_fd(-1);
    if (o->serial == SERIAL_PTY) output_console_fd(fd = pty_open());
    return fd;
}

static void console_start(const struct options *o, int pty)
{
    if (pty >= 0) input_start(pty, false);
    term_raw();
    if (o->serial != SERIAL_STDIO && isatty(0)) term_monitor_only();
    input_start(0, true);
}

int main(int argc, char **argv)
{
    struct options o;
    char err[512] = "";
    core_init();
    options_parse(&o, argc, argv);
    if (o.kernel) o.machine.kernel = file_load("-kernel", o.kernel);
    if (o.initrd) o.machine.initrd = file_load("-initrd", o.initrd);
    drives_open(&o.machine);
    struct options asked = o;
    if (o.want_assay) hosted_assay_config(&o.machine);
    if (o.trace_file) output_trace_fd(file_create("-D", o.trace_file));
    trace_set_mask(o.trace);
    int pty = console_open(&o);
    if (o.serial != SERIAL_STDIO) o.machine.debugcon_out = output_term;   // -debugcon stdio is the terminal, wherever the serial port goes
    time_init();
    if (!machine_create(&o.machine, err, sizeof err)) options_fail("%s", err);
    if (o.want_assay) plat_exit(hosted_assay(&asked));
    console_start(&o, pty);
    int code = 0;
    enum machine_end end = machine_run(&code);
    block_finish_all();
    plat_exit(end == MACHINE_DEBUG_EXIT ? code & 0xff : 0);
}
