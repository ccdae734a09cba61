// The Cupel side: a guest with 64 MiB of RAM in long mode, whose user mode sees the same virtual addresses as the process that runs the
// tests. Or, for 32-bit code, in protected mode with PAE paging, its kernel at KERNEL_BASE32.
//
// Guest-physical layout: page tables, descriptor tables, exception stubs and their stack in the first 64 KiB (mapped at
// KERNEL_BASE, supervisor only: the other half, as an operating system's is, and like there every user access to it is refused);
// code at CODE_PHYS; data and stack pages at DATA_PHYS in an order that makes neighbouring virtual pages strangers in memory, so that an
// access that crosses a page is really two. Each of the 32 exception stubs writes to the port PORT_BASE + vector; the port's handler asks
// for a shutdown, vcpu_run returns, and the exception frame on the stub's stack together with the vCPU is the result.
#define _GNU_SOURCE
#include <setjmp.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <ucontext.h>
#include <unistd.h>

#include "kernel/base/bits.h"
#include "kernel/plat.h"
#include "tcg/guest/x86/cpu.h"
#include "tcg/guest/x86/feature.h"
#include "tcg/run/softmmu.h"
#include "tcg/run/tcg.h"
#include "tests/insn/state.h"

enum {
    RAM_SIZE = 64 << 20,
    PML4 = 0x1000, PDPT = 0x2000, PD = 0x3000, KPDPT = 0xc000, KPD = 0xd000, PT_CODE = 0x4000, PT_DATA = 0x5000, PT_STACK = 0x6000,
    GDT = 0x8000, IDT = 0x9000, STUBS = 0xa000, TSS = 0xb000, STACK0_TOP = 0xf000,
    CODE_PHYS = 0x400000, DATA_PHYS = 0x800000,
    LDT = 0x7000, PDPT32 = 0x10000, KPD32 = 0x11000, IDT32 = 0x12000, TSS32 = 0x13000,
    SEL_KCODE32 = 0x08, SEL_KCODE = 0x10, SEL_KDATA = 0x18, SEL_TSS = 0x40, SEL_LDT = 0x50,   // as Linux, so that selectors read the same
    PORT_BASE = 0x40,
    PTE_P = 1, PTE_W = 2, PTE_U = 4, PTE_PS = 128,
};
#define PTE_NX (1ull << 63)
#define KERNEL_BASE 0xffff800000000000ull

const struct plat_events *testplat_events(void);

static struct {
    u8 *ram;
    struct phys *phys;
    struct tcg *tcg;
    struct x86_cpu *cpu;
    struct translated_options opt;
    bool legacy;               // protected mode instead of long mode
    int ended;                 // vector whose stub ran, -1 none
    volatile bool running;
    volatile unsigned ticks;
    u64 count;                 // icount: instructions of the last run
    sigjmp_buf abort;
} t;

static u64 data_phys(u64 page) { return DATA_PHYS + (page * 5 % 16) * PAGE_SIZE; }   // pages 0..7 data, 8..11 stack

static void put64(u64 at, u64 v) { memcpy(t.ram + at, &v, 8); }

static void make_page_tables(void)
{
    put64(PML4, PDPT | PTE_P | PTE_W | PTE_U);
    put64(PDPT, PD | PTE_P | PTE_W | PTE_U);
    put64(PML4 + 256 * 8, KPDPT | PTE_P | PTE_W);
    put64(KPDPT, KPD | PTE_P | PTE_W);
    put64(KPD, 0 | PTE_P | PTE_W | PTE_PS);
    put64(PDPT32, PD | PTE_P);
    put64(PDPT32 + (KERNEL_BASE32 >> 30) * 8, KPD32 | PTE_P);
    put64(KPD32 + (KERNEL_BASE32 >> 21 & 511) * 8, 0 | PTE_P | PTE_W | PTE_PS);
    put64(PD + (CODE_BASE >> 21) * 8, PT_CODE | PTE_P | PTE_W | PTE_U);
    put64(PD + (DATA_BASE >> 21) * 8, PT_DATA | PTE_P | PTE_W | PTE_U);
    put64(PD + (STACK_BASE >> 21) * 8, PT_STACK | PTE_P | PTE_W | PTE_U);
    for (u64 i = 0; i < CODE_SIZE / PAGE_SIZE; i++) put64(PT_CODE + i * 8, (CODE_PHYS + i * PAGE_SIZE) | PTE_P | PTE_U);
    for (u64 i = 0; i < DATA_SIZE / PAGE_SIZE; i++) put64(PT_DATA + i * 8, data_phys(i) | PTE_P | PTE_W | PTE_U | PTE_NX);
    for (u64 i = 0; i < STACK_SIZE / PAGE_SIZE; i++) put64(PT_STACK + i * 8, data_phys(8 + i) | PTE_P | PTE_W | PTE_U | PTE_NX);
}

static void put32(u64 at, u32 v) { memcpy(t.ram + at, &v, 4); }

// What differs in protected mode: gates of 8 bytes, a TSS of 32-bit fields.
static void make_descriptors32(void)
{
    put32(TSS32 + 4, (u32)KERNEL_BASE32 + STACK0_TOP);
    put32(TSS32 + 8, SEL_KDATA);
    t.ram[TSS32 + 0x66] = 0x68;
    for (unsigned v = 0; v < 32; v++) {
        u32 at = (u32)KERNEL_BASE32 + STUBS + v * 16, gate_type = v == 3 || v == 4 ? 0xee00 : 0x8e00;
        put32(IDT32 + v * 8, (at & 0xffff) | SEL_KCODE32 << 16);
        put32(IDT32 + v * 8 + 4, (at & 0xffff0000) | gate_type);
    }
}

static void make_descriptors(void)
{
    make_descriptors32();
    memcpy(t.ram + LDT, native_ldt, sizeof native_ldt);
    put64(GDT + 0x08, 0x00cf9b000000ffff);   // kernel code, 32 bits
    put64(GDT + 0x10, 0x00af9b000000ffff);   // kernel code, 64 bits
    put64(GDT + 0x18, 0x00cf93000000ffff);
    put64(GDT + 0x20, 0x00cffb000000ffff);   // user code, 32 bits
    put64(GDT + 0x28, 0x00cff3000000ffff);
    put64(GDT + 0x30, 0x00affb000000ffff);   // user code, 64 bits
    put64(GDT + SEL_TSS, 0x00008b0000000067 | (u64)TSS << 16);
    put64(GDT + SEL_TSS + 8, KERNEL_BASE >> 32);
    put64(TSS + 4, KERNEL_BASE + STACK0_TOP);
    t.ram[TSS + 0x66] = 0x68;                // no I/O bitmap
    for (unsigned v = 0; v < 32; v++) {
        u64 at = STUBS + v * 16, gate_type = v == 3 || v == 4 ? 0xee00 : 0x8e00;
        put64(IDT + v * 16 + 8, KERNEL_BASE >> 32);
        put64(IDT + v * 16, (at & 0xffff) | (u64)SEL_KCODE << 16 | gate_type << 32 | (at >> 16) << 48);
        const u8 stub[] = {0xe6, (u8)(PORT_BASE + v), 0xf4, 0xeb, 0xfd};   // out %al, $port; 1: hlt; jmp 1b
        memcpy(t.ram + at, stub, sizeof stub);
    }
}

// ---- the port that ends a run ----
static u64 end_read(void *o, u64 addr, unsigned size) { return ~0ull; }
static void end_write(void *o, u64 addr, u64 val, unsigned size)
{
    if (t.ended < 0) t.ended = (int)addr;
    vcpu_request_shutdown(&t.cpu->v, 0);
}
static const struct io_ops end_ops = {.read = end_read, .write = end_write, .max_size = 1};

// ---- a local APIC with nothing to say ----
static void apic_fold(void *a, const u64 vectors[4], const u64 level[4]) {}
static bool apic_no(void *a) { return false; }
static int apic_none(void *a) { return -1; }
static u8 apic_get_tpr(void *a) { return 0; }
static void apic_set_tpr(void *a, u8 tpr) {}
static bool apic_rdmsr(void *a, u32 msr, u64 *val) { return false; }
static bool apic_wrmsr(void *a, u32 msr, u64 val) { return false; }
static void apic_reset(void *a, bool init) {}
static const struct apic_ops apic = {apic_fold, apic_no, apic_none, apic_no, apic_none, apic_get_tpr, apic_set_tpr, apic_rdmsr, apic_wrmsr, apic_reset};

static void fail(const char *what)
{
    fprintf(stderr, "insn test: %s\n", what);
    exit(2);
}

// icount: nothing is ever due, but budgets end everywhere.
static u64 count_random_budget(void)
{
    static struct rng r = {1};
    return 1 + rng_below(&r, 24);
}
static void count_no_idle(void) {}

static void make_machine(void)
{
    static const struct icount_hooks hooks = {.turn = count_random_budget, .idle = count_no_idle};
    struct tcg_config cfg = {.cache_size = t.opt.tb_size ? t.opt.tb_size : TB_CACHE_DEFAULT, .exit_poll = t.opt.exit_poll, .no_chain = t.opt.no_chain,
                             .max_insns = t.opt.one_insn ? 1 : TB_MAX_INSNS, .icount = t.opt.icount};
    t.tcg = tcg_new(&cfg);
    t.cpu = plat_pages_alloc(sizeof *t.cpu);
    if (!t.tcg || !t.cpu) fail("no memory for the translator");
    icount_set_hooks(t.tcg, &hooks);
    if (!vcpu_init(&t.cpu->v, t.tcg, t.phys, &x86_guest_ops, 0)) fail("no memory for the vCPU");
    vcpu_set_apic(&t.cpu->v, &apic, NULL);
    plat_bind_vcpu(&t.cpu->v);
    x86_guest_ops.reset(&t.cpu->v);
}

static void code_written(void *o, struct gpa a, u64 len) { (void)tb_invalidate_phys(t.tcg, a, len, 0); }
static void map_changed(void *o) { vcpu_request_tlb_flush(&t.cpu->v); }

void translated_init(const struct translated_options *o)
{
    t.opt = *o;
    t.ram = plat_pages_alloc(RAM_SIZE);
    t.phys = phys_new();
    if (!t.ram || !t.phys) fail("no memory for the guest");
    phys_add_ram(t.phys, gpa(0), RAM_SIZE, t.ram, "ram");
    phys_add_ports(t.phys, PORT_BASE, 32, &end_ops, NULL, "end");
    make_page_tables();
    make_descriptors();
    const struct plat_events ev = {.interrupted = vcpu_interrupted, .host_fault = vcpu_host_fault};
    plat_events_set(&ev);
    make_machine();
    static const struct phys_hooks hooks = {.code_written = code_written, .map_changed = map_changed};
    phys_set_hooks(t.phys, &hooks);
}

void translated_code(u64 off, const u8 *bytes, u64 len)
{
    bql_lock();
    phys_write(t.phys, gpa(CODE_PHYS + off), bytes, len);
    bql_unlock();
}

static bool offered(const struct x86_cpuid *q, unsigned f) { X86_FEATURE_OFFERED_BODY(q, f) }
bool translated_offers(unsigned feature) { return offered(&t.cpu->id, feature); }

u64 translated_count(void) { return t.count; }

static u8 *guest_page(u64 va)
{
    u64 n = va < STACK_BASE ? (va - DATA_BASE) >> PAGE_SHIFT : 8 + ((va - STACK_BASE) >> PAGE_SHIFT);
    return t.ram + data_phys(n);
}
const u8 *translated_page(u64 va) { return guest_page(va); }

void translated_legacy(bool on)
{
    if (t.legacy != on) tlb_flush(&t.cpu->v);
    t.legacy = on;
}

static void set_segment(struct x86_cpu *c, int s, u16 sel, u64 base, u32 limit, u32 attr)
{
    c->seg[s] = (struct segment){.sel = sel, .base = base, .limit = limit, .attr = attr};
    c->seg_base[s] = base;
}

// As if the guest had loaded the selector: hidden parts from the descriptor tables.
static void load_selector(struct x86_cpu *c, int s, u16 sel, u64 null_base)
{
    if (!(sel & 0xfffc)) {
        set_segment(c, s, sel, null_base, 0, 0);
        return;
    }
    u32 lo, hi;
    memcpy(&lo, t.ram + (sel & 4 ? LDT : GDT) + (sel & 0xfff8), 4);
    memcpy(&hi, t.ram + (sel & 4 ? LDT : GDT) + (sel & 0xfff8) + 4, 4);
    u32 limit = (lo & 0xffff) | (hi & 0xf0000);
    if (hi & 1 << 23) limit = limit << 12 | 0xfff;
    set_segment(c, s, sel, lo >> 16 | (hi & 0xff) << 16 | (hi & 0xff000000), limit, hi & 0xf0ff00);
}

static void load_tables(struct x86_cpu *c)
{
    u64 base = t.legacy ? KERNEL_BASE32 : KERNEL_BASE;
    c->cr3 = t.legacy ? PDPT32 : PML4;
    c->efer = EFER_NXE | (t.legacy ? 0 : EFER_LME | EFER_LMA | EFER_SCE);
    c->gdtr.base = base + GDT;
    c->gdtr.limit = SEL_TSS + 15;
    c->idtr.base = base + (t.legacy ? IDT32 : IDT);
    c->idtr.limit = 32 * (t.legacy ? 8 : 16) - 1;
    set_segment(c, SEG_LDTR, SEL_LDT, base + LDT, LDT_COUNT * 8 - 1, 0x8200);
    set_segment(c, SEG_TR, SEL_TSS, base + (t.legacy ? TSS32 : TSS), 0x67, 0x8b00);
}

static void load_state(struct x86_cpu *c, const struct insn_state *in)
{
    c->cr0 = CR0_PG | CR0_WP | CR0_NE | CR0_ET | CR0_MP | CR0_PE;
    c->cr4 = CR4_PAE | CR4_PGE | CR4_OSFXSR | CR4_OSXMMEXCPT | CR4_OSXSAVE | CR4_FSGSBASE | CR4_UMIP;
    c->cr2 = 0;
    c->xcr0 = 7;
    load_tables(c);
    for (int s = 0; s < 6; s++) load_selector(c, s, in->seg[s], s == SEG_FS ? in->fs_base : s == SEG_GS ? in->gs_base : 0);
    for (int i = 0; i < 16; i++) c->v.regs[i] = in->gpr[i];
    c->v.pc = in->rip;
    x86_set_eflags(c, in->rflags);
    x86_update_mode(c);
    c->inhibit_irq = false;
    c->v.halted = c->v.exc_pending = false;
    c->exc_nest = -1;
    c->v.last_tb = NULL;
    vcpu_fpu_release(&c->v);
    memcpy(c->xsave, in->xsave, XS_SIZE);
}

static u64 get64(u64 at)
{
    u64 v;
    memcpy(&v, t.ram + at, 8);
    return v;
}

// The exception frame: what the stub of this mode finds on its stack.
static void save_frame(struct insn_result *r, bool has_error)
{
    unsigned word = t.legacy ? 4 : 8;
    u64 frame = STACK0_TOP - 5 * word, mask = t.legacy ? 0xffffffff : ~0ull;
    r->error = has_error ? get64(frame - word) & mask : 0;
    r->st.rip = get64(frame) & mask;
    r->st.seg[S_CS] = (u16)get64(frame + word);
    r->st.rflags = get64(frame + 2 * word) & mask;
    r->st.gpr[G_RSP] = get64(frame + 3 * word) & mask;
    r->st.seg[S_SS] = (u16)get64(frame + 4 * word);
}

static void save_state(struct x86_cpu *c, struct insn_result *r)
{
    vcpu_fpu_release(&c->v);
    bool has_error = t.ended == 8 || (t.ended >= 10 && t.ended <= 14) || t.ended == 17 || t.ended == 21;
    r->vector = (unsigned)t.ended;
    r->cr2 = t.ended == 14 ? c->cr2 : 0;
    for (int i = 0; i < 16; i++) r->st.gpr[i] = c->v.regs[i];
    save_frame(r, has_error);
    r->st.seg[S_DS] = c->seg[SEG_DS].sel;
    r->st.seg[S_ES] = c->seg[SEG_ES].sel;
    r->st.seg[S_FS] = c->seg[SEG_FS].sel;
    r->st.seg[S_GS] = c->seg[SEG_GS].sel;
    r->st.fs_base = c->seg[SEG_FS].base;
    r->st.gs_base = c->seg[SEG_GS].base;
    memcpy(r->st.xsave, c->xsave, XS_SIZE);
}

void translated_run(const struct insn_state *in, const struct insn_memory *mem, struct insn_result *out)
{
    for (u64 i = 0; i < DATA_SIZE / PAGE_SIZE; i++) memcpy(t.ram + data_phys(i), mem->data + i * PAGE_SIZE, PAGE_SIZE);
    for (u64 i = 0; i < STACK_SIZE / PAGE_SIZE; i++) memcpy(t.ram + data_phys(8 + i), mem->stack + i * PAGE_SIZE, PAGE_SIZE);
    unsigned why = (unsigned)sigsetjmp(t.abort, 1);
    if (why) {   // the translator's state may be anything: a new one
        t.running = false;
        memset(out, 0, sizeof *out);
        out->vector = why;
        make_machine();
        return;
    }
    load_state(t.cpu, in);
    t.ended = -1;
    t.ticks = 0;
    t.running = true;
    t.count = t.opt.icount ? icount_now(t.tcg) : 0;
    vcpu_run(&t.cpu->v);
    t.count = t.opt.icount ? icount_now(t.tcg) - t.count : 0;
    t.running = false;
    if (t.ended < 0) out->vector = RUN_HUNG;
    else save_state(t.cpu, out);
}

void run_abort(unsigned why)
{
    if (!t.running) { fprintf(stderr, "insn test: panic outside of a run\n"); _exit(2); }
    siglongjmp(t.abort, (int)why);
}

// Translated code's own faults go to the run-time; anything else is a crash of the translator. SIGALRM: the watchdog's tick.
bool translated_signal(int sig, void *ucontext)
{
    if (!t.running) return false;
    greg_t *g = ((ucontext_t *)ucontext)->uc_mcontext.gregs;
    if (sig == SIGALRM) {
        if (++t.ticks > 3) siglongjmp(t.abort, RUN_HUNG);
        return true;
    }
    u64 rip = testplat_events()->host_fault((unsigned)g[REG_TRAPNO], (u64)g[REG_RIP], (u64)g[REG_EFL]);
    if (!rip) {
        char text[120];
        int len = snprintf(text, sizeof text, "host fault %lld at %#llx (cr2 %#llx)\n", (long long)g[REG_TRAPNO], (long long)g[REG_RIP],
                           (long long)g[REG_CR2]);
        if (write(2, text, (size_t)len) >= 0) siglongjmp(t.abort, RUN_PANICKED);
    }
    g[REG_RIP] = (greg_t)rip;
    return true;
}
