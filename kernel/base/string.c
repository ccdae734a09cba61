// The memory and string functions that run while guest vector state is live in the host's registers. A libc's own versions use
// vector registers; these do not, and being in the program they take precedence over the library's, hosted and on metal.
//
// Sizes to 256 bytes are moved by 8-byte words with an overlapping last word, larger ones by REP MOVSQ/STOSQ, which the processor
// expands to its widest moves (SDM 1 7.3.9.3, "fast-string operation"), and which an emulator below us does eight times faster than
// by bytes. The empty asm statements in the loops keep the compiler from recognising a loop as memcpy or strlen and turning the
// function into a call of itself.
#include <string.h>

#include "kernel/base/types.h"

enum { REP_FROM = 256 };   // below, REP's start-up cost dominates

typedef u64 __attribute__((may_alias, aligned(1))) word;
typedef u32 __attribute__((may_alias, aligned(1))) half;
typedef u16 __attribute__((may_alias, aligned(1))) quarter;

static inline void string_hide_loop(void) { __asm__ volatile("" ::: "memory"); }

// 0..15 bytes; all loads precede all stores, so that overlap does not matter.
static inline void string_move_small(u8 *d, const u8 *s, size_t n)
{
    if (n >= 8) {
        u64 a = *(const word *)s, b = *(const word *)(s + n - 8);
        *(word *)d = a;
        *(word *)(d + n - 8) = b;
    } else if (n >= 4) {
        u32 a = *(const half *)s, b = *(const half *)(s + n - 4);
        *(half *)d = a;
        *(half *)(d + n - 4) = b;
    } else if (n >= 2) {
        u16 a = *(const quarter *)s, b = *(const quarter *)(s + n - 2);
        *(quarter *)d = a;
        *(quarter *)(d + n - 2) = b;
    } else if (n) {
        *d = *s;
    }
}

// Ascending. The last word is loaded before anything is stored, for memmove to a lower address.
static void string_move_up(u8 *d, const u8 *s, size_t n)
{
    if (n >= REP_FROM) {
        size_t words = n / 8;
        __asm__ volatile("rep movsq" : "+D"(d), "+S"(s), "+c"(words) : : "memory");
        string_move_small(d, s, n & 7);
        return;
    }
    u64 last = *(const word *)(s + n - 8);
    size_t i = 0;
    for (; i + 8 < n; i += 8) {
        *(word *)(d + i) = *(const word *)(s + i);
        string_hide_loop();
    }
    *(word *)(d + n - 8) = last;
}

static void string_move_down(u8 *d, const u8 *s, size_t n)
{
    u64 first = *(const word *)s;
    size_t i = n;
    for (; i > 8; i -= 8) {
        *(word *)(d + i - 8) = *(const word *)(s + i - 8);
        string_hide_loop();
    }
    *(word *)d = first;
}

void *memcpy(void *restrict dst, const void *restrict src, size_t n)
{
    if (n < 16) string_move_small(dst, src, n);
    else string_move_up(dst, src, n);
    return dst;
}

void *memmove(void *dst, const void *src, size_t n)
{
    if (n < 16) string_move_small(dst, src, n);
    else if ((u64)(uintptr_t)dst - (u64)(uintptr_t)src >= n) string_move_up(dst, src, n);
    else string_move_down(dst, src, n);
    return dst;
}

void *memset(void *dst, int c, size_t n)
{
    u8 *d = dst;
    if (n >= REP_FROM) {
        void *p = dst;
        size_t words = n / 8;
        __asm__ volatile("rep stosq" : "+D"(p), "+c"(words) : "a"((u8)c * 0x0101010101010101ull) : "memory");
        *(word *)(d + n - 8) = (u8)c * 0x0101010101010101ull;
        return dst;
    }
    if (n < 8) {
        for (size_t i = 0; i < n; i++) {
            d[i] = (u8)c;
            string_hide_loop();
        }
        return dst;
    }
    u64 v = (u8)c * 0x0101010101010101ull;
    for (size_t i = 0; i + 8 < n; i += 8) {
        *(word *)(d + i) = v;
        string_hide_loop();
    }
    *(word *)(d + n - 8) = v;
    return dst;
}

int memcmp(const void *a, const void *b, size_t n)
{
    const u8 *p = a, *q = b;
    while (n >= 8 && *(const word *)p == *(const word *)q) {
        p += 8;
        q += 8;
        n -= 8;
    }
    for (; n; n--, p++, q++) {
        if (*p != *q) return *p < *q ? -1 : 1;
        string_hide_loop();
    }
    return 0;
}

void *memchr(const void *s, int c, size_t n)
{
    for (const u8 *p = s; n; n--, p++) {
        if (*p == (u8)c) return (void *)(uintptr_t)p;
        string_hide_loop();
    }
    return NULL;
}

size_t strlen(const char *s)
{
    size_t n = 0;
    for (; s[n]; n++) string_hide_loop();
    return n;
}

size_t strnlen(const char *s, size_t max)
{
    size_t n = 0;
    for (; n < max && s[n]; n++) string_hide_loop();
    return n;
}

int strncmp(const char *a, const char *b, size_t n)
{
    for (; n; n--, a++, b++) {
        if (*a != *b) return (u8)*a < (u8)*b ? -1 : 1;
        if (!*a) return 0;
    }
    return 0;
}

int strcmp(const char *a, const char *b) { return strncmp(a, b, SIZE_MAX); }

char *strchr(const char *s, int c)
{
    for (;; s++) {
        if (*s == (char)c) return (char *)(uintptr_t)s;
        if (!*s) return NULL;
    }
}

char *strrchr(const char *s, int c)
{
    const char *last = NULL;
    for (;; s++) {
        if (*s == (char)c) last = s;
        if (!*s) return (char *)(uintptr_t)last;
    }
}

char *strstr(const char *s, const char *what)
{
    size_t n = strlen(what);
    for (;; s++) {
        if (!strncmp(s, what, n)) return (char *)(uintptr_t)s;
        if (!*s) return NULL;
    }
}

char *strcpy(char *restrict dst, const char *restrict src)
{
    memcpy(dst, src, strlen(src) + 1);
    return dst;
}

char *strncpy(char *restrict dst, const char *restrict src, size_t n)
{
    size_t len = strnlen(src, n);
    memcpy(dst, src, len);
    memset(dst + len, 0, n - len);
    return dst;
}
