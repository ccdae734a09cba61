// Virtio 1.x devices over PCI: the transport and the split virtqueue, shared by every device type (OASIS Virtual I/O Device 1.2; section
// numbers in the sources are its). All calls: BQL held; interrupt context allowed after creation. A device with a data plane (ops->kick)
// has its queues served by an I/O thread, which calls the virtq_* functions and virtio_fail without the BQL; ops->exclusive keeps the two
// apart.
//
// The guest's rings and buffers are untrusted. They must be RAM: anything else, and any index, flag or length that the
// specification forbids, puts the device into DEVICE_NEEDS_RESET (2.1.2), in which it does nothing until the driver resets it.
#pragma once

#include "devices/clock.h"
#include "devices/pci.h"

enum { VIRTIO_QUEUES_MAX = 16, VIRTQ_MAX = 128 };
enum { VIRTIO_ID_NET = 1, VIRTIO_ID_BLOCK = 2, VIRTIO_ID_CONSOLE = 3, VIRTIO_ID_RNG = 4 };

struct virtq {
    u16 size, vector;
    bool enabled;
    u64 desc, avail, used;       // guest-physical
    u16 last_avail;              // next entry of the available ring to take
    u16 next_used;               // our used index
    u16 signalled;               // used index at the last look at interrupt suppression
};

// A descriptor chain: first nout segments to read, then nin to write.
struct virtq_elem {
    u16 head;
    unsigned nout, nin;
    u64 out_len, in_len;         // totals
    struct { u64 addr; u32 len; } seg[VIRTQ_MAX];
};

struct virtio_dev;
struct virtio_ops {
    // The driver made buffers available in queue q. Take at most VIRTQ_MAX of them; virtq_more asks to be called again for the rest.
    void (*notify)(struct virtio_dev *d, unsigned q);
    void (*reset)(struct virtio_dev *d);                                                  // optional
    void (*queue_reset)(struct virtio_dev *d, unsigned q);                                // optional; the queue is off already
    // Data plane, both or neither. kick: as notify, but without the BQL and with the guest's vector registers possibly live. exclusive:
    // when it returns from `on`, no other thread uses the queues, until `off`. Never for longer than one request, and never nested.
    void (*kick)(struct virtio_dev *d, unsigned q);
    void (*exclusive)(struct virtio_dev *d, bool on);
    void (*config_write)(struct virtio_dev *d, unsigned off, u32 val, unsigned size);     // optional
};

struct virtio_dev {
    struct pci_dev pci;
    const struct virtio_ops *ops;
    const u8 *config;            // device-specific configuration, config_len bytes
    unsigned config_len;
    u64 offered, accepted;       // feature bits
    u32 offered_sel, accepted_sel;
    u8 status;                   // atomic: an I/O thread may add NEEDS_RESET
    u8 isr, cfg_cap;
    u8 isr_late;                 // atomic: bits for isr that an I/O thread has no right to set
    u16 config_vector, queue_sel, nqueues;
    u32 again;                   // queues to be notified once more from the timer
    struct timer again_timer;
    struct virtq q[VIRTIO_QUEUES_MAX];
};

struct virtio_type { u16 id; u32 class_code; unsigned nqueues; u64 features; const u8 *config; unsigned config_len; };

// Puts d on the bus in the first free slot. d is zeroed. False: no slot.
bool virtio_init(struct virtio_dev *d, struct pci *b, const struct virtio_type *type, const struct virtio_ops *ops,
    const char *name) MUST_CHECK;
// The next chain of queue n; false when there is none now (or the device is not running).
bool virtq_pop(struct virtio_dev *d, unsigned n, struct virtq_elem *e) MUST_CHECK;
// Gives a chain back with `written` bytes in its writable part.
void virtq_push(struct virtio_dev *d, unsigned n, const struct virtq_elem *e, u32 written);
// Interrupts the driver if it wants that after the pushes since the last call.
void virtq_signal(struct virtio_dev *d, unsigned n);
void virtq_more(struct virtio_dev *d, unsigned n);
// Copies out of the readable, or into the writable part, at byte offset off; returns how many bytes there were room for.
u32 virtq_read(struct virtio_dev *d, const struct virtq_elem *e, u64 off, void *buf, u32 len);
u32 virtq_write(struct virtio_dev *d, const struct virtq_elem *e, u64 off, const void *buf, u32 len);
// The driver broke the rules.
void virtio_fail(struct virtio_dev *d, const char *why);
bool virtio_running(const struct virtio_dev *d);
// What an I/O thread left to be done under the BQL (plat_events.attention).
void virtio_attention(struct virtio_dev *d);

// ---- device types ---------------------------------------------------------------------------------------------------
struct virtio_rng;
// entropy: fills len (at most 256) bytes; any context. NULL when the bus is full.
struct virtio_rng *virtio_rng_new(struct pci *b, void (*entropy)(void *opaque, void *buf, size_t len), void *opaque) MUST_CHECK;
struct virtio_console;
// One port. out: as for serial_new. NULL when the bus is full.
struct virtio_console *virtio_console_new(struct pci *b, void (*out)(const void *buf, size_t len)) MUST_CHECK;
// False when it has no room; plat_console_ready() is called when there is room again. BQL held.
bool virtio_console_input(struct virtio_console *s, u8 byte);
// A driver runs the device: before, and after it has gone, input is better given to somebody else. BQL held.
bool virtio_console_driven(const struct virtio_console *s);
struct virtio_blk;
struct block;
struct plat_io;
// A disk with that many request queues (1..VIRTIO_QUEUES_MAX). id: its serial number, at most 20 characters; NULL: none. io: the I/O thread
// that serves it by virtio_blk_serve; NULL: served under the BQL. NULL when the bus is full.
struct virtio_blk *virtio_blk_new(struct pci *b, struct block *disk, unsigned queues, const char *id, struct plat_io *io) MUST_CHECK;
// Serves what there is. On the I/O thread, BQL not held.
void virtio_blk_serve(struct virtio_blk *s);
// plat_events.attention. BQL held.
void virtio_blk_attention(struct virtio_blk *s);
// The machine ends: the I/O thread does nothing for it any more, and the disk has done what it was asked. BQL held.
void virtio_blk_finish(struct virtio_blk *s);

// ---- between virtio.c and virtqueue.c ---------------------------------------------------------------------------------
enum { VIRTIO_F_INDIRECT = 28, VIRTIO_F_EVENT_IDX = 29, VIRTIO_F_VERSION_1 = 32, VIRTIO_F_RING_RESET = 40 };
enum { VIRTIO_NO_VECTOR = 0xffff };
// Only a data plane (ops->kick) uses its queues without the BQL.
#define VIRTIO_LOCKED(d) ASSERT(bql_held() || (d)->ops->kick, "%s without the BQL", __func__)
static inline bool virtio_has(const struct virtio_dev *d, unsigned bit) { return d->accepted >> bit & 1; }
bool virtq_enable(struct virtio_dev *d, struct virtq *q) MUST_CHECK;   // checks size, alignment and that the rings are RAM
void virtio_interrupt(struct virtio_dev *d, u16 vector, u8 isr_bit);
