// How fast the TSC and the local APIC's timer run.
#pragma once

#include "kernel/base/types.h"

struct calibration { u64 tsc_hz, lapic_hz; };

// Takes some 50 ms. False: nothing on this machine to measure against.
bool calibrate(struct calibration *out) MUST_CHECK;
