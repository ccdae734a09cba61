// A whole hosted machine around the guest of tests/boot/kick.S, for tests that interrupt it: the machine on core 0 as `cupel` runs it,
// the test on core 1 (with more vCPUs, the one behind theirs), a real second core that takes the BQL, posts interrupts and kicks. One
// machine per process, so a test that wants several modes forks (rig_fork). The programs here are linked with everything the hosted
// emulator is made of but its main().
#pragma once

#include <stdio.h>

#include "devices/clock.h"
#include "kernel/base/bits.h"
#include "kernel/base/log.h"
#include "kernel/machine.h"
#include "kernel/plat.h"
#include "tcg/irq.h"

#define ull unsigned long long   // for printf

// The page that guest and test talk through; kick.S has the same.
struct kick_page {
    u32 magic, stop, mask, self, kind, rounds, errors, loops, bench, iterations;
    u64 ticks;
    u32 ap, gaps;
    u8 pad[0x100 - 56];
    u32 count[256];
    u8 pad2[0x800 - 0x500];
    u64 tsc[256];
};
_Static_assert(offsetof(struct kick_page, count) == 0x100 && offsetof(struct kick_page, tsc) == 0x800, "kick.S");
// Vectors of the second core's posts and of the timers' (kick.S itself uses 0x5e and 0x5f); kinds of busy code; timed loops.
enum { VEC_POST = 0x40, N_POST = 16, VEC_TICK = 0x50, N_TICK = 8, KINDS = 16, BENCHES = 6, BENCH_GAPS };
enum kick_kind { K_HALT, K_SPIN, K_SELF, K_CALL, K_CPUID, K_PORT, K_MMIO, K_REP, K_STI, K_SS, K_DEC, K_SMC, K_SSE, K_CHAIN, K_MEM, K_MISS };
extern const char *const kick_kinds[KINDS];

// pin: the two cores to a CPU each; smp: vCPUs, 0 is one; single: all of them on one core.
struct rig_options { bool exit_poll, no_chain, pin, single; unsigned smp; const char *kernel; };

// Builds the machine, runs `test` on core 1 once the guest is ready, and the machine on this one until the guest is stopped (rig_stop).
// Returns isa-debug-exit's code: 0x21 if the guest found its registers right.
int rig_run(const struct rig_options *o, void (*test)(void));

// ---- for `test`, on core 1 ----
const struct rig_options *rig_options(void);
struct vcpu *rig_vcpu(void);
volatile struct kick_page *rig_page(void);
void rig_stop(void);                          // the guest ends; does not return
u64 rig_random(u64 n);                        // 0..n-1
bool rig_wait(bool (*done)(void *), void *arg, u64 ns);   // spins, politely; false: time is up
void rig_pause_ns(u64 ns);                    // passes time without sleeping
void rig_sleep_ns(u64 ns);                     // sleeps
NORETURN void rig_stall(const char *what);    // says all that is known about who waits for what, and ends the process as failed
// This thread to the n-th CPU, where there are so many: two cores that take turns on one meet seldom.
void rig_pin(unsigned n);
static inline u64 rig_tsc(void) { return __builtin_ia32_rdtsc(); }

// ---- results: counted in the process, summed over forks ----
void rig_check(bool ok, const char *file, int line, const char *what);
#define CHECK(c) rig_check((c), __FILE__, __LINE__, #c)
// Runs fn in a child that has 1 hour at most; adds its checks to ours, one failure if it died. Before core_init.
void rig_fork(const char *name, void (*fn)(void));
// Runs fn in a child that is expected to panic with `text` in its message, where %d twice at most stands for line[0] and line[1].
void rig_expect_panic(const char *name, const char *text, const int line[2], void (*fn)(void));
int rig_result(void);                         // prints the closing line
