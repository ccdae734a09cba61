// The differential tests of instructions: what one run takes and gives, the same for the CPU and for Cupel.
//
// A run loads a whole user-mode state (struct insn_state), executes code at a fixed address and ends with the first exception; tests put
// UD2 behind their code, so a clean end is #UD there. CS decides whether it begins as 64-bit or as 32-bit code: a 64-bit Linux process may
// run both, and 16-bit code too, by segments of its local descriptor table. Both sides see the same virtual addresses: code, a data window
// with nothing mapped behind it, and a stack. Memory is reset from a template before and compared in place after.
// One process, one thread: the state of each side is static in its file.
#pragma once

#include "kernel/base/types.h"

#define CODE_BASE   0x10000000ull
#define CODE_SIZE   0x100000ull          // rows; read and execute
#define SCRATCH_OFF 0xf0000ull           // random sequences are written here, the last 64 KiB of the code
#define DATA_BASE   0x20000000ull
#define DATA_SIZE   0x8000ull            // read and write, no execute; the page after is unmapped
#define STACK_BASE  0x30000000ull
#define KERNEL_BASE32 0xe4600000ull      // 2 MiB of the guest's in protected mode, where no input's edge value is
#define FS_BASE     (DATA_BASE + 0x3000)
#define GS_BASE     (DATA_BASE + 0x4008)
#define STACK_SIZE  0x4000ull

enum { XS_LEGACY = 512, XS_HEADER = 64, XS_YMM = 576, XS_SIZE = 832 };   // standard XSAVE image: x87, SSE, AVX (SDM 1 13.4)

// Selectors: Linux's own (its GDT), and entries of the LDT that both sides have (native.c makes it).
enum {
    SEL_CODE32 = 0x23, SEL_DATA = 0x2b, SEL_CODE64 = 0x33,
    SEL_L_FS = 0x07, SEL_L_GS = 0x0f,         // data, bases as fs_base and gs_base of 64-bit inputs
    SEL_L_CODE16 = 0x17,                      // 16-bit code at CODE_BASE
    SEL_L_CODE32 = 0x1f,                      // 32-bit code, flat, not readable
    SEL_L_STACK16 = 0x27,                     // 16-bit stack at STACK_BASE
    SEL_L_RO = 0x2f,                          // flat data, read-only
    SEL_L_ABSENT = 0x37,                      // flat data, not present
    LDT_COUNT = 7,
};
enum { S_ES, S_CS, S_SS, S_DS, S_FS, S_GS };  // as x86 numbers them

struct insn_state {
    u64 gpr[16];
    u64 rip, rflags;
    u16 seg[6];
    u64 fs_base, gs_base;
    u8 xsave[XS_SIZE] __attribute__((aligned(64)));
};

struct insn_result {
    struct insn_state st;
    unsigned vector;       // exception that ended the run; RUN_* otherwise
    u64 error, cr2;        // cr2: page faults only, 0 otherwise
};
enum { RUN_HUNG = 0x100, RUN_PANICKED = 0x101 };

// The template both sides' data and stack start from.
struct insn_memory { u8 data[DATA_SIZE], stack[STACK_SIZE]; };

// The CPU. native_code gives the writable alias of the code at CODE_BASE.
void native_init(void);
extern u64 native_ldt[LDT_COUNT];      // the descriptors, as the kernel wrote them
u8 *native_code(void);
void native_run(const struct insn_state *in, const struct insn_memory *mem, struct insn_result *out);
bool native_signal(void *ucontext);

// Cupel. translated_code writes code bytes at CODE_BASE + off (written-code tracking included).
// icount: instructions are counted, and TBs cut by budgets of random size.
struct translated_options { bool exit_poll, no_chain, one_insn, icount; u64 tb_size; };
// What runs 32-bit code: compatibility mode, as on the native side, or (legacy) protected mode with PAE paging and 32-bit gates.
void translated_legacy(bool on);
void translated_init(const struct translated_options *o);
void translated_code(u64 off, const u8 *bytes, u64 len);
void translated_run(const struct insn_state *in, const struct insn_memory *mem, struct insn_result *out);
u64 translated_count(void);              // icount: instructions of the last translated_run, its end included
const u8 *translated_page(u64 va);       // host address of the guest page that va maps to: data and stack
bool translated_offers(unsigned feature);   // does the guest's CPUID offer it? enum x86_feature
bool translated_signal(int sig, void *ucontext);

// Signals of both sides and the watchdog (a translated run over ~3 s is a hang). Called once, before the sides' init.
void signals_init(void);
NORETURN void run_abort(unsigned why);   // leaves a translated run: panic, hang

// Deterministic random numbers (splitmix64).
struct rng { u64 s; };
u64 rng_next(struct rng *r);
static inline u64 rng_below(struct rng *r, u64 n) { return rng_next(r) % n; }

// Initial values. Options of a row, blank-separated: REG=SPEC, where SPEC is a number or
//   p  pointer into the data window: aligned, unaligned, page-crossing, into the unmapped page, not canonical (32-bit: far away)
//   pv the same without faults;  pa 64-byte aligned;  pe near the window's end
//   c  count 0..40;  s  small signed;  e  edge or random value (default)
// and: df (direction flag random), n=N (inputs for this row), fpx (unmasked floating-point exceptions often), fp0 (x87 stack empty, all
// masked), cr2, ff: CR2, or the arithmetic flags in a fault's frame, differ between processors here and are not compared; stale (flags that
// are undefined by the manual are not compared, without proof, because something in front defines them); sane (SSE registers hold ordinary
// numbers only, default MXCSR); long (32-bit rows that leave compatibility mode: not run in protected mode).
// For 32-bit code register names may begin with e, values are cut to 32 bits and all segments but FS and GS are flat.
void input_make(struct insn_state *in, const char *opts, unsigned bits, unsigned index, struct rng *r);
void input_memory(struct insn_memory *m, struct rng *r);
unsigned input_count(const char *opts, unsigned dflt);
extern const char *const gpr_names[16];

// What a comparison leaves out: arithmetic flags `flags_stale` (see stale.c), CR2, arithmetic flags of a fault.
struct leave_out { u64 flags_stale; bool cr2, fault_flags; };
// 0: equal. Otherwise a text of the differences, at most len bytes.
unsigned compare_results(const struct insn_result *want, const struct insn_result *got, const struct leave_out *l, char *text, size_t len);
bool option_set(const char *opts, const char *name);

// Flags that an instruction of this code leaves undefined by the manual: candidates for being stale.
u64 stale_candidates(const u8 *code, u64 len, unsigned bits);
// Those among `candidates` that the CPU really leaves as they were: the outcome `want` of running `in` depends on them.
u64 stale_flags(u64 candidates, const struct insn_state *in, const struct insn_memory *mem, const struct insn_result *want);
