// The assay on the bare machine: running its payload natively.
#pragma once

#include "assay/assay.h"

// Fills in *n. NULL, or why the payload cannot run natively here (a static text). Core 0, before the machine is made.
const char *assay_native_open(struct assay_native *n);
