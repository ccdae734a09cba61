// printf formatting without floating point, so that it can run while the guest's vector and x87 registers are live in the
// host's: nothing here, and nothing it calls, touches more than the general registers.
//
// The output goes through a sink that counts every character and stores those that fit; the length asked for by snprintf's
// contract falls out of the count. A conversion is parsed into struct spec, turned into digits in a small buffer (least
// significant first) and laid out once, in fmt_emit_field: sign or 0x prefix, zeros, text, padding.
#include "kernel/base/fmt.h"

struct sink { char *buf; size_t len, used; };

struct spec {
    bool left, zero, plus, space, alt;
    int width, prec;       // prec -1: not given
    unsigned size;         // bytes of an integer argument
};

static void sink_putc(struct sink *s, char c)
{
    if (s->used + 1 < s->len) s->buf[s->used] = c;
    s->used++;
}

static void sink_fill(struct sink *s, char c, int n)
{
    while (n-- > 0) sink_putc(s, c);
}

// prefix, then zeros, then text, padded to the width as the flags say.
static void fmt_emit_field(struct sink *s, const struct spec *sp, const char *prefix, int zeros, const char *text, int len)
{
    int plen = 0;
    while (prefix[plen]) plen++;
    int pad = sp->width - plen - zeros - len;
    if (!sp->left) sink_fill(s, ' ', pad);
    for (int i = 0; i < plen; i++) sink_putc(s, prefix[i]);
    sink_fill(s, '0', zeros);
    for (int i = 0; i < len; i++) sink_putc(s, text[i]);
    if (sp->left) sink_fill(s, ' ', pad);
}

static void fmt_emit_number(struct sink *s, const struct spec *sp, const char *prefix, u64 v, unsigned base, bool upper)
{
    char digits[24];   // 22 octal digits of 2^64 - 1
    int first = sizeof(digits);
    const char *set = upper ? "0123456789ABCDEF" : "0123456789abcdef";
    if (v == 0 && sp->prec != 0) digits[--first] = '0';
    for (u64 x = v; x; x /= base) digits[--first] = set[x % base];

    int len = (int)sizeof(digits) - first, plen = 0, zeros = 0;
    while (prefix[plen]) plen++;
    if (sp->prec > len) zeros = sp->prec - len;
    else if (sp->prec < 0 && sp->zero && !sp->left && sp->width > plen + len) zeros = sp->width - plen - len;
    fmt_emit_field(s, sp, prefix, zeros, digits + first, len);
}

static void fmt_emit_signed(struct sink *s, const struct spec *sp, s64 v)
{
    const char *prefix = v < 0 ? "-" : sp->plus ? "+" : sp->space ? " " : "";
    fmt_emit_number(s, sp, prefix, v < 0 ? 0 - (u64)v : (u64)v, 10, false);
}

static void fmt_emit_string(struct sink *s, const struct spec *sp, const char *text)
{
    if (!text) text = "(null)";
    int len = 0;
    while ((sp->prec < 0 || len < sp->prec) && text[len]) len++;
    fmt_emit_field(s, sp, "", 0, text, len);
}

// Flags, width and precision; returns the position after them. `ap` is a pointer because '*' consumes arguments.
static const char *fmt_parse_layout(const char *f, struct spec *sp, va_list *ap)
{
    *sp = (struct spec){.prec = -1, .size = 4};
    for (;; f++) {
        if (*f == '-') sp->left = true;
        else if (*f == '0') sp->zero = true;
        else if (*f == '+') sp->plus = true;
        else if (*f == ' ') sp->space = true;
        else if (*f == '#') sp->alt = true;
        else break;
    }
    if (*f == '*') {
        sp->width = va_arg(*ap, int);
        if (sp->width < 0) { sp->left = true; sp->width = -sp->width; }
        f++;
    }
    for (; *f >= '0' && *f <= '9'; f++) sp->width = sp->width * 10 + (*f - '0');
    if (*f != '.') return f;
    sp->prec = 0;
    if (*++f == '*') {
        sp->prec = va_arg(*ap, int);
        f++;
    }
    for (; *f >= '0' && *f <= '9'; f++) sp->prec = sp->prec * 10 + (*f - '0');
    return f;
}

static const char *fmt_parse_length(const char *f, struct spec *sp)
{
    switch (*f) {
    case 'h': sp->size = f[1] == 'h' ? 1 : 2; return f + (f[1] == 'h' ? 2 : 1);
    case 'l': sp->size = 8; return f + (f[1] == 'l' ? 2 : 1);
    case 'z': case 'j': case 't': sp->size = 8; return f + 1;
    default: return f;
    }
}

// An integer argument of sp->size bytes, extended as the conversion wants. Smaller ones arrive promoted to int.
static u64 fmt_take_int(const struct spec *sp, bool is_signed, va_list *ap)
{
    u64 v = sp->size == 8 ? va_arg(*ap, u64) : va_arg(*ap, unsigned);
    switch (sp->size) {
    case 1: return is_signed ? (u64)(s64)(s8)v : (u8)v;
    case 2: return is_signed ? (u64)(s64)(s16)v : (u16)v;
    case 4: return is_signed ? (u64)(s64)(s32)v : (u32)v;
    default: return v;
    }
}

static void fmt_emit_conversion(struct sink *s, char conv, struct spec *sp, va_list *ap)
{
    u64 v;
    char c;
    switch (conv) {
    case 'd': case 'i': fmt_emit_signed(s, sp, (s64)fmt_take_int(sp, true, ap)); break;
    case 'u': fmt_emit_number(s, sp, "", fmt_take_int(sp, false, ap), 10, false); break;
    case 'o':
        v = fmt_take_int(sp, false, ap);
        fmt_emit_number(s, sp, sp->alt && v ? "0" : "", v, 8, false);
        break;
    case 'x': case 'X':
        v = fmt_take_int(sp, false, ap);
        fmt_emit_number(s, sp, !sp->alt || !v ? "" : conv == 'x' ? "0x" : "0X", v, 16, conv == 'X');
        break;
    case 'p': fmt_emit_number(s, sp, "0x", (u64)(uintptr_t)va_arg(*ap, void *), 16, false); break;
    case 'c':
        c = (char)va_arg(*ap, int);
        fmt_emit_field(s, sp, "", 0, &c, 1);
        break;
    case 's': fmt_emit_string(s, sp, va_arg(*ap, const char *)); break;
    case '%': sink_putc(s, '%'); break;
    default:   // an unknown conversion is shown as it stands, so that the mistake is seen
        sink_putc(s, '%');
        if (conv) sink_putc(s, conv);
    }
}

int fmt_vsnprintf(char *buf, size_t len, const char *fmt, va_list ap)
{
    struct sink s = {buf, len, 0};
    va_list args;
    va_copy(args, ap);
    for (const char *f = fmt; *f; f++) {
        if (*f != '%') {
            sink_putc(&s, *f);
            continue;
        }
        struct spec sp;
        f = fmt_parse_length(fmt_parse_layout(f + 1, &sp, &args), &sp);
        fmt_emit_conversion(&s, *f, &sp, &args);
        if (!*f) break;
    }
    va_end(args);
    if (len) buf[s.used < len ? s.used : len - 1] = 0;
    return (int)s.used;
}

int fmt_snprintf(char *buf, size_t len, const char *fmt, ...)
{
    va_list ap;
    va_start(ap, fmt);
    int n = fmt_vsnprintf(buf, len, fmt, ap);
    va_end(ap);
    return n;
}
