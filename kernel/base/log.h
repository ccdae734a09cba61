// Messages and assertions, the same text hosted and on metal.
//
// log_* may be called in any context, with or without the BQL; a line is written whole.
// ASSERT stays on in release builds. Guest input never trips one: what a guest does wrong is a guest
// exception or an access ignored and logged once.
#pragma once

#include "kernel/base/types.h"

enum log_level { LOG_ERROR, LOG_WARN, LOG_INFO, LOG_DEBUG };

// Writes one line "cupel: [warning: ]text\n" to the platform's log (hosted: stderr or -D file; metal: serial
// and screen). fmt as printf, without trailing newline. Lines above the current level are dropped.
void log_write(enum log_level lv, const char *fmt, ...) PRINTF(2, 3);
void log_set_level(enum log_level lv);

#define log_error(...) log_write(LOG_ERROR, __VA_ARGS__)
#define log_warn(...) log_write(LOG_WARN, __VA_ARGS__)
#define log_info(...) log_write(LOG_INFO, __VA_ARGS__)
#define log_debug(...) log_write(LOG_DEBUG, __VA_ARGS__)
// For guest misbehaviour that could repeat a million times a second.
#define log_once(lv, ...)                                   \
    do {                                                    \
        static bool said_;                                  \
        if (!said_) { said_ = true; log_write(lv, __VA_ARGS__); } \
    } while (0)

// Trace categories of -d; names and meaning as in QEMU.
enum trace_bit {
    TRACE_IN_ASM = 1 << 0, TRACE_OP = 1 << 1, TRACE_OUT_ASM = 1 << 2, TRACE_INT = 1 << 3,
    TRACE_EXEC = 1 << 4, TRACE_CPU = 1 << 5, TRACE_GUEST_ERRORS = 1 << 6, TRACE_UNIMP = 1 << 7,
    TRACE_ICOUNT = 1 << 8, TRACE_PROFILE = 1 << 9,     // not QEMU's: said when the machine ends, see machine_run
};
// The categories switched on; read it to skip preparing what nobody wants.
unsigned trace_mask(void);
void trace_set_mask(unsigned mask);
// Writes text as it is (no prefix, no newline added) to the trace file (-D; default the log).
void trace_write(const char *fmt, ...) PRINTF(1, 2);

// Stops everything: prints text, backtrace, guest RIP and last TB as far as known. Any context.
NORETURN void panic(const char *fmt, ...) PRINTF(1, 2);

#define ASSERT(cond, fmt, ...)                                                                          \
    do {                                                                                                \
        if (__builtin_expect(!(cond), 0)) panic("%s:%d: %s: " fmt, __FILE__, __LINE__, #cond, ##__VA_ARGS__); \
    } while (0)
