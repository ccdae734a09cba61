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

struct date { unsigned year, month, day, hour, minute, second; };

// Seconds since 1970-01-01 00:00, not negative -> date. The inverse of the above.
static inline struct date date_of(s64 sec)
{
    s64 days = sec / 86400 + 719468, era = days / 146097, doe = days % 146097;
    s64 yoe = (doe - doe / 1460 + doe / 36524 - doe / 146096) / 365, doy = doe - (365 * yoe + yoe / 4 - yoe / 100), mp = (5 * doy + 2) / 153;
    unsigned month = (unsigned)(mp < 10 ? mp + 3 : mp - 9), s = (unsigned)(sec % 86400);
    return (struct date){(unsigned)(yoe + era * 400 + (month <= 2)), month, (unsigned)(doy - (153 * mp + 2) / 5 + 1), s / 3600, s / 60 % 60, s % 60};
}

// n decimal digits at *s; moves *s past them. False: something else stands there.
static inline bool date_digits(const char **s, unsigned n, unsigned *out)
{
    for (*out = 0; n--; ++*s) {
        if (**s < '0' || **s > '9') return false;
        *out = *out * 10 + (unsigned)(**s - '0');
    }
    return true;
}

// "YYYY-MM-DD" or "YYYY-MM-DDThh:mm:ss" -> seconds since 1970-01-01 00:00. False: it is neither, or no such date.
static inline bool date_parse(const char *s, s64 *sec)
{
    static const unsigned char days[12] = {31, 29, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31};
    unsigned y, mo, d, h = 0, mi = 0, se = 0;
    if (!date_digits(&s, 4, &y) || *s++ != '-' || !date_digits(&s, 2, &mo) || *s++ != '-' || !date_digits(&s, 2, &d)) return false;
    if (*s) {
        if (*s++ != 'T' || !date_digits(&s, 2, &h) || *s++ != ':' || !date_digits(&s, 2, &mi)) return false;
        if (*s++ != ':' || !date_digits(&s, 2, &se)) return false;
    }
    if (*s || y < 1970 || mo < 1 || mo > 12 || d < 1 || d > days[mo - 1] || h > 23 || mi > 59 || se > 59) return false;
    if (mo == 2 && d == 29 && date_days(y, 3, 1) - date_days(y, 2, 1) == 28) return false;
    *sec = date_days(y, mo, d) * 86400 + h * 3600 + mi * 60 + se;
    return true;
}
