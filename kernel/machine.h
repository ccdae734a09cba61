// The whole guest machine, as both platforms start it: a configuration in, an exit reason out. machine.c is the one file that
// knows tcg/ and devices/ together.
#pragma once

#include "kernel/base/types.h"

struct blob { const u8 *data; u64 size; const char *name; };   // name: for messages

struct block;                     // devices/block.h
struct machine_drive {
    struct block *block;
    unsigned queues;              // of the virtio-blk device, 1..16
    const char *serial;           // NULL: none
    unsigned iothread;            // 1..niothreads: served by that I/O thread; 0: under the BQL
};
enum { MACHINE_DRIVES = 8, MACHINE_IOTHREADS = 4 };
// The smallest code cache. A cache too small for what the guest is just using gets filled and emptied all the time: Linux takes 1.1 s to
// its shell with the default, 2.8 s with 4 MiB, 4.8 s with 2 and 10 s with 1.
enum { MACHINE_TB_SIZE_MIN = 4 << 20 };

enum rtc_base { RTC_BASE_DEFAULT, RTC_BASE_UTC, RTC_BASE_LOCAL, RTC_BASE_DATE };
enum rtc_clock { RTC_CLOCK_DEFAULT, RTC_CLOCK_HOST, RTC_CLOCK_VM };
enum vcpu_threads { THREADS_DEFAULT, THREADS_SINGLE, THREADS_MULTI };

// Virtual time is made of executed instructions, and a run depends on nothing but the configuration and what is typed.
struct machine_icount {
    bool on, sleep_off;           // sleep_off: the guest's idle time is skipped instead of slept through
    u8 shift;                     // an instruction takes 1 << shift ns; 0..10
};
#define ICOUNT_RTC_BASE 946684800ll   // what the RTC shows at the start under icount unless told otherwise: 2000-01-01 00:00:00
#define ICOUNT_SEED 0                 // and the seed

struct machine_config {
    u64 ram_size;                 // bytes; 16 MiB..; multiple of 1 MiB
    unsigned smp;                 // vCPUs, 1..64
    struct blob kernel, initrd;   // kernel: bzImage or multiboot-1 ELF; data NULL: none
    const char *append;
    bool exit_poll;               // accel tcg,exit=poll; default: exit=interrupt
    bool no_chain;                // accel tcg,chain=off
    enum vcpu_threads threads;    // accel tcg,thread=single|multi: vCPUs one at a time, or at once
    struct machine_icount icount;
    bool seeded;                  // RDRAND, RDSEED and virtio-rng give what follows from `seed` (always under icount)
    u64 seed;
    struct { enum rtc_base base; enum rtc_clock clock; s64 sec; } rtc;   // sec: RTC_BASE_DATE since 1970, RTC_BASE_LOCAL east of UTC
    bool no_reboot;
    u64 tb_size;                  // code cache bytes, at least MACHINE_TB_SIZE_MIN; 0: default
    unsigned debug_exit_base, debug_exit_size;   // isa-debug-exit; size 0: absent
    bool virtio_rng, virtio_console;   // on the PCI bus; the console takes the keyboard from the serial port while a driver runs it
    struct machine_drive drive[MACHINE_DRIVES];
    unsigned ndrives, niothreads;
    bool debugcon;                // port 0xe9 ...
    void (*debugcon_out)(const void *buf, size_t len);   // ... comes here; NULL: plat_console_write. BQL held
    // Output of the first serial port; NULL: plat_console_write. BQL held.
    void (*serial_out)(const void *buf, size_t len);
};

enum machine_end { MACHINE_POWEROFF, MACHINE_RESET, MACHINE_DEBUG_EXIT, MACHINE_QUIT, MACHINE_TIMEOUT };

// Builds the machine and checks the configuration. On failure returns false with a message that names the thing and the mend in
// err.
bool machine_create(const struct machine_config *cfg, char *err, size_t errlen) MUST_CHECK;
// Runs vCPU 0 on this core until the guest ends; with TRACE_ICOUNT, reports instructions, virtual time and a hash of RAM then,
// with TRACE_PROFILE where its time went.
// *code: the value written to isa-debug-exit ((v << 1) | 1) or 0. A guest reset is
// carried out inside unless no_reboot.
enum machine_end machine_run(int *code);
// The same, but not longer than `ns` of real time (MACHINE_TIMEOUT).
enum machine_end machine_run_for(u64 ns, int *code);
// After machine_run has returned: power-up state with another guest and engine, for the next machine_run; everything else stays as it was
// created. On failure false and a message, as machine_create.
struct machine_guest { struct blob kernel, initrd; const char *append; bool exit_poll, no_chain; };
bool machine_restart(const struct machine_guest *g, char *err, size_t errlen) MUST_CHECK;
// Guest RAM [pa, pa + len), for who puts something into it or reads it while the machine does not run; NULL: that is not all RAM below the
// PCI window.
void *machine_ram(u64 pa, u64 len);
// Cores that vCPUs have, at most one each. Before or while it runs; core 0.
unsigned machine_cores(void);
// While the machine does not run: calls fn(core, arg) on cores 0 (this one) to n-1 at once and returns when all have. On each core
// interrupts are on and the BQL is not held. False: there are fewer cores, or vCPUs.
bool machine_on_cores(unsigned n, void (*fn)(unsigned core, void *arg), void *arg) MUST_CHECK;
// Any context: makes machine_run return MACHINE_QUIT / carries out a reset.
void machine_quit(void);
void machine_reset(void);
// Stops and resumes all vCPUs with the virtual clock (monitor stop/cont). BQL held.
void machine_stop(void);
void machine_cont(void);
// Where the vCPUs' time goes: switches sampling on, from zero, or off; what was counted stays. BQL held.
void machine_profile(bool on);
struct profile;
struct vcpu_counters;
// Shares of vCPU 0..smp-1 since machine_profile(true), and its counts since its start (tcg/run/profile.h). False: no such vCPU. Any
// context.
bool machine_profile_read(unsigned vcpu, struct profile *p, struct vcpu_counters *n) MUST_CHECK;
// Monitor texts: "registers", "jit", "timers", "icount", "profile", "sync-profile". `out` gets zero-terminated pieces. BQL held.
void machine_info(const char *what, void (*out)(void *o, const char *s), void *o);
