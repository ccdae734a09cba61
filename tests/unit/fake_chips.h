// A fake platform for the tests of clocks and chips: time that the test steps, one physical timer, vCPUs that record what was posted, and
// a small physical address space. Included by one source file per program; everything is static but what the contract names.
#pragma once

#include <pthread.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "devices/clock.h"
#include "devices/devices.h"
#include "kernel/base/bits.h"
#include "kernel/base/log.h"
#include "kernel/plat.h"
#include "tests/unit/locked.h"

// ---- results ----
static unsigned passed, failed;
static void check_row(bool ok, int line, const char *what)
{
    if (ok) passed++;
    else { failed++; printf("line %d: FAILED: %s\n", line, what); }
}
#define CHECK(c) check_row((c), __LINE__, #c)
#define CHECK_EQ(a, b)                                                                                             \
    do {                                                                                                           \
        u64 a_ = (u64)(a), b_ = (u64)(b);                                                                          \
        if (a_ != b_) printf("line %d: %#llx, expected %#llx\n", __LINE__, (unsigned long long)a_, (unsigned long long)b_); \
        check_row(a_ == b_, __LINE__, #a " == " #b);                                                               \
    } while (0)
static int test_result(void)
{
    printf("%u passed, %u failed\n", passed, failed);
    return failed != 0;
}

void panic(const char *fmt, ...)
{
    va_list ap;
    va_start(ap, fmt);
    printf("PANIC: ");
    vprintf(fmt, ap);
    printf("\n");
    va_end(ap);
    exit(1);
}
void log_write(enum log_level lv, const char *fmt, ...) { }

static void *fake_blocks[64];   // kept, so that a leak checker stays quiet
static unsigned fake_nblocks;
void *plat_pages_alloc(u64 size) { return fake_blocks[fake_nblocks++ % 64] = calloc(1, align_up(size, PAGE_SIZE)); }

// ---- time, lock, cores ----
static u64 fake_time = 1000000, fake_armed = UINT64_MAX, fake_arms;
static s64 fake_wall = 1700000000ll * 1000000000ll;   // wall time less platform time
static pthread_mutex_t fake_lock = PTHREAD_MUTEX_INITIALIZER;
static __thread bool fake_held, fake_interrupt;
static __thread unsigned fake_core;

u64 plat_time_ns(void) { return __atomic_load_n(&fake_time, __ATOMIC_RELAXED); }
u64 plat_wall_ns(void) { return plat_time_ns() + (u64)fake_wall; }
void plat_timer_arm(u64 deadline)
{
    if (!fake_held) panic("plat_timer_arm without the BQL");
    fake_armed = deadline;
    fake_arms++;
}
void bql_lock_at(const char *file, int line)
{
    if (fake_held) panic("%s:%d: BQL taken twice", file, line);
    pthread_mutex_lock(&fake_lock);
    fake_held = true;
}
void bql_unlock_at(const char *file, int line)
{
    if (!fake_held) panic("%s:%d: BQL not held", file, line);
    fake_held = false;
    pthread_mutex_unlock(&fake_lock);
}
bool bql_held(void) { return fake_held; }
unsigned plat_core_id(void) { return fake_core; }
unsigned plat_core_count(void) { return 2; }
bool plat_in_interrupt(void) { return fake_interrupt; }

// Goes to time `to`, with a timer interrupt wherever the physical timer is armed on the way.
static void fake_run_to(u64 to)
{
    while (fake_armed <= to) {
        if (fake_armed > fake_time) fake_time = fake_armed;
        fake_armed = UINT64_MAX;
        bql_lock();
        fake_interrupt = true;
        clocks_run_expired();
        fake_interrupt = false;
        bql_unlock();
    }
    if (to > fake_time) fake_time = to;
}
static UNUSED void fake_step(u64 ns) { fake_run_to(fake_time + ns); }
// Time goes by and interrupts wait: a core that is late.
static UNUSED void fake_late(u64 ns) { fake_time += ns; }

static UNUSED void fake_start(void)
{
    fake_armed = UINT64_MAX;
    clocks_init();
    bql_lock();
    clock_resume_vm();
    bql_unlock();
}

// ---- vCPUs ----
struct vcpu {
    unsigned index;
    const struct apic_ops *ops;
    void *apic;
    u64 posted[4], level[4];
    unsigned posts, nmis, inits, sipis, kicks;
    u8 sipi_page;
    bool extint;
};
static UNUSED struct vcpu fake_cpus[20];
static struct vcpu *fake_current;

void vcpu_post_interrupt(struct vcpu *c, u8 v, bool level)
{
    c->posts++;
    c->posted[v >> 6] |= BIT(v & 63);
    if (level) c->level[v >> 6] |= BIT(v & 63);
}
void vcpu_set_extint(struct vcpu *c, bool on) { c->extint = on; }
void vcpu_post_nmi(struct vcpu *c) { c->nmis++; }
void vcpu_post_init(struct vcpu *c) { c->inits++; }
void vcpu_post_sipi(struct vcpu *c, u8 page) { c->sipis++; c->sipi_page = page; }
void vcpu_kick(struct vcpu *c) { c->kicks++; }
struct vcpu *vcpu_current(void) { return fake_current; }
bool cpu_is_self(struct vcpu *c) { return c == fake_current && !fake_interrupt; }
unsigned vcpu_index(const struct vcpu *c) { return c->index; }
void vcpu_set_apic(struct vcpu *c, const struct apic_ops *ops, void *apic) { c->ops = ops; c->apic = apic; }

// ---- address space ----
struct phys { struct region r[32]; bool port[32]; unsigned n; };
static struct phys fake_phys;

static struct region *fake_add(struct phys *p, bool port, u64 base, u64 size, const struct io_ops *ops, void *opaque)
{
    struct region *r = &p->r[p->n];
    *r = (struct region){.base = base, .size = size, .kind = REGION_MMIO, .ops = ops, .opaque = opaque};
    p->port[p->n++] = port;
    return r;
}
struct region *phys_add_mmio(struct phys *p, struct gpa base, u64 size, const struct io_ops *ops, void *opaque, const char *name)
{
    return fake_add(p, false, base.v, size, ops, opaque);
}
struct region *phys_add_ports(struct phys *p, u16 base, unsigned count, const struct io_ops *ops, void *opaque, const char *name)
{
    return fake_add(p, true, base, count, ops, opaque);
}
static struct region *fake_find(bool port, u64 a)
{
    for (unsigned i = fake_phys.n; i-- > 0;)
        if (fake_phys.port[i] == port && a - fake_phys.r[i].base < fake_phys.r[i].size) return &fake_phys.r[i];
    panic("nothing at %#llx", (unsigned long long)a);
}
static u64 fake_read(bool port, u64 a, unsigned size)
{
    struct region *r = fake_find(port, a);
    if (!r->ops->unlocked) bql_lock();
    u64 v = r->ops->read(r->opaque, a - r->base, size);
    if (!r->ops->unlocked) bql_unlock();
    return bits_zext(v, size);
}
static void fake_write(bool port, u64 a, u64 v, unsigned size)
{
    struct region *r = fake_find(port, a);
    if (!r->ops->unlocked) bql_lock();
    r->ops->write(r->opaque, a - r->base, v, size);
    if (!r->ops->unlocked) bql_unlock();
}
static UNUSED u8 in8(u16 port) { return (u8)fake_read(true, port, 1); }
static UNUSED void out8(u16 port, u8 v) { fake_write(true, port, v, 1); }
static UNUSED u32 ld32(u64 a) { return (u32)fake_read(false, a, 4); }
static UNUSED void st32(u64 a, u32 v) { fake_write(false, a, v, 4); }
static UNUSED u64 ld64(u64 a) { return fake_read(false, a, 8); }
static UNUSED void st64(u64 a, u64 v) { fake_write(false, a, v, 8); }

// ---- lines that count ----
struct fake_line { bool level; unsigned rises; u64 last_rise; };
static struct fake_line fake_lines[32];
static void fake_line_set(void *opaque, unsigned n, bool level)
{
    struct fake_line *l = &fake_lines[n];
    if (!fake_held) panic("line %u set without the BQL", n);
    if (level && !l->level) {
        l->rises++;
        l->last_rise = fake_time;
    }
    l->level = level;
}
static UNUSED struct irq fake_irq(unsigned n) { return (struct irq){fake_line_set, NULL, n}; }
