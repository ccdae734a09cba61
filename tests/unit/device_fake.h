// The world around a device under test: a clock that the test moves, interrupt lines that remember, memory from calloc.
#pragma once

#include "devices/devices.h"
#include "tests/unit/locked.h"

struct fake {
    u64 now;                          // CLOCK_VIRTUAL_
    struct timer *timers[16];
    unsigned ntimers;
    bool bql, in_device_unlocked;
    int shutdown_code;
    unsigned io_wakes, attentions;
    unsigned shutdowns, resets, kicks_ready, code_written, map_changed;
    u64 written_at, written_len;
    u64 watch;                        // guest-physical byte; watched: how often a write to it was told
    unsigned watched;
    struct { u64 addr; u32 data; } msi[64];
    unsigned nmsi;
    char console[256];
    unsigned nconsole;
    bool line[32];
    unsigned edges[32];
};
extern struct fake fake;

// A wire that sets fake.line[n].
struct irq fake_irq(unsigned n);
// Moves the clock and runs what expires.
void fake_advance(u64 ns);
void fake_serial_out(const void *buf, size_t len);   // into fake.console
struct phys *fake_machine(u64 ram_size);             // a fresh phys with RAM at 0 and hooks that count
void fake_done(void);                                // frees what was allocated since

// Counts a row; prints it when it fails.
void check_at(bool ok, const char *file, int line, const char *what);
#define CHECK(cond) check_at((cond), __FILE__, __LINE__, #cond)
