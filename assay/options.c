// The assay's options: one text, in the boot entry's key `assay` and after -assay.
#include <string.h>

#include "assay/assay.h"
#include "kernel/base/fmt.h"

static bool number(const char *s, size_t n, unsigned lo, unsigned hi, unsigned *out)
{
    u64 v = 0;
    for (size_t i = 0; i < n; i++) {
        if (s[i] < '0' || s[i] > '9' || v > hi) return false;
        v = v * 10 + (u64)(s[i] - '0');
    }
    if (!n || v < lo || v > hi) return false;
    *out = (unsigned)v;
    return true;
}

static bool item(struct assay_options *o, const char *s, size_t n)
{
    static const struct { const char *key; size_t at; unsigned lo, hi; } numbers[] = {
        {"rounds=", offsetof(struct assay_options, rounds), 1, ASSAY_ROUNDS_MAX},
        {"linux=", offsetof(struct assay_options, linux_rounds), 0, ASSAY_ROUNDS_MAX},
        {"ms=", offsetof(struct assay_options, ms), 1, 1000},
    };
    for (unsigned i = 0; i < ARRAY_SIZE(numbers); i++) {
        size_t k = strlen(numbers[i].key);
        if (n > k && !memcmp(s, numbers[i].key, k))
            return number(s + k, n - k, numbers[i].lo, numbers[i].hi, (unsigned *)((u8 *)o + numbers[i].at));
    }
    bool on = n == 11 && !memcmp(s, "poweroff=on", n);
    if (on || (n == 12 && !memcmp(s, "poweroff=off", n))) {
        o->power_off = on;
        return true;
    }
    if (n <= 5 || memcmp(s, "only=", 5) || n - 5 >= sizeof o->only) return false;
    memcpy(o->only, s + 5, n - 5);
    o->only[n - 5] = 0;
    return true;
}

bool assay_options_parse(struct assay_options *o, const char *text, char *err, size_t errlen)
{
    while (*text) {
        size_t n = strcspn(text, ",");
        if (!item(o, text, n)) {
            fmt_snprintf(err, errlen, "assay: '%.*s' is not possible; use rounds=1..%d, linux=0..%d (rounds of Linux), ms=1..1000, only=NAME+NAME, poweroff=on|off", (int)n,
                         text, ASSAY_ROUNDS_MAX, ASSAY_ROUNDS_MAX);
            return false;
        }
        text += n + (text[n] == ',');
    }
    return true;
}
