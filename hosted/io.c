// I/O threads of the hosted platform: plain threads, no cores. They block all signals, take no lock of the emulator's, and sleep in a futex
// until somebody has something for them.
//
// The word `state` is all there is between the two sides. Whoever wakes puts AWAKE into it and needs the kernel only if the thread was
// asleep; the thread goes to sleep only if the word is still IDLE, which it was made before the thread looked for work the last time. So a
// wake-up is never lost, and a burst of them costs one system call at most.
#define _GNU_SOURCE
#include <linux/futex.h>
#include <stdlib.h>

#include "hosted/hosted.h"
#include "hosted/sys.h"
#include "kernel/base/fmt.h"
#include "kernel/base/log.h"

enum { IDLE, AWAKE, ASLEEP };

struct plat_io {
    u32 state;
    void (*serve)(void *opaque);
    void *opaque;
};

static void *io_thread(void *arg)
{
    struct plat_io *io = arg;
    core_block_signals();
    for (;;) {
        u32 idle = IDLE;
        if (__atomic_exchange_n(&io->state, IDLE, __ATOMIC_SEQ_CST) == AWAKE) io->serve(io->opaque);
        else if (__atomic_compare_exchange_n(&io->state, &idle, ASLEEP, false, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST))
            sys_call(SYS_futex, (long)&io->state, FUTEX_WAIT_PRIVATE, ASLEEP, 0);
    }
    return NULL;
}

struct plat_io *plat_io_start(void (*serve)(void *opaque), void *opaque, char *err, size_t errlen)
{
    pthread_t t;
    struct plat_io *io = calloc(1, sizeof *io);
    if (io) *io = (struct plat_io){.serve = serve, .opaque = opaque};
    if (!io || pthread_create(&t, NULL, io_thread, io) != 0) {
        fmt_snprintf(err, errlen, "the host gives no thread for I/O; raise its limits (ulimit -u), or leave iothread out");
        free(io);
        return NULL;
    }
    pthread_detach(t);
    return io;
}

void plat_io_wake(struct plat_io *io)
{
    if (__atomic_exchange_n(&io->state, AWAKE, __ATOMIC_SEQ_CST) == ASLEEP) sys_call(SYS_futex, (long)&io->state, FUTEX_WAKE_PRIVATE, 1, 0);
}

void plat_attention(void) { core_raise(IRQ_HELPER); }
