// A platform and vCPU for device tests: time stands still, posts are recorded, console output is kept.
#include "tests/unit/device_fake.h"

#include <stdio.h>
#include <sched.h>
#include <stdlib.h>
#include <string.h>

#include "devices/clock.h"
#include "kernel/plat.h"
#include "tcg/run/vcpu.h"

struct fake fake;
static void *blocks[256];
static unsigned nblocks;
unsigned passed, failed;

void check_at(bool ok, const char *file, int line, const char *what)
{
    if (ok) passed++;
    else { failed++; printf("%s:%d: FAILED: %s\n", file, line, what); }
}

void *plat_pages_alloc(u64 size)
{
    void *p = calloc(1, size);
    if (nblocks < 256) blocks[nblocks++] = p;
    return p;
}
void plat_pages_free(void *p, u64 size)
{
    for (unsigned i = 0; i < nblocks; i++)
        if (blocks[i] == p) blocks[i] = NULL;
    free(p);
}
void plat_console_write(const void *buf, size_t len) { fake_serial_out(buf, len); }
void plat_console_ready(void) { fake.kicks_ready++; }
void plat_log_write(const char *text, size_t len, bool trace) { }
void plat_panic(const char *text) { printf("PANIC: %s\n", text); abort(); }
void bql_lock_at(const char *file, int line) { check_at(!fake.bql, file, line, "BQL taken twice"); fake.bql = true; }
void bql_unlock_at(const char *file, int line) { check_at(fake.bql, file, line, "BQL released unheld"); fake.bql = false; }
struct plat_io { int unused; };
void plat_io_wake(struct plat_io *io) { fake.io_wakes++; }
void plat_attention(void) { fake.attentions++; }
bool bql_held(void) { return fake.bql; }
bool plat_irq_save(void) { return true; }
void plat_irq_restore(bool saved) {}
void plat_relax(unsigned turn) { sched_yield(); }

bool plat_in_interrupt(void) { return false; }
struct vcpu *vcpu_current(void) { return NULL; }
void vcpu_fpu_release(struct vcpu *c) { }
void vcpu_request_shutdown(struct vcpu *c, int code) { fake.shutdowns++; fake.shutdown_code = code; }
void vcpu_request_reset(struct vcpu *c) { fake.resets++; }
void lapic_msi(u64 addr, u32 data)
{
    if (fake.nmsi < 64) { fake.msi[fake.nmsi].addr = addr; fake.msi[fake.nmsi++].data = data; }
}

u64 clock_ns(enum clock_type c) { return fake.now; }
void timer_init_named(struct timer *t, enum clock_type c, void (*fn)(void *opaque), void *opaque, const char *name)
{
    *t = (struct timer){.clock = c, .expire_ns = UINT64_MAX, .fn = fn, .opaque = opaque};
    fake.timers[fake.ntimers++] = t;
}
void timer_mod_ns(struct timer *t, u64 expire_ns) { t->expire_ns = expire_ns; }
void timer_del(struct timer *t) { t->expire_ns = UINT64_MAX; }

void fake_advance(u64 ns)
{
    fake.now += ns;
    for (unsigned i = 0; i < fake.ntimers; i++) {
        struct timer *t = fake.timers[i];
        if (t->expire_ns > fake.now) continue;
        t->expire_ns = UINT64_MAX;
        bql_lock();
        t->fn(t->opaque);
        bql_unlock();
    }
}

static void line_set(void *opaque, unsigned n, bool level)
{
    if (level && !fake.line[n]) fake.edges[n]++;
    fake.line[n] = level;
}
struct irq fake_irq(unsigned n) { return (struct irq){line_set, NULL, n}; }

void fake_serial_out(const void *buf, size_t len)
{
    for (size_t i = 0; i < len && fake.nconsole < sizeof fake.console; i++) fake.console[fake.nconsole++] = ((const char *)buf)[i];
}

static void on_code_written(void *opaque, struct gpa a, u64 len)
{
    fake.code_written++;
    fake.watched += fake.watch - a.v < len;
    fake.written_at = a.v;
    fake.written_len = len;
}
static void on_map_changed(void *opaque) { fake.map_changed++; }

struct phys *fake_machine(u64 ram_size)
{
    memset(&fake, 0, sizeof fake);
    struct phys *p = phys_new();
    if (ram_size) phys_add_ram(p, gpa(0), ram_size, plat_pages_alloc(ram_size), "ram");
    struct phys_hooks h = {on_code_written, on_map_changed, NULL};
    phys_set_hooks(p, &h);
    return p;
}

void fake_done(void)
{
    while (nblocks) free(blocks[--nblocks]);
}
