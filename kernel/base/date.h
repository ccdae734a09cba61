// The calendar. Pure, any context.
#pragma once

#include "kernel/base/types.h"

// Days since 1970-01-01 of a Gregorian date; the year starts in March here, so that the leap day is its last.
static inline s64 date_days(s64 year, unsigned month, unsigned day)
{
    year -= month <= 2;
    s64 era = year / 400, yoe = year % 400, doy = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    return era * 146097 + yoe * 365 + yoe / 4 - yoe / 100 + doy - 719468;
}
