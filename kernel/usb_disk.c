// A command is three transfers: 31 bytes that say what is wanted, the data, 13 bytes that say how it went (BOT 5). What can go wrong
// between them, and what brings both sides together again, is BOT 5.3 and 6: a stall of the data or status pipe is cleared and the status
// read; anything else ends in a reset recovery (5.3.4), after which the command is given once more. Reads and writes may be repeated
// without harm.
//
// Data goes through one buffer of 64 KiB, which the controller reaches and no TRB crosses: speed is the stick's.
#include "kernel/usb_disk.h"

#include <string.h>

#include "devices/block.h"
#include "kernel/base/fmt.h"
#include "kernel/base/log.h"
#include "kernel/hwtimer.h"

enum { CBW_SIGNATURE = 0x43425355, CSW_SIGNATURE = 0x53425355, CBW_SIZE = 31, CSW_SIZE = 13, CSW_AT = 64, BUFFER = 64 * 1024, LUNS = 16 };
enum { BOT_RESET = 0xff, GET_MAX_LUN = 0xfe, CLASS_STORAGE = 8, SUBCLASS_SCSI = 6, PROTOCOL_BULK = 0x50, UNIT_MAX = 4096 };
enum { TEST_UNIT_READY = 0x00, REQUEST_SENSE = 0x03, INQUIRY = 0x12, READ_CAPACITY10 = 0x25, READ10 = 0x28, WRITE10 = 0x2a,
       SYNCHRONIZE_CACHE10 = 0x35, SERVICE_ACTION_IN = 0x9e, READ_CAPACITY16 = 0x10 };
enum { NO_SENSE = 0, RECOVERED = 1, NOT_READY = 2, ILLEGAL_REQUEST = 5, UNIT_ATTENTION = 6, DATA_PROTECT = 7 };
enum { SENSE_SIZE = 18, INQUIRY_SIZE = 36 };
enum { ASC_NOT_READY = 0x04, ASC_NO_MEDIUM = 0x3a, TRIES = 4, RECOVERIES = 2 };
#define COMMAND_NS 5000000000ull
#define DATA_NS    30000000000ull         // a stick that tidies up its flash, a disk that spins up
#define READY_NS   15000000000ull
#define POLL_NS    100000000ull

struct cbw { u32 signature, tag, length; u8 flags, lun, cdb_len, cdb[16]; } __attribute__((packed));   // 5.1
struct csw { u32 signature, tag, residue; u8 status; } __attribute__((packed));                        // 5.2
_Static_assert(sizeof(struct cbw) == CBW_SIZE && sizeof(struct csw) == CSW_SIZE, "BOT 5.1, 5.2");

// What the disks of one device share.
struct transport { struct usb_device *dev; u8 interface; u32 tag; u8 *buffer, *wrappers; u64 buffer_phys, wrappers_phys; };

struct usb_disk {
    struct block b;
    struct transport *t;
    char name[64], trouble[200];
    u8 lun;
    u32 unit;                             // bytes of a block
    bool no_flush, dead;
    u8 key, asc, ascq;                    // of the last command that failed
};

static struct { struct usb_disk disk[USB_DISKS]; struct transport transport[USB_DISKS]; unsigned n, transports; } all;

// A command on its way: cdb, and data in or out of the buffer.
struct scsi { u8 cdb[16]; u8 cdb_len; bool in; u32 len, got; const char *step; u64 timeout_ns; };

static struct scsi scsi_make(const char *step, u8 op, u8 cdb_len, bool in, u32 len)
{
    return (struct scsi){.cdb = {op}, .cdb_len = cdb_len, .in = in, .len = len, .step = step, .timeout_ns = COMMAND_NS};
}

static bool fail(struct usb_disk *k, const char *step, const char *what)
{
    fmt_snprintf(k->trouble, sizeof(k->trouble), "%s: %s: %s", k->name, step, what);
    return false;
}

// ---- the transport --------------------------------------------------------------------------------------------------------------------

enum bot_result { BOT_PASSED, BOT_FAILED, BOT_BROKEN };

static bool reset_recovery(struct transport *t)      // 5.3.4
{
    const struct usb_setup s = {0x21, BOT_RESET, 0, t->interface, 0};
    return usb_control(t->dev, &s, NULL, NULL) == USB_OK && usb_bulk_restart(t->dev);
}

static bool command_send(struct usb_disk *k, const struct scsi *c)
{
    struct transport *t = k->t;
    u32 got;
    struct cbw w = {CBW_SIGNATURE, ++t->tag, c->len, c->in ? 0x80 : 0, k->lun, c->cdb_len, {0}};
    memcpy(w.cdb, c->cdb, c->cdb_len);
    memcpy(t->wrappers, &w, sizeof(w));
    return usb_bulk(t->dev, t->dev->out.dci, t->wrappers_phys, CBW_SIZE, COMMAND_NS, &got) == USB_OK && got == CBW_SIZE;
}

// 6.7: a stall ends the data, and the status says why.
static bool data_move(struct usb_disk *k, struct scsi *c)
{
    struct transport *t = k->t;
    unsigned dci = c->in ? t->dev->in.dci : t->dev->out.dci;
    if (!c->len) return true;
    switch (usb_bulk(t->dev, dci, t->buffer_phys, c->len, c->timeout_ns, &c->got)) {
    case USB_OK: return true;
    case USB_STALL: return usb_clear_halt(t->dev, dci);
    default: return false;
    }
}

// 5.3.3 and figure 2: a stall is cleared once. Valid (6.3.1) is what has the size, the signature and the tag, and no residue above the
// length.
static bool status_get(struct usb_disk *k, const struct scsi *c, struct csw *s)
{
    struct transport *t = k->t;
    u32 got = 0;
    enum usb_result r = USB_STALL;
    for (unsigned i = 0; i < 2 && r == USB_STALL; i++) {
        r = usb_bulk(t->dev, t->dev->in.dci, t->wrappers_phys + CSW_AT, CSW_SIZE, c->timeout_ns, &got);
        if (r == USB_STALL && !usb_clear_halt(t->dev, t->dev->in.dci)) return false;
    }
    memcpy(s, t->wrappers + CSW_AT, sizeof(*s));
    return r == USB_OK && got == CSW_SIZE && s->signature == CSW_SIGNATURE && s->tag == t->tag && s->status < 2 && s->residue <= c->len;
}

static enum bot_result command_once(struct usb_disk *k, struct scsi *c)
{
    struct csw s;
    c->got = 0;
    memset(k->t->wrappers + CSW_AT, 0, CSW_SIZE);
    if (!command_send(k, c) || !data_move(k, c) || !status_get(k, c, &s)) return BOT_BROKEN;
    c->got = (u32)min_u64(c->got, c->len - s.residue);
    return s.status ? BOT_FAILED : BOT_PASSED;
}

static enum bot_result command(struct usb_disk *k, struct scsi *c)
{
    for (unsigned i = 0; !k->dead; i++) {
        enum bot_result r = command_once(k, c);
        if (r != BOT_BROKEN) return r;
        fail(k, c->step, usb_trouble(k->t->dev));
        log_debug("%s; reset recovery", k->trouble);
        if (i == RECOVERIES || !reset_recovery(k->t)) k->dead = true;
    }
    return BOT_BROKEN;
}

// ---- SCSI -----------------------------------------------------------------------------------------------------------------------------

// Why a command failed (SPC-4 4.5): fixed format.
static bool sense_get(struct usb_disk *k)
{
    struct scsi c = scsi_make("REQUEST SENSE", REQUEST_SENSE, 6, true, SENSE_SIZE);
    c.cdb[4] = SENSE_SIZE;
    if (command(k, &c) != BOT_PASSED || c.got < 8) return false;
    k->key = k->t->buffer[2] & 15;
    k->asc = c.got > 12 ? k->t->buffer[12] : 0;
    k->ascq = c.got > 13 ? k->t->buffer[13] : 0;
    return true;
}

static const char *sense_text(const struct usb_disk *k)
{
    if (k->key == DATA_PROTECT) return "write-protected";
    if (k->key == NOT_READY) return k->asc == ASC_NO_MEDIUM ? "no medium" : "not ready";
    return k->key == ILLEGAL_REQUEST ? "not supported" : k->key == 3 ? "medium error" : k->key == 4 ? "hardware error" : "failed";
}

// Does the command, again where that helps. What a write sends is in `out', since asking for sense uses the buffer. False: trouble says
// why.
static bool scsi(struct usb_disk *k, struct scsi *c, const void *out)
{
    u64 end = hwtimer_now_ns() + READY_NS;
    for (unsigned tries = 0;; tries++) {
        if (out) memcpy(k->t->buffer, out, c->len);
        enum bot_result r = command(k, c);
        if (r == BOT_PASSED) return true;
        if (r == BOT_BROKEN) return false;
        if (!sense_get(k)) return fail(k, c->step, "failed, and the device does not say why");
        if (k->key == RECOVERED) return true;
        bool waking = k->key == NOT_READY && k->asc == ASC_NOT_READY && hwtimer_now_ns() < end;
        if (!waking && (tries >= TRIES || (k->key != UNIT_ATTENTION && k->key != NO_SENSE))) break;
        if (waking) {
            tries = 0;
            hwtimer_wait_ns(POLL_NS);
        }
    }
    fmt_snprintf(k->trouble, sizeof(k->trouble), "%s: %s: %s (sense %x/%02x/%02x)", k->name, c->step, sense_text(k), k->key, k->asc,
                 k->ascq);
    return false;
}

static void put32(u8 *p, u32 v) { for (unsigned i = 0; i < 4; i++) p[i] = (u8)(v >> (24 - 8 * i)); }
static u32 get32(const u8 *p) { return (u32)p[0] << 24 | p[1] << 16 | p[2] << 8 | p[3]; }

// Up to a buffer full, whole blocks.
static bool blocks_move(struct usb_disk *k, bool write, u64 block, u32 len, void *data)
{
    struct scsi c = write ? scsi_make("WRITE(10)", WRITE10, 10, false, len) : scsi_make("READ(10)", READ10, 10, true, len);
    c.timeout_ns = DATA_NS;
    u32 n = len / k->unit;
    if (block + n > UINT32_MAX) return fail(k, c.step, "beyond the first 2^32 blocks");
    put32(c.cdb + 2, (u32)block);
    c.cdb[7] = (u8)(n >> 8);
    c.cdb[8] = (u8)n;
    if (!scsi(k, &c, write ? data : NULL)) return false;
    if (c.got != len) return fail(k, c.step, "the device moved less than it was asked to");
    if (!write) memcpy(data, k->t->buffer, len);
    return true;
}

// A device that does not know the command has no cache that it could empty.
static bool flush(struct usb_disk *k)
{
    struct scsi c = scsi_make("SYNCHRONIZE CACHE(10)", SYNCHRONIZE_CACHE10, 10, false, 0);
    c.timeout_ns = DATA_NS;
    if (k->no_flush || scsi(k, &c, NULL)) return true;
    if (k->dead || k->key != ILLEGAL_REQUEST) return false;
    log_info("%s: has no SYNCHRONIZE CACHE command, so its writes count as safe when they are done", k->name);
    k->no_flush = true;
    return true;
}

// ---- struct block ---------------------------------------------------------------------------------------------------------------------

static bool segment_move(struct usb_disk *k, bool write, u64 *at, u8 *data, u64 len)
{
    for (u64 n; len; len -= n, data += n, *at += n) {
        n = min_u64(len, BUFFER);
        if (!blocks_move(k, write, *at / k->unit, (u32)n, data)) return false;
    }
    return true;
}

static enum block_result disk_run(struct block *b, struct block_request *r)
{
    struct usb_disk *k = CONTAINER_OF(b, struct usb_disk, b);
    u64 at = r->offset;
    bool ok = true, moves = r->op == BLOCK_READ || r->op == BLOCK_WRITE;
    if (k->dead) return BLOCK_FAILED;
    if (!moves && r->op != BLOCK_FLUSH) return BLOCK_UNSUPPORTED;
    for (unsigned i = 0; moves && ok && i < r->nseg; i++) {
        ok = (at | r->seg[i].len) % k->unit == 0 || fail(k, "request", "not of whole blocks");
        ok = ok && segment_move(k, r->op == BLOCK_WRITE, &at, r->seg[i].base, r->seg[i].len);
    }
    if (ok && (r->op == BLOCK_FLUSH || (r->fua && r->op == BLOCK_WRITE))) ok = flush(k);
    if (ok) k->trouble[0] = 0;            // what was overcome is no trouble
    return ok ? BLOCK_OK : BLOCK_FAILED;
}

static void disk_submit(struct block *b, struct block_request *r)
{
    r->result = disk_run(b, r);
    r->done(r);
}

static void disk_drain(struct block *b UNUSED) {}

// ---- bring-up -------------------------------------------------------------------------------------------------------------------------

bool usb_disk_wanted(const struct usb_interface *i)
{
    return i->class == CLASS_STORAGE && i->subclass == SUBCLASS_SCSI && i->protocol == PROTOCOL_BULK && i->in.dci && i->out.dci &&
           i->in.packet && i->out.packet;
}

static bool inquire(struct usb_disk *k, bool *is_disk)
{
    struct scsi c = scsi_make("INQUIRY", INQUIRY, 6, true, INQUIRY_SIZE);
    c.cdb[4] = INQUIRY_SIZE;
    if (!scsi(k, &c, NULL)) return false;
    *is_disk = c.got >= INQUIRY_SIZE && k->t->buffer[0] == 0;      // direct access, and connected
    return true;
}

static bool ready(struct usb_disk *k)
{
    struct scsi c = scsi_make("TEST UNIT READY", TEST_UNIT_READY, 6, false, 0);
    return scsi(k, &c, NULL);
}

static bool capacity(struct usb_disk *k)
{
    struct scsi c = scsi_make("READ CAPACITY(10)", READ_CAPACITY10, 10, true, 8);
    if (!scsi(k, &c, NULL) || c.got < 8) return k->dead ? false : fail(k, c.step, "no answer");
    u64 last = get32(k->t->buffer);
    k->unit = get32(k->t->buffer + 4);
    if (last == UINT32_MAX) {
        struct scsi w = scsi_make("READ CAPACITY(16)", SERVICE_ACTION_IN, 16, true, 32);
        w.cdb[1] = READ_CAPACITY16;
        w.cdb[13] = 32;
        if (!scsi(k, &w, NULL) || w.got < 12) return k->dead ? false : fail(k, w.step, "no answer");
        last = (u64)get32(k->t->buffer) << 32 | get32(k->t->buffer + 4);
        k->unit = get32(k->t->buffer + 8);
    }
    if (k->unit < BLOCK_SECTOR || k->unit > UNIT_MAX || (k->unit & (k->unit - 1)) || last >= UINT64_MAX / UNIT_MAX)
        return fail(k, c.step, "blocks are neither of 512 nor of 4096 bytes");
    k->b.size = (last + 1) * k->unit;
    k->b.physical = k->unit;
    return true;
}

// One logical unit. False: the device is in trouble; a unit that is no disk, or has no medium, is not.
static bool unit_attach(struct transport *t, u8 lun)
{
    static const struct block_ops ops = {.submit = disk_submit, .drain = disk_drain, .run = disk_run};
    struct usb_disk *k = &all.disk[all.n];
    bool is_disk;
    *k = (struct usb_disk){.t = t, .lun = lun};
    fmt_snprintf(k->name, sizeof(k->name), lun ? "%s unit %u" : "%s", t->dev->name, lun);
    k->b = (struct block){.ops = &ops, .name = k->name};
    if (!inquire(k, &is_disk)) return xhci_fail(t->dev->slot.hc, "%s", k->trouble);
    if (!is_disk) return true;
    if (!ready(k) || !capacity(k)) {
        log_info("%s: no disk: %s", k->name, k->trouble);
        return !k->dead;
    }
    all.n++;
    log_info("%s: a disk, %llu MiB, blocks of %u bytes", k->name, (unsigned long long)(k->b.size / MIB), k->unit);
    return true;
}

static u8 last_unit(struct transport *t)
{
    const struct usb_setup s = {0xa1, GET_MAX_LUN, 0, t->interface, 1};
    u8 n = 0;
    u32 got;
    return usb_control(t->dev, &s, &n, &got) == USB_OK && got == 1 && n < LUNS ? n : 0;      // 3.2: a stall means one unit
}

bool usb_disk_attach(struct usb_device *d, const struct usb_interface *i)
{
    if (all.transports == USB_DISKS || all.n == USB_DISKS) {
        log_warn("%s: more than %u USB disks; skipped", d->name, USB_DISKS);
        return true;
    }
    struct transport *t = &all.transport[all.transports];
    t->dev = d;
    t->interface = i->number;
    if (!t->buffer) t->buffer = usb_memory(d, BUFFER, &t->buffer_phys);
    if (!t->wrappers) t->wrappers = usb_memory(d, PAGE_SIZE, &t->wrappers_phys);
    if (!t->buffer || !t->wrappers || !usb_configure(d, i)) return false;
    unsigned before = all.n;
    bool ok = true;
    for (u8 lun = 0, last = last_unit(t); ok && lun <= last && all.n < USB_DISKS; lun++) ok = unit_attach(t, lun);
    if (all.n > before) all.transports++;
    return ok || all.n > before;
}

void usb_disk_detach(const struct usb_device *d)
{
    for (unsigned i = 0; i < all.n; i++) {
        if (all.disk[i].t->dev != d) continue;
        all.disk[i].dead = true;
        fail(&all.disk[i], "unplugged", "boot anew with the disk in its place");
    }
}

struct block *usb_disk_get(unsigned n) { return n < all.n ? &all.disk[n].b : NULL; }

static struct usb_disk *disk_of(const struct block *b)
{
    for (unsigned i = 0; i < all.n; i++)
        if (b == &all.disk[i].b) return &all.disk[i];
    return NULL;
}

struct usb_device *usb_disk_device(const struct block *b) { return disk_of(b) ? disk_of(b)->t->dev : NULL; }
const char *usb_disk_trouble(const struct block *b) { return disk_of(b) ? disk_of(b)->trouble : ""; }
