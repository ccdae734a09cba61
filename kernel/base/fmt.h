// printf formatting with general registers only: safe while guest vector state is live, in any context, on both platforms.
// Understands d i u x X c s p %, flags - 0 + space #, width and precision (also *), lengths hh h l ll z j t. No floating point.
#pragma once

#include <stdarg.h>

#include "kernel/base/types.h"

// As snprintf: always terminated if len > 0; returns the length the whole text would have.
int fmt_snprintf(char *buf, size_t len, const char *fmt, ...) PRINTF(3, 4);
int fmt_vsnprintf(char *buf, size_t len, const char *fmt, va_list ap);
