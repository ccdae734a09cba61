// The console of the assay's Linux guest, line by line.
//
// What a guest prints is input like any other: it may be cut off, garbled by a kernel message in the midst of a line, or written by a
// guest that wants to do harm. So every field is checked, nothing is stored that the tables do not know, and a line that begins like one
// of ours and is not is counted: a controller that finds a count says so instead of showing a table with holes.
#include "assay/linux_phases.h"

const struct linux_phase linux_phases[LINUX_PHASES] = {
    [LINUX_KERNEL] = {"kernel", "boot code, decompression, relocation", "Linux version "},
    [LINUX_MEMORY] = {"memory", "the kernel's first steps, memory map", "Memory: "},
    [LINUX_CPUS] = {"cpus", "scheduler, clocks, processors", "smp: Brought up "},
    [LINUX_DRIVERS] = {"drivers", "drivers and subsystems", "Freeing unused kernel "},
    [LINUX_INIT] = {"init", "the kernel's own pages sealed, process 1 started", "ASSAY phase init "},
    [LINUX_DONE] = {"done", "operations", "ASSAY done"},
};

const struct linux_op linux_ops[LINUX_OPS] = {
#define OP(id, unit, n, grain, cpus, title) [LINUX_OP_##id] = {#id, unit, title, n, grain, cpus},
#include "assay/linux_ops.def"
#undef OP
};

// If *s begins with `prefix`, moves *s past it.
static bool skip(const char **s, const char *prefix)
{
    const char *p = *s;
    for (; *prefix; prefix++, p++)
        if (*p != *prefix) return false;
    *s = p;
    return true;
}

// A decimal number from 1 to 2^64 - 1 of which nothing but digits is a part.
static bool number(const char **s, u64 *out)
{
    const char *p = *s;
    u64 v = 0;
    for (; *p >= '0' && *p <= '9'; p++)
        if (__builtin_mul_overflow(v, 10, &v) || __builtin_add_overflow(v, (u64)(*p - '0'), &v)) return false;
    *s = p;
    *out = v;
    return v != 0;
}

static bool at_end(const char *s)
{
    while (*s == '\r' || *s == '\n') s++;
    return !*s;
}

// Moves *s past `unit`, in which a blank is printed as '-'.
static bool skip_unit(const char **s, const char *unit)
{
    const char *p = *s;
    for (; *unit; unit++, p++)
        if (*p != (*unit == ' ' ? '-' : *unit)) return false;
    *s = p;
    return true;
}

static bool op_line(struct linux_run *r, const char *s)
{
    for (unsigned i = 0; i < LINUX_OPS; i++) {
        const char *p = s;
        u64 n, ticks;
        if (!skip(&p, linux_ops[i].id) || *p != ' ') continue;
        if (!skip(&p, " ") || !skip_unit(&p, linux_ops[i].unit) || !skip(&p, " ") || !number(&p, &n) || !skip(&p, " ") || !number(&p, &ticks)) return false;
        if (!at_end(p) || r->op[i].n) return false;
        r->op[i].n = n;
        r->op[i].ticks = ticks;
        return true;
    }
    return false;
}

// Text up to the line's end, or to a blank: what is not printable, or is special in JSON, as '?'.
static void text(char out[LINUX_TEXT], const char *s, bool word)
{
    unsigned n = 0;
    for (; *s && *s != '\r' && *s != '\n' && !(word && *s == ' ') && n < LINUX_TEXT - 1; s++)
        out[n++] = *s < ' ' || *s > '~' || *s == '"' || *s == '\\' ? '?' : *s;
    out[n] = 0;
}

// Firmware leaves escape sequences (ECMA-48 5.4: ESC [ parameters, a final byte from '@' on; or ESC and one byte) and half a line of its
// own in front of the kernel's first line. A carriage return begins a line anew.
static const char *behind_firmware(const char *s)
{
    for (const char *p = s; *p; p++)
        if (*p == '\r' && !at_end(p)) s = p + 1;
    while (*s == 27 && s[1]) {
        bool csi = s[1] == '[';
        s += 2;
        if (!csi) continue;
        while (*s >= ' ' && *s <= '?') s++;
        if (*s) s++;
    }
    return s;
}

// The kernel's "[    0.123456] ".
static const char *behind_stamp(const char *s)
{
    const char *p = s;
    if (*p++ != '[') return s;
    while (*p == ' ' || *p == '.' || (*p >= '0' && *p <= '9')) p++;
    return p[0] == ']' && p[1] == ' ' ? p + 2 : s;
}

static bool phase_line(struct linux_run *r, const char *s, u64 tsc)
{
    unsigned i = 0;
    const char *p;
    for (;; i++) {
        if (i == LINUX_PHASES) return false;
        p = s;
        if (skip(&p, linux_phases[i].needle)) break;
    }
    for (unsigned k = i; k < LINUX_PHASES; k++)
        if (r->phase[k]) return false;
    u64 began = 0;
    if (i == LINUX_INIT && !number(&p, &began)) return false;
    if (i >= LINUX_INIT && !at_end(p)) return false;
    if (i == LINUX_INIT) r->init_tsc = began;
    if (i == LINUX_KERNEL) text(r->kernel, p, true);
    r->phase[i] = tsc;
    return true;
}

bool linux_line(struct linux_run *r, const char *line, u64 tsc)
{
    line = behind_firmware(line);
    const char *s = line;
    if (!skip(&s, "ASSAY ")) {
        s = behind_stamp(line);
        return *s != 'A' && phase_line(r, s, tsc);      // (our own lines have no stamp)
    }
    bool good;
    if (skip(&s, "op ")) good = op_line(r, s);
    else if (skip(&s, "error ") && !r->error[0] && !at_end(s)) {
        text(r->error, s, false);
        good = true;
    } else good = phase_line(r, line, tsc);
    r->bad += !good;
    return good;
}
