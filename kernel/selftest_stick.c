// Results on the disk that Cupel was booted from, as an assay leaves them: refusals first, a short text that is read again, a long one,
// and the power goes off. What is on the disk then is for tests/boot/stick_test.py to see; it makes the same numbers.
#include "kernel/selftest.h"

#include <string.h>

#include "kernel/base/fmt.h"
#include "kernel/base/log.h"
#include "kernel/disk.h"
#include "kernel/plat.h"
#include "kernel/stick.h"
#include "kernel/usb_disk.h"
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

// FNV-1a, as machine_run's of RAM.
static u64 checksum(const char *p, u64 n)
{
    u64 h = 0xcbf29ce484222325ull;
    for (u64 i = 0; i < n; i++) h = (h ^ (u8)p[i]) * 0x100000001b3ull;
    return h;
}

// A request that devices refuse, a command block that is none (BOT 6.6.1) and a status that nobody has to give: a stall on each pipe, or
// silence.
static void provoke(struct usb_device *d)
{
    static const char *const names[] = {"done", "a stall", "an error"};
    const struct usb_setup bad = {0x80, 6, 0x7f << 8, 0, 1};      // GET_DESCRIPTOR of a type that does not exist
    u8 byte;
    u32 got;
    u64 phys, ns = NS_PER_SEC / 2;
    void *p = usb_memory(d, PAGE_SIZE, &phys);
    ASSERT(p, "no memory for a transfer");
    enum usb_result a = usb_control(d, &bad, &byte, &got), b = usb_bulk(d, d->out.dci, phys, 5, ns, &got);
    enum usb_result c = usb_bulk(d, d->in.dci, phys, 13, ns, &got);
    log_info("selftest usb: %s: provoked: %s, %s, %s", d->name, names[a], names[b], names[c]);
}

void selftest_usb(void)
{
    enum { FIRST = 1 << 20 };
    test.text = vmem_alloc(FIRST);
    ASSERT(test.text, "no memory for what is read");
    for (u64 end = plat_time_ns() + 3 * NS_PER_SEC; usb_poll() && plat_time_ns() < end;) plat_relax(0);
    unsigned n = 0;
    for (struct block *b; (b = usb_disk_get(n)); n++) {
        u64 len = b->size < FIRST ? b->size : FIRST;
        bool ok = disk_read(b, 0, test.text, len);
        log_info("selftest usb: %s: %llu bytes, the first %llu %s %016llx%s", b->name, (unsigned long long)b->size, (unsigned long long)len,
                 ok ? "have the checksum" : "cannot be read:", ok ? (unsigned long long)checksum(test.text, len) : 0ull,
                 usb_disk_trouble(b));
        u64 before = checksum(test.text, len);
        memset(test.text, 0, FIRST);
        provoke(usb_disk_device(b));
        bool same = disk_read(b, 0, test.text, len) && checksum(test.text, len) == before;
        log_info("selftest usb: %s: %s after errors: %s", b->name, same ? "the same" : "NOT the same", usb_disk_trouble(b));
    }
    log_info("selftest usb: %u disks", n);
    plat_exit(0);
}
