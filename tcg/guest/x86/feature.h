// The CPUID bits that offer instructions: F(name, word, bit). A word is a field of struct x86_cpuid (cpu.h), named by leaf and register.
// Sources: SDM 2A CPUID; AMD APM 3 E.4. From here come enum x86_feature and the answer to "is it offered?"; the words are cpuid.c's.
#pragma once

#include "kernel/base/types.h"

#define X86_FEATURES(F)                                                                                              \
    F(FPU, f1_edx, 0) F(TSC, f1_edx, 4) F(MSR, f1_edx, 5) F(CX8, f1_edx, 8) F(SEP, f1_edx, 11) F(CMOV, f1_edx, 15)   \
    F(CLFSH, f1_edx, 19) F(MMX, f1_edx, 23) F(FXSR, f1_edx, 24) F(SSE, f1_edx, 25) F(SSE2, f1_edx, 26)               \
    F(SSE3, f1_ecx, 0) F(PCLMUL, f1_ecx, 1) F(MONITOR, f1_ecx, 3) F(SSSE3, f1_ecx, 9) F(FMA, f1_ecx, 12)             \
    F(CX16, f1_ecx, 13) F(SSE41, f1_ecx, 19) F(SSE42, f1_ecx, 20) F(MOVBE, f1_ecx, 22) F(POPCNT, f1_ecx, 23)         \
    F(AES, f1_ecx, 25) F(XSAVE, f1_ecx, 26) F(AVX, f1_ecx, 28) F(F16C, f1_ecx, 29) F(RDRAND, f1_ecx, 30)             \
    F(FSGSBASE, f7_ebx, 0) F(BMI1, f7_ebx, 3) F(AVX2, f7_ebx, 5) F(BMI2, f7_ebx, 8) F(INVPCID, f7_ebx, 10)           \
    F(RDSEED, f7_ebx, 18) F(ADX, f7_ebx, 19) F(SMAP, f7_ebx, 20) F(CLFLUSHOPT, f7_ebx, 23) F(CLWB, f7_ebx, 24)       \
    F(SHA, f7_ebx, 29) F(OSPKE, f7_ecx, 4) F(GFNI, f7_ecx, 8) F(VAES, f7_ecx, 9) F(VPCLMUL, f7_ecx, 10)              \
    F(RDPID, f7_ecx, 22) F(LZCNT, f81_ecx, 5) F(SYSCALL, f81_edx, 11) F(RDTSCP, f81_edx, 27)                         \
    F(XSAVEOPT, fd1_eax, 0) F(XSAVEC, fd1_eax, 1) F(XSAVES, fd1_eax, 3)

enum x86_feature {
    X86F_BASE,            // every processor that Cupel offers
#define F(name, word, bit) X86F_##name,
    X86_FEATURES(F)
#undef F
    X86F_COUNT
};

// Is feature f among the CPUID words of struct x86_cpuid *q? A macro, so that this header needs no other.
#define X86_FEATURE_CASE_(name, word, bit) case X86F_##name: return q->word >> (bit) & 1;
#define X86_FEATURE_OFFERED_BODY(q, f)                     \
    switch (f) {                                           \
    X86_FEATURES(X86_FEATURE_CASE_)                        \
    default: return true;                                  \
    }
