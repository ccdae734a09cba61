// 8259 pair, I/O APIC and local APIC on a fake platform, where each vCPU records what was posted to it.
// Links devices/clock.c, pic.c, ioapic.c, lapic.c, lapic_bus.c, lapic_timer.c.
#include "tests/unit/fake_chips.h"

enum { NCPU = 18 };   // 16 and 17: the second x2APIC cluster
static struct pic *pic;
static struct ioapic *ioapic;
static struct lapic *lapics[NCPU];

static void line(struct irq q, bool level) { bql_lock(); irq_set(&q, level); bql_unlock(); }
static void pulse(struct irq q) { bql_lock(); irq_pulse(&q); bql_unlock(); }

// ---- 8259 -----------------------------------------------------------------------------------------------------
static void pic_setup(u8 icw4m, u8 icw4s)
{
    for (unsigned n = 0; n < 16; n++)
        if (n != 2) line(pic_pin(pic, n), false);
    out8(0x4d0, 0);
    out8(0x4d1, 0);
    out8(0x20, 0x11); out8(0x21, 0x30); out8(0x21, 4); out8(0x21, icw4m);
    out8(0xa0, 0x11); out8(0xa1, 0x38); out8(0xa1, 2); out8(0xa1, icw4s);
}
static void eoi(u8 ocw2) { out8(0x20, ocw2); }
#define INTR fake_cpus[0].extint

static void test_pic_basic(void)
{
    pic_setup(1, 1);
    CHECK(!INTR);
    CHECK_EQ(pic_ack(pic), 0x37);                 // nothing: spurious IRQ7, not in service
    out8(0x20, 0x0b);
    CHECK_EQ(in8(0x20), 0);
    pulse(pic_pin(pic, 4));
    CHECK(INTR);
    out8(0x20, 0x0a);
    CHECK_EQ(in8(0x20), 0x10);
    CHECK_EQ(pic_ack(pic), 0x34);
    CHECK(!INTR);
    CHECK_EQ(in8(0x20), 0);
    out8(0x20, 0x0b);
    CHECK_EQ(in8(0x20), 0x10);
    pulse(pic_pin(pic, 5));                       // lower: waits
    CHECK(!INTR);
    pulse(pic_pin(pic, 1));                       // higher: nests
    CHECK(INTR);
    CHECK_EQ(pic_ack(pic), 0x31);
    CHECK(!INTR);
    eoi(0x20);                                    // ends 1
    CHECK_EQ(in8(0x20), 0x10);
    CHECK(!INTR);
    eoi(0x64);                                    // specific: ends 4
    CHECK(INTR);
    CHECK_EQ(pic_ack(pic), 0x35);
    eoi(0x20);
    eoi(0x20);                                    // nothing in service: harmless
    out8(0x21, 0x08);                             // mask
    CHECK_EQ(in8(0x21), 8);
    pulse(pic_pin(pic, 3));
    CHECK(!INTR);
    out8(0x21, 0);
    CHECK(INTR);
    out8(0x21, 8);                                // masked between INTR and INTA: spurious
    CHECK_EQ(pic_ack(pic), 0x37);
    out8(0x21, 0);
    CHECK_EQ(pic_ack(pic), 0x33);
    eoi(0x20);
    line(pic_pin(pic, 6), true);                  // an edge happens once
    CHECK_EQ(pic_ack(pic), 0x36);
    eoi(0x20);
    CHECK(!INTR);
    out8(0x20, 0x11); out8(0x21, 0x30); out8(0x21, 4); out8(0x21, 1);   // the high line is no edge after ICW1
    CHECK(!INTR);
}

static void test_pic_slave(void)
{
    pic_setup(1, 1);
    pulse(pic_pin(pic, 12));
    pulse(pic_pin(pic, 3));
    CHECK_EQ(pic_ack(pic), 0x3c);                 // IR2 of the master is better than IR3
    CHECK(!INTR);
    pulse(pic_pin(pic, 8));                       // better on the slave, but the master has IR2 in service
    CHECK(!INTR);
    out8(0xa0, 0x20);
    CHECK(!INTR);
    eoi(0x20);
    CHECK(INTR);
    CHECK_EQ(pic_ack(pic), 0x38);
    out8(0xa0, 0x20);
    eoi(0x20);
    CHECK_EQ(pic_ack(pic), 0x33);
    eoi(0x20);
    line(pic_pin(pic, 10), false);
    out8(0x4d1, 4);                               // IRQ10 level: goes away before INTA -> IRQ15, master in service
    line(pic_pin(pic, 10), true);
    CHECK(INTR);
    line(pic_pin(pic, 10), false);
    CHECK(!INTR);
    pic_setup(0x11, 1);                           // special fully nested mode
    pulse(pic_pin(pic, 12));
    CHECK_EQ(pic_ack(pic), 0x3c);
    pulse(pic_pin(pic, 3));
    CHECK(!INTR);
    pulse(pic_pin(pic, 8));
    CHECK(INTR);
    CHECK_EQ(pic_ack(pic), 0x38);
}

static void test_pic_modes(void)
{
    pic_setup(3, 1);                              // automatic EOI
    pulse(pic_pin(pic, 1));
    pulse(pic_pin(pic, 5));
    CHECK_EQ(pic_ack(pic), 0x31);
    CHECK_EQ(pic_ack(pic), 0x35);
    out8(0x20, 0x0b);
    CHECK_EQ(in8(0x20), 0);
    out8(0x20, 0x80);                             // rotate in automatic EOI
    pulse(pic_pin(pic, 1));
    CHECK_EQ(pic_ack(pic), 0x31);
    pulse(pic_pin(pic, 1));
    pulse(pic_pin(pic, 5));
    CHECK_EQ(pic_ack(pic), 0x35);                 // 1 is the lowest now
    pic_setup(1, 1);
    out8(0x20, 0xc3);                             // lowest priority: 3
    pulse(pic_pin(pic, 3));
    pulse(pic_pin(pic, 4));
    CHECK_EQ(pic_ack(pic), 0x34);
    eoi(0xa0);                                    // rotate on EOI: 4 the lowest, 5 6 7 0 1 2 3
    pulse(pic_pin(pic, 4));
    CHECK_EQ(pic_ack(pic), 0x33);
    eoi(0xe3);                                    // specific rotate: 3 the lowest
    pulse(pic_pin(pic, 3));
    CHECK_EQ(pic_ack(pic), 0x34);
    pic_setup(1, 1);                              // special mask: a masked one in service lets lower ones through
    pulse(pic_pin(pic, 1));
    pic_ack(pic);
    pulse(pic_pin(pic, 4));
    CHECK(!INTR);
    out8(0x21, 2);
    CHECK(!INTR);
    out8(0x20, 0x68);
    CHECK(INTR);
    CHECK_EQ(pic_ack(pic), 0x34);
    eoi(0x20);                                    // leaves masked IR1 in service
    out8(0x20, 0x0b);
    CHECK_EQ(in8(0x20), 2);
    pic_setup(1, 1);                              // poll
    out8(0x20, 0x0c);
    CHECK_EQ(in8(0x20), 0);
    pulse(pic_pin(pic, 6));
    out8(0x20, 0x0c);
    CHECK_EQ(in8(0x20), 0x86);
    CHECK(!INTR);
    out8(0x20, 0x0b);
    CHECK_EQ(in8(0x20), 0x40);
    pic_setup(1, 1);                              // ELCR: level
    out8(0x4d0, 0xff);
    out8(0x4d1, 0xff);
    CHECK(in8(0x4d0) == 0xf8 && in8(0x4d1) == 0xde);
    line(pic_pin(pic, 5), true);
    CHECK_EQ(pic_ack(pic), 0x35);
    CHECK(!INTR);
    eoi(0x20);
    CHECK(INTR);                                  // still asserted
    line(pic_pin(pic, 5), false);
    CHECK(!INTR);
    out8(0x20, 0x12); out8(0x21, 0x50);           // single, no ICW4
    CHECK_EQ(in8(0x21), 0);
    out8(0x21, 0x55);
    CHECK_EQ(in8(0x21), 0x55);
    bql_lock();
    pic_reset(pic);
    bql_unlock();
    CHECK(!INTR);
}

// ---- local APIC ---------------------------------------------------------------------------------------------------
#define PAGE 0xfee00000ull
enum { A_ID = 0x20, A_VER = 0x30, A_TPR = 0x80, A_PPR = 0xa0, A_EOI = 0xb0, A_LDR = 0xd0, A_DFR = 0xe0, A_SVR = 0xf0, A_ISR = 0x100,
       A_TMR = 0x180, A_IRR = 0x200, A_ESR = 0x280, A_ICR = 0x300, A_ICR2 = 0x310, A_TIMER = 0x320, A_LINT0 = 0x350, A_LINT1 = 0x360,
       A_ERR = 0x370, A_INIT = 0x380, A_CUR = 0x390, A_DIV = 0x3e0 };
static u32 ard(u32 r) { return ld32(PAGE + r); }
static void awr(u32 r, u32 v) { st32(PAGE + r, v); }
static struct vcpu *be(unsigned n) { return fake_current = &fake_cpus[n]; }
static bool wrmsr(u32 m, u64 v) { return fake_current->ops->wrmsr(fake_current->apic, m, v); }
static bool rdmsr(u32 m, u64 *v) { return fake_current->ops->rdmsr(fake_current->apic, m, v); }
static u64 msr(u32 m) { u64 v = 0xdead; return rdmsr(m, &v) ? v : 0xbad; }
static bool pending(void) { return fake_current->ops->pending(fake_current->apic); }
static int ack(void) { return fake_current->ops->ack(fake_current->apic); }
static void fold(void)
{
    struct vcpu *c = fake_current;
    c->ops->fold(c->apic, c->posted, c->level);
    memset(c->posted, 0, sizeof c->posted);
    memset(c->level, 0, sizeof c->level);
}
static void post(u8 v, bool level) { vcpu_post_interrupt(fake_current, v, level); fold(); }
static bool has(const struct vcpu *c, u8 v) { return c->posted[v >> 6] >> (v & 63) & 1; }
static void forget(void)
{
    for (unsigned i = 0; i < NCPU; i++) {
        struct vcpu *c = &fake_cpus[i];
        memset(c->posted, 0, sizeof c->posted);
        memset(c->level, 0, sizeof c->level);
        c->posts = c->nmis = c->inits = c->sipis = c->kicks = 0;
    }
}
// Everything as after power-up, software-enabled, flat logical IDs 1 << n for the first eight.
static void lapics_setup(void)
{
    for (unsigned i = 0; i < NCPU; i++) {
        be(i);
        fake_current->ops->reset(fake_current->apic, false);
        awr(A_SVR, 0x1ff);
        if (i < 8) awr(A_LDR, 1u << (24 + i));
    }
    forget();
    be(0);
}
// Bit n: vCPU n got something since forget().
static u32 receivers(void)
{
    u32 m = 0;
    for (unsigned i = 0; i < NCPU; i++)
        if (fake_cpus[i].posts + fake_cpus[i].nmis + fake_cpus[i].inits + fake_cpus[i].sipis) m |= 1u << i;
    forget();
    return m;
}

static void test_lapic_power_up(void)
{
    be(0);
    fake_current->ops->reset(fake_current->apic, false);
    CHECK_EQ(msr(0x1b), 0xfee00900);
    CHECK(ard(A_VER) == 0x01050014 && ard(A_SVR) == 0xff && ard(A_DFR) == 0xffffffff && ard(A_TIMER) == 0x10000);
    CHECK(ard(A_LINT0) == 0x700 && ard(A_LINT1) == 0x400);
    CHECK(fake_current->ops->extint_open(fake_current->apic));
    be(3);
    CHECK_EQ(msr(0x1b), 0xfee00800);
    CHECK_EQ(ard(A_ID), 3u << 24);
    CHECK_EQ(ard(A_LINT0), 0x10000);
    CHECK(!fake_current->ops->extint_open(fake_current->apic));
    awr(A_LINT0, 0x700);                          // software-disabled: stays masked
    CHECK_EQ(ard(A_LINT0), 0x10700);
    awr(A_SVR, 0x1ff);
    awr(A_LINT0, 0x700);
    CHECK_EQ(ard(A_LINT0), 0x700);
    awr(A_TIMER, 0x40);
    awr(A_SVR, 0xff);                             // masks all
    CHECK(ard(A_LINT0) == 0x10700 && ard(A_TIMER) == 0x10040);
    awr(A_ID, 0xff000000);
    CHECK_EQ(ard(A_ID), 3u << 24);
    CHECK_EQ(fake_read(false, PAGE + A_ID + 3, 1), 3);
    CHECK_EQ(ld32(PAGE + A_ID + 4), 0);
    fake_current = NULL;                          // nobody's access
    CHECK_EQ(ard(A_ID), 0xffffffff);
}

static void test_lapic_priorities(void)
{
    lapics_setup();
    CHECK(!pending() && ack() == -1);
    post(0x41, false);
    post(0x52, false);
    post(0x45, false);
    CHECK_EQ(ard(A_IRR + 0x20), 1u << 1 | 1u << 5 | 1u << 18);
    CHECK(pending());
    CHECK_EQ(ack(), 0x52);
    CHECK_EQ(ard(A_PPR), 0x50);
    CHECK(!pending() && ack() == -1);             // 0x45 is lower
    post(0x5f, false);                            // same class: waits
    CHECK(!pending());
    post(0x61, false);
    CHECK_EQ(ack(), 0x61);
    CHECK(ard(A_ISR + 0x20) == 1u << 18 && ard(A_ISR + 0x30) == 1u << 1);
    unsigned k = fake_current->kicks;
    awr(A_EOI, 0);
    CHECK_EQ(ard(A_PPR), 0x50);
    CHECK_EQ(fake_current->kicks, k);
    awr(A_EOI, 0);
    CHECK_EQ(fake_current->kicks, k + 1);         // 0x5f is deliverable now
    CHECK_EQ(ack(), 0x5f);
    awr(A_EOI, 0);
    awr(A_TPR, 0x40);
    CHECK(!pending() && ard(A_PPR) == 0x40);
    k = fake_current->kicks;
    fake_current->ops->set_tpr(fake_current->apic, 0x3f);
    CHECK(pending() && fake_current->kicks == k + 1 && ard(A_TPR) == 0x3f);
    CHECK_EQ(fake_current->ops->get_tpr(fake_current->apic), 0x3f);
    CHECK_EQ(ard(A_PPR), 0x3f);
    CHECK_EQ(ack(), 0x45);
    awr(A_EOI, 0);
    CHECK_EQ(ack(), 0x41);
    awr(A_EOI, 0);
    awr(A_EOI, 0);                                // none in service: harmless
    awr(A_TPR, 0);
    awr(A_SVR, 0xff);
    post(0x80, false);                            // software-disabled: not accepted
    CHECK(!pending() && ard(A_IRR + 0x40) == 0);
    awr(A_SVR, 0x1ff);
    post(0xff, true);
    CHECK_EQ(ard(A_TMR + 0x70), 1u << 31);
    CHECK_EQ(ack(), 0xff);
    post(0xff, false);                            // edge clears TMR
    CHECK_EQ(ard(A_TMR + 0x70), 0);
    fake_current->ops->reset(fake_current->apic, true);
    CHECK(!pending() && ard(A_ISR + 0x70) == 0);
}

static void test_lapic_errors(void)
{
    lapics_setup();
    awr(A_ERR, 0xfe);
    awr(A_ICR, 0x00040000 | 5);                   // self, vector 5
    CHECK(pending() && ack() == 0xfe);
    CHECK_EQ(ard(A_ESR), 0);                      // latched by a write
    awr(A_ESR, 0);
    CHECK_EQ(ard(A_ESR), 0x20);
    awr(A_ESR, 0);
    CHECK_EQ(ard(A_ESR), 0);
    awr(A_EOI, 0);
    ard(0x3f0);
    awr(0x40, 1);
    awr(A_ESR, 0);
    CHECK_EQ(ard(A_ESR), 0x80);
    awr(A_VER, 0);                                // read-only is no error
    awr(A_ESR, 0);
    CHECK_EQ(ard(A_ESR), 0);
    awr(A_DIV, 0xff);
    CHECK_EQ(ard(A_DIV), 0xb);
}

static void send(u8 dest, u32 icr) { awr(A_ICR2, (u32)dest << 24); awr(A_ICR, icr); }

static void test_lapic_ipi(void)
{
    static const struct { u8 dest; u32 icr; u32 who; } rows[] = {
        {2, 0x40, 1 << 2},                        // physical fixed
        {17, 0x40, 1 << 17}, {0, 0x40, 1 << 0}, {100, 0x40, 0},
        {0xff, 0x40, (1 << NCPU) - 1},            // broadcast
        {0x06, 0x840, 1 << 1 | 1 << 2},           // logical flat
        {0xff, 0x840, (1 << NCPU) - 1},
        {0, 0x40 | 1 << 18, 1 << 0},              // shorthands
        {0, 0x40 | 2 << 18, (1 << NCPU) - 1}, {0, 0x40 | 3 << 18, (1 << NCPU) - 2},
        {3, 0x400, 1 << 3}, {3, 0x4500, 1 << 3}, {3, 0x8500, 0}, {3, 0x4608, 1 << 3},
        {3, 0x200, 0}, {3, 0x05, 0},              // SMI; illegal vector
        {0, 0xc4500 | 0, (1 << NCPU) - 2},        // INIT to all others
    };
    lapics_setup();
    for (unsigned i = 0; i < ARRAY_SIZE(rows); i++) {
        send(rows[i].dest, rows[i].icr);
        u32 who = receivers();
        if (who != rows[i].who) printf("ipi row %u: %#x\n", i, who);
        CHECK(who == rows[i].who);
    }
    send(4, 0x51);
    CHECK(has(&fake_cpus[4], 0x51) && ard(A_ICR) == 0x51 && ard(A_ICR2) == 4u << 24);
    forget();
    send(4, 0x400);
    CHECK_EQ(fake_cpus[4].nmis, 1);
    send(4, 0x4500);
    CHECK_EQ(fake_cpus[4].inits, 1);
    send(4, 0x4699);
    CHECK(fake_cpus[4].sipis == 1 && fake_cpus[4].sipi_page == 0x99);
    forget();
    for (unsigned v = 0x40; v < 0x48; v++) {      // lowest priority: exactly one of those that match
        send(0x0e, 0x900 | v);
        u32 who = receivers();
        CHECK(who && !(who & (who - 1)) && !(who & ~0xeu));
    }
    be(2);
    awr(A_SVR, 0xff);                             // software-disabled: no fixed ones, but NMI and SIPI
    be(0);
    send(2, 0x40);
    CHECK_EQ(receivers(), 0);
    send(6, 0x840);
    CHECK_EQ(receivers(), 1 << 1);
    send(2, 0x400);
    CHECK_EQ(receivers(), 1 << 2);
    for (unsigned i = 0; i < 4; i++) {            // cluster model: cluster 1, members 1 << i
        be(i);
        awr(A_DFR, 0x0fffffff);
        awr(A_LDR, (0x10u | 1u << i) << 24);
    }
    be(0);
    send(0x1a, 0x840);
    CHECK_EQ(receivers() & 0xf, 1 << 1 | 1 << 3);   // flat ID 0x10 of vCPU 4 matches too
    send(0x2b, 0x840);                            // another cluster; flat IDs 1 << 5, 1 << 3 .. of the others answer for themselves
    CHECK_EQ(receivers() & 0xf, 0);
}

static void test_lapic_x2(void)
{
    u64 v;
    lapics_setup();
    CHECK(!rdmsr(0x802, &v) && !wrmsr(0x80b, 0));               // not in x2APIC mode
    CHECK(!wrmsr(0x1b, 0xfee00500));                            // EXTD without EN
    CHECK(!wrmsr(0x1b, 0xfee00901) && !wrmsr(0x1b, 0xfee00a00) && !wrmsr(0x1b, 1ull << 52 | 0xfee00900));
    CHECK(wrmsr(0x1b, 0xfee00d00));
    CHECK_EQ(msr(0x1b), 0xfee00d00);
    CHECK_EQ(ard(A_ID), 0xffffffff);                            // the page is gone
    CHECK(!wrmsr(0x1b, 0xfee00900));                            // back to xAPIC: #GP
    CHECK_EQ(msr(0x802), 0);
    CHECK_EQ(msr(0x80d), 1);
    CHECK_EQ(msr(0x80f), 0x1ff);
    static const struct { u32 msr; u64 val; bool ok; } rows[] = {
        {0x802, 0, false}, {0x803, 0, false}, {0x808, 0x20, true}, {0x808, 0x100, false}, {0x80a, 0, false}, {0x80b, 0, true},
        {0x80b, 1, false}, {0x80d, 0, false}, {0x80e, 0, false}, {0x80f, 0x11ff, true}, {0x80f, 0x2000, false}, {0x810, 0, false},
        {0x827, 0, false}, {0x828, 0, true}, {0x828, 1, false}, {0x82f, 0, false}, {0x830, 0x40040, true}, {0x830, 0x1040, false},
        {0x830, 1ull << 20, false}, {0x831, 0, false}, {0x832, 0x10040, true}, {0x832, 1ull << 32, false}, {0x832, 0x80000, false},
        {0x833, 0x10000, true}, {0x835, 0x10700, true}, {0x837, 0x10700, false}, {0x838, 0xffffffff, true}, {0x838, 1ull << 32, false},
        {0x838, 0, true}, {0x839, 0, false}, {0x83e, 0xb, true}, {0x83e, 4, false}, {0x83f, 0x55, true}, {0x83f, 0x155, false},
        {0x840, 0, false}, {0x8ff, 0, false}, {0x808, 0, true},
    };
    for (unsigned i = 0; i < ARRAY_SIZE(rows); i++) {
        bool ok = wrmsr(rows[i].msr, rows[i].val);
        if (ok != rows[i].ok) printf("x2 row %u\n", i);
        CHECK(ok == rows[i].ok);
    }
    CHECK(has(&fake_cpus[0], 0x55) && has(&fake_cpus[0], 0x40));
    forget();
    static const u32 unreadable[] = {0x800, 0x809, 0x80b, 0x80c, 0x80e, 0x82f, 0x831, 0x83f, 0x840};
    for (unsigned i = 0; i < ARRAY_SIZE(unreadable); i++) CHECK(!rdmsr(unreadable[i], &v));
    CHECK(wrmsr(0x830, 0x500000041));                           // to APIC ID 5, which is still an xAPIC
    CHECK_EQ(receivers(), 1 << 5);
    CHECK(wrmsr(0x830, 0xffffffff00000041) && receivers() == (1 << NCPU) - 1);
    CHECK(wrmsr(0x830, 0xff00000041) && receivers() == 0);      // no broadcast here
    CHECK(wrmsr(0x830, 0x10200000841) && receivers() == 0);     // a 32-bit logical destination is no xAPIC's
    CHECK(wrmsr(0x830, 0x00200000841) && receivers() == 1 << 1);
    for (unsigned i = 1; i < NCPU; i++) {
        be(i);
        CHECK(wrmsr(0x1b, 0xfee00c00));
    }
    be(17);
    CHECK_EQ(msr(0x80d), 0x10002);
    CHECK_EQ(msr(0x802), 17);
    be(0);
    CHECK(wrmsr(0x830, 0x0001000300000841) && receivers() == (1 << 16 | 1 << 17));
    CHECK(wrmsr(0x830, 0x0000800100000841) && receivers() == (1 << 0 | 1 << 15));
    CHECK(lapic_deliver(0x06, true, 0, 0x60, false) && receivers() == 6);     // I/O APIC, logical: cluster 0
    CHECK(lapic_deliver(16, false, 0, 0x60, false) && receivers() == 1 << 16);
    post(0x70, false);
    CHECK_EQ(ack(), 0x70);
    CHECK_EQ(msr(0x813), 1u << 16);
    CHECK(wrmsr(0x80b, 0) && msr(0x813) == 0);
    fake_current->ops->reset(fake_current->apic, true);         // INIT keeps the mode
    CHECK_EQ(msr(0x1b), 0xfee00d00);
    CHECK(wrmsr(0x80f, 0x1ff));
    CHECK(wrmsr(0x808, 0x33) && wrmsr(0x1b, 0xfee00100));       // off
    CHECK(fake_current->ops->extint_open(fake_current->apic) && !wrmsr(0x1b, 0xfee00d00));
    CHECK(!lapic_deliver(0, false, 0, 0x60, false));
    CHECK(wrmsr(0x1b, 0xfee00900));
    CHECK(ard(A_TPR) == 0 && ard(A_SVR) == 0xff);               // as after reset
}

static u64 fake_tsc(struct vcpu *c) { return (u64)((u128)fake_time * 2400 / 1000) + 777; }   // 2.4 GHz

static void test_lapic_timer(void)
{
    lapics_setup();
    struct vcpu *c = be(0);
    awr(A_TIMER, 0x30);
    awr(A_DIV, 0xb);                              // by 1
    awr(A_INIT, 1000);
    CHECK_EQ(ard(A_CUR), 1000);
    fake_step(400);
    CHECK(ard(A_CUR) == 600 && !has(c, 0x30));
    fake_step(599);
    CHECK(ard(A_CUR) == 1 && !has(c, 0x30));
    fake_step(1);
    CHECK(ard(A_CUR) == 0 && has(c, 0x30));
    forget();
    fake_step(100000);
    CHECK(c->posts == 0 && ard(A_CUR) == 0);
    static const struct { u32 div; unsigned by; } divs[] = {{0, 2}, {1, 4}, {2, 8}, {3, 16}, {8, 32}, {9, 64}, {10, 128}, {11, 1}};
    for (unsigned i = 0; i < ARRAY_SIZE(divs); i++) {
        awr(A_DIV, divs[i].div);
        awr(A_INIT, 1000);
        fake_step(100ull * divs[i].by);
        CHECK_EQ(ard(A_CUR), 900);
    }
    awr(A_DIV, 3);                                // while it runs at 1: the count goes on
    CHECK_EQ(ard(A_CUR), 900);
    fake_step(16 * 900 - 1);
    CHECK_EQ(c->posts, 0);
    fake_step(1);
    CHECK_EQ(c->posts, 1);
    awr(A_TIMER, 0x10030);                        // masked: counts, posts nothing
    awr(A_INIT, 10);
    fake_step(1000);
    CHECK(c->posts == 1 && ard(A_CUR) == 0);
    awr(A_INIT, 1000);
    awr(A_TIMER, 0x31);                           // unmasked on the way, another vector
    fake_step(16000);
    CHECK(has(c, 0x31) && c->posts == 2);
    forget();
    awr(A_TIMER, 0x20030);                        // periodic
    fake_step(1000000);
    CHECK_EQ(c->posts, 0);                        // a count that ended does not start again
    awr(A_DIV, 11);
    awr(A_INIT, 100000);
    fake_step(100000 * 50 + 300);
    CHECK(c->posts == 50 && ard(A_CUR) == 99700);
    fake_late(100000 * 10);
    fake_run_to(fake_time);
    CHECK_EQ(c->posts, 51);                       // ten periods late: one interrupt
    fake_step(99699);
    CHECK_EQ(c->posts, 51);
    fake_step(1);
    CHECK_EQ(c->posts, 52);                       // in phase
    awr(A_TIMER, 0x30);                           // to one-shot: this period is the last
    fake_step(NS_PER_SEC);
    CHECK_EQ(c->posts, 53);
    awr(A_TIMER, 0x20030);
    awr(A_INIT, 1);                               // bounded
    fake_step(NS_PER_SEC / 100);
    CHECK(c->posts - 53 <= 1001);
    awr(A_INIT, 0);
    forget();
    fake_step(NS_PER_SEC);
    CHECK(c->posts == 0 && fake_armed == UINT64_MAX);
    awr(A_TIMER, 0x05);                           // illegal vector: nothing
    awr(A_INIT, 10);
    fake_step(100);
    CHECK_EQ(c->posts, 0);
    awr(A_TIMER, 0x30);
    awr(A_INIT, 1000);
    c->ops->reset(c->apic, true);
    CHECK(fake_armed == UINT64_MAX && ard(A_INIT) == 0);
    awr(A_SVR, 0x1ff);
    awr(A_TIMER, 0x30);
    awr(A_INIT, 1000);
    bql_lock();                                   // a reset of the machine holds the lock
    c->ops->reset(c->apic, false);
    bql_unlock();
    CHECK(fake_armed == UINT64_MAX && ard(A_INIT) == 0);

    // TSC-deadline.
    u64 v;
    lapics_setup();
    CHECK(!rdmsr(0x6e0, &v) && !wrmsr(0x6e0, 1));
    awr(A_TIMER, 0x40030);
    CHECK_EQ(ard(A_TIMER), 0x30);                 // the mode is not offered
    for (unsigned i = 0; i < NCPU; i++) lapic_set_tsc(lapics[i], 2400000000ull, fake_tsc);
    CHECK(wrmsr(0x6e0, 12345) && msr(0x6e0) == 0);   // another mode: ignored
    awr(A_TIMER, 0x40030);
    CHECK_EQ(ard(A_TIMER), 0x40030);
    awr(A_INIT, 1000);
    CHECK(ard(A_INIT) == 0 && ard(A_CUR) == 0);
    forget();
    u64 tsc = fake_tsc(c) + 2400000;              // 1 ms
    CHECK(wrmsr(0x6e0, tsc) && msr(0x6e0) == tsc);
    fake_step(999998);
    CHECK_EQ(c->posts, 0);
    fake_step(3);
    CHECK(c->posts == 1 && has(c, 0x30) && msr(0x6e0) == 0 && fake_tsc(c) >= tsc);
    CHECK(wrmsr(0x6e0, fake_tsc(c) - 5));         // in the past: at once
    fake_step(0);
    CHECK_EQ(c->posts, 2);
    CHECK(wrmsr(0x6e0, fake_tsc(c) + 100000) && wrmsr(0x6e0, 0));
    fake_step(NS_PER_SEC);
    CHECK_EQ(c->posts, 2);
    CHECK(wrmsr(0x6e0, UINT64_MAX));
    fake_step(NS_PER_SEC);
    CHECK_EQ(c->posts, 2);
    awr(A_TIMER, 0x30);                           // another mode disarms
    CHECK(msr(0x6e0) == 0 && fake_armed == UINT64_MAX);
}

// ---- I/O APIC -----------------------------------------------------------------------------------------------------
#define IO 0xfec00000ull
static u32 iord(u8 r) { st32(IO, r); return ld32(IO + 0x10); }
static void iowr(u8 r, u32 v) { st32(IO, r); st32(IO + 0x10, v); }
static void rte(unsigned pin, u8 dest, u32 low) { iowr((u8)(0x11 + 2 * pin), (u32)dest << 24); iowr((u8)(0x10 + 2 * pin), low); }
enum { LEVEL = 1 << 15, MASK = 1 << 16, LOGICAL = 1 << 11, RIRR = 1 << 14 };

static void test_ioapic(void)
{
    lapics_setup();
    bql_lock();
    ioapic_reset(ioapic);
    bql_unlock();
    CHECK_EQ(iord(1), 0x00170020);
    CHECK_EQ(iord(0x10), MASK);
    CHECK_EQ(iord(0x80), 0);
    iowr(0, 0x05000000);
    CHECK(iord(0) == 0x05000000 && iord(2) == 0x05000000);
    iowr(0x10, 0xffffffff);
    CHECK_EQ(iord(0x10), 0x1afff);                // delivery status and Remote IRR are read-only
    iowr(0x11, 0xffffffff);
    CHECK_EQ(iord(0x11), 0xff000000);
    iowr(0x10, MASK);

    // Edge.
    rte(4, 3, 0x44);
    line(ioapic_pin(ioapic, 4), true);
    CHECK(has(&fake_cpus[3], 0x44) && fake_cpus[3].level[1] == 0);
    CHECK_EQ(receivers(), 1 << 3);
    line(ioapic_pin(ioapic, 4), true);            // no edge
    CHECK_EQ(receivers(), 0);
    line(ioapic_pin(ioapic, 4), false);
    CHECK_EQ(receivers(), 0);
    line(ioapic_pin(ioapic, 4), true);
    CHECK_EQ(receivers(), 1 << 3);
    line(ioapic_pin(ioapic, 4), false);
    rte(4, 3, 0x44 | MASK);
    line(ioapic_pin(ioapic, 4), true);            // lost
    rte(4, 3, 0x44);
    CHECK_EQ(receivers(), 0);
    rte(5, 6, 0x55 | LOGICAL);
    pulse(ioapic_pin(ioapic, 5));
    CHECK_EQ(receivers(), 6);
    rte(5, 6, 0x155 | LOGICAL);                   // lowest priority
    pulse(ioapic_pin(ioapic, 5));
    u32 who = receivers();
    CHECK(who == 2 || who == 4);
    rte(5, 2, 0x400);
    pulse(ioapic_pin(ioapic, 5));
    CHECK(fake_cpus[2].nmis == 1);
    forget();

    // Level: one message until EOI, through the local APIC of the vCPU that took it.
    be(0);
    rte(17, 0, 0x71 | LEVEL);
    line(ioapic_pin(ioapic, 17), true);
    CHECK(has(&fake_cpus[0], 0x71) && fake_cpus[0].level[1] >> 0x31 & 1);
    CHECK_EQ(iord(0x10 + 34), 0x71 | LEVEL | RIRR);
    fold();
    CHECK_EQ(ack(), 0x71);
    forget();
    line(ioapic_pin(ioapic, 17), false);
    line(ioapic_pin(ioapic, 17), true);           // Remote IRR holds it back
    CHECK_EQ(receivers(), 0);
    awr(A_EOI, 0);
    CHECK_EQ(receivers(), 1);                     // still asserted: again
    CHECK_EQ(iord(0x10 + 34) & RIRR, RIRR);
    post(0x71, true);
    ack();
    line(ioapic_pin(ioapic, 17), false);
    forget();
    awr(A_EOI, 0);
    CHECK(receivers() == 0 && !(iord(0x10 + 34) & RIRR));
    // Suppressed broadcast; the I/O APIC's own EOI register.
    awr(A_SVR, 0x11ff);
    line(ioapic_pin(ioapic, 17), true);
    fold();
    ack();
    awr(A_EOI, 0);
    CHECK(iord(0x10 + 34) & RIRR);
    line(ioapic_pin(ioapic, 17), false);
    st32(IO + 0x40, 0x70);
    CHECK(iord(0x10 + 34) & RIRR);
    st32(IO + 0x40, 0x71);
    CHECK(!(iord(0x10 + 34) & RIRR));
    awr(A_SVR, 0x1ff);
    // To edge and back clears Remote IRR (software for version 0x11).
    line(ioapic_pin(ioapic, 17), true);
    CHECK(iord(0x10 + 34) & RIRR);
    iowr(0x10 + 34, 0x71 | MASK);
    iowr(0x10 + 34, 0x71 | MASK | LEVEL);
    CHECK_EQ(iord(0x10 + 34), 0x71 | MASK | LEVEL);
    forget();
    iowr(0x10 + 34, 0x71 | LEVEL);                // unmasked while asserted
    CHECK_EQ(receivers(), 1);
    line(ioapic_pin(ioapic, 17), false);
    st32(IO + 0x40, 0x71);
    // Nobody takes it: Remote IRR stays clear, and a later write tries again.
    rte(17, 99, 0x71 | LEVEL);
    line(ioapic_pin(ioapic, 17), true);
    CHECK(receivers() == 0 && !(iord(0x10 + 34) & RIRR));
    rte(17, 1, 0x71 | LEVEL);
    CHECK_EQ(receivers(), 1 << 1);
    line(ioapic_pin(ioapic, 17), false);
    // Switched off with a level interrupt in the mailbox: the fold ends it for the I/O APIC.
    be(1);
    awr(A_SVR, 0xff);
    vcpu_post_interrupt(fake_current, 0x71, true);
    CHECK(iord(0x10 + 34) & RIRR);
    fold();
    CHECK(!(iord(0x10 + 34) & RIRR));
    forget();

    // MSI, from a device and by DMA to the page.
    be(0);
    lapic_msi(0xfee03000, 0x4066);
    CHECK_EQ(receivers(), 1 << 3);
    lapic_msi(0xfee05004, 0x66);                  // logical 5
    CHECK_EQ(receivers(), 5);
    lapic_msi(0xfee03000, 0x8066);                // level de-assert
    lapic_msi(0xfee03000, 0x0003);                // illegal vector
    CHECK_EQ(receivers(), 0);
    bql_lock();
    st32(PAGE, 0x67);
    CHECK_EQ(ard(A_ID), 0xffffffff);
    bql_unlock();
    CHECK_EQ(receivers(), 1);
}

// The 8259 through LINT0.
static void test_extint(void)
{
    lapics_setup();
    pic_setup(1, 1);
    be(0);
    lapic_set_pic(lapics[0], fake_current, pic_ack, pic);
    awr(A_LINT0, 0x700);
    pulse(pic_pin(pic, 1));
    CHECK(INTR && fake_current->ops->extint_open(fake_current->apic));
    CHECK_EQ(fake_current->ops->extint_ack(fake_current->apic), 0x31);
    awr(A_LINT0, 0x10700);
    CHECK(!fake_current->ops->extint_open(fake_current->apic));
    awr(A_LINT0, 0x400);
    CHECK(!fake_current->ops->extint_open(fake_current->apic));
}

int main(void)
{
    fake_start();
    pic = LOCKED(pic_new(&fake_phys, &fake_cpus[0]));
    ioapic = LOCKED(ioapic_new(&fake_phys));
    for (unsigned i = 0; i < NCPU; i++) {
        fake_cpus[i].index = i;
        lapics[i] = LOCKED(lapic_new(&fake_phys, &fake_cpus[i], i));
    }
    test_pic_basic();
    test_pic_slave();
    test_pic_modes();
    test_lapic_power_up();
    test_lapic_priorities();
    test_lapic_errors();
    test_lapic_ipi();
    test_lapic_timer();
    test_lapic_x2();
    test_ioapic();
    test_extint();
    return test_result();
}
