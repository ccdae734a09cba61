// The platform contract on the bare machine: thin, most of it leads to the file that does the work.
//
// The BQL. Taking it switches interrupts off first, so that nothing on this core can come between, and then takes the ticket
// between cores. What RFLAGS.IF was before is kept in the core's record and put back by the release: inside a handler, where
// interrupts are off already, they stay off. Handlers only ever interrupt code that does not hold the lock (it would have them
// off), which is why it need not be recursive. That nobody switches them on meanwhile is checked where it would show: at the release,
// and by trap_dispatch when an interrupt comes while the lock is held.
#include "kernel/plat.h"

#include "kernel/base/log.h"
#include "kernel/console.h"
#include "kernel/core.h"
#include "kernel/cpu.h"
#include "kernel/hwtimer.h"
#include "kernel/plat_events.h"
#include "kernel/power.h"
#include "kernel/vmem.h"

static struct {
    struct ticket_lock bql;
    struct plat_events events;
    struct ticket_lock code_lock;
    u64 code_next;
} plat = {.code_next = VMEM_CODE_BASE};

// ---- memory ----

void *plat_pages_alloc(u64 size) { return vmem_alloc(size); }
void plat_pages_free(void *p, u64 size) { vmem_free(p, size); }

// Addresses for two views of `size` bytes and holes behind both: writing past the end faults. 0: none left.
static u64 code_addresses(u64 size)
{
    u64 flags = ticket_lock_irq(&plat.code_lock), at = plat.code_next, next = at + 2 * (size + 2 * MIB);
    if (next > VMEM_CODE_END) at = 0;
    else plat.code_next = next;
    ticket_unlock_irq(&plat.code_lock, flags);
    return at;
}

bool plat_code_alloc(u64 size, u8 **rw, u8 **rx)
{
    size = align_up(size, 2 * MIB);
    if (!size || size > GIB) return false;
    u64 w = code_addresses(size), x = w + size + 2 * MIB;
    if (!w || !vmem_populate(w, size, VMEM_WRITE)) return false;
    for (u64 off = 0, page; off < size; off += page) {
        u64 phys = vmem_phys(w + off, &page);
        if (!vmem_map(x + off, phys, page, VMEM_READ | VMEM_EXEC)) return false;
    }
    *rw = (u8 *)w;
    *rx = (u8 *)x;
    return true;
}

// ---- time ----

u64 plat_time_ns(void) { return hwtimer_now_ns(); }
u64 plat_wall_ns(void) { return hwtimer_wall_ns(); }

void plat_timer_arm(u64 deadline_ns)
{
    ASSERT(bql_held(), "the timer changes under the BQL only");
    hwtimer_arm(HWTIMER_MACHINE, deadline_ns);
}

// ---- the big lock ----

void bql_lock_at(const char *file, int line)
{
    u64 flags = cpu_irq_save();
    struct core *c = core_self();
    if (c->io) panic("%s:%d: BQL taken by core %u, which serves I/O", file, line, c->id);
    if (c->bql_held) panic("%s:%d: BQL taken twice; first at %s:%d", file, line, c->bql_file, c->bql_line);
    lockstat_taken(&c->bql_stat, ticket_lock(&plat.bql));
    c->bql_held = true;
    c->bql_flags = flags;
    c->bql_file = file;
    c->bql_line = line;
}

void bql_unlock_at(const char *file, int line)
{
    struct core *c = core_self();
    if (!c->bql_held) panic("%s:%d: BQL released but not held", file, line);
    if (cpu_flags() & RFLAGS_IF) panic("%s:%d: BQL released with interrupts on; taken at %s:%d", file, line, c->bql_file, c->bql_line);
    u64 flags = c->bql_flags;
    c->bql_held = false;
    lockstat_released(&c->bql_stat);
    ticket_unlock(&plat.bql);
    cpu_irq_restore(flags);
}

bool bql_held(void) { return core_self()->bql_held; }

bool plat_irq_save(void) { return cpu_irq_save() & RFLAGS_IF; }
void plat_irq_restore(bool saved) { if (saved) __asm__ volatile("sti" : : : "memory"); }
void plat_relax(unsigned turn) { __builtin_ia32_pause(); }

void plat_idle(void)
{
    struct core *c = core_self();
    ASSERT(c->bql_held && !c->in_interrupt, "plat_idle needs the BQL, outside handlers");
    u64 flags = c->bql_flags;   // handlers that come meanwhile take the lock themselves
    c->bql_held = false;
    lockstat_released(&c->bql_stat);
    ticket_unlock(&plat.bql);
    core_sleep();
    lockstat_taken(&c->bql_stat, ticket_lock(&plat.bql));
    c->bql_held = true;
    c->bql_flags = flags;
}

// ---- events ----

void plat_events_set(const struct plat_events *ev)
{
    u64 flags = cpu_irq_save();
    plat.events = *ev;
    cpu_irq_restore(flags);
}

const struct plat_events *plat_events_get(void) { return &plat.events; }

// ---- end ----

void plat_exit(int code)
{
    console_panic_mode();
    if (code == 0) {
        console_flush();
        power_off();
    } else {
        log_error("Cupel ended with code %d; switch the machine off or reset it", code);
    }
    console_flush();
    cpu_halt_forever();
}
