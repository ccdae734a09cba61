// The guest machine: a q35-like PC wired from devices/ around vCPUs from tcg/. See machine.h.
//
// Wires. ISA interrupt n goes to 8259 input n and to I/O APIC pin n, but for the timer: interrupt 0 is pin 2, as on every PC and as the MADT says.
// Memory. RAM below the PCI Express window at 0xb0000000, the rest above 4 GiB; 0xa0000-0xbffff is left to a display; 0xc0000-0xfffff is RAM.
//
// Reset. The vCPU's loop returns, chips and vCPUs go to their power-up state, and the kernel is loaded again from the images, as firmware would.
#include "kernel/machine.h"

#include "devices/clock.h"
#include "devices/devices.h"
#include "devices/load.h"
#include "devices/virtio.h"
#include "kernel/base/bits.h"
#include "kernel/base/fmt.h"
#include "kernel/base/log.h"
#include "kernel/plat.h"
#include "tcg/guest/x86/start.h"
#include "tcg/phys.h"
#include "tcg/run/tcg.h"

enum { ISA_IRQS = 16, GSIS = 24 };
#define LOW_RAM_END 0xb0000000ull

// The machine. One per run of the emulator; the platform's callbacks carry no argument to find it by.
static struct machine {
    struct machine_config cfg;
    struct phys *phys;
    struct tcg *tcg;
    struct vcpu *cpu;
    struct lapic *lapic;
    struct ioapic *ioapic;
    struct pic *pic;
    struct irq isa[ISA_IRQS], gsi[GSIS];
    struct pit *pit;
    struct hpet *hpet;
    struct rtc *rtc;
    struct serial *serial;
    struct i8042 *i8042;
    struct pci *pci;
    struct acpi_pm *pm;
    struct virtio_console *vcon;
    struct virtio_blk *blk[MACHINE_DRIVES];
    struct plat_io *io[MACHINE_IOTHREADS];
    u8 *ram;
    u64 dma_pages;                // pages with code that devices wrote while the translator was in the midst of things: first << 32 | last. Atomic
    u64 entropy;
    bool quit, stopped;
} m;

// ---- wires ----------------------------------------------------------------------------------------------------------------

static void isa_set(void *opaque UNUSED, unsigned n, bool level)
{
    struct irq a = pic_pin(m.pic, n), b = ioapic_pin(m.ioapic, n == 0 ? 2 : n);
    irq_set(&a, level);
    irq_set(&b, level);
}

static u64 read_tsc_hz(void)
{
    // Counted against the platform's clock; 20 ms are good for a few parts per million.
    u64 t0 = plat_time_ns(), c0 = __builtin_ia32_rdtsc(), t1;
    while ((t1 = plat_time_ns()) - t0 < 20000000) __builtin_ia32_pause();
    return muldiv64(__builtin_ia32_rdtsc() - c0, NS_PER_SEC, t1 - t0);
}

// Device writes from interrupt context and I/O threads (disks, virtio-console input) find the translator in the middle of anything: the pages are noted, and
// the vCPU drops their TBs at its next exit, as a processor may go on for a moment with what it fetched before. The note is one word, the
// range of pages: whoever finds it empty asks the vCPU to look.
enum { DMA_NONE = 0 };            // no range: page 0 alone would be last 0, so `last' is kept plus one

static void drop_noted(struct vcpu *c UNUSED, void *arg UNUSED)
{
    u64 noted = __atomic_exchange_n(&m.dma_pages, DMA_NONE, __ATOMIC_SEQ_CST);
    u64 first = noted >> 32, end = noted & UINT32_MAX;
    if (noted != DMA_NONE) (void)tb_invalidate_phys(m.tcg, gpa(first << PAGE_SHIFT), (end - first) << PAGE_SHIFT, NULL);
}

static void note_pages(u64 first, u64 end)
{
    u64 old = __atomic_load_n(&m.dma_pages, __ATOMIC_SEQ_CST), new;
    do {
        new = first << 32 | end;
        if (old != DMA_NONE) new = min_u64(first, old >> 32) << 32 | max_u64(end, old & UINT32_MAX);
        if (new == old) return;
    } while (!__atomic_compare_exchange_n(&m.dma_pages, &old, new, false, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST));
    if (old == DMA_NONE) cpu_run_async(m.cpu, drop_noted, NULL);
}

static void code_written(void *opaque UNUSED, struct gpa a, u64 len)
{
    if (!plat_in_interrupt() && plat_core_id() != PLAT_NO_CORE) {
        (void)tb_invalidate_phys(m.tcg, a, len, NULL);
        return;
    }
    u64 first = a.v >> PAGE_SHIFT, last = (a.v + len - 1) >> PAGE_SHIFT;
    while (first <= last && !tb_page_has_code(m.tcg, gpa(first << PAGE_SHIFT))) first++;
    while (last > first && !tb_page_has_code(m.tcg, gpa(last << PAGE_SHIFT))) last--;
    if (first <= last) note_pages(first, last + 1);
}

static void entropy(void *opaque UNUSED, void *buf, size_t len)
{
    u8 *p = buf;
    for (size_t n = 0; n < len; n++) {
        u64 v = __builtin_ia32_rdtsc() ^ plat_time_ns() * 0x9e3779b97f4a7c15ull;
        if (n % 8 == 0) __asm__ volatile("1: rdrand %0\n\tjnc 1b" : "=r"(m.entropy) : : "cc");
        p[n] = (u8)(m.entropy >> n % 8 * 8 ^ v >> 32);
    }
}

static void map_changed(void *opaque UNUSED) { vcpu_request_tlb_flush(m.cpu); }

// The virtio console, where there is one with a driver, is what the keyboard types into.
static bool console_input(u8 byte)
{
    return m.vcon && virtio_console_driven(m.vcon) ? virtio_console_input(m.vcon, byte) : serial_input(m.serial, byte);
}

static void console_out(const void *buf, size_t len) { plat_console_write(buf, len); }

// ---- building ---------------------------------------------------------------------------------------------------------------

static bool fail(char *err, size_t len, const char *text)
{
    fmt_snprintf(err, len, "%s", text);
    return false;
}

// The I/O threads exist before the devices that they serve.
static void io_serve(void *opaque)
{
    struct plat_io **io = opaque;
    for (unsigned i = 0; i < m.cfg.ndrives; i++) {
        struct virtio_blk *s = __atomic_load_n(&m.blk[i], __ATOMIC_ACQUIRE);
        if (s && m.cfg.drive[i].iothread == io - m.io + 1) virtio_blk_serve(s);
    }
}

static void attention(void)
{
    for (unsigned i = 0; i < MACHINE_DRIVES; i++)
        if (m.blk[i]) virtio_blk_attention(m.blk[i]);
}

static bool iothreads_create(char *err, size_t errlen)
{
    for (unsigned i = 0; i < m.cfg.niothreads; i++)
        if (!(m.io[i] = plat_io_start(io_serve, &m.io[i]))) return fail(err, errlen, "iothread: this machine has no thread or core to give to I/O");
    return true;
}

static bool ram_create(char *err, size_t errlen)
{
    u64 size = m.cfg.ram_size, low = min_u64(size, LOW_RAM_END);
    m.ram = plat_pages_alloc(size);
    if (!m.ram) {
        fmt_snprintf(err, errlen, "no %llu MiB of memory for the guest; give less with -m (memory in cupel.conf)", (unsigned long long)(size / MIB));
        return false;
    }
    phys_add_ram(m.phys, gpa(0), 0xa0000, m.ram, "ram-low");
    phys_add_ram(m.phys, gpa(0xc0000), low - 0xc0000, m.ram + 0xc0000, "ram");
    if (size > low) phys_add_ram(m.phys, gpa(4 * GIB), size - low, m.ram + low, "ram-high");
    return true;
}

static void devices_create(u64 tsc_hz)
{
    struct phys *p = m.phys;
    m.lapic = lapic_new(p, m.cpu, 0);
    lapic_set_tsc(m.lapic, tsc_hz, x86_vcpu_tsc);
    m.ioapic = ioapic_new(p);
    m.pic = pic_new(p, m.cpu);
    lapic_set_pic(m.lapic, m.cpu, pic_ack, m.pic);
    for (unsigned n = 0; n < ISA_IRQS; n++) m.isa[n] = (struct irq){isa_set, NULL, n};
    for (unsigned n = 0; n < GSIS; n++) m.gsi[n] = ioapic_pin(m.ioapic, n);
    m.pit = pit_new(p, m.isa[0]);
    m.rtc = rtc_new(p, m.isa[8], m.cfg.ram_size);
    u64 low = min_u64(m.cfg.ram_size, LOW_RAM_END);
    rtc_set_memory(m.rtc, low, m.cfg.ram_size - low);
    m.hpet = hpet_new(p, m.gsi, GSIS);
    hpet_set_legacy(m.hpet, m.pit, m.rtc, m.isa[0], m.isa[8]);
    m.serial = serial_new(p, 0x3f8, m.isa[4], m.cfg.serial_out ? m.cfg.serial_out : console_out);
    m.i8042 = i8042_new(p, m.cpu, m.isa[1]);
    m.pci = pci_new(p, m.gsi, GSIS);
    m.pm = acpi_pm_new(p, m.cpu, m.isa[9]);
    if (m.cfg.virtio_rng && !virtio_rng_new(m.pci, entropy, NULL)) panic("virtio-rng: the PCI bus is full");
    if (m.cfg.virtio_console && !(m.vcon = virtio_console_new(m.pci, console_out))) panic("virtio-console: the PCI bus is full");
    for (unsigned i = 0; i < m.cfg.ndrives; i++) {
        const struct machine_drive *d = &m.cfg.drive[i];
        struct virtio_blk *s = virtio_blk_new(m.pci, d->block, d->queues, d->serial, d->iothread ? m.io[d->iothread - 1] : NULL);
        if (!s) panic("virtio-blk: the PCI bus is full");
        __atomic_store_n(&m.blk[i], s, __ATOMIC_RELEASE);
    }
    if (m.cfg.debug_exit_size) debug_exit_new(p, m.cpu, (u16)m.cfg.debug_exit_base, m.cfg.debug_exit_size);
    if (m.cfg.debugcon) debugcon_new(p, 0xe9, m.cfg.debugcon_out ? m.cfg.debugcon_out : console_out);
}

// Loads the kernel and points vCPU 0 at it. Also after every reset.
static bool kernel_start(char *err, size_t errlen)
{
    struct load_request rq = {.kernel = m.cfg.kernel, .initrd = m.cfg.initrd, .cmdline = m.cfg.append};
    struct load_result r = {0};
    rq.rsdp = acpi_tables_build(m.phys, m.cfg.smp);
    if (!load_kernel(m.phys, &rq, &r, err, errlen)) return false;
    x86_vcpu_reset(m.cpu);
    struct x86_start s = {.mode64 = r.mode64, .pc = r.entry, .rsi = r.rsi, .rsp = r.rsp, .cr3 = r.cr3, .gdt_base = r.gdt_base,
                          .gdt_limit = r.gdt_limit, .cs = r.cs, .ds = r.ds, .eax = r.eax, .ebx = r.ebx};
    x86_vcpu_start(m.cpu, &s);
    return true;
}

static bool config_check(char *err, size_t errlen)
{
    const struct machine_config *c = &m.cfg;
    if (!c->kernel.data) return fail(err, errlen, "no guest: give a kernel with -kernel (kernel in cupel.conf)");
    if (c->smp != 1) return fail(err, errlen, "smp: more than one guest CPU is not there yet; use 1");
    if (c->ram_size < 16 * MIB || c->ram_size % MIB) return fail(err, errlen, "memory: at least 16 MiB, in whole MiB");
    return true;
}

bool machine_create(const struct machine_config *cfg, char *err, size_t errlen)
{
    static const struct plat_events events = {

        .timer = clocks_run_expired, .attention = attention, .console_input = console_input, .interrupted = vcpu_interrupted, .host_fault = vcpu_host_fault};
    m.cfg = *cfg;
    if (!m.cfg.smp) m.cfg.smp = 1;
    if (!config_check(err, errlen)) return false;
    if (host_missing()) {
        fmt_snprintf(err, errlen, "this processor lacks %s, which translated code needs; a PC from 2014 or later has it", host_missing());
        return false;
    }
    struct tcg_config tc = {.cache_size = cfg->tb_size ? cfg->tb_size : TB_CACHE_DEFAULT, .exit_poll = cfg->exit_poll, .no_chain = cfg->no_chain,
                            .max_insns = TB_MAX_INSNS};
    m.tcg = tcg_new(&tc);
    if (!m.tcg) return fail(err, errlen, "no memory for the code cache; make it smaller with -accel tcg,tb-size=MiB");
    m.phys = phys_new();
    if (!ram_create(err, errlen)) return false;
    u64 tsc_hz = read_tsc_hz();
    m.cpu = x86_vcpu_new(m.tcg, m.phys, 0, m.cfg.smp, tsc_hz);
    if (!m.cpu) return fail(err, errlen, "no memory for the vCPU");
    clocks_init();
    if (!iothreads_create(err, errlen)) return false;
    plat_events_set(&events);
    bql_lock();
    devices_create(tsc_hz);
    static const struct phys_hooks hooks = {.code_written = code_written, .map_changed = map_changed};
    phys_set_hooks(m.phys, &hooks);
    bool ok = kernel_start(err, errlen);
    bql_unlock();
    return ok;
}

// ---- running -------------------------------------------------------------------------------------------------------------------

static void chips_reset(void)
{
    pic_reset(m.pic);
    ioapic_reset(m.ioapic);
    pit_reset(m.pit);
    hpet_reset(m.hpet);
    rtc_reset(m.rtc);
    serial_reset(m.serial);
    i8042_reset(m.i8042);
    pci_reset(m.pci);
    acpi_pm_reset(m.pm);
}

static void reset_all(void)
{
    char err[256];
    bql_lock();
    chips_reset();
    bool ok = kernel_start(err, sizeof err);
    bql_unlock();
    ASSERT(ok, "reset: %s", err);      // the same images loaded before
}

static void wait_while_stopped(void)
{
    bql_lock();
    clock_pause_vm();
    u64 since = __builtin_ia32_rdtsc();
    while (m.stopped && !m.quit) plat_idle();
    x86_vcpu_tsc_hold(m.cpu, __builtin_ia32_rdtsc() - since);
    clock_resume_vm();
    bql_unlock();
}

enum machine_end machine_run(int *code)
{
    bql_lock();
    clock_resume_vm();
    bql_unlock();
    for (;;) {
        u32 ev = vcpu_run(m.cpu);
        if (m.quit) return MACHINE_QUIT;
        if (ev & VCPU_EV_SHUTDOWN) {
            *code = m.cpu->shutdown_code;
            return *code ? MACHINE_DEBUG_EXIT : MACHINE_POWEROFF;
        }
        if (ev & VCPU_EV_RESET) {
            if (m.cfg.no_reboot) return MACHINE_RESET;
            reset_all();
        }
        if (ev & VCPU_EV_STOP) wait_while_stopped();
    }
}

void machine_quit(void)
{
    m.quit = true;
    vcpu_request_stop(m.cpu);
}

void machine_reset(void) { vcpu_request_reset(m.cpu); }

void machine_stop(void)
{
    m.stopped = true;
    vcpu_request_stop(m.cpu);
}

void machine_cont(void) { m.stopped = false; }

void machine_info(const char *what, void (*out)(void *o, const char *s), void *o)
{
    if (!__builtin_strcmp(what, "registers")) m.cpu->ops->dump(m.cpu, out, o);
    else if (!__builtin_strcmp(what, "jit")) tcg_info(m.tcg, m.cpu, out, o);
    else out(o, "info: registers, jit\n");
}
