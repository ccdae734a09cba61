// The kernel's life: bring-up, the guest machine, the end. Each line of the bring-up relies on those above it.
#include "kernel/acpi.h"
#include "kernel/ap.h"
#include "kernel/assay.h"
#include "kernel/base/log.h"
#include "kernel/console.h"
#include "kernel/core.h"
#include "kernel/cpu.h"
#include "kernel/hwtimer.h"
#include "kernel/lapic.h"
#include "kernel/lock.h"
#include "kernel/machine.h"
#include "kernel/plat.h"
#include "kernel/pmem.h"
#include "kernel/power.h"
#include "kernel/ramdisk.h"
#include "kernel/selftest.h"
#include "kernel/stick.h"
#include "kernel/traps.h"
#include "kernel/virtio_blk.h"
#include "kernel/vmem.h"

void kernel_main(const struct boot_info *info);

static void main_bring_up(const struct boot_info *info)
{
    core_init_boot();              // GS:0, segments, stacks for #DF and NMI, SSE and AVX
    lock_init();                   // how spinlocks wait
    traps_init();                  // from here on, a fault shows a dump ...
    console_init_early(info);      // ... on the serial line
    log_info("Cupel %s (build %s) on the bare machine", CUPEL_VERSION, CUPEL_BUILD);
    ASSERT(info->magic == BOOT_INFO_MAGIC && info->version == BOOT_INFO_VERSION && info->size == sizeof(*info),
           "loader and kernel do not match");
    pmem_init(pmem_virt(info->mem_map_phys), info->mem_map_count);   // through the loader's page tables
    vmem_init(info);               // our own: W^X, guard pages, nothing at low addresses
    console_init_screen(info);     // needs memory and the write-combining type
    log_info("memory: %llu MiB free, largest piece %llu MiB",
             (unsigned long long)(pmem_free_bytes() / MIB), (unsigned long long)(pmem_largest_run() / MIB));
    acpi_init(info->rsdp_phys);    // cores, I/O APICs, clocks, power
    lapic_init();                  // interrupts can be delivered
    hwtimer_init(info->wall_ns, info->wall_tsc);   // time is known, the timer armed at need
    console_init_input(info);      // serial and keyboard interrupts
    stick_init(info);              // which partition results may be written to
    power_init();                  // the end takes no locks, so what it maps is mapped now
    __asm__ volatile("sti");       // all that can interrupt has its handler
    ap_start_all(info);            // the other cores, parked
}

static struct blob main_blob(const struct boot_file *f)
{
    return (struct blob){f->size ? pmem_virt(f->phys) : NULL, f->size, f->name};
}

static void main_drive_add(struct machine_config *cfg, const struct boot_info *info, struct block *b)
{
    unsigned queues = info->num_queues ? info->num_queues : (unsigned)min_u64(info->smp, 16);
    cfg->drive[cfg->ndrives++] = (struct machine_drive){.block = b, .queues = queues, .iothread = cfg->niothreads ? 1 : 0};
}

static void main_drive(struct machine_config *cfg, const struct boot_info *info)
{
    const struct boot_file *f = &info->drive;
    char err[256];
    cfg->niothreads = info->iothread;
    if (info->drive_host) {
        struct block *b = virtio_blk_open(info->drive_host - 1u, info->iothread, err, sizeof(err));
        if (!b) {
            log_error("%s", err);
            plat_exit(1);
        }
        main_drive_add(cfg, info, b);
    }
    if (!f->size) return;
    struct block *b = ramdisk_new(pmem_virt(f->phys), f->size, f->name);
    if (!b) {
        log_error("drive: %s is no raw disk image: its size is no multiple of 512", f->name);
        plat_exit(1);
    }
    main_drive_add(cfg, info, b);
}

static void main_finish(enum machine_end end, int code)
{
    switch (end) {
    case MACHINE_POWEROFF: log_info("the guest has switched its machine off"); plat_exit(0);
    case MACHINE_QUIT: case MACHINE_TIMEOUT: log_info("quit"); plat_exit(0);
    case MACHINE_DEBUG_EXIT:
        log_info("the guest ended by isa-debug-exit, code %d", code);
        plat_exit(0);
    case MACHINE_RESET:
        log_info("the guest has reset its machine; no-reboot is on, so this one restarts");
        console_flush();
        power_reset();
    }
}

void kernel_main(const struct boot_info *info)
{
    main_bring_up(info);
    if (info->error[0]) {
        log_error("%s", info->error);
        plat_exit(1);
    }
    if (info->selftest) selftest_run((enum boot_selftest)info->selftest);
    struct machine_config cfg = {
        .ram_size = info->guest_ram, .smp = info->smp, .kernel = main_blob(&info->kernel), .initrd = main_blob(&info->initrd),
        .append = info->append, .exit_poll = info->exit_poll, .no_chain = info->no_chain,
        .no_reboot = info->no_reboot, .tb_size = info->tb_size,
        .debug_exit_base = info->debug_exit_base, .debug_exit_size = info->debug_exit_size, .debugcon = info->debugcon,
        .virtio_rng = info->virtio_rng, .virtio_console = info->virtio_console,
        .threads = info->thread == 1 ? THREADS_SINGLE : info->thread == 2 ? THREADS_MULTI : THREADS_DEFAULT,
        .icount = {.on = info->icount, .shift = info->icount_shift, .sleep_off = info->icount_sleep_off},
        .seeded = info->seeded, .seed = info->seed,
        .rtc = {.base = info->rtc_base == 1 ? RTC_BASE_UTC : info->rtc_base == 2 ? RTC_BASE_DATE : RTC_BASE_DEFAULT, .sec = info->rtc_sec,
                .clock = info->rtc_clock == 1 ? RTC_CLOCK_HOST : info->rtc_clock == 2 ? RTC_CLOCK_VM : RTC_CLOCK_DEFAULT},
    };
    if (info->assay[0]) assay_start(info, &cfg);
    main_drive(&cfg, info);
    char err[512] = "";
    if (!machine_create(&cfg, err, sizeof(err))) {
        log_error("[%s] %s", info->title, err);
        plat_exit(1);
    }
    // There is no -d here: the line at the end is always written.
    trace_set_mask((cfg.icount.on ? TRACE_ICOUNT : 0) | (info->profile ? TRACE_PROFILE : 0));
    int code = 0;
    enum machine_end end = machine_run(&code);   // not as an argument beside `code': the order would be open
    virtio_blk_finish_all();
    main_finish(end, code);
}
