// The pair of 8259A interrupt controllers of a PC: Intel 8259A data sheet (231468), ELCR at 0x4d0 as in PIIX/ICH.
//
// Each chip is IRR (requests), ISR (in service), IMR (mask) and a rotating priority. The slave's output is the master's IR2, which is
// treated as a level: it follows the slave. After every change both chips are evaluated and the master's output drives vCPU 0's ExtINT
// wire, which is a level too; the INTA cycle (pic_ack) then decides what is delivered, and it is IR7 (spurious) when nothing is left.
//
// One liberty: an edge stays latched when the line falls before INTA. The data sheet calls that a spurious interrupt, but here an edge may
// be a pulse of no length (irq_pulse). LTIM of ICW1 is ignored in favour of ELCR, as on the chips that have one.
#include "devices/devices.h"
#include "kernel/base/bits.h"
#include "kernel/base/log.h"
#include "kernel/plat.h"

enum { CASCADE = 2 };
enum pic_expect { EXPECT_NONE, EXPECT_ICW2, EXPECT_ICW3, EXPECT_ICW4 };
enum { ICW1_IC4 = 1, ICW1_SNGL = 2, ICW1 = 0x10, OCW3 = 8, ICW4_AEOI = 2, ICW4_SFNM = 0x10 };

struct pic8259 {
    struct pic *pair;
    u8 irr, isr, imr;
    u8 lines, elcr, elcr_mask;
    u8 lowest;             // the IR with lowest priority; lowest + 1 has the highest
    u8 base;               // ICW2: vector of IR0
    enum pic_expect expect;
    bool wants_icw4, single;
    bool auto_eoi, rotate_auto, sfnm, special_mask;
    bool read_isr, poll;
};

struct pic {               // BQL
    struct pic8259 chip[2];   // master, slave
    struct vcpu *vcpu;
    bool intr;
};

static bool is_master(const struct pic8259 *c) { return c == &c->pair->chip[0]; }

// Priority of the best bit of set (0 the highest), 8 if it is empty.
static unsigned best_priority(const struct pic8259 *c, u8 set)
{
    unsigned p = 0;
    while (p < 8 && !(set & 1 << ((c->lowest + 1 + p) & 7))) p++;
    return p;
}
static unsigned ir_of(const struct pic8259 *c, unsigned priority) { return (c->lowest + 1 + priority) & 7; }

// The request that the chip would put forward, or -1.
static int chip_request(const struct pic8259 *c)
{
    u8 isr = c->isr;
    if (c->special_mask) isr &= (u8)~c->imr;          // masked levels in service inhibit nobody
    unsigned want = best_priority(c, c->irr & (u8)~c->imr), busy = best_priority(c, isr);
    // Special fully nested mode: a better request of the slave that is in service already comes through.
    bool nested = c->sfnm && is_master(c) && want == busy && want < 8 && ir_of(c, want) == CASCADE;
    return want < busy || nested ? (int)ir_of(c, want) : -1;
}

static void pic_update(struct pic *s)
{
    struct pic8259 *m = &s->chip[0];
    bool slave = chip_request(&s->chip[1]) >= 0;
    m->irr = slave ? m->irr | 1 << CASCADE : m->irr & (u8)~(1 << CASCADE);
    bool intr = chip_request(m) >= 0;
    if (intr == s->intr) return;
    s->intr = intr;
    vcpu_set_extint(s->vcpu, intr);
}

static void chip_set_line(struct pic8259 *c, unsigned n, bool level)
{
    u8 bit = (u8)(1 << n);
    bool rises = level && !(c->lines & bit);
    c->lines = level ? c->lines | bit : c->lines & (u8)~bit;
    if (rises) c->irr |= bit;
    else if (!level && (c->elcr & bit)) c->irr &= (u8)~bit;
}

static void pic_set(void *opaque, unsigned n, bool level)
{
    struct pic *s = opaque;
    ASSERT(bql_held(), "IRQ %u set without the BQL", n);
    chip_set_line(&s->chip[n >> 3], n & 7, level);
    pic_update(s);
}

struct irq pic_pin(struct pic *s, unsigned n)
{
    ASSERT(n < 16 && n != CASCADE, "IRQ %u is no pin of the 8259 pair", n);
    return (struct irq){pic_set, s, n};
}

// ---- acknowledge ----
static void chip_inta(struct pic8259 *c, unsigned n)
{
    if (!(c->elcr & 1 << n)) c->irr &= (u8)~(1 << n);
    if (!c->auto_eoi) c->isr |= (u8)(1 << n);
    else if (c->rotate_auto) c->lowest = (u8)n;
}

// One chip's part of the INTA cycle: its vector; IR7 without a mark in ISR if there is no request left.
static u8 chip_vector(struct pic8259 *c)
{
    int n = chip_request(c);
    if (n >= 0) chip_inta(c, (unsigned)n);
    return c->base | (n >= 0 ? (u8)n : 7);
}

int pic_ack(void *pic)
{
    struct pic *s = pic;
    bql_lock();
    bool cascade = chip_request(&s->chip[0]) == CASCADE;
    int vector = chip_vector(&s->chip[0]);
    if (cascade) vector = chip_vector(&s->chip[1]);
    pic_update(s);
    bql_unlock();
    return vector;
}

// ---- command words ----
static void chip_init(struct pic8259 *c, u8 val)
{
    c->irr = c->lines & c->elcr;   // the edge sense circuit is reset: an edge needs a new low-to-high transition
    c->isr = c->imr = 0;
    c->lowest = 7;
    c->special_mask = c->read_isr = c->poll = c->rotate_auto = false;
    c->wants_icw4 = val & ICW1_IC4;
    c->single = val & ICW1_SNGL;
    if (!c->wants_icw4) c->auto_eoi = c->sfnm = false;
    c->expect = EXPECT_ICW2;
}

// OCW2, bits 7:5 R SL EOI: rotate, specific, end of interrupt.
static void chip_ocw2(struct pic8259 *c, u8 val)
{
    bool rotate = val & 0x80, specific = val & 0x40, eoi = val & 0x20;
    unsigned n = val & 7;
    if (!eoi) {
        if (!specific) c->rotate_auto = rotate;
        else if (rotate) c->lowest = (u8)n;   // set priority; 010 is a no-operation
        return;
    }
    if (!specific) {   // the best in service; in special mask mode masked ones are left alone
        unsigned p = best_priority(c, c->special_mask ? c->isr & (u8)~c->imr : c->isr);
        if (p == 8) return;
        n = ir_of(c, p);
    }
    c->isr &= (u8)~(1 << n);
    if (rotate) c->lowest = (u8)n;
}

static void chip_ocw3(struct pic8259 *c, u8 val)
{
    if (val & 0x40) c->special_mask = val & 0x20;
    if (val & 4) c->poll = true;
    if (val & 2) c->read_isr = val & 1;
}

static void chip_data(struct pic8259 *c, u8 val)
{
    switch (c->expect) {
    case EXPECT_NONE: c->imr = val; return;
    case EXPECT_ICW2:
        c->base = val & 0xf8;
        c->expect = !c->single ? EXPECT_ICW3 : c->wants_icw4 ? EXPECT_ICW4 : EXPECT_NONE;
        return;
    case EXPECT_ICW3:   // the wiring of the cascade is fixed
        c->expect = c->wants_icw4 ? EXPECT_ICW4 : EXPECT_NONE;
        return;
    case EXPECT_ICW4:
        c->auto_eoi = val & ICW4_AEOI;
        c->sfnm = val & ICW4_SFNM;
        c->expect = EXPECT_NONE;
        return;
    }
}

static void pic_write(void *opaque, u64 addr, u64 val, unsigned size)
{
    struct pic8259 *c = opaque;
    u8 v = (u8)val;
    if (addr & 1) chip_data(c, v);
    else if (v & ICW1) chip_init(c, v);
    else if (v & OCW3) chip_ocw3(c, v);
    else chip_ocw2(c, v);
    pic_update(c->pair);
}

// A poll takes the request as INTA would and says 0x80 | IR, or 0.
static u8 chip_poll(struct pic8259 *c)
{
    int n = chip_request(c);
    c->poll = false;
    if (n < 0) return 0;
    chip_inta(c, (unsigned)n);
    pic_update(c->pair);
    return (u8)(0x80 | n);
}

static u64 pic_read(void *opaque, u64 addr, unsigned size)
{
    struct pic8259 *c = opaque;
    if (c->poll) return chip_poll(c);
    if (addr & 1) return c->imr;
    return c->read_isr ? c->isr : c->irr;
}

static u64 elcr_read(void *opaque, u64 addr, unsigned size) { return ((struct pic *)opaque)->chip[addr & 1].elcr; }

static void elcr_write(void *opaque, u64 addr, u64 val, unsigned size)
{
    struct pic *s = opaque;
    struct pic8259 *c = &s->chip[addr & 1];
    u8 old = c->elcr;
    c->elcr = (u8)val & c->elcr_mask;
    c->irr = (u8)((c->irr & ~(old | c->elcr)) | (c->lines & c->elcr));
    pic_update(s);
}

static const struct io_ops pic_io = {.read = pic_read, .write = pic_write, .max_size = 1};
static const struct io_ops elcr_io = {.read = elcr_read, .write = elcr_write, .max_size = 1};

void pic_reset(struct pic *s)
{
    DEVICE_LOCKED();
    for (int i = 0; i < 2; i++) {
        struct pic8259 *c = &s->chip[i];
        u8 lines = c->lines;
        *c = (struct pic8259){.pair = s, .lines = lines, .lowest = 7, .elcr_mask = i ? 0xde : 0xf8};
    }
    if (s->intr) pic_update(s);
}

struct pic *pic_new(struct phys *p, struct vcpu *c)
{
    struct pic *s = plat_pages_alloc(sizeof *s);
    ASSERT(s, "no memory for the 8259 pair");
    s->vcpu = c;
    pic_reset(s);
    phys_add_ports(p, 0x20, 2, &pic_io, &s->chip[0], "pic-master");
    phys_add_ports(p, 0xa0, 2, &pic_io, &s->chip[1], "pic-slave");
    phys_add_ports(p, 0x4d0, 2, &elcr_io, s, "pic-elcr");
    return s;
}
