// What the payload's assembly and its C share: selectors, vectors, virtual addresses, offsets in struct cpu and struct timed (guest.h).
// Preprocessor constants only; state.c pins the offsets.
#pragma once

// The image is linked here and, in a guest, loaded there: what runs before paging subtracts the difference.
#define LINKED_ABOVE_LOADED 0x3f000000

#define SEL_KCODE 0x08
#define SEL_KDATA 0x10
#define SEL_UBASE 0x18      // SYSRET takes SS from here + 8, CS from here + 16 (SDM 2B, SYSRET)
#define SEL_UDATA 0x23
#define SEL_UCODE 0x2b
#define SEL_TSS   0x30

#define VEC_INT80    0x80   // ring 3 may: the null system call by INT n
#define VEC_LEAVE    0x81   // ring 3 may: back to who called ring3_run
#define VEC_TIMER    0xf0   // priority class 0xf, the only one that CR8 lets through
#define VEC_IPI      0xf1
#define VEC_WAKE     0xf2   // ends a HLT; nobody counts it
#define VEC_SPURIOUS 0xff

#define LAPIC_VIRT  0x7fe00000
#define IOAPIC_VIRT 0x7fe01000

#define STACKS_SIZE     0xf000   // of one processor: struct stacks
#define STACK_USER_TOP  0x8000
#define STACK_KERNEL_TOP 0xc000
#define STACK_TRAP_TOP  0xe000
#define STACK_IST_TOP   0xf000

#define CPU_SIZE        1024
#define CPU_USER_RSP    8
#define CPU_TRAP_STACK  16
#define CPU_USER_STACK  24
#define CPU_RING0_RSP   32
#define CPU_TSC         40
#define CPU_HITS        48
#define CPU_X2APIC      56
#define CPU_FAULT_PT    64
#define CPU_FAULT_PHYS  72
#define CPU_FAULTS      80
#define CPU_EXIT_RSP    88
#define CPU_EXIT_CR0    96
#define CPU_EXIT_CR3    104
#define CPU_EXIT_CR4    112
#define CPU_EXIT_EFER   120
#define CPU_WAKES       128

#define TIMED_FN    0
#define TIMED_CTX   8
#define TIMED_N     16
#define TIMED_START 24
#define TIMED_END   32
#define TIMED_VALUE 40

// The page-fault test's pages: linear addresses, so many.
#define FAULT_REGION 0x8000000000
#define FAULT_PAGES  64
