// LOCKED(call): the call's value, made with the BQL held, as everybody does who changes a device.
#pragma once

#include "kernel/plat.h"

static inline void locked_end(int *unused)
{
    (void)unused;
    bql_unlock();
}
#define LOCKED(...) ({ bql_lock(); int locked_ __attribute__((cleanup(locked_end), unused)) = 0; __VA_ARGS__; })
