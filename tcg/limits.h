// How large the translator's tables are: the normal values and, beside them, those of the stress build (make test-stress).
//
// Nearly everything that can go wrong in a translator happens when something is full, evicted, dropped or made anew, and with tables of a
// sensible size that is rare. The stress build is the same sources with tables that are always full, and with dice (tcg_dice in
// tcg/run/tcg.h) that now and then take the rare branch for no reason: lookups that miss, blocks of few instructions, blocks dropped, exit
// requests that nobody made, vector state put away. A guest must not notice.
#pragma once

#include "kernel/base/types.h"

#ifdef CUPEL_STRESS
#define LIMIT(normal, stress) (stress)
#else
#define LIMIT(normal, stress) (normal)
#endif

enum {
    TLB_BITS         = LIMIT(12, 2),         // softmmu TLB: entries per mmu mode, for reading and for writing
    XTLB_BITS        = LIMIT(11, 3),         // instruction-fetch TLB: entries per mmu mode
    JC_BITS          = LIMIT(14, 3),        // jump cache: entries per class
    JC_CLASSES       = LIMIT(8, 2),         // jump-cache classes: one per TB mode in use; modes beyond do without
    TB_HASH_BITS     = LIMIT(15, 8),        // chains of TBs by physical address
    SIG_HASH_BITS    = LIMIT(16, 5),        // code signatures remembered
    TB_DICE_INSNS    = LIMIT(0, 4),         // where not 0, every other TB has 1 to so many instructions
    TB_CACHE_DEFAULT = LIMIT(128 << 20, 2 << 20),   // bytes of code; must exceed TB_CODE_MAX and the common code (tcg/run/tcg.h)
    EMIT_MAX_RECIPES = LIMIT(512, 4),       // flag recipes of a TB; beyond, flags are saved
    EMIT_MAX_GROUPS  = LIMIT(64, 2),        // shared lookups of a TB
    GROUP_WINDOW_MAX = LIMIT(1024, 48),     // bytes that a shared lookup covers
    GROUP_OPS_MAX    = LIMIT(64, 12),       // ops that it spans
};

// C code may use vector and x87 registers at any moment, since a sanitizer's run-time does: the guest's are in the host's during translated
// code only.
#ifdef CUPEL_SANITIZE
static inline bool limits_c_uses_fpu(void) { return true; }
#else
static inline bool limits_c_uses_fpu(void) { return false; }
#endif

// Is this the stress build?
static inline bool limits_stress(void) { return LIMIT(false, true); }
