// The reader of the assay's Linux console (assay/linux_phases.c): what it takes in, and that nothing else gets through, whatever a guest
// prints. `linux_phases_test FILE` reads a console's log instead and prints what was taken in, the line's number for the time:
// tests/boot/assay_linux_test.py.
// link: assay/linux_phases.c
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "assay/linux_phases.h"

static unsigned passed, failed;

static void check(bool ok, const char *what, const char *got)
{
    if (ok) passed++;
    else {
        failed++;
        printf("FAIL %s: %s\n", what, got);
    }
}

// A line of its own on the heap, to the byte: the sanitizer sees whoever reads beyond it.
static bool feed(struct linux_run *r, const char *line, u64 tsc)
{
    char *copy = strdup(line);
    bool took = linux_line(r, copy, tsc);
    free(copy);
    return took;
}

// One line each in a new run: is it taken in, is it counted as bad?
static const struct { const char *line; bool took, bad; } rows[] = {
    {"ASSAY op getpid call 20000 4918628", true, false},
    {"ASSAY op getpid call 20000 4918628\r\n", true, false},
    {"ASSAY op pipe round-trip 1 18446744073709551615", true, false},
    {"ASSAY op pipe round-trip 1 18446744073709551616", false, true},
    {"ASSAY op pipe round-trip 1 99999999999999999999999999", false, true},
    {"ASSAY op pipe_smp round-trip 7 9", true, false},
    {"ASSAY op pipe round trip 1 1", false, true},
    {"ASSAY op pip round-trip 1 1", false, true},
    {"ASSAY op pipex round-trip 1 1", false, true},
    {"ASSAY op  getpid call 1 1", false, true},
    {"ASSAY op getpid byte 1 1", false, true},
    {"ASSAY op getpid call 0 1", false, true},
    {"ASSAY op getpid call 1 0", false, true},
    {"ASSAY op getpid call -1 1", false, true},
    {"ASSAY op getpid call 1 1 1", false, true},
    {"ASSAY op getpid call 1 1x", false, true},
    {"ASSAY op getpid call 0x10 1", false, true},
    {"ASSAY op getpid call 1", false, true},
    {"ASSAY op getpid call", false, true},
    {"ASSAY op getpid ", false, true},
    {"ASSAY op getpid", false, true},
    {"ASSAY op ", false, true},
    {"ASSAY op", false, true},
    {"ASSAY ", false, true},
    {"ASSAY", false, false},
    {"", false, false},
    {"\r\n", false, false},
    {"ASSAY nonsense", false, true},
    {"ASSAY op getpid call 2[    1.000000] random: crng init done", false, true},
    {" ASSAY op getpid call 1 1", false, false},
    {"[    1.000000] ASSAY op getpid call 1 1", false, false},
    {"[    1.000000] ASSAY done", false, false},
    {"ASSAY phase init 4354790382251", true, false},
    {"ASSAY phase init", false, true},
    {"ASSAY phase init ", false, true},
    {"ASSAY phase init x", false, true},
    {"ASSAY phase init 5 5", false, true},
    {"ASSAY phase exit 5", false, true},
    {"ASSAY done", true, false},
    {"ASSAY done\r", true, false},
    {"ASSAY done!", false, true},
    {"ASSAY error fork: fork: error 11", true, false},
    {"ASSAY error \r", false, true},
    {"ASSAY error", false, true},
    {"[    0.000000] Linux version 6.1.0-56-cloud-amd64 (debian-kernel@lists.debian.org) #1 SMP", true, false},
    {"Linux version 6.12", true, false},                                  // a kernel without time stamps
    {"[    0.000000] Command line: Linux version 6.1", false, false},
    {"[    0.680000] Memory: 214892K/261752K available", true, false},
    {"[12345.680000] Memory: 214892K/261752K available", true, false},
    {"[    0.680000]Memory: 214892K/261752K available", false, false},
    {"[    0.680000", false, false},
    {"[", false, false},
    {"\033c\033[?7l\033[2J[    0.000000] Linux version 6.1", true, false},   // SeaBIOS was there before
    {"\033[0mk\r[    0.000000] Linux version 6.1\r\n", true, false},
    {"half a line\rASSAY op getpid call 1 1\r", true, false},
    {"\r\r\r", false, false},
    {"\033[0mASSAY done", true, false},
    {"\033", false, false},
    {"\033[", false, false},
    {"\033[2", false, false},
    {"\033[2;2;2;2", false, false},
    {"\033[2JX", false, false},
    {"\033\033\033\033", false, false},
    {"\033[2\033[2Linux version 6.1", false, false},
    {"[ x] Memory: 1", false, false},
    {"[    0.193863] smp: Bringing up secondary CPUs ...", false, false},
    {"[    0.196517] smp: Brought up 1 node, 1 CPU", true, false},
    {"[    0.629858] Freeing unused kernel image (initmem) memory: 2612K", true, false},
    {"[    0.613164] Freeing unused decrypted memory: 2036K", false, false},
    {"\xff\xfe\x80[    0.1] Memory: 1", false, false},
};

static void test_rows(void)
{
    for (unsigned i = 0; i < ARRAY_SIZE(rows); i++) {
        struct linux_run r = {0}, none = {0};
        bool took = feed(&r, rows[i].line, 7);
        check(took == rows[i].took && r.bad == rows[i].bad, rows[i].line, took ? "taken" : "not taken");
        r.bad = 0;
        if (!took) check(!memcmp(&r, &none, sizeof r), "what is not taken leaves no trace", rows[i].line);
    }
}

static const char *const boot[] = {
    "[    0.000000] Linux version 6.1.0-56-cloud-amd64 (x) #1\r", "[    0.1] Memory: 1K", "[    0.2] smp: Brought up 1 node, 2 CPUs",
    "[    0.3] Freeing unused kernel image (initmem) memory: 2612K", "[    0.3] Freeing unused kernel image (text/rodata gap) memory: 2040K",
    "ASSAY phase init 99", "ASSAY op getpid call 5 6", "ASSAY op membarrier call 7 8", "ASSAY done", "[    1.0] reboot: Power down",
};

static void test_boot(void)
{
    struct linux_run r = {0};
    for (unsigned i = 0; i < ARRAY_SIZE(boot); i++) feed(&r, boot[i], 100 + i);
    static const u64 at[LINUX_PHASES] = {100, 101, 102, 103, 105, 108};
    check(!memcmp(r.phase, at, sizeof at), "phases at their lines", "");
    check(!strcmp(r.kernel, "6.1.0-56-cloud-amd64"), "kernel", r.kernel);
    check(r.init_tsc == 99 && !r.bad && !r.error[0], "init's own clock, nothing bad", r.error);
    check(r.op[LINUX_OP_getpid].n == 5 && r.op[LINUX_OP_getpid].ticks == 6 && r.op[LINUX_OP_membarrier].n == 7, "operations", "");
    check(!r.op[LINUX_OP_exec].n, "what did not come is not there", "");
    // All once more: nothing changes, and ops' own five are bad now.
    struct linux_run before = r;
    for (unsigned i = 0; i < ARRAY_SIZE(boot); i++) check(!feed(&r, boot[i], 200 + i), "a second time", boot[i]);
    check(r.bad == 4, "the second time is bad", "");
    r.bad = 0;
    check(!memcmp(&r, &before, sizeof r), "the first of a kind stays", "");
}

// A phase after a later one is none: the phases' times are in order whatever the guest prints.
static void test_order(void)
{
    struct linux_run r = {0};
    check(feed(&r, "Memory: 1", 5) && !feed(&r, "Linux version 6.1", 6) && !r.phase[LINUX_KERNEL] && !r.kernel[0], "too late", "");
    check(feed(&r, "ASSAY done", 7) && !feed(&r, "ASSAY phase init 4", 8) && r.bad == 1 && !r.init_tsc, "init after done", "");
}

static void test_text(void)
{
    struct linux_run r = {0};
    char line[2 * LINUX_TEXT + 32] = "ASSAY error a\"b\\c\x01\x80 ";
    size_t n = strlen(line);
    memset(line + n, 'x', sizeof line - n - 1);
    check(feed(&r, line, 1) && !strncmp(r.error, "a?b?c?? xxx", 11) && strlen(r.error) == LINUX_TEXT - 1, "error text is made harmless", r.error);
    check(!feed(&r, "ASSAY error another", 2) && r.error[0] == 'a' && r.bad == 1, "the first error stays", r.error);
    struct linux_run k = {0};
    snprintf(line, sizeof line, "Linux version %0*d\"\n", LINUX_TEXT + 20, 0);
    check(feed(&k, line, 1) && strlen(k.kernel) == LINUX_TEXT - 1, "a kernel's endless name", k.kernel);
}

// Every beginning of a good line, and every good line with one byte changed: never a crash, and never a figure that is not in the line.
static void test_mutations(void)
{
    static const char good[] = "ASSAY op futex_smp round-trip 123 456789";
    char line[sizeof good];
    unsigned took = 0;
    for (size_t at = 0; at < sizeof good - 1; at++) {
        memcpy(line, good, sizeof line);
        line[at] = 0;
        struct linux_run r = {0};
        bool short_number = at > sizeof good - 1 - 6;               // cut within the last number, which is a number still
        check(feed(&r, line, 1) == short_number, "cut off", line);
        for (unsigned v = 1; v < 256; v++) {
            memcpy(line, good, sizeof line);
            line[at] = (char)v;
            struct linux_run s = {0};
            took += feed(&s, line, 1);
        }
    }
    // The byte that was there (40 times), another digit (nine places, nine others each: none makes a number 0), \r or \n at the end.
    check(took == 40 + 9 * 9 + 2, "changed bytes", "another number of lines was taken");
}

static void test_tables(void)
{
    for (unsigned i = 0; i < LINUX_OPS; i++) {
        const struct linux_op *o = &linux_ops[i];
        check(o->n && o->grain && o->n % o->grain == 0 && o->cpus >= 1 && strlen(o->unit) < 24 && *o->title, "a row of linux_ops.def", o->id);
    }
    for (unsigned i = 0; i < LINUX_PHASES; i++)
        check(linux_phases[i].id && linux_phases[i].title && linux_phases[i].needle, "a row of linux_phases", "");
}

static int read_log(const char *name)
{
    static char line[65536];
    struct linux_run r = {0};
    FILE *f = fopen(name, "rb");
    if (!f) {
        perror(name);
        return 1;
    }
    for (u64 i = 1; fgets(line, sizeof line, f); i++) linux_line(&r, line, i);
    fclose(f);
    printf("kernel %s\nerror %s\nbad %u\ninit %llu\n", r.kernel, r.error, r.bad, (unsigned long long)r.init_tsc);
    for (unsigned i = 0; i < LINUX_PHASES; i++) printf("phase %s %llu\n", linux_phases[i].id, (unsigned long long)r.phase[i]);
    for (unsigned i = 0; i < LINUX_OPS; i++)
        printf("op %s %u %llu %llu %llu\n", linux_ops[i].id, linux_ops[i].cpus, (unsigned long long)linux_ops[i].grain, (unsigned long long)r.op[i].n,
               (unsigned long long)r.op[i].ticks);
    return 0;
}

int main(int argc, char **argv)
{
    if (argc == 2) return read_log(argv[1]);
    test_rows();
    test_boot();
    test_order();
    test_text();
    test_mutations();
    test_tables();
    printf("%u passed, %u failed\n", passed, failed);
    return failed != 0;
}
