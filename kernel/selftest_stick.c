// Results on the disk that Cupel was booted from, as an assay leaves them: refusals first, a short text that is read again, a long one,
// and the power goes off. What is on the disk then is for tests/boot/stick_test.py to see; it makes the same numbers.
#include "kernel/selftest.h"

#include <string.h>

#include "kernel/base/fmt.h"
#include "kernel/base/log.h"
#include "kernel/plat.h"
#include "kernel/stick.h"
#include "kernel/vmem.h"

enum { ROOM = 4 << 20, NUMBERS = 30000 };
#define NAME "assay.json"

static struct { unsigned passed, failed; char *text, err[512]; } test;

static void check(bool ok, const char *what)
{
    if (ok) test.passed++;
    else test.failed++;
    log_info("selftest stick: %s: %s%s%s", what, ok ? "ok" : "FAILED", test.err[0] ? ": " : "", test.err);
    test.err[0] = 0;
}

static void check_refusal(const char *name, u64 len, const char *says)
{
    bool ok = stick_write(name, test.text, len, test.err, sizeof(test.err));
    check(!ok && strstr(test.err, says), name);
}

static void check_short(void)
{
    static const char text[] = "{\"schema\": \"cupel-assay/1\", \"complete\": true, \"pattern\": []}";
    u64 len = 0;
    check(stick_write(NAME, text, sizeof(text) - 1, test.err, sizeof(test.err)), "short text");
    bool ok = stick_read(NAME, test.text, ROOM, &len, test.err, sizeof(test.err));
    for (u64 i = sizeof(text) - 1; i < len; i++) ok &= test.text[i] == '\n';
    check(ok && len > sizeof(text) && !memcmp(test.text, text, sizeof(text) - 1), "read again");
}

static u64 long_text(void)
{
    char *at = test.text;
    u32 x = 1;
    at += fmt_snprintf(at, 100, "{\"schema\": \"cupel-assay/1\", \"complete\": true, \"pattern\": [");
    for (unsigned i = 0; i < NUMBERS; i++) at += fmt_snprintf(at, 16, "%s%u", i ? "," : "", x = x * 1664525u + 1013904223u);
    at += fmt_snprintf(at, 4, "]}");
    return (u64)(at - test.text);
}

void selftest_stick(void)
{
    test.text = vmem_alloc(ROOM);
    ASSERT(test.text, "no memory for the texts");
    check_refusal("absent.txt", 10, "is not in the root directory");
    check_refusal("EFI", 10, "is itself a directory");
    check_refusal(NAME, ROOM, "has room for");
    check_short();
    u64 len = long_text();
    check(stick_write(NAME, test.text, len, test.err, sizeof(test.err)), "long text");
    log_info("selftest stick: %u passed, %u failed", test.passed, test.failed);
    plat_exit(0);
}
