// Keyboard input for the console: i8042 with translated scan code set 1, US layout, as bytes of a VT100-like terminal. Only what a serial
// console can say is said: characters, control characters, arrow and function keys as escape sequences.
#include "kernel/ps2.h"

#include <string.h>

#include "kernel/cpu.h"
#include "kernel/lapic.h"
#include "kernel/traps.h"

enum { P_DATA = 0x60, P_STATUS = 0x64, ST_OUT = 1, ST_IN = 2, ST_AUX = 0x20 };

static struct { bool shift, ctrl, alt, caps, extended; } ps2;

// Scan codes 0x00..0x39, without and with Shift.
static const char ps2_plain[] = "\0\0331234567890-=\177\tqwertyuiop[]\r\0asdfghjkl;'`\0\\zxcvbnm,./\0*\0 ";
static const char ps2_shift[] = "\0\033!@#$%^&*()_+\177\tQWERTYUIOP{}\r\0ASDFGHJKL:\"~\0|ZXCVBNM<>?\0*\0 ";
_Static_assert(sizeof(ps2_plain) == 0x3a + 1 && sizeof(ps2_shift) == sizeof(ps2_plain), "one character per scan code");

static const struct { u8 code; char seq[6]; } ps2_keys[] = {   // after 0xe0, or of the keypad
    {0x48, "\033[A"}, {0x50, "\033[B"}, {0x4d, "\033[C"}, {0x4b, "\033[D"}, {0x47, "\033[H"}, {0x4f, "\033[F"},
    {0x49, "\033[5~"}, {0x51, "\033[6~"}, {0x52, "\033[2~"}, {0x53, "\033[3~"},
    {0x3b, "\033OP"}, {0x3c, "\033OQ"}, {0x3d, "\033OR"}, {0x3e, "\033OS"}, {0x3f, "\033[15~"}, {0x40, "\033[17~"}, {0x41, "\033[18~"},
    {0x42, "\033[19~"}, {0x43, "\033[20~"}, {0x44, "\033[21~"},
};

static bool ps2_wait_writable(void)
{
    for (unsigned i = 0; i < 100000; i++)
        if (!(cpu_in8(P_STATUS) & ST_IN)) return true;
    return false;
}

static bool ps2_command(u8 cmd, int data)
{
    if (!ps2_wait_writable()) return false;
    cpu_out8(P_STATUS, cmd);
    if (data < 0) return true;
    if (!ps2_wait_writable()) return false;
    cpu_out8(P_DATA, (u8)data);
    return true;
}

static void ps2_drain(void)
{
    for (unsigned i = 0; i < 64 && (cpu_in8(P_STATUS) & ST_OUT); i++) (void)cpu_in8(P_DATA);
}

bool ps2_init(void)
{
    if (cpu_in8(P_STATUS) == 0xff) return false;
    ps2_drain();
    if (!ps2_command(0x20, -1)) return false;           // read the command byte
    unsigned i = 0;
    while (!(cpu_in8(P_STATUS) & ST_OUT))
        if (++i > 100000) return false;
    u8 cmd = cpu_in8(P_DATA);
    cmd = (u8)((cmd | 0x41) & ~0x32);                   // translation and IRQ 1 on; keyboard clock on, mouse and its IRQ off
    if (!ps2_command(0x60, cmd) || !ps2_command(0xae, -1)) return false;
    if (ps2_wait_writable()) cpu_out8(P_DATA, 0xf4);    // scanning on; the firmware may have left it off
    ps2_drain();
    return ioapic_route_isa(1, VEC_KEYBOARD);
}

static unsigned ps2_sequence(u8 code, u8 *buf)
{
    for (unsigned i = 0; i < ARRAY_SIZE(ps2_keys); i++) {
        if (ps2_keys[i].code != code) continue;
        unsigned n = (unsigned)strlen(ps2_keys[i].seq);
        memcpy(buf, ps2_keys[i].seq, n);
        return n;
    }
    return 0;
}

static unsigned ps2_character(u8 code, u8 *buf)
{
    char c = ps2.shift ? ps2_shift[code] : ps2_plain[code];
    if (!c) return 0;
    if (ps2.caps && (c | 0x20) >= 'a' && (c | 0x20) <= 'z') c ^= 0x20;
    if (ps2.ctrl) c &= 0x1f;
    unsigned n = 0;
    if (ps2.alt) buf[n++] = 0x1b;
    buf[n++] = (u8)c;
    return n;
}

static unsigned ps2_scan(u8 code, u8 *buf)
{
    bool ext = ps2.extended, up = code & 0x80;
    ps2.extended = code == 0xe0;
    if (code == 0xe0 || code == 0xfa || code == 0xaa) return 0;   // prefix, acknowledge, self-test passed
    code &= 0x7f;
    switch (code) {
    case 0x2a: case 0x36: if (!ext) ps2.shift = !up; return 0;
    case 0x1d: ps2.ctrl = !up; return 0;
    case 0x38: ps2.alt = !up; return 0;
    case 0x3a: ps2.caps ^= !up; return 0;
    default: break;
    }
    if (up) return 0;
    if (ext && code == 0x1c) { buf[0] = '\r'; return 1; }   // keypad Enter
    if (ext && code == 0x35) { buf[0] = '/'; return 1; }
    if (code < 0x3a && !ext) return ps2_character(code, buf);
    return ps2_sequence(code, buf);
}

unsigned ps2_read(u8 *buf, bool *more)
{
    u8 st = cpu_in8(P_STATUS);
    *more = (st & ST_OUT) && st != 0xff;
    if (!*more) return 0;
    u8 code = cpu_in8(P_DATA);
    return st & ST_AUX ? 0 : ps2_scan(code, buf);
}
