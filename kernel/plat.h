// The platform contract: everything that tcg/ and devices/ may ask of what they run on.
//
// Two implementations: kernel/ (the bare machine) and hosted/ (a Linux process). Neither tcg/ nor devices/
// knows which one it has.
//
// Concurrency, in one paragraph. "Interrupt" means a hardware interrupt on metal and a signal hosted. Timers
// and input arrive as interrupts on top of whatever runs, translated code included. The BQL is
// "interrupts off on this core" plus a spinlock between cores; whoever changes a device or a timer holds it,
// and interrupt handlers hold it while they run callbacks. Nothing waits on a condition variable: a core with
// nothing to do calls plat_idle(), which an interrupt ends.
//
// C code reached from translated code runs while the guest's vector and x87 registers are live in the
// host's: all of tcg/, devices/ and kernel/ is compiled with -mgeneral-regs-only. Before calling a libc function that
// may touch vector registers, use vcpu_fpu_release() (tcg/run/vcpu.h) - the dispatcher of device accesses does so for devices.
#pragma once

#include "kernel/base/lockstat.h"
#include "kernel/base/types.h"

// ---- memory -------------------------------------------------------------------------------------------
// Zeroed, page-aligned memory of `size` bytes (rounded up to pages); NULL when there is none. Not from interrupt context.
void *plat_pages_alloc(u64 size) MUST_CHECK;
void plat_pages_free(void *p, u64 size);
// A code cache: `size` bytes of the same memory mapped twice, writable at *rw and executable at *rx, within
// 2 GiB of each other. False when the platform cannot.
bool plat_code_alloc(u64 size, u8 **rw, u8 **rx) MUST_CHECK;

// ---- time ---------------------------------------------------------------------------------------------
// Nanoseconds since some fixed moment; monotonic, the same on all cores. Any context, no lock.
u64 plat_time_ns(void);
// Wall-clock nanoseconds since 1970 UTC. Any context.
u64 plat_wall_ns(void);
// Arms the one physical timer: plat_events.timer is called in interrupt context at or soon after `deadline_ns`
// (plat_time_ns scale); a deadline in the past fires at once. UINT64_MAX disarms. BQL held.
void plat_timer_arm(u64 deadline_ns);

// ---- the big lock ---------------------------------------------------------------------------------------
// Interrupts off on this core plus the ticket lock between cores. Not recursive: taking it twice, releasing it unheld, or finding
// interrupts enabled while it is held panics with the place. What arrived meanwhile is handled at unlock.
void bql_lock_at(const char *file, int line);
void bql_unlock_at(const char *file, int line);
#define bql_lock() bql_lock_at(__FILE__, __LINE__)
#define bql_unlock() bql_unlock_at(__FILE__, __LINE__)
// Held by this core (interrupt handlers hold it while they run callbacks)?
bool bql_held(void);
// How often core `id` took it, waited for it, and for how long. False: that core does not run. Any context.
bool plat_bql_stats(unsigned id, struct lockstat *s) MUST_CHECK;

// Interrupts off on this core, without the lock: for sections so short that a spinlock of one's own guards them. Returns what
// plat_irq_restore wants; nests. What arrived meanwhile is handled at the last restore. Any context.
bool plat_irq_save(void);
void plat_irq_restore(bool saved);
// A turn of a loop that waits for another core; `turn` counts them. Hosted, it gives the processor away now and then.
void plat_relax(unsigned turn);

// ---- cores ----------------------------------------------------------------------------------------------
// How many there are for vCPUs: cores given to I/O are not among them.
unsigned plat_core_count(void);
// This core's number, 0-based; PLAT_NO_CORE on a thread that is none (an I/O thread, a hosted helper). Any context.
enum { PLAT_NO_CORE = 255 };
unsigned plat_core_id(void);
// True in an interrupt handler.
bool plat_in_interrupt(void);
// Runs fn(arg) on core `id` (a pthread hosted); fn does not return. Core 0 is the caller of main.
bool plat_core_start(unsigned id, void (*fn)(void *), void *arg) MUST_CHECK;
// Interrupts core `id`, so that it leaves plat_idle() and plat_events.interrupted is called there. Idempotent, any context.
void plat_core_kick(unsigned id);
// Sleeps until the next interrupt. Called with the BQL held and the caller having seen that nothing is pending;
// releases it, sleeps without a window in which a wake-up is lost (sti;hlt / sigsuspend), handles what came, and takes it again.
void plat_idle(void);
// Makes GS base on this core point at `vcpu`, which translated code addresses GS-relative. The first 8 bytes of what
// `vcpu` points to belong to the platform (on metal: the core's own record) and are set by this call.
void plat_bind_vcpu(void *vcpu);

// ---- I/O threads ----------------------------------------------------------------------------------------
// Threads (hosted) or cores (metal) given to I/O: they run no vCPU, never hold the BQL and take no interrupts.
struct plat_io;
// Starts one that calls serve(opaque) after each plat_io_wake, or once for several. NULL: the platform has none to give, and err says why
// and what mends it. Core 0, before the vCPUs' cores are started.
struct plat_io *plat_io_start(void (*serve)(void *opaque), void *opaque, char *err, size_t errlen) MUST_CHECK;
// Any context, guest vector registers may be live; also from serve(), which is then called again. Never lost: serve() begins after this
// call at least once. Costs an atomic exchange, and an interrupt or a system call only if the thread sleeps.
void plat_io_wake(struct plat_io *io);
// Asks for plat_events.attention, which has what an I/O thread may not do itself. I/O threads only.
void plat_attention(void);

// ---- console ----------------------------------------------------------------------------------------------
// The emulator's own console (hosted: the terminal; metal: serial line and screen). Bytes as they are.
// Writing may be called in any context; never blocks for long.
void plat_console_write(const void *buf, size_t len);

// ---- what the platform calls ----------------------------------------------------------------------------
// Registered once by the machine before the first timer is armed. All run in interrupt context.
struct plat_events {
    // An interrupt begins. Called first in every one that `interrupted` ends. BQL not held, no logging.
    void (*entered)(void);
    // The physical timer fired. BQL held.
    void (*timer)(void);
    // A byte for the guest's console arrived (after Ctrl-A handling). BQL held. Returns false when it has no room: the
    // platform keeps the byte and offers it again after plat_console_ready().
    bool (*console_input)(u8 byte);
    // An I/O thread asked for it (plat_attention). BQL held. May be called without need.
    void (*attention)(void);
    // An interrupt (timer, input, kick) hit this core at host instruction `rip`. BQL not held. Called on every interrupt,
    // last; returns the address to resume at (usually rip). No locks, no logging.
    u64 (*interrupted)(u64 rip);
    // The processor raised a synchronous fault at `rip`: vector as in SDM 3A 6.3 (0 #DE, 13 #GP, 14 #PF, 16 #MF, 17 #AC, 19 #XM).
    // `eflags` is the interrupted EFLAGS. Returns the address to resume at, or 0: not ours, which is fatal.
    u64 (*host_fault)(unsigned vector, u64 rip, u64 eflags);
};
void plat_events_set(const struct plat_events *ev);
// The guest's console device has room again. BQL held.
void plat_console_ready(void);

// Cupel's own messages (kernel/base/log.c): a whole line or trace text. Any context, guest vector registers may be live.
void plat_log_write(const char *text, size_t len, bool trace);

// Writes a disassembly of `code` (guest code at pc, or host code) to the trace; bits: 64, 32, 16. A platform without a
// disassembler writes the bytes. May use vector registers: the guest's must have been released. Not from interrupt context.
void plat_disassemble(u64 pc, const u8 *code, size_t len, unsigned bits);

// ---- end ----------------------------------------------------------------------------------------------------
// Ends the emulator: hosted, the process exits with `code`; on metal, code 0 is ACPI power-off, others
// show a message and halt. Any context.
NORETURN void plat_exit(int code);
// Prints text, the interrupted registers where known, a symbolised backtrace and vcpu_describe_now(), and stops. Any context.
NORETURN void plat_panic(const char *text);
