// The platform contract on the bare machine: thin, most of it leads to the file that does the work.
//
// The BQL. Taking it switches interrupts off first, so that nothing on this core can come between, and then takes the ticket
// between cores. What RFLAGS.IF was before is kept in the core's record and put back by the release: inside a handler, where
// interrupts are off already, they stay off. Handlers only ever interrupt code that does not hold the lock (it would have them
// off), which is why it need not be recursive.
#include "kernel/plat.h"

#include "kernel/base/log.h"
#include "kernel/console.h"
#include "kernel/core.h"
#include "kernel/cpu.h"
#include "kernel/hwtimer.h"
#include "kernel/lapic.h"
#include "kernel/plat_events.h"
#include "kernel/pmem.h"
#include "kernel/power.h"
#include "kernel/traps.h"
#include "kernel/vmem.h"

static struct { struct ticket_lock bql; struct plat_events events; u64 code_next; } plat = {.code_next = VMEM_CODE_BASE};

// ---- memory ----

void *plat_pages_alloc(u64 size) { return vmem_alloc(size); }
void plat_pages_free(void *p, u64 size) { vmem_free(p, size); }

bool plat_code_alloc(u64 size, u8 **rw, u8 **rx)
{
    size = align_up(size, 2 * MIB);
    u64 w = plat.code_next, x = w + size + 2 * MIB;   // a hole between: writing past the end faults
    if (!size || size > GIB || x + size > VMEM_CODE_END || !vmem_populate(w, size, VMEM_WRITE)) return false;
    for (u64 off = 0, page; off < size; off += page) {
        u64 phys = vmem_phys(w + off, &page);
        if (!vmem_map(x + off, phys, page, VMEM_READ | VMEM_EXEC)) return false;
    }
    plat.code_next = x + size + 2 * MIB;
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
    if (c->bql_held) panic("%s:%d: BQL taken twice; first at %s:%d", file, line, c->bql_file, c->bql_line);
    ticket_lock(&plat.bql);
    c->bql_held = true;
    c->bql_flags = flags;
    c->bql_file = file;
    c->bql_line = line;
}

void bql_unlock_at(const char *file, int line)
{
    struct core *c = core_self();
    if (!c->bql_held) panic("%s:%d: BQL released but not held", file, line);
    u64 flags = c->bql_flags;
    c->bql_held = false;
    ticket_unlock(&plat.bql);
    cpu_irq_restore(flags);
}

bool bql_held(void) { return core_self()->bql_held; }

// ---- cores ----

unsigned plat_core_count(void) { return 1; }   // the others are not started yet
unsigned plat_core_id(void) { return core_self()->id; }
bool plat_in_interrupt(void) { return core_self()->in_interrupt != 0; }
bool plat_core_start(unsigned id, void (*fn)(void *), void *arg) { return false; }

void plat_core_kick(unsigned id)
{
    ASSERT(id == 0, "core %u is not running", id);
    lapic_send(core_self()->apic_id, VEC_KICK);
}

void plat_idle(void)
{
    struct core *c = core_self();
    ASSERT(c->bql_held && !c->in_interrupt, "plat_idle needs the BQL, outside handlers");
    u64 flags = c->bql_flags;   // handlers that come meanwhile take the lock themselves
    c->bql_held = false;
    ticket_unlock(&plat.bql);
    // STI takes effect after the next instruction: an interrupt that is pending now ends the HLT (SDM 2B, STI).
    __asm__ volatile("sti; hlt; cli" : : : "memory");
    ticket_lock(&plat.bql);
    c->bql_held = true;
    c->bql_flags = flags;
}

void plat_bind_vcpu(void *vcpu)
{
    struct core *c = core_self();
    *(struct core **)vcpu = c;   // before GS moves: core_self() must be right at every instruction
    cpu_wrmsr(MSR_GS_BASE, (u64)vcpu);
}

// ---- I/O threads ----

struct plat_io *plat_io_start(void (*serve)(void *), void *opaque) { return NULL; }   // would be a core, and the others are not started yet

// Nobody can have one to wake, and only they call for attention.
void plat_io_wake(struct plat_io *io) { panic("I/O thread %p woken on a machine that has none", (void *)io); }
void plat_attention(void) { panic("attention wanted by an I/O thread on a machine that has none"); }

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
    (void)cpu_irq_save();
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
