// The assay's own parts: statistics, the JSON writer, options, and the loader of the payload's file, which may be any file.
// link: assay/stats.c assay/json.c assay/options.c assay/image.c kernel/base/fmt.c tests/unit/panic.c
// libs: -lm
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "assay/assay.h"
#include "assay/json.h"
#include "assay/stats.h"
#include "assay/run.h"
#include "kernel/base/date.h"

static unsigned passed, failed;

#define CHECK(cond, ...) do { if (cond) passed++; else { failed++; printf("FAIL %s:%d: ", __FILE__, __LINE__); printf(__VA_ARGS__); putchar('\n'); } } while (0)

// ---- statistics -----------------------------------------------------------------------------------------------------------------

static const struct { unsigned n; u64 v[8], median, min, max, q1, q3; } stat_rows[] = {
    {1, {7}, 7, 7, 7, 7, 7},
    {2, {10, 20}, 15, 10, 20, 12, 17},
    {3, {30, 10, 20}, 20, 10, 30, 15, 25},
    {5, {5, 1, 4, 2, 3}, 3, 1, 5, 2, 4},
    {4, {UINT64_MAX, 0, UINT64_MAX, 0}, UINT64_MAX / 2, 0, UINT64_MAX, 0, UINT64_MAX},
    {8, {8, 7, 6, 5, 4, 3, 2, 1}, 4, 1, 8, 2, 6},
};

static void stats_test(void)
{
    for (unsigned i = 0; i < ARRAY_SIZE(stat_rows); i++) {
        u64 v[8];
        memcpy(v, stat_rows[i].v, sizeof v);
        struct stats s = stats_of(v, stat_rows[i].n);
        CHECK(s.median == stat_rows[i].median && s.min == stat_rows[i].min && s.max == stat_rows[i].max, "row %u: median %llu", i, (unsigned long long)s.median);
        CHECK(s.q1 == stat_rows[i].q1 && s.q3 == stat_rows[i].q3, "row %u: quartiles %llu %llu", i, (unsigned long long)s.q1, (unsigned long long)s.q3);
        CHECK(!memcmp(v, stat_rows[i].v, sizeof v), "row %u: the samples were changed", i);
    }
    CHECK(stats_ratio(3, 2) == 1500 && stats_ratio(2, 3) == 667 && stats_ratio(1, 0) == 0, "ratios");
    CHECK(stats_ratio(UINT64_MAX, UINT64_MAX) == 1000, "ratio of large numbers");
}

static void geomean_test(void)
{
    u64 rng = 1;
    CHECK(stats_geomean(NULL, 0) == 0, "of nothing");
    for (unsigned round = 0; round < 2000; round++) {
        u64 v[64];
        double sum = 0;
        unsigned n = 1 + round % 64;
        for (unsigned i = 0; i < n; i++) {
            rng = rng * 6364136223846793005ull + 1442695040888963407ull;
            v[i] = 1 + (rng >> 33) % (round % 3 == 0 ? 2000 : 5000000);
            sum += log2((double)v[i]);
        }
        double want = exp2(sum / n), got = (double)stats_geomean(v, n);
        CHECK(got <= want * 1.0011 + 0.5 && got >= want * 0.9989 - 1.5, "of %u: %.0f, not %.1f", n, got, want);
    }
}

// ---- JSON ----------------------------------------------------------------------------------------------------------------------------

static void json_write(struct json *j, char *buf, u64 size)
{
    json_init(j, buf, size);
    json_open(j, '{');
    json_put_string(j, "s", "a\"b\\c\n\x01\xc3\xa9");
    json_put_u64(j, "n", UINT64_MAX);
    json_put_milli(j, "m", 12045);
    json_put_micro(j, "u", 7);
    json_put_hex(j, "h", 0xdeadbeefcafe);
    json_key(j, "empty");
    json_open(j, '[');
    json_close(j, ']');
    json_key(j, "list");
    json_open(j, '[');
    json_u64(j, 1);
    json_open(j, '{');
    json_put_bool(j, "t", true);
    json_put_bool(j, "f", false);
    json_close(j, '}');
    json_open(j, '[');
    json_string(j, "");
    json_close(j, ']');
    json_close(j, ']');
    json_close(j, '}');
}

// White space out, but not out of strings.
static void squeeze(const char *s, u64 n, char *out)
{
    bool in = false;
    for (u64 i = 0; i < n; i++) {
        if (s[i] == '"' && (!i || s[i - 1] != '\\')) in = !in;
        if (in || (s[i] != ' ' && s[i] != '\n')) *out++ = s[i];
    }
    *out = 0;
}

static void json_test(void)
{
    static const char want[] = "{\"s\":\"a\\\"b\\\\c\\u000a\\u0001??\",\"n\":18446744073709551615,\"m\":12.045,\"u\":0.000007,"
                               "\"h\":\"0xdeadbeefcafe\",\"empty\":[],\"list\":[1,{\"t\":true,\"f\":false},[\"\"]]}";
    char buf[1024], got[1024];
    struct json j;
    json_write(&j, buf, sizeof buf);
    squeeze(buf, j.len, got);
    CHECK(json_fits(&j) && !strcmp(got, want), "%s", got);
    for (u64 size = 0; size < j.len; size++) {
        struct json k;
        char *exact = malloc(size + !size);            // ASan watches its end
        json_write(&k, exact, size);
        CHECK(!json_fits(&k) && k.len == j.len && !memcmp(exact, buf, size), "in %llu bytes", (unsigned long long)size);
        free(exact);
    }
}

// ---- options ----------------------------------------------------------------------------------------------------

static const struct { const char *text; bool ok; unsigned rounds, linux_rounds, ms; const char *only; bool off; } option_rows[] = {
    {"", true, 7, 3, 10, "", false},
    {"rounds=1", true, 1, 3, 10, "", false},
    {"rounds=32,linux=0,ms=1000,only=alu+hash,poweroff=on", true, 32, 0, 1000, "alu+hash", true},
    {"poweroff=on,poweroff=off", true, 7, 3, 10, "", false},
    {"rounds=0", false, 0, 0, 0, NULL, false},
    {"rounds=33", false, 0, 0, 0, NULL, false},
    {"rounds=", false, 0, 0, 0, NULL, false},
    {"rounds=18446744073709551617", false, 0, 0, 0, NULL, false},
    {"rounds=4294967297", false, 0, 0, 0, NULL, false},
    {"rounds=3x", false, 0, 0, 0, NULL, false},
    {"ms=1001", false, 0, 0, 0, NULL, false},
    {"only=", false, 0, 0, 0, NULL, false},
    {"poweroff=maybe", false, 0, 0, 0, NULL, false},
    {"frobnicate", false, 0, 0, 0, NULL, false},
    {",rounds=1", false, 0, 0, 0, NULL, false},
};

static void options_test(void)
{
    char err[256], text[400] = "only=";
    for (unsigned i = 0; i < ARRAY_SIZE(option_rows); i++) {
        struct assay_options o = ASSAY_OPTIONS_DEFAULT;
        bool ok = assay_options_parse(&o, option_rows[i].text, err, sizeof err);
        CHECK(ok == option_rows[i].ok, "'%s' %s", option_rows[i].text, ok ? "is taken" : err);
        if (!ok) CHECK(strstr(err, "use rounds=1..32"), "'%s': %s", option_rows[i].text, err);
        if (!ok || !option_rows[i].ok) continue;
        CHECK(o.rounds == option_rows[i].rounds && o.linux_rounds == option_rows[i].linux_rounds && o.ms == option_rows[i].ms &&
              !strcmp(o.only, option_rows[i].only) && o.power_off == option_rows[i].off, "'%s' is read as something else", option_rows[i].text);
    }
    struct assay_options o = ASSAY_OPTIONS_DEFAULT;
    memset(text + 5, 'a', 300);
    CHECK(!assay_options_parse(&o, text, err, sizeof err), "a list that is too long is taken");
    text[5 + sizeof o.only - 1] = 0;
    CHECK(assay_options_parse(&o, text, err, sizeof err), "the longest list: %s", err);
}

// ---- the payload's file ----------------------------------------------------------------------------------------------------

static u8 *window;

static void put(u8 *p, u64 at, u64 v, unsigned bytes)
{
    for (unsigned i = 0; i < bytes; i++) p[at + i] = (u8)(v >> 8 * i);
}

// One segment of 16 bytes at ASSAY_VIRT + 0x1000, 32-bit; returns the file's length.
static u64 elf_make(u8 *f)
{
    memset(f, 0, 256);
    put(f, 0, 0x464c457f, 4);
    f[4] = 1;
    put(f, 28, 52, 4);
    put(f, 42, 32, 2);
    put(f, 44, 1, 2);
    put(f, 52, 1, 4);                        // PT_LOAD
    put(f, 56, 128, 4);                      // offset
    put(f, 60, ASSAY_VIRT + 0x1000, 4);
    put(f, 68, 16, 4);                       // in the file
    put(f, 72, 64, 4);                       // in memory
    for (unsigned i = 0; i < 16; i++) f[128 + i] = (u8)(i + 1);
    return 144;
}

static bool load(const u8 *f, u64 size, char *err, size_t errlen)
{
    u8 *exact = malloc(size + !size);
    memcpy(exact, f, size);
    struct blob b = {exact, size, "p.elf"};
    bool ok = image_load(&b, window, err, errlen);
    free(exact);
    return ok;
}

static const struct { u64 at, v; unsigned bytes; } bad_fields[] = {
    {0, 0, 4}, {4, 3, 1}, {28, 4000, 4}, {28, 0xffffffff, 4}, {42, 8, 2}, {44, 0xffff, 2}, {56, 0xfffffff0, 4}, {60, 0x1000, 4},
    {60, ASSAY_VIRT + ASSAY_WINDOW - 8, 4}, {68, 17, 4}, {68, 0xffffffff, 4}, {72, 0xffffffff, 4}, {72, 8, 4},
};

static void image_test(void)
{
    u8 f[256];
    char err[256];
    u64 size = elf_make(f), rng = 5;
    window[0x1000 + 20] = 0xee;
    CHECK(load(f, size, err, sizeof err) && window[0x1000] == 1 && window[0x100f] == 16 && !window[0x1000 + 20], "a good file: %s", err);
    for (unsigned i = 0; i < ARRAY_SIZE(bad_fields); i++) {
        elf_make(f);
        put(f, bad_fields[i].at, bad_fields[i].v, bad_fields[i].bytes);
        bool ok = load(f, size, err, sizeof err);
        CHECK(!ok && strstr(err, "p.elf"), "bad field %u: %s", i, ok ? "taken" : err);
    }
    for (u64 n = 0; n < size; n++) {
        elf_make(f);
        CHECK(!load(f, n, err, sizeof err), "cut to %llu bytes it is taken", (unsigned long long)n);
    }
    for (unsigned i = 0; i < 3000; i++) {    // any file ends in yes or no
        elf_make(f);
        for (unsigned k = 0; k < 4; k++) {
            rng = rng * 6364136223846793005ull + 1442695040888963407ull;
            f[(rng >> 33) % (i % 2 ? size : 80)] = (u8)(rng >> 50);
        }
        (void)load(f, size, err, sizeof err);
        passed++;
    }
}

static void date_test(void)
{
    static const char *const dates[] = {"1970-01-01T00:00:00", "2000-02-29T23:59:59", "2026-11-26T10:38:27", "2100-03-01T00:00:01", "1999-12-31T12:00:00"};
    for (unsigned i = 0; i < ARRAY_SIZE(dates); i++) {
        s64 sec;
        char t[64];
        if (!date_parse(dates[i], &sec)) sec = -1;
        struct date d = date_of(sec);
        snprintf(t, sizeof t, "%04u-%02u-%02uT%02u:%02u:%02u", d.year, d.month, d.day, d.hour, d.minute, d.second);
        CHECK(!strcmp(t, dates[i]), "%s comes back as %s", dates[i], t);
    }
}

int main(void)
{
    window = mmap(NULL, ASSAY_WINDOW, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    stats_test();
    geomean_test();
    json_test();
    options_test();
    image_test();
    date_test();
    printf("%u passed, %u failed\n", passed, failed);
    return failed != 0;
}
