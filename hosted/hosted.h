// What the files of hosted/ share: the core record, the lazy interrupt mask, and who calls whom inside the platform.
//
// Only the threads that are cores take interrupts (signals) and the BQL. Helper threads block all signals and reach the emulator by
// raising an interrupt at core 0, nothing else.
#pragma once

#include <pthread.h>

#include "kernel/base/types.h"
#include "kernel/plat.h"

enum { CORES_MAX = 64 };

// Interrupt sources, as bits of core.pending.
enum { IRQ_TIMER = 1, IRQ_INPUT = 2, IRQ_KICK = 4, IRQ_HELPER = 8 };

// One core. Owner: its thread, signal handlers included. Only tid is read by others.
struct core {
    unsigned id;
    volatile bool off;        // interrupts off: a handler that finds it set leaves a bit in pending and returns
    volatile bool held;       // this core holds the BQL
    bool ticketed;            // ... and took a ticket for it (more than one core runs)
    volatile bool in_irq;     // in irq_process()
    u32 pending;              // IRQ_*
    u32 kick_sent;            // atomic: a kick is on its way to irq_process; further ones need no signal
    const char *where;        // who took the BQL, for the panic about taking it twice
    int where_line;
    struct lockstat bql;
    int tid;                  // 0: not started
    u64 stack_lo, stack_hi;   // bounds for the backtrace
    void *fault_uc;           // ucontext of the fault being handled, for panic
    void (*fn)(void *);
    void *arg;
};

// ---- core.c ----
// This thread's core, NULL on helper threads. Any context.
struct core *core_self(void);
// Makes the caller core 0 and installs the signal handlers. Once, first of all.
void core_init(void);
const struct plat_events *core_events(void);
// Blocks every signal in a helper thread. First thing it does.
void core_block_signals(void);
// Interrupt at core 0 from any thread.
void core_raise(unsigned irq_bit);

// ---- time.c ----
void time_init(void);
// The timer's signal arrived. BQL held, interrupt context.
void time_fired(void);
// Flush console output no later than a few milliseconds from now. BQL held.
void time_want_flush(void);

// ---- output.c ----
// Where the guest's console goes; default fd 1. fd -1 drops. Before the guest runs.
void output_console_fd(int fd);
void output_trace_fd(int fd);
// Text of the monitor and of the keys: to the terminal (fd 1), whatever the guest's console is.
void output_term(const void *buf, size_t len);
// Writes out what is buffered. Any context.
void output_flush(void);
void output_flush_all(void);

// ---- input.c ----
// Starts the thread that reads fd. `keys`: bytes pass the Ctrl-A filter of term.c; otherwise they go to the guest as they are.
// May be called twice: the terminal and a pty.
void input_start(int fd, bool keys);
// A byte for the guest's console into the queue of those it has no room for yet; false when even that is full. BQL held, interrupt context.
bool input_guest_put(u8 byte);
// Offers waiting bytes to the guest. BQL held, interrupt context.
void input_deliver(void);

// ---- block.c ----
// Ends the requests that the disks have finished. BQL held, interrupt context.
void block_deliver(void);

// ---- term.c ----
// Puts the terminal on fd 0 (if it is one) into raw mode; term_restore undoes it. Restore: any context, idempotent.
void term_raw(void);
void term_restore(void);
// The guest has no console on the terminal (-serial file:, null, pty): the monitor owns it from the start.
void term_monitor_only(void);
// One byte from the terminal. True: it is consumed; false: the guest has no room, offer it again. BQL held, interrupt context.
bool term_key(u8 byte);

// ---- monitor.c ----
void monitor_open(void);
// One byte for the monitor's line editor. Returns false when the user is done with the monitor. BQL held.
void monitor_key(u8 byte);

// ---- fault.c ----
// Handlers for the synchronous signals, and this thread's alternate stack.
void fault_init(void);
void fault_thread_init(void);

// ---- symbols.c ----
// Name of the function at host address `pc` of this program and the offset in it; NULL if unknown. For panics: slow, no heap.
const char *symbol_find(u64 pc, u64 *offset);
