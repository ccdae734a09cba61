// The terminal: raw mode, given back whatever way the process ends, and the keys that Ctrl-A introduces (as in QEMU's -nographic).
//
// Keys are looked at as they arrive; only what is for the guest waits for the guest (input.c). So Ctrl-A works while the guest hangs. When
// even that queue is full the byte is refused and comes again: then nothing may have changed here, so the prefix is forgotten only once the
// byte is taken.
#define _GNU_SOURCE
#include <signal.h>
#include <string.h>
#include <termios.h>
#include <unistd.h>

#include "hosted/hosted.h"
#include "kernel/machine.h"

enum { CTRL_A = 1 };

static struct termios saved;
static bool saved_ok, raw;
static bool prefix, in_monitor, monitor_only;

void term_raw(void)
{
    if (!isatty(0)) return;
    if (!saved_ok) {
        if (tcgetattr(0, &saved) != 0) return;
        saved_ok = true;
    }
    struct termios t = saved;
    cfmakeraw(&t);
    t.c_oflag |= OPOST;   // the log's newlines still return the carriage
    t.c_cc[VMIN] = 1;
    t.c_cc[VTIME] = 0;
    // A background process that touches the terminal is stopped by SIGTTOU: the emulator rather goes on.
    signal(SIGTTOU, SIG_IGN);
    raw = tcsetattr(0, TCSANOW, &t) == 0;
}

void term_restore(void)
{
    if (!raw) return;
    raw = false;
    tcsetattr(0, TCSANOW, &saved);   // async-signal-safe (POSIX 2.4.3)
}

static void say(const char *s) { output_term(s, strlen(s)); }

static void term_help(void)
{
    say("\r\nCtrl-A h       this help\r\n"
        "Ctrl-A x       leave the emulator\r\n"
        "Ctrl-A c       switch between the guest's console and the monitor\r\n"
        "Ctrl-A Ctrl-A  send Ctrl-A\r\n");
}

static void monitor_toggle(void)
{
    in_monitor = monitor_only || !in_monitor;
    if (in_monitor) monitor_open();
    else say("\r\n");
}

void term_monitor_only(void)
{
    monitor_only = true;
    monitor_toggle();
}

static bool key_forward(u8 byte)
{
    if (in_monitor) {
        monitor_key(byte);
        return true;
    }
    return input_guest_put(byte);
}

bool term_key(u8 byte)
{
    if (!prefix) {
        if (byte != CTRL_A) return key_forward(byte);
        prefix = true;
        return true;
    }
    if (byte == CTRL_A && !key_forward(byte)) return false;
    prefix = false;
    if (byte == 'x') {
        say("\r\n");
        machine_quit();
    } else if (byte == 'c') {
        monitor_toggle();
    } else if (byte == 'h' || byte == '?') {
        term_help();
    }
    return true;
}
