// Intrusive doubly linked circular list. The caller holds whatever lock guards the list.
#pragma once

#include "kernel/base/types.h"

struct list { struct list *next, *prev; };

static inline void list_init(struct list *l) { l->next = l->prev = l; }
static inline bool list_empty(const struct list *l) { return l->next == l; }

// Inserts n right before `at`; with at = the head, that is the tail.
static inline void list_add_before(struct list *at, struct list *n)
{
    n->prev = at->prev;
    n->next = at;
    at->prev->next = n;
    at->prev = n;
}

// Takes n out and leaves it as an empty list, so that removing twice is harmless.
static inline void list_del(struct list *n)
{
    n->prev->next = n->next;
    n->next->prev = n->prev;
    list_init(n);
}

#define LIST_FOR(it, head) for (struct list *it = (head)->next; it != (head); it = it->next)
#define LIST_FOR_SAFE(it, head) \
    for (struct list *it = (head)->next, *it##_n = it->next; it != (head); it = it##_n, it##_n = it->next)
