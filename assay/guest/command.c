// The command line of a guest whose pass nobody filled in: "jobs=NAME:N[:CPUS][,...]" or "list"; what it asked for goes to port 0xe9.
#include <string.h>

#include "assay/guest/guest.h"
#include "kernel/base/fmt.h"

enum { LINE = 256 };

void debug_puts(const char *text)
{
    for (; *text; text++) outb(0xe9, (u8)*text);
}

static void PRINTF(1, 2) print(const char *fmt, ...)
{
    char line[LINE];
    va_list ap;
    va_start(ap, fmt);
    fmt_vsnprintf(line, sizeof line, fmt, ap);
    va_end(ap);
    debug_puts(line);
}

static void list(void)
{
    for (u32 i = 0; i < header()->n_tests; i++) {
        const struct assay_test *t = &tests[i];
        print("test %s %u %u %u %llu %llu ", t->name, t->kind, t->needs, t->latency, (unsigned long long)t->n_unit,
              (unsigned long long)t->n_max);
        print("%s;%s;%s\n", t->group, t->unit, t->title);
    }
    print("done\n");
}

static bool word_end(char c) { return !c || c == ' ' || c == ',' || c == ':'; }

// A decimal number at *s; moves *s behind it.
static u64 number(const char **s)
{
    u64 v = 0;
    const char *from = *s;
    for (; **s >= '0' && **s <= '9'; ++*s) v = v * 10 + (u64)(**s - '0');
    if (*s == from || !word_end(**s)) pass_fail("the command line: a number is wanted at '%.40s'", from);
    return v;
}

static u32 test_find(const char *name, size_t len)
{
    for (u32 i = 0; i < header()->n_tests; i++)
        if (strlen(tests[i].name) == len && !strncmp(tests[i].name, name, len)) return i;
    pass_fail("the command line: there is no test '%.*s'; \"list\" names them", (int)(len < 40 ? len : 40), name);
}

static const char *job_parse(const char *s)
{
    size_t len = 0;
    while (!word_end(s[len])) len++;
    if (pass()->n_jobs >= ASSAY_JOBS) pass_fail("the command line: more than %u jobs", (u32)ASSAY_JOBS);
    struct assay_job *j = &pass()->job[pass()->n_jobs++];
    j->test = test_find(s, len);
    j->cpus = 1;
    s += len;
    if (*s != ':') pass_fail("the command line: job %s has no number of times: NAME:N", tests[j->test].name);
    s++;
    j->n = number(&s);
    if (*s == ':') {
        s++;
        j->cpus = (u32)number(&s);
    }
    return s;
}

bool command_parse(void)
{
    const char *jobs = strstr(command_line, "jobs=");
    if (!jobs && strstr(command_line, "list")) {
        list();
        return false;
    }
    if (!jobs) pass_fail("the command line says neither \"jobs=NAME:N[:CPUS][,...]\" nor \"list\"");
    if (command_line[sizeof command_line - 2]) pass_fail("the command line is longer than %u bytes", (u32)sizeof command_line - 2);
    jobs += 5;
    for (;;) {
        jobs = job_parse(jobs);
        if (*jobs != ',') return true;
        jobs++;
    }
}

void command_print_results(void)
{
    const struct assay_result (*results)[ASSAY_CPUS] = (const struct assay_result (*)[ASSAY_CPUS])header()->results;
    for (u32 i = 0; i < pass()->n_jobs; i++) {
        for (u32 c = 0; c < pass()->job[i].cpus; c++) {
            const struct assay_result *r = &results[i][c];
            print("result %u %s %u %llu 0x%llx ", i, tests[pass()->job[i].test].name, c, (unsigned long long)r->ticks,
                  (unsigned long long)r->checksum);
            print("%llu %llu %llu\n", (unsigned long long)r->min, (unsigned long long)r->max, (unsigned long long)r->events);
        }
    }
    print("done\n");
}
