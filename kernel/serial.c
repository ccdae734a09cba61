// 16550 driver (PC16550D data sheet). Output goes through a ring that is drained into the 16-byte FIFO by the transmitter-empty
// interrupt, so that a guest that prints is not held up by 115200 baud until the ring is full; then it waits rather than losing
// text. Before interrupts work, and in a panic, everything is polled. Every wait is bounded: a chip that never gets ready is given
// up.
#include "kernel/serial.h"

#include "kernel/acpi.h"
#include "kernel/base/log.h"
#include "kernel/boot_info.h"
#include "kernel/cpu.h"
#include "kernel/lapic.h"
#include "kernel/traps.h"
#include "kernel/vmem.h"

enum { R_DATA, R_IER, R_FCR, R_LCR, R_MCR, R_LSR, R_MSR, R_SCRATCH };   // R_FCR reads as IIR
enum { IER_RX = 1, IER_TX = 2, LCR_8N1 = 3, LCR_DLAB = 0x80, MCR_DTR_RTS_OUT2 = 0x0b };
enum { LSR_RX = 1, LSR_THRE = 0x20, LSR_IDLE = 0x40, FCR_ON = 7 };
enum { RING = 32768, FIFO = 16, PATIENCE = 2000000 };

static struct {
    bool present, by_irq;
    u16 port;               // 0: registers in memory
    volatile u8 *regs;
    u8 shift;
    u32 head, tail;         // free-running
    u8 ring[RING];
} uart;

static u8 uart_rd(unsigned r) { return uart.port ? cpu_in8((u16)(uart.port + r)) : uart.regs[r << uart.shift]; }

static void uart_wr(unsigned r, u8 v)
{
    if (uart.port) cpu_out8((u16)(uart.port + r), v);
    else uart.regs[r << uart.shift] = v;
}

// Is there a chip? An absent one reads as ones; the scratch register tells from other things.
static bool uart_probe(void)
{
    if (uart_rd(R_LSR) == 0xff) return false;
    uart_wr(R_SCRATCH, 0x5a);
    return uart_rd(R_SCRATCH) == 0x5a;
}

static void uart_setup(u32 baud)
{
    uart_wr(R_IER, 0);
    uart_wr(R_LCR, LCR_8N1 | LCR_DLAB);
    u16 now = (u16)(uart_rd(R_DATA) | uart_rd(R_IER) << 8);
    u16 div = baud ? (u16)(115200 / baud) : now == 0 || now == 0xffff ? 1 : now;   // without a wish, as the firmware left it
    uart_wr(R_DATA, (u8)div);
    uart_wr(R_IER, (u8)(div >> 8));
    uart_wr(R_LCR, LCR_8N1);
    uart_wr(R_FCR, FCR_ON);
    uart_wr(R_MCR, MCR_DTR_RTS_OUT2);
}

void serial_init(u32 port, u32 baud)
{
    uart.port = port == BOOT_SERIAL_AUTO ? 0x3f8 : (u16)port;
    if (!port) return;
    uart.present = uart_probe();
    if (uart.present) uart_setup(baud);
}

bool serial_present(void) { return uart.present; }

// Moves from the ring into the FIFO if that is empty.
static void uart_refill(void)
{
    if (!uart.present || uart.head == uart.tail || !(uart_rd(R_LSR) & LSR_THRE)) return;
    for (unsigned i = 0; i < FIFO && uart.tail != uart.head; i++) uart_wr(R_DATA, uart.ring[uart.tail++ % RING]);
}

// The transmitter interrupt is wanted only while the ring holds something.
static void uart_update_ier(void)
{
    if (uart.present && uart.by_irq) uart_wr(R_IER, uart.head != uart.tail ? IER_RX | IER_TX : IER_RX);
}

static void uart_drain_to(u32 left)
{
    u32 spins = 0;
    while (uart.present && uart.head - uart.tail > left) {
        u32 before = uart.tail;
        uart_refill();
        spins = uart.tail == before ? spins + 1 : 0;
        if (spins > PATIENCE) uart.present = false;   // flow control or dead hardware: better silent than stuck
        cpu_pause();
    }
}

void serial_write(const void *buf, size_t len)
{
    if (!uart.present) return;
    const u8 *p = buf;
    while (len--) {
        if (uart.head - uart.tail == RING) uart_drain_to(RING - FIFO);
        uart.ring[uart.head++ % RING] = *p++;
    }
    if (uart.by_irq) {
        uart_refill();
        uart_update_ier();
    } else {
        uart_drain_to(0);
    }
}

void serial_flush(void)
{
    uart_drain_to(0);
    for (unsigned i = 0; uart.present && i < PATIENCE && !(uart_rd(R_LSR) & LSR_IDLE); i++) cpu_pause();
}

int serial_service(void)
{
    if (!uart.present) return -1;
    if (uart_rd(R_LSR) & LSR_RX) return uart_rd(R_DATA);
    uart_refill();
    uart_update_ier();
    (void)uart_rd(R_FCR);   // reading IIR acknowledges the transmitter interrupt
    return -1;
}

static void serial_use_spcr(const struct acpi_info *a)
{
    u16 old_port = uart.port;
    bool old = uart.present;
    if (a->spcr.space == 1) {
        if ((u16)a->spcr.address == old_port && old) return;
        uart.port = (u16)a->spcr.address;
    } else {
        uart.regs = vmem_map_phys(a->spcr.address, 64, VMEM_WRITE | VMEM_UC);
        uart.shift = a->spcr.bits == 32 || a->spcr.access == 3 ? 2 : 0;
        if (uart.regs) uart.port = 0;
    }
    uart.present = uart_probe();
    if (uart.present) {
        uart_setup(a->spcr_baud);
    } else {
        uart.port = old_port;
        uart.present = old;
    }
}

void serial_init_interrupts(u32 port)
{
    const struct acpi_info *a = acpi_info();
    bool spcr = port == BOOT_SERIAL_AUTO && a->has_spcr;
    if (spcr) serial_use_spcr(a);
    if (!uart.present) return;
    unsigned isa = uart.port == 0x2f8 || uart.port == 0x2e8 ? 3 : 4;
    bool legacy = uart.port == 0x3f8 || uart.port == 0x2f8 || uart.port == 0x3e8 || uart.port == 0x2e8;
    if (legacy) uart.by_irq = ioapic_route_isa(isa, VEC_SERIAL);
    else if (spcr && a->spcr_gsi) uart.by_irq = ioapic_route(a->spcr_gsi, VEC_SERIAL, true, true);
    if (!uart.by_irq) log_warn("the serial line has no interrupt; it shows output but takes no input");
    uart_update_ier();
}
