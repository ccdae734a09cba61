// Virtio over PCI, modern interface only (virtio 1.2 chapter 4.1).
//
// BAR 0 has four pages: common configuration, ISR, device configuration, notification (one dword a queue). BAR 1 is the MSI-X table.
// Vendor capabilities say so to the driver, and a fifth one lets firmware reach BAR 0 through configuration space.
//
// A device with a data plane has its notifications in BAR 2 instead, a region without the BQL: a write there only wakes the I/O thread
// (what ioeventfd is under KVM). MSI-X is sent from the I/O thread (irqfd); a driver without it gets its wire by way of core 0. Every write
// to the common configuration stands the I/O thread still, so what it reads of the queues' set-up never changes under it.
//
// Notifications are handled at once, in the vCPU that wrote. A device takes at most a queue's worth of buffers for one
// notification; the rest comes from a timer, so that a driver that refills as fast as we drain cannot hold the BQL for ever.
#include "devices/virtio.h"

#include "kernel/base/bits.h"
#include "kernel/base/log.h"
#include "kernel/plat.h"

enum { NOTIFY_BAR = 2 };
enum { BAR_SIZE = 0x4000, AT_COMMON = 0, AT_ISR = 1, AT_DEVICE = 2, AT_NOTIFY = 3 };
enum { STATUS_DRIVER_OK = 4, STATUS_FEATURES_OK = 8, STATUS_NEEDS_RESET = 0x40 };
enum { ISR_QUEUE = 1, ISR_CONFIG = 2 };

// struct virtio_pci_common_cfg, 4.1.4.3.
enum {
    C_OFFERED_SEL = 0x00, C_OFFERED = 0x04, C_ACCEPTED_SEL = 0x08, C_ACCEPTED = 0x0c, C_CONFIG_VECTOR = 0x10, C_NUM_QUEUES = 0x12,
    C_STATUS = 0x14, C_GENERATION = 0x15, C_QUEUE_SEL = 0x16, C_QUEUE_SIZE = 0x18, C_QUEUE_VECTOR = 0x1a, C_QUEUE_ENABLE = 0x1c,
    C_NOTIFY_OFF = 0x1e, C_DESC = 0x20, C_AVAIL = 0x28, C_USED = 0x30, C_NOTIFY_DATA = 0x38, C_QUEUE_RESET = 0x3a, C_END = 0x3c,
};

bool virtio_running(const struct virtio_dev *d)
{
    u8 status = __atomic_load_n(&d->status, __ATOMIC_ACQUIRE);
    return (status & STATUS_DRIVER_OK) && !(status & STATUS_NEEDS_RESET) && pci_dma_enabled(&d->pci);
}

void virtio_interrupt(struct virtio_dev *d, u16 vector, u8 isr_bit)
{
    VIRTIO_LOCKED(d);
    if (pci_msix_enabled(&d->pci)) {
        if (vector != VIRTIO_NO_VECTOR) pci_msix_notify(&d->pci, vector);
        return;
    }
    if (d->ops->kick && !bql_held()) {
        __atomic_or_fetch(&d->isr_late, isr_bit, __ATOMIC_SEQ_CST);
        plat_attention();
        return;
    }
    d->isr |= isr_bit;
    pci_intx_set(&d->pci, true);
}

void virtio_attention(struct virtio_dev *d)
{
    DEVICE_LOCKED();
    u8 late = __atomic_exchange_n(&d->isr_late, 0, __ATOMIC_SEQ_CST);
    if (late && d->status) virtio_interrupt(d, VIRTIO_NO_VECTOR, late);
}

void virtio_fail(struct virtio_dev *d, const char *why)
{
    VIRTIO_LOCKED(d);
    u8 before = __atomic_fetch_or(&d->status, STATUS_NEEDS_RESET, __ATOMIC_SEQ_CST);
    if (before & STATUS_NEEDS_RESET) return;
    log_once(LOG_WARN, "virtio device in slot %u: %s; it waits for a reset (said once)", d->pci.slot, why);
    if (before & STATUS_DRIVER_OK) virtio_interrupt(d, d->config_vector, ISR_CONFIG);
}

static void queue_reset(struct virtq *q) { *q = (struct virtq){.size = VIRTQ_MAX, .vector = VIRTIO_NO_VECTOR}; }

static void exclusive(struct virtio_dev *d, bool on)
{
    if (d->ops->exclusive) d->ops->exclusive(d, on);
}

static void device_reset(struct virtio_dev *d)
{
    __atomic_store_n(&d->status, 0, __ATOMIC_SEQ_CST);
    __atomic_store_n(&d->isr_late, 0, __ATOMIC_SEQ_CST);
    d->isr = 0;
    d->accepted = 0;
    d->offered_sel = d->accepted_sel = d->again = 0;
    d->queue_sel = 0;
    d->config_vector = VIRTIO_NO_VECTOR;
    for (unsigned i = 0; i < VIRTIO_QUEUES_MAX; i++) queue_reset(&d->q[i]);
    timer_del(&d->again_timer);
    pci_intx_set(&d->pci, false);
    if (d->ops->reset) d->ops->reset(d);
}

// ---- common configuration ----------------------------------------------------------------------------------------------

static u64 queue_field(const struct virtio_dev *d, unsigned at)
{
    if (d->queue_sel >= d->nqueues) return 0;             // no such queue: size 0 says so
    const struct virtq *q = &d->q[d->queue_sel];
    switch (at) {
    case C_QUEUE_SIZE: return q->size;
    case C_QUEUE_VECTOR: return q->vector;
    case C_QUEUE_ENABLE: return q->enabled;
    case C_NOTIFY_OFF: return d->queue_sel;
    case C_DESC: return q->desc;
    case C_AVAIL: return q->avail;
    case C_USED: return q->used;
    default: return 0;                                    // notify data unused; a queue reset is over before it can be read
    }
}

static u32 feature_word(u64 bits, u32 sel) { return sel < 2 ? bits >> 32 * sel : 0; }

static u64 common_field(const struct virtio_dev *d, unsigned at)
{
    switch (at) {
    case C_OFFERED_SEL: return d->offered_sel;
    case C_OFFERED: return feature_word(d->offered, d->offered_sel);
    case C_ACCEPTED_SEL: return d->accepted_sel;
    case C_ACCEPTED: return feature_word(d->accepted, d->accepted_sel);
    case C_CONFIG_VECTOR: return d->config_vector;
    case C_NUM_QUEUES: return d->nqueues;
    case C_STATUS: return d->status;
    case C_GENERATION: return 0;                          // no configuration of ours ever changes
    case C_QUEUE_SEL: return d->queue_sel;
    default: return queue_field(d, at);
    }
}

// The field that holds byte `at`: where it begins.
static unsigned common_start(unsigned at)
{
    if (at < C_CONFIG_VECTOR) return at & ~3u;
    if (at == C_STATUS || at == C_GENERATION) return at;
    if (at >= C_DESC && at < C_NOTIFY_DATA) return at & ~7u;
    return at & ~1u;
}

static u64 common_read(const struct virtio_dev *d, unsigned at, unsigned size)
{
    u64 v = 0;
    for (unsigned i = 0; i < size && at + i < C_END; i++) {
        unsigned start = common_start(at + i);
        v |= (common_field(d, start) >> 8 * (at + i - start) & 0xff) << 8 * i;
    }
    return v;
}

static void status_write(struct virtio_dev *d, u8 v)
{
    if (!v) { device_reset(d); return; }
    // 2.2.2: a set of features that we cannot work with is refused by leaving FEATURES_OK clear.
    if ((v & ~d->status & STATUS_FEATURES_OK) && ((d->accepted & ~d->offered) || !virtio_has(d, VIRTIO_F_VERSION_1)))
        v &= ~STATUS_FEATURES_OK;
    if (!((v | d->status) & STATUS_FEATURES_OK)) v &= ~STATUS_DRIVER_OK;
    __atomic_or_fetch(&d->status, v & ~STATUS_NEEDS_RESET, __ATOMIC_SEQ_CST);   // bits are only ever added (2.1.1)
}

static void half_write(u64 *field, unsigned half, u32 v) { *field = half ? (u32)*field | (u64)v << 32 : (*field & ~0xffffffffull) | v; }

static u16 vector_checked(const struct virtio_dev *d, u16 v) { return v < d->pci.msix.count ? v : VIRTIO_NO_VECTOR; }

static void queue_write(struct virtio_dev *d, unsigned at, u32 v)
{
    if (d->queue_sel >= d->nqueues) return;
    struct virtq *q = &d->q[d->queue_sel];
    if (at == C_QUEUE_VECTOR) { q->vector = vector_checked(d, v); return; }
    if (at == C_QUEUE_RESET) {
        if (v != 1 || !virtio_has(d, VIRTIO_F_RING_RESET)) return;
        queue_reset(q);
        d->again &= ~(1u << d->queue_sel);
        if (d->ops->queue_reset) d->ops->queue_reset(d, d->queue_sel);
        return;
    }
    if (q->enabled) return;                               // 4.1.4.3.2: not to be changed now
    switch (at) {
    case C_QUEUE_SIZE: q->size = v; break;
    case C_QUEUE_ENABLE: if (v == 1 && !virtq_enable(d, q)) virtio_fail(d, "a queue was enabled with a bad size or address"); break;
    case C_DESC: case C_DESC + 4: half_write(&q->desc, at >> 2 & 1, v); break;
    case C_AVAIL: case C_AVAIL + 4: half_write(&q->avail, at >> 2 & 1, v); break;
    case C_USED: case C_USED + 4: half_write(&q->used, at >> 2 & 1, v); break;
    default: break;
    }
}

static void accepted_write(struct virtio_dev *d, u32 v)
{
    if (d->accepted_sel < 2 && !(d->status & STATUS_FEATURES_OK)) half_write(&d->accepted, d->accepted_sel, v);
}

// Fields are written whole, 64-bit ones in halves (4.1.3.1); anything else is ignored.
static void common_write(struct virtio_dev *d, unsigned at, u32 v, unsigned size)
{
    unsigned want = at < C_CONFIG_VECTOR || (at >= C_DESC && at < C_NOTIFY_DATA) ? 4 : at == C_STATUS ? 1 : 2;
    if (size != want || (at & (size - 1)) || at >= C_END) return;
    switch (at) {
    case C_OFFERED_SEL: d->offered_sel = v; break;
    case C_ACCEPTED_SEL: d->accepted_sel = v; break;
    case C_ACCEPTED: accepted_write(d, v); break;
    case C_CONFIG_VECTOR: d->config_vector = vector_checked(d, v); break;
    case C_STATUS: status_write(d, v); break;
    case C_QUEUE_SEL: d->queue_sel = v; break;
    default: queue_write(d, at, v); break;
    }
}

// ---- notification ----------------------------------------------------------------------------------------------------------

static void queue_notified(struct virtio_dev *d, unsigned n)
{
    if (d->ops->kick) {
        if (n < d->nqueues) d->ops->kick(d, n);
    } else if (n < d->nqueues && d->q[n].enabled && virtio_running(d)) d->ops->notify(d, n);
}

void virtq_more(struct virtio_dev *d, unsigned n)
{
    DEVICE_LOCKED();
    d->again |= 1u << n;
    timer_mod_ns(&d->again_timer, clock_ns(CLOCK_VIRTUAL_));
}

static void again_fired(void *opaque)
{
    struct virtio_dev *d = opaque;
    u32 which = d->again;
    d->again = 0;
    for (unsigned n = 0; n < d->nqueues; n++)
        if (which >> n & 1) queue_notified(d, n);
}

// ---- BAR 0 ---------------------------------------------------------------------------------------------------------------

static u64 isr_read(struct virtio_dev *d)
{
    u8 v = d->isr;
    d->isr = 0;                                           // 4.1.4.5: reading clears it and lowers the line
    pci_intx_set(&d->pci, false);
    return v;
}

static u64 config_read(const struct virtio_dev *d, unsigned at, unsigned size)
{
    u64 v = 0;
    for (unsigned i = 0; i < size && at + i < d->config_len; i++) v |= (u64)d->config[at + i] << 8 * i;
    return v;
}

static u64 bar_read(void *opaque, u64 addr, unsigned size)
{
    struct virtio_dev *d = opaque;
    unsigned at = addr & (PAGE_SIZE - 1);
    switch (addr >> PAGE_SHIFT) {
    case AT_COMMON: return common_read(d, at, size);
    case AT_ISR: return at == 0 ? isr_read(d) : 0;
    case AT_DEVICE: return config_read(d, at, size);
    default: return 0;
    }
}

static void bar_write(void *opaque, u64 addr, u64 val, unsigned size)
{
    struct virtio_dev *d = opaque;
    unsigned at = addr & (PAGE_SIZE - 1);
    switch (addr >> PAGE_SHIFT) {
    case AT_COMMON:
        exclusive(d, true);
        common_write(d, at, val, size);
        exclusive(d, false);
        break;
    case AT_DEVICE: if (d->ops->config_write) d->ops->config_write(d, at, val, size); break;
    case AT_NOTIFY: queue_notified(d, at / 4); break;
    default: break;
    }
}

// BAR 2: without the BQL, with vector registers live.
static void kick_write(void *opaque, u64 addr, u64 val UNUSED, unsigned size UNUSED) { queue_notified(opaque, addr / 4); }

static u64 msix_read(void *opaque, u64 addr, unsigned size) { return pci_msix_read(opaque, addr, size); }
static void msix_write(void *opaque, u64 addr, u64 val, unsigned size) { pci_msix_write(opaque, addr, val, size); }

// ---- capabilities -------------------------------------------------------------------------------------------------------------

enum { CAP_VENDOR = 9, CAP_COMMON = 1, CAP_NOTIFY = 2, CAP_ISR = 3, CAP_DEVICE = 4, CAP_PCI_CFG = 5 };
enum { CAP_BAR = 4, CAP_OFFSET = 8, CAP_LENGTH = 12, CAP_DATA = 16 };

// struct virtio_pci_cap, 4.1.4: 16 bytes, four more for notification and configuration access.
static u8 cap_add(struct virtio_dev *d, u8 type, u8 bar, u32 offset, u32 length)
{
    unsigned size = type == CAP_NOTIFY || type == CAP_PCI_CFG ? 20 : 16;
    u8 at = pci_cap_add(&d->pci, CAP_VENDOR, size);
    d->pci.cfg[at + 2] = size;
    d->pci.cfg[at + 3] = type;
    d->pci.cfg[at + CAP_BAR] = bar;
    pci_cfg_set(&d->pci, at + CAP_OFFSET, offset, 4);
    pci_cfg_set(&d->pci, at + CAP_LENGTH, length, 4);
    if (type == CAP_NOTIFY) pci_cfg_set(&d->pci, at + CAP_DATA, 4, 4);   // bytes from queue to queue
    return at;
}

// The window of CAP_PCI_CFG (4.1.4.9): true when the driver has pointed it at something in BAR 0, or at the notifications in BAR 2.
static bool window(const struct virtio_dev *d, unsigned reg, unsigned size, unsigned *bar, u32 *offset, u32 *length)
{
    unsigned data = d->cfg_cap + CAP_DATA;
    if (!d->cfg_cap || reg >= data + 4 || reg + size <= data) return false;
    *offset = pci_cfg_get(&d->pci, d->cfg_cap + CAP_OFFSET, 4);
    *length = pci_cfg_get(&d->pci, d->cfg_cap + CAP_LENGTH, 4);
    *bar = d->pci.cfg[d->cfg_cap + CAP_BAR];
    return (*bar == 0 || (*bar == NOTIFY_BAR && d->ops->kick)) && (*length == 1 || *length == 2 || *length == 4) && !(*offset & (*length - 1)) &&
           *offset < (*bar ? PAGE_SIZE : BAR_SIZE);
}

static void cfg_read(struct pci_dev *p, unsigned reg, unsigned size)
{
    struct virtio_dev *d = CONTAINER_OF(p, struct virtio_dev, pci);
    u32 offset, length;
    unsigned bar;
    if (window(d, reg, size, &bar, &offset, &length)) pci_cfg_set(p, d->cfg_cap + CAP_DATA, bar ? 0 : bar_read(d, offset, length), 4);
}

static void cfg_written(struct pci_dev *p, unsigned reg, unsigned size)
{
    struct virtio_dev *d = CONTAINER_OF(p, struct virtio_dev, pci);
    u32 offset, length;
    unsigned bar;
    if (!window(d, reg, size, &bar, &offset, &length)) return;
    if (bar) kick_write(d, offset, 0, length);
    else bar_write(d, offset, bits_zext(pci_cfg_get(p, d->cfg_cap + CAP_DATA, 4), length), length);
}

static void bus_reset(struct pci_dev *p)
{
    struct virtio_dev *d = CONTAINER_OF(p, struct virtio_dev, pci);
    exclusive(d, true);
    device_reset(d);
    exclusive(d, false);
}

static void caps_add(struct virtio_dev *d)
{
    cap_add(d, CAP_COMMON, 0, AT_COMMON << PAGE_SHIFT, C_END);
    cap_add(d, CAP_ISR, 0, AT_ISR << PAGE_SHIFT, 1);
    if (d->config_len) cap_add(d, CAP_DEVICE, 0, AT_DEVICE << PAGE_SHIFT, d->config_len);
    cap_add(d, CAP_NOTIFY, d->ops->kick ? NOTIFY_BAR : 0, d->ops->kick ? 0 : AT_NOTIFY << PAGE_SHIFT, 4 * d->nqueues);
    d->cfg_cap = cap_add(d, CAP_PCI_CFG, 0, 0, 0);
    d->pci.wmask[d->cfg_cap + CAP_BAR] = 0xff;
    for (unsigned i = CAP_OFFSET; i < CAP_DATA + 4; i++) d->pci.wmask[d->cfg_cap + i] = 0xff;
    pci_msix_init(&d->pci, d->nqueues + 1, 1, 0, PCI_MSIX_PBA);
}

bool virtio_init(struct virtio_dev *d, struct pci *b, const struct virtio_type *type, const struct virtio_ops *ops, const char *name)
{
    static const struct io_ops bar0 = {.read = bar_read, .write = bar_write, .max_size = 4};
    static const struct io_ops bar2 = {.write = kick_write, .max_size = 4, .unlocked = true};
    static const struct io_ops bar1 = {.read = msix_read, .write = msix_write};
    struct pci_ids ids = {.vendor = 0x1af4, .device = 0x1040 + type->id, .subvendor = 0x1af4, .subsystem = 0x1100,
        .class_code = type->class_code,
                          .revision = 1};
    ASSERT(type->nqueues <= VIRTIO_QUEUES_MAX, "%s: %u queues", name, type->nqueues);
    if (!pci_dev_init(&d->pci, b, -1, &ids, true)) return false;
    d->ops = ops;
    d->nqueues = type->nqueues;
    d->config = type->config;
    d->config_len = type->config_len;
    d->offered = type->features | BIT(VIRTIO_F_INDIRECT) | BIT(VIRTIO_F_EVENT_IDX) | BIT(VIRTIO_F_VERSION_1) | BIT(VIRTIO_F_RING_RESET);
    d->pci.cfg_read = cfg_read;
    d->pci.cfg_written = cfg_written;
    d->pci.reset = bus_reset;
    timer_init(&d->again_timer, CLOCK_VIRTUAL_, again_fired, d);
    pci_bar_add(&d->pci, 0, BAR_SIZE, 0, &bar0, d, name);
    pci_bar_add(&d->pci, 1, PAGE_SIZE, 0, &bar1, &d->pci, name);
    if (ops->kick) pci_bar_add(&d->pci, NOTIFY_BAR, PAGE_SIZE, 0, &bar2, d, name);
    caps_add(d);
    device_reset(d);
    return true;
}
