// The machine's vCPUs on the platform's cores: who runs where, in turns where there are fewer cores than vCPUs, and bringing all of them to
// a stand for what needs it (reset, power-off, stop). For kernel/machine.c.
#pragma once

#include "tcg/run/vcpu.h"

// Assigns vCPUs to cores and starts the cores beyond the first; they wait for cores_release. one_core: all of them in turns on the caller's
// (thread=single). Core 0, before anything runs, BQL not held.
void cores_start(struct vcpu **cpus, unsigned n, bool one_core);
// While all stand (after cores_start or cores_run, before cores_release): calls fn(core, arg) on cores 0 to n-1 at once, without the BQL,
// and returns when all have. False: there are fewer cores. Core 0, BQL not held.
bool cores_call(unsigned n, void (*fn)(unsigned core, void *arg), void *arg) MUST_CHECK;
// How many cores have vCPUs. After cores_start.
unsigned cores_count_used(void);
// Lets the other cores go. Core 0, after cores_start or cores_run.
void cores_release(void);
// Runs this core's vCPUs until one of all ended with VCPU_EV_RESET, _SHUTDOWN or _STOP; then every other core stands still, its vCPUs out
// of translated code, until cores_release. Returns the events. Core 0, BQL not held.
u32 cores_run(void);
