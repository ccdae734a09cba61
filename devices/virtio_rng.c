// The entropy device (virtio 1.2 chapter 5.4): one queue of writable buffers, filled with what the machine's entropy callback
// gives. A buffer may be given back partly filled, so one request is served with at most 64 KiB, which bounds the time under the
// BQL.
#include "devices/virtio.h"
#include "kernel/base/bits.h"
#include "kernel/base/log.h"
#include "kernel/plat.h"

enum { CHUNK = 256, REQUEST_MAX = 65536 };

struct virtio_rng {
    struct virtio_dev dev;
    void (*entropy)(void *opaque, void *buf, size_t len);
    void *opaque;
    struct virtq_elem elem;
};

static u32 request_fill(struct virtio_rng *s)
{
    u32 want = min_u64(s->elem.in_len, REQUEST_MAX), done = 0;
    while (done < want) {
        u8 buf[CHUNK];
        u32 n = min_u64(want - done, sizeof buf);
        s->entropy(s->opaque, buf, n);
        done += virtq_write(&s->dev, &s->elem, done, buf, n);
    }
    return done;
}

static void rng_notify(struct virtio_dev *d, unsigned q)
{
    struct virtio_rng *s = CONTAINER_OF(d, struct virtio_rng, dev);
    unsigned budget = 16;                              // requests of up to 64 KiB
    while (budget && virtq_pop(d, q, &s->elem)) {
        if (!s->elem.in_len) { virtio_fail(d, "an entropy request without room for an answer"); return; }
        virtq_push(d, q, &s->elem, request_fill(s));
        budget--;
    }
    virtq_signal(d, q);
    if (!budget) virtq_more(d, q);
}

struct virtio_rng *virtio_rng_new(struct pci *b, void (*entropy)(void *opaque, void *buf, size_t len), void *opaque)
{
    static const struct virtio_ops ops = {.notify = rng_notify};
    static const struct virtio_type type = {.id = VIRTIO_ID_RNG, .class_code = 0x00ff00, .nqueues = 1};
    struct virtio_rng *s = plat_pages_alloc(sizeof *s);
    if (!s) panic("no memory for virtio-rng");
    s->entropy = entropy;
    s->opaque = opaque;
    if (virtio_init(&s->dev, b, &type, &ops, "virtio-rng")) return s;
    plat_pages_free(s, sizeof *s);
    return NULL;
}
