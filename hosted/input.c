// Input of the hosted platform: a thread reads the terminal (or a file, a pipe, a pty) into a ring and raises an interrupt at core 0,
// which looks for the emulator's own keys (term.c) and queues the rest for the guest.
//
// A thread, since asynchronous notification (O_ASYNC) exists for terminals and sockets but not for files, and is a property of the
// open file that would outlive us in the user's shell. A ring has one writer (the thread) and one reader (core 0's interrupt), so two
// counters with acquire and release are all its locking.
//
// Flow control has two stages, so that Ctrl-A x works in front of a guest that reads nothing: the guest's UART says "no room" and the byte
// stays in the guest queue until plat_console_ready; when that queue is full, bytes stay in the ring; when the ring is full the thread
// waits, and with it the sender.
#define _GNU_SOURCE
#include <errno.h>
#include <time.h>

#include "hosted/hosted.h"
#include "hosted/sys.h"
#include "kernel/base/log.h"

enum { RING = 4096, INPUTS = 2 };   // RING: power of two

struct ring { u32 head, tail; u8 data[RING]; };   // head: the writer's; tail: the reader's
struct input {
    int fd;
    bool keys;
    struct ring ring;
};
static struct input inputs[INPUTS];
static unsigned n_inputs;
static struct ring guest;    // both ends on core 0 under the BQL

static bool ring_empty(struct ring *r) { return r->tail == __atomic_load_n(&r->head, __ATOMIC_ACQUIRE); }

static bool ring_put(struct ring *r, u8 byte)
{
    if (r->head - __atomic_load_n(&r->tail, __ATOMIC_ACQUIRE) == RING) return false;
    r->data[r->head % RING] = byte;
    __atomic_store_n(&r->head, r->head + 1, __ATOMIC_RELEASE);
    return true;
}

static void ring_pop(struct ring *r) { __atomic_store_n(&r->tail, r->tail + 1, __ATOMIC_RELEASE); }

static void nap_ms(long ms)
{
    struct timespec ts = {0, ms * 1000000};
    sys_call(SYS_nanosleep, (long)&ts, 0, 0, 0);
}

// End of file ends the thread, not the emulator: `cupel ... < script` runs on. A pty whose other end is not open yet reads as EIO.
static void *input_thread(void *arg)
{
    struct input *in = arg;
    u8 buf[256];
    core_block_signals();
    for (;;) {
        long n = sys_read(in->fd, buf, sizeof buf);
        if (n == -EAGAIN || n == -EINTR || (n == -EIO && !in->keys)) nap_ms(20);
        else if (n <= 0) return NULL;
        for (long i = 0; i < n; i++) {
            while (!ring_put(&in->ring, buf[i])) {
                core_raise(IRQ_INPUT);
                nap_ms(2);
            }
        }
        if (n > 0) core_raise(IRQ_INPUT);
    }
}

void input_start(int fd, bool keys)
{
    ASSERT(n_inputs < INPUTS, "%u", n_inputs);
    struct input *in = &inputs[n_inputs];
    in->fd = fd;
    in->keys = keys;
    __atomic_store_n(&n_inputs, n_inputs + 1, __ATOMIC_RELEASE);
    pthread_t t;
    if (pthread_create(&t, NULL, input_thread, in) != 0) {
        log_warn("no thread for console input: the keyboard stays silent");
        return;
    }
    pthread_detach(t);
}

bool input_guest_put(u8 byte) { return ring_put(&guest, byte); }

static void sort_keys(struct input *in)
{
    while (!ring_empty(&in->ring)) {
        u8 byte = in->ring.data[in->ring.tail % RING];
        if (!(in->keys ? term_key(byte) : input_guest_put(byte))) return;
        ring_pop(&in->ring);
    }
}

// True if the guest took something, which may have made room for more.
static bool guest_feed(void)
{
    const struct plat_events *ev = core_events();
    bool any = false;
    while (ev->console_input && !ring_empty(&guest) && ev->console_input(guest.data[guest.tail % RING])) {
        ring_pop(&guest);
        any = true;
    }
    return any;
}

void input_deliver(void)
{
    do
        for (unsigned i = 0; i < n_inputs; i++) sort_keys(&inputs[i]);
    while (guest_feed());
}

void plat_console_ready(void)
{
    if (!ring_empty(&guest)) core_raise(IRQ_INPUT);
}
