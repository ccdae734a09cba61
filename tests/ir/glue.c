// testplat.c's way out of a run that cannot go on: here there is nothing to go back to.
#include <stdio.h>
#include <unistd.h>

#include "tests/insn/state.h"

void run_abort(unsigned why)
{
    fprintf(stderr, "ir_test: %s\n", why == RUN_HUNG ? "the guest waits forever" : "panic");
    _exit(2);
}
