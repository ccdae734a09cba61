// A JSON writer into memory. See json.h.
#include "assay/json.h"

#include "kernel/base/fmt.h"
#include "kernel/base/log.h"

static void put(struct json *j, char c)
{
    if (j->len < j->size) j->buf[j->len] = c;
    j->len++;
}

static void put_text(struct json *j, const char *s)
{
    while (*s) put(j, *s++);
}

static void new_line(struct json *j)
{
    put(j, '\n');
    for (unsigned i = 0; i < j->depth; i++) put(j, ' ');
}

// Before a value or a key. Lines are broken at the outer levels only, so that a list of samples stays on its line.
static void next(struct json *j)
{
    if (j->after_key) {
        j->after_key = false;
        return;
    }
    if (!j->first && j->depth) put(j, ',');
    if (j->depth && j->depth < 4) new_line(j);
    else if (!j->first) put(j, ' ');
    j->first = false;
}

void json_init(struct json *j, char *buf, u64 size) { *j = (struct json){.buf = buf, .size = size, .first = true}; }

static void quoted(struct json *j, const char *s)
{
    char esc[8];
    put(j, '"');
    for (; *s; s++) {
        u8 c = (u8)*s;
        if (c == '"' || c == '\\') put(j, '\\');
        if (c >= 0x20 && c < 0x7f) {
            put(j, (char)c);
        } else if (c < 0x20) {
            fmt_snprintf(esc, sizeof esc, "\\u%04x", c);
            put_text(j, esc);
        } else {
            put(j, '?');
        }
    }
    put(j, '"');
}

void json_key(struct json *j, const char *key)
{
    next(j);
    quoted(j, key);
    put_text(j, ": ");
    j->after_key = true;
}

void json_open(struct json *j, char bracket)
{
    next(j);
    put(j, bracket);
    j->depth++;
    j->first = true;
}

void json_close(struct json *j, char bracket)
{
    ASSERT(j->depth, "nothing to close with %c", bracket);
    j->depth--;
    if (!j->first && j->depth < 3) new_line(j);
    put(j, bracket);
    j->first = false;
    if (!j->depth) put(j, '\n');
}

void json_string(struct json *j, const char *s)
{
    next(j);
    quoted(j, s);
}

void json_u64(struct json *j, u64 v)
{
    char t[24];
    next(j);
    fmt_snprintf(t, sizeof t, "%llu", (unsigned long long)v);
    put_text(j, t);
}

void json_bool(struct json *j, bool v)
{
    next(j);
    put_text(j, v ? "true" : "false");
}

void json_milli(struct json *j, u64 v)
{
    char t[32];
    next(j);
    fmt_snprintf(t, sizeof t, "%llu.%03u", (unsigned long long)(v / 1000), (unsigned)(v % 1000));
    put_text(j, t);
}

void json_micro(struct json *j, u64 v)
{
    char t[32];
    next(j);
    fmt_snprintf(t, sizeof t, "%llu.%06u", (unsigned long long)(v / 1000000), (unsigned)(v % 1000000));
    put_text(j, t);
}

void json_put_string(struct json *j, const char *key, const char *s) { json_key(j, key); json_string(j, s); }
void json_put_u64(struct json *j, const char *key, u64 v) { json_key(j, key); json_u64(j, v); }
void json_put_bool(struct json *j, const char *key, bool v) { json_key(j, key); json_bool(j, v); }
void json_put_milli(struct json *j, const char *key, u64 v) { json_key(j, key); json_milli(j, v); }
void json_put_micro(struct json *j, const char *key, u64 v) { json_key(j, key); json_micro(j, v); }

void json_put_hex(struct json *j, const char *key, u64 v)
{
    char t[24];
    fmt_snprintf(t, sizeof t, "0x%llx", (unsigned long long)v);
    json_put_string(j, key, t);
}

bool json_fits(const struct json *j) { return j->len <= j->size; }
