// rows/*.def -> one assembler file and one C table.
//
// A row is `assembler text | options`; options as in state.h. {a/b/c} makes one row per alternative; {=x/y/z} goes in step with the first
// such group of the line, {2=...} with the second. A line `@ options` sets options for the rows that follow; # starts a comment line.
// Usage: rowgen OUT BITS FILE...: OUT.S (rows one after another, each of which begins as code of BITS and is ended by UD2; .rowtab holds
// their offsets) and OUT.inc (texts).
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { LINE = 1024, GROUPS = 8 };

struct out { FILE *s, *inc; const char *bits; unsigned rows; const char *opts; const char *file; int line; };

static void emit(struct out *o, const char *text)
{
    char asm_text[LINE], opts[2 * LINE];
    snprintf(asm_text, sizeof asm_text, "%s", text);
    char *bar = strchr(asm_text, '|');
    snprintf(opts, sizeof opts, "%s%s", o->opts, bar ? bar + 1 : "");
    if (bar) *bar = 0;
    for (size_t n = strlen(asm_text); n && asm_text[n - 1] == ' '; ) asm_text[--n] = 0;
    fprintf(o->s, "# %u \"%s\"\n.code%s\nrow%u: %s\n", o->line, o->file, o->bits, o->rows, asm_text);
    fprintf(o->s, ".pushsection .rowtab,\"a\"; .long row%u - text0; .popsection; rowend%u: ud2\n", o->rows, o->rows);
    fprintf(o->s, ".pushsection .rowtab,\"a\"; .long rowend%u - text0; .popsection\n", o->rows);
    fprintf(o->inc, "{\"%s\", \"%s\"},\n", asm_text, opts);
    o->rows++;
}

// The k-th alternative of the group text g (without braces).
static void alternative(const char *g, size_t len, unsigned k, char *out)
{
    const char *end = g + len;
    while (k && g < end) if (*g++ == '/') k--;
    while (g < end && *g != '/') *out++ = *g++;
    *out = 0;
}

static unsigned alternatives(const char *g, size_t len)
{
    unsigned n = 1;
    for (size_t i = 0; i < len; i++) n += g[i] == '/';
    return n;
}

// Replaces the first group not yet replaced; `choice` holds what the independent groups chose.
static void expand(struct out *o, const char *line, unsigned *choice, unsigned used)
{
    const char *open = strchr(line, '{'), *close = open ? strchr(open, '}') : NULL;
    if (!open) { emit(o, line); return; }
    if (!close) { fprintf(stderr, "%s:%d: no }\n", o->file, o->line); exit(1); }
    char next[LINE], alt[LINE];
    const char *g = open + 1;
    int follow = -1;
    if (*g == '=') { follow = 0; g++; }
    else if (g[0] >= '1' && g[0] <= '9' && g[1] == '=') { follow = g[0] - '1'; g += 2; }
    unsigned n = alternatives(g, (size_t)(close - g)), from = follow >= 0 ? choice[follow] : 0, to = follow >= 0 ? from + 1 : n;
    if (follow >= 0 && from >= n) { fprintf(stderr, "%s:%d: following group is too short\n", o->file, o->line); exit(1); }
    for (unsigned k = from; k < to; k++) {
        alternative(g, (size_t)(close - g), k, alt);
        if (snprintf(next, sizeof next, "%.*s%s%s", (int)(open - line), line, alt, close + 1) >= LINE) {
            fprintf(stderr, "%s:%d: line too long\n", o->file, o->line);
            exit(1);
        }
        if (follow < 0) choice[used] = k;
        expand(o, next, choice, used + (follow < 0));
    }
}

static void do_file(struct out *o, const char *name)
{
    static char opts[LINE];
    char line[LINE];
    FILE *f = fopen(name, "r");
    if (!f) { perror(name); exit(1); }
    o->file = name;
    o->line = 0;
    o->opts = strcpy(opts, "");
    while (fgets(line, sizeof line, f)) {
        o->line++;
        line[strcspn(line, "\n")] = 0;
        unsigned choice[GROUPS] = {0};
        if (line[0] == '#' || !line[0]) continue;
        if (line[0] == '@') { snprintf(opts, sizeof opts, "%s ", line + 1 + (line[1] == ' ')); continue; }
        expand(o, line, choice, 0);
    }
    fclose(f);
}

int main(int argc, char **argv)
{
    char name[LINE];
    struct out o = {0};
    if (argc < 3) return 1;
    o.bits = argv[2];
    snprintf(name, sizeof name, "%s.S", argv[1]);
    o.s = fopen(name, "w");
    snprintf(name, sizeof name, "%s.inc", argv[1]);
    o.inc = fopen(name, "w");
    if (!o.s || !o.inc) { perror(argv[1]); return 1; }
    fprintf(o.s, ".text\ntext0:\n");
    for (int i = 3; i < argc; i++) do_file(&o, argv[i]);
    fclose(o.s);
    fclose(o.inc);
    return 0;
}
