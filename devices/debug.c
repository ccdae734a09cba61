// Two ports that no PC has, for test programs: isa-debug-exit ends the emulator with a code, debugcon prints a byte. Numbers and
// meaning are QEMU's, so that existing tests run unchanged.
#include "devices/devices.h"
#include "kernel/base/log.h"
#include "kernel/plat.h"

struct debug_exit { struct vcpu *cpu; };

static u64 debug_exit_read(void *opaque, u64 addr, unsigned size) { return 0; }

// A write of v ends with status (v << 1) | 1: never 0, so that it differs from a power-off.
static void debug_exit_write(void *opaque, u64 addr, u64 val, unsigned size)
{
    struct debug_exit *s = opaque;
    vcpu_request_shutdown(s->cpu, (int)((u32)val << 1 | 1));
}

void debug_exit_new(struct phys *p, struct vcpu *c, u16 base, unsigned size)
{
    static const struct io_ops ops = {.read = debug_exit_read, .write = debug_exit_write};
    struct debug_exit *s = plat_pages_alloc(sizeof *s);
    if (!s) panic("no memory for isa-debug-exit");
    s->cpu = c;
    phys_add_ports(p, base, size, &ops, s, "isa-debug-exit");
}

// The read tells a program that the port is there.
static u64 debugcon_read(void *opaque, u64 addr, unsigned size) { return 0xe9; }

struct debugcon { void (*out)(const void *buf, size_t len); };

static void debugcon_write(void *opaque, u64 addr, u64 val, unsigned size)
{
    const struct debugcon *s = opaque;
    u8 b = val;
    s->out(&b, 1);
}

void debugcon_new(struct phys *p, u16 port, void (*out)(const void *buf, size_t len))
{
    static const struct io_ops ops = {.read = debugcon_read, .write = debugcon_write, .max_size = 1};
    struct debugcon *s = plat_pages_alloc(sizeof *s);
    if (!s) panic("no memory for debugcon");
    s->out = out;
    phys_add_ports(p, port, 1, &ops, s, "debugcon");
}
