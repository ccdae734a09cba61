// panic() for unit tests that bring no platform along: the text, and the end.
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

#include "kernel/base/log.h"

void panic(const char *fmt, ...)
{
    va_list ap;
    va_start(ap, fmt);
    vfprintf(stderr, fmt, ap);
    va_end(ap);
    fputc('\n', stderr);
    abort();
}
