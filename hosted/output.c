// Output of the hosted platform: the guest's console, the log, the trace.
//
// A guest writes its console byte by byte through the UART; a system call for each would cost more than the emulation. So bytes gather in a
// buffer that is written at a newline, when it is full, when the core goes idle, or a few milliseconds after its first byte (the platform's
// timer). Trace text is gathered too, and written when full, when idle and at the end. Log lines are written at once.
//
// All of it is reached from helpers of translated code: system calls are made without libc. A buffer is guarded by a spinlock with
// interrupts off, since a handler may print as well.
#define _GNU_SOURCE
#include <errno.h>
#include <poll.h>
#include <string.h>

#include "hosted/hosted.h"
#include "hosted/sys.h"
#include "kernel/base/spin.h"

struct outbuf {
    int fd;
    struct spinlock lock;             // (its holder may wait for a slow terminal)
    size_t len;
    u8 *data;
    size_t size;
};

static u8 console_data[4096], trace_data[65536];
static struct outbuf console = {.fd = 1, .data = console_data, .size = sizeof console_data};
static struct outbuf trace = {.fd = 2, .data = trace_data, .size = sizeof trace_data};

void output_console_fd(int fd) { console.fd = fd; }
void output_trace_fd(int fd) { trace.fd = fd; }

// Writes everything, waiting where the other end is slow; gives up on errors and where nobody is at the other end (a closed pipe, or a pty
// that nobody has open, must not stop the guest).
static void write_all(int fd, const u8 *p, size_t n)
{
    while (fd >= 0 && n > 0) {
        long w = sys_write(fd, p, n);
        if (w > 0) {
            p += w;
            n -= (size_t)w;
        } else if (w == -EAGAIN) {
            struct pollfd pf = {.fd = fd, .events = POLLOUT};
            sys_call(SYS_poll, (long)&pf, 1, 100, 0);
            if (pf.revents & POLLHUP) return;
        } else if (w != -EINTR) {
            return;
        }
    }
}

static void out_flush_locked(struct outbuf *o)
{
    write_all(o->fd, o->data, o->len);
    o->len = 0;
}

static void out_put(struct outbuf *o, const u8 *p, size_t n)
{
    if (o->len + n > o->size) out_flush_locked(o);
    if (n > o->size) {
        write_all(o->fd, p, n);
        return;
    }
    memcpy(o->data + o->len, p, n);
    o->len += n;
}

static void out_flush(struct outbuf *o)
{
    if (!o->len) return;
    bool was = spin_lock(&o->lock);
    out_flush_locked(o);
    spin_unlock(&o->lock, was);
}

void output_flush(void)
{
    out_flush(&console);
    out_flush(&trace);
}

// At the end of everything, perhaps out of a handler that interrupted the owner of a lock: locks are not waited for.
void output_flush_all(void)
{
    out_flush_locked(&console);
    out_flush_locked(&trace);
}

// The delayed flush needs the platform's timer and so the BQL; who writes without it pays for the system call.
void plat_console_write(const void *buf, size_t len)
{
    bool was = spin_lock(&console.lock);
    out_put(&console, buf, len);
    bool now = !bql_held() || memchr(buf, '\n', len);
    if (now) out_flush_locked(&console);
    spin_unlock(&console.lock, was);
    if (!now) time_want_flush();
}

void output_term(const void *buf, size_t len)
{
    out_flush(&console);
    write_all(1, buf, len);
}

void plat_log_write(const char *text, size_t len, bool is_trace)
{
    if (is_trace) {
        bool was = spin_lock(&trace.lock);
        out_put(&trace, (const u8 *)text, len);
        spin_unlock(&trace.lock, was);
        return;
    }
    out_flush(&trace);
    write_all(2, (const u8 *)text, len);
}
