// The types every other file speaks: fixed-width integers and the three kinds of address.
//
// Guest-virtual, guest-physical and host addresses are one-field structs, so that passing one
// where another is meant does not compile. Open them with .v at the place that really computes.
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef uint8_t u8;
typedef uint16_t u16;
typedef uint32_t u32;
typedef uint64_t u64;
typedef int8_t s8;
typedef int16_t s16;
typedef int32_t s32;
typedef int64_t s64;
typedef unsigned __int128 u128;
// The same at any alignment and over memory of any type: *(u32_any *)p is one access, and C allows it.
typedef u16 u16_any __attribute__((aligned(1), may_alias));
typedef u32 u32_any __attribute__((aligned(1), may_alias));
typedef u64 u64_any __attribute__((aligned(1), may_alias));

struct gva { u64 v; };   // guest virtual (linear) address
struct gpa { u64 v; };   // guest physical address

static inline struct gva gva(u64 v) { return (struct gva){v}; }
static inline struct gpa gpa(u64 v) { return (struct gpa){v}; }

#define PAGE_SHIFT 12
#define PAGE_SIZE  4096ull
#define PAGE_MASK  (~(PAGE_SIZE - 1))
#define KIB 1024ull
#define MIB (1024ull * KIB)
#define GIB (1024ull * MIB)
#define NS_PER_SEC 1000000000ull

#define ARRAY_SIZE(a) (sizeof(a) / sizeof((a)[0]))
#define CONTAINER_OF(p, type, member) ((type *)((char *)(p) - offsetof(type, member)))
#define MUST_CHECK __attribute__((warn_unused_result))
#define NORETURN __attribute__((noreturn))
#define PRINTF(f, a) __attribute__((format(printf, f, a)))
#define UNUSED __attribute__((unused))
