// The PC's keyboard controller (8042 at ports 0x60 and 0x64), a keyboard on its first port, and the system control port 0x92.
// Register and command names: IBM PS/2 Hardware Interface Technical Reference, "Keyboard and Auxiliary Device Controller".
//
// The controller answers at once: input buffer full is never seen. The keyboard knows the protocol that drivers probe with (reset,
// identify, LEDs, rate, scan code set, enable) and sends set 2 codes, or set 1 when the controller translates; i8042_key is where
// key events come in. There is no auxiliary (mouse) port: commands for it are swallowed as by a controller that lacks it. The A20
// gate is a bit that can be read back; memory does not wrap at 1 MiB.
#include "devices/devices.h"
#include "kernel/base/log.h"
#include "kernel/plat.h"

enum { STAT_OBF = 1, STAT_SYS = 4, STAT_CMD = 8, STAT_UNLOCKED = 16 };
enum { CTR_KBD_INT = 1, CTR_SYS = 4, CTR_KBD_DISABLED = 16, CTR_AUX_DISABLED = 32, CTR_XLATE = 64 };
enum { OUT_NO_RESET = 1, OUT_A20 = 2, OUT_OBF = 16 };
enum { KBD_ACK = 0xfa, KBD_BAT_OK = 0xaa, KBD_RESEND = 0xfe };
enum { QUEUE = 16 };

struct i8042 {
    struct vcpu *cpu;
    struct irq irq1;
    u8 ctr, outport, ram[32];
    u8 pending_cmd;             // controller command that waits for its byte at 0x60; 0: none
    u8 obuf;
    bool obf, last_was_cmd;
    // keyboard
    bool scanning;
    u8 kbd_pending;             // keyboard command that waits for its argument
    u8 scanset, last_sent;
    u8 queue[QUEUE];
    unsigned head, count;
};

static void irq_update(struct i8042 *s) { irq_set(&s->irq1, s->obf && (s->ctr & CTR_KBD_INT)); }

static void obuf_put(struct i8042 *s, u8 v)
{
    s->obuf = v;
    s->obf = true;
}

// Moves the keyboard's next byte into the output buffer when it is free and the port is on.
static void obuf_refill(struct i8042 *s)
{
    if (!s->obf && s->count && !(s->ctr & CTR_KBD_DISABLED)) {
        s->last_sent = s->queue[s->head];
        obuf_put(s, s->last_sent);
        s->head = (s->head + 1) % QUEUE;
        s->count--;
    }
    irq_update(s);
}

static bool kbd_send(struct i8042 *s, u8 v)
{
    if (s->count == QUEUE) return false;
    s->queue[(s->head + s->count++) % QUEUE] = v;
    return true;
}

bool i8042_key(struct i8042 *s, const u8 *codes, unsigned n)
{
    DEVICE_LOCKED();
    if (!s->scanning || s->count + n > QUEUE) return false;
    for (unsigned i = 0; i < n; i++) kbd_send(s, codes[i]);
    obuf_refill(s);
    return true;
}

bool i8042_translates(const struct i8042 *s) { return s->ctr & CTR_XLATE; }

static void kbd_defaults(struct i8042 *s)
{
    s->scanset = 2;
    s->kbd_pending = 0;
    s->count = 0;
}

static void kbd_argument(struct i8042 *s, u8 cmd, u8 v)
{
    kbd_send(s, KBD_ACK);
    if (cmd != 0xf0) return;                                   // LEDs and repeat rate: nothing to show them on
    if (v == 0) kbd_send(s, s->ctr & CTR_XLATE ? (const u8[]){0, 0x43, 0x41, 0x3f}[s->scanset] : s->scanset);
    else if (v <= 3) s->scanset = v;
}

static void kbd_command(struct i8042 *s, u8 v)
{
    if (s->kbd_pending) {
        u8 cmd = s->kbd_pending;
        s->kbd_pending = 0;
        if (v < 0x80) { kbd_argument(s, cmd, v); return; }     // a command instead of the argument abandons the first
    }
    switch (v) {
    case 0xed: case 0xf0: case 0xf3: s->kbd_pending = v; break;
    case 0xee: kbd_send(s, 0xee); return;                      // echo
    case 0xf2: kbd_send(s, KBD_ACK); kbd_send(s, 0xab); kbd_send(s, s->ctr & CTR_XLATE ? 0x41 : 0x83); return;
    case 0xf4: s->scanning = true; s->count = 0; break;
    case 0xf5: s->scanning = false; kbd_defaults(s); break;
    case 0xf6: kbd_defaults(s); break;
    case 0xf7: case 0xf8: case 0xf9: case 0xfa: break;         // typematic/make-break modes of set 3
    case 0xfe: kbd_send(s, s->last_sent); return;
    case 0xff: kbd_defaults(s); s->scanning = true; kbd_send(s, KBD_ACK); kbd_send(s, KBD_BAT_OK); return;
    default: kbd_send(s, KBD_RESEND); return;
    }
    kbd_send(s, KBD_ACK);
}

static void outport_write(struct i8042 *s, u8 v)
{
    s->outport = v;
    if (!(v & OUT_NO_RESET)) vcpu_request_reset(s->cpu);
}

// A byte written to 0x60: the argument of a controller command, or a byte for the keyboard.
static void data_write(struct i8042 *s, u8 v)
{
    u8 cmd = s->pending_cmd;
    s->pending_cmd = 0;
    s->last_was_cmd = false;
    if (cmd == 0x60) s->ctr = v | CTR_AUX_DISABLED;
    else if (cmd > 0x60 && cmd < 0x80) s->ram[cmd & 31] = v;
    else if (cmd == 0xd1) outport_write(s, v);
    else if (cmd == 0xd2) obuf_put(s, v);                      // as if the keyboard had sent it
    else if (cmd == 0xd3 || cmd == 0xd4) { }                   // auxiliary port: nobody there
    else {
        s->ctr &= ~CTR_KBD_DISABLED;                           // sending to the keyboard opens its clock line again
        kbd_command(s, v);
    }
}

static void command_write(struct i8042 *s, u8 v)
{
    s->last_was_cmd = true;
    s->pending_cmd = 0;
    if (v >= 0xf0) {                                           // pulse the output port's low bits that are 0 in v
        if (!(v & OUT_NO_RESET)) vcpu_request_reset(s->cpu);
        return;
    }
    if (v >= 0x60 && v < 0x80) { s->pending_cmd = v; return; }
    if (v > 0x20 && v < 0x40) { obuf_put(s, s->ram[v & 31]); return; }
    switch (v) {
    case 0x20: obuf_put(s, s->ctr); break;
    case 0xaa: s->ctr |= CTR_SYS; obuf_put(s, 0x55); break;    // self-test passed
    case 0xab: obuf_put(s, 0); break;                          // keyboard line test passed
    case 0xad: s->ctr |= CTR_KBD_DISABLED; break;
    case 0xae: s->ctr &= ~CTR_KBD_DISABLED; break;
    case 0xc0: obuf_put(s, 0x80); break;                       // input port: keyboard not locked
    case 0xd0: obuf_put(s, s->outport | (s->obf ? OUT_OBF : 0)); break;
    case 0xd1: case 0xd2: case 0xd3: case 0xd4: s->pending_cmd = v; break;
    case 0xdd: s->outport &= ~OUT_A20; break;
    case 0xdf: s->outport |= OUT_A20; break;
    case 0xa7: case 0xa8: case 0xa9: break;                    // auxiliary port: no answer
    default: log_once(LOG_DEBUG, "i8042: unknown command %#x ignored (said once)", v); break;
    }
}

static void i8042_write(void *opaque, u64 addr, u64 val, unsigned size)
{
    struct i8042 *s = opaque;
    if (addr) command_write(s, val);
    else data_write(s, val);
    obuf_refill(s);
}

static u64 data_read(void *opaque, u64 addr, unsigned size)
{
    struct i8042 *s = opaque;
    u8 v = s->obuf;
    s->obf = false;
    irq_update(s);                  // an edge for each byte
    obuf_refill(s);
    return v;
}

static u64 status_read(void *opaque, u64 addr, unsigned size)
{
    struct i8042 *s = opaque;
    return (s->obf ? STAT_OBF : 0) | (s->ctr & CTR_SYS ? STAT_SYS : 0) | (s->last_was_cmd ? STAT_CMD : 0) | STAT_UNLOCKED;
}

static void status_write(void *opaque, u64 addr, u64 val, unsigned size) { i8042_write(opaque, 1, val, size); }

// Port 0x92: bit 0 a reset on its rising edge, bit 1 the fast A20 gate.
static u64 port92_read(void *opaque, u64 addr, unsigned size)
{
    struct i8042 *s = opaque;
    return s->outport & OUT_A20;
}

static void port92_write(void *opaque, u64 addr, u64 val, unsigned size)
{
    struct i8042 *s = opaque;
    s->outport = (s->outport & ~OUT_A20) | (val & OUT_A20);
    if (val & 1) vcpu_request_reset(s->cpu);
}

void i8042_reset(struct i8042 *s)
{
    DEVICE_LOCKED();
    s->ctr = CTR_KBD_INT | CTR_SYS | CTR_XLATE | CTR_AUX_DISABLED;
    s->outport = OUT_NO_RESET | OUT_A20;
    s->pending_cmd = 0;
    s->obf = s->last_was_cmd = false;
    s->scanning = true;
    kbd_defaults(s);
    irq_update(s);
}

struct i8042 *i8042_new(struct phys *p, struct vcpu *c, struct irq irq1)
{
    static const struct io_ops data = {.read = data_read, .write = i8042_write, .max_size = 1};
    static const struct io_ops status = {.read = status_read, .write = status_write, .max_size = 1};
    static const struct io_ops port92 = {.read = port92_read, .write = port92_write, .max_size = 1};
    struct i8042 *s = plat_pages_alloc(sizeof *s);
    if (!s) panic("no memory for the keyboard controller");
    s->cpu = c;
    s->irq1 = irq1;
    i8042_reset(s);
    phys_add_ports(p, 0x60, 1, &data, s, "i8042-data");
    phys_add_ports(p, 0x64, 1, &status, s, "i8042-cmd");
    phys_add_ports(p, 0x92, 1, &port92, s, "port92");
    return s;
}
