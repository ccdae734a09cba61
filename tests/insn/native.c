// The CPU side. A run enters and leaves through signal frames: INT3 in native_run brings up the handler, which keeps the harness'
// registers, puts the test's whole state (general registers, flags, XSAVE image) into the frame and returns - sigreturn is the loader. The
// exception that ends the test brings the handler up again; the frame is the result, and the harness' registers go back in.
//
// FS and GS bases and the data segments belong to the test while it runs: they are switched in the handler, which therefore uses no
// thread-local data (no stack protector: see insn.mk). CS and SS are in the frame, so sigreturn takes a 64-bit process into 32-bit code
// (compatibility mode) as well, and an exception there brings up the 64-bit handler.
#define _GNU_SOURCE
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <asm/ldt.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <ucontext.h>
#include <unistd.h>

#include "tests/insn/state.h"

enum phase { IDLE, ENTER, RUN };
static struct {
    volatile enum phase phase;
    u8 *code_rw;
    const struct insn_state *in;
    struct insn_result *out;
    gregset_t saved;
    u8 saved_fp[XS_SIZE];
    u64 saved_fs, saved_gs;
} n;

// SDM order -> ucontext order.
static const int greg_of[16] = {REG_RAX, REG_RCX, REG_RDX, REG_RBX, REG_RSP, REG_RBP, REG_RSI, REG_RDI,
                                REG_R8, REG_R9, REG_R10, REG_R11, REG_R12, REG_R13, REG_R14, REG_R15};

static u64 rdfsbase(void) { u64 v; __asm__ volatile("rdfsbase %0" : "=r"(v)); return v; }
static u64 rdgsbase(void) { u64 v; __asm__ volatile("rdgsbase %0" : "=r"(v)); return v; }
static void wrfsbase(u64 v) { __asm__ volatile("wrfsbase %0" :: "r"(v)); }
static void wrgsbase(u64 v) { __asm__ volatile("wrgsbase %0" :: "r"(v)); }
#define SET_SEG(reg, v) __asm__ volatile("mov %0, %%" #reg :: "r"((u32)(v)))
#define GET_SEG(reg) ({ u32 v_; __asm__ volatile("mov %%" #reg ", %0" : "=r"(v_)); (u16)v_; })
static void copy(void *d, const void *s, size_t len) { __asm__ volatile("rep movsb" : "+D"(d), "+S"(s), "+c"(len) :: "memory"); }

// Bytes 464..511 of the legacy area are the kernel's (magic and sizes): they stay.
static void fp_put(u8 *frame, const u8 *img)
{
    copy(frame, img, 464);
    copy(frame + XS_LEGACY, img + XS_LEGACY, XS_HEADER);
    copy(frame + XS_YMM, img + XS_YMM, XS_SIZE - XS_YMM);
}

// ID and NT are not among the flags that sigreturn loads: what a test has left there would stay.
static void clear_odd_flags(void) { __asm__ volatile("pushfq\n\tandq %0, (%%rsp)\n\tpopfq" :: "i"(~0x204000) : "memory", "cc"); }

static void enter(ucontext_t *uc)
{
    greg_t *g = uc->uc_mcontext.gregs;
    u8 *fp = (u8 *)uc->uc_mcontext.fpregs;
    copy(n.saved, g, sizeof n.saved);
    copy(n.saved_fp, fp, XS_SIZE);
    for (int i = 0; i < 16; i++) g[greg_of[i]] = (greg_t)n.in->gpr[i];
    g[REG_RIP] = (greg_t)n.in->rip;
    g[REG_EFL] = (greg_t)n.in->rflags;
    fp_put(fp, n.in->xsave);
    g[REG_CSGSFS] = (greg_t)((u64)n.in->seg[S_CS] | (u64)n.in->seg[S_SS] << 48);
    clear_odd_flags();
    n.phase = RUN;
    n.saved_fs = rdfsbase();
    n.saved_gs = rdgsbase();
    SET_SEG(ds, n.in->seg[S_DS]);
    SET_SEG(es, n.in->seg[S_ES]);
    SET_SEG(fs, n.in->seg[S_FS]);
    SET_SEG(gs, n.in->seg[S_GS]);
    if (n.in->seg[S_FS]) return;             // their bases are their descriptors'
    wrfsbase(n.in->fs_base);
    wrgsbase(n.in->gs_base);
}

static void leave_segments(struct insn_state *st, u64 cs_ss)
{
    st->seg[S_CS] = (u16)cs_ss;
    st->seg[S_SS] = (u16)(cs_ss >> 48);
    st->seg[S_DS] = GET_SEG(ds);
    st->seg[S_ES] = GET_SEG(es);
    st->seg[S_FS] = GET_SEG(fs);
    st->seg[S_GS] = GET_SEG(gs);
    st->fs_base = rdfsbase();
    st->gs_base = rdgsbase();
    SET_SEG(ds, 0);
    SET_SEG(es, 0);
    SET_SEG(fs, 0);
    SET_SEG(gs, 0);
    wrfsbase(n.saved_fs);
    wrgsbase(n.saved_gs);
}

static void leave(ucontext_t *uc)
{
    greg_t *g = uc->uc_mcontext.gregs;
    u8 *fp = (u8 *)uc->uc_mcontext.fpregs;
    struct insn_result *r = n.out;
    leave_segments(&r->st, (u64)g[REG_CSGSFS]);
    for (int i = 0; i < 16; i++) r->st.gpr[i] = (u64)g[greg_of[i]];
    r->st.rip = (u64)g[REG_RIP];
    r->st.rflags = (u64)g[REG_EFL];
    r->vector = (unsigned)g[REG_TRAPNO];
    r->error = (u64)g[REG_ERR];
    r->cr2 = r->vector == 14 ? (u64)g[REG_CR2] : 0;
    copy(r->st.xsave, fp, XS_SIZE);
    copy(g, n.saved, sizeof n.saved);
    fp_put(fp, n.saved_fp);
    n.phase = IDLE;
}

bool native_signal(void *ucontext)
{
    switch (n.phase) {
    case ENTER: enter(ucontext); return true;
    case RUN: leave(ucontext); return true;
    default: return false;
    }
}

static void *map_fixed(u64 at, u64 len, int prot, int fd)
{
    void *p = mmap((void *)at, len, prot, MAP_FIXED_NOREPLACE | MAP_POPULATE | (fd < 0 ? MAP_PRIVATE | MAP_ANONYMOUS : MAP_SHARED), fd, 0);
    if (p == MAP_FAILED) { perror("insn test: mmap"); exit(2); }
    return p;
}

u64 native_ldt[LDT_COUNT];

static void make_ldt(void)
{
    enum { DATA, STACK, CODE };              // "contents" of struct user_desc: bits 3:2 of the descriptor's type
    static struct user_desc entries[LDT_COUNT] = {
        {.base_addr = FS_BASE, .limit = 0xfffff, .limit_in_pages = 1, .seg_32bit = 1},
        {.base_addr = GS_BASE, .limit = 0xfffff, .limit_in_pages = 1, .seg_32bit = 1},
        {.base_addr = CODE_BASE, .limit = 0xffff, .contents = CODE},
        {.limit = 0xfffff, .limit_in_pages = 1, .seg_32bit = 1, .contents = CODE, .read_exec_only = 1},
        {.base_addr = STACK_BASE, .limit = 0xffff},
        {.limit = 0xfffff, .limit_in_pages = 1, .seg_32bit = 1, .read_exec_only = 1},
        {.limit = 0xfffff, .limit_in_pages = 1, .seg_32bit = 1, .seg_not_present = 1},
    };
    for (unsigned i = 0; i < LDT_COUNT; i++) {
        entries[i].entry_number = i;
        if (syscall(SYS_modify_ldt, 0x11, &entries[i], sizeof entries[i]) != 0) { perror("insn test: modify_ldt"); exit(2); }
    }
    if (syscall(SYS_modify_ldt, 0, native_ldt, sizeof native_ldt) != sizeof native_ldt) { perror("insn test: modify_ldt"); exit(2); }
}

void native_init(void)
{
    make_ldt();
    int fd = memfd_create("code", 0);
    if (fd < 0 || ftruncate(fd, CODE_SIZE) < 0) { perror("insn test: memfd"); exit(2); }
    n.code_rw = mmap(NULL, CODE_SIZE, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_POPULATE, fd, 0);
    if (n.code_rw == MAP_FAILED) { perror("insn test: mmap"); exit(2); }
    map_fixed(CODE_BASE, CODE_SIZE, PROT_READ | PROT_EXEC, fd);
    map_fixed(DATA_BASE, DATA_SIZE, PROT_READ | PROT_WRITE, -1);
    map_fixed(STACK_BASE, STACK_SIZE, PROT_READ | PROT_WRITE, -1);
    close(fd);
}

u8 *native_code(void) { return n.code_rw; }

__attribute__((noinline)) void native_run(const struct insn_state *in, const struct insn_memory *mem, struct insn_result *out)
{
    memcpy((void *)DATA_BASE, mem->data, DATA_SIZE);
    memcpy((void *)STACK_BASE, mem->stack, STACK_SIZE);
    n.in = in;
    n.out = out;
    n.phase = ENTER;
    __asm__ volatile("int3" ::: "memory", "cc");
}
