// The console device (virtio 1.2 chapter 5.3) with one port: queue 0 to the guest, queue 1 from it. Input waits in a small queue of
// ours until the driver has given buffers; output goes to the callback in pieces. Emergency write works before any queue is set up.
#include "devices/virtio.h"
#include "kernel/base/bits.h"
#include "kernel/base/log.h"
#include "kernel/plat.h"

enum { RX = 0, TX = 1, INPUT = 1024, CHUNK = 256, OUTPUT_MAX = 1 << 20, F_EMERG_WRITE = 2, CONFIG_LEN = 12, CONFIG_EMERG = 8 };

struct virtio_console {
    struct virtio_dev dev;
    void (*out)(const void *buf, size_t len);
    bool refused;                 // the platform was told no and waits for plat_console_ready
    u8 input[INPUT];
    unsigned head, count;
    struct virtq_elem elem;
};

static u32 input_move(struct virtio_console *s)
{
    u32 done = 0;
    while (s->count && done < s->elem.in_len) {
        u32 n = min_u64(min_u64(s->count, INPUT - s->head), s->elem.in_len - done);
        done += virtq_write(&s->dev, &s->elem, done, s->input + s->head, n);
        s->head = (s->head + n) % INPUT;
        s->count -= n;
    }
    return done;
}

// Moves waiting input into the driver's buffers.
static void input_flush(struct virtio_console *s)
{
    for (unsigned i = 0; i < VIRTQ_MAX && s->count && virtq_pop(&s->dev, RX, &s->elem); i++) {
        if (!s->elem.in_len) { virtio_fail(&s->dev, "a console input buffer without room"); return; }
        virtq_push(&s->dev, RX, &s->elem, input_move(s));
    }
    virtq_signal(&s->dev, RX);
    if (!s->refused || s->count == INPUT) return;
    s->refused = false;
    plat_console_ready();
}

static void output_write(struct virtio_console *s)
{
    u8 buf[CHUNK];
    u32 n;
    for (u64 off = 0; (n = virtq_read(&s->dev, &s->elem, off, buf, sizeof buf)); off += n) s->out(buf, n);
}

static void output_drain(struct virtio_console *s)
{
    unsigned budget = VIRTQ_MAX;
    while (budget && virtq_pop(&s->dev, TX, &s->elem)) {
        if (s->elem.out_len > OUTPUT_MAX) { virtio_fail(&s->dev, "a console output buffer of more than 1 MiB"); return; }
        output_write(s);
        virtq_push(&s->dev, TX, &s->elem, 0);
        budget--;
    }
    virtq_signal(&s->dev, TX);
    if (!budget) virtq_more(&s->dev, TX);
}

static void console_notify(struct virtio_dev *d, unsigned q)
{
    struct virtio_console *s = CONTAINER_OF(d, struct virtio_console, dev);
    if (q == RX) input_flush(s);
    else output_drain(s);
}

static void console_config_write(struct virtio_dev *d, unsigned off, u32 val, unsigned size)
{
    struct virtio_console *s = CONTAINER_OF(d, struct virtio_console, dev);
    u8 b = val;
    if (off == CONFIG_EMERG) s->out(&b, 1);
}

// What the driver that goes has not read is nobody's.
static void console_reset(struct virtio_dev *d)
{
    struct virtio_console *s = CONTAINER_OF(d, struct virtio_console, dev);
    s->head = s->count = 0;
    if (!s->refused) return;
    s->refused = false;
    plat_console_ready();
}

bool virtio_console_driven(const struct virtio_console *s) { return virtio_running(&s->dev); }

bool virtio_console_input(struct virtio_console *s, u8 byte)
{
    DEVICE_LOCKED();
    if (s->count == INPUT) {
        s->refused = true;
        return false;
    }
    s->input[(s->head + s->count++) % INPUT] = byte;
    input_flush(s);
    return true;
}

struct virtio_console *virtio_console_new(struct pci *b, void (*out)(const void *buf, size_t len))
{
    static const struct virtio_ops ops = {.notify = console_notify, .reset = console_reset, .config_write = console_config_write};
    static const u8 config[CONFIG_LEN] = {[4] = 1};                    // size unknown; one port
    static const struct virtio_type type = {.id = VIRTIO_ID_CONSOLE, .class_code = 0x078000, .nqueues = 2, .features = BIT(F_EMERG_WRITE),
                                            .config = config, .config_len = CONFIG_LEN};
    struct virtio_console *s = plat_pages_alloc(sizeof *s);
    if (!s) panic("no memory for virtio-console");
    s->out = out;
    if (virtio_init(&s->dev, b, &type, &ops, "virtio-console")) return s;
    plat_pages_free(s, sizeof *s);
    return NULL;
}
