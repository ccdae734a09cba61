// Cores given to I/O: what threads are hosted. They are taken from the end, before the vCPUs' cores start, and plat_core_count() does not
// count them: who asks it is about to give cores to vCPUs.
//
// Such a core has interrupts off but for its sleep, so the only interrupts it ever takes are those that end one. NMIs reach it like any
// core, which is all that TLB flushes and the end of the machine want of it (cores.c).
//
// The word `state' is all there is between the two sides. Whoever wakes puts AWAKE into it and sends an IPI only if the core was asleep;
// the core goes to sleep only if the word is still IDLE, which it was made before the core looked for work the last time. From there to the
// HLT interrupts are off, so the IPI waits and ends the sleep at once: a wake-up is never lost. An IPI costs both sides a microsecond or
// more, and the next request often follows the last one's end at once, so the core looks at the word for LOOK_TICKS before it sleeps.
#include "kernel/base/fmt.h"
#include "kernel/base/log.h"
#include "kernel/core.h"
#include "kernel/cores.h"
#include "kernel/cpu.h"
#include "kernel/plat.h"
#include "kernel/traps.h"

enum { IO_MAX = 8, LOOK_TICKS = 200000 };   // of the TSC: 50 to 100 microseconds

enum { IDLE, AWAKE, ASLEEP };

struct plat_io {
    u32 state;                      // atomic
    unsigned core;
    void (*serve)(void *opaque);
    void *opaque;
} __attribute__((aligned(64)));     // `state' is written by vCPUs all the time, and alone in its cache line

static struct { struct plat_io io[IO_MAX]; unsigned n; } ios;

static u32 io_state(struct plat_io *io) { return __atomic_load_n(&io->state, __ATOMIC_SEQ_CST); }

// Interrupts off.
static void io_rest(struct plat_io *io)
{
    for (u64 t0 = cpu_rdtsc(); io_state(io) == IDLE && cpu_rdtsc() - t0 < LOOK_TICKS;) cpu_pause();
    u32 idle = IDLE;
    if (__atomic_compare_exchange_n(&io->state, &idle, ASLEEP, false, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST)) core_sleep();
}

static NORETURN void io_core(void *arg)
{
    struct plat_io *io = arg;
    (void)cpu_irq_save();
    for (;; cpu_pause()) {
        if (__atomic_exchange_n(&io->state, IDLE, __ATOMIC_SEQ_CST) == AWAKE) io->serve(io->opaque);
        else io_rest(io);
    }
}

struct plat_io *plat_io_start(void (*serve)(void *opaque), void *opaque, char *err, size_t errlen)
{
    unsigned cores = cores_count();
    if (ios.n == IO_MAX) {
        fmt_snprintf(err, errlen, "at most %d cores can be given to I/O", IO_MAX);
        return NULL;
    }
    if (plat_core_count() == 1) {
        fmt_snprintf(err, errlen, "a core is to be given to I/O, but this PC has %u core%s%s, and one has to remain for the guest; leave iothread out "
                     "(the drive is then served under the big lock), or use a PC with %u cores", cores, cores == 1 ? "" : "s",
                     cores == 1 ? "" : ", the others are given away already", cores + 1);
        return NULL;
    }
    struct plat_io *io = &ios.io[ios.n];
    *io = (struct plat_io){.core = plat_core_count() - 1, .serve = serve, .opaque = opaque};
    cores_give_to_io(io->core);
    if (!plat_core_start(io->core, io_core, io)) panic("core %u, which is to serve I/O, runs something else", io->core);
    ios.n++;
    log_info("core %u serves I/O; cores left for the vCPUs: %u", io->core, plat_core_count());
    return io;
}

void plat_io_wake(struct plat_io *io)
{
    if (__atomic_exchange_n(&io->state, AWAKE, __ATOMIC_SEQ_CST) == ASLEEP) plat_core_kick(io->core);
}

void plat_attention(void) { cores_send(0, VEC_ATTENTION); }
