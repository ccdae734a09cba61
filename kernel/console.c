// The console. Output may come from any context on any core, so a lock with interrupts off guards both devices; lines of Cupel's own and
// bytes of the guest meet here. The screen is drawn at most every 20 ms once the timer runs: a guest's boot log costs some draws, not one
// per line.
//
// Input bytes are collected in a ring by the interrupt handlers, after the Ctrl-A commands have been taken out, and offered to the
// machine until it has no room; plat_console_ready offers again.
#include "kernel/console.h"

#include <string.h>

#include "kernel/base/log.h"
#include "kernel/core.h"
#include "kernel/cores.h"
#include "kernel/cpu.h"
#include "kernel/fbcon.h"
#include "kernel/hwtimer.h"
#include "kernel/lock.h"
#include "kernel/machine.h"
#include "kernel/plat_events.h"
#include "kernel/ps2.h"
#include "kernel/serial.h"

enum { INPUT_RING = 1024, CTRL_A = 1 };
#define REFRESH_NS 20000000ull

static struct {
    struct ticket_lock lock;
    const struct core *owner;   // of the lock; only the owner finds itself here
    bool screen, dirty, panic;
    // ---- input: BQL; bytes come in on the boot core only ----
    bool ctrl_a;
    u32 head, tail;
    u8 input[INPUT_RING];
} con;

static u64 console_lock(void)
{
    if (con.panic) return cpu_irq_save();
    u64 flags = ticket_lock_irq(&con.lock);
    con.owner = core_self();
    return flags;
}

static void console_unlock(u64 flags)
{
    if (con.panic) {
        cpu_irq_restore(flags);
        return;
    }
    con.owner = NULL;
    ticket_unlock_irq(&con.lock, flags);
}

// ---- output ----

// The screen has changed: draw now, or let the timer. Lock held.
static void console_mark_dirty(void)
{
    if (!con.screen) return;
    if (con.panic || !hwtimer_ready()) {
        fbcon_draw();
    } else if (!con.dirty) {
        con.dirty = true;
        hwtimer_arm(HWTIMER_CONSOLE, hwtimer_now_ns() + REFRESH_NS);
    }
}

// In pieces, so that others' lines and interrupts come in between.
void console_serial_only(const char *text, u64 len)
{
    enum { PIECE = 256 };
    while (len) {
        u64 n = min_u64(len, PIECE), flags = console_lock();
        serial_write(text, n);
        console_unlock(flags);
        text += n;
        len -= n;
    }
}

void console_refresh(void)
{
    u64 flags = console_lock();
    con.dirty = false;
    if (con.screen) fbcon_draw();
    console_unlock(flags);
}

void plat_console_write(const void *buf, size_t len)
{
    u64 flags = console_lock();
    serial_write(buf, len);
    fbcon_write(buf, len);
    console_mark_dirty();
    console_unlock(flags);
}

void plat_log_write(const char *text, size_t len, bool trace)
{
    u64 flags = console_lock();
    while (len) {   // Cupel's own lines end in \n alone, a terminal wants \r\n
        const char *nl = memchr(text, '\n', len);
        size_t n = nl ? (size_t)(nl - text) : len;
        serial_write(text, n);
        fbcon_write(text, n);
        if (nl) {
            serial_write("\r\n", 2);
            fbcon_write("\r\n", 2);
            n++;
        }
        text += n;
        len -= n;
    }
    console_mark_dirty();
    console_unlock(flags);
}

void console_flush(void)
{
    u64 flags = console_lock();
    serial_flush();
    if (con.screen) fbcon_draw();
    console_unlock(flags);
}

// The lock first: a core that is stopped while it writes leaves the serial ring half moved. Unless it is this core that was interrupted
// there.
void console_panic_mode(void)
{
    (void)cpu_irq_save();
    const struct core *c = core_self();
    if (con.panic && con.owner == c) return;
    if (con.owner != c) ticket_lock_last(&con.lock);
    con.owner = c;
    cores_stop_others();
    con.panic = true;
}

// ---- input ----

static void input_put(u8 byte)
{
    if (con.head - con.tail < INPUT_RING) con.input[con.head++ % INPUT_RING] = byte;   // a full ring drops, as a UART would
}

static void input_command(u8 byte)
{
    switch (byte) {
    case CTRL_A: input_put(CTRL_A); break;
    case 'x': case 'X': machine_quit(); break;
    case 'c': case 'C': log_info("the monitor exists in the hosted build only, so far"); break;
    case 'h': case 'H': log_info("Ctrl-A x: switch off; Ctrl-A Ctrl-A: send Ctrl-A; Ctrl-A h: this help"); break;
    default: break;
    }
}

static void input_byte(u8 byte)
{
    if (con.ctrl_a) {
        con.ctrl_a = false;
        input_command(byte);
    } else if (byte == CTRL_A) {
        con.ctrl_a = true;
    } else {
        input_put(byte);
    }
}

// BQL held.
static void input_offer(void)
{
    const struct plat_events *ev = plat_events_get();
    if (!ev->console_input) return;
    while (con.tail != con.head && ev->console_input(con.input[con.tail % INPUT_RING])) con.tail++;
}

void plat_console_ready(void) { input_offer(); }

static int console_service_serial(void)
{
    u64 flags = console_lock();
    int c = serial_service();
    console_unlock(flags);
    return c;
}

void console_interrupt(bool serial)
{
    bql_lock();
    if (serial) {
        for (int c; (c = console_service_serial()) >= 0;) input_byte((u8)c);
    } else {
        u8 buf[8];
        for (bool more = true; more;) {
            unsigned n = ps2_read(buf, &more);
            for (unsigned i = 0; i < n; i++) input_byte(buf[i]);
        }
    }
    input_offer();
    bql_unlock();
}

void console_unexpected_interrupt(unsigned vector) { log_once(LOG_WARN, "unexpected interrupt, vector 0x%x; told once", vector); }

// ---- bring-up ----

void console_init_early(const struct boot_info *info) { serial_init(info->serial_port, info->serial_baud); }

void console_init_screen(const struct boot_info *info)
{
    con.screen = fbcon_init(&info->fb);
    if (con.screen)
        log_info("screen: %ux%u, %ux%u characters", info->fb.width, info->fb.height, fbcon_columns(), fbcon_rows());
    else
        log_info("no screen: the firmware gives no linear framebuffer");
}

void console_init_input(const struct boot_info *info)
{
    u64 flags = console_lock();
    serial_flush();
    console_unlock(flags);
    serial_init_interrupts(info->serial_port);
    bool kbd = ps2_init();
    log_info("console: serial line %s, keyboard %s", serial_present() ? "yes" : "no", kbd ? "PS/2" : "none");
}
