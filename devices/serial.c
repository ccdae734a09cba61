// A 16550A UART with its FIFOs (National Semiconductor PC16550D data sheet; section numbers below are its chapter 8).
//
// The line is infinitely fast outwards: a byte written to THR is given to out() at once, so the transmitter is always empty, and
// the THRE interrupt is only a latch that writing THR or enabling the interrupt sets and reading IIR clears. Inwards, the platform
// offers bytes; a full FIFO refuses them, so nothing is ever overrun except in loopback. The receive timeout (8.4: four character
// times without a FIFO access while it holds less than the trigger level) runs on the guest's virtual clock at the programmed
// speed.
//
// As on a PC, OUT2 gates the interrupt line, and loopback disconnects it.
#include "devices/clock.h"
#include "devices/devices.h"
#include "kernel/base/bits.h"
#include "kernel/base/log.h"
#include "kernel/plat.h"

enum { FIFO_SIZE = 16 };
enum { IER_RDA = 1, IER_THRE = 2, IER_RLS = 4, IER_MSI = 8, IER_MASK = 15 };
enum { IIR_NONE = 1, IIR_MSI = 0, IIR_THRE = 2, IIR_RDA = 4, IIR_RLS = 6, IIR_TIMEOUT = 12, IIR_FIFOS = 0xc0 };
enum { FCR_ENABLE = 1, FCR_CLEAR_RX = 2, FCR_CLEAR_TX = 4 };
enum { LCR_BREAK = 0x40, LCR_DLAB = 0x80 };
enum { MCR_DTR = 1, MCR_RTS = 2, MCR_OUT1 = 4, MCR_OUT2 = 8, MCR_LOOP = 16, MCR_MASK = 31 };
enum { LSR_DR = 1, LSR_OE = 2, LSR_BI = 16, LSR_THRE = 0x20, LSR_TEMT = 0x40, LSR_ERRORS = 0x1e };
enum { MSR_CTS = 0x10, MSR_DSR = 0x20, MSR_RI = 0x40, MSR_DCD = 0x80, MSR_TERI = 4 };

struct serial {
    struct irq irq;
    void (*out)(const void *buf, size_t len);
    struct timer timeout;
    u8 ier, fcr, lcr, mcr, msr_delta, scr;
    u8 lsr_errors;              // LSR_OE, LSR_BI
    u16 divisor;
    bool thre_pending, timeout_pending;
    bool refused;               // the platform was told no and waits for plat_console_ready
    u8 rx[FIFO_SIZE];
    unsigned rx_head, rx_count;
};

static unsigned rx_capacity(const struct serial *s) { return s->fcr & FCR_ENABLE ? FIFO_SIZE : 1; }

static unsigned rx_trigger(const struct serial *s)
{
    static const u8 level[4] = {1, 4, 8, 14};
    return s->fcr & FCR_ENABLE ? level[s->fcr >> 6] : 1;
}

// The source that IIR names now: the highest-priority one that waits and is enabled (table in 8.6.5).
static u8 iir_source(const struct serial *s)
{
    if ((s->ier & IER_RLS) && s->lsr_errors) return IIR_RLS;
    if ((s->ier & IER_RDA) && s->rx_count >= rx_trigger(s)) return IIR_RDA;
    if ((s->ier & IER_RDA) && s->timeout_pending) return IIR_TIMEOUT;
    if ((s->ier & IER_THRE) && s->thre_pending) return IIR_THRE;
    if ((s->ier & IER_MSI) && s->msr_delta) return IIR_MSI;
    return IIR_NONE;
}

static void irq_update(struct serial *s)
{
    bool open = (s->mcr & MCR_OUT2) && !(s->mcr & MCR_LOOP);
    irq_set(&s->irq, open && iir_source(s) != IIR_NONE);
}

// Four characters of start + data + parity + stop bits at 1.8432 MHz / 16 / divisor.
static u64 timeout_ns(const struct serial *s)
{
    unsigned bits = 1 + 5 + (s->lcr & 3) + !!(s->lcr & 8) + 1 + !!(s->lcr & 4);
    return muldiv64(4ull * bits * NS_PER_SEC, s->divisor ? s->divisor : 65536, 115200);
}

// Restarts the receive timeout after the FIFO was touched.
static void timeout_restart(struct serial *s)
{
    s->timeout_pending = false;
    if ((s->fcr & FCR_ENABLE) && s->rx_count) timer_mod_ns(&s->timeout, clock_ns(CLOCK_VIRTUAL_) + timeout_ns(s));
    else timer_del(&s->timeout);
}

static void timeout_fired(void *opaque)
{
    struct serial *s = opaque;
    s->timeout_pending = s->rx_count != 0;
    irq_update(s);
}

static void rx_put(struct serial *s, u8 byte)
{
    if (s->rx_count >= rx_capacity(s)) {       // loopback only
        s->lsr_errors |= LSR_OE;
        return;
    }
    s->rx[(s->rx_head + s->rx_count++) % FIFO_SIZE] = byte;
    timeout_restart(s);
}

static void room_again(struct serial *s)
{
    if (!s->refused || (s->mcr & MCR_LOOP) || s->rx_count >= rx_capacity(s)) return;
    s->refused = false;
    plat_console_ready();
}

static u8 rx_get(struct serial *s)
{
    if (!s->rx_count) return 0;
    u8 b = s->rx[s->rx_head];
    s->rx_head = (s->rx_head + 1) % FIFO_SIZE;
    s->rx_count--;
    timeout_restart(s);
    return b;
}

static void rx_clear(struct serial *s)
{
    s->rx_count = 0;
    timeout_restart(s);
}

// Modem inputs: a cable with everything asserted, or in loopback our own outputs (8.6.7).
static u8 msr_lines(const struct serial *s)
{
    if (!(s->mcr & MCR_LOOP)) return MSR_CTS | MSR_DSR | MSR_DCD;
    return (s->mcr & MCR_RTS ? MSR_CTS : 0) | (s->mcr & MCR_DTR ? MSR_DSR : 0) | (s->mcr & MCR_OUT1 ? MSR_RI : 0) |
           (s->mcr & MCR_OUT2 ? MSR_DCD : 0);
}

static void mcr_write(struct serial *s, u8 v)
{
    u8 before = msr_lines(s);
    s->mcr = v & MCR_MASK;
    u8 now = msr_lines(s), changed = before ^ now;
    s->msr_delta |= (changed & (MSR_CTS | MSR_DSR | MSR_DCD)) >> 4;
    if (before & ~now & MSR_RI) s->msr_delta |= MSR_TERI;     // only the trailing edge counts
}

static void thr_write(struct serial *s, u8 v)
{
    if (s->mcr & MCR_LOOP) rx_put(s, v);
    else s->out(&v, 1);
    s->thre_pending = true;
}

static void ier_write(struct serial *s, u8 v)
{
    v &= IER_MASK;
    if (v & ~s->ier & IER_THRE) s->thre_pending = true;       // enabling it while THR is empty interrupts at once
    s->ier = v;
}

static void fcr_write(struct serial *s, u8 v)
{
    if ((v ^ s->fcr) & FCR_ENABLE) rx_clear(s);               // changing the mode empties the FIFOs (8.6.4)
    if (!(v & FCR_ENABLE)) v = 0;                             // the other bits are programmed only together with this one
    if (v & FCR_CLEAR_RX) rx_clear(s);
    if (v & FCR_CLEAR_TX) s->thre_pending = true;
    s->fcr = v & ~(FCR_CLEAR_RX | FCR_CLEAR_TX);
}

static void lcr_write(struct serial *s, u8 v)
{
    if ((v & ~s->lcr & LCR_BREAK) && (s->mcr & MCR_LOOP)) {   // a break looped back arrives as a zero byte with BI
        rx_put(s, 0);
        s->lsr_errors |= LSR_BI;
    }
    s->lcr = v;
}

static void serial_write(void *opaque, u64 addr, u64 val, unsigned size)
{
    struct serial *s = opaque;
    u8 v = val;
    bool dlab = s->lcr & LCR_DLAB;
    switch (addr) {
    case 0:
        if (dlab) s->divisor = (s->divisor & 0xff00) | v;
        else thr_write(s, v);
        break;
    case 1:
        if (dlab) s->divisor = (s->divisor & 0xff) | v << 8;
        else ier_write(s, v);
        break;
    case 2: fcr_write(s, v); break;
    case 3: lcr_write(s, v); break;
    case 4: mcr_write(s, v); break;
    case 7: s->scr = v; break;
    default: break;                                           // LSR and MSR: factory test only
    }
    room_again(s);
    irq_update(s);
}

static u8 iir_read(struct serial *s)
{
    u8 src = iir_source(s);
    if (src == IIR_THRE) s->thre_pending = false;             // reading IIR acknowledges this source only (8.6.5)
    return src | (s->fcr & FCR_ENABLE ? IIR_FIFOS : 0);
}

static u8 lsr_read(struct serial *s)
{
    u8 v = LSR_THRE | LSR_TEMT | (s->rx_count ? LSR_DR : 0) | s->lsr_errors;
    s->lsr_errors = 0;
    return v;
}

static u8 msr_read(struct serial *s)
{
    u8 v = msr_lines(s) | s->msr_delta;
    s->msr_delta = 0;
    return v;
}

static u8 register_read(struct serial *s, u64 addr)
{
    bool dlab = s->lcr & LCR_DLAB;
    switch (addr) {
    case 0: return dlab ? s->divisor & 0xff : rx_get(s);
    case 1: return dlab ? s->divisor >> 8 : s->ier;
    case 2: return iir_read(s);
    case 3: return s->lcr;
    case 4: return s->mcr;
    case 5: return lsr_read(s);
    case 6: return msr_read(s);
    default: return s->scr;
    }
}

static u64 serial_read(void *opaque, u64 addr, unsigned size)
{
    struct serial *s = opaque;
    u8 v = register_read(s, addr);
    room_again(s);
    irq_update(s);
    return v;
}

bool serial_input(struct serial *s, u8 byte)
{
    DEVICE_LOCKED();
    if ((s->mcr & MCR_LOOP) || s->rx_count >= rx_capacity(s)) {   // in loopback the receiver is cut off from the line
        s->refused = true;
        return false;
    }
    rx_put(s, byte);
    irq_update(s);
    return true;
}

void serial_reset(struct serial *s)
{
    DEVICE_LOCKED();
    timer_del(&s->timeout);
    s->ier = s->fcr = s->lcr = s->mcr = s->msr_delta = s->lsr_errors = 0;
    s->divisor = 12;                           // the chip leaves it undefined; 9600 baud is what firmware leaves
    s->thre_pending = s->timeout_pending = false;
    s->rx_head = s->rx_count = 0;
    room_again(s);
    irq_update(s);
}

struct serial *serial_new(struct phys *p, u16 port, struct irq irq, void (*out)(const void *buf, size_t len))
{
    static const struct io_ops ops = {.read = serial_read, .write = serial_write, .max_size = 1};
    struct serial *s = plat_pages_alloc(sizeof *s);
    if (!s) panic("no memory for the serial port");
    s->irq = irq;
    s->out = out;
    timer_init(&s->timeout, CLOCK_VIRTUAL_, timeout_fired, s);
    serial_reset(s);
    phys_add_ports(p, port, 8, &ops, s, "serial");
    return s;
}
