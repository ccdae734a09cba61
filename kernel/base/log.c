// Log lines, traces and panics: text is put together on the stack and handed to the platform in one call, so that a line is
// never torn by another context. Nothing is allocated and nothing but general registers is used; see fmt.c.
#include "kernel/base/log.h"

#include "kernel/base/fmt.h"
#include "kernel/plat.h"

enum { LOG_LINE = 1024 };

// Both are set while the machine starts and by the monitor, and read everywhere: relaxed atomics are enough.
static enum log_level log_level = LOG_INFO;
static unsigned log_traces;

void log_set_level(enum log_level lv) { __atomic_store_n(&log_level, lv, __ATOMIC_RELAXED); }
unsigned trace_mask(void) { return __atomic_load_n(&log_traces, __ATOMIC_RELAXED); }
void trace_set_mask(unsigned mask) { __atomic_store_n(&log_traces, mask, __ATOMIC_RELAXED); }

static const char *log_prefix(enum log_level lv)
{
    switch (lv) {
    case LOG_ERROR: return "cupel: error: ";
    case LOG_WARN: return "cupel: warning: ";
    default: return "cupel: ";
    }
}

void log_write(enum log_level lv, const char *fmt, ...)
{
    if (lv > __atomic_load_n(&log_level, __ATOMIC_RELAXED)) return;
    char line[LOG_LINE];
    size_t room = sizeof(line) - 1;   // one kept for the newline
    size_t n = (size_t)fmt_snprintf(line, room, "%s", log_prefix(lv));
    va_list ap;
    va_start(ap, fmt);
    n += (size_t)fmt_vsnprintf(line + n, room - n, fmt, ap);
    va_end(ap);
    if (n > room - 1) n = room - 1;
    line[n++] = '\n';
    plat_log_write(line, n, false);
}

void trace_write(const char *fmt, ...)
{
    char text[LOG_LINE];
    va_list ap;
    va_start(ap, fmt);
    size_t n = (size_t)fmt_vsnprintf(text, sizeof(text), fmt, ap);
    va_end(ap);
    plat_log_write(text, n < sizeof(text) ? n : sizeof(text) - 1, true);
}

void panic(const char *fmt, ...)
{
    char text[LOG_LINE];
    va_list ap;
    va_start(ap, fmt);
    fmt_vsnprintf(text, sizeof(text), fmt, ap);
    va_end(ap);
    plat_panic(text);
}
